"""The vision model's answers: the lines of `answers.jsonl`."""

from collections.abc import Sequence
from typing import TypedDict

from processing.groma_instruct.selection import SelectedImage


class Answer(TypedDict):
    """What the model said about an image; a line of `answers.jsonl`.

    Args:
        image_id (`str`): number of the image.
        boxes_xyxy (`list` of 4 `float`): the regions asked about, in absolute pixels; a number in `text` counts them
            from 1.
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


def current_answers(answers: Sequence[Answer], selection: Sequence[SelectedImage]) -> dict[str, Answer]:
    """The answers that fit the selection, as their numbers stand for the same regions.

    Of several answers about an image the last one counts.

    Args:
        answers (`Sequence[Answer]`): of all runs.
        selection (`Sequence[SelectedImage]`): the images as they are selected now.

    Returns:
        `dict`: answers by the number of their image.
    """
    boxes = {selected["image_id"]: selected["boxes_xyxy"] for selected in selection}
    return {answer["image_id"]: answer for answer in answers if boxes.get(answer["image_id"]) == answer["boxes_xyxy"]}
