"""Checks of what callers pass to models of any family: boxes, and one image for each sample."""

from torch import Tensor
from transformers.utils import torch_compilable_check

from ..exact_boxes import exact_boxes

# Less than a thousandth of a pixel in every image. Smaller ones except 0 are not fractions of an image.
SMALLEST_FRACTION = 1e-12
# By how much the boxes of datasets stick out, which were rounded.
SLACK = 1e-2


def is_box(boxes: Tensor) -> Tensor:
    """Which rows of padded `cxcywh` boxes are boxes: width and height above 0. Padding rows are zeros.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): `cxcywh` boxes.

    Returns:
        `Tensor` of shape `(...)`, bool. A row with a value that is not finite is not a box.

    Example:
    >>> is_box(torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.0, 0.0, 0.0, 0.0]])).tolist()
    [True, False]
    """
    return (boxes[..., 2:] > 0).all(dim=-1) & boxes.isfinite().all(dim=-1)


def boxes_of_images(name: str, boxes: Tensor | None, num_images: int) -> Tensor | None:
    """Check boxes that come to the model: one row of normalized `cxcywh` boxes for each image.

    Args:
        name (`str`): how an error names them.
        boxes (`Tensor` of shape `(num_images, n, 4)`, *optional*): normalized `cxcywh`, rows of zeros pad; float32, or
            what `boxes_to_bits` made of them.
        num_images (`int`): images in `pixel_values`.

    Returns:
        `Tensor` of shape `(num_images, n, 4)`, float32, *optional*.

    Raises:
        ValueError: another shape, half precision, or values that are not fractions of the image.
    """
    if boxes is None:
        return None
    if boxes.ndim != 3 or boxes.shape[0] != num_images or boxes.shape[-1] != 4:
        raise ValueError(
            f"`{name}` must have shape (number of images, n, 4) with a row for each of the {num_images} images, got "
            f"{tuple(boxes.shape)}. Pad with rows of zeros."
        )
    boxes = exact_boxes(boxes, name)
    is_fraction = (boxes >= -SLACK) & (boxes <= 1 + SLACK)
    # Pixels as int32, read as the bits of float32, are numbers next to 0.
    is_fraction &= (boxes == 0) | (boxes.abs() > SMALLEST_FRACTION)
    torch_compilable_check(
        is_fraction.all(),
        lambda: (
            f"`{name}` must be normalized cxcywh (0..1), got values from {boxes.min().item():g} to "
            f"{boxes.max().item():g}. The processor makes them of `boxes` in pixels."
        ),
    )
    return boxes


def check_one_image_per_sample(placeholder_mask: Tensor, num_images: int) -> None:
    """Check that every sample with placeholders has its image, and every image its sample.

    Args:
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders of visual features.
        num_images (`int`): images that were given.

    Raises:
        ValueError: the numbers differ.
    """
    num_samples = placeholder_mask.any(dim=1).sum()
    torch_compilable_check(
        num_samples == num_images,
        lambda: (
            f"Every sample has at most one image: got {num_images} images for {int(num_samples)} samples with image "
            "placeholders. Build the prompts with the model's processor."
        ),
    )


__all__ = ["boxes_of_images", "check_one_image_per_sample", "is_box"]
