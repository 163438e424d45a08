"""COCO's captions to conversations without boxes: questions for a description of the whole image.

Get `train2017.zip` and `annotations_trainval2017.zip` from https://cocodataset.org/#download:

python -m processing.coco_captions --images coco/train2017 \\
    --annotations coco/annotations/captions_train2017.json --output data/coco_captions --shards 32

An image has about five captions. As every row holds its image, one of them is drawn by `--prompt-seed`;
`--rows-per-image 5` takes them all. The questions are GLaMM's.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import CocoImage, load_coco_files
from processing.common import positive_int, run_script, script_parser
from processing.masked_regions import question_groups
from processing.rows import (
    add_conversation_options,
    coco_image_names,
    conversation_row,
    plain_text,
    prompt_seed,
    read_image_file,
)
from transformers_groma.data.columns import text_part
from transformers_groma.data.left_out import LeftOut, SkipRecord, reason_of
from transformers_groma.data.prompts import glamm_question_parts


def load_records(annotations: Sequence[Path]) -> list[CocoImage]:
    """The images of the files, each with its captions."""
    return [entry for file in load_coco_files(annotations) for entry in file.images]


def convert(
    entry: CocoImage, images: Path, source: str, seed: int, rows_per_image: int
) -> Iterator[dict[str, Any] | LeftOut]:
    """The rows of one image.

    Args:
        entry (`CocoImage`): its annotations have a `caption`.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`): draws captions and questions.
        rows_per_image (`int`): the most captions, each of which is a row.

    Yields:
        `dict`: a conversation row without boxes. `LeftOut`: why a caption is not in one.

    Raises:
        SkipRecord: no image, or no caption.
    """
    if entry.fault is not None:
        raise entry.fault.of_record()
    yield from entry.left_out
    captions = []
    for annotation in entry.annotations:
        try:
            captions.append(plain_text(annotation.get("caption")))
        except SkipRecord as error:
            yield LeftOut(reason_of(error).reason, f"annotation {annotation.get('id')!r}")
    if not captions:
        raise SkipRecord("no caption")
    image_file = read_image_file(images, *coco_image_names(entry.image))
    for (caption,) in question_groups(list(dict.fromkeys(captions)), 1, rows_per_image, entry.image_id, seed):
        question = glamm_question_parts("caption", record=f"{entry.image_id}/{caption}", seed=seed)
        yield conversation_row(image_file, entry.image_id, [], [(question, [text_part(caption)])], source)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__, boxes=False)
    parser.add_argument(
        "--rows-per-image",
        type=positive_int,
        default=1,
        metavar="N",
        help="the most captions of an image, each a row (default: %(default)s)",
    )
    add_conversation_options(parser, source="coco_captions", evaluation=False)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations),
        partial(
            convert,
            images=args.images,
            source=args.source,
            seed=prompt_seed(args),
            rows_per_image=args.rows_per_image,
        ),
        schema="conversation",
        record_name=lambda entry: entry.name,
    )


if __name__ == "__main__":
    sys.exit(main())
