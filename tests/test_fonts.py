"""Text in any language: which font draws it, and the fallback where none does."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from transformers_groma import fonts
from transformers_groma.fonts import Typeset, letter_size, line_metrics, readable


@pytest.fixture(autouse=True)
def only_the_font_of_pillow(monkeypatch):
    """Tests do not depend on what is installed here."""
    monkeypatch.setattr(fonts, "FONT_FILES", ())
    monkeypatch.delenv("GROMA_FONT", raising=False)


@pytest.fixture
def dejavu() -> str:
    """A font with more than ASCII, which comes with matplotlib."""
    matplotlib = pytest.importorskip("matplotlib")
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def drawn(text: str, size: float = 20.0, width: int = 400) -> np.ndarray:
    image = Image.new("L", (width, 40))
    Typeset(text, size).draw(ImageDraw.Draw(image), (5, 30), 255)
    return np.asarray(image)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog, 10%: {x} \\ ~", "a dog, 10%: {x} \\ ~"),
        ("café naïve Ⅷ", "cafe naive VIII"),
        ("e\u0301", "e"),
        ("東京", "[6771][4EAC]"),
        ("שלום", "[05E9][05DC][05D5][05DD]"),
        ("🗼", "[tokyo tower]"),
        ("👨\u200d👩 ☀\ufe0f", "[man][woman] [black sun with rays]"),
        ("👍🏽", "[thumbs up sign]"),
        ("🇯🇵 🇩🇪", "JP DE"),
        ("𝔘", "U"),
        ("\ud800 broken", "  broken"),
        ("\x00\x07a\tb\u00a0c", "  a b c"),
        ("\u202eabc\u200b", "abc"),
        ("a\nb\r\nc", "a\nb \nc"),
        ("", ""),
    ],
)
def test_what_no_font_has_can_be_read(text, expected):
    assert readable(text) == expected


def test_every_character_can_be_read():
    """Nothing is left that would be drawn as an empty box, and nothing is an error."""
    for start in range(0, 0x30000, 0x1000):
        text = readable("".join(map(chr, range(start, start + 0x1000, 37))))
        assert readable(text) == text
        assert all(fonts._has_glyph("", character) for character in text if not character.isspace())


def test_an_own_font_is_named_by_the_environment(dejavu, monkeypatch):
    text = "café שלום ☀"
    assert readable(text) == "cafe [05E9][05DC][05D5][05DD] [black sun with rays]"
    before = drawn("A dog")
    monkeypatch.setenv("GROMA_FONT", dejavu)
    assert readable(text) == text
    assert readable("東") == "[6771]"
    # It comes before the font of Pillow.
    assert not np.array_equal(drawn("A dog"), before)
    monkeypatch.setenv("GROMA_FONT", os.pathsep.join([dejavu, dejavu, ""]))
    assert readable(text) == text


@pytest.mark.parametrize("name", ["no-such-font.ttf", __file__])
def test_what_is_not_a_font_is_named(name, monkeypatch):
    monkeypatch.setenv("GROMA_FONT", name)
    with pytest.raises(ValueError, match="GROMA_FONT names .* which is not a font file"):
        readable("東")
    with pytest.raises(ValueError, match="GROMA_FONT names"):
        Typeset("a dog", 12.0)


def test_a_font_of_one_size_is_named(tmp_path, monkeypatch):
    """The size that is tried first, so that it seems to be any font."""
    file = tmp_path / "bitmap.bdf"
    glyph = "STARTCHAR A\nENCODING 65\nSWIDTH 500 0\nDWIDTH 16 0\nBBX 8 2 0 0\nBITMAP\nFF\nFF\nENDCHAR\n"
    file.write_text(
        "STARTFONT 2.1\nFONT -a-b-medium-r-normal--32-320-72-72-c-160-iso8859-1\nSIZE 32 72 72\n"
        f"FONTBOUNDINGBOX 16 32 0 -4\nSTARTPROPERTIES 2\nFONT_ASCENT 28\nFONT_DESCENT 4\nENDPROPERTIES\n"
        f"CHARS 1\n{glyph}ENDFONT\n"
    )
    assert fonts._load(str(file), fonts._PROBE_SIZE).getmask("A").getbbox()
    monkeypatch.setenv("GROMA_FONT", str(file))
    with pytest.raises(ValueError, match="GROMA_FONT names .*bitmap.bdf"):
        Typeset("A dog", 14.0)


def test_vowels_that_a_font_lacks_can_be_read(dejavu, monkeypatch):
    """Alone they would be drawn as a dotted circle beside the empty box."""
    monkeypatch.setenv("GROMA_FONT", dejavu)
    assert readable("बा") == "[092C][093E]"
    assert readable("e\u0301") == "e\u0301"


def test_spaces_stay_at_their_ends(dejavu, monkeypatch):
    monkeypatch.setenv("GROMA_FONT", dejavu)
    plain, after, before = (drawn(text).any(axis=0).nonzero()[0] for text in ("של", "של   ", "   של"))
    np.testing.assert_array_equal(after, plain)
    assert before[0] - plain[0] == pytest.approx(Typeset("   ", 20.0).length(), abs=1)


def test_fonts_of_the_system_help_out(dejavu, monkeypatch):
    plain = drawn("A dog")
    monkeypatch.setattr(fonts, "FONT_FILES", ("no-such-font.ttf", dejavu))
    # Where the font of Pillow has all letters, it stays.
    np.testing.assert_array_equal(drawn("A dog"), plain)
    assert readable("שלום") == "שלום"
    assert drawn("שלום").any()
    # One font for a whole text, where there is one: no letter stands out.
    np.testing.assert_array_equal(drawn("café"), drawn_in(dejavu, "café"))


def drawn_in(file: str, text: str) -> np.ndarray:
    image = Image.new("L", (400, 40))
    ImageDraw.Draw(image).text((5, 30), text, 255, font=fonts._load(file, 20.0), anchor="ls")
    return np.asarray(image)


def test_a_text_of_several_fonts_is_one_line(dejavu, monkeypatch):
    """Two fonts that have one word each."""
    monkeypatch.setattr(fonts, "_has_glyph", lambda face, character: character.isdigit() == bool(face))
    monkeypatch.setattr(fonts, "FONT_FILES", (dejavu,))
    typeset = Typeset("12 ab3", 20.0)
    faces = [font.getname()[0] for font in typeset._fonts]
    assert faces == ["DejaVu Sans"] * 3 + ["Aileron"] * 2 + ["DejaVu Sans"]
    assert typeset.length() == pytest.approx(sum(typeset.length(index, index + 1) for index in range(6)), abs=1)
    assert typeset.length(3, 5) == fonts._load("", 20.0).getlength("ab")
    image, parts = Image.new("L", (200, 40)), Image.new("L", (200, 40))
    typeset.draw(ImageDraw.Draw(image), (5, 30), 255)
    for start, end in ((0, 3), (3, 5), (5, 6)):
        typeset.draw(ImageDraw.Draw(parts), (5 + typeset.length(0, start), 30), 255, start, end)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(parts))


def test_letters_stand_on_their_line():
    above, below = line_metrics(20.0)
    rows = drawn("Hg").any(axis=1).nonzero()[0]
    assert 30 - above <= rows[0] < 20 and 30 < rows[-1] <= 30 + below
    assert drawn("H").any(axis=1).nonzero()[0][-1] == 29


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 100), 12), ((432, 432), 12), ((450, 450), 12.5), ((2000, 500), 27.78), ((4000, 3000), 96.2)],
)
def test_letters_grow_with_the_image(size, expected):
    assert letter_size(size) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("size", [10.0, 10.4, 12.0, 13.07, 14.5, 20.0, 100.0])
def test_words_are_apart(size):
    """Pillow's font has spaces of 2 pixels where letters have 10."""
    gap = Typeset("r4 78%", size).length() - Typeset("r478%", size).length()
    assert size / 4 <= gap < size / 4 + 1.5
    image = Image.new("L", (700, 140))
    Typeset("l  l", size).draw(ImageDraw.Draw(image), (5, 110), 255)
    columns = np.asarray(image).any(axis=0).nonzero()[0]
    assert np.diff(columns).max() >= size / 2
