"""Boxes that survive casts: in half precision a normalized box would move by pixels."""

import torch
from torch import Tensor

# Inputs of the models that are boxes or points, or scores that decide about boxes. The last two are in the detector's
# labels.
BOX_INPUTS = (
    *("refer_boxes", "refer_points", "ground_boxes", "proposal_boxes", "proposal_scores"),
    *("boxes", "crowd_boxes"),
)
# Boxes that differ less are the same region: a five-hundredth of a pixel on an image of 2,000, which is what the way
# to pixels and back costs in float32.
SAME_BOX_TOLERANCE = 1e-6


def boxes_to_bits(boxes: Tensor) -> Tensor:
    """The bits of boxes as integers, which wrappers such as FSDP and DeepSpeed do not cast.

    They cast every floating-point tensor that a model is given, and in half precision a box moves by pixels. All of
    Groma's models read boxes (and `proposal_scores`) in this form, too.

    Args:
        boxes (`Tensor` of any shape): normalized boxes or scores, float32 or float64; bits stay as they are.

    Returns:
        `Tensor` of the same shape, int32.

    Raises:
        ValueError: boxes in half precision, or integers that are not bits.

    Example:
    >>> bits = boxes_to_bits(torch.tensor([0.5, 0.25, 0.1, 1.0]))
    >>> torch.equal(exact_boxes(bits), torch.tensor([0.5, 0.25, 0.1, 1.0]))
    True
    """
    return exact_boxes(boxes).view(torch.int32)


def exact_boxes(boxes: Tensor, name: str = "boxes") -> Tensor:
    """Boxes as float32; boxes that were already rounded are an error.

    Args:
        boxes (`Tensor` of any shape): normalized boxes or scores, float32, float64 or what `boxes_to_bits` made of
            them (int32).
        name (`str`): how an error names the argument.

    Returns:
        `Tensor` of the same shape, float32.

    Raises:
        ValueError: boxes in half precision, which moves them, or integers that are not bits.

    Example:
    >>> exact_boxes(torch.tensor([0.5, 0.5, 0.2, 0.2]).bfloat16(), "refer_boxes")
    Traceback (most recent call last):
    ValueError: `refer_boxes` is torch.bfloat16, which rounds boxes to steps of 1/256 of the image. Keep it in float32
        (cast `pixel_values` alone), or pass `boxes_to_bits(refer_boxes)` where a wrapper such as FSDP or DeepSpeed
        casts all inputs.
    """
    if boxes.dtype in (torch.float32, torch.float64):
        return boxes.float()
    if boxes.dtype == torch.int32:
        return boxes.view(torch.float32)
    if boxes.is_floating_point():
        steps = round(2 / torch.finfo(boxes.dtype).eps)  # between 0.5 and 1
        raise ValueError(
            f"`{name}` is {boxes.dtype}, which rounds boxes to steps of 1/{steps} of the image. Keep it in float32 "
            f"(cast `pixel_values` alone), or pass `boxes_to_bits({name})` where a wrapper such as FSDP or DeepSpeed "
            "casts all inputs."
        )
    raise ValueError(
        f"`{name}` must be normalized boxes in float32, got {boxes.dtype}. Divide pixels by the image size."
    )


__all__ = ["BOX_INPUTS", "SAME_BOX_TOLERANCE", "boxes_to_bits", "exact_boxes"]
