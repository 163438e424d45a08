"""Exports to YOLO: `data.yaml`, a file in `labels/` for each image, and the images in `images/`.

A label file has no place for scores, phrases and regions around many objects. A mask is one polygon: its parts are
joined by lines without width.
"""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..yolo_format import yolo_lines
from .labels import Labels
from .records import ImageRecord

DATA = "data.yaml"


def write_yolo(
    images: Iterable[ImageRecord],
    folder: Path,
    labels: Labels,
) -> None:
    """Write checked images as YOLO label files; an image without objects has an empty one.

    Args:
        images (`Iterable[ImageRecord]`): of [`placed_images`][transformers_groma.exports.image_files].
        folder (`Path`): where to.
        labels (`Labels`): names of the classes.

    Raises:
        ValueError: two images would have one label file.
    """
    (folder / "labels").mkdir()
    (folder / "images").mkdir()
    for record in images:
        path = folder / "labels" / PurePosixPath(record.file_name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = yolo_lines(record.objects, record.height, record.width, labels.classes)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        except FileExistsError:
            raise ValueError(
                f"{record.file_name} and another image would both have the label file "
                f"{path.relative_to(folder).as_posix()}: give them names that differ without the ending."
            ) from None
    names = [f"  {number}: {json.dumps(label, ensure_ascii=False)}\n" for label, number in labels.classes.items()]
    text = (
        "# Paths are relative to this file. To train, export images to validate on, too: their folder is `val`.\n"
        "train: images\n"
        f"nc: {len(names)}\n"
        f"names:\n{''.join(names)}"
    )
    (folder / DATA).write_text(text, encoding="utf-8")


__all__ = ["DATA", "write_yolo"]
