"""How well regions are proposed: average precision and recall without classes, following COCO.

Boxes are `xyxy` in absolute pixels of the upright image, because COCO calls a box small, medium or large by its
pixels.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from tqdm import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from ...boxes import box_cxcywh_to_xyxy, scale_boxes
from ...data.columns import check_columns
from ...image_inputs import to_upright_8_bit
from ...models.groma.modeling_groma import GromaForConditionalGeneration
from ...models.groma.modeling_groma_base import GromaPreTrainedModel
from ...models.groma.modeling_groma_detector import GromaForRegionProposal
from ...models.groma.modeling_groma_proposer import GromaRegionProposerOutput

logger = logging.getLogger(__name__)

MAX_DETECTIONS = (1, 10, 100)
# What fills unused rows; Trainer fills shorter batches with the same.
UNUSED = -100.0
AREAS = ("small", "medium", "large")
# Which score ranks the raw queries. The paper's Table 6 ranks by the head that learned from COCO-style boxes alone.
QueryScore = Literal["fused", "coco", "sa1b"]


class ScoredBoxes(NamedTuple):
    """Boxes of one image with their scores.

    Attributes:
        boxes (`np.ndarray` of shape `(n, 4)`): `xyxy` in pixels.
        scores (`np.ndarray` of shape `(n,)`): higher is better.
    """

    boxes: np.ndarray
    scores: np.ndarray


def class_agnostic_detection_metrics(
    predictions: Sequence[ScoredBoxes | tuple[Any, Any]],
    targets: Sequence[Any],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    crowds: Sequence[Any] | None = None,
) -> dict[str, float]:
    """Average precision and recall of boxes without classes (`COCOeval` with one category).

    A crowd region is a box around objects that nobody counted. As in COCO, what is found in one is neither right nor
    wrong, as far as no target claims it: any number of boxes, each by the share of its own area that lies in the
    region. Crowd regions are not missed.

    Args:
        predictions (`Sequence[ScoredBoxes]`, one an image): boxes `(n, 4)`, `xyxy` in pixels, and scores `(n,)`.
        targets (`Sequence` of arrays of shape `(m, 4)`, one an image): true boxes, `xyxy` in pixels of the same image.
        max_detections (`Sequence[int]`): how many of the best boxes of an image count, in rising order. All figures
            but `ar@N` are for the last.
        crowds (`Sequence` of arrays of shape `(c, 4)`, one an image, *optional*): crowd regions, `xyxy` in pixels.

    Returns:
        `dict[str, float]`: `ap` (mean over IoU 0.50:0.95), `ap@0.5`, `ap@0.75`, `ap_small`, `ap_medium`, `ap_large`;
        `ar@N` for each of `max_detections`, `ar_small`, `ar_medium`, `ar_large` (mean over IoU 0.50:0.95);
        `recall@0.5`, `recall@0.75`. All in 0..1; -1, as in COCO, where there is no target (of that size) at all. Small
        is below 32² pixels, large above 96².

    Raises:
        ValueError: not as many predictions as targets or crowds, no images, or arrays of a wrong shape.

    Example:
    >>> boxes = np.array([[10.0, 10.0, 60.0, 60.0], [100.0, 100.0, 180.0, 160.0]])
    >>> metrics = class_agnostic_detection_metrics([(boxes[:1], np.array([0.9]))], [boxes])
    >>> round(metrics["ap@0.5"], 2), metrics["ar@100"], metrics["recall@0.5"]
    (0.5, 0.5, 0.5)
    """
    if len(predictions) != len(targets) or len(targets) == 0:
        raise ValueError(
            f"`predictions` and `targets` need one entry for each image, got {len(predictions)} and {len(targets)}."
        )
    crowds = [()] * len(targets) if crowds is None else crowds
    if len(crowds) != len(targets):
        raise ValueError(f"`crowds` needs one entry for each image, got {len(crowds)} for {len(targets)}.")
    found, true = [], []
    images = enumerate(zip(predictions, targets, crowds, strict=True), start=1)
    for image, ((boxes, scores), target, crowd) in images:
        boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
        if boxes.ndim != 2 or boxes.shape[-1] != 4 or scores.shape != boxes.shape[:1]:
            raise ValueError(
                f"`predictions[{image - 1}]` must be boxes of shape (n, 4) and scores of shape (n,), got "
                f"{boxes.shape} and "
                f"{scores.shape}."
            )
        target, crowd = (np.asarray(entry, np.float64).reshape(-1, 4) for entry in (target, crowd))
        # More would not be looked at; leaving them out here saves the time to hand them over.
        best = np.argsort(-scores, kind="stable")[: max(max_detections)]
        found += _annotations(image, boxes[best], scores[best])
        true += [*_annotations(image, target), *_annotations(image, crowd, iscrowd=1)]
    return coco_metrics(true, found, range(1, len(targets) + 1), max_detections=max_detections)


def coco_metrics(
    targets: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    use_categories: bool = False,
    max_detections: Sequence[int] = MAX_DETECTIONS,
) -> dict[str, float]:
    """The figures of `class_agnostic_detection_metrics` from annotations in COCO's own form, with classes if wanted.

    Args:
        targets (`Sequence[Mapping]`): `image_id`, `category_id`, `bbox` (`xywh` in pixels), `area`, `iscrowd`.
        predictions (`Sequence[Mapping]`): `image_id`, `category_id`, `bbox` (`xywh` in pixels), `score`.
        image_ids (`Sequence[int]`): all images, also those without boxes.
        use_categories (`bool`): compare boxes of one category only, and average over categories (COCO's usual
            figures).
        max_detections (`Sequence[int]`): see `class_agnostic_detection_metrics`.

    Returns:
        `dict[str, float]`: see `class_agnostic_detection_metrics`.

    Raises:
        ValueError: `max_detections` does not rise.

    Example:
    >>> box = {"image_id": 1, "category_id": 3, "bbox": [10.0, 10.0, 50.0, 50.0]}
    >>> coco_metrics([{**box, "area": 2500.0, "iscrowd": 0}], [{**box, "score": 0.7}], [1])["ar@1"]
    1.0
    """
    if list(max_detections) != sorted(set(max_detections)) or not all(count > 0 for count in max_detections):
        raise ValueError(f"`max_detections` must be rising positive numbers, got {list(max_detections)}.")
    categories = sorted({entry["category_id"] for entry in (*targets, *predictions)}) or [1]
    images = [{"id": int(image)} for image in image_ids]
    # Numbers of their own, from 1: COCO takes 0 for "no match".
    numbered = [
        [{**entry, "id": number} for number, entry in enumerate(entries, start=1)]
        for entries in (targets, [{"area": entry["bbox"][2] * entry["bbox"][3], **entry} for entry in predictions])
    ]
    truth, answers = (
        COCO({"images": images, "annotations": entries, "categories": [{"id": category} for category in categories]})
        for entries in numbered
    )
    evaluation = COCOeval_faster(truth, answers, iouType="bbox", print_function=logger.debug)
    evaluation.params.maxDets = list(max_detections)
    evaluation.params.useCats = int(use_categories)
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]  # (T, R, K, A, M) and (T, K, A, M)
    thresholds = [round(float(threshold), 2) for threshold in evaluation.params.iouThrs]
    half, three_quarters = thresholds.index(0.5), thresholds.index(0.75)
    metrics = {
        "ap": _mean(precision[:, :, :, 0, -1]),
        "ap@0.5": _mean(precision[half, :, :, 0, -1]),
        "ap@0.75": _mean(precision[three_quarters, :, :, 0, -1]),
    }
    areas = [(evaluation.params.areaRngLbl.index(area), area) for area in AREAS]
    metrics |= {f"ap_{area}": _mean(precision[:, :, :, index, -1]) for index, area in areas}
    metrics |= {f"ar@{count}": _mean(recall[:, :, 0, index]) for index, count in enumerate(max_detections)}
    metrics |= {f"ar_{area}": _mean(recall[:, :, index, -1]) for index, area in areas}
    metrics["recall@0.5"] = _mean(recall[half, :, 0, -1])
    metrics["recall@0.75"] = _mean(recall[three_quarters, :, 0, -1])
    return metrics


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined; COCO marks the rest with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _annotations(
    image: int, boxes: np.ndarray, scores: np.ndarray | None = None, iscrowd: int = 0
) -> list[dict[str, Any]]:
    """Boxes `xyxy` of an image as COCO's annotations, which have `xywh`, all of one category."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    entries = [
        {"image_id": image, "category_id": 1, "bbox": [*corner, *size], "area": size[0] * size[1], "iscrowd": iscrowd}
        for corner, size in zip(boxes[:, :2].tolist(), sizes.tolist(), strict=True)
    ]
    if scores is not None:
        for entry, score in zip(entries, scores.tolist(), strict=True):
            entry["score"] = score
    return entries


