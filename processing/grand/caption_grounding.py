"""Ties the phrases of a caption to the objects of a scene graph, and finds what the graph does not have."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from processing.grand.phrases import (
    SIMILARITY,
    content_words,
    head_noun,
    is_plural,
    names_label,
    noun_phrases,
    occurrences,
    plain_label,
    similarity,
)

Object = Mapping[str, Any]


class GroundedPhrase(NamedTuple):
    """A phrase of a caption and the objects that it is about.

    Args:
        start, end (`int`): its span in the caption, in characters.
        ids (`tuple[int, ...]`): ids of objects, at least one.
    """

    start: int
    end: int
    ids: tuple[int, ...]


class _Description(NamedTuple):
    """A text about objects, their ids, and their labels."""

    text: str
    ids: tuple[int, ...]
    labels: list[str]


def grounded_caption(
    caption: str, objects: Sequence[Object], relations: Sequence[Mapping[str, Any]]
) -> list[GroundedPhrase]:
    """Find the phrases of a caption that are about objects of a scene graph.

    In this order, as GranD does: the first attribute of an object or the phrase of a relation, where the caption has
    it word by word; noun phrases that share at least .75 of their words with one of these; noun phrases whose noun is
    a label of exactly one object, or of two of which the larger box holds the other (the larger one).

    Two things are stricter or wider than in GranD. Words in common are not enough, the noun must be the same as well:
    "colorful buildings" are not "a narrow street in front of colorful buildings". And a plural with several objects of
    its label has them all, where GranD leaves it out.

    Args:
        caption (`str`): English sentences.
        objects (`Sequence[Mapping]`): `id`, `bbox` (`xyxy` in pixels), `labels`, `attributes`.
        relations (`Sequence[Mapping]`): `phrase` and `object_ids`.

    Returns:
        `list[GroundedPhrase]`: in the order of the caption. No two overlap: what was found first stays, and of
        what was found in the same way the longest.

    Example:
    >>> dog = {"id": 3, "bbox": [0, 0, 9, 9], "labels": ["dog"], "attributes": ["a small brown dog"]}
    >>> ball = {"id": 5, "bbox": [9, 9, 12, 12], "labels": ["ball"], "attributes": []}
    >>> text = "A small brown dog runs after a ball and a cat."
    >>> [(text[phrase.start : phrase.end], phrase.ids) for phrase in grounded_caption(text, [dog, ball], [])]
    [('A small brown dog', (3,)), ('a ball', (5,))]
    """
    descriptions = _descriptions(objects, relations)
    spans = noun_phrases(caption)
    exact = [GroundedPhrase(*span, ids) for text, ids, _ in descriptions for span in occurrences(text, caption)]
    alike = [
        GroundedPhrase(*span, ids) for span in spans if (ids := _most_similar(caption[slice(*span)], descriptions))
    ]
    by_label = [GroundedPhrase(*span, ids) for span in spans if (ids := _with_label(caption[slice(*span)], objects))]
    chosen: list[GroundedPhrase] = []
    for found in (exact, alike, by_label):
        for phrase in sorted(found, key=lambda each: (each.start - each.end, each.start)):
            if all(phrase.end <= other.start or other.end <= phrase.start for other in chosen):
                chosen.append(phrase)
    return sorted(chosen)


def missing_objects(
    checklist: Sequence[str],
    objects: Sequence[Object],
    relations: Sequence[Mapping[str, Any]],
    landmark: Mapping[str, str] | None = None,
) -> list[str]:
    """What a checklist of objects names that a scene graph does not have.

    Args:
        checklist (`Sequence[str]`): nouns or noun phrases.
        objects (`Sequence[Mapping]`): `labels` and `attributes`.
        relations (`Sequence[Mapping]`): `phrase`.
        landmark (`Mapping`, *optional*): `category` and `fine_category`.

    Returns:
        `list[str]`: items whose noun is neither the label of an object nor in an attribute, a phrase or the landmark.

    Example:
    >>> dog = {"labels": ["dog"], "attributes": ["a dog on a red carpet"]}
    >>> missing_objects(["two dogs", "the carpet", "a cat"], [dog], [])
    ['a cat']
    """
    texts = [attribute for each in objects for attribute in each["attributes"]]
    texts += [relation["phrase"] for relation in relations]
    texts += list((landmark or {}).values())
    words = {word for text in texts for word in content_words(text or "")}
    labels = [label for each in objects for label in each["labels"]]
    # Any word of a label will do: "balloon" for "hot-air_balloon basket".
    words |= {word for label in labels for word in content_words(plain_label(label).replace("-", " "))}

    def is_there(item: str) -> bool:
        noun = head_noun(item)
        return not noun or noun in words or names_label(noun, labels)

    return [item for item in checklist if not is_there(item)]


def _descriptions(objects: Sequence[Object], relations: Sequence[Mapping[str, Any]]) -> list[_Description]:
    """The texts that tell objects apart: the first attribute of each, and the phrases of relations."""
    # Of attributes the first alone, as in GranD: further ones are less certain.
    first = [(each["attributes"][0], (each["id"],)) for each in objects if each["attributes"]]
    labels = {each["id"]: each["labels"] for each in objects}
    named = [
        (each["phrase"], tuple(number for number in each["object_ids"] if number in labels)) for each in relations
    ]
    found: dict[str, tuple[int, ...]] = {}
    for text, ids in [*first, *named]:
        if ids and content_words(text):
            found.setdefault(text, ids)
    return [
        _Description(text, ids, [label for number in ids for label in labels[number]]) for text, ids in found.items()
    ]


def _most_similar(phrase: str, descriptions: Sequence[_Description]) -> tuple[int, ...]:
    noun = head_noun(phrase)
    about = [each for each in descriptions if noun == head_noun(each.text) or names_label(noun, each.labels)]
    scores = [similarity(phrase, each.text) for each in about]
    best = max(scores, default=0.0)
    # A noun alone is in many descriptions, and says nothing about which of them is meant.
    matches = {each.ids for each, score in zip(about, scores, strict=True) if score == best}
    if best < SIMILARITY or (len(matches) > 1 and len(content_words(phrase)) == 1):
        return ()
    return about[scores.index(best)].ids


def _with_label(phrase: str, objects: Sequence[Object]) -> tuple[int, ...]:
    noun = head_noun(phrase)
    found = [each for each in objects if noun and names_label(noun, each["labels"])]
    if len(found) <= 1 or is_plural(phrase):
        return tuple(each["id"] for each in found)
    if len(found) == 2:
        for inner, outer in (found, found[::-1]):
            if _is_inside(inner["bbox"], outer["bbox"]):
                return (outer["id"],)
    return ()


def _is_inside(inner: Sequence[float], outer: Sequence[float]) -> bool:
    return all(inner[i] >= outer[i] for i in (0, 1)) and all(inner[i] <= outer[i] for i in (2, 3))


__all__ = ["GroundedPhrase", "grounded_caption", "missing_objects"]
