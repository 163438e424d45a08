"""OpenImages boxes to detection rows. Labels are dropped; boxes around groups (`IsGroupOf`) count as crowd regions.

Get `oidv6-train-annotations-bbox.csv` (for validation: `validation-annotations-bbox.csv`) and the images
`IMAGEID.jpg` from https://storage.googleapis.com/openimages/web/download_v7.html, all in one folder.

python -m processing.openimages --images openimages/train \\
    --annotations openimages/oidv6-train-annotations-bbox.csv --output data/openimages --shards 512 --engine ray

An object with several labels has the same box several times; it is written once. Images that their EXIF data turn
are skipped unless `--boxes-of` says which pixels the boxes were drawn on: the annotations do not.
"""

import csv
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from processing.boxes import Box, usable_boxes
from processing.common import run_script, script_parser
from transformers_groma.data.image_files import (
    BoxesOf,
    image_path,
    orientation_of_boxes,
    read_image_bytes,
    stored_size,
    turned_boxes,
    upright_size,
)
from transformers_groma.data.left_out import LeftOut, SkipRecord

CORNERS = ("XMin", "YMin", "XMax", "YMax")


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image and its boxes, those of groups apart.

    Boxes are `xyxy` in 0..1, in one flat array: there are 14 million of them.
    """

    image_id: str
    corners: array
    groups: array


def load_records(annotations: Sequence[Path]) -> list[AnnotatedImage]:
    """One record per image that has boxes, in the order of the files."""
    images: dict[str, AnnotatedImage] = {}
    for path in annotations:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                _read_table(file, path, images)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 ({error}). Save it as UTF-8, for example with `iconv -f latin1 -t utf-8`."
            ) from None
        except csv.Error as error:
            raise ValueError(f"{path} is not a table of OpenImages boxes: {error}.") from error
    return list(images.values())


def _read_table(file: TextIO, path: Path, images: dict[str, AnnotatedImage]) -> None:
    """Add the boxes of a table to their images."""
    reader = csv.DictReader(file)
    missing = {"ImageID", "IsGroupOf", *CORNERS} - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"{path} is not a table of OpenImages boxes: no column {', '.join(sorted(missing))}.")
    for line in reader:
        name = line["ImageID"] or ""
        if name not in images:
            images[name] = AnnotatedImage(name, array("d"), array("d"))
        image = images[name]
        corners = image.groups if line["IsGroupOf"] == "1" else image.corners
        corners.extend(_number(line[corner]) for corner in CORNERS)


def convert(
    record: AnnotatedImage, images: Path, boxes_of: BoxesOf | None = None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The detection row of one image.

    Args:
        record (`AnnotatedImage`): its boxes are `xyxy` corners in 0..1.
        images (`Path`): folder of the images.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a detection row; boxes `xyxy` in pixels, each once. `LeftOut`: why a box is not in it.

    Raises:
        SkipRecord: no box, no image, or one that EXIF data turn.
    """
    if not record.corners:
        raise SkipRecord("no boxes")
    if not record.image_id:
        raise SkipRecord("boxes without an `ImageID`")
    path = image_path(images, f"{record.image_id}.jpg")
    content = read_image_bytes(path)
    orientation = orientation_of_boxes(content, boxes_of=boxes_of)
    size = stored_size(content) if orientation != 1 else upright_size(content)
    boxes, left_out = _pixels(record.corners, *size)
    groups, groups_left_out = _pixels(record.groups, *size)
    yield from (*left_out, *groups_left_out)
    if not boxes:
        raise SkipRecord("no boxes")
    yield {
        "image": {"bytes": content, "path": path.name},
        "image_id": record.image_id,
        "boxes_xyxy": turned_boxes(boxes, orientation, *stored_size(content)),
        "source": "coco",
        "crowd_boxes_xyxy": turned_boxes(groups, orientation, *stored_size(content)),
    }


def _pixels(corners: array, width: int, height: int) -> tuple[list[Box], list[LeftOut]]:
    """`xyxy` boxes in pixels, each once, from flat corners x1, y1, x2, y2 in 0..1; and why others are left out."""
    fractions = list(dict.fromkeys(zip(*[iter(corners)] * 4)))
    # Rounding may lead a little out of the image; what is far out was never a fraction.
    wrong = [box for box in fractions if min(box) < -0.5 or max(box) > 1.5]
    left_out = [LeftOut("box is not in fractions of the image", f"{box}") for box in wrong]
    right = [box for box in fractions if box not in wrong]
    pixels = [(x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in right]
    boxes, _, more_left_out = usable_boxes(pixels, width, height, "xyxy")
    return boxes, [*left_out, *more_left_out]


def _number(text: str | None) -> float:
    """A field as a number; NaN where it is none, which spoils its box but not the job."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    args = script_parser(__doc__).parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations),
        partial(convert, images=args.images, boxes_of=args.boxes_of),
        schema="detection",
        record_name=lambda record: f"{record.image_id}.jpg",
    )


if __name__ == "__main__":
    sys.exit(main())
