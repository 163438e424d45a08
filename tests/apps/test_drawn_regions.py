"""What is drawn and typed becomes regions and questions; everything else is refused in a sentence."""

import math

import pytest

from transformers_groma.apps.app_questions import Request, question_contents
from transformers_groma.apps.drawn_regions import MAX_DRAWINGS, drawing_of, drawn_regions
from transformers_groma.image_inputs import ImageSize
from transformers_groma.point_inputs import MAX_POINTS
from transformers_groma.questions import GROMA_QUESTIONS

SIZE = ImageSize(height=100, width=200)
FIRST, SECOND = [10.0, 20.0, 50.0, 60.0], [0.0, 0.0, 200.0, 100.0]


def drawn(*boxes) -> list[dict]:
    return [{"kind": "box", "box": list(box)} for box in boxes]


def points(points, labels) -> dict:
    return {"kind": "points", "points": points, "labels": labels}


def region(box) -> dict:
    return {"type": "region", "box": box}


def text(words) -> dict:
    return {"type": "text", "text": words}


def contents(verb="ask", words="", drawings=None, **options):
    return question_contents(Request(verb, words, drawings, **options), SIZE, 40, GROMA_QUESTIONS)


def test_boxes_become_regions_in_the_order_of_drawing():
    assert drawn_regions(drawn(FIRST, SECOND), SIZE) == [region(FIRST), region(SECOND)]
    assert drawn_regions([], SIZE) == drawn_regions(None, SIZE) == []


def test_a_box_may_stick_out_by_a_pixel_and_is_clipped():
    assert drawn_regions(drawn([-0.5, 0, 200.9, 100]), SIZE) == [region([0.0, 0.0, 200.0, 100.0])]


@pytest.mark.parametrize(
    ("drawings", "words"),
    [
        ("box", "must be a list"),
        ({"asked": []}, "must be a list"),
        ([FIRST], "Region 1 is not a box, points or a scribble"),
        ([{"kind": "click", "point": [1, 2]}], "Region 1 is not a box, points or a scribble"),
        ([{"kind": ["box"]}], "Region 1 is not a box, points or a scribble"),
        ([{"kind": "points", "points": [[1, 2]]}], "Region 1 has no labels"),
        ([{"kind": "scribble"}], "Region 1 has no points"),
        ([points([[1, 2], [201, 2]], [1, 1])], "Region 1: .*outside of the 200x100"),
        ([points([[1, 2]], [0])], "Region 1: .*has no 1"),
        ([points([[1, 2]], [1, 0])], "Region 1: .*has 2 entries for 1 point"),
        ([points([], [])], "Region 1: .*is empty"),
        ([points([[math.inf, 2]], [1])], "Region 1: .*finite"),
        ([points([[5, 5]] * (MAX_POINTS + 1), [1] * (MAX_POINTS + 1))], f"Region 1: .*has {MAX_POINTS + 1} points"),
        (drawn(FIRST, [1, 2, 3]), "Region 2 must be x1, y1, x2, y2"),
        (drawn(["1", "2", "3", "4"]), "Region 1 must be x1, y1, x2, y2"),
        (drawn([True, 2, 30, 40]), "Region 1 must be x1, y1, x2, y2"),
        (drawn([10, 20, 10, 60]), "Region 1: "),
        (drawn([50, 20, 10, 60]), "Region 1: .*inverted"),
        (drawn(FIRST, [10, 20, 202, 60]), "Region 2: "),
        (drawn([math.nan, 20, 30, 60]), "Region 1: .*finite"),
        (drawn(*[FIRST] * (MAX_DRAWINGS + 1)), f"{MAX_DRAWINGS + 1} regions are drawn"),
    ],
)
def test_what_is_not_a_list_of_boxes_is_refused(drawings, words):
    with pytest.raises(ValueError, match=words):
        drawn_regions(drawings, SIZE)


def test_points_and_scribbles_become_regions_as_they_were_drawn():
    drawings = [points([[10, 20], [30.5, 40]], [1, 0]), {"kind": "scribble", "points": [[0, 0], [200, 100]]}]
    parts = drawn_regions(drawings, SIZE)
    assert parts == [
        {"type": "region", "points": [[10, 20], [30.5, 40]], "labels": [1, 0]},
        {"type": "region", "scribble": [[0, 0], [200, 100]]},
    ]
    assert [drawing_of(part) for part in parts] == drawings
    assert drawing_of(region(FIRST)) == drawn(FIRST)[0]


