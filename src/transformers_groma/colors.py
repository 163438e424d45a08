"""Colours of drawn regions, and readable text colours on them."""

import operator

Color = tuple[int, int, int]

# Okabe and Ito's palette, distinguishable with any kind of colour vision, without its black.
PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (208, 208, 208)


def is_color(value: object) -> bool:
    """Whether a value is a colour: three whole numbers from 0 to 255.

    Args:
        value: anything.

    Returns:
        `bool`: whether it is.

    Example:
    >>> is_color((230, 159, 0)), is_color("red"), is_color((0.5, 0.5, 0.5))
    (True, False, False)
    """
    try:
        red, green, blue = value
        return all(0 <= operator.index(part) <= 255 for part in (red, green, blue))
    except (TypeError, ValueError):
        return False


def palette_color(index: int) -> Color:
    """The colour of the n-th drawn thing; the palette repeats.

    Args:
        index (`int`): a non-negative number.

    Returns:
        `(r, g, b)`: a colour of `PALETTE`.

    Example:
    >>> palette_color(0) == palette_color(7) == PALETTE[0]
    True
    """
    return PALETTE[index % len(PALETTE)]


def pale(color: Color) -> Color:
    """A light tint of a colour, as a background for black text.

    Args:
        color (`(r, g, b)`): each 0..255.

    Returns:
        `(r, g, b)`: three tenths of the colour on white.

    Example:
    >>> pale((0, 155, 255))
    (178, 225, 255)
    """
    return tuple(round(255 - 0.3 * (255 - value)) for value in color)


def text_color(background: Color) -> Color:
    """Black or white, whichever is easier to read on a background.

    Args:
        background (`(r, g, b)`): each 0..255.

    Returns:
        `(r, g, b)`: the one with the higher contrast ratio of WCAG 2.

    Example:
    >>> text_color((240, 228, 66))
    (0, 0, 0)
    """
    linear = [(value / 255) ** 2.2 for value in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if luminance > 0.179 else WHITE


__all__ = ["BLACK", "GREY", "PALETTE", "WHITE", "Color", "is_color", "pale", "palette_color", "text_color"]
