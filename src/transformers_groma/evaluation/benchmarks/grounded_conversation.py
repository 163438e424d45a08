"""Grounded conversation generation (GCG): describe an image and tie the phrases to masks, as GLaMM's benchmark has it.

Rows are conversations of one question and its answer, with the column `masks`: those of `groma data shapes --task
grounded-caption --questions 1`. The model does not see the answer. The masks of a phrase's regions count as one mask.
Captions of the same image are put together: the image is asked about once, CIDEr and METEOR take all captions as
references, and masks are compared with those of each caption.

METEOR and CIDEr are those of coco-caption; METEOR needs Java. Masks are scored twice. The plain metrics are what
GLaMM's paper describes, with the scores of the model's regions for the AP. `glamm_release_ap@0.5` and
`glamm_release_mask_recall` are what its released script computes: all masks have a score of 1, and an image ends at
its first pair that fails, see [`grounded_mask_scores`]. A phrase that names no region is plain text, for both.
`glamm_conversation.py` has these as protocols of their own, beside GLaMM's published metrics.

GLaMM's script calls two phrases alike by the cosine of their embeddings by `bert-base-uncased`: `--text-encoder
bert-base-uncased`. Without an encoder it is the F1 of their words. `results.json` says which, as `text_similarity`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from ...masks import RLE, mask_to_rle
from ...model_files import ANSWERING_MODELS
from ..benchmark import (
    Asking,
    Benchmark,
    BenchmarkRows,
    Metric,
    Row,
    answer_and_target_masks,
    row_name,
    rows_without_image,
)
from ..metrics.cider_meteor import caption_scores
from ..metrics.grounded_masks import MaskedPhrase, Similarity, grounded_mask_scores
from ..metrics.mask_average_precision import class_agnostic_mask_metrics
from ..metrics.mask_lists import united
from ..metrics.phrase_words import token_f1
from ..predictions import Prediction
from ..respondents import ChatRespondent
from .captions import caption_of, join_captions

MAX_NEW_TOKENS = 512
# What `results.json` calls the F1 of words, the similarity of phrases without an encoder.
TOKEN_F1 = "token-F1"
RELEASE_PREFIX = "glamm_release_"

METRICS = (
    Metric("meteor", "METEOR 1.5 of the captions, computed by its Java program"),
    Metric("cider", "CIDEr of coco-caption (CIDEr-D, PTB tokenizer); 1 is 100 in papers"),
    Metric("ap@0.5", "average precision of the phrases' masks at IoU 0.5, without classes, by the regions' scores"),
    Metric(
        "miou", "mean IoU of masks paired one to one, then the mean over images; a mask without a pair costs nothing"
    ),
    Metric("target_miou", "mean over the true masks of the IoU with their pair, 0 without one"),
    Metric("mask_recall", "share of true phrases found: IoU and similarity of the phrases of a pair at least 0.5"),
    Metric(f"{RELEASE_PREFIX}ap@0.5", "ap@0.5 as GLaMM's script computes it: every mask has a score of 1"),
    Metric(
        f"{RELEASE_PREFIX}mask_recall", "mask_recall as GLaMM's script computes it: an image ends at its first failure"
    ),
    Metric("phrases_per_answer", "phrases with masks in an answer", is_share=False),
)


def grounded_conversation_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask each image once, and put all captions of it together.

    Args:
        dataset (`Dataset`): conversation columns with one answer per row, and `masks`.

    Returns:
        `BenchmarkRows`: rows have `references`, `target_boxes_xyxy`, `target_masks` (those of all captions) and
        `target_phrases` (for each caption a list of phrases, each a text and its mask).

    Raises:
        ValueError: no column `masks`; a row with no question or several; or an answer without text, without a phrase
            that points at boxes, or with a phrase that has no mask.
    """
    if "masks" not in dataset.features:
        raise ValueError(
            "`dataset` has no column `masks`: there is nothing to compare masks with. `groma data shapes` and the "
            "scripts of processing/ write it for sources with segmentations; make the rows again."
        )
    truths = [_truth(index, row) for index, row in enumerate(rows_without_image(dataset))]
    return join_captions(dataset, truths, ("references", "target_boxes_xyxy", "target_masks", "target_phrases"))


