"""The names of GLaMM's protocols, what they draw, and which rows they take."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

# What the script does that GLaMM was released with, and what its paper describes.
GLAMM_RELEASE, GLAMM_PAPER = "glamm-release", "glamm-paper"
EXPRESSIONS_PER_IMAGE = 3
# The script draws without a seed; here a run can be repeated.
RELEASE_SEED = 0


def rows_by_image(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[int]]:
    """Find the rows about each image.

    Args:
        rows (`Sequence[Mapping]`): with `source` and `image_id`.

    Returns:
        `dict`: numbers of rows by source and image, in the order of the rows. Images without a name all count as
            different.

    Example:
    >>> rows_by_image([{"source": "a", "image_id": name} for name in ("7", "8", "7")])
    {('a', '7'): [0, 2], ('a', '8'): [1]}
    """
    of_image: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        of_image.setdefault((row["source"], row["image_id"] or f"row {index}"), []).append(index)
    return of_image


def draw_expressions(rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Draw at most three expressions of each image, from a fixed seed, in the order in which they are asked.

    Args:
        rows (`Sequence[Mapping]`): with `source` and `image_id`.

    Returns:
        `list[list[int]]`: for each image the numbers of its rows. The draw for an image depends on its own rows alone.
    """
    drawn = []
    for (source, image_id), indices in rows_by_image(rows).items():
        draw = random.Random(f"{RELEASE_SEED}/{source}/{image_id}")
        drawn.append(draw.sample(indices, min(EXPRESSIONS_PER_IMAGE, len(indices))))
    return drawn


__all__ = [
    "EXPRESSIONS_PER_IMAGE",
    "GLAMM_PAPER",
    "GLAMM_RELEASE",
    "RELEASE_SEED",
    "draw_expressions",
    "rows_by_image",
]
