"""How well a model does on synthetic scenes, whose truth is known to the pixel: the figures of groma-tiny.

Boxes are `xyxy` in absolute pixels.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset

from ..boxes import box_iou
from ..data.shapes import SIZES, Attributes, make_scene
from ..data.shapes_drawing import COLORS, SHAPES, TEXTURES
from ..data.shapes_rows import shapes_dataset
from ..data.shapes_text import fits, with_article, words
from ..grounding import GroundedText
from ..modeling_groma import GromaForConditionalGeneration
from ..processing_groma import GromaProcessor
from .detection import evaluate_proposals
from .generation import answer_rows

IOU_THRESHOLD = 0.5
# Answers of each task are no longer than this.
MAX_NEW_TOKENS = {"rec": 8, "grounding": 24, "region-caption": 16, "grounded-caption": 140}

# What a phrase of a caption says. One that names no texture says that there is none.
PHRASES = {
    with_article(words(attributes)): attributes
    for attributes in itertools.starmap(Attributes, itertools.product(SIZES, TEXTURES, COLORS, SHAPES))
}


def boxes_of(answer: GroundedText) -> torch.Tensor:
    """All boxes that an answer names, in its order, each once.

    Args:
        answer (`GroundedText`): of a model.

    Returns:
        `Tensor` of shape `(n, 4)`: `xyxy` in absolute pixels.
    """
    seen = dict.fromkeys(region for phrase in answer.phrases for region in phrase.region_ids)
    by_id = {region.id: region.box for region in answer.regions}
    return torch.stack([by_id[region] for region in seen]) if seen else torch.zeros(0, 4)


def matched_pairs(boxes: torch.Tensor, targets: torch.Tensor) -> int:
    """How many boxes can be paired with targets, each used once, at an IoU of at least 0.5, best pairs first.

    Args:
        boxes (`Tensor` of shape `(n, 4)`): `xyxy`.
        targets (`Tensor` of shape `(m, 4)`): `xyxy`.

    Returns:
        `int`: number of pairs.

    Example:
    >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    >>> matched_pairs(box.repeat(2, 1), box)
    1
    """
    iou = box_iou(boxes, targets)
    pairs = 0
    while iou.numel() > 0 and iou.max() >= IOU_THRESHOLD:
        row, column = divmod(int(iou.argmax()), iou.shape[1])
        iou[row], iou[:, column] = -1.0, -1.0
        pairs += 1
    return pairs


def score_rec(answers: Sequence[GroundedText], rows: Dataset) -> dict[str, float]:
    """Share of answers whose first box overlaps the target with an IoU above 0.5 (strict, as in the paper).

    Args:
        answers (`Sequence[GroundedText]`): to each row.
        rows (`Dataset`): evaluation columns.

    Returns:
        `dict`: `acc@0.5` and `missing`, the share of answers without a box.
    """
    hits, missing = 0, 0
    for answer, row in zip(answers, rows, strict=True):
        boxes = boxes_of(answer)
        missing += len(boxes) == 0
        hits += len(boxes) > 0 and bool(
            box_iou(boxes[:1], torch.tensor(row["target_boxes_xyxy"]))[0, 0] > IOU_THRESHOLD
        )
    return {"acc@0.5": hits / len(rows), "missing": missing / len(rows)}


def score_grounding(answers: Sequence[GroundedText], rows: Dataset) -> dict[str, float]:
    """Precision, recall and F1 of the boxes of all answers at an IoU of 0.5.

    Args:
        answers (`Sequence[GroundedText]`): to each row.
        rows (`Dataset`): evaluation columns.

    Returns:
        `dict`: `f1@0.5`, `precision@0.5`, `recall@0.5`.
    """
    pairs, predicted, wanted = 0, 0, 0
    for answer, row in zip(answers, rows, strict=True):
        boxes, targets = boxes_of(answer), torch.tensor(row["target_boxes_xyxy"])
        pairs += matched_pairs(boxes, targets)
        predicted += len(boxes)
        wanted += len(targets)
    precision, recall = pairs / max(predicted, 1), pairs / max(wanted, 1)
    f1 = 2 * pairs / max(predicted + wanted, 1)
    return {"f1@0.5": f1, "precision@0.5": precision, "recall@0.5": recall}


def score_region_captions(answers: Sequence[GroundedText], rows: Dataset) -> dict[str, float]:
    """Share of descriptions that are right to the word.

    Args:
        answers (`Sequence[GroundedText]`): to each row.
        rows (`Dataset`): evaluation columns; `references` hold the right description.

    Returns:
        `dict`: `exact_match`.
    """
    hits = sum(answer.text.strip() == row["references"][0] for answer, row in zip(answers, rows, strict=True))
    return {"exact_match": hits / len(rows)}


def score_grounded_captions(answers: Sequence[GroundedText], rows: Dataset) -> dict[str, float]:
    """Share of phrases whose box is that of an object with all the attributes that the phrase says (IoU of at least 0.5).

    Args:
        answers (`Sequence[GroundedText]`): to each row.
        rows (`Dataset`): evaluation columns of synthetic scenes; `image_id` tells the scene.

    Returns:
        `dict`: `phrases_right`, and `phrases`, their number an answer.
    """
    hits, count = 0, 0
    for answer, row in zip(answers, rows, strict=True):
        _, split, seed, index = row["image_id"].split("-")
        objects = make_scene(int(seed), split, int(index), row["image"].width).objects
        for phrase in answer.phrases:
            count += 1
            said = PHRASES.get(phrase.text.strip())
            boxes = [item.box_xyxy for item in objects if said is not None and fits(item.attributes, said)]
            if boxes and len(phrase.boxes) > 0:
                iou = box_iou(phrase.boxes[:1], torch.tensor(boxes, dtype=torch.float32))
                hits += bool(iou.max() >= IOU_THRESHOLD)
    return {"phrases_right": hits / max(count, 1), "phrases": count / len(rows)}


SCORES = {
    "rec": score_rec,
    "grounding": score_grounding,
    "region-caption": score_region_captions,
    "grounded-caption": score_grounded_captions,
}


def evaluate_shapes(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    *,
    rows: int = 500,
    seed: int = 1000,
    split: str = "test",
    tasks: Sequence[str] = ("detection", *SCORES),
    batch_size: int = 16,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Measure a model on fresh scenes.

    Args:
        model (`GromaForConditionalGeneration`): in evaluation mode.
        processor (`GromaProcessor`): of the model.
        rows (`int`): scenes a task.
        seed (`int`): of the scenes.
        split (`str`): of the scenes.
        tasks (`Sequence[str]`): of "detection", "rec", "grounding", "region-caption", "grounded-caption".
        batch_size (`int`): rows at once.
        progress (`bool`): whether to show bars.

    Returns:
        `dict`: for each task its figures.

    Raises:
        ValueError: an unknown task.
    """
    if unknown := [task for task in tasks if task != "detection" and task not in SCORES]:
        raise ValueError(f"Unknown task {unknown[0]!r}. Use some of detection, {', '.join(SCORES)}.")
    size = model.config.vision_config.image_size
    figures = {}
    for task in tasks:
        evaluation = task != "detection"
        dataset = shapes_dataset(task, rows, seed, split=split, evaluation=evaluation, image_size=size)
        if task == "detection":
            figures[task] = evaluate_proposals(
                model, dataset, processor.image_processor, batch_size=batch_size, progress=progress
            )
            continue
        answers = list(
            answer_rows(
                model,
                processor,
                dataset,
                batch_size=batch_size,
                max_new_tokens=MAX_NEW_TOKENS[task],
                progress=progress,
            )
        )
        figures[task] = SCORES[task](answers, dataset)
    return figures
