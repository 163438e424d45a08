"""Metrics of phrase grounding: for each phrase of a given text, where the image shows it.

Boxes are `xyxy` in absolute pixels; masks are bool arrays `(H, W)` or COCO's RLE, see `mask_lists.py`. No model is
needed.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...box_arrays import IOU_THRESHOLD, ious
from .box_lists import check_rows, flat_boxes, flat_targets
from .mask_lists import Mask
from .phrase_words import phrase_words
from .referring_segmentation import ious_of_overlaps, mask_overlaps


class GroundedPlace(NamedTuple):
    """Where a phrase is in its image.

    Attributes:
        boxes_xyxy (`Sequence` of boxes): around each of its parts, in absolute pixels; empty if it is not found.
        masks (`Sequence` of masks, *optional*): of its parts, which count as one; `None` where they are unknown.
    """

    boxes_xyxy: Sequence[Sequence[float]]
    masks: Sequence[Mask] | None = None


def match_phrases(said: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Find the phrases of a text in an answer: those with the same words, each used once, in order.

    Args:
        said (`Sequence[str]`): phrases of the answer.
        wanted (`Sequence[str]`): phrases of the text.

    Returns:
        `list[int | None]`: for each of `wanted` its place in `said`; `None` if the answer has it less often. Capitals,
            articles and punctuation do not matter.

    Example:
    >>> from transformers_groma.evaluation.metrics.phrase_grounding import match_phrases
    >>> match_phrases(["The dog", "a dog"], ["a dog", "a cat", "a dog,", "dog"])
    [0, None, 1, None]
    """
    words = [tuple(of_phrase) for of_phrase in phrase_words([*said, *wanted])]
    places: defaultdict[tuple[str, ...], deque[int]] = defaultdict(deque)
    for number, of_phrase in enumerate(words[: len(said)]):
        places[of_phrase].append(number)
    return [places[of_phrase].popleft() if places[of_phrase] else None for of_phrase in words[len(said) :]]


def phrase_grounding_scores(
    predictions: Sequence[GroundedPlace], references: Sequence[GroundedPlace]
) -> dict[str, float]:
    """Score where phrases were found.

    Args:
        predictions (`Sequence[GroundedPlace]`, one a phrase): what the model found.
        references (`Sequence[GroundedPlace]`, one a phrase): the truth, with at least one box each.

    Returns:
        `dict[str, float]`, all in 0..1:

        - `recall@0.5`: share of phrases for which the box around all that was found has an IoU of at least 0.5 with
          the box around all that is true. In the literature: recall@1, protocol "merged boxes".
        - `any_recall@0.5`: share of phrases whose first box has an IoU of at least 0.5 with any true box. Recall@1,
          protocol "any box".
        - `missing`: share of phrases for which nothing was found.
        - `miou`: mean IoU of the masks, `ciou`: sum of their intersections over the sum of their unions,
          `mask_recall@0.5`: share of masks with an IoU of at least 0.5. Over the phrases whose true masks are known,
          and only there if what was found has masks.

    Raises:
        ValueError: nothing to score, not one reference for each prediction, a reference without a box, something that
            is not a box or a mask, or masks of different sizes.

    Example:
    >>> from transformers_groma.evaluation.metrics.phrase_grounding import GroundedPlace, phrase_grounding_scores
    >>> two = GroundedPlace([[0, 0, 4, 8], [6, 0, 8, 8]])
    >>> found = [GroundedPlace([[0, 0, 4, 8]]), GroundedPlace([])]
    >>> phrase_grounding_scores(found, [two, two])
    {'recall@0.5': 0.5, 'any_recall@0.5': 0.5, 'missing': 0.5}
    """
    check_rows("references", references, len(predictions))
    boxes, counts = flat_boxes("predictions", [place.boxes_xyxy for place in predictions])
    true_boxes, true_counts = flat_targets("references", [place.boxes_xyxy for place in references])
    if not true_counts.all():
        raise ValueError(f"`references[{true_counts.argmin()}]` has no box: there is nothing to compare with.")
    merged = ious(_around(boxes, counts), _around(true_boxes, true_counts))
    starts, true_starts = np.cumsum(counts) - counts, np.cumsum(true_counts) - true_counts
    best = np.zeros(len(predictions))
    for phrase in np.flatnonzero(counts):
        true = true_boxes[true_starts[phrase] : true_starts[phrase] + true_counts[phrase]]
        best[phrase] = ious(boxes[starts[phrase]][None], true).max()
    scores = {
        "recall@0.5": float((merged >= IOU_THRESHOLD).mean()),
        "any_recall@0.5": float((best >= IOU_THRESHOLD).mean()),
        "missing": float((counts == 0).mean()),
    }
    return scores | _mask_scores(predictions, references)


def place_ious(predictions: Sequence[GroundedPlace], references: Sequence[GroundedPlace]) -> np.ndarray:
    """How well each phrase was found: the IoU of its masks where both are known, else of the boxes around it.

    Args:
        predictions, references (`Sequence[GroundedPlace]`, one a phrase): see [`phrase_grounding_scores`].

    Returns:
        `np.ndarray` of shape `(phrases,)`: 0..1.
    """
    values = np.zeros(len(predictions))
    for phrase, (found, true) in enumerate(zip(predictions, references, strict=True)):
        if _comparable(found, true):
            values[phrase] = ious_of_overlaps(*mask_overlaps([found.masks or []], [true.masks]))[0]
        elif len(found.boxes_xyxy):
            around = [_around(*flat_boxes("boxes", [place.boxes_xyxy])) for place in (found, true)]
            values[phrase] = ious(*around)[0]
    return values


def _mask_scores(predictions: Sequence[GroundedPlace], references: Sequence[GroundedPlace]) -> dict[str, float]:
    pairs = [(found, true) for found, true in zip(predictions, references, strict=True) if true.masks is not None]
    if not pairs or not all(_comparable(found, true) for found, true in pairs):
        return {}
    intersections, unions = mask_overlaps([found.masks or [] for found, _ in pairs], [true.masks for _, true in pairs])
    of_phrases = ious_of_overlaps(intersections, unions)
    return {
        "miou": float(of_phrases.mean()),
        "ciou": float(intersections.sum() / max(unions.sum(), 1)),
        "mask_recall@0.5": float((of_phrases >= IOU_THRESHOLD).mean()),
    }


def _comparable(found: GroundedPlace, true: GroundedPlace) -> bool:
    """Whether both have masks. Nothing that was found needs none."""
    return true.masks is not None and (found.masks is not None or not len(found.boxes_xyxy))


def _around(boxes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The box around the boxes of each phrase, `(phrases, 4)`; zeros where there are none."""
    around = np.zeros((len(counts), 4))
    stops = np.cumsum(counts)
    for phrase in np.flatnonzero(counts):
        own = boxes[stops[phrase] - counts[phrase] : stops[phrase]]
        around[phrase] = [*own[:, :2].min(axis=0), *own[:, 2:].max(axis=0)]
    return around


__all__ = ["GroundedPlace", "match_phrases", "phrase_grounding_scores", "place_ious"]
