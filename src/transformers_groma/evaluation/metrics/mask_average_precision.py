"""Average precision and recall of masks following COCO, without classes.

Masks are bool arrays `(H, W)` or COCO's RLE, see `mask_lists.py`. No model is needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...masks import mask_to_rle, rle_area
from .average_precision import MAX_DETECTIONS, coco_metrics
from .mask_lists import Mask, check_list, decoded


def class_agnostic_mask_metrics(
    predictions: Sequence[tuple[Sequence[Mask], Sequence[float]]],
    targets: Sequence[Sequence[Mask]],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    crowds: Sequence[Sequence[Mask]] | None = None,
) -> dict[str, float]:
    """Average precision and recall of masks without classes (`COCOeval` for "segm" with one category).

    A crowd region is a mask of objects that were not counted. As in COCO, a mask in one that matches no target is
    neither right nor wrong, see [`average_precision.class_agnostic_detection_metrics`].

    Args:
        predictions (`Sequence` of pairs, one an image): masks and their scores.
        targets (`Sequence`, one entry an image): the true masks.
        max_detections (`Sequence[int]`): how many of the best masks of an image count, in rising order. All metrics
            but `ar@N` are for the last.
        crowds (`Sequence`, one entry an image, *optional*): masks of crowd regions.

    Returns:
        `dict[str, float]`: `ap` (mean over IoU 0.50:0.95), `ap@0.5`, `ap@0.75`, `ap_small`, `ap_medium`, `ap_large`;
        `ar@N` for each of `max_detections`, `ar_small`, `ar_medium`, `ar_large` (mean over IoU 0.50:0.95);
        `recall@0.5`, `recall@0.75`. All in 0..1; -1, as in COCO, if there is no target (of that size). A mask is small
        below 32² pixels and large above 96².

    Raises:
        ValueError: not as many predictions as targets or crowds, no images, not one score for each mask, something
            that is not a mask, or masks of different sizes in an image.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.mask_average_precision import class_agnostic_mask_metrics
    >>> left, right = np.zeros((2, 8, 8), bool)
    >>> left[:, :4], right[:, 4:] = True, True
    >>> metrics = class_agnostic_mask_metrics([([left], [0.9])], [[left, right]])
    >>> round(metrics["ap@0.5"], 2), metrics["ar@100"]
    (0.5, 0.5)
    """
    if len(predictions) != len(targets) or len(targets) == 0:
        raise ValueError(
            f"`predictions` and `targets` need one entry for each image, got {len(predictions)} and {len(targets)}."
        )
    crowds = [()] * len(targets) if crowds is None else crowds
    if len(crowds) != len(targets):
        raise ValueError(f"`crowds` needs one entry for each image, got {len(crowds)} for {len(targets)}.")
    found, true = [], []
    for image, ((masks, scores), target, crowd) in enumerate(zip(predictions, targets, crowds, strict=True)):
        names = f"predictions[{image}]", f"targets[{image}]", f"crowds[{image}]"
        scores = np.asarray(scores, np.float64)
        check_list(names[0], masks)
        if scores.shape != (len(masks),) or not np.isfinite(scores).all():
            raise ValueError(
                f"`{names[0]}` must have one finite score for each of its {len(masks)} masks, got {scores.tolist()}."
            )
        best = np.argsort(-scores, kind="stable")[: max(max_detections)].tolist()
        of_image = [
            _annotations(image, names[0], [masks[index] for index in best]),
            _annotations(image, names[1], target),
            _annotations(image, names[2], crowd, iscrowd=1),
        ]
        _check_sizes(image, [entry for entries in of_image for entry in entries])
        found += [{**entry, "score": scores[index]} for entry, index in zip(of_image[0], best, strict=True)]
        true += of_image[1] + of_image[2]
    return coco_metrics(true, found, range(1, len(targets) + 1), max_detections=max_detections, iou_type="segm")


def _annotations(image: int, name: str, masks: Sequence[Mask], iscrowd: int = 0) -> list[dict[str, Any]]:
    """Masks of an image as COCO annotations, all of one category."""
    check_list(name, masks)
    entries = []
    for number, mask in enumerate(masks):
        # RLE stays as it is: decoding a hundred masks of an image, to encode them again, would take most of the time.
        rle = mask if isinstance(mask, Mapping) else mask_to_rle(decoded(f"{name}[{number}]", mask))
        try:
            area = rle_area(rle)
        except ValueError as error:
            raise ValueError(f"`{name}[{number}]`: {error}") from None
        entries.append(
            {"image_id": image + 1, "category_id": 1, "segmentation": dict(rle), "area": area, "iscrowd": iscrowd}
        )
    return entries


def _check_sizes(image: int, entries: Sequence[Mapping[str, Any]]) -> None:
    sizes = {tuple(int(side) for side in entry["segmentation"]["size"]) for entry in entries}
    if len(sizes) > 1:
        raise ValueError(
            f"The masks of image {image} have different sizes (height, width): {sorted(sizes)}. They must have that "
            "of the image."
        )


__all__ = ["class_agnostic_mask_metrics"]
