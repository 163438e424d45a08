"""The losses of masks: cross entropy and DICE, at the resolution of the images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# As in the original: keeps sums of large masks in the range of half precision.
_DICE_SCALE = 1000
_EPSILON = 1e-6
# A mask at the resolution of its image takes megabytes. So many are resized at a time, and once more for their
# gradients, so that memory does not grow with the number of masks.
_MASKS_AT_ONCE = 4


def resize_padded(logits: Tensor, padded_size: int, size: tuple[int, int], height: int, width: int) -> Tensor:
    """Resize masks from the padded square to the image: enlarge them to the square, cut off the padding, resize.

    Args:
        logits (`Tensor` of shape `(n, h, w)`): in the padded square.
        padded_size (`int`): side of the square in pixels.
        size (`tuple[int, int]`): height and width of the image in the square.
        height, width (`int`): of the image.

    Returns:
        `Tensor` of shape `(n, height, width)`, float32.

    Example:
    >>> resize_padded(torch.zeros(2, 64, 64), 256, (171, 256), 120, 180).shape
    torch.Size([2, 120, 180])
    """
    if not len(logits):
        return logits.new_zeros(0, height, width, dtype=torch.float32)
    square = F.interpolate(
        logits.float()[:, None], size=(padded_size, padded_size), mode="bilinear", align_corners=False
    )
    cut = square[..., : size[0], : size[1]]
    return F.interpolate(cut, size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def mask_losses(
    logits: Sequence[Tensor], sizes: Sequence[tuple[int, int]], labels: Sequence[Tensor], padded_size: int
) -> tuple[Tensor, Tensor]:
    """Cross entropy and DICE of masks, each the mean over all masks.

    Args:
        logits (`Sequence[Tensor]`, each of shape `(n, h, w)`): the masks of each row, in the padded square.
        sizes (`Sequence[tuple[int, int]]`): height and width of each row's image in the square.
        labels (`Sequence[Tensor]`, each of shape `(n, height, width)`): the true masks at the image's resolution.
        padded_size (`int`): side of the square in pixels.

    Returns:
        Two `Tensor` of shape `()`: 0 without masks.
    """
    bce = dice = sum(row.sum() for row in logits) * 0.0
    count = sum(len(row) for row in logits)
    for row, size, truth in zip(logits, sizes, labels, strict=True):
        truth = truth.to(row.device)
        for masks, true_masks in zip(row.split(_MASKS_AT_ONCE), truth.split(_MASKS_AT_ONCE), strict=True):
            if not len(masks):
                continue
            if torch.is_grad_enabled() and count > _MASKS_AT_ONCE:
                parts = checkpoint(_sums_of_losses, masks, true_masks, padded_size, size, use_reentrant=False)
            else:
                parts = _sums_of_losses(masks, true_masks, padded_size, size)
            bce, dice = bce + parts[0], dice + parts[1]
    return bce / max(count, 1), dice / max(count, 1)


def _sums_of_losses(logits: Tensor, labels: Tensor, padded_size: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The losses of some masks of one image, summed over the masks."""
    masks = resize_padded(logits, padded_size, size, *labels.shape[-2:]).flatten(1)
    labels = labels.flatten(1).to(masks)
    bce = F.binary_cross_entropy_with_logits(masks, labels, reduction="none").mean(dim=1).sum()
    shares = masks.sigmoid()
    overlap = 2 * (shares / _DICE_SCALE * labels).sum(dim=1)
    areas = (shares / _DICE_SCALE).sum(dim=1) + (labels / _DICE_SCALE).sum(dim=1)
    return bce, (1 - (overlap + _EPSILON) / (areas + _EPSILON)).sum()


__all__ = ["mask_losses", "resize_padded"]
