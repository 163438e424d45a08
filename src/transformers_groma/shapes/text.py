"""Questions and answers about objects whose attributes are known, for `shapes_rows.py`.

What is asked about is a `World`: a scene, or a list of objects in words alone. Expressions are unambiguous in it.
Texts are made of plain strings, `Region` and `Phrase`, which the rows render as message parts or as markup.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from .scenes import Attributes, Scene

NUM_TEMPLATES = 3
MAX_TARGETS = 5
MAX_CAPTION_PHRASES = 6
# Positions are told apart only where they differ by this share of the image's side.
CLEAR = 0.1
NUMBERS = ("Zero", "One", "Two", "Three", "Four", "Five")
# Words of a direction, the axis of a position (x, y) and the sign by which positions grow in that direction.
SUPERLATIVES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "bottommost": (1, 1)}
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
ATTEMPTS = 12
# A conversation ends when this many questions were no new ones.
PATIENCE = 40


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
        """The words of the answer; empty where it only points."""
        words = "".join(part.text if isinstance(part, Phrase) else part for part in self.answer)
        return "" if words == "." else words


@dataclass(frozen=True)
class World:
    """The objects that are asked about.

    Args:
        attributes (`Sequence[Attributes | None]`): of each object, what is known; `None` is no object.
        centers (`Sequence[tuple[float, float]]`, *optional*): middles of their boxes, as shares of the image's side.
        areas (`Sequence[float]`, *optional*): of their boxes, to choose the main objects by.
    """

    attributes: Sequence[Attributes | None]
    centers: Sequence[tuple[float, float]] | None = None
    areas: Sequence[float] | None = None

    @property
    def objects(self) -> list[int]:
        return [index for index, attributes in enumerate(self.attributes) if attributes is not None]

    def matches(self, wanted: Attributes) -> tuple[int, ...]:
        """The objects of which all wanted attributes are true, in reading order."""
        return self.in_order(index for index in self.objects if fits(self.attributes[index], wanted))

    def in_order(self, indices: Iterable[int]) -> tuple[int, ...]:
        """Objects from left to right or, where there are no positions, in their own order."""
        return tuple(sorted(indices, key=lambda index: (self.centers[index][0] if self.centers else 0, index)))


def world_of(scene: Scene) -> World:
    """What can be asked about a scene.

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
    """Whether an object has all attributes that are said.

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


def words(attributes: Attributes, plural: bool = False) -> str:
    """The words for what is said about an object: size, texture (solid is never said), colour and shape.

    Args:
        attributes (`Attributes`): what is said; an object without a shape is an "object".
        plural (`bool`): of several.

    Returns:
        `str`: the words.

    Example:
    >>> from transformers_groma.shapes.scenes import Attributes
    >>> words(Attributes("small", "striped", "red", "cross"), plural=True)
    'small striped red crosses'
    """
    size, texture, color, shape = attributes
    noun = shape or "object"
    if plural:
        noun += "es" if noun.endswith("s") else "s"
    return " ".join(word for word in (size, None if texture == "solid" else texture, color, noun) if word)


def with_article(text: str) -> str:
    """The words with "a" or "an" before them.

    Args:
        text (`str`): words.

    Returns:
        `str`: the words.

    Example:
    >>> with_article("orange star")
    'an orange star'
    """
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def sentence(text: str) -> str:
    """A sentence of some words."""
    return f"{text[0].upper()}{text[1:]}."


def subsets(attributes: Attributes, with_shape: bool = True) -> list[Attributes]:
    """All ways to say less about an object, the shortest first; solid is never said.

    Args:
        attributes (`Attributes`): all about it.
        with_shape (`bool`): whether the shape is always said. Otherwise it may be left out, but not everything.

    Returns:
        `list[Attributes]`

    Example:
    >>> from transformers_groma.shapes.scenes import Attributes
    >>> [words(wanted) for wanted in subsets(Attributes("small", "solid", "red", "circle"))]
    ['circle', 'red circle', 'small circle', 'small red circle']
    """
    size, texture, color, shape = attributes
    choices = product(
        dict.fromkeys((None, size)),
        dict.fromkeys((None, None if texture == "solid" else texture)),
        dict.fromkeys((None, color)),
        (shape,) if with_shape else (None, shape),
    )
    found = [Attributes(*choice) for choice in choices if any(choice)]
    return sorted(found, key=lambda wanted: sum(word is not None for word in wanted))


# ------------------------------------------------------------------------------------------------------------ questions


def locate_one(world: World, rng: np.random.Generator, template: int, position_share: float) -> Exchange | None:
    """Referring expression comprehension: where is the one object that is meant?"""
    found = None
    if world.centers and rng.random() < position_share:
        makers = [_superlative, _relation]
        first = int(rng.integers(2))
        found = makers[first](world, rng) or makers[1 - first](world, rng)
    if found is None:
        found = _unique(world, rng)
    if found is None:
        return None
    text, target, category = found
    phrase = Phrase(f"the {text}")
    question = [
        ("Locate ", phrase, " in this image."),
        ("Where is ", phrase, "?"),
        ("Can you find ", phrase, "?"),
    ][template]
    return Exchange("rec", question, (Phrase("", (target,)),), text, category)


def locate_all(world: World, rng: np.random.Generator, template: int) -> Exchange | None:
    """Grounding of a phrase: where are all the objects that it fits?"""
    wanted = _some_group(world, rng, with_shape=False)
    if wanted is None:
        return None
    text = words(wanted, plural=True)
    phrase = Phrase(text)
    question = [
        ("Locate all ", phrase, " in this image."),
        ("Where are all ", phrase, "?"),
        ("Can you find all ", phrase, "?"),
    ][template]
    return Exchange("grounding", question, (Phrase("", world.matches(wanted)),), text, category=text)


def describe_region(world: World, rng: np.random.Generator, template: int) -> Exchange:
    """A short description of an object that the user points at."""
    region = Region(_pick(world.objects, rng))
    question = [
        ("Please give a short description of ", region, "."),
        ("What is ", region, "?"),
        ("Please describe ", region, "."),
    ][template]
    answer = sentence(with_article(words(world.attributes[region.index])))
    return Exchange("region-caption", question, (answer,), str(region.index))


def describe_image(world: World, rng: np.random.Generator, template: int) -> Exchange:
    """A description whose phrases are tied to boxes: of all objects or, where there are many, of the largest."""
    chosen = world.objects
    if world.areas is not None:
        chosen = sorted(chosen, key=lambda index: -world.areas[index])
    chosen = world.in_order(chosen[:MAX_CAPTION_PHRASES])
    question = [
        "[grounding]Please describe the image in detail.",
        "[grounding]Please describe this image.",
        "[grounding]What is in the picture?",
    ][template]
    answer: list[str | Phrase] = ["The image shows "]
    for number, index in enumerate(chosen):
        if number > 0:
            answer.append(" and " if number == len(chosen) - 1 else ", ")
        answer.append(Phrase(with_article(words(world.attributes[index])), (index,)))
    return Exchange("grounded-caption", (question,), (*answer, "."))


def count(world: World, rng: np.random.Generator) -> Exchange | None:
    """How many are there?"""
    wanted = _some_group(world, rng, with_shape=True)
    if wanted is None:
        return None
    answer = sentence(NUMBERS[len(world.matches(wanted))])
    text = words(wanted, plural=True)
    return Exchange("count", (f"How many {text} are there?",), (answer,), text, "count")


def exists(world: World, rng: np.random.Generator) -> Exchange | None:
    """Is there one? Where there is none, its colour and its shape are there, but on different objects."""
    answer = bool(rng.random() < 0.5)
    for _ in range(ATTEMPTS):
        first, second = (world.attributes[_pick(world.objects, rng)] for _ in range(2))
        wanted = Attributes(color=first.color, shape=second.shape)
        if rng.random() < 0.3:
            wanted = wanted._replace(size=first.size)
        if bool(world.matches(wanted)) == answer:
            text = with_article(words(wanted))
            return Exchange("exists", (f"Is there {text}?",), ("Yes." if answer else "No.",), text, "exists")
    return None


def ask_color(world: World, rng: np.random.Generator) -> Exchange | None:
    """The colour of an object that the user points at."""
    region = Region(_pick(world.objects, rng))
    color = world.attributes[region.index].color
    if color is None:
        return None
    return Exchange("color", ("What color is ", region, "?"), (sentence(color),), str(region.index), "color")


def ask_shape(world: World, rng: np.random.Generator) -> Exchange:
    """The shape of an object that the user points at."""
    region = Region(_pick(world.objects, rng))
    answer = sentence(with_article(world.attributes[region.index].shape))
    return Exchange("shape", ("What shape is ", region, "?"), (answer,), str(region.index), "shape")


def ask_neighbor(world: World, rng: np.random.Generator) -> Exchange | None:
    """What lies in a direction of an object, where that is clearly one object."""
    if world.centers is None:
        return None
    for _ in range(ATTEMPTS):
        region = Region(_pick(world.objects, rng))
        relation = _pick(list(RELATIONS), rng)
        others = [index for index in world.objects if index != region.index]
        target = _the_one(world, others, region.index, relation)
        if target is not None:
            phrase = Phrase(sentence(with_article(words(world.attributes[target])))[:-1], (target,))
            question = (f"What is {relation} ", region, "?")
            return Exchange("neighbor", question, (phrase, "."), f"{relation} {region.index}", "neighbor")
    return None


# ---------------------------------------------------------------------------------------------------------- expressions


def _unique(world: World, rng: np.random.Generator) -> tuple[str, int, str] | None:
    """Attributes that only one object has."""
    for _ in range(ATTEMPTS):
        target = _pick(world.objects, rng)
        wanted = _unique_attributes(world, target, rng)
        if wanted is not None:
            return words(wanted), target, "attributes"
    return None


def _unique_attributes(world: World, target: int, rng: np.random.Generator) -> Attributes | None:
    """Some attributes that only the target has: often as few as will do."""
    found = [wanted for wanted in subsets(world.attributes[target]) if world.matches(wanted) == (target,)]
    if not found:
        return None
    return _pick(found, rng) if rng.random() < 0.5 else found[0]


def _superlative(world: World, rng: np.random.Generator) -> tuple[str, int, str] | None:
    """The outermost of several objects that have something in common."""
    for _ in range(ATTEMPTS):
        wanted = _pick(subsets(world.attributes[_pick(world.objects, rng)]), rng)
        matches = world.matches(wanted)
        if len(matches) < 2:
            continue
        word = _pick(list(SUPERLATIVES), rng)
        axis, sign = SUPERLATIVES[word]
        ranked = sorted(matches, key=lambda index: -sign * world.centers[index][axis])
        lead = abs(world.centers[ranked[0]][axis] - world.centers[ranked[1]][axis])
        if lead >= CLEAR:
            return f"{word} {words(wanted)}", ranked[0], "position"
    return None


def _relation(world: World, rng: np.random.Generator) -> tuple[str, int, str] | None:
    """One of several objects that have something in common, by its place beside an object that is unique."""
    for _ in range(ATTEMPTS):
        wanted = _pick(subsets(world.attributes[_pick(world.objects, rng)]), rng)
        anchor = _pick(world.objects, rng)
        matches = [index for index in world.matches(wanted) if index != anchor]
        anchor_words = _unique_attributes(world, anchor, rng)
        if len(matches) < 2 or anchor_words is None:
            continue
        relation = _pick(list(RELATIONS), rng)
        target = _the_one(world, matches, anchor, relation)
        if target is not None:
            return f"{words(wanted)} {relation} the {words(anchor_words)}", target, "relation"
    return None


def _the_one(world: World, candidates: Sequence[int], anchor: int, relation: str) -> int | None:
    """The candidate in a direction of the anchor, if it is clearly so for one and clearly not so for the others."""
    axis, sign = RELATIONS[relation]
    ahead = {index: sign * (world.centers[index][axis] - world.centers[anchor][axis]) for index in candidates}
    clear = [index for index, distance in ahead.items() if distance >= CLEAR]
    if len(clear) != 1 or any(0 < distance < CLEAR for distance in ahead.values()):
        return None
    return clear[0]


def _some_group(world: World, rng: np.random.Generator, with_shape: bool) -> Attributes | None:
    """Attributes that 1 to 5 objects have; more often those of several objects than of one."""
    groups = {}
    for index in world.objects:
        for wanted in subsets(world.attributes[index], with_shape):
            groups[wanted] = groups.get(wanted, 0) + 1
    several = [wanted for wanted, size in groups.items() if 2 <= size <= MAX_TARGETS]
    one = [wanted for wanted, size in groups.items() if size == 1]
    first, second = (several, one) if rng.random() < 0.65 else (one, several)
    choices = first or second
    return _pick(choices, rng) if choices else None


def _pick(values: Sequence, rng: np.random.Generator):
    return values[rng.integers(len(values))]


# -------------------------------------------------------------------------------------------------------- conversations

# How often each kind of question comes in a conversation about a scene.
MIXTURE = {
    "rec": 0.22,
    "grounding": 0.16,
    "region-caption": 0.18,
    "grounded-caption": 0.06,
    "count": 0.1,
    "exists": 0.1,
    "color": 0.06,
    "shape": 0.06,
    "neighbor": 0.06,
}


def make_exchange(
    kind: str, world: World, rng: np.random.Generator, template: int | None, position_share: float
) -> Exchange | None:
    """One question of a kind, or `None` where chance found none.

    Args:
        kind (`str`): a key of `MIXTURE`.
        world (`World`): what is asked about.
        rng (`np.random.Generator`): source of chance.
        template (`int`, *optional*): which wording of the question, 0 to 2; any without it.
        position_share (`float`): how many of the "rec" questions tell objects apart by position.

    Returns:
        `Exchange`: the question and its answer.
    """
    if template is None:
        template = int(rng.integers(NUM_TEMPLATES))
    match kind:
        case "rec":
            return locate_one(world, rng, template, position_share)
        case "grounding":
            return locate_all(world, rng, template)
        case "region-caption":
            return describe_region(world, rng, template)
        case "grounded-caption":
            return describe_image(world, rng, template)
    short: dict[str, Callable[[World, np.random.Generator], Exchange | None]] = {
        "count": count,
        "exists": exists,
        "color": ask_color,
        "shape": ask_shape,
        "neighbor": ask_neighbor,
    }
    return short[kind](world, rng)


def converse(
    kinds: Mapping[str, float],
    world: World,
    rng: np.random.Generator,
    questions: int,
    template: int | None = None,
    position_share: float = 0.15,
    max_pointed: int | None = None,
    max_named: int | None = None,
) -> list[Exchange]:
    """Several different questions about a world: fewer where there is not enough to ask.

    A question comes once, whatever its wording: a second answer could be copied from the first. The user points at an
    object once, because a model gives each of the user's boxes a region of its own.

    Args:
        kinds (`Mapping[str, float]`): kinds of questions, and how often each comes.
        world (`World`): what is asked about.
        rng (`np.random.Generator`): source of chance.
        questions (`int`): how many.
        template (`int`, *optional*), position_share (`float`): as in `make_exchange`.
        max_pointed, max_named (`int`, *optional*): most boxes in all questions, and in all answers together.

    Returns:
        `list[Exchange]`: in random order.
    """
    names = list(kinds)
    bounds = np.cumsum(list(kinds.values())) / sum(kinds.values())
    found: dict[tuple[str, str], Exchange] = {}
    pointed: set[int] = set()
    num_named = misses = 0
    while len(found) < questions and misses < PATIENCE:
        kind = names[min(int(np.searchsorted(bounds, rng.random(), side="right")), len(names) - 1)]
        exchange = make_exchange(kind, world, rng, template, position_share)
        if (
            exchange is None
            or (kind, exchange.topic) in found
            or not pointed.isdisjoint(exchange.pointed)
            or (max_pointed is not None and len(pointed) + len(exchange.pointed) > max_pointed)
            or (max_named is not None and num_named + len(exchange.targets) > max_named)
        ):
            misses += 1
            continue
        found[kind, exchange.topic] = exchange
        pointed.update(exchange.pointed)
        num_named += len(exchange.targets)
    return list(found.values())


__all__ = ["Exchange", "Phrase", "Region", "World", "converse", "fits", "subsets", "with_article", "words", "world_of"]
