"""The strip of text under an image."""

import random
from itertools import pairwise

import pytest
from PIL import Image

from transformers_groma import caption_strip
from transformers_groma.caption_strip import QUIET, Run, with_caption, wrapped
from transformers_groma.colors import BLACK, PALETTE, WHITE, pale
from transformers_groma.fonts import Typeset, letter_size, line_metrics

from .drawings import changed, colored, grey

MARGIN, LINE = round(12 * 0.7), round(sum(line_metrics(12.0)) * 1.35)


def strip_of(*runs: Run | str, size: tuple[int, int] = (640, 480)) -> Image.Image:
    drawn = with_caption(grey(*size), [Run(run) if isinstance(run, str) else run for run in runs])
    assert changed(grey(*size), drawn) is None
    return drawn.crop((0, size[1], *drawn.size))


def test_without_text_there_is_no_strip():
    image = grey(64, 48)
    for runs in ([], [Run("")], [Run("\u200b")]):
        assert with_caption(image, runs).size == (64, 48)
    assert with_caption(image, []) is not image


def test_size_of_the_strip():
    size = letter_size((640, 480))
    line = round(sum(line_metrics(size)) * 1.35)
    for lines in (1, 2, 5):
        assert strip_of("\n".join(["x"] * lines)).size == (640, lines * line + 2 * round(size * 0.7))
    # Small images get letters of 12 pixels, and a line holds 22 of them.
    assert strip_of("x", size=(64, 48)).width == 22 * 12
    assert strip_of("x", size=(300, 100)).width == 300


def test_there_is_a_margin_on_every_side():
    for text in ("x" * 300, "ab " * 100):
        strip = strip_of(text, size=(300, 100))
        x1, y1, x2, y2 = changed(Image.new("RGB", strip.size, WHITE), strip)
        assert x1 >= MARGIN - 1 and y1 >= MARGIN and x2 <= 300 - MARGIN + 1 and y2 <= strip.height - MARGIN
        assert x2 > 300 - MARGIN - 24  # and no more than that


def test_there_are_forty_lines_at_most():
    def lines(count: int) -> Image.Image:
        return strip_of("\n".join(["x"] * count), size=(224, 149))

    height = 2 * MARGIN + 40 * LINE
    assert lines(39).height == height - LINE
    assert lines(40).height == lines(41).height == lines(60).height == height
    # Only what is cut ends with "…".
    last = (0, height - LINE - 8, 264, height)
    assert changed(lines(40).crop(last), lines(41).crop(last)) is not None
    ending = strip_of("\n".join(["x"] * 39 + ["x…"]), size=(224, 149))
    assert changed(lines(40), ending) is not None and changed(lines(41), ending) is None
    assert changed(lines(41), lines(60)) is None


def test_there_are_8000_letters_at_most(monkeypatch):
    assert caption_strip.MAX_LENGTH == 8000  # as `with_caption` and `draw_grounded_text` say
    monkeypatch.setattr(caption_strip, "MAX_LENGTH", 60)
    assert changed(strip_of("x" * 60), strip_of("x" * 61)) is not None
    assert changed(strip_of("x" * 61), strip_of("x" * 90)) is None
    assert changed(strip_of("x" * 61), strip_of("x" * 30, "x" * 31)) is None
    assert changed(strip_of("x" * 60), strip_of("x" * 60, "")) is None


