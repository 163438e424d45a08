"""The question of a row."""

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


def test_the_answer_of_a_row_is_not_shown():
    row = rec_row()
    row["messages"] = [*row["messages"], {"role": "assistant", "content": []}]
    assert [message["role"] for message in question_of(row)["messages"]] == ["user"]
