"""The question of a row."""

import pytest

from transformers_groma.data.columns import image_part, phrase_part, text_part
from transformers_groma.evaluation.questions import asked_phrase, question_of, question_text
from transformers_groma.questions import GLAMM_QUESTIONS, GROMA_QUESTIONS, QuestionWording
from transformers_groma.shapes.rows import shapes_dataset

from .samples import caption_row, rec_row


def test_rows_keep_their_question_without_a_seed():
    row = rec_row()
    assert question_of(row, "rec")["messages"] == row["messages"]


def test_a_seed_draws_other_words_for_the_same_things():
    texts = {question_text(question_of(rec_row(), "rec", seed)) for seed in range(20)}
    assert len(texts) > 3 and all("the red square" in text for text in texts)
    region = question_of(caption_row(), "region_caption", 0)["messages"][-1]["content"]
    assert [part["boxes"] for part in region if part["type"] == "region"] == [[0]]
    assert region[0]["type"] == "image"
    # By what is asked about, not by where the row is.
    assert question_of(rec_row(), "rec", 3) == question_of(rec_row(), "rec", 3)


def test_the_last_question_of_a_conversation_is_put_into_other_words():
    earlier = [*caption_row()["messages"], {"role": "assistant", "content": []}]
    row = rec_row(messages=[*earlier, *rec_row()["messages"]])
    texts = {question_text(question_of(row, "rec", seed)) for seed in range(20)}
    assert len(texts) > 3 and all("the red square" in text for text in texts)
    assert question_of(row, "rec", 0)["messages"][:-1] == earlier
    assert question_text(question_of(row)) == question_text(row) == "Locate the red square in this image."


def test_other_words_need_what_is_asked_about():
    with pytest.raises(ValueError, match="The question about image '0' cannot be put into other words.*`prompt_seed`"):
        question_of(caption_row(), "rec", 0)


def test_a_region_is_a_mark_in_the_text():
    assert question_text(caption_row()) == "What is in <region>?"


def test_the_answer_of_a_row_is_not_shown():
    row = rec_row()
    row["messages"] = [*row["messages"], {"role": "assistant", "content": []}]
    assert [message["role"] for message in question_of(row)["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("rows_of", "asked"),
    [
        ("rec", "Please segment the "),
        ("grounding", "Please segment "),
        ("region-caption", "Can you provide me with a detailed description of the region"),
        ("grounded-caption", "[grounding]Could you please give me a detailed description"),
    ],
)
def test_another_family_is_asked_its_own_standard_question(rows_of, asked):
    """In the place of Groma's, about the same phrase or region; the row keeps its image and its boxes."""
    [row] = shapes_dataset(rows_of, 1, 0, split="test", evaluation=True, image_size=112)
    own, other = (question_of(row, wording=wording) for wording in (GROMA_QUESTIONS, GLAMM_QUESTIONS))
    assert own["messages"] == row["messages"] and question_text(other).startswith(asked)
    (before, after) = (question["messages"][-1]["content"] for question in (own, other))
    assert after[0] == before[0] == image_part()
    for kind in ("phrase", "region"):
        assert [part for part in after if part["type"] == kind] == [part for part in before if part["type"] == kind]


def test_a_question_in_own_words_is_kept_unless_a_kind_is_named():
    content = [image_part(), text_part("Where did "), phrase_part("the red square"), text_part(" go?")]
    row = rec_row(messages=[{"role": "user", "content": content}])
    assert question_of(row, "rec", wording=GLAMM_QUESTIONS)["messages"] == row["messages"]
    named = question_of(row, "rec", wording=GLAMM_QUESTIONS, kind="rec")
    assert question_text(named) == "Please segment the red square in this image."
    assert question_text(question_of(row, "rec", kind="grounding")) == "Locate all the red square in this image."


def test_questions_that_a_family_cannot_be_asked():
    with pytest.raises(ValueError, match="`prompt_seed` draws from wordings that Groma learns, and this model is of"):
        question_of(rec_row(), "rec", 0, wording=GLAMM_QUESTIONS)
    with pytest.raises(ValueError, match="The question about image '0' cannot be asked. This model has not learned"):
        question_of(rec_row(), wording=QuestionWording(region_caption="What is {region}?"))
    with pytest.raises(ValueError, match="about image '0' cannot be asked. .* needs `phrase`"):
        question_of(caption_row(), "region_caption", wording=GLAMM_QUESTIONS, kind="rec")


def test_the_phrase_that_is_asked_for():
    assert asked_phrase(0, rec_row()) == "the red square"
    for row in (caption_row(), rec_row(messages=[{"role": "user", "content": [phrase_part("  ")]}])):
        with pytest.raises(ValueError, match=r"Row 3 \(image_id '0'\) does not ask for a phrase"):
            asked_phrase(3, row)
