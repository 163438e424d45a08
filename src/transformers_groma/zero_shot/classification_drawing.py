"""Draws why an image got its label: the places that count most, outlined, and the description each fits best."""

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image

from ..caption_strip import QUIET, Run, with_caption
from ..colors import palette_color
from ..region_drawing import Mark, RegionCanvas

# Squares overlap: more of them than this hide each other and the image.
PLACES = 5
# Labels in the first line of the strip.
LABELS = 3
# Images with a shorter longer side are enlarged, as lines and letters would cover them.
LEAST_SIDE = 448
# Letters of a label, and of a description, in the strip.
_LONGEST_LABEL, _LONGEST_DESCRIPTION = 120, 300


class _Score(Protocol):
    """What drawing needs of a `LabelScore`."""

    label: str
    probability: float


class _Place(Protocol):
    """What drawing needs of a `Place`."""

    view_xyxy: tuple[int, int, int, int]
    weight: float
    description: str


class _Classified(Protocol):
    """What drawing needs of a `Classification`; its module imports this one."""

    scores: Sequence[_Score]
    explanation: Any


def draw_classification(
    image: Image.Image, classification: _Classified, label: str | None = None, places: int = PLACES
) -> Image.Image:
    """Draw the places that count most, with their weights, and under the image the description that each fits best.

    Args:
        image (`PIL.Image.Image`): the image that was classified, of any mode; it is not changed.
        classification (`Classification`): with an explanation.
        label (`str`, *optional*): one of its labels, whose descriptions are shown; the best one by default.
        places (`int`): at most this many.

    Returns:
        `PIL.Image.Image`: a new RGB image, the upright image at its top left. Small images are enlarged.

    Raises:
        ValueError: no explanation, no such label, or `image` is not a PIL image with pixels, or smaller than what was
            classified.

    Example:
    >>> from PIL import Image
    >>> from transformers_groma.zero_shot import CrossAlignmentClassifier
    >>> case = "tests/fixtures/golden_wca/clip_b2_c4"
    >>> classifier = CrossAlignmentClassifier.from_pretrained(f"{case}/model", ["cloud", "red ball"], device="cpu")
    >>> image = Image.open(f"{case}/image_0.png")
    >>> (result,) = classifier.classify([image], explain=True)
    >>> draw_classification(image, result).width >= 448
    True
    """
    if classification.explanation is None:
        raise ValueError("`classification` has no explanation: classify with `explain=True`.")
    label = classification.scores[0].label if label is None else label
    found = classification.explanation.places(label, places)
    upright = RegionCanvas(image).image
    right, bottom = classification.explanation.views_xyxy[:, 2:].amax(dim=0).tolist()
    if right > upright.width or bottom > upright.height:
        raise ValueError(
            f"`image` has {upright.width}x{upright.height} (width x height) pixels, but the views of the "
            f"classification reach to {right}, {bottom}: pass the image that was classified, in its size."
        )
    scale = max(1, -(-LEAST_SIDE // max(upright.size)))
    if scale > 1:
        upright = upright.resize([side * scale for side in upright.size], Image.Resampling.BICUBIC)
    canvas = RegionCanvas(upright)
    marks = [_mark(place, number, scale) for number, place in enumerate(found)]
    for number, mark in enumerate(marks):
        mark.inset = sum(mark.box == other.box for other in marks[:number])
    canvas.outline(marks, canvas.line_width)
    canvas.label(marks)
    return with_caption(canvas.image, [*_label_runs(classification.scores, label), *_place_runs(found, marks)])


def _mark(place: _Place, number: int, scale: int) -> Mark:
    x1, y1, x2, y2 = (float(side * scale) for side in place.view_xyxy)
    return Mark((x1, y1, x2, y2), palette_color(number), f"{number + 1}: {_percent(place.weight)}")


def _percent(share: float) -> str:
    """A share in percent; one that is not nothing does not look like nothing."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _label_runs(scores: Sequence[_Score], label: str) -> list[Run]:
    """The label that is explained, then the best others, each with its probability."""
    explained = next(score for score in scores if score.label == label)
    others = [score for score in scores if score is not explained][: LABELS - 1]
    texts = [f"{_cut(score.label, _LONGEST_LABEL)} {score.probability:.1%}" for score in (explained, *others)]
    return [Run(texts[0]), *(Run(f", {text}", color=QUIET) for text in texts[1:])]


def _place_runs(places: Sequence[_Place], marks: Sequence[Mark]) -> list[Run]:
    runs = []
    for place, mark in zip(places, marks, strict=True):
        runs += [Run("\n"), Run(mark.label, mark.color), Run(f"  {_cut(place.description, _LONGEST_DESCRIPTION)}")]
    return runs


def _cut(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


__all__ = ["draw_classification"]
