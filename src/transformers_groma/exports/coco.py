"""Exports to COCO: `annotations/instances_default.json`, and beside it captions and results if they are wanted.

CVAT takes the folder as an archive, FiftyOne, Roboflow, pycocotools and supervision take the file.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..coco_format import coco_annotations, coco_categories
from .json_lists import JsonList, write_object
from .labels import Labels
from .records import ImageRecord

# Archives of CVAT need names like these.
INSTANCES, CAPTIONS, RESULTS = (f"annotations/{kind}_default.json" for kind in ("instances", "captions", "results"))

_OF_RESULTS = ("image_id", "category_id", "bbox", "score", "segmentation")


@dataclass(frozen=True)
class CocoOptions:
    """What is written.

    Args:
        polygons (`bool`): whether masks are polygons instead of RLE.
        captions (`bool`): whether captions are written, as COCO's captions.
        results (`bool`): whether a list of results is written, as `loadRes` of pycocotools takes it.
        keep_image_ids (`bool`): whether images keep their ids, which have to be whole numbers; without it they are
            numbered from 1.
    """

    polygons: bool = False
    captions: bool = False
    results: bool = False
    keep_image_ids: bool = False


def write_coco(
    images: Iterable[ImageRecord],
    folder: Path,
    labels: Labels,
    options: CocoOptions,
) -> None:
    """Write checked images as COCO files.

    Args:
        images (`Iterable[ImageRecord]`): of [`placed_images`][transformers_groma.exports.image_files].
        folder (`Path`): where to.
        labels (`Labels`): numbers of the categories.
        options (`CocoOptions`): which files, and how.

    Raises:
        ValueError: ids are to be kept, and one is not a whole number or comes twice.
    """
    (folder / "annotations").mkdir()
    names = ["images", "annotations", *(["captions"] if options.captions else [])]
    parts = {name: JsonList(folder / f".{name}.json") for name in names}
    if options.results:
        parts["results"] = JsonList(folder / RESULTS)
    ids = _ImageIds(options.keep_image_ids)
    with ExitStack() as stack:
        for part in parts.values():
            stack.enter_context(part)
        for record in images:
            identity = ids.of(record)
            size = {"width": record.width, "height": record.height}
            parts["images"].add({"id": identity, "file_name": record.file_name, **size})
            for entry in coco_annotations(record.objects, identity, labels.numbers, options.polygons):
                parts["annotations"].add({"id": parts["annotations"].count + 1, **entry})
                if options.results and "score" in entry:
                    parts["results"].add({name: entry[name] for name in _OF_RESULTS if name in entry})
            if options.captions:
                for caption in record.captions:
                    number = parts["captions"].count + 1
                    parts["captions"].add({"id": number, "image_id": identity, "caption": caption})
    head: dict[str, Any] = {
        "info": {"description": "Exported by transformers-groma", "version": "1.0"},
        "licenses": [],
        "images": parts["images"],
    }
    annotations = {"annotations": parts["annotations"], "categories": coco_categories(labels.numbers)}
    write_object(folder / INSTANCES, {**head, **annotations})
    if options.captions:
        write_object(folder / CAPTIONS, {**head, "annotations": parts["captions"]})
    for name in ("images", "annotations", "captions"):
        if name in parts:
            parts[name].path.unlink()


class _ImageIds:
    """Ids of images: from 1, or those of the source."""

    def __init__(self, keep: bool) -> None:
        self.keep, self.count = keep, 0
        self.seen: set[int] = set()

    def of(self, record: ImageRecord) -> int:
        self.count += 1
        if not self.keep:
            return self.count
        if not (record.image_id.isascii() and record.image_id.isdecimal()):
            raise ValueError(
                f"--keep-image-ids needs ids that are whole numbers, but {record.file_name} has the id "
                f"{record.image_id!r}."
            )
        identity = int(record.image_id)
        if identity in self.seen:
            raise ValueError(f"--keep-image-ids needs ids that come once, but two images have the id {identity}.")
        self.seen.add(identity)
        return identity


__all__ = ["CAPTIONS", "INSTANCES", "RESULTS", "CocoOptions", "write_coco"]
