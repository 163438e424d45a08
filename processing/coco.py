"""COCO instances to detection rows. Categories and crowds are dropped.

Get `train2017.zip`, `val2017.zip` and `annotations_trainval2017.zip` from https://cocodataset.org/#download and unpack
them. Other files in the COCO format fit as well.

python -m processing.coco --images coco/train2017 --annotations coco/annotations/instances_train2017.json \\
    --output data/coco --shards 32
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processing.coco_format import CocoImage, detection_row, find_picture, load_coco_json
from processing.common import run_script, script_parser


@dataclass(frozen=True, slots=True)
class Picture:
    """What is annotated on a picture, and the folder that it lies in or below."""

    entry: CocoImage
    folder: Path


def load_records(annotations: Sequence[Path], images: Path) -> list[Picture]:
    """One record a picture, in the order of the files."""
    return [Picture(entry, images) for path in annotations for entry in load_coco_json(path).images]


def convert(record: Picture) -> Iterator[dict[str, Any]]:
    """The detection row of one picture; boxes `xyxy` in pixels."""
    yield detection_row(record.entry, find_picture(record.folder, record.entry.image["file_name"]))


def main(argv: Sequence[str] | None = None, description: str | None = __doc__) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    args = script_parser(description).parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations, args.images),
        convert,
        schema="detection",
        record_name=lambda record: str(record.entry.image.get("file_name")),
    )


if __name__ == "__main__":
    sys.exit(main())
