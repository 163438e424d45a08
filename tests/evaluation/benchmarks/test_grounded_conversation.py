"""Grounded conversation generation as a benchmark: truth from conversations with masks, metrics by hand."""

import numpy as np
import pytest
from datasets import Dataset

from transformers_groma.data.columns import features_of, image_part, phrase_part, text_part
from transformers_groma.evaluation.benchmarks import grounded_conversation as benchmark
from transformers_groma.evaluation.metrics import cider_meteor as caption_metrics
from transformers_groma.evaluation.metrics.ptb_tokenizer import JavaMissingError
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.evaluation.runner import evaluate, read_predictions
from transformers_groma.masks import mask_to_rle
from transformers_groma.regions import Regions
from transformers_groma.shapes.rows import shapes_dataset

from ...training.rows import training_model, training_processor
from ..samples import SIDE, files_in, png

BOXES = {"dog": [0.0, 0.0, 20.0, 20.0], "left": [30.0, 0.0, 40.0, 20.0], "right": [44.0, 0.0, 54.0, 20.0]}


@pytest.fixture(autouse=True)
def without_java(monkeypatch):
    def missing():
        raise JavaMissingError("There is no Java.")

    monkeypatch.setattr(caption_metrics, "require_java", missing)


def rle(*names: str, height: int = 20) -> dict:
    """A mask of one or several of `BOXES`, down to a row."""
    mask = np.zeros((SIDE, SIDE), bool)
    for name in names:
        x1, _, x2, _ = map(int, BOXES[name])
        mask[:height, x1:x2] = True
    return mask_to_rle(mask)


def conversation(image_id: str = "7", **columns) -> dict:
    """A dog and two cats."""
    question = {"role": "user", "content": [image_part(), text_part("[grounding]Describe the image.")]}
    parts = [phrase_part("A dog", [0]), text_part(" and "), phrase_part("two cats", [1, 2]), phrase_part(" in June")]
    return {
        "image": png(),
        "image_id": image_id,
        "boxes_xyxy": list(BOXES.values()),
        "messages": [question, {"role": "assistant", "content": [*parts, text_part(".")]}],
        "source": "web",
        "masks": [rle(name) for name in BOXES],
        **columns,
    }


def rows_of(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows), features=features_of(rows[0], "conversation"))


def said(*phrases: tuple[str, list[dict], float], text: str = "A dog and two cats in June.") -> Prediction:
    """An answer of phrases, each with its masks and the score of its regions."""
    regions = [Regions([BOXES["dog"]] * len(masks), [score] * len(masks)) for _, masks, score in phrases]
    texts = [words for words, _, _ in phrases]
    return Prediction(0, "7", text, list(zip(texts, regions, strict=True)), "", [masks for _, masks, _ in phrases])


PERFECT = said(("the dog", [rle("dog")], 0.9), ("two cats", [rle("left"), rle("right")], 0.8))


def test_the_truth_of_a_conversation():
    [row] = benchmark.grounded_conversation_rows(rows_of(conversation())).rows
    assert row["references"] == ["A dog and two cats in June."]
    # The masks of a phrase are one mask.
    assert row["target_phrases"] == [[("A dog", rle("dog")), ("two cats", rle("left", "right"))]]
    assert row["target_masks"] == [rle("dog"), rle("left", "right")]
    assert row["target_boxes_xyxy"] == list(BOXES.values())


def test_a_perfect_answer():
    rows = benchmark.grounded_conversation_rows(rows_of(conversation())).rows
    metrics = benchmark.score_grounded_conversations([PERFECT], rows)
    of_masks = {name: value for name, value in metrics.items() if name not in ("cider", "phrases_per_answer")}
    assert of_masks == pytest.approx(dict.fromkeys(of_masks, 1.0)) and len(of_masks) == 6
    assert metrics["phrases_per_answer"] == 2
    assert {*metrics, "meteor"} == {metric.name for metric in benchmark.METRICS}
    assert benchmark.score_grounded_conversation_rows([PERFECT], rows) == [1.0]


