"""The region proposer's loss: Hungarian matching, then objectness, corners and overlap."""

import torch
from torch import Tensor
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

from ...exact_boxes import exact_boxes
from .configuration_groma import GromaProposerConfig
from .modeling_groma_proposer import GromaRegionProposerOutput

# Kinds of training images, each with its own objectness head.
OBJECTNESS_SOURCES = ("coco", "sa1b")


def region_proposal_loss(
    outputs: GromaRegionProposerOutput, labels: list[dict], config: GromaProposerConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Detection loss of stage 1 (paper section 3.4): focal, L1 and GIoU losses of every decoder layer and the encoder.

    Args:
        outputs (`GromaRegionProposerOutput`): of a batch of B images.
        labels (`list[dict]` of length B): `boxes` (`Tensor` of shape `(n, 4)`, normalized `cxcywh`) and `source`
            (`"coco"` or `"sa1b"`, default `"coco"`): which objectness head learns from this image.
        config (`GromaProposerConfig`): costs of the matching and weights of the losses.

    Returns:
        The loss (scalar `Tensor`) and its parts by name.

    Raises:
        ValueError: number of labels, an unknown source, or boxes that are not normalized `cxcywh`.
    """
    targets, learns_sa1b = _check_labels(labels, outputs.pred_boxes)
    # Each image trains the objectness head of its source; the other head gets no gradient from it. (B, L, Q, 1)
    all_logits = torch.where(
        learns_sa1b[:, None, None, None], outputs.all_logits_sa1b, outputs.all_logits_coco
    ).float()
    criterion = DeformableDetrImageLoss(
        matcher=DeformableDetrHungarianMatcher(
            class_cost=config.class_cost, bbox_cost=config.bbox_cost, giou_cost=config.giou_cost
        ),
        num_classes=1,
        focal_alpha=config.focal_alpha,
        losses=["labels", "boxes", "cardinality"],
    )
    # The criterion matches queries to boxes separately for every layer. Its losses: `loss_ce` of the last layer,
    # `loss_ce_0` of the first, and so on; `loss_ce_enc` of the encoder's proposals.
    layers = [
        {"logits": logits, "pred_boxes": boxes}
        for logits, boxes in zip(all_logits.unbind(1), outputs.all_pred_boxes.unbind(1), strict=True)
    ]
    losses = criterion({**layers[-1], "auxiliary_outputs": layers[:-1]}, targets)
    encoder = {"logits": outputs.encoder_logits.float(), "pred_boxes": outputs.encoder_box_logits.sigmoid()}
    losses.update({f"{name}_enc": value for name, value in criterion(encoder, targets).items()})
    weights = {
        "loss_ce": config.class_loss_coefficient,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }
    # By the start of the name, whichever the layer. Cardinality errors have no weight: they are only reported.
    total = sum(
        weight * value
        for name, value in losses.items()
        for prefix, weight in weights.items()
        if name.startswith(prefix)
    )
    return total, losses


def _check_labels(labels: list[dict], pred_boxes: Tensor) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Labels in the criterion's form, all boxes of one class, and which images train the SA-1B head `(B,)`."""
    if len(labels) != len(pred_boxes):
        raise ValueError(f"`labels` must hold one dict for each of the {len(pred_boxes)} images, got {len(labels)}.")
    targets, learns_sa1b = [], []
    for index, label in enumerate(labels):
        source = label.get("source", "coco")
        if source not in OBJECTNESS_SOURCES:
            raise ValueError(f"`labels[{index}]['source']` must be 'coco' or 'sa1b', got {source!r}.")
        boxes = exact_boxes(label["boxes"], f"labels[{index}]['boxes']").to(pred_boxes.device).reshape(-1, 4)
        if not ((boxes >= 0) & (boxes <= 1)).all():
            raise ValueError(
                f"`labels[{index}]['boxes']` must be normalized cxcywh (0..1), got values from {boxes.min().item():g} "
                f"to {boxes.max().item():g}. Divide pixels by the image size and use `boxes.box_xyxy_to_cxcywh`."
            )
        class_labels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        targets.append({"class_labels": class_labels, "boxes": boxes})
        learns_sa1b.append(source == "sa1b")
    return targets, torch.tensor(learns_sa1b, device=pred_boxes.device)


__all__ = ["OBJECTNESS_SOURCES", "region_proposal_loss"]
