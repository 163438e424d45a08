"""Sentences about coloured shapes: captions of training images, and descriptions of classes as CuPL writes them.

The 300 descriptions lists have the form of CuPL's files, `{class name: [sentence, …]}`, and are written here in own
words. Captions are made of the same words, so that the encoder knows them, and are as uneven as captions are: they
leave out attributes, and some have words that the tokenizer does not know.
"""

from collections.abc import Mapping

import numpy as np

from .scenes import CLASSES, ObjectClass

TEXTURE_PHRASES = {
    "solid": ("without a pattern", "of one even color"),
    "striped": ("with stripes", "covered with parallel lines"),
    "dotted": ("with dots", "covered with round spots"),
}
SHAPE_PHRASES = {
    "circle": "round shape",
    "square": "shape with four equal sides",
    "triangle": "shape with three corners",
    "rectangle": "long shape with four corners",
    "star": "shape with five points",
    "hexagon": "shape with six corners",
    "cross": "shape with four arms",
    "ring": "round shape with a hole",
    "heart": "shape with two round tops and a tip",
    "diamond": "narrow shape that stands on a corner",
}
# What a view shows that lies inside of an object.
CLOSE_UPS = {"solid": "an even {color} surface", "striped": "{color} stripes", "dotted": "dots on a {color} surface"}
# Words of no meaning here, which become the unknown token; some captions of the web are like that.
UNKNOWN_WORDS = ("fwzt", "qlorb", "mxee", "vakku")


def sentences_of(kind: ObjectClass) -> list[str]:
    """Descriptions of a class, each true of any object of the class in some view.

    Args:
        kind (`ObjectClass`): the class.

    Returns:
        `list[str]`: ten sentences, the last of which do not name the class.

    Example:
    >>> sentences_of(ObjectClass("striped", "red", "star"))[:3]
    ['a striped red star.', 'a red star with stripes.', 'a large striped red star.']
    """
    texture, color, shape = kind
    first, second = TEXTURE_PHRASES[texture]
    return [
        f"a {kind.name}.",
        f"a {color} {shape} {first}.",
        f"a large {kind.name}.",
        f"a small {kind.name}.",
        f"a {kind.name} on a light background.",
        f"a {kind.name} on a dark background.",
        f"part of a {kind.name}.",
        f"a {texture} {shape} in {color}.",
        f"a {color} {SHAPE_PHRASES[shape]}, {second}.",
        f"{CLOSE_UPS[texture].format(color=color)} up close.",
    ]


def descriptions(classes: tuple[ObjectClass, ...] = CLASSES) -> dict[str, list[str]]:
    """Descriptions of classes in the form of CuPL's files.

    Args:
        classes (`tuple[ObjectClass]`): the classes.

    Returns:
        `dict[str, list[str]]`: sentences by class name.
    """
    return {kind.name: sentences_of(kind) for kind in classes}


def caption(kind: ObjectClass, shown: Mapping[str, str | None], rng: np.random.Generator) -> str:
    """A caption of an image, about its main object only.

    Args:
        kind (`ObjectClass`): class of the main object.
        shown (`Mapping`): what the image shows besides. `part`: "whole", "part" or "close", how much of the object;
            `size`: "large", "small" or `None`; `tone`: "light" or "dark", the background's.
        rng (`np.random.Generator`): source of chance.

    Returns:
        `str`: a sentence in lower case.
    """
    texture, color, shape = kind
    if shown["part"] == "close":
        text = f"{CLOSE_UPS[texture].format(color=color)} up close"
    else:
        phrase = TEXTURE_PHRASES[texture][rng.integers(2)]
        # The first forms say everything, the last ones leave out an attribute.
        text = _one(
            rng,
            (0.35, f"{kind.name}"),
            (0.15, f"{color} {shape} {phrase}"),
            (0.15, f"{texture} {shape} in {color}"),
            (0.15, f"{color} {SHAPE_PHRASES[shape]}, {phrase}"),
            (0.1, f"{color} {shape}"),
            (0.05, f"{texture} {shape}"),
            (0.05, f"{texture} {color} shape"),
        )
        if shown["size"] is not None and rng.random() < 0.3:
            text = f"{shown['size']} {text}"
        # "an orange star", but the encoder need not care: all captions say "a", as templates do.
        text = f"part of a {text}" if shown["part"] == "part" and rng.random() < 0.6 else f"a {text}"
        if rng.random() < 0.25:
            text += f" on a {shown['tone']} background"
    if rng.random() < 0.25 and text.startswith("a "):
        text = f"a photo of {text}"
    if rng.random() < 0.15:
        junk = [UNKNOWN_WORDS[number] for number in rng.integers(len(UNKNOWN_WORDS), size=rng.integers(1, 6))]
        text += f", {' '.join(junk)}"
    return f"{text}."


def vocabulary() -> list[str]:
    """All words and marks of captions, sorted; the words of no meaning are not among them."""
    words = {"a", "photo", "of", "shape", ".", ","}
    for kind in CLASSES:
        for phrase in (*sentences_of(kind), *TEXTURE_PHRASES[kind.texture]):
            words.update(phrase.replace(",", " , ").replace(".", " . ").split())
    return sorted(words)


def _one(rng: np.random.Generator, *choices: tuple[float, str]) -> str:
    """One of several texts, each with its chance; the chances add up to 1."""
    return choices[int(rng.choice(len(choices), p=[chance for chance, _ in choices]))][1]
