"""The classes of a dataset: their names for people, a file that renames them, and a part of them."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..._words import counted
from ...zero_shot.templates import display_name

# Names in an error; the rest is counted.
_SHOWN = 5


@dataclass(frozen=True)
class ClassNames:
    """The classes of a dataset, by index.

    Args:
        given (`tuple[str, ...]`): as the dataset has them, such as `"n01440764"` or `"wooden_box"`.
        shown (`tuple[str, ...]`): as texts name them, such as `"tench"` or `"wooden box"`.
    """

    given: tuple[str, ...]
    shown: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.given)


def classes_of(given: Sequence[str], names: Sequence[str] | None = None, what: str = "classes") -> ClassNames:
    """The classes of a dataset, with names of a file if there is one.

    Args:
        given (`Sequence[str]`): as the dataset has them, by index.
        names (`Sequence[str]`, *optional*): of a file, by the same index.
        what (`str`): what they are, for errors: "class folders", say.

    Returns:
        `ClassNames`

    Raises:
        ValueError: another number of names, the same names in another order, or a name without a letter.

    Example:
    >>> classes_of(["n01440764", "wooden_box"]).shown
    ('n01440764', 'wooden box')
    >>> classes_of(["cat", "dog"], ["dog", "cat"])
    Traceback (most recent call last):
    ValueError: class 0 is 'cat' in the dataset, and the file of labels names it 'dog' and has 'cat' at 1: names go ...
    """
    if names is not None and len(names) != len(given):
        raise ValueError(
            f"the file of labels has {counted(len(names), 'name')}, and the dataset has {len(given)} {what}: it needs "
            f"one for each, in the order of the classes ({_listed(given)})."
        )
    shown = [display_name(name) for name in (given if names is None else names)]
    for index, name in enumerate(shown):
        if not name:
            raise ValueError(f"class {index} has no name: {given[index]!r}. Name all classes in a file of labels.")
    if names is not None:
        place = {name: index for index, name in enumerate(shown)}
        for index, name in enumerate(given):
            own = display_name(name)
            # Names of the dataset's own in another order would be wrong answers without a word.
            if own != shown[index] and own in place:
                raise ValueError(
                    f"class {index} is {name!r} in the dataset, and the file of labels names it {names[index]!r} and "
                    f"has {own!r} at {place[own]}: names go by the index of the classes ({_listed(given)})."
                )
    return ClassNames(tuple(given), tuple(shown))


def classes_of_texts(labels: Sequence[str], names: Sequence[str] | None = None) -> ClassNames:
    """The classes of labels that are texts: the distinct ones, sorted, or those of a file.

    Args:
        labels (`Sequence[str]`): the label of each row.
        names (`Sequence[str]`, *optional*): of a file; it may have more than the rows.

    Returns:
        `ClassNames`

    Raises:
        ValueError: a label that the file does not have, or has twice.

    Example:
    >>> classes_of_texts(["dog", "red_fox", "dog"]).shown
    ('dog', 'red fox')
    """
    distinct = sorted(set(labels))
    if names is None:
        return classes_of(distinct)
    place: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        place.setdefault(display_name(name), []).append(index)
    given = list(names)
    for label in distinct:
        found = place.get(display_name(label), [])
        if not found:
            raise ValueError(
                f"the label {label!r} is not in the file of labels{_nearest(label, names)}: it names all classes, "
                "one a line."
            )
        if len(found) > 1:
            raise ValueError(
                f"the label {label!r} is {len(found)} times in the file of labels (at {found[0]} and {found[1]}), so "
                "rows with it could be of either: pass a dataset whose labels are numbers."
            )
        given[found[0]] = label
    return ClassNames(tuple(given), tuple(display_name(name) for name in names))


def only(classes: ClassNames, names: Sequence[str]) -> np.ndarray:
    """Which classes a list of names chooses.

    Args:
        classes (`ClassNames`): the classes.
        names (`Sequence[str]`): names, as the dataset has them or as they are shown. One that several classes share
            chooses them all.

    Returns:
        `np.ndarray`: their indices, ascending.

    Raises:
        ValueError: a name that no class has, or fewer than two classes.

    Example:
    >>> only(classes_of(["cat", "dog", "red_fox"]), ["red fox", "cat"])
    array([0, 2])
    """
    by_name: dict[str, set[int]] = {}
    for index, pair in enumerate(zip(classes.given, classes.shown)):
        for name in pair:
            by_name.setdefault(name, set()).add(index)
    chosen: set[int] = set()
    for name in names:
        found = by_name.get(name) or by_name.get(display_name(name))
        if found is None:
            raise ValueError(f"{name!r} is not a class of the dataset{_nearest(name, classes.shown)}.")
        chosen |= found
    if len(chosen) < 2:
        raise ValueError(f"{counted(len(chosen), 'class', 'classes')} can't be told apart: name at least two.")
    return np.array(sorted(chosen))


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f", which has {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


__all__ = ["ClassNames", "classes_of", "classes_of_texts", "only"]
