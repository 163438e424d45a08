"""What a prompt must be before the language model reads it: masks, positions, boxes and labels checked and made final."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import torch_compilable_check

from ...exact_boxes import exact_boxes
from .configuration_groma import GromaConfig
from .modeling_groma_regions import resolve_box_tokens

# The label of tokens that the loss leaves out, as in torch's cross entropy.
IGNORED_LABEL = -100
# Less than a thousandth of a pixel in every image. Smaller ones except 0 are not fractions of an image.
SMALLEST_FRACTION = 1e-12


class PreparedPrompt(NamedTuple):
    """A prompt as the language model reads it, but for visual features.

    Attributes:
        input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`): one
            of the two, with proxy tokens in the places of boxes.
        attention_mask (`Tensor` of shape `(B, cached + length)`): unused region slots are off.
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): where visual features go.
        image_index (`Tensor` of shape `(B,)`): which image (or row of boxes) belongs to each row.
    """

    input_ids: Tensor | None
    inputs_embeds: Tensor | None
    attention_mask: Tensor
    placeholder_mask: Tensor
    image_index: Tensor


def is_mask_of_tokens(attention_mask: Tensor | dict | None) -> bool:
    """Whether it is a mask `(B, length)`, not one that generation prepared for a static cache."""
    return isinstance(attention_mask, Tensor) and attention_mask.ndim == 2


def token_positions(attention_mask: Tensor) -> Tensor:
    """Position of every token `(B, length)`, as generation counts: only tokens that are on."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def check_mask(attention_mask: Tensor, rows: int, length: int) -> None:
    """Check that a mask has shape `(rows, length)`: region slots are switched off in it."""
    if not is_mask_of_tokens(attention_mask) or attention_mask.shape != (rows, length):
        shape = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(
            f"`attention_mask` must have shape (batch, length), here ({rows}, {length}), cached tokens included, got "
            f"{shape}: "
            "unused region slots are switched off in it."
        )


def check_positions(position_ids: Tensor | None, attention_mask: Tensor) -> None:
    """Check that positions given by the caller count only tokens that are on."""
    if position_ids is None:
        return
    length = position_ids.shape[-1]
    expected, is_on = token_positions(attention_mask)[:, -length:], attention_mask[:, -length:].bool()
    fits = position_ids.ndim == 2 and position_ids.shape[0] in (1, len(expected)) and length <= attention_mask.shape[1]
    message = (
        "`position_ids` must count the tokens that are on, without unused region slots and padding. Leave them out: "
        "the model "
        "counts them itself."
    )
    if not fits:
        raise ValueError(message)
    torch_compilable_check(
        ((position_ids.to(expected.device) == expected) | ~is_on).all(),
        lambda: message,
    )


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
            f"{tuple(boxes.shape)}. Rows of zeros pad."
        )
    boxes = exact_boxes(boxes, name)
    slack = 1e-2  # of datasets that rounded their boxes
    is_fraction = (boxes >= -slack) & (boxes <= 1 + slack)
    # Pixels as int32, read as the bits of float32, are numbers next to 0.
    is_fraction &= (boxes == 0) | (boxes.abs() > SMALLEST_FRACTION)
    torch_compilable_check(
        is_fraction.all(),
        lambda: (
            f"`{name}` must be normalized cxcywh (0..1), got values from {boxes.min().item():g} to "
            f"{boxes.max().item():g}. "
            "The processor makes them of `boxes` in pixels."
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


def image_index_of_rows(placeholder_mask: Tensor) -> Tensor:
    """For every row, which image is its own: rows with placeholders take the images in order; 0 for text-only rows."""
    return (placeholder_mask.any(dim=1).long().cumsum(dim=0) - 1).clamp(min=0)


def resolve_row_boxes(
    token_ids: Tensor,
    refer_slots: Tensor | None,
    ground_slots: Tensor | None,
    index: Tensor,
    config: GromaConfig,
) -> Tensor:
    """Ids (or labels) in which `<refer_box>` and `<ground_box>` are the proxy tokens of their slots.

    Args:
        token_ids (`Tensor` of shape `(B, length)`): ids or labels; not changed.
        refer_slots, ground_slots (`Tensor` of shape `(N, n)`, *optional*): slots of the boxes.
        index (`Tensor` of shape `(B,)`): whose slots are those of each row.
        config (`GromaConfig`): token ids.

    Returns:
        `Tensor` of shape `(B, length)`.
    """
    for token_id, slots in (
        (config.refer_box_token_id, refer_slots),
        (config.ground_box_token_id, ground_slots),
    ):
        if slots is not None:
            slots = slots.to(token_ids.device)[index.to(token_ids.device)]
            token_ids = resolve_box_tokens(token_ids, token_id, slots, config.first_proxy_token_id)
    return token_ids


def shift_labels_over_gaps(labels: Tensor, token_mask: Tensor) -> Tensor:
    """The label that each position predicts: that of the next token which is switched on.

    Args:
        labels (`Tensor` of shape `(B, length)`): label of each position, -100 for none.
        token_mask (`Tensor` of shape `(B, length)`, bool): which positions are switched on.

    Returns:
        `Tensor` of shape `(B, length)`: -100 where nothing is predicted.

    Example:
    >>> shift_labels_over_gaps(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, True, False, True]])).tolist()
    [[2, 4, -100, -100]]
    """
    length = labels.shape[1]
    index = torch.arange(length, device=labels.device).expand_as(labels)
    last_token = torch.where(token_mask, index, -1).cummax(dim=1).values
    previous = nn.functional.pad(last_token[:, :-1], (1, 0), value=-1)
    # Positions that are off, and the first token, are predicted by nobody: their labels go into a column that is cut.
    target = torch.where(token_mask & (previous >= 0), previous, length)
    shifted = torch.full((len(labels), length + 1), IGNORED_LABEL, dtype=labels.dtype, device=labels.device)
    return shifted.scatter(1, target, labels)[:, :length].contiguous()


__all__ = [
    "IGNORED_LABEL",
    "PreparedPrompt",
    "boxes_of_images",
    "check_mask",
    "check_one_image_per_sample",
    "check_positions",
    "image_index_of_rows",
    "is_mask_of_tokens",
    "resolve_row_boxes",
    "shift_labels_over_gaps",
    "token_positions",
]
