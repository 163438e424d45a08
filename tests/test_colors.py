"""Colours of drawings."""

import numpy as np
import pytest

from transformers_groma.colors import BLACK, PALETTE, WHITE, is_color, pale, palette_color, text_color


def test_palette_is_that_of_okabe_and_ito():
    codes = ["E69F00", "56B4E9", "009E73", "D55E00", "CC79A7", "0072B2", "F0E442"]
    assert [bytes(color).hex().upper() for color in PALETTE] == codes
    assert BLACK == (0, 0, 0) and WHITE == (255, 255, 255)
    assert [palette_color(index) for index in range(9)] == [*PALETTE, *PALETTE[:2]]


@pytest.mark.parametrize(
    ("background", "expected"),
    [
        # Either side of the luminance at which black and white have the same contrast, by each colour alone and
        # together.
        ((116, 116, 116), WHITE),
        ((117, 117, 117), BLACK),
        ((230, 0, 0), WHITE),
        ((240, 0, 0), BLACK),
        ((0, 130, 0), WHITE),
        ((0, 140, 0), BLACK),
        ((0, 0, 255), WHITE),
        ((0, 105, 255), WHITE),
        ((0, 115, 255), BLACK),
    ],
)
def test_letters_have_the_better_contrast(background, expected):
    assert text_color(background) == expected


def test_pale_colours_are_three_tenths_of_a_colour_on_white():
    assert pale((0, 155, 255)) == (178, 225, 255)
    assert pale(BLACK) == (178, 178, 178)


@pytest.mark.parametrize("value", [(0, 0, 0), (255, 255, 255), [0, 128, 255], np.array([1, 2, 3], np.uint8), *PALETTE])
def test_three_numbers_up_to_255_are_a_colour(value):
    assert is_color(value)


@pytest.mark.parametrize(
    "value", [(0, 0, 256), (-1, 0, 0), (0, 0), (0, 0, 0, 0), (0.5, 0.5, 0.5), "red", "#00ff00", 7, None, {}]
)
def test_other_values_are_not(value):
    assert not is_color(value)
