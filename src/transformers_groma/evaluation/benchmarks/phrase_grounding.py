"""Phrase grounding: a caption is given, and the model says where the image shows each of its phrases.

From GLaMM's paper, appendix B.1, is the task alone: "the answers in the GCG dataset are now used as questions, and the
parts of the captions containing groundings are regarded as phrases"; a model is trained for it, and answers with masks
of the phrases, "enclosed within <p> and </p> tokens". The paper shows images and reports no metric, and the authors
released neither code nor weights of it. So the prompt and the metrics are ours:

- the question is the caption and nothing else, its phrases as the family's chat template writes phrases of questions;
  the answer is generated;
- a phrase of the caption is found in the answer by its words, see [`match_phrases`];
- it is scored by its mask where the truth has masks, and by the box around it, as recall@1 of Flickr30k Entities is.

`--protocol given-caption` is ours, too, and needs no training for this task: the caption is given to a GLaMM as its
answer to the standard question of grounded conversations, and masks are read from the states that predict each [SEG].

Rows are conversations of one question and its answer, whose phrases are the truth: those of `processing/flickr30k.py`
(boxes), of `processing/glamm_gcg.py` (masks), or of `groma data shapes --task grounded-caption --questions 1`. Each
caption is asked about by itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from ...answer_masks import has_mask_decoder
from ...data.columns import MESSAGES, PHRASE, image_part, phrase_part
from ...masks import RLE
from ...model_files import ANSWERING_MODELS
from ..benchmark import (
    Asking,
    Benchmark,
    BenchmarkRows,
    Metric,
    Respondent,
    Row,
    row_name,
    rows_without_image,
)
from ..forced_answers import ForcedCaptionRespondent
from ..metrics.phrase_grounding import GroundedPlace, match_phrases, phrase_grounding_scores, place_ious
from ..predictions import Prediction
from ..respondents import ChatRespondent
from .captions import caption_of

# A caption with its marks and regions.
MAX_NEW_TOKENS = 256
GIVEN_CAPTION = "given-caption"

METRICS = (
    Metric("recall@0.5", "share of phrases whose box around all that was found has an IoU of at least 0.5 (recall@1)"),
    Metric("any_recall@0.5", "share of phrases whose first box has an IoU of at least 0.5 with any true box"),
    Metric("missing", "share of phrases for which nothing was found"),
    Metric("miou", "mean IoU of the phrases' masks, 0 where nothing was found", is_optional=True),
    Metric("ciou", "sum of the intersections of masks over the sum of their unions", is_optional=True),
    Metric("mask_recall@0.5", "share of phrases whose mask has an IoU of at least 0.5", is_optional=True),
)


def phrase_grounding_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask about each caption: the question is the caption, with its phrases marked.

    Args:
        dataset (`Dataset`): conversation columns with one answer per row, and `masks` where they are known.

    Returns:
        `BenchmarkRows`: rows have `target_phrases` (texts), `target_places` (boxes and masks of each),
        `target_boxes_xyxy` and `target_masks` (of all).

    Raises:
        ValueError: a row with no question or several, or whose answer has no phrase that points at boxes.
    """
    rows = given_caption_rows(dataset).rows
    questions = [[{"role": "user", "content": _question(row["messages"][-1]["content"])}] for row in rows]
    asked = dataset.remove_columns("messages").add_column("messages", questions, feature=MESSAGES)
    return BenchmarkRows(asked, [{**row, "messages": question} for row, question in zip(rows, questions, strict=True)])


def given_caption_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask the rows as they are, with the truth of each: a respondent is given their answers.

    Args:
        dataset (`Dataset`), returns, raises: see [`phrase_grounding_rows`].
    """
    return BenchmarkRows(dataset, [_truth(index, row) for index, row in enumerate(rows_without_image(dataset))])


def score_phrase_grounding(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of phrases in given captions.

    Args:
        predictions (`Sequence[Prediction]`): the answers.
        rows (`Sequence[Mapping]`): rows of [`phrase_grounding_rows`], one for each answer.

    Returns:
        `dict[str, float]`: see [`phrase_grounding_scores`]; every phrase counts the same.
    """
    places = [places_of(prediction, row) for prediction, row in zip(predictions, rows, strict=True)]
    return phrase_grounding_scores(
        [place for of_row in places for place in of_row], [place for row in rows for place in row["target_places"]]
    )


