"""Reads COCO-style annotation files: each image with its annotations."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from processing.ids import Id, id_of, other_form, record_fault
from processing.masks import compact_segmentation
from transformers_groma._text import RepeatedKey, parse_json, read_text
from transformers_groma.data.annotated_boxes import pixel_count
from transformers_groma.data.image_files import image_candidates, inside
from transformers_groma.data.left_out import LeftOut


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An entry of `images` with its annotations, as in the file.

    Args:
        image (`dict`): `id`, `file_name`, `width`, `height` and what else the file has.
        annotations (`list` of `dict`): in the order of the file; `bbox` is `xywh` in pixels and `segmentation`
            polygons or RLE, unchecked. Crowds are left out.
        crowds (`list` of `dict`): annotations of crowd regions.
        left_out (`list` of `LeftOut`): annotations of the image that cannot be read.
        fault (`LeftOut`, *optional*): why the image cannot be used.
    """

    image: dict[str, Any]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    crowds: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    fault: LeftOut | None = None

    @property
    def name(self) -> str:
        """The name of the image in a report."""
        return image_name(self.image)

    @property
    def image_id(self) -> str:
        """The id of the image in rows."""
        return str(id_of(self.image.get("id")))

    def check(self) -> tuple[int, int]:
        """Width and height of the image, see `check_image`."""
        return check_image(self.image, self.fault)


@dataclass(frozen=True, slots=True)
class CocoFile:
    """What a COCO-style JSON file holds.

    Args:
        images (`list` of `CocoImage`): in the order of the file; those without annotations too.
        categories (`dict` of `int` or `str` to `dict`): entries of `categories` by their id.
        ambiguous_categories (`set` of `int` or `str`): ids that two categories with different names share.
    """

    images: list[CocoImage]
    categories: dict[Id, dict[str, Any]]
    ambiguous_categories: set[Id] = field(default_factory=set)


def image_name(image: dict[str, Any]) -> str:
    """The name of an image in a report."""
    name = image.get("file_name")
    return name if isinstance(name, str) and name else str(image.get("id"))


def check_image(image: dict[str, Any], fault: LeftOut | None = None) -> tuple[int, int]:
    """Check the entry of an image.

    Args:
        image (`dict`): the entry.
        fault (`LeftOut`, *optional*): what is known to be wrong with it.

    Returns:
        `tuple[int, int]`: width and height in pixels, as annotated.

    Raises:
        SkipRecord: it cannot be used, or does not know its size.
    """
    if fault is not None:
        raise fault.of_record()
    return pixel_count(image.get("width"), "width"), pixel_count(image.get("height"), "height")


def load_coco_json(path: str | os.PathLike, masks: bool = False) -> CocoFile:
    """Read a COCO-style file: each image with its annotations. An id that two records share ties neither of them.

    Args:
        path (`str` or `Path`): a JSON file with `images`, `annotations` and perhaps `categories`.
        masks (`bool`): whether its segmentations are needed, which are most of the file.

    Returns:
        `CocoFile`: images with their annotations. Annotations of no image are left out and counted on stderr.

    Raises:
        ValueError: not JSON, or not COCO-style.
    """
    if masks:
        content = read_json(path, convert={"segmentation": compact_segmentation})
    else:
        content = read_json(path, drop=("segmentation",))
    return coco_file_of(content, path)


def coco_file_of(content: Any, path: str | os.PathLike) -> CocoFile:
    """What COCO-style content holds, see `load_coco_json`.

    Args:
        content: an object with lists `images`, `annotations` and perhaps `categories`, unchecked.
        path (`str` or `Path`): the file that it is from, for messages.

    Returns:
        `CocoFile`: images with their annotations.

    Raises:
        ValueError: not COCO-style.
    """
    images, annotations, categories = _lists_of(content, path)
    entries, by_id = _read_images(images)
    lost: Counter[str] = Counter()
    examples: dict[str, str] = {}
    seen: dict[Id, dict[str, Any]] = {}
    for number, annotation in enumerate(annotations):
        image_id = id_of(annotation.get("image_id")) if isinstance(annotation, dict) else None
        entry = by_id.get(image_id)
        if entry is None:
            reason = _no_image(annotation, image_id, by_id)
            lost[reason] += 1
            examples.setdefault(reason, f"annotation {_label(annotation, number)}")
        else:
            _add_annotation(entry, annotation, number, seen)
    for reason, count in lost.items():
        print(f"{path}: {count} {reason} are left out, for example {examples[reason]}", file=sys.stderr)
    return CocoFile(entries, *_read_categories(categories, path))


