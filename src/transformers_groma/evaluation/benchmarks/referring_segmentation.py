"""Referring segmentation: the pixels of what an expression refers to.

The model is asked as in `rec.py`: one expression a row, in the standard question, and a generated answer. The masks of
all regions that the answer names count as one mask, as do those of the targets. Rows are those of `rec.py` with the
column `target_masks`: of `processing/refcoco.py --task rec --evaluation`, or of `groma data shapes --task rec
--evaluation`. A row without any target is an expression that refers to nothing in its image.

`--protocol glamm-release` follows the script that GLaMM was released with, as far as a model that points at regions
can: at most three expressions of an image, drawn at random, in wordings that are drawn at random; cIoU and gIoU alone,
with an IoU of 1 where neither mask has a pixel. Two things differ. Both draws come from a seed, while the script has
none. And the script feeds the true answer to the model, "Sure, it is [SEG].", with all expressions of the image in one
conversation, and reads the mask from the state at [SEG]; here the region is the answer, so it is generated, and each
expression is asked about in a conversation of its own: true answers to the others would name regions of the image.
"""

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

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
# The protocol of GLaMM's script.
GLAMM_RELEASE = "glamm-release"
EXPRESSIONS_PER_IMAGE = 3
RELEASE_SEED = 0

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
    return BenchmarkRows(dataset, _rows_with_masks(dataset))


def glamm_release_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask at most three expressions of each image, drawn at random from a fixed seed.

    Args:
        dataset (`Dataset`): evaluation columns and `target_masks`.

    Returns:
        `BenchmarkRows`: the rows that are drawn, in their order. The draw for an image depends on its own rows alone.

    Raises:
        ValueError: see [`referring_segmentation_rows`].
    """
    rows = _rows_with_masks(dataset)
    of_image: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        # Images without a name all count as different.
        of_image.setdefault((row["source"], row["image_id"] or f"row {index}"), []).append(index)
    drawn = []
    for (source, image_id), indices in of_image.items():
        draw = random.Random(f"{RELEASE_SEED}/{source}/{image_id}")
        drawn += draw.sample(indices, min(EXPRESSIONS_PER_IMAGE, len(indices)))
    drawn.sort()
    return BenchmarkRows(dataset.select(drawn), [rows[index] for index in drawn])


def score_referring_segmentation(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of answers to expressions.

    Args:
        predictions (`Sequence[Prediction]`): the answers, with masks.
        rows (`Sequence[Mapping]`): evaluation rows, one for each answer, with `target_masks`.

    Returns:
        `dict[str, float]`: see [`referring_segmentation_scores`].
    """
    return referring_segmentation_scores(*_masks(predictions, rows))


def score_glamm_release(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute the two metrics of GLaMM's script.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_referring_segmentation`].

    Returns:
        `dict[str, float]`: `ciou` and `giou`.
    """
    scores = score_referring_segmentation(predictions, rows)
    return {metric.name: scores[metric.name] for metric in (CIOU, GIOU)}


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


def _rows_with_masks(dataset: Dataset) -> list[dict[str, Any]]:
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


def _masks(predictions: Sequence[Prediction], rows: Sequence[Row]) -> tuple[list[Any], list[Any]]:
    return [prediction.all_masks for prediction in predictions], [row["target_masks"] for row in rows]


BENCHMARK = Benchmark(
    name="referring-segmentation",
    title="Referring segmentation",
    schemas=("evaluation",),
    more_columns=("target_masks",),
    prepare=referring_segmentation_rows,
    respondent=ChatRespondent,
    score=score_referring_segmentation,
    score_rows=score_referring_segmentation_rows,
    metrics=METRICS,
    asking=Asking("rec", MAX_NEW_TOKENS, masks=True),
    needs_masks=True,
    drawn_masks=answer_and_target_masks,
    verdict=segmentation_verdict,
)
RELEASE_BENCHMARK = Benchmark(
    name=BENCHMARK.name,
    title="Referring segmentation, as GLaMM's released script measures it",
    protocol=GLAMM_RELEASE,
    schemas=BENCHMARK.schemas,
    more_columns=BENCHMARK.more_columns,
    prepare=glamm_release_rows,
    respondent=ChatRespondent,
    score=score_glamm_release,
    score_rows=score_referring_segmentation_rows,
    metrics=(CIOU, GIOU),
    asking=Asking("rec", MAX_NEW_TOKENS, prompt_seed=RELEASE_SEED, masks=True),
    needs_masks=True,
    drawn_masks=answer_and_target_masks,
    verdict=segmentation_verdict,
)

__all__ = [
    "BENCHMARK",
    "GLAMM_RELEASE",
    "RELEASE_BENCHMARK",
    "glamm_release_rows",
    "referring_segmentation_rows",
    "score_glamm_release",
    "score_referring_segmentation",
    "score_referring_segmentation_rows",
    "segmentation_verdict",
]
