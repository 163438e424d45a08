"""Questions of training and evaluation."""

import subprocess
import sys
from collections import Counter

import pytest

from transformers_groma.data.columns import phrase_part, region_part, text_part
from transformers_groma.data.prompts import PROMPTS, TASKS, prompt_template, question_parts
from transformers_groma.markup import GROMA_MARKUP_TOKENS
from transformers_groma.questions import GROMA_QUESTIONS

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
