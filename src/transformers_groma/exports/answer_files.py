"""Reads answers and regions that commands, the app and scripts wrote as JSON (`to_dict`) as records of images."""

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._text import parse_json, read_text, split_lines
from ..data.left_out import LeftOut
from ..labelled_objects import UNLABELLED, LabelledObject
from .annotation_rows import NO_REGION, UNNAMED
from .records import ImageRecord


class KnownImage(NamedTuple):
    """The image of answers that do not say it themselves.

    Args:
        name (`str`): its path.
        height, width (`int`): size of the upright image in pixels.
    """

    name: str
    height: int
    width: int


def answer_paths(source: Path) -> list[Path]:
    """The JSON files of a source.

    Args:
        source (`Path`): a file, or a folder with files, also in folders below it.

    Returns:
        `list[Path]`: sorted, hidden files left out.
    """
    if source.is_file():
        return [source]
    found = (path for kind in ("*.json", "*.jsonl") for path in source.rglob(kind))
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(source).parts))


def answer_records(paths: Sequence[Path], all_regions: bool, image: KnownImage | None) -> Iterator[ImageRecord]:
    """The images that answers are about.

    Args:
        paths (`Sequence[Path]`): JSON files with one answer or a list, JSON-lines files with one a line.
        all_regions (`bool`): whether regions that no phrase names are objects, too.
        image (`KnownImage`, *optional*): the image of answers that do not say it.

    Yields:
        `ImageRecord`: one for each answer.

    Raises:
        ValueError: a file is not JSON or something else than answers, or the size of an image is not known.
    """
    for path in paths:
        for name, content in _answers(path):
            yield _record(content, name, all_regions, image)


def _answers(path: Path) -> Iterator[tuple[str, Any]]:
    text = read_text(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(split_lines(text), start=1):
            if line.strip():
                yield f"{path}, line {number}", _parsed(line, f"{path}, line {number}")
        return
    content = _parsed(text, str(path))
    if isinstance(content, list):
        yield from ((f"{path}, entry {number}", entry) for number, entry in enumerate(content, start=1))
    else:
        yield str(path), content


def _parsed(text: str, name: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name} is not JSON ({error}).") from error


def _record(content: Any, name: str, all_regions: bool, image: KnownImage | None) -> ImageRecord:
    if not isinstance(content, Mapping) or not isinstance(content.get("regions"), list):
        raise ValueError(
            f"{name} is not an answer: it needs an object with `regions`, as `groma caption --output` and `to_dict` "
            "write it."
        )
    regions = [_region(region, f"{name}, region {number}") for number, region in enumerate(content["regions"])]
    phrases = content.get("phrases")
    if phrases is not None and not isinstance(phrases, list):
        raise ValueError(f"{name}: `phrases` must be a list, got {reprlib.repr(phrases)}.")
    left_out: list[LeftOut] = []
    if phrases is None:  # regions alone, of `groma propose` and `groma segment`
        objects = [_object(region, " ".join(str(region.get("label") or "").split())) for region in regions]
    else:
        region_of = {region.get("id"): region for region in regions}
        named: dict[tuple[str, Any], None] = {}
        for number, phrase in enumerate(phrases):
            text, ids = _phrase(phrase, region_of, f"{name}, phrase {number}")
            named |= dict.fromkeys((text, identity) for identity in ids)
            if not ids:
                left_out.append(LeftOut(NO_REGION.reason, repr(text)))
        objects = [_object(region_of[identity], text) for text, identity in named]
        known = {identity for _, identity in named}
        others = [region for region in regions if region.get("id") not in known]
        if all_regions:
            objects += [_object(region, "") for region in others]
        else:
            left_out += [LeftOut(UNNAMED.reason, f"region {region.get('id')}") for region in others]
    source_name, height, width = _image_of(content, regions, name, image)
    text = content.get("text")
    return ImageRecord(
        image_id=source_name,
        source_name=source_name,
        height=height,
        width=width,
        objects=tuple(objects),
        captions=(text,) if isinstance(text, str) and text.strip() and phrases is not None else (),
        left_out=tuple(left_out),
    )


def _region(region: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(region, Mapping) or "box_xyxy" not in region:
        raise ValueError(f"{name} is not a region: it needs `box_xyxy`, got {reprlib.repr(region)}.")
    if not isinstance(region.get("id"), int | str | None):
        raise ValueError(f"{name}: `id` must be a number, got {reprlib.repr(region['id'])}.")
    return region


def _phrase(phrase: Any, region_of: Mapping[Any, Any], name: str) -> tuple[str, list[Any]]:
    ids = phrase.get("region_ids") if isinstance(phrase, Mapping) else None
    if not isinstance(ids, list) or not isinstance(phrase.get("text"), str):
        raise ValueError(f"{name} is not a phrase: it needs `text` and `region_ids`, got {reprlib.repr(phrase)}.")
    if unknown := [identity for identity in ids if not isinstance(identity, int | str) or identity not in region_of]:
        raise ValueError(f"{name} names the regions {unknown}, which are not among `regions`.")
    return " ".join(phrase["text"].split()), ids


def _object(region: Mapping[str, Any], label: str) -> LabelledObject:
    score = region.get("score")
    is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
    return LabelledObject(
        region["box_xyxy"], label or UNLABELLED, float(score) if is_number else None, region.get("mask")
    )


def _image_of(
    content: Mapping[str, Any], regions: Sequence[Mapping[str, Any]], name: str, image: KnownImage | None
) -> KnownImage:
    """What an answer says about its image, else what the caller knows."""
    said = content.get("image")
    if isinstance(said, Mapping):
        try:
            known = KnownImage(str(said["name"]), int(said["height"]), int(said["width"]))
        except (KeyError, TypeError, ValueError):
            known = KnownImage("", 0, 0)
        if not known.name or known.height < 1 or known.width < 1:
            raise ValueError(f"{name}: `image` must have name, width and height, got {reprlib.repr(dict(said))}.")
        if image is not None:
            raise ValueError(f"{name} says that it is about {known.name}: leave --image out.")
        return known
    if image is None:
        raise ValueError(
            f"{name} does not say which image it is about, and how large that is: pass the image as --image, or write "
            "the answer again with --output."
        )
    return image


__all__ = ["KnownImage", "answer_paths", "answer_records"]
