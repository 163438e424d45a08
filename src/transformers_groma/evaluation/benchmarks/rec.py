"""Referring expression comprehension (REC): find the one object that an expression refers to.

The paper's protocol: answers of three tokens by greedy decoding; the first box of an answer is right if its IoU with
the target is above 0.5, and an answer without a box is wrong. Rows are those of RefCOCO, RefCOCO+ and RefCOCOg from
`processing/refcoco.py --task rec --evaluation`, or of `groma data shapes --task rec --evaluation`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset

from ...box_arrays import IOU_THRESHOLD
from ..benchmark import (
    RIGHT,
    WRONG,
    Asking,
    Benchmark,
    BenchmarkRows,
    Box,
    Metric,
    PublishedMetric,
    Row,
    row_name,
    rows_without_image,
)
from ..metrics.rec_accuracy import THRESHOLDS, first_box_ious, rec_accuracy
from ..predictions import Prediction
from ..reports.plots import plot_iou_histogram
from ..respondents import ChatRespondent

# `<roi>`, the name of a region, `</roi>`: the paper's protocol.
MAX_NEW_TOKENS = 3

METRICS = (
    Metric(
        "acc@0.5",
        "share of answers whose first box has an IoU above 0.5 with the target; no box counts as wrong (the paper's)",
    ),
    *(Metric(f"acc@{threshold}", f"the same above {threshold}") for threshold in THRESHOLDS[1:]),
    Metric("mean_iou", "mean IoU of the first box, 0 where there is none"),
    Metric("missing", "share of answers without a box"),
    Metric("any_acc@0.5", "share of answers with any box above 0.5 (for analysis)"),
    Metric("best_of_n_iou", "mean IoU of the best box of each answer (for analysis)"),
)
PUBLISHED = tuple(
    PublishedMetric(dataset, split, "acc@0.5", value)
    for dataset, split, value in (
        ("refcoco", "val", 0.8953),
        ("refcoco", "testA", 0.9209),
        ("refcoco", "testB", 0.8626),
        ("refcoco+", "val", 0.8390),
        ("refcoco+", "testA", 0.8891),
        ("refcoco+", "testB", 0.7805),
        ("refcocog", "val", 0.8637),
        ("refcocog", "test", 0.8701),
    )
)


def rec_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask all rows, and check that each has one target.

    Args:
        dataset (`Dataset`): evaluation columns.

    Returns:
        `BenchmarkRows`: the rows as they are.

    Raises:
        ValueError: a row has no target, or several.
    """
    rows = rows_without_image(dataset)
    for index, row in enumerate(rows):
        if len(row["target_boxes_xyxy"]) != 1:
            raise ValueError(
                f"{row_name(index, row)} has {len(row['target_boxes_xyxy'])} `target_boxes_xyxy`; an expression means "
                "one object. Where there are several to find, use the benchmark lvis-ground."
            )
    return BenchmarkRows(dataset, rows)


def score_rec(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of answers to expressions.

    Args:
        predictions (`Sequence[Prediction]`): the answers.
        rows (`Sequence[Mapping]`): evaluation rows, one for each answer; their `target_boxes_xyxy` hold one box.

    Returns:
        `dict[str, float]`: see [`rec_accuracy`].

    Example:
    >>> from transformers_groma.regions import Regions
    >>> answer = Prediction(0, "7", "", [("", Regions([[0.0, 0.0, 10.0, 9.0]]))], "")
    >>> score_rec([answer], [{"target_boxes_xyxy": [[0.0, 0.0, 10.0, 10.0]]}])["mean_iou"]
    0.9
    """
    return rec_accuracy([prediction.boxes_xyxy for prediction in predictions], _targets(rows))


def score_rec_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each answer by the IoU of its first box, or 0 if it has none.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_rec`].

    Returns:
        `list[float]`: one an answer.
    """
    return first_box_ious([prediction.boxes_xyxy for prediction in predictions], _targets(rows)).tolist()


def rec_verdict(score: float, prediction: Prediction, row: Row) -> str:
    """Call an answer right if the IoU of its first box is above 0.5, as for `acc@0.5`, and wrong otherwise.

    Args:
        score (`float`): IoU of the first box.
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row.

    Returns:
        `str`: "right" or "wrong".

    Example:
    >>> answer = Prediction(0, "7", "", [], "")
    >>> rec_verdict(0.51, answer, {}), rec_verdict(0.5, answer, {})
    ('right', 'wrong')
    """
    return RIGHT if score > IOU_THRESHOLD else WRONG


def plot_ious(
    predictions: Sequence[Prediction], rows: Sequence[Row], metrics: Mapping[str, float], path: Path
) -> Path:
    """Draw a histogram of the IoU of first boxes.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_rec`].
        metrics (`Mapping[str, float]`): not used.
        path (`Path`): PNG file to write.

    Returns:
        `Path`: the file.
    """
    return plot_iou_histogram(score_rec_rows(predictions, rows), path)


def _targets(rows: Sequence[Row]) -> list[Box]:
    return [row["target_boxes_xyxy"][0] for row in rows]


BENCHMARK = Benchmark(
    name="rec",
    title="Referring expression comprehension",
    schemas=("evaluation",),
    prepare=rec_rows,
    respondent=ChatRespondent,
    score=score_rec,
    score_rows=score_rec_rows,
    metrics=METRICS,
    published=PUBLISHED,
    asking=Asking("rec", MAX_NEW_TOKENS),
    plots={"iou_histogram.png": plot_ious},
    verdict=rec_verdict,
)

__all__ = ["BENCHMARK", "plot_ious", "rec_rows", "rec_verdict", "score_rec", "score_rec_rows"]
