"""Scores on synthetic scenes: handmade answers with hand-counted metrics."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from datasets import Dataset

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.data.columns import EVALUATION_FEATURES
from transformers_groma.evaluation.benchmarks import shapes
from transformers_groma.evaluation.benchmarks.shapes import (
    SCORES,
    evaluate_shapes,
    score_grounded_captions,
    score_grounding,
    score_rec,
    score_region_captions,
)
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.grounding import ground_text
from transformers_groma.regions import Regions
from transformers_groma.shapes.rows import shapes_dataset
from transformers_groma.shapes.scenes import SceneObject, make_scene
from transformers_groma.shapes.wording import with_article, words

from ...training.rows import training_model, training_processor
from ..glamm_samples import glamm_model, glamm_processor

# Regions 0 to 3 of every answer. The last is the first once more, as if NMS had left it.
A, B, C = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 10.0]
REGIONS = torch.tensor([A, B, C, A])
# An IoU with A of exactly one half, and a little more.
HALF, MORE_THAN_HALF = [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 5.1]
NOTHING = "I see nothing."


def prediction(markup: str, regions: torch.Tensor = REGIONS) -> Prediction:
    """An answer of a model with these regions."""
    return Prediction.of(0, "", ground_text(markup, regions))


def answer(*region_ids: int, text: str = "it", regions: torch.Tensor = REGIONS) -> Prediction:
    """An answer with one phrase and its regions; without any it points at nothing."""
    roi = "".join(f"<r{region_id}>" for region_id in region_ids)
    return prediction(f"<p>{text}</p> <roi>{roi}</roi>" if region_ids else NOTHING, regions)


def rows_of(*targets: Sequence[Sequence[float]], references: Sequence[str] = ()) -> Dataset:
    """Evaluation rows with these target boxes, or with these references."""
    row: dict[str, Any] = {
        "image": None,
        "image_id": "",
        "boxes_xyxy": [],
        "messages": [],
        "source": "",
        "category": "",
    }
    rows = [{**row, "target_boxes_xyxy": boxes, "references": []} for boxes in targets]
    rows += [{**row, "target_boxes_xyxy": [], "references": [text]} for text in references]
    return Dataset.from_list(rows, features=EVALUATION_FEATURES)


def test_rec():
    rows = rows_of([A], [B], [C], [A])
    assert score_rec([answer(0), answer(1), answer(2), answer(3)], rows) == {"acc@0.5": 1.0, "missing": 0.0}
    assert score_rec([answer()] * 4, rows) == {"acc@0.5": 0.0, "missing": 1.0}
    # Only the first box counts, be it right or wrong.
    assert score_rec([answer(0, 1), answer(0, 1), answer(), answer(1)], rows) == {"acc@0.5": 0.25, "missing": 0.25}


def test_rec_needs_more_than_half():
    rows = rows_of([A])
    assert score_rec([answer(0, regions=torch.tensor([HALF]))], rows)["acc@0.5"] == 0
    assert score_rec([answer(0, regions=torch.tensor([MORE_THAN_HALF]))], rows)["acc@0.5"] == 1


@pytest.mark.parametrize(
    ("answers", "precision", "recall"),
    [
        ([(0, 1), (2,)], 1, 1),
        ([(), ()], 0, 0),
        # The same region twice counts once, and so does the same box as two regions.
        ([(0, 1, 0), (2,)], 1, 1),
        ([(0, 1, 3), (2,)], 1, 1),
        # More boxes than targets, and fewer.
        ([(0, 1), (2, 0, 1)], 3 / 5, 1),
        ([(0,), (2,)], 1, 2 / 3),
        # One answer is missing, the other wrong.
        ([(), (2,)], 1, 1 / 3),
        ([(2,), (2,)], 1 / 2, 1 / 3),
    ],
)
def test_grounding(answers, precision, recall):
    """Targets are two boxes and one; metrics are over all boxes, not a mean of answers."""
    metrics = score_grounding([answer(*regions) for regions in answers], rows_of([A, B], [C]))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert metrics == pytest.approx({"f1@0.5": f1, "precision@0.5": precision, "recall@0.5": recall})


@pytest.mark.parametrize(
    ("boxes", "targets", "pairs"),
    [
        ([A, B], [B, A], 2),
        ([A], [A, A], 1),
        ([HALF], [A], 1),
        ([[0.0, 0.0, 10.0, 4.9]], [A], 0),
        ([C], [A, B], 0),
        # Each target is found once; the poorer box has none left.
        ([MORE_THAN_HALF, A], [A], 1),
        ([MORE_THAN_HALF, A], [A, HALF], 2),
        ([], [A], 0),
    ],
)
def test_pairs_of_boxes_and_targets(boxes, targets, pairs):
    regions = torch.tensor(boxes).reshape(-1, 4)
    metrics = score_grounding([answer(*range(len(boxes)), regions=regions)], rows_of(targets))
    assert metrics["precision@0.5"] == pairs / max(len(boxes), 1) and metrics["recall@0.5"] == pairs / len(targets)


def test_region_captions():
    rows = rows_of(references=["a red star", "a blue square", "a green ring", "a large star"])
    texts = ["a red star", " a blue square\n", "a small pink ring with a green star", ""]
    assert score_region_captions([prediction(text) for text in texts], rows) == {
        "exact_match": 0.5,
        "attributes_right": 5 / 8,
    }


def description(item: SceneObject) -> str:
    """What a caption says of an object."""
    return with_article(words(item.attributes))


def caption(objects: Sequence[SceneObject], named: Sequence[tuple[str, int | None]]) -> Prediction:
    """A caption of phrases with the number of an object each, or with none."""
    parts = [f"<p>{text}</p>" + (f" <roi><r{index}></roi>" if index is not None else "") for text, index in named]
    return prediction(", ".join(parts), torch.tensor([item.box_xyxy for item in objects], dtype=torch.float32))


@pytest.fixture(scope="module")
def captions() -> tuple[Dataset, list[SceneObject], list[SceneObject]]:
    """Two scenes, and their objects."""
    rows = shapes_dataset("grounded-caption", 2, 5, split="test", evaluation=True)
    return rows, *(list(make_scene(5, "test", index, row["image"].width).objects) for index, row in enumerate(rows))


def test_grounded_captions_all_right(captions):
    rows, first, second = captions
    answers = [
        caption(objects, [(description(item), i) for i, item in enumerate(objects)]) for objects in (first, second)
    ]
    count = (len(first) + len(second)) / 2
    assert score_grounded_captions(answers, rows) == {"phrases_right": 1.0, "phrases": count}


def test_grounded_captions_with_mistakes(captions):
    """Another object's box, words that name no object, and no phrases."""
    rows, first, _ = captions
    other = next(i for i, item in enumerate(first) if description(item) != description(first[0]))
    right, wrong_box = (description(first[0]), 0), (description(first[0]), other)
    unknown = ("a happy cloud", 0)
    none = answer()
    assert score_grounded_captions([caption(first, [right, wrong_box, unknown]), none], rows) == pytest.approx(
        {"phrases_right": 1 / 3, "phrases": 1.5}
    )
    # The same object twice is right twice: the metric is one of phrases.
    assert score_grounded_captions([caption(first, [right, right]), none], rows) == {
        "phrases_right": 1.0,
        "phrases": 1.0,
    }
    assert score_grounded_captions([none, none], rows) == {"phrases_right": 0.0, "phrases": 0.0}
    # The scene is that of the row: the first scene's caption is no caption of the second.
    swapped = [none, caption(first, [right])]
    assert score_grounded_captions(swapped, rows)["phrases_right"] == 0


