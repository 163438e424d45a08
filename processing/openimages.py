"""OpenImages boxes to detection rows. Labels are dropped, and so are boxes around groups (`IsGroupOf`).

Get `oidv6-train-annotations-bbox.csv` (for validation: `validation-annotations-bbox.csv`) and the pictures
`IMAGEID.jpg` from https://storage.googleapis.com/openimages/web/download_v7.html, all in one folder.

python -m processing.openimages --images openimages/train \\
    --annotations openimages/oidv6-train-annotations-bbox.csv --output data/openimages --shards 512 --engine ray

An object with several labels has the same box several times; it is written once. Pictures that their EXIF data turn are
skipped: the annotations do not say whether they were made for the turned picture.
"""

import csv
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processing.coco_format import clip_xyxy
from processing.common import run_script, script_parser
from transformers_groma.data.shards import SkipRecord, exif_orientation, read_image_bytes, upright_size

CORNERS = ("XMin", "YMin", "XMax", "YMax")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and its boxes: `xyxy` corners in 0..1 in one flat array, as there are 14 million."""

    path: Path
    corners: array


def load_records(annotations: Sequence[Path], images: Path) -> list[Picture]:
    """One record a picture that has boxes, in the order of the files."""
    pictures: dict[str, Picture] = {}
    for path in annotations:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = {"ImageID", "IsGroupOf", *CORNERS} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"{path} is not a table of OpenImages boxes: no column {', '.join(sorted(missing))}.")
            for line in reader:
                name = line["ImageID"]
                if name not in pictures:
                    pictures[name] = Picture(images / f"{name}.jpg", array("d"))
                if line["IsGroupOf"] != "1":
                    pictures[name].corners.extend(_number(line[corner]) for corner in CORNERS)
    return list(pictures.values())


def convert(record: Picture) -> Iterator[dict[str, Any]]:
    """The detection row of one picture.

    Args:
        record (`Picture`): its boxes are `xyxy` corners in 0..1.

    Yields:
        `dict`: a detection row; boxes `xyxy` in pixels, each once.

    Raises:
        SkipRecord: no box, no picture, or one that EXIF data turn.
        ValueError: a corner is not a number.
    """
    if not record.corners:
        raise SkipRecord("no boxes")
    content = read_image_bytes(record.path)
    if exif_orientation(content) != 1:
        raise SkipRecord("picture is turned by its EXIF data")
    width, height = upright_size(content)
    boxes = list(dict.fromkeys(zip(*[iter(record.corners)] * 4)))
    pixels = [(x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in boxes]
    clipped, _ = clip_xyxy(pixels, width, height)
    if not clipped:
        raise SkipRecord("no boxes")
    yield {
        "image": {"bytes": content, "path": record.path.name},
        "image_id": record.path.stem,
        "boxes_xyxy": clipped,
        "source": "coco",
    }


def _number(text: str | None) -> float:
    """A field that is no number spoils its picture, not the job: `convert` refuses NaN."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    args = script_parser(__doc__).parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations, args.images),
        convert,
        schema="detection",
        record_name=lambda record: record.path.name,
    )


if __name__ == "__main__":
    sys.exit(main())
