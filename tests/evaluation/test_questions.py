"""The question of a row."""

import pytest

from transformers_groma.evaluation.questions import question_of, question_text

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
