"""Data for the mask decoder: rows with masks as square images with prompts and true masks, and batches of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from transformers.image_processing_utils import BaseImageProcessor

from ..boxes import box_xyxy_to_cxcywh
from ..interior_points import interior_point
from ..masks import rle_to_mask
from ..point_labels import NO_POINT, ON_REGION
from .augmentation import Augmentation, Crop, SquareImage, augment, cut_mask, row_generator
from .detection_data import DetectionCollator
from .mask_prompts import (
    AMBIGUOUS_CLICKS,
    MAX_CLICKS,
    MAX_INTERIOR_SIDE,
    NOISED_IMAGES,
    SEVERAL_CLICKS,
    Clicks,
    draw_clicks,
    noise_box,
)

# True masks are this much finer than a model's: enlarged as they are in use, its masks learn where outlines are
# between their pixels. (Of logits that were fitted to the true masks of scenes drawn at 448, those compared at the
# model's own 112 pixels got an IoU of 0.986, at 224 0.991.)
TARGET_SCALE = 2
# Stands in `error_draws` for a round that the prompt takes no part in.
NO_CLICK = -1.0
# The inputs of a `MaskLearner` that have a row for each prompt.
PROMPT_ROWS = ("boxes", "points", "point_labels", "has_token", "is_ambiguous", "targets", "error_draws")


class PromptPlan(NamedTuple):
    """How many prompts are drawn, and of which kinds.

    Attributes:
        target_size (`int`): side of the true masks.
        prompts_per_image (`int`): how many prompts an image gets; its objects take turns.
        token_share (`float`): share of the images whose boxes come with their region tokens; 0 for a detector.
        refinement_rounds (`int`): how often a mask may be corrected by a click where it is wrong.
        refinement_share (`float`): share of the prompts that continue from each round to the next.
        small_object_bias (`float`): objects are drawn with a probability of their box's area to the power of minus
            this; at 0 all are alike, and take turns.
    """

    target_size: int
    prompts_per_image: int = 6
    token_share: float = 0.7
    refinement_rounds: int = 1
    refinement_share: float = 0.25
    small_object_bias: float = 0.0


class _Object(NamedTuple):
    """An object that a square shows: its box in the square's pixels, and its mask."""

    number: int  # of its box in the row
    box: np.ndarray
    mask: np.ndarray  # bool, of the original image, but only the pixels that the square shows
    target: np.ndarray  # (target_size, target_size), float32: the covered share of each pixel


