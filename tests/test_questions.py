"""The standard wording of questions."""

from dataclasses import FrozenInstanceError

import pytest

from transformers_groma.questions import GLAMM_QUESTIONS, GROMA_QUESTIONS, QuestionWording, fill_question

KINDS = ("rec", "grounding", "region_caption", "grounded_caption", "grounded_description")


def test_groma_is_asked_as_it_was_trained():
    assert GROMA_QUESTIONS.rec == "Locate {phrase} in this image."
    assert GROMA_QUESTIONS.grounding == "Locate all {phrase} in this image."
    assert GROMA_QUESTIONS.region_caption == "Please give a short description of {region}."
    assert GROMA_QUESTIONS.grounded_caption == "[grounding]Please describe the image briefly."
    assert GROMA_QUESTIONS.default(0) == "[grounding]Please describe the image in detail."


def test_glamm_is_asked_as_the_original_asks():
    assert GLAMM_QUESTIONS.default(1) == (
        "Can you provide me with a detailed description of the region in the picture marked by <region>?"
    )
    # The processor turns `[grounding]` into the request for interleaved masks.
    assert GLAMM_QUESTIONS.default(0) == "[grounding]Could you please give me a detailed description of the image?"
    assert GLAMM_QUESTIONS.rec == "Please segment {phrase} in this image."


@pytest.mark.parametrize("wording", [GROMA_QUESTIONS, GLAMM_QUESTIONS])
def test_each_family_has_learned_every_kind(wording):
    assert wording.kinds == KINDS
    for kind in KINDS:
        assert wording.parts(kind, str, {"phrase": "a cup", "region": "<region>"})


def test_nobody_changes_them():
    with pytest.raises(FrozenInstanceError):
        GROMA_QUESTIONS.rec = "Where?"


def test_a_kind_that_was_not_learned_is_refused():
    wording = QuestionWording(rec="Segment {phrase}.", region_caption="What is {region}?")
    assert wording.kinds == ("rec", "region_caption")
    for kind in ("grounding", "no kind"):
        with pytest.raises(ValueError, match=f"{kind!r}, but 'rec', 'region_caption'. Ask a question in your own"):
            wording.parts(kind, str, {"phrase": "cups"})
    assert wording.default(1) == "What is <region>?"
    with pytest.raises(ValueError, match="of the kind 'grounded_description', but 'rec', 'region_caption'"):
        wording.default(0)
    with pytest.raises(ValueError, match="of the kind 'region_caption', but 'rec'"):
        QuestionWording(rec="Segment {phrase}.").default(1)


def test_slots_become_parts():
    assert fill_question("Is {phrase} in {region}?", str.upper, {"phrase": 1, "region": 2}) == [
        *("IS ", 1),
        *(" IN ", 2),
        "?",
    ]
    assert fill_question("Hello", str, {}) == ["Hello"]
    # What fills a slot is not looked at.
    assert fill_question("{phrase}", str, {"phrase": "{region}"}) == ["{region}"]


def test_a_slot_that_nothing_fills_is_named():
    for slots in ({}, {"region": 1}, {"phrase": None}):
        with pytest.raises(ValueError, match="'Locate {phrase}' needs `phrase`"):
            fill_question("Locate {phrase}", str, slots)
