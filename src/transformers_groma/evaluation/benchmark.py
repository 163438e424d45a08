"""What a benchmark is: its rows, the respondent that answers them, its metrics. `benchmarks/` has one file for each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from ..data.columns import Schema
from ..data.prompts import Task, question_parts
from .predictions import Prediction

# Only a judge needs the client of endpoints.
if TYPE_CHECKING:
    from .judge import Judge

Row = Mapping[str, Any]
Box = Sequence[float]
# Draws answers to rows, and the metrics that they got, into a PNG file.
Plot = Callable[[Sequence[Prediction], Sequence[Row], Mapping[str, float], Path], Any]


@dataclass(frozen=True)
class Metric:
    """A metric of a benchmark.

    Args:
        name (`str`): its key in `results.json`.
        meaning (`str`): what it is, for the report.
        is_share (`bool`): whether reports print it times 100, as papers do.
    """

    name: str
    meaning: str
    is_share: bool = True


@dataclass(frozen=True)
class PublishedMetric:
    """A metric of Groma-7B, as the paper reports it.

    Args:
        dataset (`str`): as the column `source` of the rows names it.
        split (`str`): of the dataset; empty where there is only one.
        metric (`str`): its name.
        value (`float`): in the unit of `results.json`, not times 100.
    """

    dataset: str
    split: str
    metric: str
    value: float


Prepared = TypeVar("Prepared")


class Respondent(Protocol, Generic[Prepared]):
    """Whatever answers rows: a model with its processor."""

    def question(self, row: Row) -> str:
        """What a row is asked, for people; empty where the image is all the question.

        Args:
            row (`Mapping`): the row, without its image.

        Returns:
            `str`: the question in words.

        Raises:
            ValueError: the row cannot be asked as wanted.
        """
        ...

    def prepare(self, rows: Sequence[Row]) -> Prepared:
        """Prepare a batch. Runs ahead of the model, in another thread.

        Args:
            rows (`Sequence[Mapping]`): a batch, images decoded, and `index`, the number of the row.

        Returns:
            The batch, ready for `answer`.
        """
        ...

    def answer(self, prepared: Prepared) -> list[Prediction]:
        """Answer a batch.

        Args:
            prepared: what `prepare` returned.

        Returns:
            `list[Prediction]`: one a row, in order.
        """
        ...


class Asking(NamedTuple):
    """How a benchmark asks its questions.

    Attributes:
        task (`str`, *optional*): whose templates `prompt_seed` draws from; without it rows can only be asked in their
            own words.
        max_new_tokens (`int`, *optional*): longest answer; `None` where the model answers without words.
        prompt_seed (`int`, *optional*): draws the wording of questions; see [`question_of`].
    """

    task: Task | None = None
    max_new_tokens: int | None = None
    prompt_seed: int | None = None


class BenchmarkRows(NamedTuple):
    """What a benchmark asks and compares with, one a question.

    Attributes:
        asked (`Dataset`): the rows whose question or image the model gets.
        rows (`Sequence[Mapping]`): what scoring needs of each: its columns without the image.
    """

    asked: Dataset
    rows: Sequence[Row]


def answer_and_target_boxes(prediction: Prediction, row: Row) -> tuple[list[list[float]], list[list[float]]]:
    """The boxes of an answer and those of the row's targets, if it has any.

    Args:
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row, without its image.

    Returns:
        `tuple[list, list]`: boxes `xyxy` in pixels.
    """
    return prediction.boxes_xyxy, row.get("target_boxes_xyxy") or []


RIGHT, PARTLY_RIGHT, WRONG, NOT_JUDGED = "right", "partly right", "wrong", ""


def verdict_of_score(score: float, prediction: Prediction, row: Row) -> str:
    """An answer of score 1 is right, one of 0 wrong, and everything between partly right.

    Args:
        score (`float`): of `score_rows`, 0..1.
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row, without its image.

    Returns:
        `str`: "right", "partly right" or "wrong".
    """
    if score >= 1:
        return RIGHT
    return PARTLY_RIGHT if score > 0 else WRONG


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: which rows it has, what answers them, and how answers are scored.

    Args:
        name (`str`): in commands and files.
        title (`str`): in reports.
        schemas (`tuple[str, ...]`): which columns its datasets may have; the first that fits is taken.
        prepare (`Callable[[Dataset], BenchmarkRows]`): checks the rows and says what is asked.
        respondent (`Callable[[PreTrainedModel, ProcessorMixin or BaseImageProcessor, Asking], Respondent]`): makes a
            model answer its rows.
        score (`Callable[[Sequence[Prediction], Sequence[Mapping]], dict[str, float]]`): all metrics of answers to
            rows, from plain boxes and texts; no model is needed.
        score_rows (`Callable[[Sequence[Prediction], Sequence[Mapping]], list[float]]`): how good each answer is, 0..1,
            to find the worst.
        metrics (`tuple[Metric, ...]`): in the order of reports.
        published (`tuple[PublishedMetric, ...]`): what the paper reports.
        asking (`Asking`): how its questions are asked, unless a run says otherwise.
        model_types (`tuple[str, ...]`): `model_type` of the models that it can measure.
        more_columns (`tuple[str, ...]`): columns that it reads beside those of its schema, where they are there.
        published_files (`tuple[str, ...]`): file names of the dataset as its authors published it, if that has another
            layout than ours.
        read_published (`Callable[[Sequence[Path], Path], Dataset]`, *optional*): makes rows of these files and a
            folder of images.
        review (`Callable[[Sequence[Prediction], Sequence[Mapping], Path, Judge or None], list[Mapping]]`, *optional*):
            where a judge model scores the answers: asks it, if there is one, keeps what it says in the folder of the
            run, and returns the rows with its reviews, for `score` and `score_rows`.
        plots (`Mapping[str, Plot]`): file names, and what draws them.
        drawn_boxes (`Callable[[Prediction, Mapping], tuple[list, list]]`): the boxes of an answer and those that are
            right, `xyxy` in pixels, for the gallery.
        verdict (`Callable[[float, Prediction, Mapping], str]`): whether an answer of a score is "right", "partly
            right" or "wrong"; empty if it is unknown.
        target_name (`str`): what the gallery calls the right boxes of `drawn_boxes`.
    """

    name: str
    title: str
    schemas: tuple[Schema, ...]
    prepare: Callable[[Dataset], BenchmarkRows]
    respondent: Callable[[PreTrainedModel, ProcessorMixin | BaseImageProcessor, Asking], Respondent]
    score: Callable[[Sequence[Prediction], Sequence[Row]], dict[str, float]]
    score_rows: Callable[[Sequence[Prediction], Sequence[Row]], list[float]]
    metrics: tuple[Metric, ...]
    published: tuple[PublishedMetric, ...] = ()
    asking: Asking = field(default_factory=Asking)
    model_types: tuple[str, ...] = ("groma",)
    more_columns: tuple[str, ...] = ()
    published_files: tuple[str, ...] = ()
    read_published: Callable[[Sequence[Path], Path], Dataset] | None = None
    review: "Callable[[Sequence[Prediction], Sequence[Row], Path, Judge | None], list[Row]] | None" = None
    plots: Mapping[str, Plot] = field(default_factory=dict)
    drawn_boxes: Callable[[Prediction, Row], tuple[list[list[float]], list[list[float]]]] = answer_and_target_boxes
    verdict: Callable[[float, Prediction, Row], str] = verdict_of_score
    target_name: str = "Expected box"


