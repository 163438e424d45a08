"""Cases for the gallery: errors, the most confident ones first, with the places that decided."""

from collections.abc import Sequence

import numpy as np
import torch

from ...zero_shot.classification import Explanation, Support
from ...zero_shot.views import Views
from ..reports.gallery import GalleryCase, worst_first
from .class_names import ClassNames
from .image_features import WHOLE, EncodedImages
from .labelled_images import LabelledImages
from .report import RowResult
from .view_plans import views_of_image, weights_of_views

# Pairs of a place and a description that are told of each case.
_SUPPORTS = 5
_MOST_WORDS = 200
BOXES = "a place that decided, numbered as in the answer"


def worst_images(result: RowResult, labels: np.ndarray, count: int) -> list[int]:
    """The images to look at: errors by falling confidence, then right answers by rising confidence.

    Args:
        result (`RowResult`): of a method.
        labels (`np.ndarray` of shape `(N,)`): the true classes.
        count (`int`): how many, at most.

    Returns:
        `list[int]`: their numbers.
    """
    is_right = result.predicted == labels
    return worst_first(np.where(is_right, result.probability, -result.probability).tolist(), count)


def explained(result: RowResult, images: EncodedImages, place: int, temperature: float) -> Explanation:
    """Which place of an image supported which text, in the first repeat of a method.

    Args:
        result (`RowResult`): of a method.
        images (`EncodedImages`): a batch.
        place (`int`): which of its images.
        temperature (`float`): of the weights of views.

    Returns:
        `Explanation`
    """
    row = result.row
    whole = images.views[WHOLE]
    views, kinds = whole, (WHOLE,)
    if row.plan is not None:
        views, kinds = row.plan.views(images, 0), row.plan.kinds(images, 0)
    places, features = views_of_image(views, kinds, place)
    weights = torch.ones(1)
    if row.plan is not None and len(places):
        weights = weights_of_views(whole.features[:, 0], views, temperature)[place, ~views.is_padding[place]]
    elif not len(places):
        places, features = Views(whole.xyxy[place], (WHOLE,)), whole.features[place]
    return Explanation(places, weights, features, row.texts_of(0), row.score)


def gallery_case(
    result: RowResult,
    images: LabelledImages,
    classes: ClassNames,
    number: int,
    position: int,
    label: str,
    explanation: Explanation,
) -> GalleryCase:
    """A case of the gallery.

    Args:
        result (`RowResult`): of a method.
        images (`LabelledImages`): the dataset.
        classes (`ClassNames`): its classes.
        number (`int`): of the image in the dataset.
        position (`int`): of the image in the result, which lacks those that cannot be read.
        label (`str`): the name that was predicted, as the explanation has it.
        explanation (`Explanation`): why.

    Returns:
        `GalleryCase`
    """
    supports = explanation.strongest(label, _SUPPORTS)
    boxes = list(dict.fromkeys(support.view_xyxy for support in supports if support.kind != WHOLE))
    truth = int(images.labels[number])
    is_right = int(result.predicted[position]) == truth
    lines = [f"{label} ({result.probability[position]:.0%})"]
    lines += [_line_of(support, boxes) for support in supports]
    return GalleryCase(
        image=images.image(number),
        title=images.image_ids[number],
        question="",
        answer="\n".join(lines),
        predicted_boxes_xyxy=boxes,
        target_boxes_xyxy=[],
        score=float(result.probability_of_truth[position]),
        verdict="right" if is_right else "wrong",
        expected=[f"{classes.shown[truth]} ({result.probability_of_truth[position]:.0%})"],
        target_name="",
    )


def _line_of(support: Support, boxes: Sequence[tuple[int, ...]]) -> str:
    where = f"place {boxes.index(support.view_xyxy) + 1}" if support.view_xyxy in boxes else "whole image"
    text = support.description
    text = text if len(text) <= _MOST_WORDS else f"{text[: _MOST_WORDS - 1]}\u2026"
    return f"{where}, {support.similarity:.3f}: {text}"


__all__ = ["BOXES", "explained", "gallery_case", "worst_images"]
