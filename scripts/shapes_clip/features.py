"""Test images of shapes-clip with their labels, and the features of their views, encoded once for all comparisons."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from transformers_groma.zero_shot.dual_encoder import DualEncoder
from transformers_groma.zero_shot.region_views import RegionViews
from transformers_groma.zero_shot.rgb_images import seed_of_image
from transformers_groma.zero_shot.view_features import encode_views
from transformers_groma.zero_shot.views import BOUNDS, RELEASED_BOUNDS, Views, grid_squares, random_squares

from .scenes import CLASSES, Layout, make_cluttered_scene

logger = logging.getLogger(__name__)

VIEW_COUNT = 60
# Names of the kinds of views; those of random squares are followed by their seed.
CONFIGURED, RELEASED, GRID, REGIONS = "random 0.5-0.9", "random 0.1-0.9", "grid", "regions"
# Images that are encoded, and written, together.
CHUNK = 30


@dataclass(frozen=True)
class TestSet:
    """Scenes to classify. Class number `index % 300` is that of scene `index`.

    Args:
        title (`str`): how tables name it.
        split (`str`): "validation" or "test".
        layout (`Layout`): what its scenes look like.
        count (`int`): number of images.
    """

    title: str
    split: str
    layout: Layout
    count: int

    # Not a test of pytest.
    __test__ = False

    @property
    def labels(self) -> Tensor:
        """Class numbers `(count,)`."""
        return torch.arange(self.count) % len(CLASSES)

    def images(self, numbers: Sequence[int]) -> list[Image.Image]:
        """Draw some of its images."""
        kinds = (CLASSES[number % len(CLASSES)] for number in numbers)
        return [
            make_cluttered_scene(self.split, number, self.layout, kind).image
            for number, kind in zip(numbers, kinds, strict=True)
        ]


@dataclass(frozen=True)
class SetFeatures:
    """Features of the images of a set.

    Args:
        whole (`Tensor` of shape `(B, D)`): of the whole images.
        views (`Mapping[str, Tensor]`): by kind, `(B, V, D)` each.
        is_padding (`Mapping[str, Tensor]`): by kind, `(B, V)` bool. Only regions have padding.
    """

    whole: Tensor
    views: Mapping[str, Tensor]
    is_padding: Mapping[str, Tensor]


def views_by_kind(image: Image.Image, regions_xyxy: Tensor, seeds: int) -> dict[str, Views]:
    """All views of an image that are compared.

    Args:
        image (`PIL.Image.Image`): RGB.
        regions_xyxy (`Tensor` of shape `(n, 4)`): squares around proposals, `xyxy` in absolute pixels.
        seeds (`int`): how many draws of random squares.

    Returns:
        `dict[str, Views]`: by kind; 60 views each, with padding behind the regions.
    """
    size = (image.height, image.width)
    views = {
        f"{kind} {seed}": Views.of_kind(
            random_squares(size, VIEW_COUNT, seed=seed_of_image(image, seed), bounds=bounds), "random"
        )
        for seed in range(seeds)
        for kind, bounds in ((CONFIGURED, BOUNDS), (RELEASED, RELEASED_BOUNDS))
    }
    views[GRID] = Views.of_kind(grid_squares(size, VIEW_COUNT), "grid")
    padding = VIEW_COUNT - len(regions_xyxy)
    views[REGIONS] = Views(
        torch.cat([regions_xyxy, torch.zeros(padding, 4, dtype=torch.int64)]),
        ("region",) * VIEW_COUNT,
        torch.arange(VIEW_COUNT) >= len(regions_xyxy),
    )
    return views


def encode_set(
    encoder: DualEncoder, proposer: RegionViews, test_set: TestSet, seeds: int, cache: Path, weights_digest: str
) -> SetFeatures:
    """Encode the images of a set and all their views; what a file in the cache has is read.

    Args:
        encoder (`DualEncoder`): the encoder.
        proposer (`RegionViews`): with at most 60 views.
        test_set (`TestSet`): the images.
        seeds (`int`): how many draws of random squares.
        cache (`Path`): folder of finished chunks.
        weights_digest (`str`): of the weights of both models: other weights have other files.

    Returns:
        `SetFeatures`
    """
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for numbers in _chunks(test_set.count):
        key = repr(
            (
                (weights_digest, test_set.split, test_set.layout, numbers),
                (seeds, VIEW_COUNT, proposer.region_count, proposer.context),
            )
        )
        path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.safetensors"
        if not path.exists():
            unfinished = path.with_suffix(".partial")
            save_file(_encode_chunk(encoder, proposer, test_set.images(numbers), seeds), unfinished)
            unfinished.rename(path)
            logger.info(f"{test_set.title}: {numbers[-1] + 1} of {test_set.count} images encoded")
        parts.append(load_file(path))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    kinds = [name.removeprefix("views: ") for name in joined if name.startswith("views: ")]
    return SetFeatures(
        joined["whole"],
        {kind: joined[f"views: {kind}"] for kind in kinds},
        {kind: joined[f"padding: {kind}"] for kind in kinds},
    )


def _chunks(count: int) -> Iterator[list[int]]:
    for start in range(0, count, CHUNK):
        yield list(range(start, min(start + CHUNK, count)))


def _encode_chunk(
    encoder: DualEncoder, proposer: RegionViews, images: list[Image.Image], seeds: int
) -> dict[str, Tensor]:
    views = [views_by_kind(image, regions, seeds) for image, regions in zip(images, proposer(images), strict=True)]
    features = encode_views(encoder, images, [Views.joined(list(one.values())) for one in views])
    saved = {"whole": features.whole}
    for number, kind in enumerate(views[0]):
        columns = slice(number * VIEW_COUNT, (number + 1) * VIEW_COUNT)
        saved[f"views: {kind}"] = features.views[:, columns].contiguous()
        saved[f"padding: {kind}"] = features.is_padding[:, columns].contiguous()
    return saved


def weights_digest(*folders: Path) -> str:
    """A digest of the weights in folders."""
    digest = hashlib.sha256()
    for folder in folders:
        digest.update((folder / "model.safetensors").read_bytes())
    return digest.hexdigest()


__all__ = [
    "CONFIGURED",
    "GRID",
    "REGIONS",
    "RELEASED",
    "VIEW_COUNT",
    "SetFeatures",
    "TestSet",
    "encode_set",
    "views_by_kind",
    "weights_digest",
]
