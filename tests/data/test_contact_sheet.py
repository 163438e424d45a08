"""Contact sheets: the layout of tiles, and the text under each image."""

import numpy as np
from PIL import Image

from transformers_groma.data.contact_sheet import GAP, LINE_HEIGHT, MAX_LINES, TILE, captioned_tile, contact_sheet


def blank(height, color="white"):
    return Image.new("RGB", (TILE, height), color)


def test_each_text_starts_a_line_and_long_ones_wrap():
    assert captioned_tile(blank(50), []).size == (TILE, 50)
    assert captioned_tile(blank(50), ["one", "two"]).size == (TILE, 50 + 2 * LINE_HEIGHT)
    assert captioned_tile(blank(50), ["word " * 20]).size == (TILE, 50 + 2 * LINE_HEIGHT)
    tile = captioned_tile(blank(50), ["one"])
    assert np.asarray(tile)[50:].min() < 128 and np.asarray(tile)[:50].min() == 255  # written under the image


def test_too_many_lines_end_with_a_sign():
    exact = captioned_tile(blank(10), ["a"] * MAX_LINES)
    more = captioned_tile(blank(10), ["a"] * (MAX_LINES + 1))
    assert exact.height == more.height == 10 + MAX_LINES * LINE_HEIGHT
    last = slice(10 + (MAX_LINES - 1) * LINE_HEIGHT, None)
    assert not np.array_equal(np.asarray(exact)[last], np.asarray(more)[last])


def test_control_characters_are_not_drawn():
    shown, hidden = captioned_tile(blank(10), ["a b"]), captioned_tile(blank(10), ["a\x07b"])
    assert np.array_equal(np.asarray(shown), np.asarray(hidden))


def test_other_scripts_can_be_read(monkeypatch):
    """Without a font for them: as their codes, and not as boxes that look all the same."""
    monkeypatch.setattr("transformers_groma.fonts.FONT_FILES", ())
    shown, codes = captioned_tile(blank(10), ["東"]), captioned_tile(blank(10), ["[6771]"])
    assert np.array_equal(np.asarray(shown), np.asarray(codes))


def test_tiles_stand_four_in_a_line_each_line_as_high_as_its_highest():
    heights = [20, 60, 30, 40, 50]
    colors = ["red", "lime", "blue", "black", "purple"]
    sheet = contact_sheet([blank(height, color) for height, color in zip(heights, colors)])
    assert sheet.size == (4 * (TILE + GAP) + GAP, 60 + 50 + 3 * GAP)
    for index, (color, height) in enumerate(zip(colors, heights)):
        left = GAP + index % 4 * (TILE + GAP)
        top = GAP if index < 4 else 2 * GAP + 60
        expected = Image.new("RGB", (1, 1), color).getpixel((0, 0))
        assert sheet.getpixel((left, top)) == sheet.getpixel((left + TILE - 1, top + height - 1)) == expected
        assert sheet.getpixel((left - 1, top)) == (255, 255, 255)
        assert sheet.getpixel((left, top + height)) == (255, 255, 255)
    assert contact_sheet([blank(20)]).size == (TILE + 2 * GAP, 20 + 2 * GAP)
