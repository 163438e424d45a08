"""Questions of training and evaluation."""

import subprocess
import sys
from collections import Counter

import pytest

from transformers_groma.data.columns import phrase_part, region_part, text_part
from transformers_groma.data.prompts import (
    GLAMM_LOCATIONS,
    GLAMM_PROMPTS,
    NOTHING_THERE,
    PROMPTS,
    TASKS,
    WORDINGS,
    glamm_question_parts,
    location_parts,
    prompt_template,
    question_parts,
)
from transformers_groma.markup import GLAMM_MARKUP_TOKENS, GROMA_MARKUP_TOKENS
from transformers_groma.questions import GLAMM_QUESTIONS, GROMA_QUESTIONS

SLOTS = {"rec": "{phrase}", "grounding": "{phrase}", "region_caption": "{region}", "grounded_caption": ""}


@pytest.mark.parametrize("task", TASKS)
def test_templates_have_the_slot_of_their_task_once(task):
    assert 5 <= len(PROMPTS[task]) <= 10
    assert len(set(PROMPTS[task])) == len(PROMPTS[task])
    for template in PROMPTS[task]:
        assert template.count("{") == bool(SLOTS[task])
        assert SLOTS[task] in template
        assert template.startswith("[grounding]") == (task == "grounded_caption")
        assert not any(token in template for token in GROMA_MARKUP_TOKENS if token != "[grounding]")


def test_the_first_template_is_the_standard_wording():
    for task in TASKS:
        assert PROMPTS[task][0] == getattr(GROMA_QUESTIONS, task)


def test_questions_are_drawn_by_record_and_seed():
    records = [f"record {number}" for number in range(800)]
    drawn = [prompt_template("rec", record, seed=0) for record in records]
    assert drawn == [prompt_template("rec", record, seed=0) for record in records]
    assert drawn != [prompt_template("rec", record, seed=1) for record in records]
    counts = Counter(drawn)
    assert set(counts) == set(PROMPTS["rec"])
    assert min(counts.values()) > 70  # 100 expected
    assert {prompt_template("rec", record) for record in records} == {PROMPTS["rec"][0]}


def test_another_process_draws_the_same():
    """Python salts its own hash of text."""
    code = (
        "from transformers_groma.data.prompts import *; print([prompt_template('rec', str(n), 3) for n in range(9)])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert answer == str([prompt_template("rec", str(number), 3) for number in range(9)])


def test_slots_become_parts():
    assert question_parts("rec", phrase="a {region} cup") == [
        text_part("Locate "),
        phrase_part("a {region} cup"),
        text_part(" in this image."),
    ]
    assert question_parts("region_caption", region=4)[1] == region_part(4)
    assert [part["type"] for part in question_parts("grounded_caption")] == ["text"]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`task` must be one of 'rec'.*got 'caption'"):
        prompt_template("caption")
    with pytest.raises(ValueError, match="needs `phrase`"):
        question_parts("grounding", region=1)


GLAMM_SLOTS = {
    "segmentation": "{phrase}",
    "region_caption": "{region}",
    "object_caption": "{region}",
    "region_group_caption": "{region}",
}


@pytest.mark.parametrize("task", GLAMM_PROMPTS)
def test_templates_of_glamm_have_the_slot_of_their_task_once(task):
    assert len(set(GLAMM_PROMPTS[task])) == len(GLAMM_PROMPTS[task])
    for template in GLAMM_PROMPTS[task]:
        assert template.count("{") == (task in GLAMM_SLOTS) and GLAMM_SLOTS.get(task, "") in template
        assert not any(token in template for token in GROMA_MARKUP_TOKENS + GLAMM_MARKUP_TOKENS)


def test_standard_questions_of_glamm_are_those_of_its_processor():
    assert GLAMM_PROMPTS["segmentation"][0] == GLAMM_QUESTIONS.rec
    assert GLAMM_PROMPTS["region_caption"][0] == GLAMM_QUESTIONS.region_caption


def test_questions_of_glamm():
    (part,) = glamm_question_parts("segmentation", phrase=" The {region} Cup ")
    assert part == text_part("Please segment the {region} cup in this image.")
    assert glamm_question_parts("region_group_caption", regions=[0, 1]) == [
        text_part("Could you please give me a detailed description of these areas region1 "),
        region_part(0),
        text_part(",region2 "),
        region_part(1),
        text_part(",?"),
    ]
    drawn = {glamm_question_parts("caption", record=str(record), seed=0)[0]["text"] for record in range(300)}
    assert drawn == set(GLAMM_PROMPTS["caption"])
    for given, message in (
        (("captions", {}), "`task` must be one of 'segmentation'"),
        (("segmentation", {}), "needs `phrase`"),
        (("region_caption", {}), "needs `regions`"),
    ):
        with pytest.raises(ValueError, match=message):
            glamm_question_parts(given[0], **given[1])


def test_answers_that_point():
    assert location_parts([2]) == [phrase_part("", [2])]
    answers = {
        "".join(part["text"] or "{region}" for part in location_parts([0, 1], str(record), 0, "glamm"))
        for record in range(100)
    }
    assert answers == set(GLAMM_LOCATIONS)
    assert all(
        [part["boxes"] for part in location_parts([0, 1], str(record), 0, "glamm") if part["boxes"]] == [[0, 1]]
        for record in range(20)
    ), "one phrase of all boxes"
    for wording in WORDINGS:
        told = {location_parts([], str(record), 0, wording)[0]["text"] for record in range(100)}
        assert told == set(NOTHING_THERE)


def test_the_same_task_in_the_words_of_either_family():
    """One function for both, with the draws of each family's own."""
    for task, of_glamm in (("rec", "segmentation"), ("grounding", "segmentation"), ("grounded_caption",) * 2):
        for number in range(20):
            given = {"phrase": "Red cup", "record": f"image {number}", "seed": 3}
            assert question_parts(task, **given, wording="glamm") == glamm_question_parts(of_glamm, **given)
    asked = question_parts("region_caption", region=1, record="a", seed=3, wording="glamm")
    assert asked == glamm_question_parts("region_caption", regions=[1], record="a", seed=3)
    assert asked != question_parts("region_caption", region=1, record="a", seed=3)
    with pytest.raises(ValueError, match="needs `phrase`"):
        question_parts("rec", wording="glamm")
    with pytest.raises(ValueError, match="needs `regions`"):
        question_parts("region_caption", wording="glamm")
    with pytest.raises(ValueError, match="`task` must be one of 'rec'"):
        question_parts("caption", wording="glamm")
