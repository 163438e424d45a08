"""Flickr30k Entities to conversations about regions: all of a caption's at once, then each by itself.

Get the images and captions as for `processing.flickr30k`; GLaMM takes MDETR's `final_flickr_mergedGT_train.json`:

python -m processing.flickr30k_regions --images flickr30k-images \\
    --annotations OpenSource/final_flickr_mergedGT_train.json --output data/flickr30k_regions --shards 16

One row per caption: a question about all regions, whose answer is the caption, and a question about each region, whose
answer is its phrase; in GLaMM's words. Of more than 10 regions, 10 are drawn by `--prompt-seed`. A region with several
phrases is asked about once. Captions of fewer than three words are skipped, as in GLaMM's training.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import CocoImage
from processing.common import run_script, script_parser
from processing.flickr30k import load_records, read_coco_caption, record_name
from processing.masked_regions import question_groups
from processing.regions import caption_turns
from processing.rows import (
    add_conversation_options,
    conversation_row,
    plain_text,
    prompt_seed,
    read_annotated_image,
    without_stray_spaces,
)
from transformers_groma._text import capitalized
from transformers_groma.data.annotated_boxes import pixel_count
from transformers_groma.data.columns import text_part
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import glamm_question_parts

MAX_REGIONS = 10
MIN_WORDS = 3


def convert(
    record: CocoImage, images: Path, source: str, seed: int, boxes_of: BoxesOf | None = None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one caption.

    Args:
        record (`CocoImage`): a caption in MDETR's layout.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`): draws regions and questions.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels. `LeftOut`: why a region is not in it.

    Raises:
        SkipRecord: no image, another size than annotated, a caption that is too short, or no region.
    """
    caption = read_coco_caption(record)
    yield from caption.left_out
    size = (pixel_count(caption.width, "width"), pixel_count(caption.height, "height"))
    text = plain_text(without_stray_spaces(caption.text, [])[0])
    if len(text.split()) < MIN_WORDS:
        raise SkipRecord("caption of fewer than three words", repr(text))
    described: dict[tuple[float, ...], str] = {}
    for start, end, boxes in caption.phrases:
        phrase = without_stray_spaces(caption.text[start:end], [])[0].strip()
        for box in boxes:
            if phrase:
                described.setdefault(tuple(box), phrase)
    if not described:
        raise SkipRecord("no phrase with a box")
    image_file = read_annotated_image(images, caption.file_name, size=size, boxes_of=boxes_of)
    name = f"{caption.image_id}/{text}"
    (group,) = question_groups(list(described.items()), MAX_REGIONS, 1, name, seed)
    question = glamm_question_parts("region_group_caption", regions=range(len(group)), record=name, seed=seed)
    turns = [(question, [text_part(capitalized(text))])]
    turns += caption_turns([phrase for _, phrase in group], name, seed, "glamm")
    boxes = image_file.upright([list(box) for box, _ in group])
    yield conversation_row(image_file, caption.image_id, boxes, turns, source)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--image-ids", type=Path, metavar="FILE", help="take these images only, one id per line")
    add_conversation_options(parser, source="flickr30k_regions", evaluation=False)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations, None, args.image_ids, None),
        partial(convert, images=args.images, source=args.source, seed=prompt_seed(args), boxes_of=args.boxes_of),
        schema="conversation",
        record_name=record_name,
    )


if __name__ == "__main__":
    sys.exit(main())
