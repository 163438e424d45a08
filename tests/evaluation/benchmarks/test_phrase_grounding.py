"""Phrase grounding as a benchmark: captions as questions, places of phrases, metrics of handmade answers."""

import pytest

from transformers_groma.evaluation.benchmarks import phrase_grounding as benchmark
from transformers_groma.evaluation.questions import question_text
from transformers_groma.evaluation.runner import evaluate, read_predictions
from transformers_groma.shapes.rows import shapes_dataset

from ...training.rows import training_model, training_processor
from ..samples import dataset, files_in
from .test_grounded_conversation import BOXES, conversation, rle, rows_of, said

DOG, CATS = ("A dog", [rle("dog")], 0.9), ("two cats", [rle("left"), rle("right")], 0.8)


def test_the_caption_is_the_question_and_its_phrases_are_marked():
    asked = benchmark.phrase_grounding_rows(rows_of(conversation()))
    [row], [told] = asked.rows, asked.asked
    assert told["messages"] == row["messages"] and len(told["messages"]) == 1
    assert question_text(told) == "A dog and two cats in June."
    content = told["messages"][0]["content"]
    assert content[0]["type"] == "image"
    marked = [(part["text"], part["boxes"]) for part in content if part["type"] == "phrase"]
    # The model is not told where they are.
    assert marked == [("A dog", []), ("two cats", []), (" in June", [])]
    assert row["target_phrases"] == ["A dog", "two cats"]
    assert [place.boxes_xyxy for place in row["target_places"]] == [
        [BOXES["dog"]],
        [BOXES["left"], BOXES["right"]],
    ]
    assert [len(place.masks) for place in row["target_places"]] == [1, 2]
    assert row["target_boxes_xyxy"] == list(BOXES.values()) and len(row["target_masks"]) == 3
    # With the caption given, the rows are asked as they are.
    given = benchmark.given_caption_rows(rows_of(conversation()))
    assert [message["role"] for message in given.asked[0]["messages"]] == ["user", "assistant"]
    assert given.rows[0]["target_phrases"] == row["target_phrases"]


def test_captions_of_one_image_are_asked_about_one_by_one():
    assert len(benchmark.phrase_grounding_rows(rows_of(conversation(), conversation())).rows) == 2


@pytest.mark.parametrize("masks", [None, [None] * 3, "no column"])
def test_rows_without_masks_are_scored_by_boxes(masks):
    row = conversation(masks=masks)
    if masks == "no column":
        del row["masks"]
    rows = dataset([row], "conversation") if masks == "no column" else rows_of(row)
    [prepared] = benchmark.phrase_grounding_rows(rows).rows
    assert prepared["target_masks"] == [] and all(place.masks is None for place in prepared["target_places"])
    metrics = benchmark.score_phrase_grounding([said(DOG, text="A dog")], [prepared])
    assert metrics == {"recall@0.5": 0.5, "any_recall@0.5": 0.5, "missing": 0.5}
    assert benchmark.score_phrase_grounding_rows([said(DOG)], [prepared]) == [0.5]


def test_metrics_by_hand():
    rows = benchmark.phrase_grounding_rows(rows_of(conversation(), conversation("8"))).rows
    # Other words say nothing about a phrase; each phrase of the caption counts the same.
    answers = [said(DOG, CATS), said(("the DOG.", [rle("dog", height=10)], 0.5), ("a bird", [rle("left")], 0.9))]
    metrics = benchmark.score_phrase_grounding(answers, rows)
    assert set(metrics) == {metric.name for metric in benchmark.METRICS}
    assert metrics["missing"] == 1 / 4 and metrics["mask_recall@0.5"] == 3 / 4
    assert metrics["miou"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert benchmark.score_phrase_grounding_rows(answers, rows) == pytest.approx([1.0, 0.25])
    places = benchmark.places_of(answers[1], rows[1])
    assert [len(place.boxes_xyxy) for place in places] == [1, 0]
    assert benchmark.known_masks(answers[0], rows[0])[0] == [rle("dog"), rle("left"), rle("right")]


def test_a_caption_without_phrases_is_named():
    silent = conversation()
    silent["messages"][1]["content"] = [{"type": "text", "text": "Nothing.", "boxes": []}]
    for prepare in (benchmark.phrase_grounding_rows, benchmark.given_caption_rows):
        with pytest.raises(ValueError, match=r"Row 1 \(image_id '7'\) has no phrase that points at boxes"):
            prepare(rows_of(conversation(), silent))


@pytest.mark.parametrize("masks", [False, True])
def test_a_groma_answers_captions(masks, tmp_path):
    """With a mask decoder answers have masks, without one boxes."""
    model, processor = training_model(masks=masks), training_processor()
    rows = shapes_dataset("grounded-caption", 3, 0, split="test", questions=1, image_size=112)
    results = evaluate(benchmark.BENCHMARK, model, processor, rows, tmp_path, batch_size=2, progress=False, gallery=2)
    assert {"recall@0.5", "any_recall@0.5", "missing"} <= set(results.metrics)
    assert {"predictions.jsonl", "results.md", "gallery.html"} <= set(files_in(tmp_path))
    kept = read_predictions(tmp_path)
    assert all(of_phrase is not None for answer in kept.values() for of_phrase in (answer.masks or [])) or not masks


def test_only_a_glamm_is_given_its_answer(tmp_path):
    model, processor = training_model(masks=True), training_processor()
    rows = shapes_dataset("grounded-caption", 1, 0, split="test", questions=1, image_size=112)
    with pytest.raises(ValueError, match="phrase-grounding by 'given-caption' measures models of type 'glamm', and"):
        evaluate(benchmark.GIVEN_CAPTION_BENCHMARK, model, processor, rows, tmp_path, progress=False)
    assert not (tmp_path / "results.json").exists()