def load_coco_files(paths: Iterable[str | os.PathLike], masks: bool = False) -> list[CocoFile]:
    """Read several COCO-style files.

    An id counts within its own file. Where images of two files share one, a warning on stderr says so.

    Args:
        paths (iterable of `str` or `Path`): the files.
        masks (`bool`): whether their segmentations are needed.

    Returns:
        `list[CocoFile]`: in their order.

    Raises:
        ValueError: see `load_coco_json`.
    """
    files = [load_coco_json(path, masks) for path in paths]
    names: dict[Any, str] = {}
    shared: dict[Any, str] = {}
    for entry in (entry for file in files for entry in file.images if entry.fault is None):
        # The id that rows have; MDETR's files renumber captions, and keep it under another name.
        image = entry.image
        identity = id_of(image.get("original_id", image.get("original_img_id", image.get("id"))))
        if names.setdefault(identity, entry.name) != entry.name:
            shared.setdefault(identity, entry.name)
    if shared:
        identity, name = next(iter(shared.items()))
        print(
            f"{len(shared)} ids belong to different images, for example {identity!r} to {names[identity]} and "
            f"{name}: rows of both have this `image_id`. Write the files into datasets of their own.",
            file=sys.stderr,
        )
    return files


def _lists_of(content: Any, path: str | os.PathLike) -> tuple[list[Any], list[Any], list[Any]]:
    """The lists `images`, `annotations` and `categories` of a file."""
    error = f"{path} is not a COCO-style file"
    if isinstance(content, RepeatedKey):
        raise ValueError(f"{error}: it has the key {content.key!r} twice, so its value is ambiguous.")
    if not isinstance(content, dict):
        raise ValueError(
            f"{error}: it needs an object with lists `images` and `annotations`, not a {type(content).__name__}."
        )
    lists = []
    for name in ("images", "annotations", "categories"):
        entries = content.get(name, [] if name == "categories" else None)
        if entries is None and name == "categories":
            entries = []
        if not isinstance(entries, list) or (entries and not any(isinstance(entry, dict) for entry in entries)):
            found = f"it has no `{name}`" if name not in content else f"its `{name}` is not a list of objects"
            raise ValueError(f"{error}: {found}. It needs lists `images` and `annotations` of objects.")
        lists.append(entries)
    return tuple(lists)


def _read_images(images: Sequence[Any]) -> tuple[list[CocoImage], dict[Id, CocoImage]]:
    """Entries of images, and those of them that annotations may name by their id."""
    entries: list[CocoImage] = []
    positions: dict[Id, list[int]] = {}
    for number, image in enumerate(images):
        fault = record_fault(image, "image")
        identity = id_of(image.get("id")) if isinstance(image, dict) else None
        if fault is None and identity is None:
            fault = LeftOut("image without an id: a whole number or a text", f"image {number}: id {image.get('id')!r}")
        if identity is not None and any(entries[other].image == image for other in positions.get(identity, ())):
            fault = LeftOut("image is listed twice", f"id {identity}")
        elif identity is not None:
            positions.setdefault(identity, []).append(number)
        entries.append(CocoImage(image if isinstance(image, dict) else {}, fault=fault))
    for identity, numbers in positions.items():
        if len(numbers) > 1:
            names = ", ".join(entries[number].name for number in numbers[:3])
            for number in numbers:
                fault = LeftOut(
                    "several images share the same id: whose annotations are they?", f"id {identity}: {names}"
                )
                entries[number] = CocoImage(entries[number].image, fault=fault)
    return entries, {identity: entries[numbers[0]] for identity, numbers in positions.items()}


def _no_image(annotation: Any, image_id: Id | None, by_id: Collection[Id]) -> str:
    """Why an annotation has no image, in words to count by."""
    if not isinstance(annotation, dict):
        return "annotations that are not JSON objects"
    if image_id is None:
        return "annotations without an `image_id`"
    if other_form(image_id) in by_id:
        return "annotations whose `image_id` is a text and the image's id a number, or the other way round,"
    return "annotations of images that are not in the file"


def _add_annotation(entry: CocoImage, annotation: dict[str, Any], number: int, seen: dict[Id, dict[str, Any]]) -> None:
    """Add an annotation to its image: to its annotations, its crowds, or what is left out."""
    label = _label(annotation, number)
    fault = record_fault(annotation, "annotation")
    identity = id_of(annotation.get("id"))
    if fault is None and identity is not None:
        if seen.get(identity) == annotation:
            fault = LeftOut("annotation is listed twice", f"annotation {label}")
        seen.setdefault(identity, annotation)
    crowd = annotation.get("iscrowd")
    if fault is None and crowd not in _CROWD and crowd not in _NO_CROWD:
        fault = LeftOut("`iscrowd` of an annotation is neither false nor true", f"annotation {label}: {crowd!r}")
    if fault is not None:
        entry.left_out.append(fault)
    elif crowd in _CROWD:
        entry.crowds.append(annotation)
    else:
        entry.annotations.append(annotation)


# True is 1, and tables export both as text.
_CROWD = (1, "1", "true", "True")
_NO_CROWD = (None, 0, "0", "", "false", "False")