class MaskDataset(TorchDataset):
    """Turns rows with masks into square images with prompts and true masks.

    An item is looked up by `(epoch, row)`, from which all its random numbers are seeded, or by the row alone (epoch
    0). Objects that have no mask, or are outside the crop, get no prompt.

    Args:
        dataset (`Dataset`): rows with boxes and `masks`, see `rows_with_masks`.
        image_processor (`BaseImageProcessor`): the model's; gives the size of the square and the resize filter.
        plan (`PromptPlan`): which prompts are drawn.
        augmentation (`str`): `"recipe"`, `"flip"` or `"none"`; see `training/augmentation.py`.
        seed (`int`): seed of augmentation and prompts.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_processor: BaseImageProcessor,
        plan: PromptPlan,
        augmentation: Augmentation = "none",
        seed: int = 0,
    ):
        self.dataset = dataset
        self.image_size = image_processor.size["height"]
        self.resample = image_processor.resample
        self.plan = plan
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.dataset[index]
        generator = row_generator(self.seed, epoch, index)
        square = self._square(row, generator)
        # A random order without repetition, weighted: each object gets a random time, earlier for larger weights.
        times = generator.exponential(size=len(square.boxes)) / self._weights(square.boxes)
        objects = self._objects(row, square, times.argsort(), self.plan.prompts_per_image)
        prompts = self._draw_prompts(objects, square, generator)
        return {"pixels": np.asarray(square.image), **_stack(prompts, self.plan)}

    def _square(self, row: Mapping[str, Any], generator: np.random.Generator) -> SquareImage:
        return augment(
            row["image"],
            row["boxes_xyxy"],
            self.image_size,
            self.augmentation,
            generator,
            row["source"],
            self.resample,
        )

    def _objects(
        self, row: Mapping[str, Any], square: SquareImage, order: Sequence[int], limit: int | None = None
    ) -> list[_Object]:
        """Objects with a mask of which the square shows something, in the given order of boxes; at most `limit`."""
        objects = []
        x1, y1, x2, y2 = whole_pixels(square.crop)
        for number in order:
            if len(objects) == limit:
                break
            rle = row["masks"][square.kept[number]]
            mask = None if rle is None else rle_to_mask(rle)
            if mask is not None and mask[y1:y2, x1:x2].any():
                target = cut_mask(mask, square.crop, square.flipped, self.plan.target_size)
                shown = mask[y1:y2, x1:x2]
                objects.append(_Object(int(square.kept[number]), square.boxes[number], shown, target))
        return objects

    def _draw_prompts(
        self, objects: Sequence[_Object], square: SquareImage, generator: np.random.Generator
    ) -> list[dict[str, Any]]:
        if not objects:
            return []
        plan, prompts = self.plan, []
        is_noised = generator.random() < NOISED_IMAGES
        has_token = generator.random() < plan.token_share
        # Clicks of an image have equally many points, if several: prompts that are alike are decoded together.
        num_points = int(generator.integers(2, MAX_CLICKS + 1))
        # Half boxes, half clicks.
        is_box = generator.permutation(np.arange(plan.prompts_per_image) % 2 == 0)
        turns = np.arange(plan.prompts_per_image) % len(objects)
        if plan.small_object_bias > 0:
            weights = self._weights(np.stack([thing.box for thing in objects]))
            turns = generator.choice(len(objects), plan.prompts_per_image, p=weights / weights.sum())
        for number, turn in enumerate(turns):
            thing = objects[turn]
            if is_box[number]:
                box = noise_box(thing.box, generator) if is_noised else thing.box
                prompt = self._box_prompt(thing, box, has_token)
            else:
                count = num_points if generator.random() < SEVERAL_CLICKS else 1
                is_ambiguous = count == 1 and generator.random() < AMBIGUOUS_CLICKS
                prompt = _click_prompt(thing, draw_clicks(thing.mask, count, generator), is_ambiguous, square)
            # In each round a prompt continues, or drops out of this and all later rounds.
            continues = np.cumprod(generator.random(plan.refinement_rounds) < plan.refinement_share) > 0
            draws = generator.random(plan.refinement_rounds)
            prompts.append({**prompt, "error_draws": np.where(continues, draws, NO_CLICK)})
        return prompts

    def _weights(self, boxes: np.ndarray) -> np.ndarray:
        """How likely objects are drawn, by their boxes in pixels of the square."""
        return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) ** -self.plan.small_object_bias

    def _box_prompt(self, thing: _Object, box: np.ndarray, has_token: bool) -> dict[str, Any]:
        return {"target": thing.target, "box": box.clip(0, self.image_size) / self.image_size, "has_token": has_token}


class MaskEvaluationDataset(MaskDataset):
    """Turns rows with masks into square images with all their objects, each by its box and by one click.

    An item has the box prompts of all objects first, then one click on each, at its most interior point. It is the
    same at every call. What is measured is what users get: a click has several masks if the decoder makes them, of
    which the best by its estimated quality counts.
    """

    def __getitem__(self, key: int) -> dict[str, Any]:
        row = self.dataset[key]
        square = self._square(row, row_generator(self.seed, 0, key))
        objects = self._objects(row, square, range(len(square.boxes)))
        boxes = [self._box_prompt(thing, thing.box, self.plan.token_share > 0) for thing in objects]
        clicks = [_click_prompt(thing, _interior_click(thing.mask), True, square) for thing in objects]
        return {
            "pixels": np.asarray(square.image),
            **_stack([*boxes, *clicks], self.plan),
            "true_masks": [row["masks"][thing.number] for thing in objects],
            "true_boxes": [row["boxes_xyxy"][thing.number] for thing in objects],
        }


class MaskCollator:
    """Makes a batch from items of a `MaskDataset`.

    Args:
        image_processor (`BaseImageProcessor`): the model's; gives the rescale factor, mean and standard deviation.
    """

    def __init__(self, image_processor: BaseImageProcessor):
        self.images = DetectionCollator(image_processor)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            items (`Sequence[Mapping]`): items of a `MaskDataset` or `MaskEvaluationDataset`.

        Returns:
            `dict`: the inputs of a `MaskLearner`, with the prompts of all images one below the other; of a
            `MaskEvaluationDataset` also `true_masks` and `true_boxes`, lists for each image.
        """
        counts = torch.tensor([len(item["targets"]) for item in items])
        batch = {
            "pixel_values": self.images.normalize([item["pixels"] for item in items]),
            "image_index": torch.arange(len(items)).repeat_interleave(counts),
            **{name: torch.from_numpy(np.concatenate([item[name] for item in items])) for name in PROMPT_ROWS},
        }
        # As few points as the prompt with the most of them has; padding comes last.
        width = int((batch["point_labels"] != NO_POINT).any(dim=0).sum())
        batch["points"], batch["point_labels"] = batch["points"][:, :width], batch["point_labels"][:, :width]
        for name in ("true_masks", "true_boxes"):
            if name in items[0]:
                batch[name] = [item[name] for item in items]
        return batch


