"""Options of an image folder: which rows to make, and the format of its boxes."""

from dataclasses import dataclass

from ..boxes import BOX_FORMATS, BoxFormat
from .columns import Schema
from .image_files import BOXES_OF, BoxesOf
from .prompts import WORDINGS, Wording

QUESTION_TASKS = ("region-caption", "rec", "grounding")
# "conversation" is all kinds of questions, and the conversations that lines bring.
TASKS = ("conversation", *QUESTION_TASKS, "detection")


@dataclass(frozen=True)
class FolderOptions:
    """Which rows to make from an image folder.

    Args:
        task (`str`): "region-caption" (describe a box), "rec" (find the one thing that a text is about), "grounding"
            (find all boxes that share a text), "conversation" (all three, and the conversations of `messages`) or
            "detection".
        box_format (`str`): of `bbox`: "xywh", "xyxy" or "cxcywh".
        normalized (`bool`): whether `bbox` are fractions of the image size instead of pixels.
        boxes_of (`str`, *optional*): whether boxes were drawn on the "upright" image, as a viewer shows it, or on the
            "stored" one; only needed where EXIF data turn or mirror an image and neither its `width` and `height` in
            the line nor the boxes tell.
        evaluation (`bool`): evaluation columns: one question per row, in its standard wording, without its answer.
        questions (`int`): most questions of a row.
        max_regions (`int`): region slots of the model that will learn from the rows, at least 2.
        seed (`int`): draws the wording of each question.
        wording (`str`): the family that will learn from the rows, "groma" or "glamm", in whose words questions and
            answers are. Conversations of `messages` stay as they are.

    Raises:
        ValueError: a value is out of range.

    Example:
    >>> FolderOptions("rec", evaluation=True).schema
    'evaluation'
    """

    task: str = "conversation"
    box_format: BoxFormat = "xywh"
    normalized: bool = False
    evaluation: bool = False
    questions: int = 8
    max_regions: int = 100
    seed: int = 0
    boxes_of: BoxesOf | None = None
    wording: Wording = "groma"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.box_format not in BOX_FORMATS:
            raise ValueError(f"`box_format` must be one of {', '.join(BOX_FORMATS)}, got {self.box_format!r}.")
        if self.boxes_of is not None and self.boxes_of not in BOXES_OF:
            raise ValueError(f"`boxes_of` must be one of {', '.join(BOXES_OF)}, got {self.boxes_of!r}.")
        if self.wording not in WORDINGS:
            raise ValueError(f"`wording` must be one of {', '.join(WORDINGS)}, got {self.wording!r}.")
        if self.evaluation and self.wording != "groma":
            raise ValueError(
                f"`wording` is {self.wording!r}, but rows to evaluate have the standard question, which "
                "`groma evaluate` asks each model in its own words: leave `wording` out."
            )
        if self.evaluation and self.task not in QUESTION_TASKS:
            raise ValueError(
                f"`evaluation` needs a task with one kind of questions, {', '.join(QUESTION_TASKS)}; `task` is "
                f"{self.task!r}."
            )
        if self.questions < 1:
            raise ValueError(f"`questions` must be at least 1, got {self.questions}.")
        if self.max_regions < 2:
            raise ValueError(f"`max_regions` must be at least 2, got {self.max_regions}.")

    @property
    def max_boxes(self) -> int:
        """The most boxes that a row may name: a batch may mix rows that point at boxes and rows that ask for them."""
        return self.max_regions // 2

    @property
    def schema(self) -> Schema:
        """The schema of the rows."""
        if self.task == "detection":
            return "detection"
        return "evaluation" if self.evaluation else "conversation"


__all__ = ["QUESTION_TASKS", "TASKS", "FolderOptions"]
