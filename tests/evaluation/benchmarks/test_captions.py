"""What captions say, and captions of an image together."""

import pytest

from transformers_groma.data.columns import image_part, phrase_part, text_part
from transformers_groma.evaluation.benchmarks.captions import Caption, caption_of, join_captions

from ..samples import dataset, png

QUESTION = {"role": "user", "content": [image_part(), text_part("Describe it.")]}
ANSWER = {
    "role": "assistant",
    "content": [phrase_part("A dog", [0]), text_part(" and "), phrase_part("two cats", [2, 1]), phrase_part(" today")],
}


def row(image_id: str = "7", source: str = "web", messages=(QUESTION, ANSWER)) -> dict:
    boxes = [[0.0, 0, 9, 9], [10, 0, 20, 9], [30, 0, 40, 9]]
    return {
        "image": png(),
        "image_id": image_id,
        "boxes_xyxy": boxes,
        "messages": list(messages),
        "source": source,
    }


def test_a_caption_and_what_it_points_at():
    assert caption_of(0, row()) == Caption("A dog and two cats today", [("A dog", [0]), ("two cats", [2, 1])])
    assert caption_of(0, row(messages=[QUESTION])) == Caption("", [])


@pytest.mark.parametrize(("messages", "count"), [([ANSWER], 0), ([QUESTION, ANSWER] * 2, 2)])
def test_a_caption_is_one_answer_to_one_question(messages, count):
    with pytest.raises(ValueError, match=rf"Row 4 \(image_id '7'\) has {count} questions; a caption is one answer"):
        caption_of(4, row(messages=messages))


def test_captions_of_one_image_are_joined():
    rows = [row("7"), row("8"), row("7"), row("7", source="other"), row(""), row("")]
    truths = [{**entry, "texts": [index]} for index, entry in enumerate(rows)]
    found = join_captions(dataset(rows, "conversation"), truths, ["texts"])
    assert [entry["texts"] for entry in found.rows] == [[0, 2], [1], [3], [4], [5]]
    assert found.asked["image_id"][:] == ["7", "8", "7", "", ""]
    assert truths[0]["texts"] == [0]  # not changed
