"""The scene graph of an image as text: objects by depth and by neighbourhood, captions, relations, landmark."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from processing.grand.phrases import plain_label

# From near to far, each with the largest normalized depth: 0 is the nearest object of the image, 1 the farthest.
LAYERS = (("Immediate Foreground", 0.1), ("Foreground", 0.6), ("Midground", 0.85), ("Background", math.inf))
# GranD groups objects whose centres are within 200 pixels; its images are 2250 pixels wide.
NEIGHBOURHOOD = 200 / 2250
# A language model reads so many objects; those with attributes first.
MAX_OBJECTS = 100

Object = Mapping[str, Any]


def layers_of(depths: Sequence[float | None]) -> list[str | None]:
    """The layers of an image's objects.

    Args:
        depths (`Sequence[float]`): of the objects, larger is nearer; `None` where it is not known.

    Returns:
        `list[str]`: the name of a layer, or `None`.

    Example:
    >>> layers_of([10.0, 6.0, 3.0, 0.0, None])
    ['Immediate Foreground', 'Foreground', 'Midground', 'Background', None]
    """
    known = [depth for depth in depths if depth is not None]
    nearest, farthest = max(known, default=0.0), min(known, default=0.0)

    def layer(depth: float) -> str:
        far = (nearest - depth) / (nearest - farthest) if nearest > farthest else 0.5
        return next(name for name, limit in LAYERS if far < limit)

    return [None if depth is None else layer(depth) for depth in depths]


def grouped(objects: Sequence[Object], size: tuple[int, int]) -> list[tuple[str | None, list[Object]]]:
    """Group objects of a layer that are close to each other.

    Args:
        objects (`Sequence[Mapping]`): `bbox` (`xyxy` in pixels) and `layer`.
        size (`tuple[int, int]`): width and height of the image in pixels.

    Returns:
        `list`: of layer and objects, near layers first; around each object in turn those that no group has yet.

    Example:
    >>> boxes = [[0, 0, 10, 10], [500, 0, 510, 10], [20, 0, 30, 10]]
    >>> objects = [{"bbox": box, "layer": "Foreground", "id": number} for number, box in enumerate(boxes)]
    >>> [[each["id"] for each in group] for _, group in grouped(objects, (1000, 500))]
    [[0, 2], [1]]
    """
    reach = NEIGHBOURHOOD * max(size)
    groups: list[tuple[str | None, list[Object]]] = []
    for layer in (*(name for name, _ in LAYERS), None):
        left = [each for each in objects if each["layer"] == layer]
        while left:
            first, *others = left
            near = [each for each in others if math.dist(_centre(first), _centre(each)) < reach]
            groups.append((layer, [first, *near]))
            left = [each for each in others if each not in near]
    return groups


def most_important(objects: Sequence[Object]) -> list[Object]:
    """The objects that a language model reads about: all, or those with attributes and then the first of the others.

    Example:
    >>> len(most_important([{"id": number, "attributes": []} for number in range(101)]))
    100
    """
    if len(objects) <= MAX_OBJECTS:
        return list(objects)
    told = [each for each in objects if each["attributes"]]
    return [*told, *(each for each in objects if not each["attributes"])][:MAX_OBJECTS]


def scene_text(
    objects: Sequence[Object],
    captions: Sequence[str],
    relations: Sequence[Mapping[str, Any]],
    landmark: Mapping[str, str] | None,
    size: tuple[int, int],
) -> str:
    """Write a scene graph as a language model reads it.

    Args:
        objects (`Sequence[Mapping]`): `id`, `bbox` (`xyxy` in pixels), `label`, `attributes`, `layer`.
        captions (`Sequence[str]`): short captions.
        relations (`Sequence[Mapping]`): `phrase` and `object_ids`.
        landmark (`Mapping`, *optional*): `category` and `fine_category`.
        size (`tuple[int, int]`): width and height of the image in pixels.

    Returns:
        `str`: several lines.

    Example:
    >>> dog = {"id": 0, "bbox": [0, 0, 9, 9], "label": "dog", "attributes": ["a brown dog"], "layer": "Foreground"}
    >>> print(scene_text([dog], ["A dog sits."], [{"phrase": "a dog", "object_ids": [0]}], None, (100, 100)))
    Foreground:
    Group 0: dog (a brown dog)
    <BLANKLINE>
    Short captions:
    A dog sits.
    <BLANKLINE>
    Relationships:
    a dog: group 0
    """
    lines: list[str] = []
    group_of: dict[int, int] = {}
    previous: str | None = ""
    for number, (layer, group) in enumerate(grouped(most_important(objects), size)):
        if layer != previous:
            lines.append(f"{layer or 'Unknown depth'}:")
        previous = layer
        group_of |= {each["id"]: number for each in group}
        lines.append(f"Group {number}: {', '.join(map(_described, group))}")
    blocks = [lines, ["Short captions:", *captions] if captions else []]
    named = []
    for relation in relations:
        groups = sorted({group_of[number] for number in relation["object_ids"] if number in group_of})
        if groups:
            word = "group" if len(groups) == 1 else "groups"
            named.append(f"{relation['phrase']}: {word} {', '.join(map(str, groups))}")
    blocks.append(["Relationships:", *named] if named else [])
    if landmark and landmark["category"]:
        parts = [part for part in (landmark["category"], landmark["fine_category"]) if part]
        blocks.append(["Landmark:", ", ".join(parts)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _described(each: Object) -> str:
    label = plain_label(each["label"])
    return f"{label} ({each['attributes'][0]})" if each["attributes"] else label


def _centre(each: Object) -> tuple[float, float]:
    x1, y1, x2, y2 = each["bbox"]
    return (x1 + x2) / 2, (y1 + y2) / 2


__all__ = ["LAYERS", "MAX_OBJECTS", "NEIGHBOURHOOD", "grouped", "layers_of", "most_important", "scene_text"]