def score_grounded_conversations(
    predictions: Sequence[Prediction], rows: Sequence[Row], similarity: Similarity = token_f1
) -> dict[str, float]:
    """Compute all metrics of grounded conversations.

    Args:
        predictions (`Sequence[Prediction]`): the answers, with masks.
        rows (`Sequence[Mapping]`): rows of [`grounded_conversation_rows`], one for each answer.
        similarity (`Callable`): how alike the phrases of pairs are; see [`grounded_mask_scores`].

    Returns:
        `dict[str, float]`: those of `METRICS`; `meteor` where Java is installed.
    """
    answers = [masked_phrases(prediction) for prediction in predictions]
    scores = [_phrase_scores(prediction) for prediction in predictions]
    # An answer is compared with each caption of its image.
    pairs = [(index, caption) for index, row in enumerate(rows) for caption in row["target_phrases"]]
    targets = [[mask for _, mask in caption] for _, caption in pairs]
    metrics = caption_scores([prediction.text for prediction in predictions], [row["references"] for row in rows])
    metrics |= grounded_mask_scores(
        [answers[index] for index, _ in pairs], [caption for _, caption in pairs], similarity
    )
    for prefix, of_mask in (("", lambda score: score), (RELEASE_PREFIX, lambda score: 1.0)):
        found = []
        for index, _ in pairs:
            masked = [
                (mask, of_mask(score))
                for (_, mask), score in zip(answers[index], scores[index], strict=True)
                if mask is not None
            ]
            found.append(([mask for mask, _ in masked], [score for _, score in masked]))
        metrics[f"{prefix}ap@0.5"] = class_agnostic_mask_metrics(found, targets)["ap@0.5"]
    told = [sum(mask is not None for _, mask in phrases) for phrases in answers]
    metrics["phrases_per_answer"] = float(np.mean(told))
    return metrics


def score_grounded_conversation_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each answer by how well it covers the true masks, whatever its words.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_grounded_conversations`].

    Returns:
        `list[float]`: the `target_miou` of each answer.
    """
    return [
        grounded_mask_scores([masked_phrases(prediction)] * len(row["target_phrases"]), row["target_phrases"])[
            "target_miou"
        ]
        for prediction, row in zip(predictions, rows, strict=True)
    ]


def masked_phrases(prediction: Prediction) -> list[MaskedPhrase]:
    """The phrases of an answer, each with the mask that its regions cover together.

    Args:
        prediction (`Prediction`): the answer, with masks.

    Returns:
        `list[tuple[str, RLE | None]]`: `None` for a phrase without regions.

    Raises:
        ValueError: the answer has no masks.
    """
    return [
        (text, _as_one(f"phrase {text!r}", masks))
        for (text, _), masks in zip(prediction.phrases, prediction.masks_of_phrases(), strict=True)
    ]


def benchmark_with(similarity: Similarity, name: str) -> Benchmark:
    """The benchmark with a similarity of phrases of your own.

    Args:
        similarity (`Callable`): how alike the phrases of pairs are; see [`grounded_mask_scores`].
        name (`str`): what results call it, as metrics of different similarities do not compare.

    Returns:
        `Benchmark`
    """
    return Benchmark(
        name="grounded-conversation",
        title="Grounded conversation generation",
        schemas=("conversation",),
        more_columns=("masks",),
        prepare=grounded_conversation_rows,
        respondent=ChatRespondent,
        model_types=ANSWERING_MODELS,
        score=partial(score_grounded_conversations, similarity=similarity),
        score_rows=score_grounded_conversation_rows,
        metrics=METRICS,
        asking=Asking("grounded_caption", MAX_NEW_TOKENS, masks=True),
        settings={"text_similarity": name},
        needs_masks=True,
        drawn_masks=answer_and_target_masks,
        with_similarity=benchmark_with,
    )


def _as_one(name: str, masks: Sequence[RLE]) -> RLE | None:
    if len(masks) < 2:
        return masks[0] if masks else None
    return mask_to_rle(united(name, masks))


def _phrase_scores(prediction: Prediction) -> list[float]:
    """For each phrase the mean score of its regions; 0 for one without."""
    return [float(regions.scores.mean()) if len(regions) else 0.0 for _, regions in prediction.phrases]


def _truth(index: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the truth for its answer."""
    caption = caption_of(index, row)
    numbers = [number for _, boxes in caption.phrases for number in boxes]
    if not caption.text or not numbers:
        lacking = "text" if not caption.text else "phrase that points at boxes"
        raise ValueError(f"{row_name(index, row)} has no {lacking} to compare an answer with.")
    masks = row["masks"]
    if masks is None or any(masks[number] is None for number in numbers):
        raise ValueError(
            f"{row_name(index, row)} has a phrase without a mask in `masks`. Leave such rows out: an answer cannot be "
            "compared with it."
        )
    phrases = [
        (text, _as_one(row_name(index, row), [masks[number] for number in boxes])) for text, boxes in caption.phrases
    ]
    return {
        **row,
        "references": [caption.text],
        "target_boxes_xyxy": [row["boxes_xyxy"][number] for number in numbers],
        "target_masks": [mask for _, mask in phrases],
        "target_phrases": [phrases],
    }


BENCHMARK = benchmark_with(token_f1, TOKEN_F1)

__all__ = [
    "BENCHMARK",
    "TOKEN_F1",
    "benchmark_with",
    "grounded_conversation_rows",
    "masked_phrases",
    "score_grounded_conversation_rows",
    "score_grounded_conversations",
]
