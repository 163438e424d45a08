"""GLaMM's grounded conversations (GCG) to conversations: captions whose phrases are tied to boxes with masks.

Get the annotations from https://huggingface.co/datasets/MBZUAI/GranD-f, and the images of SA-1B, COCO and Flickr30k
that they name. All layouts are read: GranD-f's and PSG's captions, RefCOCOg's, Flickr30k's, and the benchmark's truth:

python -m processing.glamm_gcg --wording glamm --images GranDf_HA_images/train --source grandf \\
    --annotations GranDf_HA_GCG_train.json --output data/grandf_gcg
python -m processing.glamm_gcg --wording glamm --images coco/train2017 --source psg_gcg \\
    --annotations OpenPsgGCG_train.json --output data/psg_gcg --shards 8
python -m processing.glamm_gcg --wording glamm --images coco/train2014 --source refcocog_gcg \\
    --annotations RefCOCOg_GCG_train.json --output data/refcocog_gcg --shards 8
python -m processing.glamm_gcg --wording glamm --images flickr30k-images --source flickr_gcg \\
    --annotations flickr_mergedGT_GCG_train.json --output data/flickr_gcg --shards 32
python -m processing.glamm_gcg --images GranDf_HA_images/val_test --split val --standard-question \\
    --annotations val_gcg_coco_caption_gt.json val_gcg_coco_mask_gt.json --output data/gcg

One row per caption; `groma evaluate grounded-conversation` takes them as they are. Each mask is a region of its own,
and its box is the one around it; masks of one phrase stay apart. A phrase that is not in its caption is left out and
counted; so are a mask that cannot be read and a phrase that overlaps a longer one.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.common import run_script, script_parser
from processing.gcg_format import GroundedCaption, load_gcg
from processing.masked_regions import NO_MASK, MaskedRegion, boxes_and_masks, masked_caption, masked_region
from processing.phrases import NOT_IN_CAPTION, find_phrase
from processing.rows import (
    add_conversation_options,
    conversation_row,
    plain_text,
    prompt_seed,
    read_annotated_image,
    without_stray_spaces,
)
from transformers_groma._text import capitalized
from transformers_groma.data.image_files import BoxesOf, stored_size
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import Wording, question_parts

# What GLaMM's training leaves out of Flickr30k.
MIN_WORDS, MIN_SIDE = 3, 32


def convert(
    record: GroundedCaption,
    images: Path,
    source: str,
    seed: int | None,
    wording: Wording = "groma",
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one caption.

    Args:
        record (`GroundedCaption`): a caption.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws the question.
        wording (`str`): whose question.
        boxes_of (`str`, *optional*): which pixels the masks were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation row with masks, boxes `xyxy` in pixels. `LeftOut`: why a phrase or a mask is not in it.

    Raises:
        SkipRecord: no caption, no phrase with a mask, no image, or one of another size than its masks.
    """
    if record.fault is not None:
        raise record.fault.of_record()
    yield from record.left_out
    # Some captions are in quotes.
    text = plain_text(record.caption.strip().strip('"') if isinstance(record.caption, str) else None)
    annotated = record.annotated_size()
    if record.is_tokenized:
        _check_of_flickr(text, annotated)
    image_file = read_annotated_image(images, record.file_name, size=annotated, boxes_of=boxes_of)
    size = (image_file.width, image_file.height) if image_file.orientation == 1 else stored_size(image_file.content)
    phrases: list[tuple[int, int, list[MaskedRegion]]] = []
    position = 0
    for words, positions, segmentations in record.phrases:
        span = find_phrase(text, words.strip(), positions, position) if isinstance(words, str) else None
        if span is None:
            yield LeftOut(NOT_IN_CAPTION, repr(words)[:100])
            continue
        position = span[1] if record.in_order else 0
        regions, is_told = [], False
        for segmentation in segmentations:
            region, faults = masked_region(segmentation, *size)
            yield from (LeftOut(fault.reason, f"{words!r} {fault.detail}".strip()) for fault in faults)
            is_told |= bool(faults)
            if region is not None:
                regions.append(region)
        if not regions and not is_told:
            yield LeftOut(NO_MASK, repr(words)[:100])
        phrases.append((*span, regions))
    if record.is_tokenized:
        text, spans = without_stray_spaces(text, [(start, end) for start, end, _ in phrases])
        phrases = [(*span, regions) for span, (_, _, regions) in zip(spans, phrases, strict=True)]
    parts, found, left_out = masked_caption(capitalized(text), phrases)
    yield from left_out
    if not found:
        raise SkipRecord("no phrase with a mask")
    name = f"{record.image_id}/{text}"
    question = question_parts("grounded_caption", record=name, seed=seed, wording=wording)
    boxes, masks = boxes_and_masks(found, image_file)
    yield conversation_row(image_file, record.image_id, boxes, [(question, parts)], source, masks)


def _check_of_flickr(text: str, size: tuple[int, int] | None) -> None:
    """Refuse what GLaMM's training leaves out of Flickr30k: short captions, and tiny images."""
    if len(text.split()) < MIN_WORDS:
        raise SkipRecord("caption of fewer than three words", repr(text))
    if size is not None and min(size) < MIN_SIDE:
        raise SkipRecord("image with a side below 32 pixels", "{}x{}".format(*size))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    add_conversation_options(parser, source="gcg", evaluation=False, wording=True)
    parser.add_argument(
        "--standard-question", action="store_true", help="ask all captions in the same words, to evaluate on them"
    )
    args = parser.parse_args(argv)
    seed = None if args.standard_question else prompt_seed(args)
    return run_script(
        args,
        lambda: load_gcg(args.annotations),
        partial(
            convert,
            images=args.images,
            source=args.source,
            seed=seed,
            wording=args.wording,
            boxes_of=args.boxes_of,
        ),
        schema="conversation",
        record_name=lambda record: record.name,
        # 2: regions are told apart by their masks, and phrases are whole words.
        rows_version=2,
        masks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
