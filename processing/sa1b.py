"""SA-1B to detection rows with masks for the second objectness head (`source` is "sa1b").

Get the archives `sa_000000.tar` ... from https://ai.meta.com/datasets/segment-anything-downloads and unpack them, into
one folder or one each. Beside every image `sa_1.jpg` is its annotation `sa_1.json`.

python -m processing.sa1b --images SA-1B --output data/sa1b --shards 1024 --engine ray

Boxes stay as they are annotated; training leaves out those smaller than 14x14 or larger than 400x400 pixels after
augmentation.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import CocoImage, read_json
from processing.common import files_below, run_script, script_parser
from processing.detection import detection_rows
from processing.ids import id_of, record_fault
from transformers_groma.data.columns import DETECTION_FEATURES
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.provenance import note_input


def load_records(images: Path) -> list[str]:
    """Paths of the annotation files in a folder and below, sorted; as text, because there are millions."""
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is not a folder: `--images` must hold sa_*.jpg with sa_*.json beside them.")
    return files_below(images, r"sa_\w+\.json", "sa_*.json")


def convert(record: str, boxes_of: BoxesOf | None = None) -> Iterator[dict[str, Any] | LeftOut]:
    """The detection row of one annotation file.

    Args:
        record (`str`): path of a JSON file with `image` and `annotations`, whose `bbox` is `xywh` in pixels.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a detection row; boxes `xyxy` in pixels. `LeftOut`: why an annotation has no box there.

    Raises:
        SkipRecord: not such a file, no box, no image, or one of another size than annotated.
    """
    try:
        content = read_json(record)
        note_input(record, Path(record).read_bytes())
    except ValueError as error:
        raise SkipRecord("not a JSON file", str(error).removeprefix(record)) from None
    image, annotations = (
        content.get(name) if isinstance(content, dict) else None for name in ("image", "annotations")
    )
    if fault := record_fault(content, "annotation file") or record_fault(image, "`image`"):
        raise fault.of_record()
    if not isinstance(annotations, list):
        raise SkipRecord("`annotations` is not a list", repr(annotations)[:100])
    faults = [record_fault(annotation, "annotation") for annotation in annotations]
    entry = CocoImage(
        {**image, "id": image.get("image_id")},
        [annotation for annotation, fault in zip(annotations, faults, strict=True) if fault is None],
        left_out=[fault for fault in faults if fault is not None],
        fault=LeftOut("`image` without an `image_id`") if id_of(image.get("image_id")) is None else None,
    )
    for row in detection_rows(entry, Path(record).parent, source="sa1b", boxes_of=boxes_of, masks=True):
        # Nothing is a crowd there.
        yield row if isinstance(row, LeftOut) else {name: row[name] for name in (*DETECTION_FEATURES, "masks")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    args = script_parser(__doc__, annotations=False).parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.images),
        partial(convert, boxes_of=args.boxes_of),
        schema="detection",
        masks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
