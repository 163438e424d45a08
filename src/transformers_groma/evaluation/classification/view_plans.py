"""Which views of an image a zero-shot run encodes, and which of them each of its repeats takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ...zero_shot.region_views import RegionViews
from ...zero_shot.released_protocol import POOL_SIZE
from ...zero_shot.scores import pooled_views, view_similarities, view_weights
from ...zero_shot.view_sources import views_of_images
from ...zero_shot.views import BOUNDS, RELEASED_BOUNDS, Views
from ..fingerprints import model_sha256
from .image_features import WHOLE, EncodedImages, EncodedViews, ViewSet, whole_image

ViewKind = Literal["random", "grid", "regions", "both"]
_POOL, _GRID, _REGIONS = "pool", "grid", "regions"
# How a view of a set is called in an explanation.
_KINDS = {_POOL: "random", _GRID: "grid", _REGIONS: "region", WHOLE: "whole"}


@dataclass(frozen=True)
class ViewPlan:
    """Which views each repeat takes.

    Args:
        sets (`tuple` of R `tuple[str, ...]`): for each repeat, the sets of views that count together.
        draws (`Tensor` of shape `(R, P)`, *optional*): for each repeat, which views of its first set count, the same
            for all images; one that is drawn twice counts twice. All of them by default.
    """

    sets: tuple[tuple[str, ...], ...]
    draws: Tensor | None = None

    @property
    def repeats(self) -> int:
        """How often each image is classified."""
        return len(self.sets)

    def views(self, images: EncodedImages, repeat: int) -> EncodedViews:
        """The views of a repeat.

        Args:
            images ([`EncodedImages`]): B images.
            repeat (`int`): its number.

        Returns:
            [`EncodedViews`]: those of an image without any, such as one where no region is found, are padding.
        """
        first, *others = (images.views[name] for name in self.sets[repeat])
        if self.draws is not None:
            drawn = self.draws[repeat]
            first = EncodedViews(first.features[:, drawn], first.xyxy[:, drawn], first.is_padding[:, drawn])
        parts = [part for part in (first, *others) if part.features.shape[1] > 0]
        if not parts:
            return first
        return EncodedViews(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in _FIELDS))

    def kinds(self, images: EncodedImages, repeat: int) -> tuple[str, ...]:
        """Where each view of a repeat comes from, as explanations say it."""
        counts = [images.views[name].features.shape[1] for name in self.sets[repeat]]
        if self.draws is not None:
            counts[0] = self.draws.shape[1]
        names = [_KINDS.get(name.partition("-")[0], "random") for name in self.sets[repeat]]
        return tuple(name for name, count in zip(names, counts) for _ in range(count))


_FIELDS = ("features", "xyxy", "is_padding")


def pooled_images(images: EncodedImages, plan: ViewPlan | None, repeat: int, temperature: float) -> Tensor:
    """Each image as one vector: the weighted sum of its views, or the whole image.

    Args:
        images ([`EncodedImages`]): B images.
        plan ([`ViewPlan`], *optional*): which views; without it the whole image.
        repeat (`int`): number of the repeat.
        temperature (`float`): of the weights.

    Returns:
        `Tensor` of shape `(B, D)`, float32. An image without views counts as a whole.
    """
    whole = images.views[WHOLE].features[:, 0]
    if plan is None:
        return whole
    views = plan.views(images, repeat)
    return pooled_views(views.features, whole, temperature, views.is_padding)


def weights_of_views(whole: Tensor, views: EncodedViews, temperature: float) -> Tensor:
    """How much each view counts, `(B, V)`; 0 for padding. `whole` are the features of the whole images, `(B, D)`."""
    return view_weights(view_similarities(views.features, whole), temperature, views.is_padding)


def plan_views(
    kinds: Sequence[ViewKind],
    *,
    view_count: int,
    seeds: Sequence[int],
    proposer: RegionViews | None = None,
    bounds: tuple[float, float] = BOUNDS,
) -> tuple[list[ViewSet], dict[str, ViewPlan]]:
    """Plan the views of a run: for random ones, each seed is a repeat.

    Args:
        kinds (`Sequence[str]`): `"random"`, `"grid"`, `"regions"` and `"both"`, which is random ones and regions.
        view_count (`int`): random views, and views of the grid.
        seeds (`Sequence[int]`): of the repeats.
        proposer (`RegionViews`, *optional*): proposes regions.
        bounds (`(float, float)`): sides of random views, as shares of the shorter side of the image.

    Returns:
        `tuple`: the sets of views to encode, the whole image among them, and a plan for each kind.

    Raises:
        ValueError: regions without a proposer.
    """
    sets = [whole_image()]
    random = {seed: random_views(f"random-{seed}", view_count, seed, bounds) for seed in seeds}
    if {"random", "both"} & set(kinds):
        sets += random.values()
    if "grid" in kinds:
        sets.append(_grid_set(view_count, bounds))
    if {"regions", "both"} & set(kinds):
        sets.append(_region_set(proposer))
    names = [one.name for one in random.values()]
    plans = {
        "random": ViewPlan(tuple((name,) for name in names)),
        "grid": ViewPlan(((_GRID,),)),
        "regions": ViewPlan(((_REGIONS,),)),
        "both": ViewPlan(tuple((name, _REGIONS) for name in names)),
    }
    return sets, {kind: plans[kind] for kind in kinds}


def plan_released_views(
    kinds: Sequence[ViewKind],
    draws: Tensor,
    *,
    pool: int = POOL_SIZE,
    seed: int = 0,
    proposer: RegionViews | None = None,
    bounds: tuple[float, float] = RELEASED_BOUNDS,
) -> tuple[list[ViewSet], dict[str, ViewPlan]]:
    """Plan the views of a run as the released code does: a pool of random views, and draws from it.

    Args:
        kinds (`Sequence[str]`): see [`plan_views`]; only random views have a pool.
        draws (`Tensor` of shape `(R, P)`): for each repeat, which views of the pool count.
        pool (`int`): how many views of an image are encoded.
        seed (`int`): of the pool.
        proposer (`RegionViews`, *optional*): proposes regions.
        bounds (`(float, float)`): sides of random views. The released code has 0.1 as the lower one, whatever its
            configuration says.

    Returns:
        `tuple`: see [`plan_views`].

    Raises:
        ValueError: regions without a proposer, or a draw beyond the pool.
    """
    if int(draws.max()) >= pool or int(draws.min()) < 0:
        raise ValueError(f"`draws` must be in 0..{pool - 1}, got {int(draws.min())} to {int(draws.max())}.")
    sets = [whole_image()]
    if {"random", "both"} & set(kinds):
        sets.append(random_views(_POOL, pool, seed, bounds))
    if {"regions", "both"} & set(kinds):
        sets.append(_region_set(proposer))
    repeats = len(draws)
    plans = {
        "random": ViewPlan(((_POOL,),) * repeats, draws),
        "regions": ViewPlan(((_REGIONS,),)),
        "both": ViewPlan(((_POOL, _REGIONS),) * repeats, draws),
    }
    if "grid" in kinds:
        sets.append(_grid_set(draws.shape[1], bounds))
        plans["grid"] = ViewPlan(((_GRID,),))
    return sets, {kind: plans[kind] for kind in kinds}


def random_views(name: str, count: int, seed: int, bounds: tuple[float, float]) -> ViewSet:
    """Random squares, which follow from the seed and the pixels of an image, whatever is seen beside it."""
    settings = {"kind": "random", "count": count, "seed": seed, "bounds": list(bounds)}
    return ViewSet(name, settings, partial(_squares, source="random", count=count, seed=seed, bounds=bounds))


def _grid_set(count: int, bounds: tuple[float, float]) -> ViewSet:
    settings = {"kind": "grid", "count": count, "bounds": list(bounds)}
    return ViewSet(_GRID, settings, partial(_squares, source="grid", count=count, seed=0, bounds=bounds))


def _squares(images: Sequence[Image.Image], source: str, **settings: Any) -> list[Tensor]:
    """The views of images as the classifier chooses them; none where a proposer finds nothing."""
    chosen = views_of_images(images, source, **settings)
    return [views.xyxy[torch.tensor([kind != "whole" for kind in views.kinds])] for views in chosen]


def _region_set(proposer: RegionViews | None) -> ViewSet:
    if proposer is None:
        raise ValueError("Views of regions need a `proposer`: a Groma or its detector.")
    config = proposer.model.config
    settings: dict[str, Any] = {
        "kind": "regions",
        "proposer_sha256": model_sha256(proposer.model, proposer.image_processor),
        "box_score_threshold": getattr(config, "box_score_threshold", None),
        "nms_threshold": getattr(config, "nms_threshold", None),
        "count": proposer.region_count,
        "context": proposer.context,
    }
    views = partial(_squares, source="regions", count=1, seed=0, bounds=BOUNDS, proposer=proposer)
    return ViewSet(_REGIONS, settings, views)


def views_of_image(views: EncodedViews, kinds: Sequence[str], index: int) -> tuple[Views, Tensor]:
    """The views of one image without padding, and their features `(V, D)`."""
    kept = (~views.is_padding[index]).nonzero().flatten().tolist()
    places = Views(views.xyxy[index, kept], tuple(kinds[place] for place in kept))
    return places, views.features[index, kept]


__all__ = [
    "ViewKind",
    "ViewPlan",
    "plan_released_views",
    "plan_views",
    "pooled_images",
    "random_views",
    "views_of_image",
    "weights_of_views",
]