def test_runs_are_marked_where_they_stand():
    size = letter_size((640, 480))
    margin = round(size * 0.7)
    strip = strip_of("I see ", Run("a dog", PALETTE[0]), " and ", Run("cats", PALETTE[1]), ".")
    typeset = Typeset("I see a dog and cats.", size)
    for color, start, end in ((PALETTE[0], 6, 11), (PALETTE[1], 16, 20)):
        left, right = margin + typeset.length(0, start), margin + typeset.length(0, end)
        for shade in (color, pale(color)):
            x1, _, x2, _ = colored(strip, shade)
            assert abs(x1 - left) <= 1 and abs(x2 - right) <= 2
        underline, marked = colored(strip, color), colored(strip, pale(color))
        assert underline[3] - underline[1] == max(2, round(size / 8))
        assert marked[3] == underline[1]
        ascent, descent = line_metrics(size)
        assert marked[1] == margin + (round((ascent + descent) * 1.35) - ascent - descent) // 2
        assert underline[3] == marked[1] + ascent + descent + 1
    # Letters are black, on the marks and beside them, and nothing stands in the margins.
    assert colored(strip, BLACK)[0] >= margin - 1 and strip.getpixel((margin - 2, strip.height // 2)) == WHITE
    assert colored(strip, BLACK) == colored(strip_of("I see a dog and cats."), BLACK)


def test_underlines_grow_with_the_letters():
    for side, width in ((36 * 12, 2), (36 * 20, 2), (36 * 21, 3), (36 * 28, 4)):
        strip = strip_of(Run("a dog", PALETTE[0]), size=(side, side))
        _, y1, _, y2 = colored(strip, PALETTE[0])
        assert y2 - y1 == width, side


def test_runs_have_their_own_letters():
    strip = strip_of(Run("What is ", color=QUIET), Run("it?\n", color=QUIET), "It.")
    assert colored(strip, QUIET)[3] < colored(strip, BLACK)[1]


def test_a_dashed_run_has_dashes_under_it_and_no_background():
    strip = strip_of(
        Run("What is ", color=QUIET), Run("your region", BLACK, QUIET, is_dashed=True), Run("?", color=QUIET)
    )
    x1, y1, x2, y2 = colored(strip, BLACK)
    row = [strip.getpixel((x, y2 - 1)) == BLACK for x in range(x1, x2)]
    assert strip.getpixel((x1 + 1, y1 - 14)) == WHITE
    assert y2 - y1 == 2 and row[0] and row[-1] and 0.3 < sum(row) / len(row) < 0.7
    left = round(letter_size((640, 480)) * 0.7) + Typeset("What is ", letter_size((640, 480))).length()
    assert abs(x1 - left) <= 1


def test_a_run_over_two_lines_is_marked_on_both():
    strip = strip_of(Run("ab " * 60, PALETTE[0]), size=(300, 100))
    rows = {row // LINE for row in range(strip.height) if PALETTE[0] in {strip.getpixel((x, row)) for x in range(300)}}
    assert len(rows) >= 2


def test_wrapping_loses_nothing_but_spaces():
    generator = random.Random(0)
    for _ in range(100):
        words = ["a", "dog", "x" * generator.randint(1, 80), "on the grass", "\n", "[6771]" * 9, "(東京)"]
        text = " ".join(generator.choices(words, k=generator.randint(0, 12)))
        typeset = Typeset(text, 12.0)
        lines = wrapped(typeset, 150)
        if len(lines) <= 40:
            kept = "".join(text[start:end] for start, end in lines).replace(" ", "")
            assert kept == text.replace(" ", "").replace("\n", "")
        assert all(typeset.length(start, start + len(text[start:end].rstrip())) <= 150 for start, end in lines)


@pytest.mark.parametrize("text", ["aaa bbb ccc", "aaabbbccc", "aaa  bbb", "aa\n\nbb", "a", ""])
def test_lines_are_as_long_as_they_can_be(text):
    typeset = Typeset(text, 12.0)
    for limit in range(1, 90):
        lines = wrapped(typeset, limit)
        for (start, end), (following, _) in pairwise(lines):
            if "\n" in text[end : following + 1]:
                continue
            # The next word, or the next letter of a word that had to be broken, would not have fit.
            next_word = text[following:].split("\n")[0].split(" ")[0]
            more = following + (len(next_word) if " " in text[end:following] else 1)
            assert typeset.length(start, more) > limit or end - start == 1


def test_a_line_may_be_exactly_as_wide_as_its_room():
    typeset, word = Typeset("aaa bbb", 12.0), Typeset("aaaaa", 12.0)
    assert wrapped(typeset, typeset.length()) == [(0, 7)]
    assert wrapped(typeset, typeset.length() - 0.1) == [(0, 3), (4, 7)]
    assert wrapped(word, word.length(0, 4)) == [(0, 4), (4, 5)]
    assert wrapped(word, word.length(0, 4) - 0.1) == [(0, 3), (3, 5)]


@pytest.mark.parametrize(
    ("text", "room", "lines"),
    [
        ("a 東京都庁", "a 東京", ["a 東京", "都庁"]),
        ("東京。大阪", "東京", ["東", "京。", "大阪"]),  # a full stop begins no line
        ("[6771][4EAC]. So", "[6771][4E", ["[6771]", "[4EAC].", "So"]),
    ],
)
def test_lines_break_where_there_are_no_spaces(text, room, lines):
    room = Typeset(room, 12.0).length() + 0.5
    assert [text[start:end] for start, end in wrapped(Typeset(text, 12.0), room)] == lines
