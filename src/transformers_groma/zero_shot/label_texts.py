"""Which texts stand for each label: sentences of CuPL, phrases of DCLIP, templates or random words.

Files of descriptions are read as their authors publish them; none comes with this package.
"""

import difflib
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .input_files import kind_of, read_input_json
from .label_lists import check_labels
from .methods import Method, method_of
from .templates import (
    DEFAULT_TEMPLATE,
    GENERIC_TEMPLATES,
    check_templates,
    dclip_text,
    display_name,
    fill_template,
)
from .waffle import waffle_texts

logger = logging.getLogger(__name__)

DESCRIPTIONS = 'descriptions, a JSON object {"class name": ["sentence", …], …} as CuPL and DCLIP publish it'
TEMPLATES = f'templates, a JSON list such as ["{DEFAULT_TEMPLATE}"]'
# How many labels an error names.
NAMED_AT_MOST = 5
_SENTENCE_ENDS = (".", "!", "?", "…", "。")


@dataclass(frozen=True)
class LabelTexts:
    """The texts of labels, in the order of the labels.

    Args:
        names (`tuple[str, ...]`): the labels as texts have them, underscores as spaces.
        anchors (`tuple[str, ...]`): "a photo of a NAME." for each label, by which its texts are weighed.
        texts (`tuple[tuple[str, ...], ...]`): at least one for each label, not as many for each. One that a file has
            twice is here twice.
        unused (`tuple[str, ...]`): class names of the descriptions that no label has.
    """

    names: tuple[str, ...]
    anchors: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    unused: tuple[str, ...] = ()


def read_descriptions(path: str | os.PathLike) -> dict[str, list[str]]:
    """Read a file of descriptions in the format of CuPL and DCLIP.

    Args:
        path (`str` or `Path`): a JSON object that has a list of texts for each class name.

    Returns:
        `dict[str, list[str]]`: the texts as they stand, by class name, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is not JSON or has another layout, a class name appears twice, or a class has no text or
            something else than texts; the message names file and class.

    Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "cupl.json"
    >>> _ = path.write_text('{"cat": ["A cat has whiskers.", "A cat is furry."], "dog": ["A dog has a wet nose."]}')
    >>> read_descriptions(path)["dog"]
    ['A dog has a wet nose.']
    """
    content = read_input_json(path, DESCRIPTIONS)
    if isinstance(content, list):
        raise ValueError(f"{path} holds a list, as files of templates do: pass a file with {DESCRIPTIONS}.")
    return check_descriptions(content, str(path))


def read_templates(path: str | os.PathLike) -> tuple[str, ...]:
    """Read a file of templates in the format of CLIP-E.

    Args:
        path (`str` or `Path`): a JSON list of texts with `{}` where the name goes.

    Returns:
        `tuple[str, ...]`: the templates.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is not JSON, has another layout, or a template without `{}`.
    """
    content = read_input_json(path, TEMPLATES)
    if not isinstance(content, list):
        raise ValueError(f"{path} holds {kind_of(content)}, not a list: pass a file with {TEMPLATES}.")
    return check_templates(content, str(path))


def check_descriptions(descriptions: Mapping[str, Sequence[str]], source: str = "`descriptions`") -> dict:
    """Check that each class has at least one text, and nothing but texts.

    Args:
        descriptions (`Mapping[str, Sequence[str]]`): lists of texts by class name.
        source (`str`): how an error names them: the argument or the file.

    Returns:
        `dict[str, list[str]]`: the same.

    Raises:
        ValueError: it is something else; the message names the class.

    Example:
    >>> check_descriptions({"cat": ["furry", ""]})
    Traceback (most recent call last):
    ValueError: `descriptions`: text 2 of 'cat' is blank. Fill it in or remove it.
    """
    if not isinstance(descriptions, Mapping):
        raise ValueError(f"{source} holds {kind_of(descriptions)}, not an object: pass {DESCRIPTIONS}.")
    if not descriptions:
        raise ValueError(f"{source} holds no class: pass {DESCRIPTIONS}.")
    by_name: dict[str, str] = {}
    for key, texts in descriptions.items():
        if not isinstance(key, str) or not display_name(key):
            raise ValueError(f"{source} has the class name {key!r}: give the class a name, or remove it.")
        first = by_name.setdefault(display_name(key), key)
        if first != key:
            raise ValueError(
                f"{source} has {first!r} and {key!r}, the same class name, as underscores count as spaces: merge them."
            )
        _check_texts(key, texts, source)
    return {key: list(texts) for key, texts in descriptions.items()}


