"""Training data of shapes-clip: views of scenes with captions, as a `torch.utils.data.Dataset`.

A view is the whole image, a crop of it, or a close-up of the main object, as photos are; its caption is about the main
object alone. The classes of `UNSEEN` are in no caption and no training image.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import CLIPProcessor

from .build import IMAGE_SIZE, MEAN, STD
from .scenes import CLASSES, SEED, ClutteredScene, Layout, ObjectClass, make_cluttered_scene
from .texts import caption

LAYOUT = Layout(main_sides=(0.3, 0.9), clutter=(0, 8))
# Each texture, colour and shape is known, each pair of colour and shape too, but not these combinations of three.
UNSEEN = tuple(
    kind for number, kind in enumerate(CLASSES) if (number // 100 + number // 10 % 10 + number % 10) % 10 == 0
)
SEEN = tuple(kind for kind in CLASSES if kind not in UNSEEN)
# From this batch on all shapes of a texture and colour are in a batch together: by then the encoder knows textures and
# colours, which tell most classes of a random batch apart, and few shapes.
ALIKE_FROM = 1250
# Training steps that a scene is used in, each time with another view and caption.
VIEWS_OF_SCENE = 2
CROP_SHARE, CLOSE_SHARE = 0.45, 0.15
# A crop holds at least this share of the main object's box. With less than the second share it is a part.
LEAST_SHOWN, WHOLE_SHOWN = 0.4, 0.9
# Shapes with nothing in the middle of their box.
HOLLOW = ("ring",)

# `xyxy` in absolute pixels of the scene, right and bottom exclusive.
Box = tuple[int, int, int, int]


class CaptionedViews(Dataset):
    """Views with captions, batch after batch: no class is twice in a batch, so that each caption fits one image.

    Args:
        batches (`int`): number of batches.
        batch_size (`int`): examples of a batch, at most as many as there are classes.
        seed (`int`): of the views and captions.

    Raises:
        ValueError: there are fewer classes than examples in a batch.
    """

    def __init__(self, batches: int, batch_size: int, seed: int = 0):
        if not 1 <= batch_size <= len(SEEN):
            raise ValueError(f"`batch_size` must be 1 to {len(SEEN)}, the number of classes, got {batch_size}.")
        self.batches = batches
        self.batch_size = batch_size
        self.seed = seed
        # The scenes of a batch, until its last view.
        self._scene = lru_cache(batch_size)(_training_scene)

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch, place = divmod(index, self.batch_size)
        group = batch // VIEWS_OF_SCENE
        kinds = _shuffled(np.random.default_rng([SEED, self.seed, group]), alike=batch >= ALIKE_FROM)
        scene = self._scene(group * self.batch_size + place, kinds[place])
        rng = np.random.default_rng([SEED, self.seed, index, 1])
        box, part = random_view(scene, rng)
        shown = {"part": part, "size": size_word(scene, box), "tone": "dark" if scene.is_dark else "light"}
        image = scene.image.crop(box).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        return {"image": image, "text": caption(scene.main, shown, rng)}


def _shuffled(rng: np.random.Generator, alike: bool) -> list[ObjectClass]:
    """The classes in random order; if they are to be alike, those of one texture and colour follow each other."""
    kinds = [SEEN[number] for number in rng.permutation(len(SEEN))]
    if alike:
        looks = list(dict.fromkeys(kind[:2] for kind in kinds))
        kinds.sort(key=lambda kind: looks.index(kind[:2]))
    return kinds


def _training_scene(index: int, main: ObjectClass) -> ClutteredScene:
    return make_cluttered_scene("train", index, LAYOUT, main)


def random_view(scene: ClutteredScene, rng: np.random.Generator) -> tuple[Box, str]:
    """Choose what a training image shows of a scene.

    Args:
        scene (`ClutteredScene`): the scene.
        rng (`np.random.Generator`): source of chance.

    Returns:
        A square, `xyxy` in absolute pixels, and how much of the main object it shows: "whole", "part" or "close".
    """
    left, top, right, bottom = scene.main_box_xyxy
    size = scene.image.width
    chance = rng.random()
    if chance < CLOSE_SHARE and scene.main.shape not in HOLLOW:
        side = max(8, int(min(right - left, bottom - top) * rng.uniform(0.35, 0.55)))
        x, y = (
            (low + high - side) / 2 + rng.uniform(-0.15, 0.15) * side for low, high in ((left, right), (top, bottom))
        )
        x, y = (int(np.clip(value, 0, size - side)) for value in (x, y))
        return (x, y, x + side, y + side), "close"
    if chance < CLOSE_SHARE + CROP_SHARE:
        for _ in range(10):
            side = int(rng.uniform(0.35, 1.0) * size)
            x, y = rng.integers(size - side + 1, size=2).tolist()
            box = (x, y, x + side, y + side)
            share = shown_share(scene.main_box_xyxy, box)
            if share >= LEAST_SHOWN:
                return box, "whole" if share >= WHOLE_SHOWN else "part"
    return (0, 0, size, size), "whole"


def shown_share(main_xyxy: Box, view_xyxy: Box) -> float:
    """Share of a box's area that a view shows; both `xyxy` in absolute pixels.

    Example:
    >>> shown_share((0, 0, 10, 10), (5, 0, 20, 20))
    0.5
    """
    low, high = np.maximum(main_xyxy[:2], view_xyxy[:2]), np.minimum(main_xyxy[2:], view_xyxy[2:])
    area = np.subtract(main_xyxy[2:], main_xyxy[:2]).prod()
    return float(np.clip(high - low, 0, None).prod() / area)


def size_word(scene: ClutteredScene, view_xyxy: Box) -> str | None:
    """The size of the main object in a view: "large", "small", or `None` in between."""
    left, top, right, bottom = scene.main_box_xyxy
    share = max(right - left, bottom - top) / (view_xyxy[2] - view_xyxy[0])
    return "large" if share >= 0.55 else "small" if share <= 0.35 else None


class Collator:
    """Makes batches that `CLIPModel` computes its contrastive loss of.

    Args:
        processor (`CLIPProcessor`): the model's. Views have its image size already.
    """

    def __init__(self, processor: CLIPProcessor):
        self.processor = processor

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pixels = torch.from_numpy(np.stack([np.asarray(example["image"]) for example in examples]))
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        texts = self.processor.tokenizer([example["text"] for example in examples], padding=True, return_tensors="pt")
        return {
            "pixel_values": ((pixels / 255 - mean) / std).permute(0, 3, 1, 2),
            "input_ids": texts["input_ids"],
            "attention_mask": texts["attention_mask"],
            "return_loss": True,
        }


__all__ = ["SEEN", "UNSEEN", "CaptionedViews", "Collator", "random_view", "shown_share", "size_word"]