def test_metrics_by_hand():
    """Other words for the best mask, half of the cats, something that is not there, and a phrase without a region."""
    rows = benchmark.grounded_conversation_rows(rows_of(conversation())).rows
    answer = said(
        ("a wolf", [rle("dog")], 0.9),
        ("in June", [], 0.0),
        ("cats", [rle("left", "right", height=12)], 0.8),
        ("a hat", [rle("right", height=4)], 0.95),
    )
    metrics = benchmark.score_grounded_conversations([answer], rows)
    assert metrics["miou"] == metrics["target_miou"] == pytest.approx((1 + 0.6) / 2)
    assert metrics["mask_recall"] == 0.5  # "cats" shares a word with "two cats": 2 / 3
    assert metrics["glamm_release_mask_recall"] == 0  # "a wolf" ends the image
    assert metrics["phrases_per_answer"] == 3
    # The hat has the best score, and is wrong: precision 0, 1/2, 2/3. With equal scores it comes last.
    assert metrics["ap@0.5"] == pytest.approx(2 / 3, abs=0.01)
    assert metrics["glamm_release_ap@0.5"] == pytest.approx(1, abs=0.01)
    assert benchmark.score_grounded_conversation_rows([answer], rows) == [pytest.approx(0.8)]


def test_an_answer_is_compared_with_each_caption_of_its_image():
    second = conversation()
    second["messages"][1]["content"] = [text_part("There are "), phrase_part("cats", [1, 2]), text_part(".")]
    found = benchmark.grounded_conversation_rows(rows_of(conversation(), conversation("8"), second))
    assert [len(row["target_phrases"]) for row in found.rows] == [2, 1]
    assert found.rows[0]["references"] == ["A dog and two cats in June.", "There are cats."]
    metrics = benchmark.score_grounded_conversations([PERFECT, said(text="Nothing.")], found.rows)
    assert metrics["mask_recall"] == pytest.approx(3 / 5) and metrics["miou"] == pytest.approx(2 / 3)
    assert metrics["phrases_per_answer"] == 1


def test_another_similarity_and_its_name():
    def never(first, second):
        return np.zeros(len(first))

    strict = benchmark.BENCHMARK.with_similarity(never, "never")
    assert strict.settings == {"text_similarity": "never"} and strict.name == benchmark.BENCHMARK.name
    assert benchmark.BENCHMARK.settings == {"text_similarity": "token-F1"}
    rows = strict.prepare(rows_of(conversation())).rows
    metrics = strict.score([PERFECT], rows)
    assert metrics["mask_recall"] == metrics["glamm_release_mask_recall"] == 0 and metrics["miou"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": None}, "has a phrase without a mask in `masks`"),
        ({"masks": [rle("dog"), rle("left"), None]}, "has a phrase without a mask in `masks`"),
        ({"messages": conversation()["messages"][:1]}, "has no text to compare an answer with"),
        ({"messages": conversation()["messages"] * 2}, "has 2 questions"),
    ],
)
def test_conversations_are_checked(changes, message):
    with pytest.raises(ValueError, match=rf"Row 1 \(image_id '8'\) {message}"):
        benchmark.grounded_conversation_rows(rows_of(conversation(), conversation("8", **changes)))


def test_a_box_that_no_phrase_names_needs_no_mask():
    messages = conversation()["messages"]
    messages[1]["content"] = messages[1]["content"][:1]
    row = conversation(messages=messages, masks=[rle("dog"), None, None])
    assert benchmark.grounded_conversation_rows(rows_of(row)).rows[0]["target_masks"] == [rle("dog")]


def test_rows_without_the_column():
    row = conversation()
    del row["masks"]
    with pytest.raises(ValueError, match="no column `masks`: there is nothing to compare masks with"):
        benchmark.grounded_conversation_rows(rows_of(row))
    pointless = conversation()
    pointless["messages"][1]["content"] = [text_part("A dog.")]
    with pytest.raises(ValueError, match="has no phrase that points at boxes to compare"):
        benchmark.grounded_conversation_rows(rows_of(pointless))


def test_scenes_of_shapes_from_the_question_to_the_gallery(tmp_path):
    model, processor = training_model(masks=True), training_processor()
    rows = shapes_dataset("grounded-caption", 3, 0, split="test", questions=1, image_size=112)
    results = evaluate(
        benchmark.BENCHMARK, model, processor, rows, tmp_path, progress=False, gallery=2, max_new_tokens=8
    )
    assert {*results.metrics, "meteor"} == {metric.name for metric in benchmark.METRICS}
    assert results.settings["text_similarity"] == "token-F1"
    assert "| text_similarity | token-F1 |" in (tmp_path / "results.md").read_text()
    assert {"gallery.html", "predictions.jsonl"} <= set(files_in(tmp_path))
    # Scored again with another similarity: no row is asked, and results say which it was.
    again = evaluate(
        benchmark.benchmark_with(lambda first, second: np.ones(len(first)), "always"),
        *(model, processor, rows, tmp_path),
        progress=False,
        max_new_tokens=8,
    )
    assert again.settings["text_similarity"] == "always" and again.seconds == results.seconds
    assert len(read_predictions(tmp_path)) == 3
