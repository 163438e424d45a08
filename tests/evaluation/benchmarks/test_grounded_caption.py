"""Grounded captioning as a benchmark: truth from conversations, merged captions, metrics by hand."""

import pytest

from transformers_groma.data.columns import image_part, phrase_part, text_part
from transformers_groma.evaluation.benchmarks import grounded_caption
from transformers_groma.evaluation.metrics import cider_meteor as caption_metrics
from transformers_groma.evaluation.metrics.ptb_tokenizer import JavaMissingError
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.regions import Regions
from transformers_groma.shapes.rows import shapes_dataset

from ..samples import BOX, caption_row, dataset, png

DOG, GRASS = [2.0, 2.0, 20.0, 20.0], [0.0, 30.0, 64.0, 64.0]


@pytest.fixture(autouse=True)
def without_java(monkeypatch):
    def missing():
        raise JavaMissingError("There is no Java.")

    monkeypatch.setattr(caption_metrics, "require_java", missing)


def conversation(image_id: str = "7", answer: bool = True, **columns) -> dict:
    """A dog on the grass."""
    messages = [
        {"role": "user", "content": [image_part(), text_part("[grounding]Please describe the image briefly.")]}
    ]
    parts = [
        phrase_part("A dog", [0]),
        text_part(" on "),
        phrase_part("the grass", [1]),
        text_part(" in "),
        phrase_part("June"),
    ]
    if answer:
        messages.append({"role": "assistant", "content": [*parts, text_part(".")]})
    return {
        "image": png(),
        "image_id": image_id,
        "boxes_xyxy": [DOG, GRASS],
        "messages": messages,
        "source": "flickr30k",
        **columns,
    }


def said(*phrases: tuple[str, list[float]], text: str = "") -> Prediction:
    return Prediction(0, "7", text, [(words, Regions([box], [0.9])) for words, box in phrases], text)


def test_the_truth_of_a_conversation():
    rows = grounded_caption.grounded_caption_rows(dataset([conversation()], "conversation"))
    (row,) = rows.rows
    assert row["references"] == ["A dog on the grass in June."]
    assert row["target_phrases"] == [[("A dog", [DOG]), ("the grass", [GRASS])]]
    assert row["target_boxes_xyxy"] == [DOG, GRASS]


def test_captions_of_an_image_are_asked_once_and_compared_with_each():
    second = conversation()
    second["messages"][1]["content"] = [text_part("Two "), phrase_part("animals", [0]), text_part(".")]
    rows = [conversation(), conversation("8"), second, conversation("", source="web"), conversation("", source="web")]
    found = grounded_caption.grounded_caption_rows(dataset(rows, "conversation"))
    assert [row["image_id"] for row in found.rows] == found.asked["image_id"][:] == ["7", "8", "", ""]
    assert found.rows[0]["references"] == ["A dog on the grass in June.", "Two animals."]
    answers = [said(("a dog", DOG), text="A dog.")] * 4
    metrics = grounded_caption.score_grounded_captions(answers, found.rows)
    # Five captions, nine phrases: each answer has one, right in four captions; its region is one of the fifth, too.
    assert metrics["precision@0.5"] == pytest.approx(4 / 5) and metrics["recall@0.5"] == pytest.approx(4 / 9)
    assert metrics["region_precision@0.5"] == 1.0 and metrics["phrases_per_answer"] == 1.0
    assert grounded_caption.score_grounded_caption_rows(answers[:1], found.rows[:1]) == [
        pytest.approx(2 * 2 / (2 + 3))
    ]


def test_words_and_regions_by_hand():
    (row,) = grounded_caption.grounded_caption_rows(dataset([conversation()], "conversation")).rows
    answer = said(
        ("the dog", [2.0, 2.0, 20.0, 18.0]), ("a lawn", GRASS), ("a cat", [40.0, 2.0, 60.0, 20.0]), text="A dog."
    )
    metrics = grounded_caption.score_grounded_captions([answer], [row])
    assert metrics["precision@0.5"] == pytest.approx(1 / 3) and metrics["recall@0.5"] == pytest.approx(1 / 2)
    assert metrics["region_precision@0.5"] == pytest.approx(2 / 3) and metrics["region_recall@0.5"] == 1.0
    assert set(metrics) <= {metric.name for metric in grounded_caption.METRICS}


def test_evaluation_rows_have_regions_without_words():
    rows = shapes_dataset("grounded-caption", 2, 0, split="test", evaluation=True)
    found = grounded_caption.grounded_caption_rows(rows)
    answer = said(("anything", found.rows[0]["target_boxes_xyxy"][0]), text="A circle.")
    metrics = grounded_caption.score_grounded_captions([answer, said()], found.rows)
    assert metrics["region_precision@0.5"] == 1.0
    assert "precision@0.5" not in metrics and "f1@0.5" not in metrics


def test_shapes_with_one_question_fit():
    rows = shapes_dataset("grounded-caption", 2, 0, split="test", questions=1)
    (first, _) = grounded_caption.grounded_caption_rows(rows).rows
    perfect = said(*((text, boxes[0]) for text, boxes in first["target_phrases"][0]), text=first["references"][0])
    assert grounded_caption.score_grounded_captions([perfect], [first])["f1@0.5"] == 1.0


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (conversation(answer=False), "has no `references`"),
        (conversation(messages=[*conversation()["messages"]] * 2), "has 2 questions"),
    ],
)
def test_conversations_are_checked(row, words):
    with pytest.raises(ValueError, match=rf"Row 0 \(image_id '7'\) {words}"):
        grounded_caption.grounded_caption_rows(dataset([row], "conversation"))


def test_evaluation_rows_need_boxes():
    with pytest.raises(ValueError, match="has no boxes"):
        grounded_caption.grounded_caption_rows(dataset([caption_row(boxes_xyxy=[BOX])]))
