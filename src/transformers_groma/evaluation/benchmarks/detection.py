"""Region proposals: average precision and recall without classes, following COCO.

Regions are what the language model gets to choose from, after score threshold and NMS. Queries are all that the
proposer has to offer, ranked by the head that learned from COCO-style boxes, as in the paper's Table 6. Rows have the
detection columns: those of `processing/coco.py`, or of `groma data shapes --task detection`.

Where rows have `masks` and the model decodes masks, those of the regions are scored, too: as COCO scores masks, and
beside the boxes of the same regions, filled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from ...answer_masks import has_mask_decoder
from ...boxes import box_iou
from ...masks import RLE, mask_to_rle
from ...model_files import PROPOSING_MODELS
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
from ..metrics.average_precision import MAX_DETECTIONS, class_agnostic_detection_metrics
from ..metrics.mask_average_precision import class_agnostic_mask_metrics
from ..metrics.matched_masks import filled_box, matched_mask_scores
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
_MASK_MEANINGS = {
    **{name: meaning.replace("boxes", "masks") for name, meaning in _MEANINGS.items() if not name.startswith("ar@")},
    **{f"ar@{count}": f"recall, mean over IoU 0.50:0.95, best {count} masks" for count in MAX_DETECTIONS},
    "iou": "mean IoU of the mask of each target whose box is found (IoU of at least 0.5) with that of its region",
    "iou_small": "of small targets (up to 32² pixels of the mask)",
    "iou_medium": "of medium targets",
    "iou_large": "of large targets (from 96² pixels)",
    "filled_box_iou": "the same as mask_iou if each region covered its whole box",
    "found": "share of targets whose box is found",
}
MASK_PREFIX = "mask_"
METRICS = (
    *(Metric(name, f"regions: {meaning}") for name, meaning in _MEANINGS.items()),
    *(
        Metric(f"{MASK_PREFIX}{name}", f"masks of regions: {meaning}", is_optional=True)
        for name, meaning in _MASK_MEANINGS.items()
    ),
    Metric(
        "mask_images",
        "share of images whose targets all have masks; only these count for the metrics of masks",
        is_optional=True,
    ),
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
        rows (`Sequence[Mapping]`): detection rows, one for each answer: `boxes_xyxy`, perhaps `crowd_boxes_xyxy`,
            `masks` and `crowd_masks`.

    Returns:
        `dict[str, float]`: those of [`class_agnostic_detection_metrics`] for the regions and, with the prefix
        `queries_`, for the queries, with `ar@N` for more numbers of boxes; and `regions_per_image`. Where rows and
        answers have masks also those of [`class_agnostic_mask_metrics`] and [`matched_mask_scores`], with the prefix
        `mask_`.
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
    return metrics | _mask_metrics(predictions, rows)


def _mask_metrics(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Metrics of the masks of regions, over the images whose targets all have masks; none without such images."""
    pairs = [
        (prediction, row)
        for prediction, row in zip(predictions, rows, strict=True)
        if row.get("masks") is not None and None not in row["masks"] and _region_masks(prediction) is not None
    ]
    if not any(row["masks"] for _, row in pairs):
        return {}
    boxes = [(_regions(prediction, REGIONS).xyxy.numpy(), _region_masks(prediction)) for prediction, _ in pairs]
    found = [
        (masks, _regions(prediction, REGIONS).scores.numpy())
        for (prediction, _), (_, masks) in zip(pairs, boxes, strict=True)
    ]
    targets = [row["masks"] for _, row in pairs]
    crowds = [_crowd_masks(row, masks) for (_, row), (_, masks) in zip(pairs, boxes, strict=True)]
    scores = class_agnostic_mask_metrics(found, targets, crowds=crowds)
    scores |= matched_mask_scores(boxes, [(row["boxes_xyxy"], row["masks"]) for _, row in pairs])
    metrics = {f"{MASK_PREFIX}{name}": value for name, value in scores.items()}
    return metrics | {"mask_images": len(pairs) / len(rows)}


def _region_masks(prediction: Prediction) -> Sequence[RLE] | None:
    """The masks of the regions of an answer, where the model decoded them."""
    kinds = [text for text, _ in prediction.phrases]
    return None if prediction.masks is None else prediction.masks[kinds.index(REGIONS)]


def _crowd_masks(row: Row, region_masks: Sequence[RLE]) -> list[RLE]:
    """The masks of the crowd regions of a row; a filled box for a crowd without one."""
    boxes = row.get("crowd_boxes_xyxy") or []
    masks = row.get("crowd_masks") or [None] * len(boxes)
    # An image may have crowds alone. Its size is that of any of its masks; without a region nothing is in a crowd.
    if not (of_image := [mask for mask in (*row["masks"], *masks, *region_masks) if mask is not None]):
        return []
    height, width = of_image[0]["size"]
    return [
        mask_to_rle(filled_box(box, height, width)) if mask is None else mask
        for box, mask in zip(boxes, masks, strict=True)
    ]


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
    return ProposalRespondent(model, processor, masks=has_mask_decoder(model))


def _regions(prediction: Prediction, kind: str) -> Regions:
    """The regions or the queries of an answer."""
    found = dict(prediction.phrases).get(kind)
    if found is None:
        raise ValueError(f"Prediction {prediction.index} has no {kind!r}: it is not of the benchmark detection.")
    return found


def region_and_true_masks(prediction: Prediction, row: Row) -> tuple[list[RLE], list[RLE]]:
    """The masks of the regions and those of the row, where both have any.

    Args:
        prediction (`Prediction`): regions and queries.
        row (`Mapping`): detection columns.

    Returns:
        `tuple[list, list]`: masks of the upright image, as COCO's RLE; both lists are empty where one has none.
    """
    found, targets = _region_masks(prediction), row.get("masks")
    if found is None or targets is None:
        return [], []
    return list(found), [mask for mask in targets if mask is not None]


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
    model_types=PROPOSING_MODELS,
    plots={"recall_at_n.png": plot_counts, "recall_by_size.png": plot_sizes},
    drawn_boxes=region_and_true_boxes,
    drawn_masks=region_and_true_masks,
    more_columns=("crowd_boxes_xyxy", "masks", "crowd_masks"),
)

__all__ = [
    "BENCHMARK",
    "detection_rows",
    "plot_counts",
    "plot_sizes",
    "propose",
    "region_and_true_boxes",
    "region_and_true_masks",
    "score_detection",
    "score_detection_rows",
]
