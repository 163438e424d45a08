"""Helpers for drawing tests: plain images, and where a drawing has which colours."""

import numpy as np
import torch
from PIL import Image, ImageChops

GROUND = (120, 120, 120)


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GROUND)


def random_boxes(count: int, width: int, height: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, count, 2, generator=generator) * torch.tensor([width, height])
    return torch.cat([corners.amin(0), corners.amax(0)], dim=-1)


def colored(image: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """The smallest box around the pixels of a colour."""
    rows, columns = (np.asarray(image) == color).all(axis=-1).nonzero()
    if len(rows) == 0:
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def changed(before: Image.Image, after: Image.Image) -> tuple[int, int, int, int] | None:
    """The smallest box around the pixels in which two images differ, within the size of the first."""
    return ImageChops.difference(before, after.crop((0, 0, *before.size))).getbbox()


def tinted(color: tuple[int, int, int], share: float, ground: tuple[int, int, int] = GROUND) -> np.ndarray:
    """A colour laid over a ground."""
    return np.array(ground) * (1 - share) + np.array(color) * share
