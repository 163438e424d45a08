"""Conversations in the model's answers."""

import json

import pytest

from processing.groma_instruct.parse import Rejected, parse_conversation

from .samples import GOOD, as_text


@pytest.mark.parametrize(
    ("answer", "value", "boxes"),
    [
        ("<p>A cat</p> [1].", "<p>A cat</p> <roi><ground_box></roi>.", [0]),
        ("<p>A cat</p>[1].", "<p>A cat</p> <roi><ground_box></roi>.", [0]),
        ("<p> Cats </p> [3][1] [ 2,3 ]!", f"<p>Cats</p> <roi>{'<ground_box>' * 3}</roi>!", [2, 0, 1]),
        ("<p>A</p> [2] and <p>no one</p>.", "<p>A</p> <roi><ground_box></roi> and no one.", [1]),
        ("See [a], <p>it</p> [1] is 3 < 4.", "See [a], <p>it</p> <roi><ground_box></roi> is 3 < 4.", [0]),
        (
            "The player with number 10, <p>he</p> [1]",
            "The player with number 10, <p>he</p> <roi><ground_box></roi>",
            [0],
        ),
    ],
)
def test_answers_that_are_good(answer, value, boxes):
    turns = parse_conversation(as_text(("What?", answer)), 3)
    assert turns == [{"value": "What?", "box_inds": []}, {"value": value, "box_inds": boxes}]


@pytest.mark.parametrize(
    ("question", "value", "boxes"),
    [
        ("What is [3] made of?", "What is <roi><refer_box></roi> made of?", [2]),
        ("Is <p>the cat</p> [1] old?", "Is the cat <roi><refer_box></roi> old?", [0]),
        (
            "Compare [1, 2, 3].",
            "Compare <roi><refer_box></roi>, <roi><refer_box></roi> and <roi><refer_box></roi>.",
            [0, 1, 2],
        ),
    ],
)
def test_questions_that_point(question, value, boxes):
    turns = parse_conversation(as_text((question, "<p>It</p> [1].")), 3)
    assert turns[0] == {"value": value, "box_inds": boxes}


@pytest.mark.parametrize("text", ["{}", "```json\n{}\n```", "Sure, here it is:\n{}\nI hope it helps {{smile}}."])
def test_words_around_the_json(text):
    assert len(parse_conversation(text.format(json.dumps(GOOD)), 3)) == 4


def test_line_breaks_inside_of_strings():
    text = as_text(("What?", "<p>It</p> [1].|Yes.")).replace("|", "\n")
    assert parse_conversation(text, 3)[1]["value"] == "<p>It</p> <roi><ground_box></roi>.\nYes."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        (as_text(("What?", "I’m sorry, but I cannot assist with <p>it</p> [1].")), "refusal"),
        ("A nice picture.", "no JSON"),
        (as_text(("What?", "<p>It</p> [1].")).rstrip("]}"), "broken JSON"),
        ('{"conversation": ' + "[" * 100_000, "broken JSON"),
        ('{"rounds": []}', "JSON of another layout"),
        ('{"conversation": []}', "JSON of another layout"),
        ('{"conversation": ["What?", "It."]}', "JSON of another layout"),
        (as_text(("What?", None)), "JSON of another layout"),
        (as_text(("What?", " ")), "empty question or answer"),
        (as_text(("[1]?", "<p>It</p> [1].")), "empty question or answer"),
        (as_text(("What?", "<p>It</p> [4].")), "unknown region number"),
        (as_text(("What?", "<p>It</p> [0].")), "unknown region number"),
        (as_text(("What is [4]?", "<p>It</p> [1].")), "unknown region number"),
        (as_text(("What?", "A cat.")), "no grounding"),
        (as_text(("What is [1]?", "A <p>cat</p>.")), "no grounding"),
        (as_text(("What?", "<p>It</p> [1] and the cat [2].")), "number without a phrase"),
        (as_text(("What?", "<p>It [1]</p>.")), "number without a phrase"),
        (as_text(("What?", "It is <p> </p> [1].")), "number without a phrase"),
        (as_text(("What?", "<p>It [1].")), "broken marks of a phrase"),
        (as_text(("What?", "<p>a <p>cat</p></p> [1].")), "broken marks of a phrase"),
        (as_text(("What?", "<p>It</p> [1] <image>.")), "text holds a token of the model"),
        (as_text(("[grounding] What?", "<p>It</p> [1].")), "text holds a token of the model"),
        (as_text(("What?", "<p>It</p> <roi><r3></roi> [1].")), "text holds a token of the model"),
        (as_text(("What?", "<p>It</p> [1]. \ud83d")), "half a character"),
        (as_text(("What?", "<p>It</p> [1], as the captions say.")), "speaks of the numbers or the notes"),
        (as_text(("What?", "<p>It</p> [1], marker 1.")), "speaks of the numbers or the notes"),
    ],
)
def test_answers_that_are_rejected(text, reason):
    with pytest.raises(Rejected) as error:
        parse_conversation(text, 3)
    assert str(error.value) == reason
