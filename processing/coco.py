"""COCO instances to detection rows with masks. Categories are dropped; crowd regions have columns of their own.

Get `train2017.zip`, `val2017.zip` and `annotations_trainval2017.zip` from https://cocodataset.org/#download and unpack
them. Other files in the COCO format fit as well.

python -m processing.coco --images coco/train2017 --annotations coco/annotations/instances_train2017.json \\
    --output data/coco --shards 32

Masks are COCO RLE, null where an annotation has no segmentation or one that does not fit its box.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import CocoImage, load_coco_files, one_entry_per_image
from processing.common import run_script, script_parser
from processing.detection import detection_rows
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut


def load_records(annotations: Sequence[Path], masks: bool = True) -> list[CocoImage]:
    """One record per image, in the order of the files."""
    files = zip(annotations, load_coco_files(annotations, masks), strict=True)
    return [entry for path, file in files for entry in one_entry_per_image(file.images, path)]


def convert(
    entry: CocoImage,
    images: Path,
    boxes_of: BoxesOf | None = None,
    keep_empty: bool = False,
    masks: bool = True,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The detection row of one image, see `detection_rows`."""
    yield from detection_rows(entry, images, boxes_of=boxes_of, keep_empty=keep_empty, masks=masks)


def main(argv: Sequence[str] | None = None, description: str | None = __doc__, masks: bool = True) -> int:
    """Run the script.

    Args:
        argv (`Sequence[str]`, *optional*): by default the arguments of the command line.
        description (`str`): shown by `--help`.
        masks (`bool`): whether the annotations have segmentations.

    Returns:
        `int`: exit status, see `run_script`.
    """
    parser = script_parser(description)
    parser.add_argument(
        "--keep-empty",
        action="store_true",
        help="write images without boxes, too: COCO's evaluation counts what is found in them as wrong",
    )
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations, masks),
        partial(convert, images=args.images, boxes_of=args.boxes_of, keep_empty=args.keep_empty, masks=masks),
        schema="detection",
        record_name=lambda entry: entry.name,
        masks=masks,
    )


if __name__ == "__main__":
    sys.exit(main())
