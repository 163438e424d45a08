"""What the vision model said and what it took: the lines of `answers.jsonl` and `costs.jsonl`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from processing.groma_instruct import files
from processing.groma_instruct.selection import SelectedImage


class Answer(TypedDict):
    """What the model said about an image; a line of `answers.jsonl`.

    Args:
        image_id (`str`): number of the image.
        boxes_xyxy (`list` of 4 `float`): the regions asked about, in absolute pixels; a number in `text` counts them from 1.
        model (`str`): the model that answered, as the endpoint names it.
        text (`str`): its answer, perhaps empty.
        finish_reason (`str`): `"stop"` where it came to its end.
        refusal (`str`, *optional*): why the model refused, where the endpoint says so.
    """

    image_id: str
    boxes_xyxy: list[list[float]]
    model: str
    text: str
    finish_reason: str
    refusal: str | None


class Cost(TypedDict):
    """What an answer took; a line of `costs.jsonl`. `cost` is in the currency of the prices."""

    image_id: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float
    time: str


def current_answers(answers: Sequence[Answer], selection: Sequence[SelectedImage]) -> dict[str, Answer]:
    """The answers that fit the selection: their numbers stand for the same regions. The last one of an image counts.

    Args:
        answers (`Sequence[Answer]`): of all runs.
        selection (`Sequence[SelectedImage]`): the images as they are selected now.

    Returns:
        `dict`: answers by the number of their image.
    """
    boxes = {selected["image_id"]: selected["boxes_xyxy"] for selected in selection}
    return {answer["image_id"]: answer for answer in answers if boxes.get(answer["image_id"]) == answer["boxes_xyxy"]}


def write_cost_summary(output: Path) -> dict[str, Any]:
    """Add up `costs.jsonl` in `cost_summary.json`.

    Args:
        output (`Path`): the work folder.

    Returns:
        `dict`: number of answers, tokens and cost of all runs.
    """
    costs = files.read_jsonl(output / files.COSTS)
    summary = {
        "answers": len(costs),
        "prompt_tokens": sum(cost["prompt_tokens"] or 0 for cost in costs),
        "completion_tokens": sum(cost["completion_tokens"] or 0 for cost in costs),
        "cost": math.fsum(cost["cost"] for cost in costs),
    }
    files.write_json(output / files.COST_SUMMARY, summary)
    return summary
