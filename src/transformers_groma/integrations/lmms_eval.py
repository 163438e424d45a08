"""Groma and GLaMM in lmms-eval: converts its prompts to ours, and our boxes to the text that it reads.

```bash
pip install "transformers-groma[lmms-eval]"
lmms-eval --model groma --model_args pretrained=PATH --tasks refcoco_bbox_rec_val --batch_size 16
```

lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval) has no boxes: its tasks ask for coordinates in words and read
numbers from the answer. Groma points at regions, so such a question becomes Groma's own (`Locate <p>the red cup</p> in
this image.`), and the box of the answer becomes numbers. (GLaMM's is `Please segment the red cup in this image.`, and
the box is the one around the mask.) That covers the questions of `refcoco_bbox_rec_*`, `refcoco+_bbox_rec_*`,
`refcocog_bbox_rec_*`, `screenspot_rec_*`, `refcoco_grounding_*` and `groundingme`. All other questions are asked as
they are and answered in plain text.

lmms-eval counts an IoU of exactly 0.5 as a hit (>=); the paper and `groma evaluate rec` do not (>).
"""

import json
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..boxes import normalize_boxes
from ..data.columns import phrase_part, text_part
from ..grounding import GroundedText
from ..questions import GROMA_QUESTIONS, QuestionWording
from ..regions import with_extent

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

logger = logging.getLogger(__name__)

INSTALL = 'This needs lmms-eval 0.7 or newer. Install it with `pip install "transformers-groma[lmms-eval]"`.'

# What the answer is turned into: plain text; `[x1, y1, x2, y2]` in fractions of the image; JSON with boxes in pixels,
# of the first box or of all.
AnswerFormat = Literal["text", "fractions", "json", "json_list"]

# Questions for boxes, as the tasks word them, and how they read the answer.
_BOX_QUESTIONS: tuple[tuple[re.Pattern[str], AnswerFormat], ...] = (
    (
        re.compile(
            r"bounded between 0 and 1.*(?:this sentence describes|corresponds to the command):(?P<phrase>.+)",
            re.DOTALL,
        ),
        "fractions",
    ),
    (re.compile(r"matches the description \"(?P<phrase>[^\"]+)\".*bbox coordinates in JSON", re.DOTALL), "json_list"),
    (re.compile(r"the following statement describes:(?P<phrase>.+?)Ensure that .*bbox_2d", re.DOTALL), "json"),
)
_ASKS_FOR_BOXES = re.compile(r"bounding box coordinate|bbox coordinate|bbox_2d", re.IGNORECASE)
# No question for boxes is longer, so a longer text is not searched.
_LONGEST_BOX_QUESTION = 10_000
# The mark that some tasks put where the image belongs; Groma always sees it before the question.
_IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class TaskQuestion:
    """A question of lmms-eval in Groma's form.

    Args:
        parts (`list[dict]`): message parts, see `data/columns.py`; the part that shows the image is not among them.
        answer_format (`str`): what the answer is turned into, see `format_answer`.
    """

    parts: list[dict[str, Any]]
    answer_format: AnswerFormat


def read_question(context: str, wording: QuestionWording = GROMA_QUESTIONS) -> TaskQuestion:
    """Turn the text of a request into a question for the model.

    Args:
        context (`str`): the first of the request's arguments.
        wording (`QuestionWording`): how the family of the model asks for what a phrase refers to.

    Returns:
        `TaskQuestion`: a REC question with the described thing as its phrase, where the task asks for boxes in words
        that are known; otherwise the text as it is. A question for boxes in unknown words is logged.

    Example:
    >>> question = read_question(
    ...     "Bounding box coordinates are … bounded between 0 and 1. Please provide the bounding box coordinate of "
    ...     "the region this sentence describes: the red cup"
    ... )
    >>> [part["text"] for part in question.parts], question.answer_format
    (['Locate ', 'the red cup', ' in this image.'], 'fractions')
    >>> read_question("<image>\\nHow many dogs are there?").parts[0]["text"]
    'How many dogs are there?'
    """
    text = _without_image_marks(context).strip()
    for pattern, answer_format in _BOX_QUESTIONS if len(text) <= _LONGEST_BOX_QUESTION else ():
        match = pattern.search(text)
        phrase = " ".join(match["phrase"].split()) if match else ""
        if phrase:
            return TaskQuestion(wording.parts("rec", text_part, {"phrase": phrase_part(phrase)}), answer_format)
    if _ASKS_FOR_BOXES.search(text):
        logger.warning(
            "A question of lmms-eval seems to ask for boxes in words that are not known here, so it is answered in "
            "plain text: %.300s",
            text,
        )
    return TaskQuestion([text_part(text)], "text")


