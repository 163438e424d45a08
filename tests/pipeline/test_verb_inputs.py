"""What verbs are given: pairing, marks of questions, message parts."""

import numpy as np
import pytest
from PIL import Image

from transformers_groma.verb_inputs import Given, marked_question, paired, phrase_part, question_parts, read_images


def values(entries) -> list[dict]:
    return [{name: given.value for name, given in entry.items()} for entry in entries]


def test_single_values_are_one_entry():
    entries, are_many = paired(image=(1, False), phrase=("a", False))
    assert values(entries) == [{"image": 1, "phrase": "a"}] and not are_many
    assert entries[0]["phrase"].name == "phrase"


def test_lists_are_paired_and_single_values_serve_all():
    entries, are_many = paired(image=([1, 2], True), phrase=("a", False), boxes=([None, "b"], True))
    assert are_many and values(entries) == [
        {"image": 1, "phrase": "a", "boxes": None},
        {"image": 2, "phrase": "a", "boxes": "b"},
    ]
    assert [given.name for given in entries[1].values()] == ["image[1]", "phrase", "boxes[1]"]
    assert paired(image=([], True), phrase=("a", False)) == ([], True)
    assert len(paired(image=([1], True))[0]) == 1


@pytest.mark.parametrize("lengths", [(2, 3), (0, 1), (1, 2)])
def test_lists_of_different_lengths_are_refused(lengths):
    first, second = lengths
    with pytest.raises(ValueError, match=f"`phrase` has length {second}, but `image` has {first}. Pass one for each"):
        paired(image=([0] * first, True), phrase=([0] * second, True))


@pytest.mark.parametrize(
    ("question", "num_boxes", "grounded", "expected"),
    [
        (" Is it? ", 0, False, "Is it?"),
        ("Is it?", 1, False, "Is it? <region>"),
        ("Is it?", 2, True, "[grounding]Is it? <region>, <region>"),
        ("Is <region> it?", 1, True, "[grounding]Is <region> it?"),
        ("[grounding] Is it?", 1, True, "[grounding] Is it? <region>"),
        ("<region>", 1, False, "<region>"),
    ],
)
def test_marks_of_a_question(question, num_boxes, grounded, expected):
    assert marked_question(Given(question, "question"), num_boxes, grounded, "boxes") == expected


def test_parts_follow_the_marks():
    first, second = [0.0, 0, 9, 9], [1.0, 1, 5, 5]
    assert question_parts("<region> or <region>?", [first, second]) == [
        {"type": "region", "box": first},
        {"type": "text", "text": " or "},
        {"type": "region", "box": second},
        {"type": "text", "text": "?"},
    ]
    assert question_parts("Hi", []) == [{"type": "text", "text": "Hi"}]


def test_phrases_keep_their_words():
    assert phrase_part(" the </p> cup\n", "phrase") == {"type": "phrase", "text": "the </p> cup", "boxes": []}


def test_an_image_that_comes_twice_is_read_once(tmp_path):
    photo = Image.new("RGB", (40, 20))
    (first, second, other), are_many = read_images([photo, photo, photo.copy()])
    assert are_many and first is second is not other
    assert (first.size.height, first.size.width) == (20, 40)
    one, are_many = read_images(np.zeros((20, 40, 3), np.uint8))
    assert not are_many and one.size == first.size
    assert read_images(()) == ([], True)