def _label(annotation: Any, number: int) -> str:
    """The name of an annotation in an example: its position in the file and its ids."""
    if not isinstance(annotation, dict):
        return f"at position {number}: {annotation!r}"[:100]
    return f"at position {number} (id {annotation.get('id')!r}, image_id {annotation.get('image_id')!r})"


def _read_categories(categories: Sequence[Any], path: str | os.PathLike) -> tuple[dict[Id, dict[str, Any]], set[Id]]:
    """Categories by their id, and the ids that two of them share."""
    by_id: dict[Id, dict[str, Any]] = {}
    ambiguous: set[Id] = set()
    for category in categories:
        identity = None if record_fault(category, "category") else id_of(category.get("id"))
        if identity is None:
            print(f"{path}: a category without an `id` is left out: {category!r}", file=sys.stderr)
        elif by_id.setdefault(identity, category).get("name") != category.get("name"):
            ambiguous.add(identity)
    return by_id, ambiguous


def one_entry_per_image(entries: Sequence[CocoImage], path: str | os.PathLike) -> list[CocoImage]:
    """Join entries of the same image.

    Tables with a line per box become files with an entry per box. As images of their own, each would say that there is
    nothing where the others have their boxes.

    Args:
        entries (`Sequence[CocoImage]`): of a file that should have one entry for each image.
        path (`str` or `Path`): the file, for the message on stderr.

    Returns:
        `list[CocoImage]`: in the order of the first of each; they keep its id.
    """
    by_name: dict[tuple[Any, ...], list[CocoImage]] = {}
    for number, entry in enumerate(entries):
        name = entry.image.get("file_name") or entry.image.get("coco_url")
        is_good = entry.fault is None and isinstance(name, str)
        # Entries that disagree about the size stay separate: the image file shows which one is wrong.
        size = str(entry.image.get("width")), str(entry.image.get("height"))
        by_name.setdefault((PurePosixPath(name).as_posix(), *size) if is_good else (number,), []).append(entry)
    several = [group for group in by_name.values() if len(group) > 1]
    if several:
        ids = " and ".join(group.image_id for group in several[0][:3])
        print(
            f"{path}: {len(several)} images have several entries, for example {several[0][0].name} the ids {ids}: "
            "their annotations are put together",
            file=sys.stderr,
        )
    return [group[0] if len(group) == 1 else _put_together(group) for group in by_name.values()]


def _put_together(group: Sequence[CocoImage]) -> CocoImage:
    """One entry with the annotations of several, each annotation once."""
    first = group[0]
    image = dict(first.image)
    for name in ("not_exhaustive_category_ids", "neg_category_ids"):
        if any(isinstance(entry.image.get(name), list) for entry in group):
            image[name] = [identity for entry in group for identity in entry.image.get(name) or ()]
    together = CocoImage(image)
    seen: list[tuple[Any, Any, Any]] = []
    for entry in group:
        together.crowds.extend(entry.crowds)
        together.left_out.extend(entry.left_out)
        for annotation in entry.annotations:
            known = (annotation.get("bbox"), annotation.get("category_id"), annotation.get("caption"))
            if known in seen:
                together.left_out.append(LeftOut("annotation is listed twice", f"annotation {annotation.get('id')!r}"))
            else:
                seen.append(known)
                together.annotations.append(annotation)
    return together


def find_image(folder: Path, file_name: str) -> Path:
    """Find an image: archives unpack with more or fewer folders than the annotations name.

    Args:
        folder (`Path`): the folder of all images.
        file_name (`str`): as the annotations call it, with any number of folders in front.

    Returns:
        `Path`: the first that exists of `folder / file_name` and the same with fewer and fewer of the folders in
        front; if none does, `folder / file_name`.

    Raises:
        SkipRecord: not a file name, or one that leads out of the folder, see `image_path`.
    """
    candidates = []
    for path in image_candidates(folder, file_name):
        parts = PurePosixPath(path.relative_to(folder)).parts
        candidates += [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    for exists in (Path.is_file, Path.exists):
        if found := next(filter(exists, candidates), None):
            return inside(folder, found)
    return candidates[0]


def read_json(
    path: str | os.PathLike, drop: Collection[str] = (), convert: Mapping[str, Callable[[Any], Any]] | None = None
) -> Any:
    """Read a JSON file: in UTF-8 or as its byte order mark says, perhaps compressed by gzip.

    Args:
        path (`str` or `Path`): the file.
        drop (`Collection[str]`): keys of objects that are not needed.
        convert (`Mapping`, *optional*): by key, what makes its value smaller.

    Returns:
        Its content. An object with a key twice is a `RepeatedKey`.

    Raises:
        ValueError: not JSON, or not UTF-8; the message names the file.
    """
    text = read_text(path)
    try:
        return parse_json(text, drop, convert)
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file ({error}).") from error
