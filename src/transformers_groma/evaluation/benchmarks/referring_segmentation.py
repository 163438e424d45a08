"""Referring segmentation: the pixels of what an expression refers to.

The model is asked as in `rec.py`: one expression a row, in the standard question, and a generated answer. The masks of
all regions that the answer names count as one mask, as do those of the targets. Rows are those of `rec.py` with the
column `target_masks`: of `processing/refcoco.py --task rec --evaluation`, or of `groma data shapes --task rec
--evaluation`. A row without any target is an expression that refers to nothing in its image.

`glamm_segmentation.py` has the protocols of GLaMM's paper and of its released script.
"""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from ...model_files import ANSWERING_MODELS
from ..benchmark import (
    RIGHT,
    WRONG,
    Asking,
    Benchmark,
    BenchmarkRows,
    Metric,
    Row,
    answer_and_target_masks,
    row_name,
    rows_without_image,
)
from ..metrics.referring_segmentation import (
    THRESHOLDS,
    ious_of_overlaps,
    mask_overlaps,
    referring_segmentation_scores,
)
from ..predictions import Prediction
from ..respondents import ChatRespondent

# `<roi>`, a region or several, `</roi>`. An expression may refer to more than one object.
MAX_NEW_TOKENS = 16
# From this IoU on the gallery calls a mask right.
RIGHT_IOU = 0.5

CIOU = Metric("ciou", "sum of all intersections over the sum of all unions; large objects count more")
GIOU = Metric("giou", "mean IoU of the answers; 1 where neither mask has a pixel")
METRICS = (
    CIOU,
    GIOU,
    *(Metric(f"p@{threshold}", f"share of answers with an IoU of at least {threshold}") for threshold in THRESHOLDS),
    Metric("missing", "share of answers without a region"),
)


def referring_segmentation_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask all rows, and check that each target has a mask.

    Args:
        dataset (`Dataset`): evaluation columns and `target_masks`.

    Returns:
        `BenchmarkRows`: the rows as they are.

    Raises:
        ValueError: no column `target_masks`, or a target without a mask.
    """
    return BenchmarkRows(dataset, rows_with_masks(dataset))


def rows_with_masks(dataset: Dataset) -> list[dict[str, Any]]:
    """The rows without their images, each target with its mask.

    Args:
        dataset (`Dataset`): evaluation columns and `target_masks`.

    Returns:
        `list[dict]`: one a row; `target_masks` is an empty list where an expression refers to nothing.

    Raises:
        ValueError: no column `target_masks`, or a target without a mask.
    """
    if "target_masks" not in dataset.features:
        raise ValueError(
            "`dataset` has no column `target_masks`: there is nothing to compare masks with. `groma data shapes` and "
            "the scripts of processing/ write it for sources with segmentations; make the rows again."
        )
    rows = rows_without_image(dataset)
    for index, row in enumerate(rows):
        # A mixture has null where a source has no masks at all, and so may a row without targets.
        masks = row["target_masks"] = row["target_masks"] or []
        if len(masks) != len(row["target_boxes_xyxy"]) or None in masks:
            raise ValueError(
                f"{row_name(index, row)} has a target without a mask in `target_masks`. Leave such rows out: an "
                "answer cannot be compared with it."
            )
    return rows


def score_referring_segmentation(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of answers to expressions.

    Args:
        predictions (`Sequence[Prediction]`): the answers, with masks.
        rows (`Sequence[Mapping]`): evaluation rows, one for each answer, with `target_masks`.

    Returns:
        `dict[str, float]`: see [`referring_segmentation_scores`].
    """
    return referring_segmentation_scores(*_masks(predictions, rows))


def score_referring_segmentation_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each answer by its IoU with the target.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_referring_segmentation`].

    Returns:
        `list[float]`: one an answer.
    """
    return ious_of_overlaps(*mask_overlaps(*_masks(predictions, rows))).tolist()


def segmentation_verdict(score: float, prediction: Prediction, row: Row) -> str:
    """Call an answer right if its IoU is at least 0.5, as for `p@0.5`, and wrong otherwise.

    Args:
        score (`float`): its IoU.
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row.

    Returns:
        `str`: "right" or "wrong".
    """
    return RIGHT if score >= RIGHT_IOU else WRONG


def _masks(predictions: Sequence[Prediction], rows: Sequence[Row]) -> tuple[list[Any], list[Any]]:
    return [prediction.all_masks for prediction in predictions], [row["target_masks"] for row in rows]


BENCHMARK = Benchmark(
    name="referring-segmentation",
    title="Referring segmentation",
    schemas=("evaluation",),
    more_columns=("target_masks",),
    prepare=referring_segmentation_rows,
    respondent=ChatRespondent,
    model_types=ANSWERING_MODELS,
    score=score_referring_segmentation,
    score_rows=score_referring_segmentation_rows,
    metrics=METRICS,
    asking=Asking("rec", MAX_NEW_TOKENS, masks=True),
    needs_masks=True,
    drawn_masks=answer_and_target_masks,
    verdict=segmentation_verdict,
)

__all__ = [
    "BENCHMARK",
    "CIOU",
    "GIOU",
    "referring_segmentation_rows",
    "rows_with_masks",
    "score_referring_segmentation",
    "score_referring_segmentation_rows",
    "segmentation_verdict",
]
