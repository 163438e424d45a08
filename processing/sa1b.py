"""SA-1B to detection rows for the second objectness head (`source` is "sa1b"). Masks are dropped.

Get the archives `sa_000000.tar` ... from https://ai.meta.com/datasets/segment-anything-downloads and unpack them, into one
folder or one each. Beside every picture `sa_1.jpg` lies its annotation `sa_1.json`.

python -m processing.sa1b --images SA-1B --output data/sa1b --shards 1024 --engine ray

Boxes stay as they are annotated; training leaves out those smaller than 14x14 or larger than 400x400 pixels after
augmentation.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from processing.coco_format import CocoImage, detection_row, read_json
from processing.common import run_script, script_parser
from transformers_groma.data.provenance import note_input


def load_records(images: Path) -> list[str]:
    """Paths of the annotation files in a folder and below, sorted; as text, because there are millions."""
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is not a folder: `--images` must hold sa_*.jpg with sa_*.json beside them.")
    paths = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(images)
        for name in names
        if re.fullmatch(r"sa_\w+\.json", name)
    ]
    if not paths:
        raise FileNotFoundError(f"There is no sa_*.json in {images} or below.")
    return sorted(paths)


def convert(record: str) -> Iterator[dict[str, Any]]:
    """The detection row of one annotation file.

    Args:
        record (`str`): path of a JSON file with `image` and `annotations`, whose `bbox` is `xywh` in pixels.

    Yields:
        `dict`: a detection row; boxes `xyxy` in pixels.

    Raises:
        SkipRecord: no box, no picture, or one of another size than annotated.
        ValueError: not JSON.
    """
    content = read_json(record)
    note_input(record, Path(record).read_bytes())
    entry = CocoImage({**content["image"], "id": content["image"]["image_id"]}, content["annotations"])
    yield detection_row(entry, Path(record).with_name(content["image"]["file_name"]), source="sa1b")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    args = script_parser(__doc__, annotations=False).parse_args(argv)
    return run_script(args, lambda: load_records(args.images), convert, schema="detection")


if __name__ == "__main__":
    sys.exit(main())
