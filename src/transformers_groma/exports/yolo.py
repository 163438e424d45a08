"""Exports to YOLO: `data.yaml`, a file in `labels/` for each image, and the images in `images/`.

A label file has no place for scores, phrases and regions around many objects. A mask is one polygon: its parts are
joined by lines without width.
"""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..data.left_out import SkipRecord
from ..data.write_report import WriteReport
from ..yolo_format import yolo_lines
from .image_files import ImageFolder
from .labels import Labels
from .records import ImageRecord

DATA = "data.yaml"


def write_yolo(
    images: Iterable[ImageRecord],
    folder: Path,
    labels: Labels,
    image_folder: ImageFolder,
    report: WriteReport,
) -> None:
    """Write checked images as YOLO label files; an image without objects has an empty one.

    Args:
        images (`Iterable[ImageRecord]`): of [`checked_images`][transformers_groma.exports.checked_images].
        folder (`Path`): where to.
        labels (`Labels`): names of the classes.
        image_folder (`ImageFolder`): where images go.
        report (`WriteReport`): counts the images.

    Raises:
        ValueError: two images would have one label file.
    """
    (folder / "labels").mkdir()
    (folder / "images").mkdir()
    for record in images:
        try:
            image_folder.place(record)
        except SkipRecord as skip:
            report.skip(record.file_name, skip.reason, skip.detail)
            continue
        report.rows += 1
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