def test_points_are_mentioned_as_boxes_are():
    drawings = [*drawn(FIRST), points([[10, 20]], [1])]
    parts = contents(words="Is [2] left of [1]?", drawings=drawings)[0]
    assert parts[1] == {"type": "region", "points": [[10, 20]], "labels": [1]} and parts[3] == region(FIRST)


def test_as_many_boxes_as_allowed():
    assert len(drawn_regions(drawn(*[FIRST] * MAX_DRAWINGS), SIZE)) == MAX_DRAWINGS


def test_marks_are_regions():
    parts = contents(words=" Is [2] left of [1]? ", drawings=drawn(FIRST, SECOND))
    assert parts == [[text("Is "), region(SECOND), text(" left of "), region(FIRST), text("?")]]


def test_marks_of_the_command_line_are_the_next_regions():
    parts = contents(words="<region> or <region>", drawings=drawn(FIRST, SECOND))
    assert parts == [[region(FIRST), text(" or "), region(SECOND)]]


def test_a_question_that_mentions_no_region_has_all_of_them_at_its_end():
    assert contents(words="What is this?", drawings=drawn(FIRST)) == [[text("What is this? "), region(FIRST)]]
    parts = contents(words="Which is larger?", drawings=drawn(FIRST, SECOND))
    assert parts == [[text("Which is larger? "), region(FIRST), text(", "), region(SECOND)]]


def test_a_question_that_mentions_some_regions_has_only_these():
    assert contents(words="What is [2]?", drawings=drawn(FIRST, SECOND)) == [
        [text("What is "), region(SECOND), text("?")]
    ]


@pytest.mark.parametrize(
    ("words", "count", "message"),
    [
        ("What is [1]?", 0, "no region is drawn: draw region 1"),
        ("What is [2]?", 1, "only one region is drawn: draw region 2"),
        ("What is [4]?", 2, "only 2 regions are drawn: draw region 4"),
        ("<region> <region>", 1, "only one region is drawn"),
        ("  ", 1, "The question is empty"),
        ("[grounding]", 0, "asks nothing"),
        ("x" * 41, 0, "has 41 characters, more than the 40 allowed"),
    ],
)
def test_questions_that_cannot_be_asked(words, count, message):
    with pytest.raises(ValueError, match=message):
        contents(words=words, drawings=drawn(*[FIRST] * count))


@pytest.mark.parametrize("words", ["x" * 40, "[0] and [01] and [x] and []", "</s> <image>"])
def test_other_brackets_and_tokens_are_plain_text(words):
    assert contents(words=words) == [[text(words)]]


def test_pointing_puts_the_mark_at_the_head():
    assert contents(words="What is this?", points=True) == [[text("[grounding]What is this?")]]
    assert contents(words="[grounding]What is this?", points=True) == [[text("[grounding]What is this?")]]
    parts = contents(words="[1] is what?", drawings=drawn(FIRST), points=True)
    assert parts == [[text("[grounding]"), region(FIRST), text(" is what?")]]


@pytest.mark.parametrize(
    ("words", "phrase", "question"),
    [
        (" the red cup ", "the red cup", ["Locate ", " in this image."]),
        ("all chairs", "chairs", ["Locate all ", " in this image."]),
        ("All the chairs", "chairs", ["Locate all ", " in this image."]),
        ("allen key", "allen key", ["Locate ", " in this image."]),
        ("all", "all", ["Locate ", " in this image."]),
    ],
)
def test_find_asks_for_one_or_for_all(words, phrase, question):
    [[before, part, after]] = contents("find", words)
    assert part == {"type": "phrase", "text": phrase, "boxes": []}
    assert [before["text"], after["text"]] == question


def test_find_needs_words():
    with pytest.raises(ValueError, match="Write what to find"):
        contents("find", " ")


def test_regions_are_described_one_after_the_other():
    first, second = contents("describe_regions", drawings=drawn(FIRST, SECOND))
    assert region(FIRST) in first and region(SECOND) in second
    assert len(first) == len(second) == 3
    with pytest.raises(ValueError, match="Draw a box on the image first"):
        contents("describe_regions")


def test_the_image_is_described_with_places_whatever_is_drawn():
    [[part]] = contents("describe_image", drawings=drawn(FIRST))
    assert part["text"].startswith("[grounding]")