class DetectedRegions(NamedTuple):
    """What a model detects in a batch of images, packed in rows of `(x1, y1, x2, y2, score)` in pixels.

    Attributes:
        regions (`Tensor` of shape `(B, max_regions, 5)`): what the language model gets: after score threshold and NMS,
            best first. Unused rows are -100.
        queries (`Tensor` of shape `(B, num_queries, 5)`): all queries of the proposer.
    """

    regions: Tensor
    queries: Tensor


def detected_regions(
    model: GromaPreTrainedModel,
    proposals: GromaRegionProposerOutput,
    target_sizes: Tensor,
    query_score: QueryScore = "fused",
) -> DetectedRegions:
    """Regions and raw queries of a batch in pixels.

    Args:
        model (`GromaPreTrainedModel`): chooses regions as its config says.
        proposals (`GromaRegionProposerOutput`): what its proposer made of the images.
        target_sizes (`Tensor` of shape `(B, 2)`): `(height, width)` of the upright images.
        query_score (`str`): which score the queries have: `"fused"`, or that of one head, `"coco"` or `"sa1b"`.

    Returns:
        `DetectedRegions`.
    """
    selection = model.select_regions(proposals)
    regions = _pack(selection.boxes, selection.scores, target_sizes)
    regions = regions.masked_fill(~selection.mask[..., None], UNUSED)
    scores = {
        "fused": proposals.scores,
        "coco": proposals.logits_coco[..., 0].float().sigmoid(),
        "sa1b": proposals.logits_sa1b[..., 0].float().sigmoid(),
    }[query_score]
    return DetectedRegions(regions, _pack(proposals.pred_boxes, scores, target_sizes))


