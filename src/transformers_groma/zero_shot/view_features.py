"""The features of images and of their views: all views of several images in one call of the encoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from .dual_encoder import DualEncoder
from .image_preparation import Crop
from .scores import view_similarities
from .views import Views


@dataclass(frozen=True)
class ViewFeatures:
    """Features of B images and of up to V views of each; everything that scores need of the images.

    Args:
        whole (`Tensor` of shape `(B, D)`): of the whole images, of length 1.
        views (`Tensor` of shape `(B, V, D)`): of the views, of length 1; 0 for padding.
        is_padding (`Tensor` of shape `(B, V)`, bool): where an image has fewer views.
        places (`tuple[Views, ...]`): the views of each image, in the order of the features.
    """

    whole: Tensor
    views: Tensor
    is_padding: Tensor
    places: tuple[Views, ...]

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def similarities(self) -> Tensor:
        """How alike each view is to its whole image: cosines, `(B, V)`; 0 for padding."""
        return view_similarities(self.views, self.whole)


def encode_views(
    encoder: DualEncoder, images: Sequence[Image.Image], places: Sequence[Views], first: int = 0
) -> ViewFeatures:
    """Encode images and their views; a view goes through the encoder's own preprocessing, like an image.

    Args:
        encoder (`DualEncoder`): its `batch_size` bounds how many views are in memory at a time.
        images (`Sequence` of B `PIL.Image.Image`): upright, of mode RGB.
        places (`Sequence` of B `Views`): of each image. Padding is not encoded; an image whose views are all padding
            has its whole image as its view.
        first (`int`): number of the first image, for errors.

    Returns:
        `ViewFeatures`
    """
    places = [
        views if (~views.is_padding).any() else Views.whole((image.height, image.width))
        for image, views in zip(images, places, strict=True)
    ]
    crops = list(_crops(places))
    features = encoder.encode_images(
        (images[number] if box is None else Crop(images[number], box) for number, box in crops),
        name=lambda index: _named(first, *crops[index]),
    )
    count = max(map(len, places))
    whole = features.new_zeros(len(images), features.shape[-1])
    views = features.new_zeros(len(images), count, features.shape[-1])
    is_padding = torch.ones(len(images), count, dtype=torch.bool)
    rows = iter(features)
    for number, place in enumerate(places):
        whole[number] = next(rows)
        is_padding[number, : len(place)] = place.is_padding
        for index, kind in enumerate(place.kinds):
            if not place.is_padding[index]:
                views[number, index] = whole[number] if kind == "whole" else next(rows)
    return ViewFeatures(whole, views, is_padding, tuple(places))


def _crops(places: Sequence[Views]) -> Iterator[tuple[int, tuple[int, ...] | None]]:
    """What is encoded, in order: the number of an image and an `xyxy` box, or `None` for the whole image."""
    for number, place in enumerate(places):
        yield number, None
        for box, kind, is_padding in zip(place.xyxy.tolist(), place.kinds, place.is_padding.tolist(), strict=True):
            if not is_padding and kind != "whole":
                yield number, tuple(box)


def _named(first: int, number: int, box: tuple[int, ...] | None) -> str:
    return f"image {first + number}" if box is None else f"the view {list(box)} (xyxy) of image {first + number}"


__all__ = ["ViewFeatures", "encode_views"]