def rows_without_image(dataset: Dataset) -> list[dict[str, Any]]:
    """The columns of a dataset that are not pictures, all rows in memory.

    Args:
        dataset (`Dataset`): with an `image` column.

    Returns:
        `list[dict]`: the rows.
    """
    return dataset.remove_columns("image").to_list()


def row_name(index: int, row: Row) -> str:
    """How an error names a row.

    Args:
        index (`int`): its number.
        row (`Mapping`): the row.

    Returns:
        `str`: number and image.

    Example:
    >>> row_name(3, {"image_id": "7"})
    "Row 3 (image_id '7')"
    """
    return f"Row {index} (image_id {row['image_id']!r})"


def question_of(row: Row, task: Task | None = None, prompt_seed: int | None = None) -> dict[str, Any]:
    """A row as it is asked: without an answer at its end, and in other words if wanted.

    Without a seed a row keeps the question that it was written with: that of `processing/` and of `groma data shapes
    --evaluation` is the standard one of its task. With a seed the wording is drawn from the templates of `data/prompts.py`, by what
    is asked about, so that it does not depend on the order of rows.

    Args:
        row (`Mapping`): conversation or evaluation columns.
        task (`str`, *optional*): whose templates are drawn from.
        prompt_seed (`int`, *optional*): another seed draws other questions.

    Returns:
        `dict`: the row with other `messages`.

    Raises:
        ValueError: the question of the row lacks what the templates of the task ask about.

    Example:
    >>> from transformers_groma.data.columns import phrase_part, text_part
    >>> content = [text_part("Locate "), phrase_part("the cup"), text_part(" in this image.")]
    >>> row = {"image_id": "7", "boxes_xyxy": [], "messages": [{"role": "user", "content": content}]}
    >>> [part["text"] for part in question_of(row, "rec", prompt_seed=0)["messages"][-1]["content"]]
    ['Find ', 'the cup', ' in the picture.']
    """
    messages = list(row["messages"])
    if messages[-1]["role"] == "assistant":
        messages.pop()
    if task is None or prompt_seed is None:
        return {**row, "messages": messages}
    content = messages[-1]["content"]
    phrase = next((part["text"] for part in content if part["type"] == "phrase"), None)
    region = next((part["boxes"][0] for part in content if part["type"] == "region"), None)
    topic = phrase if region is None else list(row["boxes_xyxy"][region])
    try:
        parts = question_parts(
            task, phrase=phrase, region=region, record=f"{row['image_id']}/{topic}", seed=prompt_seed
        )
    except ValueError as error:
        raise ValueError(
            f"The question about image {row['image_id']!r} cannot be put into other words. {error} Leave "
            f"`prompt_seed` out."
        ) from None
    images = [part for part in content if part["type"] == "image"]
    messages[-1] = {**messages[-1], "content": images + parts}
    return {**row, "messages": messages}


def question_text(row: Row) -> str:
    """The question of a row in words, for people.

    Args:
        row (`Mapping`): conversation or evaluation columns.

    Returns:
        `str`: its text; `<region>` stands for a box that the user points at.

    Example:
    >>> from transformers_groma.data.columns import image_part, region_part, text_part
    >>> question_text({"messages": [{"role": "user", "content": [image_part(), text_part("What is "), region_part(0)]}]})
    'What is <region>'
    """
    content = next(message["content"] for message in reversed(row["messages"]) if message["role"] == "user")
    return "".join("<region>" if part["type"] == "region" else part["text"] for part in content)


__all__ = [
    "NOT_JUDGED",
    "PARTLY_RIGHT",
    "RIGHT",
    "WRONG",
    "Asking",
    "Benchmark",
    "BenchmarkRows",
    "Metric",
    "PublishedMetric",
    "Respondent",
    "answer_and_target_boxes",
    "question_of",
    "question_text",
    "row_name",
    "rows_without_image",
    "verdict_of_score",
]
