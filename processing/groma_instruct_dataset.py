"""Groma Instruct, as its authors released it, to conversations with regions.

Get `groma_instruct.json` from https://huggingface.co/datasets/FoundationVision/groma_instruct and the pictures of Visual
Genome (folders `VG_100K` and `VG_100K_2`). Files that `processing.groma_instruct` writes have the same layout.

python -m processing.groma_instruct_dataset --images vg --annotations groma_instruct.json --output data/groma_instruct

A record is `{"file_name", "width", "height", "boxes": [xywh in pixels, ...], "conversation": [{"value", "box_inds"}, ...]}`,
question and answer in turns. The k-th mark of a text stands for the k-th of its `box_inds`: `<refer_box>` in a question,
`<ground_box>` in an answer. One row a record; questions get `[grounding]` at their head.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import clip_xywh_to_xyxy
from processing.common import run_script, script_parser
from processing.llava_instruct import load_records
from processing.rows import Part, conversation_row, markup_in, read_picture
from processing.visual_genome import picture_names
from transformers_groma.data.columns import phrase_part, region_part, text_part
from transformers_groma.data.shards import SkipRecord
from transformers_groma.tokenization_groma import GROUNDING_TOKEN

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
            raise SkipRecord("another number of marks than of box_inds")
        taken, left[:] = left[:count], left[count:]
        return taken

    def add_text(plain: str) -> None:
        if markup_in(plain):
            raise SkipRecord(f"stray {markup_in(plain)}")
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
        raise SkipRecord("another number of marks than of box_inds")
    return parts


def question_of(text: str, boxes: Sequence[int]) -> list[Part]:
    """Message parts of a question, which asks for grounding.

    Args:
        text, boxes: see `parse_markup`.

    Returns:
        `list[dict]`: message parts.
    """
    parts = parse_markup(text.removeprefix(GROUNDING_TOKEN).strip(), boxes)
    if parts and parts[0]["type"] == "text":
        return [text_part(GROUNDING_TOKEN + parts[0]["text"]), *parts[1:]]
    return [text_part(GROUNDING_TOKEN), *parts]


def convert(record: Mapping[str, Any], images: Path, source: str) -> Iterator[dict[str, Any]]:
    """The row of one record.

    Args:
        record (`Mapping`): one record, boxes `xywh` in pixels.
        images (`Path`): folder of the pictures.
        source (`str`): name of the dataset.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels.

    Raises:
        SkipRecord: no picture, another size than annotated, an empty box, or markup that does not fit.
    """
    width, height = int(record["width"]), int(record["height"])
    boxes, kept = clip_xywh_to_xyxy(record["boxes"], width, height)
    if len(kept) < len(record["boxes"]):
        raise SkipRecord("empty box")
    turns = record["conversation"]
    if not turns or len(turns) % 2:
        raise SkipRecord("no answer to the last question")
    texts = [(turn["value"], turn.get("box_inds") or []) for turn in turns]
    if not all(isinstance(text, str) for text, _ in texts):
        raise SkipRecord("a turn has no text")
    pairs = [
        (question_of(*question), parse_markup(answer[0].strip(), answer[1]))
        for question, answer in zip(texts[::2], texts[1::2])
    ]
    if not all(answer for _, answer in pairs):
        raise SkipRecord("empty answer")
    name = record["file_name"]
    picture = read_picture(images, *picture_names(name), size=(width, height))
    yield conversation_row(picture, Path(name).stem, boxes, pairs, source)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default those of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--source", default="groma_instruct", metavar="NAME", help="the column `source` (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations),
        partial(convert, images=args.images, source=args.source),
        schema="conversation",
        record_name=lambda record: str(record.get("file_name")) if isinstance(record, dict) else str(record)[:100],
    )


if __name__ == "__main__":
    sys.exit(main())
