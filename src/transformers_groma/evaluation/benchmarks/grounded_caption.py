"""Grounded captioning: describe an image and tie the phrases to boxes.

Rows are conversations of one question and its answer, whose phrases are the truth: those of `processing/flickr30k.py`
or `processing/grit.py`, or of `groma data shapes --task grounded-caption --questions 1`. The model does not see the
answer. Captions of the same image are put together: the image is asked about once, the model's answer is compared with
the phrases of each caption, and CIDEr and METEOR take all captions as references. Rows with the evaluation columns are
fine, too; they do not say which words belong to a box, so metrics that compare words of phrases are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ...model_files import ANSWERING_MODELS
from ..benchmark import Asking, Benchmark, BenchmarkRows, Box, Metric, Row, row_name, rows_without_image
from ..metrics.phrase_precision_recall import grounded_phrase_scores
from ..predictions import Prediction
from ..respondents import ChatRespondent
from .captions import caption_of, check_one_question, join_captions
from .region_caption import CAPTION_METRICS, score_captions

MAX_NEW_TOKENS = 256
REGION_PREFIX = "region_"

METRICS = (
    Metric(
        "precision@0.5", "share of the answers' phrases that are true: words and region (IoU of at least 0.5) agree"
    ),
    Metric("recall@0.5", "share of the true phrases that are found"),
    Metric("f1@0.5", "harmonic mean of both"),
    Metric("region_precision@0.5", "share of the answers' phrases whose region is a true one, whatever their words"),
    Metric("region_recall@0.5", "share of the true regions that are found"),
    Metric("region_f1@0.5", "harmonic mean of both"),
    Metric("phrases_per_answer", "phrases with boxes in an answer", is_share=False),
    *CAPTION_METRICS,
)

# Texts with their boxes; no text where it is not known.
Phrases = list[tuple[str | None, Sequence[Box]]]


def grounded_caption_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask each image once, and put all captions of it together.

    Args:
        dataset (`Dataset`): evaluation columns, or conversation columns with one answer per row.

    Returns:
        `BenchmarkRows`: rows have `references`, `target_boxes_xyxy` (all boxes of the captions) and `target_phrases`
        (for each caption a list of phrases, each a text and its boxes; the texts are `None` in rows of the evaluation
        columns).

    Raises:
        ValueError: a row without an image, with no question or several, or whose answer has no text or no box.
    """
    rows = rows_without_image(dataset)
    truths = [_truth(index, row) for index, row in enumerate(rows)]
    return join_captions(dataset, truths, ("references", "target_boxes_xyxy", "target_phrases"))


def score_grounded_captions(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of grounded captions.

    Args:
        predictions (`Sequence[Prediction]`): the answers.
        rows (`Sequence[Mapping]`): rows of [`grounded_caption_rows`], one for each answer.

    Returns:
        `dict[str, float]`: those of [`grounded_phrase_scores`] (only the `region_` ones where the words of phrases are
        not known), `phrases_per_answer`, and those of captions.
    """
    pairs = [
        (_phrases(prediction), phrases)
        for prediction, row in zip(predictions, rows, strict=True)
        for phrases in row["target_phrases"]
    ]
    metrics = _phrase_metrics(pairs)
    metrics["phrases_per_answer"] = sum(len(prediction.phrases) for prediction in predictions) / len(predictions)
    return metrics | score_captions(
        [prediction.text for prediction in predictions], [row["references"] for row in rows]
    )


def score_grounded_caption_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each answer by the F1 of its regions and those of all captions of the image.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_grounded_captions`].

    Returns:
        `list[float]`: one an answer.

    Example:
    >>> from transformers_groma.regions import Regions
    >>> dog = [[0.0, 0.0, 10.0, 10.0]]
    >>> answer = Prediction(0, "7", "An animal.", [("An animal", Regions(dog))], "")
    >>> score_grounded_caption_rows([answer], [{"target_phrases": [[("a dog", dog)]]}])
    [1.0]
    """
    return [
        _phrase_metrics([(_phrases(prediction), phrases) for phrases in row["target_phrases"]])["region_f1@0.5"]
        for prediction, row in zip(predictions, rows, strict=True)
    ]


def _phrase_metrics(pairs: Sequence[tuple[Phrases, Phrases]]) -> dict[str, float]:
    """Metrics of pairs of an answer and a caption."""
    words_known = all(text is not None for _, phrases in pairs for text, _ in phrases)
    truths = [[(text or "", boxes) for text, boxes in phrases] for _, phrases in pairs]
    metrics = grounded_phrase_scores([phrases for phrases, _ in pairs], truths)
    return {name: value for name, value in metrics.items() if words_known or name.startswith(REGION_PREFIX)}


def _phrases(prediction: Prediction) -> Phrases:
    return [(text, regions.xyxy.tolist()) for text, regions in prediction.phrases]


def _truth(index: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the truth for its answer."""
    if "references" in row:
        check_one_question(index, row)
        references, boxes = row["references"], row["target_boxes_xyxy"]
        phrases: Phrases = [(None, [box]) for box in boxes]
    else:
        caption = caption_of(index, row)
        references = [caption.text] if caption.text else []
        phrases = [(text, [row["boxes_xyxy"][box] for box in boxes]) for text, boxes in caption.phrases]
        boxes = [box for _, of_phrase in phrases for box in of_phrase]
    if not references or not boxes:
        lacking = "`references`" if not references else "boxes"
        raise ValueError(f"{row_name(index, row)} has no {lacking} to compare an answer with.")
    return {**row, "references": references, "target_boxes_xyxy": boxes, "target_phrases": [phrases]}


BENCHMARK = Benchmark(
    name="grounded-caption",
    title="Grounded captioning",
    schemas=("evaluation", "conversation"),
    prepare=grounded_caption_rows,
    respondent=ChatRespondent,
    model_types=ANSWERING_MODELS,
    score=score_grounded_captions,
    score_rows=score_grounded_caption_rows,
    metrics=METRICS,
    asking=Asking("grounded_caption", MAX_NEW_TOKENS),
)

__all__ = [
    "BENCHMARK",
    "grounded_caption_rows",
    "score_grounded_caption_rows",
    "score_grounded_captions",
]