def _without_image_marks(text: str) -> str:
    """The text without image marks, the blanks around them and one line break after each."""
    first, *others = text.split(_IMAGE_MARK)
    pieces = [first.rstrip(" \t") if others else first]
    for index, piece in enumerate(others):
        piece = piece.lstrip(" \t").removeprefix("\n")
        pieces.append(piece.rstrip(" \t") if index < len(others) - 1 else piece)
    return "".join(pieces)


def format_answer(answer: GroundedText, answer_format: AnswerFormat, width: int, height: int) -> str:
    """Turn an answer of Groma into what a task reads.

    Args:
        answer (`GroundedText`): boxes `xyxy` in absolute pixels of the upright image.
        answer_format (`str`): `"text"`: the plain text. `"fractions"`: the first box as `[x1, y1, x2, y2]`, 0..1 of
            the image; the plain text where there is none. `"json"`: `{"bbox_2d": [x1, y1, x2, y2]}` with the first box
            in pixels, or `null`.
            `"json_list"`: a list of these with all boxes, each once.
        width, height (`int`): size of the image in pixels.

    Returns:
        `str`: the text.

    Example:
    >>> import torch
    >>> from transformers_groma.grounding import ground_text
    >>> answer = ground_text("<p>a dog</p> <roi><r0></roi>.", torch.tensor([[64.0, 48.0, 320.0, 480.0]]))
    >>> format_answer(answer, "fractions", width=640, height=480)
    '[0.10000, 0.10000, 0.50000, 1.00000]'
    >>> format_answer(answer, "json", width=640, height=480)
    '{"bbox_2d": [64.0, 48.0, 320.0, 480.0]}'
    """
    if answer_format == "text":
        return answer.text
    # The box around a mask without a pixel has no area: nothing was found.
    boxes = {tuple(box.tolist()): box for phrase in answer.phrases for box in with_extent(phrase.regions).xyxy}
    if answer_format == "fractions":
        if not boxes:
            return answer.text
        first = normalize_boxes(next(iter(boxes.values())), height=height, width=width).tolist()
        return f"[{', '.join(f'{value:.5f}' for value in first)}]"
    in_pixels = [{"bbox_2d": [round(value, 2) for value in box]} for box in boxes]
    if answer_format == "json_list":
        return json.dumps(in_pixels)
    return json.dumps(in_pixels[0] if in_pixels else {"bbox_2d": None})


def cut_at_stops(text: str, until: str | list[str] | None) -> str:
    """Cut a text before the first of the stop strings of a task.

    Args:
        text (`str`): the answer.
        until (`str` or `list[str]`, *optional*): stop strings. An empty line does not count: lmms-eval sets it for
            every task that names no other, and it would cut answers of several paragraphs.

    Returns:
        `str`: the text before the first stop string.

    Example:
    >>> cut_at_stops("Two dogs. USER: Really?", ["USER:", "\\n\\n"])
    'Two dogs.'
    """
    stops = [until] if isinstance(until, str) else until or []
    ends = [text.find(stop) for stop in stops if stop.strip() and stop in text]
    return text[: min(ends)].rstrip() if ends else text


def model_manifest() -> "ModelManifest":
    """Tell lmms-eval where the model class is; the entry point of this package in the group `lmms_eval.models`.

    Returns:
        `ModelManifest`: names the class of the model `groma`.

    Raises:
        ImportError: lmms-eval is not installed.
    """
    try:
        from lmms_eval.models.registry_v2 import ModelManifest
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return ModelManifest(model_id="groma", simple_class_path=f"{__package__}._lmms_eval_model.GromaForLmmsEval")


__all__ = ["AnswerFormat", "TaskQuestion", "cut_at_stops", "format_answer", "model_manifest", "read_question"]
