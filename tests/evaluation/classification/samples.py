"""Small datasets of labelled images, and the tiny dual encoder of the golden cases of WCA."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CASES = Path(__file__).parents[2] / "fixtures" / "golden_wca"
COUNTS = {"cloud": 4, "red ball": 2, "striped tile": 3, "wooden_box": 2}


def noise(seed: int, size: tuple[int, int] = (40, 56)) -> Image.Image:
    """An image of its own for each seed."""
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 200, (1, 1, 3))
    return Image.fromarray((base + generator.integers(0, 56, (*size, 3))).astype(np.uint8))


def image_folder(folder: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """A folder with a folder of images for each class."""
    seed = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise(seed).save(folder / name / f"{number}.png")
            seed += 1
    return folder


def golden_case(name: str = "clip_b2_c4") -> dict[str, Any]:
    """What a golden case was recorded with."""
    return json.loads((CASES / name / "case.json").read_text(encoding="utf-8"))
