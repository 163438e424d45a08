"""Samples that show the same image: it is encoded once, and the regions of all of them are cropped from its maps."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers.utils import torch_compilable_check


class RegionsOfImages(NamedTuple):
    """The regions of samples, put together by the image that they show.

    Attributes:
        boxes (`Tensor` of shape `(N, n, 4)`, n at least 1): of each image, normalized `cxcywh`; the used ones come
            first.
        mask (`Tensor` of shape `(N, n)`, bool): which are used.
        sample_mask (`Tensor` of shape `(B, R)`, bool): which slots of each sample are used.
        image_index (`Tensor` of shape `(B,)`, int64): the image of each sample.
        places (`Tensor` of shape `(B, R)`, int64): where a sample's region is among those of its image.
    """

    boxes: Tensor
    mask: Tensor
    sample_mask: Tensor
    image_index: Tensor
    places: Tensor

    def of_samples(self, tokens: Tensor) -> Tensor:
        """What belongs to each sample `(B, R, D)` of the images' `(N, n, D)`; zeros in unused slots."""
        places = self.places.clamp(max=tokens.shape[1] - 1)
        return torch.where(self.sample_mask[..., None], tokens[self.image_index[:, None], places], 0)


def regions_of_images(boxes: Tensor, mask: Tensor, image_index: Tensor, num_images: int) -> RegionsOfImages:
    """Put the regions of samples that show the same image together.

    Args:
        boxes (`Tensor` of shape `(B, R, 4)`): of each sample, normalized `cxcywh`.
        mask (`Tensor` of shape `(B, R)`, bool): which slots are used, always the first ones of a sample.
        image_index (`Tensor` of shape `(B,)`, int64): the image that each sample shows.
        num_images (`int`): how many images there are.

    Returns:
        `RegionsOfImages`.

    Example:
    >>> boxes, mask = torch.rand(3, 2, 4), torch.tensor([[True, False], [True, True], [True, False]])
    >>> shared = regions_of_images(boxes, mask, torch.tensor([0, 1, 0]), 2)
    >>> shared.boxes.shape, shared.mask.tolist(), torch.equal(shared.of_samples(shared.boxes)[mask], boxes[mask])
    (torch.Size([2, 2, 4]), [[True, True], [True, True]], True)
    """
    counts = mask.sum(dim=1)
    # A sample's regions come behind those of the samples before it that show the same image.
    shows_same = image_index[:, None] == image_index
    start = (shows_same.tril(-1) * counts).sum(dim=1)
    places = start[:, None] + torch.arange(mask.shape[1], device=mask.device)
    width = int(counts.new_zeros(num_images).index_add(0, image_index, counts).max().clamp(min=1))
    index = (image_index[:, None].expand_as(mask)[mask], places[mask])
    return RegionsOfImages(
        boxes=boxes.new_zeros(num_images, width, 4).index_put(index, boxes[mask]),
        mask=mask.new_zeros(num_images, width).index_put(index, mask[mask]),
        sample_mask=mask,
        image_index=image_index,
        places=places,
    )


def check_pixel_index(pixel_index: Tensor | None, pixel_values: Tensor | None, has_points: bool) -> None:
    """Check which image each sample shows.

    Args:
        pixel_index (`Tensor` of shape `(B_images,)`, *optional*): numbers of images in `pixel_values`.
        pixel_values (`Tensor`, *optional*): the images.
        has_points (`bool`): whether regions are given by points.

    Raises:
        ValueError: no images, other numbers, or points.
    """
    if pixel_index is None:
        return
    if pixel_values is None:
        raise ValueError("`pixel_index` needs `pixel_values`: it says which of them each sample shows.")
    if has_points:
        raise ValueError(
            "`pixel_index` does not go with `refer_points`: pass an image in `pixel_values` for each sample, and no "
            "`pixel_index`."
        )
    if pixel_index.ndim != 1 or pixel_index.dtype != torch.int64:
        raise ValueError(
            "`pixel_index` must be an int64 tensor of one dimension, the number of an image for each sample that has "
            f"one, got {pixel_index.dtype} of shape {tuple(pixel_index.shape)}."
        )
    torch_compilable_check(
        ((pixel_index >= 0) & (pixel_index < len(pixel_values))).all(),
        lambda: (
            f"`pixel_index` must be 0 to {len(pixel_values) - 1}, as there are {len(pixel_values)} images in "
            f"`pixel_values`, got {pixel_index.tolist()}."
        ),
    )


__all__ = ["RegionsOfImages", "check_pixel_index", "regions_of_images"]