def _check_texts(key: str, texts: Sequence[str], source: str) -> None:
    """Check the texts of one class."""
    if not isinstance(texts, list | tuple):
        hint = f"[{texts!r:.60}]" if isinstance(texts, str) else '["sentence", …]'
        raise ValueError(f"{source}: the value of {key!r} is {kind_of(texts)}, not a list of texts: write {hint}.")
    if not texts:
        raise ValueError(f"{source}: {key!r} has no text. Add one, or remove the class.")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise ValueError(f"{source}: text {number} of {key!r} is {kind_of(text)}. Write a text, or remove it.")
        if not text.strip():
            raise ValueError(f"{source}: text {number} of {key!r} is blank. Fill it in or remove it.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{source}: text {number} of {key!r} holds half a character (a lone surrogate): {text!a:.100}. Write "
                "the whole one."
            ) from None


def texts_of_labels(
    labels: Sequence[str],
    descriptions: Mapping[str, Sequence[str]] | None = None,
    method: str | Method = "wca",
    *,
    templates: Sequence[str] | None = None,
    anchor_template: str = DEFAULT_TEMPLATE,
    seed: int = 0,
) -> LabelTexts:
    """The texts that a method compares images with.

    Without descriptions `"wca"` weighs templates. What a method would not use is an error, never ignored.

    Args:
        labels (`Sequence[str]`): the labels, no two of the same name; see `label_lists.distinct_names`.
        descriptions (`Mapping[str, Sequence[str]]`, *optional*): texts by class name, of [`read_descriptions`].
            Underscores are spaces on both sides; nothing else is changed to find a label.
        method (`str` or [`Method`]): see `methods.METHODS`.
        templates (`Sequence[str]`, *optional*): texts with `{}` where the name goes; for `"template"` exactly one. By
            default "a photo of a {}.", and a short generic list for `"ensemble"`.
        anchor_template (`str`): of the text that the others are weighed by.
        seed (`int`): of the random texts of `"waffle"`.

    Returns:
        [`LabelTexts`]

    Raises:
        ValueError: labels that are empty or have one name twice; descriptions that are missing, lack a label, are
            damaged, or are not used by the method; templates likewise.

    Example:
    >>> texts_of_labels(["red_ball"], {"red ball": ["round", "no corners"]}, "dclip").texts
    (('red ball, which has round', 'red ball, which has no corners'),)
    >>> texts_of_labels(["cat"], {"Cat": ["It is furry."]})
    Traceback (most recent call last):
    ValueError: `descriptions` lack 1 of 1 label: 'cat' (but there is 'Cat'). Add it, or write names on both sides
        alike.
    """
    method = method_of(method)
    names = check_labels(labels)
    _check_used(method, descriptions, templates)
    (anchor_template,) = check_templates([anchor_template], "`anchor_template`")
    anchors = tuple(fill_template(anchor_template, name) for name in names)
    if method.texts == "random":
        return LabelTexts(names, anchors, tuple(waffle_texts(names, seed)))
    if descriptions is None:
        filled = _templates_of(method, templates)
        return LabelTexts(names, anchors, tuple(tuple(fill_template(one, name) for one in filled) for name in names))
    found, unused = _found(names, check_descriptions(descriptions))
    _warn_of_other_format(method, found)
    if method.texts == "phrases":
        found = [[dclip_text(name, phrase) for phrase in texts] for name, texts in zip(names, found, strict=True)]
    return LabelTexts(names, anchors, tuple(map(tuple, found)), unused)


