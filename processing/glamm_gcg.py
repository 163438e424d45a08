"""GLaMM's grounded conversations (GCG) to conversations: captions whose phrases are tied to boxes with masks.

Get the annotations from https://huggingface.co/datasets/MBZUAI/GranD-f, and the images of SA-1B and COCO that they
name. Three layouts are read: GranD-f's and PSG's captions, RefCOCOg's, and the benchmark's own truth:

python -m processing.glamm_gcg --images coco/train2017 --annotations OpenPsgGCG_train.json --source psg_gcg \\
    --output data/psg_gcg --shards 8
python -m processing.glamm_gcg --images coco/train2014 --annotations RefCOCOg_GCG_train.json --source refcocog_gcg \\
    --output data/refcocog_gcg --shards 8
python -m processing.glamm_gcg --images GranDf_HA_images/val_test --split val --standard-question \\
    --annotations val_gcg_coco_caption_gt.json val_gcg_coco_mask_gt.json --output data/gcg

One row per caption; `groma evaluate grounded-conversation` takes them as they are. Each mask is a region of its own,
and its box is the one around it. A phrase that is not in its caption is left out and counted, and so is a mask that
cannot be read.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import load_coco_json, read_json
from processing.common import run_script, script_parser
from processing.ids import id_of
from processing.masks import Mask
from processing.phrases import NOT_IN_CAPTION, find_phrase
from processing.rows import (
    add_conversation_options,
    conversation_row,
    grounded_parts,
    plain_text,
    prompt_seed,
    read_annotated_image,
)
from transformers_groma._text import capitalized
from transformers_groma.data.annotated_masks import mask_fault, read_segmentation
from transformers_groma.data.image_files import BoxesOf, stored_size
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import question_parts
from transformers_groma.masks import rle_to_box


@dataclass(frozen=True, slots=True)
class GroundedCaption:
    """A caption and what its phrases point at.

    Args:
        image_id (`str`), file_name (`str`): of its image.
        caption (`str`): the text, unchecked.
        phrases (`tuple`): for each its words, its place in the caption (`[start, end]`) if it is known, and its
            segmentations, unchecked.
        in_order (`bool`): whether phrases are in the order of the caption.
        fault (`LeftOut`, *optional*): why it cannot be used.
    """

    image_id: str
    file_name: Any
    caption: Any = None
    phrases: tuple[tuple[Any, Any, tuple[Any, ...]], ...] = ()
    in_order: bool = False
    fault: LeftOut | None = None

    @property
    def name(self) -> str:
        """The name of the caption in a report."""
        return f"{self.file_name}: {self.caption}"


def load_records(annotations: Sequence[Path]) -> list[GroundedCaption]:
    """Read the captions of one or more files.

    Args:
        annotations (`Sequence[Path]`): lists of captions; or the benchmark's captions, with its masks after it.

    Returns:
        `list[GroundedCaption]`: in the order of the files.

    Raises:
        ValueError: a file of another layout.
    """
    contents = [read_json(path) for path in annotations]
    if isinstance(contents[0], dict):
        if len(contents) != 2 or not isinstance(contents[1], dict):
            raise ValueError(
                f"{annotations[0]} has captions of the benchmark, whose masks are in another file: pass "
                "`--annotations CAPTIONS.json MASKS.json`."
            )
        return _captions_of_benchmark(*annotations)
    records = []
    for path, content in zip(annotations, contents, strict=True):
        if not isinstance(content, list):
            raise ValueError(f"{path} is not a list of captions.")
        records += [_caption(number, entry) for number, entry in enumerate(content)]
    return records


def _caption(number: int, entry: Any) -> GroundedCaption:
    """A caption of GranD-f or PSG, or of RefCOCOg, whose entries are under their number."""
    wrong = GroundedCaption("", f"caption {number}", fault=LeftOut("caption of another layout", repr(entry)[:100]))
    if isinstance(entry, Mapping) and len(entry) == 1 and isinstance(next(iter(entry.values())), Mapping):
        (entry,) = entry.values()
    if not isinstance(entry, Mapping):
        return wrong
    groundings, refs = entry.get("groundings"), entry.get("refs")
    if isinstance(groundings, Mapping) and all(isinstance(value, Mapping) for value in groundings.values()):
        name = entry.get("file_name")
        phrases = [
            (phrase, value.get("token_positives"), _as_tuple(value.get("rle_masks")))
            for phrase, value in groundings.items()
        ]
    elif isinstance(refs, list) and all(isinstance(ref, Mapping) for ref in refs):
        name = entry.get("img_file_name")
        phrases = [(ref.get("sentence"), None, (ref.get("segmentation"),)) for ref in refs]
    else:
        return wrong
    return GroundedCaption(Path(str(name)).stem, name, entry.get("caption"), tuple(phrases))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _captions_of_benchmark(captions: Path, masks: Path) -> list[GroundedCaption]:
    """The benchmark's captions: the k-th of an image's labels has the k-th of its masks."""
    of_image = {
        entry.image_id: [annotation.get("segmentation") for annotation in entry.annotations]
        for entry in load_coco_json(masks, masks=True).images
    }
    records = []
    for entry in load_coco_json(captions).images:
        image_id = entry.image_id
        # Images are named by their id.
        name = entry.image.get("file_name") or f"{image_id}.jpg"
        found = of_image.get(image_id, [])
        labels = [_as_tuple(annotation.get("labels")) for annotation in entry.annotations]
        fault = entry.fault
        if fault is None and len(labels) != 1:
            fault = LeftOut("image has no caption or several, so its masks have no owner", f"{len(labels)} captions")
        elif fault is None and len(labels[0]) != len(found):
            fault = LeftOut(
                "caption does not have one mask for each label", f"{len(labels[0])} labels, {len(found)} masks"
            )
        if fault is not None:
            records.append(GroundedCaption(image_id, name, fault=fault))
            continue
        phrases = [(label, None, (mask,)) for label, mask in zip(labels[0], found, strict=True)]
        records.append(
            GroundedCaption(image_id, name, entry.annotations[0].get("caption"), tuple(phrases), in_order=True)
        )
    return records


def convert(
    record: GroundedCaption, images: Path, source: str, seed: int | None, boxes_of: BoxesOf | None = None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one caption.

    Args:
        record (`GroundedCaption`): a caption.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws the question.
        boxes_of (`str`, *optional*): which pixels the masks were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation row with masks, boxes `xyxy` in pixels. `LeftOut`: why a phrase or a mask is not in it.

    Raises:
        SkipRecord: no caption, no phrase with a mask, no image, or one of another size than its masks.
    """
    if record.fault is not None:
        raise record.fault.of_record()
    # Some captions are in quotes.
    text = plain_text(record.caption.strip().strip('"') if isinstance(record.caption, str) else None)
    image_file = read_annotated_image(images, record.file_name, size=_size_of_masks(record), boxes_of=boxes_of)
    size = (image_file.width, image_file.height) if image_file.orientation == 1 else stored_size(image_file.content)
    phrases: list[tuple[int, int, list[list[float]]]] = []
    masks: dict[tuple[float, ...], Mask] = {}
    position = 0
    for words, positions, segmentations in record.phrases:
        span = find_phrase(text, words.strip(), positions, position) if isinstance(words, str) else None
        if span is None:
            yield LeftOut(NOT_IN_CAPTION, repr(words)[:100])
            continue
        position = span[1] if record.in_order else 0
        boxes = []
        for segmentation in segmentations:
            mask, faults = read_segmentation(segmentation, *size)
            if mask is not None and (fault := mask_fault(mask, None, *size)) is not None:
                mask, faults = None, [*faults, fault]
            yield from (LeftOut(fault.reason, f"{words!r} {fault.detail}".strip()) for fault in faults)
            if mask is None:
                continue
            box = rle_to_box(mask).tolist()
            if masks.setdefault(tuple(box), mask) != mask:
                yield LeftOut("two masks of an image have the same box: the first one is taken", repr(words))
            boxes.append(box)
        phrases.append((*span, boxes))
    parts, boxes = grounded_parts(capitalized(text), phrases)
    if not boxes:
        raise SkipRecord("no phrase with a mask")
    question = question_parts("grounded_caption", record=f"{record.image_id}/{text}", seed=seed)
    upright = image_file.upright_masks([masks[tuple(box)] for box in boxes])
    yield conversation_row(
        image_file, record.image_id, image_file.upright(boxes), [(question, parts)], source, upright
    )


def _size_of_masks(record: GroundedCaption) -> tuple[int, int] | None:
    """Width and height of the image, if its masks are RLE, which say so."""
    for _, _, segmentations in record.phrases:
        for rle in segmentations:
            size = rle.get("size") if isinstance(rle, Mapping) else None
            if isinstance(size, list) and len(size) == 2 and all(isinstance(id_of(side), int) for side in size):
                return id_of(size[1]), id_of(size[0])
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    add_conversation_options(parser, source="gcg", evaluation=False)
    parser.add_argument(
        "--standard-question", action="store_true", help="ask all captions in the same words, to evaluate on them"
    )
    args = parser.parse_args(argv)
    seed = None if args.standard_question else prompt_seed(args)
    return run_script(
        args,
        lambda: load_records(args.annotations),
        partial(convert, images=args.images, source=args.source, seed=seed, boxes_of=args.boxes_of),
        schema="conversation",
        record_name=lambda record: record.name,
        masks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
