"""Evaluates region proposals: detects regions in images and scores them against a dataset's boxes.

Two kinds of boxes are scored. Regions are those of `model.propose_regions`: what the language model gets to choose
from, after score threshold and NMS. Queries are all that the proposer has to offer, before that choice.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from ..boxes import boxes_in_pixels, finite_slots
from ..data.columns import check_columns
from ..image_inputs import to_upright_8_bit
from ..masks import RLE, mask_to_rle, masks_of_logits
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_base import GromaPreTrainedModel
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from ..models.groma.modeling_groma_proposer import GromaRegionProposerOutput
from ..regions import Regions
from .metrics.average_precision import class_agnostic_detection_metrics

# Fills rows of packed boxes that are not used; `Trainer` pads with the same number when it joins batches.
PADDING = -100.0
# Masks decoded in one call: a batch of images with a hundred regions each would need gigabytes.
SLOTS_AT_ONCE = 16
# Which score ranks the queries. The paper's Table 6 ranks by the head that learned from COCO-style boxes alone.
QueryScore = Literal["fused", "coco", "sa1b"]


@torch.no_grad()
def detect(
    model: GromaForRegionProposal | GromaForConditionalGeneration,
    pixel_values: Tensor,
    target_sizes: Tensor,
    query_score: QueryScore = "fused",
) -> tuple[list[Regions], list[Regions]]:
    """Detect the regions of a batch of images.

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): the model, in evaluation mode.
        pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): from its image processor.
        target_sizes (`Tensor` of shape `(B, 2)`): `(height, width)` of the upright images.
        query_score (`str`): see [`pack_detections`].

    Returns:
        `tuple` of two `list[Regions]`: the regions of each image, best first, and its queries.
    """
    proposals = model.detect(pixel_values.to(model.device)).proposals
    regions, queries = pack_detections(model, proposals, target_sizes, query_score)
    return unpack_detections(regions), unpack_detections(queries)


def pack_detections(
    model: GromaPreTrainedModel,
    proposals: GromaRegionProposerOutput,
    target_sizes: Tensor,
    query_score: QueryScore = "fused",
) -> tuple[Tensor, Tensor]:
    """Regions and queries of a batch as two tensors, which processes can gather.

    Args:
        model (`GromaPreTrainedModel`): chooses regions as its config says.
        proposals (`GromaRegionProposerOutput`): what its proposer made of the images.
        target_sizes (`Tensor` of shape `(B, 2)`): `(height, width)` of the upright images.
        query_score (`str`): which score the queries have: `"fused"`, or that of one head, `"coco"` or `"sa1b"`.

    Returns:
        `tuple` of two `Tensor`: regions `(B, max_regions, 5)`, best first, and queries `(B, num_queries, 5)`. A row is
        `(x1, y1, x2, y2, score)` in pixels of the upright image; unused rows are -100.
    """
    selection = model.select_regions(proposals)
    regions = _packed(selection.boxes, selection.scores, target_sizes)
    regions = regions.masked_fill(~selection.mask[..., None], PADDING)
    scores = {
        "fused": proposals.scores,
        "coco": proposals.logits_coco[..., 0].float().sigmoid(),
        "sa1b": proposals.logits_sa1b[..., 0].float().sigmoid(),
    }[query_score]
    return regions, _packed(proposals.pred_boxes, scores, target_sizes)


def unpack_detections(packed: Tensor | np.ndarray) -> list[Regions]:
    """The regions of each image, unpacked from [`pack_detections`].

    Args:
        packed (`Tensor` or `np.ndarray` of shape `(B, n, 5)`): `(x1, y1, x2, y2, score)`; unused rows are negative.

    Returns:
        `list[Regions]`: of B images.

    Example:
    >>> from transformers_groma.evaluation.proposals import unpack_detections
    >>> unpack_detections(torch.tensor([[[0.0, 0.0, 5.0, 5.0, 0.75], [-100.0] * 5]]))[0].scores.tolist()
    [0.75]
    """
    return [Regions(rows[:, :4], rows[:, 4]) for rows in (image[image[:, 4] >= 0] for image in packed)]


@torch.no_grad()
def region_masks(
    model: GromaForRegionProposal | GromaForConditionalGeneration,
    pixel_values: Tensor,
    regions: Tensor,
    target_sizes: Tensor,
) -> list[list[RLE]]:
    """Decode the masks of the regions of a batch of images.

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): with a mask decoder, in evaluation mode.
        pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): the images.
        regions (`Tensor` of shape `(B, max_regions, 5)`): from [`pack_detections`].
        target_sizes (`Tensor` of shape `(B, 2)`): `(height, width)` of the upright images.

    Returns:
        `list[list[RLE]]`: for each image the masks of its regions in the upright image, in the order of
        [`unpack_detections`].

    Raises:
        ValueError: a model without a mask decoder.
    """
    features = model.get_image_features(pixel_values.to(model.device))
    embedding = model.mask_embedding(features)
    numbers = torch.arange(regions.shape[1], device=regions.device)
    slots = numbers.where(regions[..., 4] >= 0, numbers.new_tensor(-1))
    masks: list[list[RLE]] = [[] for _ in pixel_values]
    for some in slots.split(SLOTS_AT_ONCE, dim=1):
        if not (some >= 0).any():
            continue
        found = model.segment(features, slots=some, embedding=embedding)
        for image, (height, width) in enumerate(target_sizes.tolist()):
            logits = found.logits[image, found.mask[image], 0]
            masks[image] += [mask_to_rle(mask) for mask in masks_of_logits(logits, height, width)]
    return masks


def region_metrics(
    regions: Sequence[Regions],
    queries: Sequence[Regions],
    targets: Sequence[np.ndarray],
    crowds: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """All metrics of a detector.

    Args:
        regions, queries (`Sequence[Regions]` of B images): what [`detect`] found.
        targets (`Sequence[np.ndarray]`, B arrays of shape `(m, 4)`): true boxes, `xyxy` in pixels.
        crowds (`Sequence[np.ndarray]`, B arrays of shape `(c, 4)`, *optional*): crowd regions, `xyxy` in pixels.

    Returns:
        `dict[str, float]`: those of `class_agnostic_detection_metrics` for the regions, the same with prefix
        `queries_` for the queries, and `regions_per_image`.
    """
    of_regions, of_queries = (
        class_agnostic_detection_metrics([(image.xyxy, image.scores) for image in found], targets, crowds=crowds)
        for found in (regions, queries)
    )
    of_regions["regions_per_image"] = float(np.mean([len(image) for image in regions]))
    return of_regions | {f"queries_{name}": value for name, value in of_queries.items()}


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

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): put into evaluation mode and back.
        dataset (`Dataset`): detection columns, perhaps with `crowd_boxes_xyxy`.
        image_processor (`BaseImageProcessor`): its processor.
        batch_size (`int`): images at a time.
        progress (`bool`): show a progress bar.
        query_score (`str`): ranks the queries; the paper's Table 6 ranks by `"coco"`.

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
        found, all_queries = detect(model, pixel_values, sizes, query_score)
        regions += found
        queries += all_queries
        targets += [np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in rows["boxes_xyxy"]]
        # None where a mixture has rows of a dataset without crowds.
        crowds += [boxes or [] for boxes in rows.get("crowd_boxes_xyxy", [[]] * len(images))]
    model.train(was_training)
    return region_metrics(regions, queries, targets, crowds)


def _packed(boxes: Tensor, scores: Tensor, target_sizes: Tensor) -> Tensor:
    """Normalized `cxcywh` boxes and their scores as rows `(x1, y1, x2, y2, score)` in pixels, `(B, n, 5)`."""
    height, width = target_sizes.to(boxes.device).float()[:, :, None].unbind(1)
    boxes, scores = boxes.float(), scores.float()
    packed = torch.cat([boxes_in_pixels(boxes, height, width), scores[..., None]], dim=-1)
    # A query whose box or score is not finite found nothing.
    found = finite_slots(boxes, scores.isfinite())
    return packed.masked_fill(~found[..., None], PADDING)


__all__ = [
    "PADDING",
    "QueryScore",
    "detect",
    "evaluate_proposals",
    "pack_detections",
    "region_masks",
    "region_metrics",
    "unpack_detections",
]
