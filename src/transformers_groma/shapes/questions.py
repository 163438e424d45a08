"""Questions and answers about objects with known attributes, alone or as conversations.

Expressions are unambiguous among the objects. Texts are made of plain strings, `Region` and `Phrase`, which `rows.py`
turns into message parts.
"""

from collections.abc import Callable, Mapping

import numpy as np

from .expressions import (
    ATTEMPTS,
    RELATIONS,
    outermost_object,
    pick,
    related_object,
    some_group,
    the_one_ahead,
    unique_object,
)
from .scenes import Attributes
from .wording import sentence, with_article, words
from .world import Exchange, Phrase, Region, World

# Wordings of a question. The first is the standard one, for evaluation.
NUM_TEMPLATES = 3
MAX_CAPTION_PHRASES = 6
NUMBERS = ("Zero", "One", "Two", "Three", "Four", "Five")
# A conversation ends after this many questions that could not be used.
PATIENCE = 40
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


def locate_one(world: World, rng: np.random.Generator, template: int, position_share: float) -> Exchange | None:
    """Ask for the one object that an expression refers to (referring expression comprehension)."""
    found = None
    if world.centers and rng.random() < position_share:
        makers = [outermost_object, related_object]
        first = int(rng.integers(2))
        found = makers[first](world, rng) or makers[1 - first](world, rng)
    if found is None:
        found = unique_object(world, rng)
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
    """Ask for all objects that a phrase fits (grounding)."""
    wanted = some_group(world, rng, with_shape=False)
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
    """Ask for a short description of an object that the user points at."""
    region = Region(pick(world.objects, rng))
    question = [
        ("Please give a short description of ", region, "."),
        ("What is ", region, "?"),
        ("Please describe ", region, "."),
    ][template]
    answer = sentence(with_article(words(world.attributes[region.index])))
    return Exchange("region-caption", question, (answer,), str(region.index))


def describe_image(world: World, rng: np.random.Generator, template: int) -> Exchange:
    """Ask for a description with phrases tied to boxes, of all objects or of the largest if there are many."""
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
    """Ask how many objects of a kind there are."""
    wanted = some_group(world, rng, with_shape=True)
    if wanted is None:
        return None
    answer = sentence(NUMBERS[len(world.matches(wanted))])
    text = words(wanted, plural=True)
    return Exchange("count", (f"How many {text} are there?",), (answer,), text, "count")


def exists(world: World, rng: np.random.Generator) -> Exchange | None:
    """Ask whether there is an object of a kind.

    Where there is none, its colour and its shape are in the scene, but on different objects.
    """
    answer = bool(rng.random() < 0.5)
    for _ in range(ATTEMPTS):
        first, second = (world.attributes[pick(world.objects, rng)] for _ in range(2))
        wanted = Attributes(color=first.color, shape=second.shape)
        if rng.random() < 0.3:
            wanted = wanted._replace(size=first.size)
        if bool(world.matches(wanted)) == answer:
            text = with_article(words(wanted))
            return Exchange("exists", (f"Is there {text}?",), ("Yes." if answer else "No.",), text, "exists")
    return None


def ask_color(world: World, rng: np.random.Generator) -> Exchange | None:
    """Ask for the colour of an object that the user points at."""
    region = Region(pick(world.objects, rng))
    color = world.attributes[region.index].color
    if color is None:
        return None
    return Exchange("color", ("What color is ", region, "?"), (sentence(color),), str(region.index), "color")


def ask_shape(world: World, rng: np.random.Generator) -> Exchange:
    """Ask for the shape of an object that the user points at."""
    region = Region(pick(world.objects, rng))
    answer = sentence(with_article(world.attributes[region.index].shape))
    return Exchange("shape", ("What shape is ", region, "?"), (answer,), str(region.index), "shape")


def ask_neighbor(world: World, rng: np.random.Generator) -> Exchange | None:
    """Ask what is in a direction from an object, if that is clearly one object."""
    if world.centers is None:
        return None
    for _ in range(ATTEMPTS):
        region = Region(pick(world.objects, rng))
        relation = pick(list(RELATIONS), rng)
        others = [index for index in world.objects if index != region.index]
        target = the_one_ahead(world, others, region.index, relation)
        if target is not None:
            phrase = Phrase(sentence(with_article(words(world.attributes[target])))[:-1], (target,))
            question = (f"What is {relation} ", region, "?")
            return Exchange("neighbor", question, (phrase, "."), f"{relation} {region.index}", "neighbor")
    return None


def make_exchange(
    kind: str, world: World, rng: np.random.Generator, template: int | None, position_share: float
) -> Exchange | None:
    """Make one question of a kind, or `None` if none was found.

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
    """Make several different questions about a world, or fewer if there is not enough to ask.

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


__all__ = [
    "MIXTURE",
    "ask_neighbor",
    "converse",
    "describe_image",
    "describe_region",
    "locate_all",
    "locate_one",
    "make_exchange",
]
