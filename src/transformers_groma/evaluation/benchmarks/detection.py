"""Region proposals: average precision and recall without classes, following COCO.

Regions are what the language model gets to choose from, after score threshold and NMS. Queries are all that the
proposer has to offer, ranked by the head that learned from COCO-style boxes, as in the paper's Table 6. Rows have the
detection columns: those of `processing/coco.py`, or of `groma data shapes --task detection`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from ...boxes import box_iou
from ...regions import Regions
from ..benchmark import (
    Asking,
    Benchmark,
    BenchmarkRows,
    Metric,
    PublishedMetric,
    Respondent,
    Row,
    rows_without_image,
)
from ..metrics.average_precision import class_agnostic_detection_metrics
from ..predictions import Prediction
from ..reports.plots import plot_recall_at_n, plot_recall_by_size
from ..respondents import QUERIES, REGIONS, ProposalRespondent

# Numbers of best boxes of an image for which recall is computed and drawn.
RECALL_CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 300)

_MEANINGS = {
    "ap": "average precision, mean over IoU 0.50:0.95, best 100 boxes",
    "ap@0.5": "average precision at IoU 0.5",
    "ap@0.75": "average precision at IoU 0.75",
    "ap_small": "of small targets (up to 32² pixels)",
    "ap_medium": "of medium targets",
    "ap_large": "of large targets (from 96² pixels)",
    "recall@0.5": "recall at IoU 0.5, best 100 boxes",
    "recall@0.75": "recall at IoU 0.75, best 100 boxes",
    "ar_small": "recall of small targets, mean over IoU 0.50:0.95, best 100 boxes",
    "ar_medium": "of medium targets",
    "ar_large": "of large targets",
    **{f"ar@{count}": f"recall, mean over IoU 0.50:0.95, best {count} boxes" for count in RECALL_CURVE},
}
METRICS = (
    *(Metric(name, f"regions: {meaning}") for name, meaning in _MEANINGS.items()),
    *(Metric(f"queries_{name}", f"all queries: {meaning}") for name, meaning in _MEANINGS.items()),
    Metric("regions_per_image", "how many regions the language model gets", is_share=False),
)
# Table 6: DINOv2 at 448 pixels, after training on COCO alone.
PUBLISHED = (PublishedMetric("coco", "validation", "queries_ap", 0.436),)


def detection_rows(dataset: Dataset) -> BenchmarkRows:
    """Propose regions for all rows, and check that there are boxes to compare them with.

    Args:
        dataset (`Dataset`): detection columns.

    Returns:
        `BenchmarkRows`: the rows as they are.

    Raises:
        ValueError: no row has boxes.
    """
    rows = rows_without_image(dataset)
    if not any(row["boxes_xyxy"] for row in rows):
        raise ValueError("`dataset` has no `boxes_xyxy` at all: there is nothing to find.")
    return BenchmarkRows(dataset, rows)


def score_detection(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of region proposals.

    Args:
        predictions (`Sequence[Prediction]`): answers of a `ProposalRespondent`.
        rows (`Sequence[Mapping]`): detection rows, one for each answer: `boxes_xyxy`, perhaps `crowd_boxes_xyxy`.

    Returns:
        `dict[str, float]`: those of [`class_agnostic_detection_metrics`] for the regions and, with the prefix
        `queries_`, for the queries, with `ar@N` for more numbers of boxes; and `regions_per_image`.
    """
    targets = [np.asarray(row["boxes_xyxy"], np.float64).reshape(-1, 4) for row in rows]
    crowds = [row.get("crowd_boxes_xyxy") or [] for row in rows]
    regions, queries = ([_regions(prediction, kind) for prediction in predictions] for kind in (REGIONS, QUERIES))
    metrics: dict[str, float] = {"regions_per_image": float(np.mean([len(found) for found in regions]))}
    for prefix, images in (("", regions), ("queries_", queries)):
        found = [(image.xyxy, image.scores) for image in images]
        of_kind = class_agnostic_detection_metrics(found, targets, crowds=crowds)
        # All metrics but these are for the best 100 boxes of an image, as everywhere.
        curve = class_agnostic_detection_metrics(found, targets, RECALL_CURVE, crowds)
        of_kind |= {name: value for name, value in curve.items() if name.startswith("ar@")}
        metrics |= {f"{prefix}{name}": value for name, value in of_kind.items()}
    return metrics