def joined_phrases(descriptions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Put the names of classes before phrases of DCLIP, as `"wca"` takes descriptions as they stand.

    Args:
        descriptions (`Mapping[str, Sequence[str]]`): phrases by class name, of [`read_descriptions`].

    Returns:
        `dict[str, list[str]]`: texts by class name.

    Raises:
        ValueError: a class has no phrase, or something else than texts.

    Example:
    >>> joined_phrases({"red_ball": ["no corners", "often found on a lawn"]})
    {'red_ball': ['red ball, which has no corners', 'red ball, which often found on a lawn']}
    """
    checked = check_descriptions(descriptions)
    return {key: [dclip_text(display_name(key), phrase) for phrase in phrases] for key, phrases in checked.items()}


def _check_used(
    method: Method, descriptions: Mapping[str, Sequence[str]] | None, templates: Sequence[str] | None
) -> None:
    """Refuse what a method needs and lacks, and what it would not use."""
    if descriptions is None and method.needs_descriptions:
        raise ValueError(f"Method {method.name!r} needs `descriptions`: pass {DESCRIPTIONS}.")
    if descriptions is not None and not method.uses_descriptions:
        raise ValueError(f"Method {method.name!r} uses no `descriptions`: leave them out, or pass another method.")
    if templates is not None and not method.uses_templates:
        raise ValueError(f"Method {method.name!r} uses no `templates`: leave them out, or pass another method.")
    if templates is not None and descriptions is not None:
        raise ValueError("`templates` are for labels without `descriptions`: pass one of the two.")


def _templates_of(method: Method, templates: Sequence[str] | None) -> tuple[str, ...]:
    if templates is None:
        return (DEFAULT_TEMPLATE,) if method.texts == "template" else GENERIC_TEMPLATES
    checked = check_templates(templates)
    if method.texts == "template" and len(checked) > 1:
        raise ValueError(
            f"Method {method.name!r} has one template, got {len(checked)}: pass one, or the method 'ensemble'."
        )
    return checked


def _found(names: Sequence[str], descriptions: Mapping[str, list[str]]) -> tuple[list[list[str]], tuple[str, ...]]:
    """The texts of each name, and the class names that no label has."""
    by_name = {display_name(key): texts for key, texts in descriptions.items()}
    if missing := [name for name in names if name not in by_name]:
        first = ", ".join(_with_near(name, by_name) for name in missing[:NAMED_AT_MOST])
        more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
        of_all = f"{len(missing)} of {len(names)} label{'s' if len(names) > 1 else ''}"
        add = "it" if len(missing) == 1 else "them"
        raise ValueError(
            f"`descriptions` lack {of_all}: {first}{more}. Add {add}, or write names on both sides alike."
        )
    wanted = set(names)
    unused = tuple(key for key in descriptions if display_name(key) not in wanted)
    return [by_name[name] for name in names], unused


def _warn_of_other_format(method: Method, texts: Sequence[Sequence[str]]) -> None:
    """Warn where sentences would be joined to names as phrases are, or bare phrases taken for sentences.

    The two formats differ in nothing else, and a wrong one costs accuracy without an error.
    """
    flat = [text.strip() for of_label in texts for text in of_label]
    sentences = sum(text[0].isupper() and text.endswith(_SENTENCE_ENDS) for text in flat)
    if method.texts == "phrases" and 2 * sentences > len(flat):
        example = next(text for text in flat if text[0].isupper())
        warn_once(
            f"Method {method.name!r} puts names before short phrases, but {sentences} of {len(flat)} descriptions are "
            f"whole sentences such as {example!r:.80}: pass a file of DCLIP, or the method 'cupl'."
        )
    elif method.texts == "descriptions" and not any(text.endswith(_SENTENCE_ENDS) or "," in text for text in flat):
        warn_once(
            f"Method {method.name!r} takes descriptions as they stand, but none of {len(flat)} ends as a sentence "
            f"does ({flat[0]!r:.80}): if they are phrases of DCLIP, put names before them with "
            "`label_texts.joined_phrases`, or pass the method 'dclip'."
        )


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, however often texts are made of the same descriptions."""
    logger.warning(message)


def _with_near(name: str, others: Mapping[str, list[str]]) -> str:
    """A name that is missing, with the one that may be meant."""
    plain = _plain(name)
    near = next((other for other in others if _plain(other) == plain), None)
    if near is None:
        near = next(iter(difflib.get_close_matches(name, others, n=1, cutoff=0.8)), None)
    return f"{name!r}" if near is None else f"{name!r} (but there is {near!r})"


def _plain(name: str) -> str:
    """A name without what people write differently: case, spaces, hyphens and the like."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


__all__ = [
    "DESCRIPTIONS",
    "TEMPLATES",
    "LabelTexts",
    "check_descriptions",
    "joined_phrases",
    "read_descriptions",
    "read_templates",
    "texts_of_labels",
]
