"""The caption under a drawing: the question, the answer, and any text in them."""

import pytest
import torch

from transformers_groma.caption_strip import QUIET, Run
from transformers_groma.colors import BLACK, PALETTE
from transformers_groma.grounding import ground_text, render_grounded_phrase
from transformers_groma.visualization import MAX_QUESTION_LENGTH, draw_boxes, draw_grounded_text

from .drawings import changed, grey


@pytest.fixture
def captions(monkeypatch) -> list[list[Run]]:
    """The runs of each strip that is drawn."""
    calls = []
    monkeypatch.setattr(
        "transformers_groma.visualization.with_caption", lambda image, runs: calls.append(list(runs)) or image
    )
    return calls


@pytest.mark.parametrize("size", [(64, 48), (400, 300), (640, 425), (4000, 3000)])
def test_the_image_keeps_its_place_above_the_caption(size):
    answer = ground_text("<p>a dog</p> <roi><r0></roi> runs.", torch.tensor([[5.0, 5, 40, 40]]))
    with_caption = draw_grounded_text(grey(*size), answer, question="What runs?")
    without = draw_grounded_text(grey(*size), answer, caption=False)
    assert changed(without, with_caption) is None
    assert with_caption.width >= without.width == size[0]
    # Shown 800 pixels wide, letters and lines are as large in a large image as in one that is that wide.
    strip = (with_caption.height - size[1]) * 800 / with_caption.width
    assert 80 < strip < 180


def test_an_empty_answer_has_no_caption():
    assert draw_grounded_text(grey(64, 48), ground_text("", torch.zeros(0, 4))).size == (64, 48)


def test_the_question_stands_above_the_answer(captions):
    answer = ground_text("<p>a dog</p> <roi><r0></roi>.", torch.tensor([[20.0, 60, 100, 140]]))
    answer.draw(grey(320, 240), question="[grounding]What runs?")
    assert captions == [
        [Run("What runs?", color=QUIET), Run("\n"), Run("a dog", PALETTE[0]), Run(".")],
    ]
    captions.clear()
    for question in (None, "", "  ", "[grounding]"):
        answer.draw(grey(320, 240), question=question)
    assert captions == [[Run("a dog", PALETTE[0]), Run(".")]] * 4
    captions.clear()
    ground_text("", torch.zeros(0, 4)).draw(grey(320, 240), question="What?")
    assert captions == [[Run("What?", color=QUIET)]]
    assert draw_grounded_text(grey(64, 48), answer, caption=False, question="What?").size == (64, 48)


@pytest.mark.parametrize(
    "question", ["word " * 4000, "x" * 9000, "<region>" * 4000, "\n".join("abcdef") * 90, "東" * 4000]
)
def test_a_long_question_leaves_room_for_the_answer(captions, question):
    answer = ground_text("<p>a dog</p> <roi><r0></roi>.", torch.tensor([[100.0, 100, 200, 200]]))
    answer.draw(grey(320, 240), question=question)
    *asked, line_break, phrase, end = captions[0]
    text = "".join(run.text for run in asked)
    assert len(text) <= MAX_QUESTION_LENGTH + 1 and text.endswith("…") and "\n" not in text
    assert (line_break.text, phrase.text, end.text) == ("\n", "a dog", ".")


def test_the_question_names_the_boxes_of_the_user(captions):
    boxes = torch.tensor([[20.0, 60, 100, 140], [180, 60, 300, 140]])

    def runs(question: str, count: int, **settings) -> list[Run]:
        ground_text("", boxes, user_region_ids=range(count)).draw(grey(320, 240), question=question, **settings)
        return captions.pop()

    def box(text: str) -> Run:
        return Run(text, BLACK, QUIET, is_dashed=True)

    def words(text: str) -> Run:
        return Run(text, color=QUIET)

    assert runs("What is <region>?", 1) == [words("What is "), box("your region"), words("?")]
    assert runs("<region> and <region>", 2) == [box("your region 1"), words(" and "), box("your region 2")]
    assert runs("Where is <p>it</p> in <region>?", 1)[0] == words("Where is it in ")
    # Marks of no box are shown as they are.
    assert runs("What is <region>?", 0) == [words("What is "), words("<region>"), words("?")]


def test_regions_that_have_no_phrase_are_named_in_the_caption(captions):
    boxes = torch.zeros(10, 4)

    def runs(markup: str) -> list[Run]:
        ground_text(markup, boxes).draw(grey(320, 240))
        return captions.pop()

    assert runs("<roi><r4><r5></roi>") == [Run("r4 r5", PALETTE[0])]
    found = runs("It is <roi><r4></roi>, not <p>a dog</p> <roi><r5></roi>.")
    assert "".join(run.text for run in found) == "It is r4, not a dog."
    assert [run.text for run in found if run.mark == PALETTE[0]] == ["r4"]
    assert [run.text for run in found if run.mark == PALETTE[1]] == ["a dog"]
    assert "".join(run.text for run in runs("<roi><r4></roi> is the dog")) == "r4 is the dog"


@pytest.mark.parametrize(
    "text",
    [
        "東京タワー 🗼",
        "שלום עולם",
        "مرحبا",
        "\ud800 broken",
        "\x00\x07 bell",
        "a\nb\r\nc\td",
        "e\u0301 \u200d",
        "𝔘",
        "%s {x} \\",
    ],
)
def test_any_text_can_be_drawn(text: str):
    answer = ground_text(f"{text} {render_grounded_phrase(text, [0])} {text}", torch.tensor([[20.0, 20, 90, 90]]))
    drawn = draw_grounded_text(grey(224, 149), answer, regions=True, question=text)
    assert drawn.height > 149
    plain = draw_boxes(grey(224, 149), [[20, 20, 90, 90]])
    assert changed(plain, draw_boxes(grey(224, 149), [[20, 20, 90, 90]], labels=[text]))


def test_endless_answers_are_cut():
    word = ground_text("x" * 200_000, torch.zeros(0, 4))
    lines = ground_text("x\n" * 100_000, torch.zeros(0, 4))
    assert draw_grounded_text(grey(224, 149), word).height < 1200
    assert draw_grounded_text(grey(224, 149), lines).height < 1200
