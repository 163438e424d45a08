"""The parts of questions and answers: objects with attributes, regions, phrases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .scenes import Attributes, Scene


class Region(NamedTuple):
    """An object that the user points at."""

    index: int


class Phrase(NamedTuple):
    """Words tied to objects; either may be empty."""

    text: str
    indices: tuple[int, ...] = ()


Content = tuple[str | Region | Phrase, ...]


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    Args:
        kind (`str`): name of the task.
        question (`tuple`): its text.
        answer (`tuple`): its text.
        topic (`str`): what it asks about; two exchanges of a kind and topic ask the same.
        category (`str`): what evaluation groups by.
    """

    kind: str
    question: Content
    answer: Content
    topic: str = ""
    category: str = ""

    @property
    def targets(self) -> tuple[int, ...]:
        """The objects that the answer names, in its order."""
        return tuple(index for part in self.answer if isinstance(part, Phrase) for index in part.indices)

    @property
    def pointed(self) -> tuple[int, ...]:
        """The objects that the user points at."""
        return tuple(part.index for part in self.question if isinstance(part, Region))

    @property
    def reference(self) -> str:
        """The words of the answer; empty where it only points at objects."""
        words = "".join(part.text if isinstance(part, Phrase) else part for part in self.answer)
        return "" if words == "." else words


@dataclass(frozen=True)
class World:
    """The objects to ask about: those of a scene, or objects described in words alone.

    Args:
        attributes (`Sequence[Attributes | None]`): what is known about each object; `None` for no object.
        centers (`Sequence[tuple[float, float]]`, *optional*): centers of their boxes, as shares of the image's side.
        areas (`Sequence[float]`, *optional*): of their boxes, to choose the main objects by.
    """

    attributes: Sequence[Attributes | None]
    centers: Sequence[tuple[float, float]] | None = None
    areas: Sequence[float] | None = None

    @property
    def objects(self) -> list[int]:
        return [index for index, attributes in enumerate(self.attributes) if attributes is not None]

    def matches(self, wanted: Attributes) -> tuple[int, ...]:
        """The objects that have all wanted attributes, in reading order."""
        return self.in_order(index for index in self.objects if fits(self.attributes[index], wanted))

    def in_order(self, indices: Iterable[int]) -> tuple[int, ...]:
        """Objects from left to right or, without positions, in the given order."""
        return tuple(sorted(indices, key=lambda index: (self.centers[index][0] if self.centers else 0, index)))


def world_of(scene: Scene) -> World:
    """The objects of a scene, to ask about.

    Args:
        scene (`Scene`): a scene.

    Returns:
        `World`: its objects, their places as shares of the image's side.
    """
    boxes = np.array(scene.boxes_xyxy) / scene.image_size
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return World(
        attributes=[item.attributes for item in scene.objects],
        centers=[tuple(center) for center in centers.tolist()],
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1).tolist(),
    )


def fits(attributes: Attributes, wanted: Attributes) -> bool:
    """Whether an object has all given attributes.

    Args:
        attributes (`Attributes`): of the object.
        wanted (`Attributes`): what is said.

    Returns:
        `bool`

    Example:
    >>> from transformers_groma.shapes.scenes import Attributes
    >>> fits(Attributes("small", "solid", "red", "circle"), Attributes(color="red"))
    True
    """
    return all(word is None or word == value for value, word in zip(attributes, wanted, strict=True))


__all__ = ["Content", "Exchange", "Phrase", "Region", "World", "fits", "world_of"]