@pytest.mark.parametrize("score", SCORES.values())
def test_as_many_answers_as_rows(score):
    with pytest.raises(ValueError, match="zip|nothing to score"):
        score([], rows_of([A], [B]))


def test_metrics_of_every_task(tiny_dir, monkeypatch):
    """Whatever the model says: metrics in 0..1, of all tasks that were asked for, in that order."""
    monkeypatch.setattr(shapes, "MAX_NEW_TOKENS", dict.fromkeys(shapes.MAX_NEW_TOKENS, 3))
    model = GromaForConditionalGeneration.from_pretrained(tiny_dir).eval()
    processor = GromaProcessor.from_pretrained(tiny_dir)
    metrics = evaluate_shapes(model, processor, rows=2, batch_size=2, progress=False)
    assert list(metrics) == ["detection", *SCORES]
    names = {
        "rec": "acc@0.5",
        "grounding": "f1@0.5",
        "region-caption": "exact_match",
        "grounded-caption": "phrases_right",
    }
    for task, name in names.items():
        assert 0 <= metrics[task][name] <= 1
    assert len(metrics["detection"]) > 5
    assert list(evaluate_shapes(model, processor, rows=1, tasks=["rec"], progress=False)) == ["rec"]


def test_unknown_task():
    with pytest.raises(ValueError, match="Unknown task 'counting'. Use some of detection, rec, grounding"):
        evaluate_shapes(training_model(), training_processor(), rows=1, tasks=["rec", "counting"], progress=False)


@pytest.mark.parametrize("family", ["groma", "glamm"])
def test_metrics_of_masks(family, monkeypatch):
    """Both families answer the same scenes, each in its own words."""
    models = {
        "groma": lambda: (training_model(masks=True), training_processor()),
        "glamm": lambda: (glamm_model(), glamm_processor()),
    }
    monkeypatch.setattr(shapes, "MAX_NEW_TOKENS", dict.fromkeys(shapes.MAX_NEW_TOKENS, 8))
    tasks = ["referring-segmentation", "grounded-conversation", "region-caption"]
    options = {"rows": 2, "tasks": tasks, "image_size": 112, "progress": False}
    metrics = evaluate_shapes(*models[family](), **options)
    assert list(metrics) == tasks
    assert set(metrics["referring-segmentation"]) == {"ciou", "giou", "missing"}
    names = {"ap@0.5", "miou", "target_miou", "mask_recall", "phrases_per_answer"}
    assert set(metrics["grounded-conversation"]) == names
    if family == "glamm":
        assert metrics["referring-segmentation"]["missing"] == 0
        with pytest.raises(ValueError, match="A glamm proposes no regions: leave 'detection' out"):
            evaluate_shapes(*models[family](), **{**options, "tasks": ["detection"]})


def test_masks_of_right_answers():
    rows = shapes_dataset("grounded-caption", 2, 0, split="test", questions=1, image_size=112)
    answers = []
    for index, row in enumerate(rows):
        phrases = [part for part in row["messages"][-1]["content"] if part["boxes"]]
        regions = [Regions([row["boxes_xyxy"][box] for box in part["boxes"]]) for part in phrases]
        masks = [[row["masks"][box] for box in part["boxes"]] for part in phrases]
        texts = [part["text"] for part in phrases]
        answers.append(Prediction(index, "", "A.", list(zip(texts, regions, strict=True)), "", masks))
    scores = shapes.score_grounded_conversation_shapes(answers, rows)
    assert {round(scores[name], 6) for name in ("ap@0.5", "miou", "target_miou", "mask_recall")} == {1.0}
