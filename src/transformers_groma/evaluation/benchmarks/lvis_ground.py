"""LVIS-Ground: find all objects of a category.

Four protocols score the same answers. AS-MANY is the paper's; LVISEval is what the released script runs; ANY and
MERGED-BOXES come from phrase grounding. Boxes of an answer are ranked by the score of their region, equal scores by
their order. Rows are those of `processing/lvis_ground.py`, or of `groma data shapes --task grounding --evaluation`.
They have no masks, so sizes go by boxes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset

from ...box_arrays import IOU_THRESHOLD
from ...boxes import box_iou
from ..benchmark import (
    PARTLY_RIGHT,
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
from ..metrics.as_many_recall import any_recall, as_many_recall, as_many_recall_of_each, merged_boxes_recall
from ..metrics.lvis_average_precision import lvis_ground_eval
from ..predictions import Prediction
from ..reports.plots import plot_recall_by_size
from ..respondents import ChatRespondent

# An answer may name all the regions of an image.
MAX_NEW_TOKENS = 128

# Prefix of a protocol's metrics, its name in reports, and what it counts.
PROTOCOLS: tuple[tuple[str, str, str], ...] = (
    ("", "AS-MANY, the paper's", "of k targets the k best boxes count, recall over all targets"),
    (
        "lvis_eval_",
        "LVISEval, the released script's",
        "all boxes count with a score of 1, recall averaged over categories",
    ),
    ("any_", "ANY", "share of questions with any target hit by any box"),
    ("merged_", "MERGED-BOXES", "share of questions where the box around all boxes hits the one around all targets"),
)
RECALLS = {
    "ar": "mean over IoU 0.50:0.95",
    "ar@0.5": "at IoU 0.5",
    "ar@0.75": "at IoU 0.75",
    "ar_small": "small targets (up to 32² pixels)",
    "ar_medium": "medium targets",
    "ar_large": "large targets (from 96² pixels)",
}
METRICS = tuple(
    Metric(f"{prefix}{name}", f"{title}: {meaning if name == 'ar' else ''}{'; ' if name == 'ar' else ''}{which}")
    for prefix, title, meaning in PROTOCOLS
    for name, which in RECALLS.items()
)
PUBLISHED = tuple(
    PublishedMetric("lvis_ground", "test", name, value)
    for name, value in zip(RECALLS, (0.288, 0.379, 0.303, 0.087, 0.356, 0.643), strict=True)
)


def lvis_ground_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask all rows, and check that each has targets.

    Args:
        dataset (`Dataset`): evaluation columns.

    Returns:
        `BenchmarkRows`: the rows as they are.

    Raises:
        ValueError: a row has no targets, or an image is asked twice for the same category.
    """
    rows = rows_without_image(dataset)
    seen: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        if not row["target_boxes_xyxy"]:
            raise ValueError(f"{row_name(index, row)} has no `target_boxes_xyxy`: there is nothing to find.")
        first = seen.setdefault((row["image_id"], row["category"]), index)
        if first != index:
            raise ValueError(
                f"{row_name(index, row)} asks for {row['category']!r} as row {first} does. Keep one of them."
            )
    return BenchmarkRows(dataset, rows)