def score_phrase_grounding_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each answer by the mean IoU of its phrases.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_phrase_grounding`].

    Returns:
        `list[float]`: one an answer.
    """
    return [
        float(place_ious(places_of(prediction, row), row["target_places"]).mean())
        for prediction, row in zip(predictions, rows, strict=True)
    ]


def places_of(prediction: Prediction, row: Row) -> list[GroundedPlace]:
    """What an answer says about each phrase of its caption.

    Args:
        prediction (`Prediction`): the answer.
        row (`Mapping`): its row, of [`phrase_grounding_rows`].

    Returns:
        `list[GroundedPlace]`: one a phrase of the caption; without boxes where the answer has not found it.
    """
    masks = prediction.masks or [None] * len(prediction.phrases)
    numbers = match_phrases([text for text, _ in prediction.phrases], row["target_phrases"])
    return [
        GroundedPlace([])
        if number is None
        else GroundedPlace(prediction.phrases[number][1].xyxy.tolist(), masks[number])
        for number in numbers
    ]


def known_masks(prediction: Prediction, row: Row) -> tuple[list[RLE], list[RLE]]:
    """The masks to draw: those of the answer, and the true ones, where there are some.

    Args:
        prediction (`Prediction`): the answer.
        row (`Mapping`): its row.

    Returns:
        `tuple[list, list]`: masks of the upright image, as COCO's RLE.
    """
    return [mask for masks in prediction.masks or [] for mask in masks or []], row["target_masks"]


def chat_with_masks(model: PreTrainedModel, processor: ProcessorMixin, asking: Asking) -> Respondent:
    """Make a respondent whose answers have masks where the model decodes some.

    Args:
        model (`PreTrainedModel`): put into evaluation mode.
        processor (`ProcessorMixin`): its processor.
        asking (`Asking`): how questions are asked.

    Returns:
        `ChatRespondent`
    """
    return ChatRespondent(model, processor, asking._replace(masks=has_mask_decoder(model)))


def _question(caption: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A caption as a question: its phrases without their boxes."""
    parts = [phrase_part(part["text"]) if part["type"] == PHRASE else part for part in caption]
    return [image_part(), *parts]


def _truth(index: int, row: dict[str, Any]) -> dict[str, Any]:
    """A row with the truth about its phrases."""
    caption = caption_of(index, row)
    if not caption.phrases:
        raise ValueError(f"{row_name(index, row)} has no phrase that points at boxes: there is nothing to find.")
    boxes, masks = row["boxes_xyxy"], row.get("masks")
    places = []
    for _, numbers in caption.phrases:
        known = masks is not None and all(masks[number] is not None for number in numbers)
        of_phrase = [masks[number] for number in numbers] if known else None
        places.append(GroundedPlace([boxes[number] for number in numbers], of_phrase))
    return {
        **row,
        "target_phrases": [text for text, _ in caption.phrases],
        "target_places": places,
        "target_boxes_xyxy": [box for place in places for box in place.boxes_xyxy],
        "target_masks": [mask for place in places for mask in place.masks or []],
    }


BENCHMARK = Benchmark(
    name="phrase-grounding",
    title="Phrase grounding",
    schemas=("conversation",),
    more_columns=("masks",),
    prepare=phrase_grounding_rows,
    respondent=chat_with_masks,
    model_types=ANSWERING_MODELS,
    score=score_phrase_grounding,
    score_rows=score_phrase_grounding_rows,
    metrics=METRICS,
    asking=Asking(max_new_tokens=MAX_NEW_TOKENS),
    drawn_masks=known_masks,
)
GIVEN_CAPTION_BENCHMARK = replace(
    BENCHMARK,
    title="Phrase grounding, with the caption as the answer",
    protocol=GIVEN_CAPTION,
    prepare=given_caption_rows,
    respondent=ForcedCaptionRespondent,
    asking=Asking("grounded_caption"),
    needs_masks=True,
    model_types=("glamm",),
)

__all__ = [
    "BENCHMARK",
    "GIVEN_CAPTION_BENCHMARK",
    "given_caption_rows",
    "known_masks",
    "phrase_grounding_rows",
    "places_of",
    "score_phrase_grounding",
    "score_phrase_grounding_rows",
]
