"""Average precision and recall following LVIS: the released script's version, and LVIS's own.

LVIS averages over categories, and looks at a category only in images where its annotators looked for it. Boxes of
the public functions are `xyxy` in absolute pixels of the original image, those of LVIS's files `xywh`, as said below.
"""

import logging
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from ...box_arrays import box_areas
from .average_precision import AREAS, mean_of_defined, numbered
from .box_lists import check_rows, flat_boxes, flat_targets, flat_values, row_of_each

logger = logging.getLogger(__name__)

# LVIS says of each category in how many images of its training set it is: up to 10, up to 100, more.
FREQUENCIES = {"rare": "r", "common": "c", "frequent": "f"}
MAX_DETECTIONS = 300


def lvis_ground_eval(
    predictions: Sequence[Sequence[Sequence[float]]],
    targets: Sequence[Sequence[Sequence[float]]],
    categories: Sequence[str],
    image_ids: Sequence[str],
    areas: Sequence[Sequence[float]] | None = None,
) -> dict[str, float]:
    """Score LVIS-Ground as the released script does: `LVISEval` over all predicted boxes, each with a score of 1.

    The paper's protocol is another one, `as_many_recall`: here the number of boxes is not limited to that of the
    targets, and recall is averaged over categories. Only recall is reported. The average precision that the script
    prints means nothing: boxes that all have the same score have no order.

    Args:
        predictions (`Sequence`, one entry per question): boxes of shape `(n, 4)` in the model's order, `xyxy` in
            pixels; `n` may be 0.
        targets (`Sequence`, one entry per question): true boxes of shape `(k, 4)`, `xyxy` in pixels.
        categories (`Sequence[str]`): what each question asks for.
        image_ids (`Sequence[str]`): the image of each question. No image is asked twice for the same category.
        areas (`Sequence`, one entry per question, *optional*): area of each target in square pixels, where the dataset
            knows the object's own (LVIS: of its mask, which the script takes). By default that of its box. Only the
            metrics by size depend on it.

    Returns:
        `dict[str, float]`: `ar` (mean over IoU 0.50:0.95), `ar@0.5`, `ar@0.75`, `ar_small`, `ar_medium`, `ar_large`;
        in 0..1, or -1 where there is no target (of that size) at all.

    Raises:
        ValueError: not one entry for each question, something that is not a box, or an image asked twice for a
            category.

    Example:
    >>> cups = [[0, 0, 50, 50], [100, 0, 150, 50], [200, 0, 250, 50]]
    >>> dog = [[0, 100, 90, 190]]
    >>> lvis_ground_eval([cups[1:2], dog], [cups, dog], ["cup", "dog"], ["7", "7"])["ar"].__round__(3)
    0.667
    """
    for name, values in (("targets", targets), ("categories", categories), ("image_ids", image_ids)):
        check_rows(name, values, len(predictions))
    boxes, box_counts = flat_boxes("predictions", predictions)
    true, true_counts = flat_targets("targets", targets)
    true_areas = box_areas(true) if areas is None else flat_values("areas", areas, true_counts)
    seen: dict[tuple[str, str], int] = {}
    for row, question in enumerate(zip(image_ids, categories, strict=True)):
        if (first := seen.setdefault(question, row)) != row:
            raise ValueError(
                f"`image_ids` and `categories`: image {question[0]!r} is asked for {question[1]!r} twice, in rows "
                f"{first} and {row}. Keep one of them."
            )
    category_numbers = {category: number for number, category in enumerate(sorted(set(categories)), start=1)}
    image_numbers = {image: number for number, image in enumerate(sorted(set(image_ids)), start=1)}
    question_ids = [
        {"image_id": image_numbers[image], "category_id": category_numbers[category]}
        for image, category in zip(image_ids, categories, strict=True)
    ]
    annotations = [
        {**question_ids[row], "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}
        for row, (x1, y1, x2, y2), area in zip(
            row_of_each(true_counts).tolist(), true.tolist(), true_areas.tolist(), strict=True
        )
    ]
    results = [
        {**question_ids[row], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 1.0}
        for row, (x1, y1, x2, y2) in zip(row_of_each(box_counts).tolist(), boxes.tolist(), strict=True)
    ]
    truth = {
        "images": [{"id": number} for number in image_numbers.values()],
        "categories": [{"id": number, "frequency": "f"} for number in category_numbers.values()],
        "annotations": annotations,
    }
    return {name: value for name, value in lvis_metrics(truth, results).items() if name.startswith("ar")}


def lvis_metrics(
    truth: Mapping[str, Sequence[Mapping[str, Any]]], results: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The metrics of LVIS's own evaluation of boxes (`LVISEval`, at most 300 boxes per image).

    Args:
        truth (`Mapping`): an annotation file of LVIS: `images` (`id`, if there are any `neg_category_ids` and
            `not_exhaustive_category_ids`), `categories` (`id`, `frequency`), `annotations` (`image_id`, `category_id`,
            `bbox` as `xywh` in pixels, `area`).
        results (`Sequence[Mapping]`): `image_id`, `category_id`, `bbox` (`xywh` in pixels), `score`.

    Returns:
        `dict[str, float]`: `ap` (mean over IoU 0.50:0.95 and categories), `ap@0.5`, `ap@0.75`, `ap_small`,
        `ap_medium`, `ap_large`, `ap_rare`, `ap_common`, `ap_frequent`; `ar`, `ar@0.5`, `ar@0.75`, `ar_small`,
        `ar_medium`, `ar_large`. All in 0..1; -1 where there is no target (of that size or frequency) at all. Sizes are
        those of COCO, of `area`.

    Raises:
        ValueError: a result names an image that is not in `truth`.

    Example:
    >>> box = {"image_id": 5, "category_id": 2, "bbox": [10.0, 10.0, 50.0, 50.0]}
    >>> truth = {"images": [{"id": 5}], "categories": [{"id": 2, "frequency": "r"}]}
    >>> truth["annotations"] = [{**box, "area": 2500.0}]
    >>> lvis_metrics(truth, [{**box, "score": 0.7}])["ap_rare"]
    1.0
    """
    images = {image["id"]: image for image in truth["images"]}
    unknown = next((entry["image_id"] for entry in results if entry["image_id"] not in images), None)
    if unknown is not None:
        raise ValueError(f"`results` name the image {unknown!r}, which is not among the images of `truth`.")
    truth, results = _few_images(truth, _best_of_images(results), images)
    reference, answers = (
        COCO({"images": truth["images"], "annotations": numbered(entries), "categories": truth["categories"]})
        for entries in (
            [{**entry, "iscrowd": 0} for entry in truth["annotations"]],
            [{**entry, "area": entry["bbox"][2] * entry["bbox"][3]} for entry in results],
        )
    )
    evaluation = COCOeval_faster(reference, answers, iouType="bbox", print_function=logger.debug, lvis_style=True)
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return _summary(evaluation, truth["categories"])


def _best_of_images(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The best results of each image in any category, as LVIS truncates first. Equal scores keep their order."""
    of_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in results:
        of_image[entry["image_id"]].append(entry)
    return [
        entry
        for entries in of_image.values()
        for entry in sorted(entries, key=lambda entry: -entry["score"])[:MAX_DETECTIONS]
    ]


def _few_images(
    truth: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Sequence[Mapping[str, Any]],
    images: Mapping[Hashable, Mapping[str, Any]],
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """The same evaluation on as few images as possible.

    The evaluation visits each pair of image and category, and of LVIS-Ground's 4,299 x 1,203 pairs fewer than one in a
    thousand has a box. Boxes of different categories are never compared, so the n-th image with boxes of a category
    may be the same image for all categories: slot n. The images of a category keep their order, which decides among
    equal scores.
    """
    looked_for = {(entry["image_id"], entry["category_id"]) for entry in truth["annotations"]}
    looked_for |= {(key, category) for key, image in images.items() for category in image.get("neg_category_ids", ())}
    # A result in an image not annotated for its category is ignored; other pairs matter only if they have a box.
    with_result = {(entry["image_id"], entry["category_id"]) for entry in results} & looked_for
    with_target = {(entry["image_id"], entry["category_id"]) for entry in truth["annotations"]}
    slots: dict[tuple[Any, Any], int] = {}
    count: dict[Any, int] = defaultdict(int)
    for key, category in sorted(with_result | with_target):
        count[category] += 1
        slots[key, category] = count[category]
    slot_images: dict[int, dict[str, Any]] = {
        slot: {"id": slot, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        for slot in range(1, max(count.values(), default=1) + 1)
    }
    for (key, category), slot in slots.items():
        if (key, category) not in with_target:
            slot_images[slot]["neg_category_ids"].append(category)
        if category in images[key].get("not_exhaustive_category_ids", ()):
            slot_images[slot]["not_exhaustive_category_ids"].append(category)
    annotations, found = (
        [
            {**entry, "image_id": slots[entry["image_id"], entry["category_id"]]}
            for entry in entries
            if (entry["image_id"], entry["category_id"]) in slots
        ]
        for entries in (truth["annotations"], results)
    )
    few = {
        "images": list(slot_images.values()),
        "categories": [dict(category) for category in truth["categories"]],
        "annotations": annotations,
    }
    return few, found


def _summary(evaluation: COCOeval_faster, categories: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics by name, from a finished evaluation."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]  # (T, R, K, A, 1) and (T, K, A, 1)
    thresholds = [round(float(threshold), 2) for threshold in evaluation.params.iouThrs]
    half, three_quarters = thresholds.index(0.5), thresholds.index(0.75)
    areas = {area: evaluation.params.areaRngLbl.index(area) for area in AREAS}
    frequency_of = {category["id"]: category["frequency"] for category in categories}
    of_category = np.array([frequency_of[category] for category in evaluation.params.catIds])
    metrics = {
        "ap": mean_of_defined(precision[:, :, :, 0]),
        "ap@0.5": mean_of_defined(precision[half, :, :, 0]),
        "ap@0.75": mean_of_defined(precision[three_quarters, :, :, 0]),
    }
    metrics |= {f"ap_{area}": mean_of_defined(precision[:, :, :, index]) for area, index in areas.items()}
    metrics |= {
        f"ap_{name}": mean_of_defined(precision[:, :, of_category == key, 0]) for name, key in FREQUENCIES.items()
    }
    metrics |= {
        "ar": mean_of_defined(recall[:, :, 0]),
        "ar@0.5": mean_of_defined(recall[half, :, 0]),
        "ar@0.75": mean_of_defined(recall[three_quarters, :, 0]),
    }
    return metrics | {f"ar_{area}": mean_of_defined(recall[:, :, index]) for area, index in areas.items()}


__all__ = ["lvis_ground_eval", "lvis_metrics"]
