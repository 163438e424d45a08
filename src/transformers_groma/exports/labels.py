"""Which label of other tools a phrase becomes: itself, its normalized form, or one of a file of labels."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .._text import parse_json, read_text, split_lines
from ..labelled_objects import check_label

_ARTICLES = re.compile(r"^(?:an?|the|some)\s+(?=\S)")
_EDGES = re.compile(r"^[^\w(]+|[^\w)]+$")


def normalized(phrase: str) -> str:
    """A phrase without what makes no difference: case, an article in front, punctuation around it, spaces.

    Args:
        phrase (`str`): a phrase.

    Returns:
        `str`: its normalized form; the phrase in lower case, if nothing else would be left.

    Example:
    >>> normalized("The Red  cup."), normalized("A"), normalized("?!")
    ('red cup', 'a', '?!')
    """
    text = " ".join(phrase.lower().split())
    return _ARTICLES.sub("", _EDGES.sub("", text)) or text


class Labels:
    """The labels of an export: which phrases have one, and their numbers.

    Args:
        normalize (`bool`): whether phrases that differ in case, articles or punctuation alone have one label.
        known (`Mapping[str, int]`, *optional*): all labels, with their numbers in COCO. Without it every phrase is
            one, numbered from 1 in the order in which they come.
        mapping (`Mapping[str, str | None]`, *optional*): labels of phrases, `None` for those to leave out.

    Attributes:
        numbers (`Mapping[str, int]`): the numbers of all labels so far, as COCO has them: of a file, or from 1.
        classes (`Mapping[str, int]`): the same in the same order, as YOLO has them: without gaps, from 0.

    Example:
    >>> labels = Labels(normalize=True)
    >>> [labels.of(phrase) for phrase in ("A dog", "the dog", "a cup")], dict(labels.numbers)
    (['dog', 'dog', 'cup'], {'dog': 1, 'cup': 2})
    """

    def __init__(
        self,
        normalize: bool = False,
        known: Mapping[str, int] | None = None,
        mapping: Mapping[str, str | None] | None = None,
    ) -> None:
        self.normalize = normalize
        self.is_closed = known is not None
        self._numbers = dict(known or {})
        ordered = sorted(self._numbers, key=self._numbers.__getitem__)
        self._classes = {label: index for index, label in enumerate(ordered)}
        # Views: they have what comes later, too.
        self.numbers: Mapping[str, int] = MappingProxyType(self._numbers)
        self.classes: Mapping[str, int] = MappingProxyType(self._classes)
        self._label_of: dict[str, str | None] = {} if known is None else {label: label for label in known}
        self._label_of |= mapping or {}
        if normalize:
            forms = {normalized(phrase): label for phrase, label in self._label_of.items()}
            self._label_of = {**forms, **self._label_of}  # the exact phrase comes first

    def of(self, phrase: str) -> str | None:
        """The label of a phrase, `None` where it has none; a new phrase of an open set gets the next number."""
        if self.is_closed:
            label = self._label_of.get(phrase)
            if label is None and phrase not in self._label_of and self.normalize:
                label = self._label_of.get(normalized(phrase))
            return label
        label = normalized(phrase) if self.normalize else phrase
        self._numbers.setdefault(label, len(self._numbers) + 1)
        self._classes.setdefault(label, len(self._classes))
        return label


def read_labels(path: Path, normalize: bool = False) -> Labels:
    """Read a file of labels.

    Args:
        path (`Path`): a text file with a label a line; or JSON: a list of labels, an object with the label of each
            phrase (null leaves a phrase out), or a COCO file, whose categories keep their numbers.
        normalize (`bool`): see [`Labels`].

    Returns:
        `Labels`: a closed set: other phrases have no label.

    Raises:
        ValueError: the file is none of these, names a label twice, or has none.
    """
    text = read_text(path)
    if path.suffix != ".json":
        return Labels(normalize, _numbered([line.strip() for line in split_lines(text) if line.strip()], path))
    try:
        content = parse_json(text, drop=("images", "annotations"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if isinstance(content, list):
        return Labels(normalize, _numbered(content, path))
    if isinstance(content, Mapping) and isinstance(content.get("categories"), list):
        return Labels(normalize, _of_categories(content["categories"], path))
    if isinstance(content, Mapping) and all(isinstance(label, str | None) for label in content.values()):
        labels = list(dict.fromkeys(label for label in content.values() if label is not None))
        return Labels(normalize, _numbered(labels, path), content)
    raise ValueError(
        f"{path} has no labels: write a list of labels, an object with the label of each phrase, or a COCO file."
    )


def _numbered(labels: list[Any], path: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for label in labels:
        if _checked(label, path) in numbers:
            raise ValueError(f"{path} names the label {label!r} twice.")
        numbers[label] = len(numbers) + 1
    if not numbers:
        raise ValueError(f"{path} has no labels.")
    return numbers


def _of_categories(categories: list[Any], path: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for category in categories:
        identity = category.get("id") if isinstance(category, Mapping) else None
        if not isinstance(identity, int) or isinstance(identity, bool):
            raise ValueError(f"{path}: a category needs a number as `id` and a `name`, got {category!r}.")
        name = _checked(category.get("name"), path)
        if name in numbers or identity in numbers.values():
            raise ValueError(f"{path} has two categories with the name {name!r} or the id {identity}.")
        numbers[name] = identity
    if not numbers:
        raise ValueError(f"{path} has no categories.")
    return numbers


def _checked(label: Any, path: Path) -> str:
    try:
        return check_label(label)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error


__all__ = ["Labels", "normalized", "read_labels"]
