"""The standard wording of questions."""

import pytest

from transformers_groma.data.prompts import PROMPTS
from transformers_groma.models.groma.processing_groma import DEFAULT_IMAGE_PROMPT, DEFAULT_REGION_PROMPT
from transformers_groma.questions import STANDARD_QUESTIONS, fill_question


def test_they_are_what_benchmarks_ask():
    assert {task: templates[0] for task, templates in PROMPTS.items()}.items() <= STANDARD_QUESTIONS.items()
    assert STANDARD_QUESTIONS["rec"] == "Locate {phrase} in this image."
    assert STANDARD_QUESTIONS["grounding"] == "Locate all {phrase} in this image."
    assert STANDARD_QUESTIONS["region_caption"] == "Please give a short description of {region}."
    assert STANDARD_QUESTIONS["grounded_caption"] == "[grounding]Please describe the image briefly."


def test_they_are_what_the_processor_asks_by_default():
    assert DEFAULT_IMAGE_PROMPT == "[grounding]Please describe the image in detail."
    assert DEFAULT_REGION_PROMPT == "Please give a short description of {regions}."


def test_nobody_changes_them():
    with pytest.raises(TypeError):
        STANDARD_QUESTIONS["rec"] = "Where?"


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