def whole_pixels(crop: Crop) -> tuple[int, int, int, int]:
    """The pixels that lie wholly inside a crop of an image.

    Args:
        crop (`tuple` of 4): `xyxy` in pixels of the image.

    Returns:
        `tuple[int, int, int, int]`: `xyxy`; `mask[y1:y2, x1:x2]` are the pixels.

    Example:
    >>> whole_pixels((0.5, 0.0, 3.0, 2.25))
    (1, 0, 3, 2)
    """
    x1, y1, x2, y2 = crop
    return math.ceil(x1), math.ceil(y1), math.floor(x2), math.floor(y2)


def points_in_square(points: np.ndarray, square: SquareImage) -> np.ndarray:
    """Where points of an image are in a square that shows it.

    Args:
        points (`np.ndarray` of shape `(n, 2)`): `(x, y)` in pixels of the original image.
        square (`SquareImage`): its crop and flip are read.

    Returns:
        `np.ndarray` of shape `(n, 2)`, float64: normalized `(x, y)`.
    """
    x1, y1, x2, y2 = square.crop
    placed = (points - np.array([x1, y1])) / np.array([x2 - x1, y2 - y1])
    return np.abs([1.0, 0.0] - placed) if square.flipped else placed


def _interior_click(mask: np.ndarray) -> Clicks:
    """One click, at the most interior point of an object."""
    return Clicks(np.array([interior_point(mask, MAX_INTERIOR_SIDE)]), np.array([ON_REGION]))


def _click_prompt(thing: _Object, clicks: Clicks, is_ambiguous: bool, square: SquareImage) -> dict[str, Any]:
    points = points_in_square(clicks.points + whole_pixels(square.crop)[:2], square)
    return {"target": thing.target, "points": points, "labels": clicks.labels, "is_ambiguous": is_ambiguous}


def _stack(prompts: Sequence[Mapping[str, Any]], plan: PromptPlan) -> dict[str, np.ndarray]:
    """The prompts of an image as arrays, one row each."""
    count = len(prompts)
    arrays = {
        "boxes": np.zeros((count, 4), np.float32),
        "points": np.zeros((count, MAX_CLICKS, 2), np.float32),
        "point_labels": np.full((count, MAX_CLICKS), NO_POINT, np.int64),
        "has_token": np.zeros(count, bool),
        "is_ambiguous": np.zeros(count, bool),
        "targets": np.zeros((count, plan.target_size, plan.target_size), np.float32),
        "error_draws": np.full((count, plan.refinement_rounds), NO_CLICK, np.float32),
    }
    for row, prompt in enumerate(prompts):
        arrays["targets"][row] = prompt["target"]
        arrays["error_draws"][row] = prompt.get("error_draws", NO_CLICK)
        if "box" in prompt:
            box = torch.from_numpy(prompt["box"]).float()
            arrays["boxes"][row] = box_xyxy_to_cxcywh(box).numpy()
            arrays["has_token"][row] = prompt["has_token"]
        else:
            arrays["points"][row, : len(prompt["points"])] = prompt["points"]
            arrays["point_labels"][row, : len(prompt["labels"])] = prompt["labels"]
            arrays["is_ambiguous"][row] = prompt["is_ambiguous"]
    return arrays


__all__ = [
    "NO_CLICK",
    "PROMPT_ROWS",
    "TARGET_SCALE",
    "MaskCollator",
    "MaskDataset",
    "MaskEvaluationDataset",
    "PromptPlan",
    "points_in_square",
    "whole_pixels",
]