def score_lvis_ground(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of answers to questions for all objects of a category.

    Args:
        predictions (`Sequence[Prediction]`): the answers.
        rows (`Sequence[Mapping]`): evaluation rows, one for each answer: `target_boxes_xyxy`, `category`, `image_id`.

    Returns:
        `dict[str, float]`: those of [`as_many_recall`], and the same with the prefixes `lvis_eval_`, `any_` and
            `merged_`.

    Example:
    >>> from transformers_groma.regions import Regions
    >>> cups = [[0.0, 0.0, 50.0, 50.0], [100.0, 0.0, 150.0, 50.0]]
    >>> answer = Prediction(0, "7", "", [("", Regions(cups[:1]))], "")
    >>> metrics = score_lvis_ground([answer], [{"image_id": "7", "category": "cup", "target_boxes_xyxy": cups}])
    >>> metrics["ar"], metrics["any_ar"]
    (0.5, 1.0)
    """
    boxes, scores = _answers(predictions)
    targets = [row["target_boxes_xyxy"] for row in rows]
    found = {
        "": as_many_recall(boxes, scores, targets),
        "lvis_eval_": lvis_ground_eval(
            boxes, targets, [row["category"] for row in rows], [row["image_id"] for row in rows]
        ),
        "any_": any_recall(boxes, scores, targets),
        "merged_": merged_boxes_recall(boxes, scores, targets),
    }
    return {f"{prefix}{name}": value for prefix, metrics in found.items() for name, value in metrics.items()}


def score_lvis_ground_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each answer by its recall under AS-MANY, mean over IoU 0.50:0.95.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_lvis_ground`].

    Returns:
        `list[float]`: one an answer.
    """
    boxes, scores = _answers(predictions)
    return as_many_recall_of_each(boxes, scores, [row["target_boxes_xyxy"] for row in rows]).tolist()


def lvis_ground_verdict(score: float, prediction: Prediction, row: Row) -> str:
    """Call an answer right if it has one box for each target and finds them all at an IoU of 0.5.

    It is wrong if it finds none, and partly right in between.

    Args:
        score (`float`): recall of the answer; not used.
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row.

    Returns:
        `str`: "right", "partly right" or "wrong".

    Example:
    >>> from transformers_groma.regions import Regions
    >>> dog, cat = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]
    >>> both = {"target_boxes_xyxy": [dog, cat]}
    >>> [lvis_ground_verdict(0.0, Prediction(0, "7", "", [("", Regions(boxes))], ""), both)
    ...  for boxes in ([cat, dog], [dog], [[50.0, 0.0, 60.0, 10.0]])]
    ['right', 'partly right', 'wrong']
    """
    boxes, targets = prediction.boxes_xyxy, row["target_boxes_xyxy"]
    if not boxes:
        return WRONG
    iou = box_iou(torch.tensor(targets), torch.tensor(boxes))
    found = int((iou.amax(dim=1) >= IOU_THRESHOLD).sum())
    if found == len(targets) == len(boxes):
        return RIGHT
    return PARTLY_RIGHT if found > 0 else WRONG


def plot_sizes(
    predictions: Sequence[Prediction], rows: Sequence[Row], metrics: Mapping[str, float], path: Path
) -> Path:
    """Draw the recall by size as bars.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): not used.
        metrics (`Mapping[str, float]`): what [`score_lvis_ground`] returned.
        path (`Path`): PNG file to write.

    Returns:
        `Path`: the file.
    """
    return plot_recall_by_size(metrics, path, {prefix: title.split(",")[0] for prefix, title, _ in PROTOCOLS})


def _answers(predictions: Sequence[Prediction]) -> tuple[list[list[Box]], list[list[float]]]:
    """Boxes of each answer and their scores."""
    return [prediction.boxes_xyxy for prediction in predictions], [prediction.scores for prediction in predictions]


BENCHMARK = Benchmark(
    name="lvis-ground",
    title="LVIS-Ground: all objects of a category",
    schemas=("evaluation",),
    prepare=lvis_ground_rows,
    respondent=ChatRespondent,
    score=score_lvis_ground,
    score_rows=score_lvis_ground_rows,
    metrics=METRICS,
    published=PUBLISHED,
    asking=Asking("grounding", MAX_NEW_TOKENS),
    plots={"recall_by_size.png": plot_sizes},
    verdict=lvis_ground_verdict,
)

__all__ = [
    "BENCHMARK",
    "lvis_ground_rows",
    "lvis_ground_verdict",
    "plot_sizes",
    "score_lvis_ground",
    "score_lvis_ground_rows",
]
