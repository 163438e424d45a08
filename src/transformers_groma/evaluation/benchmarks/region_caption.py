"""Region captioning: describe the region that a question points at.

CIDEr and METEOR 1.5 compare an answer with the captions of the region, as coco-caption does. METEOR needs Java;
without it the other metrics are reported. Rows are those of `processing/refcoco.py --task region-caption --evaluation`
(all expressions of a box are its references), of `processing/visual_genome.py --evaluation`, or of `groma data shapes
--task region-caption --evaluation`.
"""

from collections import Counter
from collections.abc import Sequence

from datasets import Dataset

from ...model_files import ANSWERING_MODELS
from ..benchmark import (
    Asking,
    Benchmark,
    BenchmarkRows,
    Metric,
    PublishedMetric,
    Row,
    row_name,
    rows_without_image,
)
from ..metrics.cider_meteor import caption_scores
from ..predictions import Prediction
from ..respondents import ChatRespondent

MAX_NEW_TOKENS = 64

CAPTION_METRICS = (
    Metric("cider", "CIDEr of coco-caption (CIDEr-D, PTB tokenizer); 1 is 100 in papers"),
    Metric("meteor", "METEOR 1.5, of its Java program"),
    Metric("exact_match", "share of answers that are one of their references, but for capitals and a full stop"),
)
PUBLISHED = (
    PublishedMetric("refcocog", "val", "meteor", 0.168),
    PublishedMetric("refcocog", "val", "cider", 1.073),
    PublishedMetric("visual_genome", "test", "meteor", 0.190),
    PublishedMetric("visual_genome", "test", "cider", 1.584),
)


def region_caption_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask all rows, and check that each has captions to compare an answer with.

    Args:
        dataset (`Dataset`): evaluation columns.

    Returns:
        `BenchmarkRows`: the rows as they are.

    Raises:
        ValueError: a row has no `references`.
    """
    rows = rows_without_image(dataset)
    for index, row in enumerate(rows):
        if not row["references"]:
            raise ValueError(f"{row_name(index, row)} has no `references`: there is nothing to compare with.")
    return BenchmarkRows(dataset, rows)


def score_region_captions(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of descriptions.

    Args:
        predictions (`Sequence[Prediction]`): the answers.
        rows (`Sequence[Mapping]`): evaluation rows, one for each answer: `references`.

    Returns:
        `dict[str, float]`: `cider`, `exact_match`, and `meteor` where Java is installed; a warning where it is not.
    """
    return score_captions([prediction.text for prediction in predictions], [row["references"] for row in rows])


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute the metrics that region captioning and grounded captioning share.

    Args:
        captions (`Sequence[str]`): the answers.
        references (`Sequence[Sequence[str]]`): for each answer, the captions that it is compared with.

    Returns:
        `dict[str, float]`: see [`score_region_captions`].
    """
    metrics = caption_scores(captions, references)
    matches = [
        _plain(caption) in map(_plain, of_caption) for caption, of_caption in zip(captions, references, strict=True)
    ]
    metrics["exact_match"] = sum(matches) / len(matches)
    return metrics


def score_region_caption_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each answer by the words that it shares (F1) with its most similar reference, to find the worst.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_region_captions`].

    Returns:
        `list[float]`: one an answer.

    Example:
    >>> answer = Prediction(0, "7", "A red cup.", [], "")
    >>> score_region_caption_rows([answer], [{"references": ["the cup", "a red cup"]}])
    [1.0]
    """
    return [
        max(_word_overlap(prediction.text, reference) for reference in row["references"])
        for prediction, row in zip(predictions, rows, strict=True)
    ]


def _plain(text: str) -> str:
    """A text without what `exact_match` ignores: capitals and a full stop."""
    return " ".join(text.lower().rstrip(". ").split())


def _word_overlap(first: str, second: str) -> float:
    counts = [Counter(_plain(text).split()) for text in (first, second)]
    total = sum(map(Counter.total, counts))
    return 2 * (counts[0] & counts[1]).total() / total if total else 1.0


def pointed_boxes(prediction: Prediction, row: Row) -> tuple[list[list[float]], list[list[float]]]:
    """The boxes to draw: none of the answer, which is words, and the one that the question points at.

    Args:
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row.

    Returns:
        `tuple[list, list]`: boxes `xyxy` in pixels of the upright image.
    """
    return [], row["boxes_xyxy"]


BENCHMARK = Benchmark(
    name="region-caption",
    title="Region captioning",
    schemas=("evaluation",),
    prepare=region_caption_rows,
    respondent=ChatRespondent,
    model_types=ANSWERING_MODELS,
    score=score_region_captions,
    score_rows=score_region_caption_rows,
    metrics=CAPTION_METRICS,
    published=PUBLISHED,
    asking=Asking("region_caption", MAX_NEW_TOKENS),
    drawn_boxes=pointed_boxes,
    target_name="Box of the question",
)

__all__ = [
    "BENCHMARK",
    "CAPTION_METRICS",
    "pointed_boxes",
    "region_caption_rows",
    "score_captions",
    "score_region_caption_rows",
    "score_region_captions",
]