@torch.no_grad()
def detect(
    model: GromaForRegionProposal | GromaForConditionalGeneration,
    pixel_values: Tensor,
    target_sizes: Tensor,
    query_score: QueryScore = "fused",
) -> DetectedRegions:
    """Regions and raw queries of a batch of images.

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): in evaluation mode.
        pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): from its image processor.
        target_sizes (`Tensor` of shape `(B, 2)`): `(height, width)` of the upright images.
        query_score (`str`): see [`detected_regions`].

    Returns:
        `DetectedRegions`.
    """
    proposals = model.detect(pixel_values.to(model.device)).proposals
    return detected_regions(model, proposals, target_sizes, query_score)


def _pack(boxes: Tensor, scores: Tensor, target_sizes: Tensor) -> Tensor:
    height, width = target_sizes.to(boxes.device).float()[:, :, None].unbind(1)
    corners, scores = box_cxcywh_to_xyxy(boxes.float()), scores.float()
    packed = torch.cat([scale_boxes(corners.clamp(0, 1), height, width), scores[..., None]], dim=-1)
    # A query whose box or score is not finite found nothing.
    found = corners.isfinite().all(dim=-1) & scores.isfinite()
    return packed.masked_fill(~found[..., None], UNUSED)


def unpack_detections(packed: np.ndarray) -> list[ScoredBoxes]:
    """Rows of `DetectedRegions` as boxes and scores of each image, without the unused rows.

    Args:
        packed (`np.ndarray` of shape `(B, n, 5)`): `(x1, y1, x2, y2, score)`; unused rows are negative.

    Returns:
        `list[ScoredBoxes]`.

    Example:
    >>> unpack_detections(np.array([[[0.0, 0.0, 5.0, 5.0, 0.75], [-100.0] * 5]]))[0].scores.tolist()
    [0.75]
    """
    return [ScoredBoxes(rows[rows[:, 4] >= 0, :4], rows[rows[:, 4] >= 0, 4]) for rows in packed]


