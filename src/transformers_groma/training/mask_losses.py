"""Losses of predicted masks: cross entropy and DICE of their pixels, and how well their quality was estimated."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

# A pixel belongs to the object that covers at least half of it. An object too small for that keeps the pixels that it
# covers most.
COVERED = 0.5


class MaskLosses(NamedTuple):
    """The losses of each mask, `(N, M)` each, unweighted.

    Attributes:
        bce (`Tensor`): binary cross entropy, the mean over pixels.
        dice (`Tensor`): DICE loss, 0 to 1.
        quality (`Tensor`): how far the estimated quality is from the true IoU.
        iou (`Tensor`): the true IoU; no gradient.
    """

    bce: Tensor
    dice: Tensor
    quality: Tensor
    iou: Tensor


def mask_losses(logits: Tensor, quality: Tensor, targets: Tensor) -> MaskLosses:
    """Compare masks with the true ones, pixel by pixel, each for itself.

    The library's losses of masks (`mask2former`, `maskformer`) give one number for all masks. Here each has its own,
    because among several masks for one prompt the best one learns most.

    Args:
        logits (`Tensor` of shape `(N, M, h, w)`): predicted masks, above 0 where the region is.
        quality (`Tensor` of shape `(N, M)`): the estimated IoU of each.
        targets (`Tensor` of shape `(N, h, w)`): the true masks, the covered share of each pixel, 0 to 1.

    Returns:
        `MaskLosses`.

    Example:
    >>> target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    >>> losses = mask_losses(20 * target[:, None] - 10, torch.tensor([[0.75]]), target)
    >>> round(losses.bce.item(), 3), losses.iou.item(), losses.quality.item()
    (0.0, 1.0, 0.25)
    """
    logits, quality = logits.float().flatten(2), quality.float()
    shares = targets.float().flatten(1)[:, None].expand_as(logits)
    bce = binary_cross_entropy_with_logits(logits, shares, reduction="none").mean(dim=-1)
    probabilities = logits.sigmoid()
    overlap = (probabilities * shares).sum(dim=-1)
    dice = 1 - (2 * overlap + 1) / (probabilities.sum(dim=-1) + shares.sum(dim=-1) + 1)
    with torch.no_grad():
        iou = mask_ious(logits > 0, covered_pixels(targets).flatten(1)[:, None])
    # As in SAM 2 the absolute error: most masks are good, and squares of small errors teach little.
    return MaskLosses(bce, dice, (quality - iou).abs(), iou)


def covered_pixels(targets: Tensor) -> Tensor:
    """The pixels that belong to objects, by the covered share of each pixel.

    Args:
        targets (`Tensor` of shape `(N, h, w)`): covered shares, 0 to 1.

    Returns:
        `Tensor` of shape `(N, h, w)`, bool: at least one pixel of each object; none where nothing is covered.

    Example:
    >>> covered_pixels(torch.tensor([[[0.5, 0.4]], [[0.1, 0.2]], [[0.0, 0.0]]])).tolist()
    [[[True, False]], [[False, True]], [[False, False]]]
    """
    most = targets.amax(dim=(1, 2), keepdim=True)
    return (targets >= most.clamp(max=COVERED)) & (targets > 0)


def mask_ious(masks: Tensor, targets: Tensor) -> Tensor:
    """The IoU of each mask with its true one.

    Args:
        masks (`Tensor` of shape `(..., pixels)`, bool), targets (the same, or a shape that broadcasts): the masks.

    Returns:
        `Tensor` of shape `(...)`, float32: 0 where both are empty.

    Example:
    >>> mask_ious(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
    tensor(0.3333)
    """
    both = (masks & targets).sum(dim=-1).float()
    return both / (masks | targets).sum(dim=-1).clamp(min=1)


def best_of_several(mask_loss: Tensor, best_share: float) -> Tensor:
    """The loss of prompts with several masks: partly that of the best, partly the mean.

    A click may mean a part, an object or a group, and the true mask is one of them: the others are not wrong. But a
    mask that only learns where it is the best is bad wherever its estimated quality makes it be taken by mistake.

    Args:
        mask_loss (`Tensor` of shape `(N, M)`): the loss of each mask.
        best_share (`float`): the share of the best, from 0 to 1.

    Returns:
        `Tensor` of shape `(N,)`.

    Example:
    >>> round(best_of_several(torch.tensor([[0.2, 0.6, 1.0]]), best_share=0.75).item(), 3)
    0.3
    """
    return best_share * mask_loss.amin(dim=1) + (1 - best_share) * mask_loss.mean(dim=1)


__all__ = ["MaskLosses", "best_of_several", "covered_pixels", "mask_ious", "mask_losses"]
