"""Where the views of images come from: random squares, a grid, the regions of a proposer, or several of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .rgb_images import seed_of_image
from .views import Views, grid_squares, random_squares

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8, torch.uint16, torch.uint32)
VIEW_SOURCES = ("random", "grid", "regions", "both")
# Takes upright images and gives for each `(n, 4)` integer `xyxy` squares in absolute pixels, as `RegionViews` does.
Proposer = Callable[[Sequence[Image.Image]], Sequence[Tensor]]


def check_view_source(source: str | None, proposer: Proposer | None) -> None:
    """Refuse an unknown source of views, one that lacks its proposer, and a proposer that nothing asks.

    Args:
        source (`str`, *optional*): one of `VIEW_SOURCES`, or `None` for the whole image alone.
        proposer (`Callable`, *optional*): what proposes regions.

    Raises:
        ValueError: they do not fit.
    """
    if source is not None and source not in VIEW_SOURCES:
        known = ", ".join(map(repr, VIEW_SOURCES))
        raise ValueError(f"`views` must be one of {known}, or None for the whole image alone, got {source!r}.")
    needs_proposer = source in ("regions", "both")
    if needs_proposer and proposer is None:
        raise ValueError(
            f"`views={source!r}` needs a `proposer`: pass RegionViews.from_pretrained(…) of "
            "transformers_groma.zero_shot.region_views, or `views='random'`."
        )
    if needs_proposer and not callable(proposer):
        raise ValueError(
            f"`proposer` must be a function of images, or a RegionViews, got {proposer!r:.100}; the places of another "
            "detector can be passed as `boxes` to `classify`."
        )
    if proposer is not None and not needs_proposer:
        raise ValueError(
            f"`views={source!r}` asks no `proposer`: leave it out, or pass `views='regions'` or `views='both'`."
        )


def views_of_images(
    images: Sequence[Image.Image],
    source: str | None,
    *,
    count: int,
    seed: int,
    bounds: tuple[float, float],
    proposer: Proposer | None = None,
) -> list[Views]:
    """Choose the views of images. Those of an image depend on its pixels and the seed, not on the images beside it.

    Args:
        images (`Sequence[PIL.Image.Image]`): upright, of mode RGB.
        source (`str`, *optional*): `"random"` squares, those of a `"grid"`, the `"regions"` of the proposer, `"both"`
            random squares and regions, or `None` for the whole image alone.
        count (`int`): of squares of an image; how many regions there are at most is up to the proposer.
        seed (`int`): of random squares.
        bounds (`(float, float)`): sides of random squares as fractions of the shorter side of the image; squares of a
            grid have the side in the middle.
        proposer (`Callable`, *optional*): see [`Proposer`].

    Returns:
        `list[Views]`: of each image. Where a proposer finds nothing in an image and no squares are drawn, the view is
        the whole image.
    """
    sizes = [(image.height, image.width) for image in images]
    if source is None:
        return [Views.whole(size) for size in sizes]
    if source == "grid":
        return [Views.of_kind(grid_squares(size, count, side=sum(bounds) / 2), "grid") for size in sizes]
    parts: list[list[Views]] = [[] for _ in images]
    if source in ("random", "both"):
        for image, size, views in zip(images, sizes, parts, strict=True):
            squares = random_squares(size, count, seed=seed_of_image(image, seed), bounds=bounds)
            views.append(Views.of_kind(squares, "random"))
    if proposer is not None:
        for number, (squares, size, views) in enumerate(zip(_proposed(proposer, images), sizes, parts, strict=True)):
            views.append(Views.of_kind(_checked(squares, size, number), "region"))
    joined = [Views.joined(views) for views in parts]
    return [views if len(views) else Views.whole(size) for views, size in zip(joined, sizes, strict=True)]


def _proposed(proposer: Proposer, images: Sequence[Image.Image]) -> list[Any]:
    """What a proposer gives, one entry for each image."""
    proposed = proposer(images)
    if not isinstance(proposed, Iterable) or isinstance(proposed, (str, bytes, Mapping)):
        raise ValueError(f"`proposer` must give a list with the views of each image, got {proposed!r:.100}.")
    proposed = list(proposed)
    if len(proposed) != len(images):
        raise ValueError(
            f"`proposer` must give one entry for each image, got {len(proposed)} for {len(images)}: an image in which "
            "it finds nothing has an empty one."
        )
    return proposed


def _checked(proposed: Any, size: tuple[int, int], number: int) -> Tensor:
    """The squares of a proposer, which may be the caller's own."""
    try:
        squares = torch.as_tensor(proposed).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`proposer` must give integers of shape (number of views, 4) for each image, got {proposed!r:.100} for "
            f"image {number} of its call: see `squares_of_boxes`."
        ) from error
    if squares.numel() == 0:
        return torch.zeros(0, 4, dtype=torch.int64)
    height, width = size
    if squares.ndim != 2 or squares.shape[1] != 4 or squares.dtype not in _INTEGERS:
        raise ValueError(
            f"`proposer` must give integers of shape (number of views, 4) for each image, got {squares.dtype} of "
            f"shape {tuple(squares.shape)} for image {number} of its call: see `squares_of_boxes`."
        )
    squares = squares.to(torch.int64)
    is_inside = (squares[:, :2] >= 0).all(1) & (squares[:, 2:] <= squares.new_tensor([width, height])).all(1)
    is_view = is_inside & (squares[:, 2:] > squares[:, :2]).all(1)
    if not is_view.all():
        raise ValueError(
            f"`proposer` must give views inside of each image (xyxy, right and bottom exclusive), got "
            f"{squares[~is_view][0].tolist()} for an image of {width}x{height} (width x height) pixels."
        )
    return squares


__all__ = ["VIEW_SOURCES", "Proposer", "check_view_source", "views_of_images"]
