"""Lists of labels: as text, in a file, or as the folders of an image folder; and what to do with equal names."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._text import split_lines
from .._words import counted, is_one_line, quoted
from ..images import IMAGE_SUFFIXES
from .input_files import kind_of, read_input_json, read_input_text
from .templates import display_name

LABELS = 'labels: a text file with one in each line, or a JSON list such as ["cat", "dog"]'
# Folders with these names hold parts of a dataset and not a class.
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}


def check_labels(labels: Sequence[str], argument: str = "`labels`") -> tuple[str, ...]:
    """Check labels and take their names.

    Args:
        labels (`Sequence[str]`): at least one; no two have one name.
        argument (`str`): how an error names them.

    Returns:
        `tuple[str, ...]`: the names, underscores as spaces.

    Raises:
        ValueError: there are none, one is blank or not a text, or two have the same name.

    Example:
    >>> check_labels(["cat", "wooden_box"])
    ('cat', 'wooden box')
    >>> check_labels(["wooden_box", "wooden box"])
    Traceback (most recent call last):
    ValueError: `labels`: 'wooden_box' and 'wooden box' have one name, so no text could tell them apart. Rename or
        remove one.
    """
    names = names_of_labels(labels, argument)
    seen: dict[str, str] = {}
    for label, name in zip(labels, names, strict=True):
        if name in seen:
            pair = f"{label!r} appears twice" if seen[name] == label else f"{seen[name]!r} and {label!r} have one name"
            raise ValueError(f"{argument}: {pair}, so no text could tell them apart. Rename or remove one.")
        seen[name] = label
    return names


def names_of_labels(labels: Sequence[str], argument: str = "`labels`") -> tuple[str, ...]:
    """The names of labels, of which several may have the same.

    Args:
        labels (`Sequence[str]`): at least one.
        argument (`str`): how an error names them.

    Returns:
        `tuple[str, ...]`: the names, underscores as spaces.

    Raises:
        ValueError: there are none, or one is blank or not a text.
    """
    if isinstance(labels, str | bytes) or not isinstance(labels, Sequence):
        raise ValueError(f'{argument} must be a list of texts such as ["cat", "dog"], got {labels!r:.100}.')
    if not labels:
        raise ValueError(f'{argument} must have at least one label, got none: pass a list such as ["cat", "dog"].')
    for number, label in enumerate(labels, start=1):
        if not isinstance(label, str):
            raise ValueError(f"{argument}: label {number} is {kind_of(label)}, not a text. Write its name.")
        if not display_name(label):
            raise ValueError(f"{argument}: label {number} is blank ({label!r}). Write its name, or remove it.")
        if not is_one_line(label):
            raise ValueError(
                f"{argument}: label {number} ({label!a:.100}) has a line break, control character or half a "
                "character. Write it in one line."
            )
    return tuple(display_name(label) for label in labels)


@dataclass(frozen=True)
class DistinctNames:
    """The names of classes, each once.

    Classes that share a name have the same texts and the same score, so the name is what can be predicted. As the
    released code does, a predicted name counts as the first class that has it ([`first_classes`]): the others can't be
    right, and the published accuracy of Places365 has it so. Counting the name itself ([`of_classes`]) is kinder.

    Args:
        names (`tuple[str, ...]`): the names, in the order of the first class of each.
        of_classes (`tuple[int, ...]`): for each class, the index of its name.
        first_classes (`tuple[int, ...]`): for each name, the first class that has it.
    """

    names: tuple[str, ...]
    of_classes: tuple[int, ...]
    first_classes: tuple[int, ...]

    @property
    def shared(self) -> tuple[str, ...]:
        """The names that several classes have."""
        counts = Counter(self.of_classes)
        return tuple(name for index, name in enumerate(self.names) if counts[index] > 1)

    @property
    def note(self) -> str | None:
        """One sentence about names that several classes have; `None` where there are none."""
        if not self.shared:
            return None
        lost = len(self.of_classes) - len(self.names)
        names = counted(len(self.names), "distinct name")
        return (
            f"{len(self.of_classes)} classes have {names} ({quoted(self.shared)}): a predicted name counts as its "
            f"first class, so {counted(lost, 'class', 'classes')} can never be right"
        )


def distinct_names(labels: Sequence[str], argument: str = "`labels`") -> DistinctNames:
    """The distinct names of classes, for datasets in which several classes have one name.

    Args:
        labels (`Sequence[str]`): the name of each class, in the order of its index.
        argument (`str`): how an error names them.

    Returns:
        [`DistinctNames`]

    Raises:
        ValueError: there are none, or one is blank or not a text.

    Example:
    >>> distinct = distinct_names(["church", "desert", "church"])
    >>> distinct.names, distinct.of_classes, distinct.first_classes
    (('church', 'desert'), (0, 1, 0), (0, 1))
    >>> distinct.note
    "3 classes have 2 distinct names ('church'): a predicted name counts as its first class, so 1 class can never be
    right"
    """
    names = names_of_labels(labels, argument)
    first_classes: dict[str, int] = {}
    for index, name in enumerate(names):
        first_classes.setdefault(name, index)
    indices = {name: index for index, name in enumerate(first_classes)}
    return DistinctNames(tuple(indices), tuple(indices[name] for name in names), tuple(first_classes.values()))


def read_labels(path: str | os.PathLike, may_repeat: bool = False) -> list[str]:
    """Read labels from a file or a folder.

    Args:
        path (`str` or `Path`): a text file with a label in each line (blank lines are skipped); a JSON list of labels;
            a JSON object with descriptions, whose class names are taken, or with the labels of a model by index
            (`{"0": "cat", "1": "dog"}`, its `id2label`); or an image folder with a folder for each class, whose names
            are taken in alphabetical order.
        may_repeat (`bool`): whether several classes may have one name, see [`distinct_names`].

    Returns:
        `list[str]`: the labels, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it holds something else, no label, or one twice.

    Example:
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.txt"
    >>> _ = path.write_text("cat\\ncrane, the bird\\n")
    >>> read_labels(path)
    ['cat', 'crane, the bird']
    """
    path = Path(path)
    if path.is_dir():
        labels = _folder_names(path)
    elif path.name.removesuffix(".gz").endswith(".json"):
        labels = _labels_of_json(read_input_json(path, LABELS), path)
    else:
        labels = _labels_of_text(read_input_text(path, LABELS), path)
    (names_of_labels if may_repeat else check_labels)(labels, str(path))
    return labels


def _folder_names(folder: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise OSError(f"{folder} cannot be read ({error.strerror}): pass another folder.") from error
    if not names:
        raise ValueError(f"{folder} has no folder for a class in it: pass an image folder, or a file with {LABELS}.")
    if all(name.casefold() in _SPLITS for name in names):
        raise ValueError(f"{folder} has the parts {', '.join(names)} of a dataset in it: pass {folder / names[0]}.")
    if empty := [name for name in names if not _holds_image(folder / name)]:
        raise ValueError(
            f"{folder} is not an image folder, as {len(empty)} of {counted(len(names), 'folder')} in it has no image "
            f"({empty[0]!r}{', …' if len(empty) > 1 else ''}): pass one with images in the folder of each class, or a "
            f"file with {LABELS}."
        )
    return names


def _holds_image(folder: Path) -> bool:
    """Whether a folder has an image file in it or below."""
    return any(name.casefold().endswith(IMAGE_SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _labels_of_text(text: str, path: Path) -> list[str]:
    labels = [line.strip() for line in split_lines(text) if line.strip()]
    if len(labels) == 1 and "," in labels[0]:
        raise ValueError(f"{path} has one line, with commas: write one label in each line, or a JSON list.")
    return labels


def _labels_of_json(content: Any, path: Path) -> list[str]:
    if isinstance(content, list):
        return content
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds {kind_of(content)}: pass a file with {LABELS}.")
    if content and all(key.isdecimal() for key in content):
        by_index = {int(key): label for key, label in content.items()}
        if len(by_index) < len(content) or set(by_index) != set(range(len(by_index))):
            raise ValueError(
                f"{path} has labels by index, but not one for each number from 0 to the last: pass a file with "
                f"{LABELS}."
            )
        return [by_index[index] for index in sorted(by_index)]
    if not all(isinstance(texts, list) for texts in content.values()):
        raise ValueError(f"{path} is an object, but not one of lists as descriptions are: pass a file with {LABELS}.")
    return list(content)


__all__ = ["LABELS", "DistinctNames", "check_labels", "distinct_names", "names_of_labels", "read_labels"]