def score_detection_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each image by the mean over its targets of the best IoU with a region.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_detection`].

    Returns:
        `list[float]`: one an image; 1 where there is nothing to find.
    """
    scores = []
    for prediction, row in zip(predictions, rows, strict=True):
        regions = _regions(prediction, REGIONS).xyxy
        targets = torch.tensor(row["boxes_xyxy"], dtype=torch.float64).reshape(-1, 4)
        overlaps = box_iou(targets, regions)
        best = overlaps.amax(dim=1) if overlaps.shape[1] else torch.zeros(len(targets))
        scores.append(best.mean().item() if len(targets) else 1.0)
    return scores


def plot_counts(
    predictions: Sequence[Prediction], rows: Sequence[Row], metrics: Mapping[str, float], path: Path
) -> Path:
    """Draw the recall over the number of boxes.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): not used.
        metrics (`Mapping[str, float]`): what [`score_detection`] returned.
        path (`Path`): PNG file to write.

    Returns:
        `Path`: the file.
    """
    regions, queries = (
        {count: metrics[f"{prefix}ar@{count}"] for count in RECALL_CURVE} for prefix in ("", "queries_")
    )
    return plot_recall_at_n(
        regions, path, name="regions", others={"all queries": queries}, title="Average recall at n boxes per image"
    )


def plot_sizes(
    predictions: Sequence[Prediction], rows: Sequence[Row], metrics: Mapping[str, float], path: Path
) -> Path:
    """Draw the recall by size as bars.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): not used.
        metrics (`Mapping[str, float]`): what [`score_detection`] returned.
        path (`Path`): PNG file to write.

    Returns:
        `Path`: the file.
    """
    # The plot takes `ar` for the bar of all sizes.
    of_all_sizes = {"ar": metrics["ar@100"], "queries_ar": metrics["queries_ar@100"]}
    return plot_recall_by_size({**metrics, **of_all_sizes}, path, {"": "regions", "queries_": "all queries"})


def propose(model: PreTrainedModel, processor: ProcessorMixin | BaseImageProcessor, asking: Asking) -> Respondent:
    """Make a respondent that answers images with regions and queries.

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): put into evaluation mode.
        processor (`GromaProcessor` or image processor): its processor.
        asking (`Asking`): not used, as nothing is asked.

    Returns:
        `ProposalRespondent`
    """
    return ProposalRespondent(model, processor)


def _regions(prediction: Prediction, kind: str) -> Regions:
    """The regions or the queries of an answer."""
    found = dict(prediction.phrases).get(kind)
    if found is None:
        raise ValueError(f"Prediction {prediction.index} has no {kind!r}: it is not of the benchmark detection.")
    return found


def region_and_true_boxes(prediction: Prediction, row: Row) -> tuple[list[list[float]], list[list[float]]]:
    """The regions, without the queries that gave none, and the boxes of the row.

    Args:
        prediction (`Prediction`): regions and queries.
        row (`Mapping`): detection columns.

    Returns:
        `tuple[list, list]`: boxes `xyxy` in pixels.
    """
    return _regions(prediction, REGIONS).xyxy.tolist(), row["boxes_xyxy"]


BENCHMARK = Benchmark(
    name="detection",
    title="Region proposals",
    schemas=("detection",),
    prepare=detection_rows,
    respondent=propose,
    score=score_detection,
    score_rows=score_detection_rows,
    metrics=METRICS,
    published=PUBLISHED,
    model_types=("groma", "groma_region_proposal"),
    plots={"recall_at_n.png": plot_counts, "recall_by_size.png": plot_sizes},
    drawn_boxes=region_and_true_boxes,
)

__all__ = [
    "BENCHMARK",
    "detection_rows",
    "plot_counts",
    "plot_sizes",
    "propose",
    "region_and_true_boxes",
    "score_detection",
    "score_detection_rows",
]
