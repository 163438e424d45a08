"""Groma Instruct, as its authors released it, to conversations with regions.

Get `groma_instruct.json` from https://huggingface.co/datasets/FoundationVision/groma_instruct and the images of
Visual Genome (folders `VG_100K` and `VG_100K_2`). Files that `processing.groma_instruct` writes have the same layout.

python -m processing.groma_instruct_dataset --images vg --annotations groma_instruct.json --output data/groma_instruct

A record is `{"file_name", "width", "height", "boxes": [xywh in pixels, ...], "conversation": [{"value", "box_inds"},
...]}`, question and answer in turns. The k-th mark of a text refers to the k-th of its `box_inds`: `<refer_box>` in a
question, `<ground_box>` in an answer. One row per record; `[grounding]` comes before every question.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.boxes import usable_boxes
from processing.coco_format import check_image
from processing.common import run_script, script_parser
from processing.ids import id_of, record_fault
from processing.llava_instruct import load_records
from processing.rows import Part, conversation_row, markup_in, read_annotated_image
from processing.visual_genome import image_names
from transformers_groma.data.columns import TEXT, phrase_part, region_part, text_part
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.markup import GROUNDING_TOKEN

# A phrase with the boxes after it, if any; boxes without a phrase; boxes that the user points at.
_PIECE = re.compile(
    r"<p>(?P<phrase>[^<]*)</p>(?:\s*<roi>(?P<boxes>(?:<ground_box>)+)</roi>)?"
    r"|<roi>(?P<bare>(?:<ground_box>)+)</roi>"
    r"|<roi>(?P<regions>(?:<refer_box>)+)</roi>(?:<refer_feat>)*"
)


def parse_markup(text: str, boxes: Sequence[int]) -> list[Part]:
    """Read a question or an answer.

    Args:
        text (`str`): with `<p>...</p>`, `<roi><ground_box>...</roi>` and `<roi><refer_box></roi><refer_feat>`.
        boxes (`Sequence[int]`): indices into the row's boxes, one for each mark.

    Returns:
        `list[dict]`: message parts.

    Raises:
        SkipRecord: another number of marks than of boxes, or markup that does not fit together.

    Example:
    >>> parts = parse_markup("<p>A dog</p> <roi><ground_box></roi> runs.", [3])
    >>> [(part["type"], part["text"], part["boxes"]) for part in parts]
    [('phrase', 'A dog', [3]), ('text', ' runs.', [])]
    """
    parts: list[Part] = []
    left = list(boxes)

    def take(marks: str) -> list[int]:
        count = marks.count("<")
        if count > len(left):
            raise SkipRecord("the numbers of marks and box_inds differ")
        taken, left[:] = left[:count], left[count:]
        return taken

    def add_text(plain: str) -> None:
        if token := markup_in(plain):
            raise SkipRecord("stray mark", token)
        if plain:
            parts.append(text_part(plain))

    position = 0
    for match in _PIECE.finditer(text):
        add_text(text[position : match.start()])
        if match["regions"]:
            parts += [region_part(index) for index in take(match["regions"])]
        elif match["bare"]:
            parts.append(phrase_part("", take(match["bare"])))
        elif match["phrase"].strip() or match["boxes"]:
            parts.append(phrase_part(match["phrase"].strip(), take(match["boxes"] or "")))
        position = match.end()
    add_text(text[position:])
    if left:
        raise SkipRecord("the numbers of marks and box_inds differ")
    return parts


def question_of(text: str, boxes: Sequence[int]) -> list[Part]:
    """Message parts of a question, which asks for grounding.

    Args:
        text, boxes: see `parse_markup`.

    Returns:
        `list[dict]`: message parts.
    """
    parts = parse_markup(text.removeprefix(GROUNDING_TOKEN).strip(), boxes)
    if parts and parts[0]["type"] == TEXT:
        return [text_part(GROUNDING_TOKEN + parts[0]["text"]), *parts[1:]]
    return [text_part(GROUNDING_TOKEN), *parts]


def convert(
    record: Mapping[str, Any], images: Path, source: str, boxes_of: BoxesOf | None = None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one record.

    Args:
        record (`Mapping`): one record, boxes `xywh` in pixels.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels. `LeftOut`: why an unmentioned box is not in it.

    Raises:
        SkipRecord: no image, another size than annotated, a wrong box, or markup that does not fit.
    """
    if fault := record_fault(record, "record"):
        raise fault.of_record()
    width, height = check_image(record)
    given, turns = record.get("boxes"), record.get("conversation")
    if not isinstance(given, list):
        raise SkipRecord("`boxes` is not a list", repr(given)[:100])
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise SkipRecord("no answer to the last question")
    texts = [_text_and_boxes(turn, len(given)) for turn in turns]
    boxes, kept, left_out = usable_boxes(given, width, height)
    if wrong := {index for _, indices in texts for index in indices} - set(kept):
        raise SkipRecord("the conversation names a box that is wrong", "; ".join(map(str, left_out[: len(wrong)])))
    yield from left_out
    position = {index: place for place, index in enumerate(kept)}
    texts = [(text, [position[index] for index in indices]) for text, indices in texts]
    pairs = [
        (question_of(*question), parse_markup(answer[0].strip(), answer[1]))
        for question, answer in zip(texts[::2], texts[1::2])
    ]
    if not all(answer for _, answer in pairs):
        raise SkipRecord("empty answer")
    name = record.get("file_name")
    names = image_names(name) if isinstance(name, str) else [name]
    image_file = read_annotated_image(images, *names, size=(width, height), boxes_of=boxes_of)
    yield conversation_row(image_file, Path(name).stem, image_file.upright(boxes), pairs, source)


def _text_and_boxes(turn: Any, num_boxes: int) -> tuple[str, list[int]]:
    """The text of a turn and the indices of the boxes that it names."""
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        raise SkipRecord("a turn has no text")
    indices = turn.get("box_inds")
    indices = [] if indices is None else indices
    if not isinstance(indices, list) or any(not isinstance(id_of(index), int) for index in indices):
        raise SkipRecord("`box_inds` of a turn are not numbers of boxes", repr(indices)[:100])
    indices = [id_of(index) for index in indices]
    if any(not 0 <= index < num_boxes for index in indices):
        raise SkipRecord("`box_inds` of a turn name boxes that do not exist", f"{indices} of {num_boxes} boxes")
    return turn["value"], indices


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--source", default="groma_instruct", metavar="NAME", help="the column `source` (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations),
        partial(convert, images=args.images, source=args.source, boxes_of=args.boxes_of),
        schema="conversation",
        record_name=lambda record: str(record.get("file_name")) if isinstance(record, dict) else str(record)[:100],
    )


if __name__ == "__main__":
    sys.exit(main())
