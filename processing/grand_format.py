"""Reads GranD's annotation of an image: objects, captions whose phrases name objects, extra context."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from processing.ids import Id, id_of, record_fault
from processing.rows import category_name
from transformers_groma.data.left_out import LeftOut, SkipRecord

# What the language models that wrote attributes said before them, cut off in places: "istant: a red chair".
_SPEAKER = re.compile(r"^\s*(?:a?s?s?i)?stant\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GrandObject:
    """An object of an image.

    Args:
        identity (`int` or `str`, *optional*): what captions call it by.
        bbox (4 numbers): `xyxy` in pixels, unchecked.
        segmentation: RLE, unchecked; `None` for an object without a mask.
        labels (`tuple` of `str`): names of its kind, in words.
        attributes (`tuple` of `str`): phrases about it.
    """

    identity: Id | None
    bbox: Any
    segmentation: Any
    labels: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the object in a report."""
        return f"object {self.identity!r}"


@dataclass(frozen=True, slots=True)
class GrandCaption:
    """A caption and its phrases.

    Args:
        text (`str`): the caption, unchecked.
        phrases (`tuple`): for each its words, its place in the caption (`[start, end]`) if the file knows one, and
            the ids of its objects; unchecked.
    """

    text: Any
    phrases: tuple[tuple[Any, Any, tuple[Any, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class GrandImage:
    """What GranD tells about an image.

    Args:
        file_name (`str`): of the image.
        objects (`list` of `GrandObject`): those of the scene, then the floating ones.
        captions (`list` of `GrandCaption`): the short captions.
        dense_caption (`GrandCaption`, *optional*): the long one.
        context (`str`, *optional*): what cannot be seen, unchecked.
        left_out (`list` of `LeftOut`): objects and captions that cannot be read.
    """

    file_name: str
    objects: list[GrandObject]
    captions: list[GrandCaption]
    dense_caption: GrandCaption | None
    context: Any
    left_out: list[LeftOut]

    def by_id(self) -> dict[Id, list[GrandObject]]:
        """The objects that phrases may name; released files have ids that several objects share."""
        found: dict[Id, list[GrandObject]] = {}
        for one in self.objects:
            if one.identity is not None:
                found.setdefault(one.identity, []).append(one)
        return found


def read_grand_image(content: Any) -> GrandImage:
    """Read the annotation of an image.

    Files of all levels of GranD are read: those before the third have captions (`captions`) whose phrases are in
    `relationships`, later ones `short_captions` with `details` and a `dense_caption`, the last `additional_context`.

    Args:
        content: of a JSON file, unchecked: an object with the name of the image as its one key.

    Returns:
        `GrandImage`: what it holds.

    Raises:
        SkipRecord: another layout, or the same name twice.

    Example:
    >>> content = {"a.jpg": {"objects": [{"id": 3, "bbox": [0, 0, 9, 9], "attributes": "istant: a dog"}]}}
    >>> image = read_grand_image(content)
    >>> image.file_name, image.objects[0].identity, image.objects[0].attributes
    ('a.jpg', 3, ('a dog',))
    """
    if fault := record_fault(content, "annotation file"):
        raise fault.of_record()
    if len(content) != 1 or not isinstance(next(iter(content.values())), Mapping):
        raise SkipRecord("not GranD's layout: an object with the image's name as its one key", repr(content)[:100])
    ((file_name, image),) = content.items()
    if fault := record_fault(image, "annotation of the image"):
        raise fault.of_record()
    if not isinstance(image.get("objects"), list):
        raise SkipRecord("annotation of the image has no list `objects`", repr(list(image))[:100])
    left_out: list[LeftOut] = []
    objects = [
        *_objects(image["objects"], "object", left_out),
        *_objects(image.get("floating_objects"), "floating object", left_out),
    ]
    groundings = _groundings(image.get("relationships"), left_out)
    captions = _captions(image, groundings, left_out)
    dense = image.get("dense_caption")
    dense = None if dense is None else _caption(dense, "ids", {}, left_out)
    return GrandImage(file_name, objects, captions, dense, image.get("additional_context"), left_out)


def _list_of(value: Any, what: str, left_out: list[LeftOut]) -> list[Any]:
    """A list of JSON objects; everything else is left out."""
    if value is None:
        return []
    if not isinstance(value, list):
        left_out.append(LeftOut(f"`{what}` is not a list", repr(value)[:100]))
        return []
    kept = []
    for entry in value:
        fault = record_fault(entry, f"entry of `{what}`")
        if fault is None:
            kept.append(entry)
        else:
            left_out.append(fault)
    return kept


def _objects(value: Any, what: str, left_out: list[LeftOut]) -> list[GrandObject]:
    return [
        GrandObject(
            id_of(entry.get("id")),
            entry.get("bbox"),
            entry.get("segmentation"),
            tuple(category_name(label) for label in _texts(entry.get("labels"))),
            tuple(filter(None, (without_speaker(text) for text in _texts(entry.get("attributes"))))),
        )
        for entry in _list_of(value, f"{what.replace(' ', '_')}s", left_out)
    ]


def _texts(value: Any) -> list[str]:
    """The texts of a list, or a single text as a list of one."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def without_speaker(text: str) -> str:
    """An attribute without the name of its speaker.

    Args:
        text (`str`): as GranD has it.

    Returns:
        `str`: the attribute.

    Example:
    >>> without_speaker("Assistant: a clear blue sky"), without_speaker("istant: red awning"), without_speaker("a 1:2")
    ('a clear blue sky', 'red awning', 'a 1:2')
    """
    return _SPEAKER.sub("", text).strip()


def _groundings(value: Any, left_out: list[LeftOut]) -> dict[str, tuple[Any, ...]]:
    """The objects of phrases, by the phrase."""
    if value is None:
        return {}
    if fault := record_fault(value, "`relationships`"):
        left_out.append(fault)
        return {}
    groundings: dict[str, tuple[Any, ...]] = {}
    for entry in _list_of(value.get("grounding"), "grounding", left_out):
        phrase, ids = entry.get("phrase"), entry.get("object_ids")
        if isinstance(phrase, str) and isinstance(ids, list):
            groundings[phrase] = tuple(dict.fromkeys([*groundings.get(phrase, ()), *map(_hashable, ids)]))
        else:
            left_out.append(LeftOut("grounding without a phrase or `object_ids`", repr(entry)[:100]))
    return groundings


def _hashable(value: Any) -> Any:
    """An id; anything else as it is written."""
    identity = id_of(value)
    return repr(value) if identity is None else identity


def _captions(
    image: Mapping[str, Any], groundings: Mapping[str, tuple[Any, ...]], left_out: list[LeftOut]
) -> list[GrandCaption]:
    """The short captions, of the layout that the file has."""
    if "short_captions" in image:
        entries = _list_of(image["short_captions"], "short_captions", left_out)
        return [_caption(entry, "id", groundings, left_out) for entry in entries]
    captions = image.get("captions")
    if captions is not None and not isinstance(captions, list):
        left_out.append(LeftOut("`captions` is not a list", repr(captions)[:100]))
        return []
    read = []
    for text in captions or []:
        lower = text.lower() if isinstance(text, str) else ""
        phrases = [(phrase, None, ids) for phrase, ids in groundings.items() if phrase.strip().lower() in lower]
        read.append(GrandCaption(text, tuple(phrases)))
    return read


def _caption(
    entry: Any, key: str, groundings: Mapping[str, tuple[Any, ...]], left_out: list[LeftOut]
) -> GrandCaption | None:
    """A caption with `details`, whose objects are under `key`.

    Details of a short caption name the first object of a phrase, and `relationships` all of them.
    """
    if fault := record_fault(entry, "caption"):
        left_out.append(fault)
        return GrandCaption(None)
    phrases = []
    for detail in _list_of(entry.get("details"), "details", left_out):
        phrase, ids = detail.get("phrase"), detail.get(key)
        ids = tuple(map(_hashable, ids)) if isinstance(ids, list) else (_hashable(ids),)
        if isinstance(phrase, str) and set(ids) <= set(groundings.get(phrase, ())):
            ids = groundings[phrase]
        phrases.append((phrase, detail.get("tokens_positive"), ids))
    return GrandCaption(entry.get("caption"), tuple(phrases))
