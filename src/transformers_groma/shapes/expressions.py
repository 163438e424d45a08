"""Referring expressions for one object or a group: by attribute, by position, by neighbour. None is ambiguous."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from .scenes import Attributes
from .wording import subsets, words
from .world import World

Value = TypeVar("Value")

MAX_TARGETS = 5
# Positions are told apart only where they differ by this share of the image's side.
CLEAR = 0.1
# Words of a direction, the axis of a position (x, y) and the sign by which positions grow in that direction.
SUPERLATIVES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "bottommost": (1, 1)}
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
ATTEMPTS = 12


def unique_object(world: World, rng: np.random.Generator) -> tuple[str, int, str] | None:
    """Pick an object that its attributes distinguish from all others.

    Args:
        world (`World`): the objects.
        rng (`np.random.Generator`): source of chance.

    Returns:
        `tuple[str, int, str]`, *optional*: the expression, the object it means, and its kind ("attributes"); `None`
        where chance found none.
    """
    for _ in range(ATTEMPTS):
        target = pick(world.objects, rng)
        wanted = _unique_attributes(world, target, rng)
        if wanted is not None:
            return words(wanted), target, "attributes"
    return None


def _unique_attributes(world: World, target: int, rng: np.random.Generator) -> Attributes | None:
    """Some attributes that only the target has, often the fewest possible."""
    found = [wanted for wanted in subsets(world.attributes[target]) if world.matches(wanted) == (target,)]
    if not found:
        return None
    return pick(found, rng) if rng.random() < 0.5 else found[0]


def outermost_object(world: World, rng: np.random.Generator) -> tuple[str, int, str] | None:
    """Pick the outermost of several objects with something in common, such as "leftmost red circle".

    Args and returns: see [`unique_object`]; the kind is "position".
    """
    for _ in range(ATTEMPTS):
        wanted = pick(subsets(world.attributes[pick(world.objects, rng)]), rng)
        matches = world.matches(wanted)
        if len(matches) < 2:
            continue
        word = pick(list(SUPERLATIVES), rng)
        axis, sign = SUPERLATIVES[word]
        ranked = sorted(matches, key=lambda index: -sign * world.centers[index][axis])
        lead = abs(world.centers[ranked[0]][axis] - world.centers[ranked[1]][axis])
        if lead >= CLEAR:
            return f"{word} {words(wanted)}", ranked[0], "position"
    return None


def related_object(world: World, rng: np.random.Generator) -> tuple[str, int, str] | None:
    """Pick one of several objects with something in common, by its position beside a unique object.

    Args and returns: see [`unique_object`]; the kind is "relation".
    """
    for _ in range(ATTEMPTS):
        wanted = pick(subsets(world.attributes[pick(world.objects, rng)]), rng)
        anchor = pick(world.objects, rng)
        matches = [index for index in world.matches(wanted) if index != anchor]
        anchor_words = _unique_attributes(world, anchor, rng)
        if len(matches) < 2 or anchor_words is None:
            continue
        relation = pick(list(RELATIONS), rng)
        target = the_one_ahead(world, matches, anchor, relation)
        if target is not None:
            return f"{words(wanted)} {relation} the {words(anchor_words)}", target, "relation"
    return None


def the_one_ahead(world: World, candidates: Sequence[int], anchor: int, relation: str) -> int | None:
    """The only candidate in a direction from an object.

    Args:
        world (`World`): the objects.
        candidates (`Sequence[int]`): the objects that may be meant.
        anchor (`int`): the object that the direction starts from.
        relation (`str`): a key of `RELATIONS`.

    Returns:
        `int`, *optional*: the candidate; `None` unless exactly one is clearly in that direction and no other partly.
    """
    axis, sign = RELATIONS[relation]
    ahead = {index: sign * (world.centers[index][axis] - world.centers[anchor][axis]) for index in candidates}
    clear = [index for index, distance in ahead.items() if distance >= CLEAR]
    if len(clear) != 1 or any(0 < distance < CLEAR for distance in ahead.values()):
        return None
    return clear[0]


def some_group(world: World, rng: np.random.Generator, with_shape: bool) -> Attributes | None:
    """Attributes that 1 to 5 objects share; more often several than one.

    Args:
        world (`World`): the objects.
        rng (`np.random.Generator`): source of chance.
        with_shape (`bool`): whether the shape is always said.

    Returns:
        `Attributes`, *optional*: the attributes; `None` if all groups are larger.
    """
    groups = {}
    for index in world.objects:
        for wanted in subsets(world.attributes[index], with_shape):
            groups[wanted] = groups.get(wanted, 0) + 1
    several = [wanted for wanted, size in groups.items() if 2 <= size <= MAX_TARGETS]
    one = [wanted for wanted, size in groups.items() if size == 1]
    first, second = (several, one) if rng.random() < 0.65 else (one, several)
    choices = first or second
    return pick(choices, rng) if choices else None


def pick(values: Sequence[Value], rng: np.random.Generator) -> Value:
    """Pick one of several values, all equally likely."""
    return values[rng.integers(len(values))]


__all__ = ["RELATIONS", "outermost_object", "pick", "related_object", "some_group", "the_one_ahead", "unique_object"]
