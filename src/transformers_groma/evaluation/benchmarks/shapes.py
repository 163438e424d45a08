"""Scores a model on synthetic scenes, whose truth is known to the pixel: the metrics of groma-tiny.

Boxes are `xyxy` in absolute pixels.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from ...box_arrays import IOU_THRESHOLD, ious
from ...pointed_regions import has_region_proposer
from ...shapes.rows import shapes_dataset
from ...shapes.scenes import ATTRIBUTE_WORDS, make_scene
from ...shapes.wording import with_article, words
from ..generation import answer_rows
from ..metrics.phrase_precision_recall import grounded_phrase_scores
from ..metrics.rec_accuracy import rec_accuracy
from ..predictions import Prediction
from ..proposals import evaluate_proposals
from .grounded_conversation import grounded_conversation_rows, score_grounded_conversations
from .referring_segmentation import referring_segmentation_rows, score_referring_segmentation

# The kind of attribute that each word of a description names.
KINDS = {word: kind for kind, known in ATTRIBUTE_WORDS.items() for word in known}
# Longest answer of each task.
MAX_NEW_TOKENS = {
    **{"rec": 8, "grounding": 24, "region-caption": 16, "grounded-caption": 140},
    **{"referring-segmentation": 16, "grounded-conversation": 200},
}
# Tasks whose answers are masks, and the scenes that they are about.
SCENES_OF_MASKS = {"referring-segmentation": "rec", "grounded-conversation": "grounded-caption"}


def score_rec(predictions: Sequence[Prediction], rows: Dataset) -> dict[str, float]:
    """Score answers by their first box, which is right at an IoU above 0.5 with the target, as in the paper.

    Args:
        predictions (`Sequence[Prediction]`): the answer to each row.
        rows (`Dataset`): evaluation columns.

    Returns:
        `dict`: `acc@0.5` and `missing`, the share of answers without a box.
    """
    targets = [boxes[0] for boxes in rows["target_boxes_xyxy"]]
    metrics = rec_accuracy([prediction.boxes_xyxy for prediction in predictions], targets)
    return {name: metrics[name] for name in ("acc@0.5", "missing")}


def score_grounding(predictions: Sequence[Prediction], rows: Dataset) -> dict[str, float]:
    """Score how many boxes of answers are targets, and how many targets are found, at an IoU of at least 0.5.

    Each box counts for one target at most.

    Args:
        predictions (`Sequence[Prediction]`): the answer to each row.
        rows (`Dataset`): evaluation columns.

    Returns:
        `dict`: `f1@0.5`, `precision@0.5`, `recall@0.5`, over the boxes of all rows together.
    """
    # Each box becomes a phrase without words, so that boxes alone decide.
    told = [[("", [box]) for box in prediction.boxes_xyxy] for prediction in predictions]
    metrics = grounded_phrase_scores(told, [[("", [box]) for box in boxes] for boxes in rows["target_boxes_xyxy"]])
    return {name: metrics[name] for name in ("f1@0.5", "precision@0.5", "recall@0.5")}


def score_region_captions(predictions: Sequence[Prediction], rows: Dataset) -> dict[str, float]:
    """Score how many descriptions are correct word for word, and how many of their attributes are.

    Args:
        predictions (`Sequence[Prediction]`): the answer to each row.
        rows (`Dataset`): evaluation columns; `references` hold the right description.

    Returns:
        `dict`: `exact_match`, and `attributes_right`: of the sizes, textures, colors and shapes that the right
        descriptions name, how many the answers name (the first of its kind in an answer counts).
    """
    pairs = list(zip([prediction.text for prediction in predictions], rows["references"], strict=True))
    hits = sum(text.strip() == references[0] for text, references in pairs)
    named = right = 0
    for text, references in pairs:
        said, wanted = named_attributes(text), named_attributes(references[0])
        named += len(wanted)
        right += sum(said.get(kind) == word for kind, word in wanted.items())
    return {"exact_match": hits / len(rows), "attributes_right": right / max(named, 1)}


def named_attributes(text: str) -> dict[str, str]:
    """Find the attributes that a text names, the first word of each kind.

    Args:
        text (`str`): a description of an object.

    Returns:
        `dict[str, str]`: some of size, texture, color and shape.

    Example:
    >>> named_attributes("A small striped purple square.")
    {'size': 'small', 'texture': 'striped', 'color': 'purple', 'shape': 'square'}
    """
    found: dict[str, str] = {}
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in KINDS:
            found.setdefault(KINDS[word], word)
    return found


def score_grounded_captions(predictions: Sequence[Prediction], rows: Dataset) -> dict[str, float]:
    """Score how many phrases describe an object fully and point at one like it, at an IoU of at least 0.5.

    The first box of a phrase counts.

    Args:
        predictions (`Sequence[Prediction]`): the answer to each row.
        rows (`Dataset`): evaluation columns of synthetic scenes; `image_id` says which scene.

    Returns:
        `dict`: `phrases_right`, the share of phrases that are right, and `phrases`, how many there are an answer.
    """
    hits = 0
    for prediction, row in zip(predictions, rows, strict=True):
        _, split, seed, index = row["image_id"].split("-")
        scene = make_scene(int(seed), split, int(index), row["image"].width)
        for text, regions in prediction.phrases:
            meant = [item.box_xyxy for item in scene.objects if with_article(words(item.attributes)) == text.strip()]
            if meant and len(regions):
                hits += bool(ious(regions.xyxy[:1].numpy(), np.array(meant)).max() >= IOU_THRESHOLD)
    count = sum(len(prediction.phrases) for prediction in predictions)
    return {"phrases_right": hits / max(count, 1), "phrases": count / len(rows)}


def score_referring_segmentation_shapes(predictions: Sequence[Prediction], rows: Dataset) -> dict[str, float]:
    """Score the masks of what expressions refer to.

    Args:
        predictions (`Sequence[Prediction]`): the answer to each row, with masks.
        rows (`Dataset`): evaluation columns and `target_masks`.

    Returns:
        `dict`: `ciou`, `giou` and `missing`, as in referring segmentation.
    """
    scores = score_referring_segmentation(predictions, referring_segmentation_rows(rows).rows)
    return {name: scores[name] for name in ("ciou", "giou", "missing")}


def score_grounded_conversation_shapes(predictions: Sequence[Prediction], rows: Dataset) -> dict[str, float]:
    """Score the masks and words of captions.

    Args:
        predictions (`Sequence[Prediction]`): the answer to each row, with masks.
        rows (`Dataset`): conversation columns with one question, and `masks`.

    Returns:
        `dict`: `miou`, `target_miou`, `mask_recall` and `phrases_per_answer` of grounded conversations, and `ap@0.5`,
        in which all masks have a score of 1, as GLaMM's script has it.
    """
    scores = score_grounded_conversations(predictions, grounded_conversation_rows(rows).rows)
    names = ("miou", "target_miou", "mask_recall", "phrases_per_answer")
    return {"ap@0.5": scores["glamm_release_ap@0.5"], **{name: scores[name] for name in names}}


MASK_SCORES = {
    "referring-segmentation": score_referring_segmentation_shapes,
    "grounded-conversation": score_grounded_conversation_shapes,
}
SCORES = {
    "rec": score_rec,
    "grounding": score_grounding,
    "region-caption": score_region_captions,
    "grounded-caption": score_grounded_captions,
}


def answer_shapes(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    task: str,
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> list[Prediction]:
    """Ask a model the questions of a task.

    Args:
        model (`PreTrainedModel`): the model, in evaluation mode.
        processor (`ProcessorMixin`): its processor.
        dataset (`Dataset`): evaluation columns.
        task (`str`): a task of `SCORES`, or one of `MASK_SCORES`, whose answers have masks.
        batch_size (`int`): rows at a time.
        progress (`bool`): whether to show a progress bar.

    Returns:
        `list[Prediction]`: one a row, in order; boxes `xyxy` in absolute pixels.
    """
    max_new_tokens = MAX_NEW_TOKENS[task]
    options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "masks": task in MASK_SCORES}
    answers = answer_rows(model, processor, dataset, **options, progress=progress)
    return [
        Prediction.of(index, image_id, answer)
        for index, (image_id, answer) in enumerate(zip(dataset["image_id"], answers, strict=True))
    ]


def evaluate_shapes(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    *,
    rows: int = 500,
    seed: int = 1000,
    split: str = "test",
    tasks: Sequence[str] = ("detection", *SCORES),
    image_size: int | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Measure a model on fresh scenes.

    Args:
        model (`PreTrainedModel`): the model, in evaluation mode.
        processor (`ProcessorMixin`): its processor.
        rows (`int`): how many scenes there are for each task.
        seed (`int`): seed of the scenes.
        split (`str`): split of the scenes; different splits share no scene.
        tasks (`Sequence[str]`): some of "detection", "rec", "grounding", "region-caption", "grounded-caption", and of
            models that decode masks "referring-segmentation", "grounded-conversation".
        image_size (`int`, *optional*): side of the scenes in pixels; by default what the vision encoder sees.
        batch_size (`int`): rows at a time.
        progress (`bool`): whether to show progress bars.

    Returns:
        `dict`: for each task its metrics.

    Raises:
        ValueError: an unknown task, or "detection" with a model that proposes no regions.
    """
    scores = SCORES | MASK_SCORES
    if unknown := [task for task in tasks if task != "detection" and task not in scores]:
        raise ValueError(f"Unknown task {unknown[0]!r}. Use some of detection, {', '.join(scores)}.")
    if "detection" in tasks and not has_region_proposer(model):
        raise ValueError(f"A {model.config.model_type} proposes no regions: leave 'detection' out of `tasks`.")
    size = model.config.vision_config.image_size if image_size is None else image_size
    metrics: dict[str, dict[str, Any]] = {}
    for task in tasks:
        kind: dict[str, Any] = {"evaluation": task != "detection"}
        if task == "grounded-conversation":
            kind = {"questions": 1}
        scenes = SCENES_OF_MASKS.get(task, task)
        dataset = shapes_dataset(scenes, rows, seed, split=split, image_size=size, **kind)
        if task == "detection":
            metrics[task] = evaluate_proposals(
                model, dataset, processor.image_processor, batch_size=batch_size, progress=progress
            )
            continue
        predictions = answer_shapes(model, processor, dataset, task, batch_size=batch_size, progress=progress)
        metrics[task] = scores[task](predictions, dataset)
    return metrics