def region_metrics(
    regions: np.ndarray,
    queries: np.ndarray,
    targets: Sequence[np.ndarray],
    crowds: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """All figures of a detector.

    Args:
        regions, queries (`np.ndarray` of shape `(B, n, 5)`): see `DetectedRegions`.
        targets (`Sequence[np.ndarray]`, B arrays of shape `(m, 4)`): true boxes, `xyxy` in pixels.
        crowds (`Sequence[np.ndarray]`, B arrays of shape `(c, 4)`, *optional*): crowd regions, `xyxy` in pixels.

    Returns:
        `dict[str, float]`: those of `class_agnostic_detection_metrics` for the regions, the same with prefix
        `queries_` for the raw queries, and `regions_per_image`.
    """
    unpacked = unpack_detections(regions)
    metrics = class_agnostic_detection_metrics(unpacked, targets, crowds=crowds)
    metrics["regions_per_image"] = float(np.mean([len(image.scores) for image in unpacked]))
    of_queries = class_agnostic_detection_metrics(unpack_detections(queries), targets, crowds=crowds)
    return metrics | {f"queries_{name}": value for name, value in of_queries.items()}


@torch.no_grad()
def evaluate_proposals(
    model: GromaForRegionProposal | GromaForConditionalGeneration,
    dataset: Dataset,
    image_processor: BaseImageProcessor,
    batch_size: int = 8,
    progress: bool = True,
    query_score: QueryScore = "fused",
) -> dict[str, float]:
    """Evaluate the regions that a model proposes on a dataset with boxes.

    Regions are those of `model.propose_regions`: after score threshold and NMS, what the language model gets to choose
    from. Raw queries are all that the proposer has to offer, ranked by `query_score`.

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): put into evaluation mode and back.
        dataset (`Dataset`): detection columns, perhaps with `crowd_boxes_xyxy`.
        image_processor (`BaseImageProcessor`): of the model.
        batch_size (`int`): images at a time.
        progress (`bool`): show a progress bar.
        query_score (`str`): ranks the raw queries; the paper's Table 6 ranks by `"coco"`.

    Returns:
        `dict[str, float]`: see `region_metrics`.

    Raises:
        ValueError: the dataset is empty or has other columns.
    """
    check_columns(dataset.features, "detection")
    if len(dataset) == 0:
        raise ValueError("`dataset` has no rows to evaluate on.")
    was_training = model.training
    model.eval()
    regions, queries, targets, crowds = [], [], [], []
    for start in tqdm(range(0, len(dataset), batch_size), desc="Proposing regions", disable=not progress):
        rows = dataset[start : start + batch_size]
        images = [to_upright_8_bit(image) for image in rows["image"]]
        pixel_values = image_processor(images=images, return_tensors="pt")["pixel_values"]
        sizes = torch.tensor([(image.height, image.width) for image in images])
        detected = detect(model, pixel_values, sizes, query_score)
        regions.append(detected.regions.cpu().numpy())
        queries.append(detected.queries.cpu().numpy())
        targets += [np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in rows["boxes_xyxy"]]
        # Null where a mixture has rows of a dataset without crowds.
        crowds += [boxes or [] for boxes in rows.get("crowd_boxes_xyxy", [[]] * len(images))]
    model.train(was_training)
    return region_metrics(np.concatenate(regions), np.concatenate(queries), targets, crowds)


__all__ = [
    "DetectedRegions",
    "QueryScore",
    "ScoredBoxes",
    "class_agnostic_detection_metrics",
    "coco_metrics",
    "detect",
    "detected_regions",
    "evaluate_proposals",
    "region_metrics",
    "unpack_detections",
]
