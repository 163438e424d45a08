"""What a benchmark is: its rows, its respondent, its metrics, and how answers are scored and drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from ..data.columns import Schema
from ..data.prompts import Task
from ..masks import RLE
from .metrics.grounded_masks import Similarity
from .predictions import Prediction

# At run time only a judge needs the client of endpoints.
if TYPE_CHECKING:
    from .judge import Judge

Row = Mapping[str, Any]
Box = Sequence[float]  # xyxy, absolute pixels of the upright image
# Draws answers, the rows that they answer and their metrics into a PNG file.
Plot = Callable[[Sequence[Prediction], Sequence[Row], Mapping[str, float], Path], Any]


@dataclass(frozen=True)
class Metric:
    """A metric of a benchmark.

    Args:
        name (`str`): its key in `results.json`.
        meaning (`str`): what it is, for the report.
        is_share (`bool`): whether reports print it times 100, as papers do.
        is_optional (`bool`): whether reports leave it out where it was not computed, such as metrics of masks for a
            model that decodes none.
    """

    name: str
    meaning: str
    is_share: bool = True
    is_optional: bool = False


@dataclass(frozen=True)
class PublishedMetric:
    """A metric of a model, as its paper reports it.

    Args:
        dataset (`str`): name of the dataset in the column `source`.
        split (`str`): split of the dataset; empty where there is only one.
        metric (`str`): name of the metric.
        value (`float`): in the unit of `results.json`, not times 100.
        model (`str`): the model that it is of, as reports name it.
    """

    dataset: str
    split: str
    metric: str
    value: float
    model: str = "Groma-7B"


Prepared = TypeVar("Prepared")


class Respondent(Protocol, Generic[Prepared]):
    """A model that answers the rows of a benchmark."""

    def question(self, row: Row) -> str:
        """The question of a row in words, for people; empty if the image is the whole question.

        Args:
            row (`Mapping`): the row, without its image.

        Returns:
            `str`: the question.

        Raises:
            ValueError: the row cannot be put into the words that were asked for.
        """
        ...

    def prepare(self, rows: Sequence[Row]) -> Prepared:
        """Prepare a batch for the model; called in another thread, ahead of it.

        Args:
            rows (`Sequence[Mapping]`): a batch with its images decoded, and `index`, the number of each row.

        Returns:
            The batch, ready for `answer`.
        """
        ...

    def answer(self, prepared: Prepared) -> list[Prediction]:
        """Answer a batch.

        Args:
            prepared: a batch from `prepare`.

        Returns:
            `list[Prediction]`: one a row, in order.
        """
        ...


class Asking(NamedTuple):
    """How a benchmark asks its questions.

    Attributes:
        task (`str`, *optional*): whose templates `prompt_seed` draws from; without it rows can only be asked in their
            own words, or in the standard ones of the model.
        max_new_tokens (`int`, *optional*): longest answer; `None` where the model answers without words.
        prompt_seed (`int`, *optional*): draws the wording of questions; see `questions.question_of`.
        masks (`bool`): whether the masks of the regions that an answer names are decoded.
        kind (`str`, *optional*): a kind of question of `QuestionWording`, asked in the model's standard wording
            whatever the row's own question is.
    """

    task: Task | None = None
    max_new_tokens: int | None = None
    prompt_seed: int | None = None
    masks: bool = False
    kind: str | None = None


class BenchmarkRows(NamedTuple):
    """The rows that a model answers, and the truth for its answers.

    Attributes:
        asked (`Dataset`): the rows whose question or image the model gets.
        rows (`Sequence[Mapping]`): for each of them what scoring needs: its columns without the image.
    """

    asked: Dataset
    rows: Sequence[Row]


def answer_and_target_boxes(prediction: Prediction, row: Row) -> tuple[list[list[float]], list[list[float]]]:
    """The boxes of an answer, and the target boxes, if the row has any.

    Args:
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row, without its image.

    Returns:
        `tuple[list, list]`: boxes `xyxy` in pixels of the upright image.
    """
    return prediction.boxes_xyxy, row.get("target_boxes_xyxy") or []


def no_masks(prediction: Prediction, row: Row) -> tuple[list[RLE], list[RLE]]:
    """No masks to draw, neither of the answer nor of the row.

    Args:
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row, without its image.

    Returns:
        `tuple[list, list]`: two empty lists.
    """
    return [], []


def answer_and_target_masks(prediction: Prediction, row: Row) -> tuple[list[RLE], list[RLE]]:
    """The masks of an answer, and the target masks.

    Args:
        prediction (`Prediction`): the answer, with masks.
        row (`Mapping`): the row, without its image.

    Returns:
        `tuple[list, list]`: masks of the upright image, as COCO's RLE.
    """
    return prediction.all_masks, row["target_masks"]


RIGHT, PARTLY_RIGHT, WRONG, NOT_JUDGED = "right", "partly right", "wrong", ""


def verdict_of_score(score: float, prediction: Prediction, row: Row) -> str:
    """Call an answer right if its score is 1, wrong if it is 0, and partly right in between.

    Args:
        score (`float`): its score from `score_rows`, 0..1.
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
        name (`str`): its name in commands and files.
        title (`str`): its name in reports.
        schemas (`tuple[str, ...]`): which columns its datasets may have; the first schema that fits is used.
        prepare (`Callable[[Dataset], BenchmarkRows]`): checks the rows and says what is asked.
        respondent (`Callable[[PreTrainedModel, ProcessorMixin or BaseImageProcessor, Asking], Respondent]`): makes a
            respondent of a model and its processor.
        score (`Callable[[Sequence[Prediction], Sequence[Mapping]], dict[str, float]]`): all metrics of answers to
            rows, from plain boxes and texts; no model is needed.
        score_rows (`Callable[[Sequence[Prediction], Sequence[Mapping]], list[float]]`): how good each answer is, 0..1,
            to find the worst.
        metrics (`tuple[Metric, ...]`): what `score` returns, in the order of reports.
        published (`tuple[PublishedMetric, ...]`): what papers report for their models by this protocol.
        asking (`Asking`): how its questions are asked, unless a run says otherwise.
        protocol (`str`, *optional*): name of its protocol, where it is not the usual one of the benchmark; answers of
            different protocols do not compare.
        settings (`Mapping[str, Any]`): what its metrics depend on beside rows and answers, for `results.json`.
        with_similarity (`Callable[[Similarity, str], Benchmark]`, *optional*): where scoring asks how alike phrases
            are: makes the same benchmark with another function for that, of this name.
        needs_masks (`bool`): whether it compares masks, so that a model without a mask decoder is refused.
        model_types (`tuple[str, ...]`): `model_type` of the models that it can measure; a GLaMM has no boxes of its
            own, and says with masks where things are.
        more_columns (`tuple[str, ...]`): columns that it reads beside those of its schema, where they are there.
        published_files (`tuple[str, ...]`): file names of the dataset as its authors published it, if that has another
            layout than ours.
        read_published (`Callable[[Sequence[Path], Path], Dataset]`, *optional*): makes rows of these files and a
            folder of images.
        review (`Callable[[Sequence[Prediction], Sequence[Mapping], Path, Judge or None], list[Mapping]]`, *optional*):
            where a judge model scores the answers: asks it, if there is one, keeps what it says in the folder of the
            run, and returns the rows with its reviews, for `score` and `score_rows`.
        plots (`Mapping[str, Plot]`): file names, each with the function that draws it.
        drawn_boxes (`Callable[[Prediction, Mapping], tuple[list, list]]`): the boxes of an answer and those that are
            right, `xyxy` in pixels, for the gallery.
        drawn_masks (`Callable[[Prediction, Mapping], tuple[list, list]]`): the masks of an answer and those that are
            right, as RLE, for the gallery.
        verdict (`Callable[[float, Prediction, Mapping], str]`): whether an answer with its score from `score_rows` is
            "right", "partly right" or "wrong"; empty if unknown.
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
    protocol: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    with_similarity: "Callable[[Similarity, str], Benchmark] | None" = None
    needs_masks: bool = False
    model_types: tuple[str, ...] = ("groma",)
    more_columns: tuple[str, ...] = ()
    published_files: tuple[str, ...] = ()
    read_published: Callable[[Sequence[Path], Path], Dataset] | None = None
    review: "Callable[[Sequence[Prediction], Sequence[Row], Path, Judge | None], list[Row]] | None" = None
    plots: Mapping[str, Plot] = field(default_factory=dict)
    drawn_boxes: Callable[[Prediction, Row], tuple[list[list[float]], list[list[float]]]] = answer_and_target_boxes
    drawn_masks: Callable[[Prediction, Row], tuple[list[RLE], list[RLE]]] = no_masks
    verdict: Callable[[float, Prediction, Row], str] = verdict_of_score
    target_name: str = "Expected box"


def rows_without_image(dataset: Dataset) -> list[dict[str, Any]]:
    """Load all columns of a dataset but the images.

    Args:
        dataset (`Dataset`): one with an `image` column.

    Returns:
        `list[dict]`: the rows, in memory.
    """
    return dataset.remove_columns("image").to_list()


def row_name(index: int, row: Row) -> str:
    """Name a row in an error.

    Args:
        index (`int`): number of the row.
        row (`Mapping`): the row.

    Returns:
        `str`: its number and its image.

    Example:
    >>> row_name(3, {"image_id": "7"})
    "Row 3 (image_id '7')"
    """
    return f"Row {index} (image_id {row['image_id']!r})"


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
    "answer_and_target_masks",
    "no_masks",
    "row_name",
    "rows_without_image",
    "verdict_of_score",
]
