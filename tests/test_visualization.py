"""Drawing boxes, proposals and answers."""

import random
from itertools import pairwise

import pytest
import torch
from PIL import Image, ImageChops

from transformers_groma import visualization
from transformers_groma.grounding import ground_text, render_grounded_phrase
from transformers_groma.visualization import (
    BLACK,
    GREY,
    PALETTE,
    WHITE,
    _area,
    _Canvas,
    _caption,
    _fitting_label,
    _font,
    _leader,
    _Mark,
    _overlap,
    _text_color,
    _tint,
    _touch,
    _wrapped,
    dashes,
    draw_boxes,
    draw_grounded_text,
    draw_proposals,
)


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (120, 120, 120))


def random_boxes(count: int, width: int, height: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, count, 2, generator=generator) * torch.tensor([width, height])
    return torch.cat([corners.amin(0), corners.amax(0)], dim=-1)


def colored(image: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """The smallest box around the pixels of a colour."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    rows, columns = (pixels == torch.tensor(color, dtype=torch.uint8)).all(dim=-1).nonzero(as_tuple=True)
    if len(rows) == 0:
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def changed(before: Image.Image, after: Image.Image) -> tuple[int, int, int, int] | None:
    return ImageChops.difference(before, after.crop((0, 0, *before.size))).getbbox()


def test_outline_is_at_the_box():
    drawn = draw_boxes(grey(200, 150), [[20, 30, 120.4, 99.6]], colors=[(255, 0, 0)])
    assert colored(drawn, (255, 0, 0)) == (20, 30, 120, 100)
    assert drawn.getpixel((70, 65)) == (120, 120, 120)


def test_input_stays_as_it_was():
    image = grey(200, 150)
    drawn = draw_boxes(image, torch.tensor([[20, 30, 120, 100]]), labels=["a dog"])
    assert changed(image, drawn)
    assert changed(image, grey(200, 150)) is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "LA", "F"])
def test_every_mode_becomes_rgb(mode: str):
    drawn = draw_boxes(Image.new(mode, (64, 48)), [[5, 5, 30, 30]], colors=[(255, 0, 0)])
    assert drawn.mode == "RGB"
    assert colored(drawn, (255, 0, 0)) == (5, 5, 30, 30)


def test_boxes_follow_the_upright_image():
    image = grey(200, 150)
    image.getexif()[0x0112] = 6  # the camera was turned: shown upright, the image is 150 wide and 200 high
    drawn = draw_boxes(image, [[10, 160, 140, 190]], colors=[(255, 0, 0)])
    assert drawn.size == (150, 200)
    assert colored(drawn, (255, 0, 0)) == (10, 160, 140, 190)


def test_no_boxes():
    assert changed(grey(64, 48), draw_boxes(grey(64, 48), [])) is None
    assert changed(grey(64, 48), draw_proposals(grey(64, 48), torch.zeros(0, 4))) is None


@pytest.mark.parametrize(
    "box", [[-20, -20, 500, 500], [300, 300, 400, 400], [10, 10, 10, 10], [50, 50, 20, 20], [0, 0, 0.2, 0.2]]
)
def test_odd_boxes_are_drawn_inside_the_image(box: list[float]):
    drawn = draw_boxes(grey(64, 48), [box], labels=["x"], colors=[(255, 0, 0)])
    assert drawn.size == (64, 48)
    assert colored(drawn, (255, 0, 0))


def test_bad_arguments():
    image = grey(64, 48)
    with pytest.raises(ValueError, match="finite"):
        draw_boxes(image, [[0, 0, float("nan"), 4]])
    with pytest.raises(ValueError, match="shape"):
        draw_boxes(image, [0, 0, 4, 4])
    with pytest.raises(ValueError, match="`labels` must have one entry for each of the 1 boxes, got 2"):
        draw_boxes(image, [[0, 0, 4, 4]], labels=["a", "b"])
    with pytest.raises(ValueError, match="`colors`"):
        draw_boxes(image, [[0, 0, 4, 4]], colors=[])
    with pytest.raises(ValueError, match="`mask`"):
        draw_proposals(image, torch.zeros(3, 4), mask=torch.ones(2).bool())
    with pytest.raises(ValueError, match="`scores`"):
        draw_proposals(image, torch.zeros(3, 4), scores=torch.ones(3, 1))


@pytest.mark.parametrize("size", [(64, 48), (224, 149), (640, 425), (120, 900), (2250, 1500)])
def test_chips_are_inside_and_apart(size: tuple[int, int]):
    canvas = _Canvas(grey(*size))
    count = 2 if size == (64, 48) else 20
    boxes = random_boxes(count, *size)
    marks = [_Mark(tuple(box), PALETTE[0], name=f"<r{index}>") for index, box in enumerate(boxes.tolist())]
    canvas.draw_outlines(marks, canvas.line_width)
    canvas.draw_chips(marks)
    assert len(canvas.chips) == count
    for index, (x1, y1, x2, y2) in enumerate(canvas.chips):
        assert 0 <= x1 < x2 <= size[0]
        assert 0 <= y1 < y2 <= size[1]
        for other in canvas.chips[:index]:
            assert x2 <= other[0] or other[2] <= x1 or y2 <= other[1] or other[3] <= y1


def test_chips_of_equal_boxes_are_apart():
    canvas = _Canvas(grey(400, 300))
    canvas.draw_chips([_Mark((100.0, 100.0, 140.0, 130.0), PALETTE[0], text="a dog", name="<r1>") for _ in range(25)])
    assert len(set(canvas.chips)) == 25


def test_chips_without_room_shrink_or_are_left_out():
    canvas = _Canvas(grey(320, 240))
    box = (100.0, 100.0, 140.0, 130.0)
    canvas.draw_chips([_Mark(box, PALETTE[0], text="a dog in the grass", name=f"<r{index}>") for index in range(400)])
    widths = {x2 - x1 for x1, _, x2, _ in canvas.chips}
    assert min(widths) < 40 < 80 < max(widths)
    assert 20 < len(canvas.chips) < 400
    for index, (x1, y1, x2, y2) in enumerate(canvas.chips):
        for other in canvas.chips[:index]:
            assert x2 <= other[0] or other[2] <= x1 or y2 <= other[1] or other[3] <= y1
    drawn = draw_proposals(grey(64, 48), random_boxes(100, 64, 48), scores=torch.rand(100))
    assert drawn.size == (64, 48)
    assert changed(grey(64, 48), drawn)


def test_lines_and_letters_grow_with_the_image():
    small, large = _Canvas(grey(224, 149)), _Canvas(grey(2250, 1500))
    assert large.line_width > 2 * small.line_width
    assert large.font_size > 3 * small.font_size >= 30


def test_long_labels_are_cut_but_keep_the_name():
    font = _font(12.0)
    assert _fitting_label("a dog", "<r4>", font, 200) == "a dog <r4>"
    short = _fitting_label("a very long phrase about a dog " * 20, "<r4>", font, 120)
    assert short.startswith("a very")
    assert short.endswith("… <r4>")
    assert font.getlength(short) <= 120
    assert _fitting_label("a dog", "<r4>", font, 10) == "<r4>"


def test_leader_is_the_shortest_line():
    assert _leader((0, 0, 10, 10), (20, 30, 40, 50)) == (10, 10, 20, 30)
    assert _leader((60, 0, 70, 10), (0, 30, 80, 50)) == (65, 10, 65, 30)
    assert _leader((60, 35, 70, 45), (0, 30, 20, 50)) == (60, 40, 20, 40)


def test_proposals_respect_the_mask():
    boxes = torch.tensor([[10.0, 60, 90, 140], [float("nan")] * 4, [150, 60, 190, 140]])
    drawn = draw_proposals(grey(200, 150), boxes, mask=torch.tensor([True, False, False]))
    assert changed(grey(200, 150), drawn)[2] < 110
    assert colored(drawn, PALETTE[0])[2:] == (90, 140)


def test_grounded_text_has_one_color_a_phrase():
    boxes = torch.tensor([[20.0, 60, 100, 140], [120, 60, 200, 140], [220, 60, 300, 140]])
    answer = ground_text("<p>men</p> <roi><r0><r2></roi> and <p>a dog</p> <roi><r1></roi>.", boxes)
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert drawn.size == (320, 240)
    for x, color in ((21, PALETTE[0]), (121, PALETTE[1]), (221, PALETTE[0])):
        assert drawn.getpixel((x, 100)) == color
    strip = draw_grounded_text(grey(320, 240), answer)
    strip = strip.crop((0, 240, *strip.size))
    assert strip.getpixel((0, 0)) == (255, 255, 255)
    assert colored(strip, PALETTE[0])[0] < colored(strip, PALETTE[1])[0]
    assert colored(strip, PALETTE[2]) is None


def test_two_phrases_for_one_region_both_show():
    answer = ground_text(
        "<p>men</p> <roi><r0></roi>; <p>they</p> <roi><r0></roi>", torch.tensor([[50.0, 50, 150, 150]])
    )
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert drawn.getpixel((50, 100)) == PALETTE[0]
    assert drawn.getpixel((53, 100)) == PALETTE[1]


def test_repeated_phrase_is_drawn_once():
    boxes = torch.tensor([[50.0, 50, 150, 150], [200, 50, 300, 150]])
    once = ground_text("<p>men</p> <roi><r0></roi> and <p>dogs</p> <roi><r1></roi>", boxes)
    twice = ground_text(f"{once.markup}: {once.markup}", boxes)
    image = grey(320, 240)
    drawn = draw_grounded_text(image, twice)
    assert changed(draw_grounded_text(image, once, caption=False), drawn) is None
    assert colored(drawn.crop((0, 240, *drawn.size)), PALETTE[2]) is None


def test_one_region_named_again_and_again():
    canvas = _Canvas(grey(640, 480))
    canvas.draw_outlines([_Mark((50.0, 50.0, 90.0, 90.0), PALETTE[0], inset=index) for index in range(100)], 2)
    # Nothing outside of the box and its edge of one pixel.
    assert changed(grey(640, 480), canvas.image) == (49, 49, 91, 91)


def test_other_regions_are_drawn_on_demand():
    answer = ground_text("<r0>", torch.tensor([[20.0, 60, 100, 140], [180, 60, 300, 140]]))
    plain = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert changed(grey(320, 240), plain)[2] < 150
    assert changed(grey(320, 240), draw_grounded_text(grey(320, 240), answer, regions=True, caption=False))[2] > 290


@pytest.mark.parametrize("box", [(0, 0, 100, 40), (7, 3, 8, 90), (5, 5, 5, 5)])
def test_dashes_close_the_corners_and_leave_gaps(box):
    x1, y1, x2, y2 = box
    found = list(dashes(box, 10))
    for corner in ((x1, y1), (x2, y1), (x1, y2), (x2, y2)):
        assert sum(dash[:2] == corner or dash[2:] == corner for dash in found) >= 2  # one of either side
    for left, top, right, bottom in found:
        assert x1 <= left <= right <= x2 and y1 <= top <= bottom <= y2
        assert (left == right and left in (x1, x2)) or (top == bottom and top in (y1, y2))
    upper = sorted((left, right) for left, top, right, bottom in found if top == bottom == y1)
    length = sum(right - left for left, right in upper)
    assert length == pytest.approx((x2 - x1) / 2)  # as much dash as gap


def pixels_along(image: Image.Image, x: int, y1: int, y2: int) -> set:
    return {image.getpixel((x, y)) for y in range(y1, y2)}


def test_the_boxes_of_the_user_are_dashed():
    boxes = torch.tensor([[20.0, 60, 100, 140], [180, 60, 300, 140], [180, 160, 300, 230]])
    answer = ground_text("<p>a dog</p> <roi><r1></roi>", boxes, user_region_ids=[0])
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    # Along the user's box dashes and the image alternate; the box of the phrase is an unbroken line; the third is not
    # drawn.
    assert pixels_along(drawn, 21, 70, 130) >= {WHITE, (120, 120, 120)}
    assert PALETTE[0] not in pixels_along(drawn, 21, 70, 130)
    assert pixels_along(drawn, 181, 70, 130) == {PALETTE[0]}
    assert pixels_along(drawn, 181, 170, 220) == {(120, 120, 120)}
    # The method of an answer does the same, and both can leave them out.
    assert changed(drawn, answer.draw(grey(320, 240))) is None
    for plain in (
        answer.draw(grey(320, 240), user_boxes=False),
        draw_grounded_text(grey(320, 240), answer, user_boxes=False),
    ):
        assert pixels_along(plain, 21, 70, 130) == {(120, 120, 120)}
        assert pixels_along(plain, 181, 70, 130) == {PALETTE[0]}


def test_dashes_lie_along_the_inside_of_the_box(monkeypatch):
    monkeypatch.setattr(_Canvas, "draw_chips", lambda *_, **__: None)
    answer = ground_text("", torch.tensor([[20.0, 60, 100, 140]]), user_region_ids=[0])
    drawn = answer.draw(grey(320, 240))
    assert colored(drawn, WHITE) == (20, 60, 100, 140)
    assert changed(grey(320, 240), drawn) == (19, 59, 101, 141)  # an edge of one pixel
    assert changed(grey(60, 60), drawn.crop((30, 70, 90, 130))) is None


def test_a_phrase_about_the_box_of_the_user_shows_between_its_dashes():
    answer = ground_text("<p>a dog</p> <roi><r0></roi>", torch.tensor([[20.0, 60, 200, 200]]), user_region_ids=[0])
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert pixels_along(drawn, 20, 80, 180) >= {WHITE, PALETTE[0]}


def test_labels_of_the_boxes_of_the_user(monkeypatch):
    labels = []
    monkeypatch.setattr(
        _Canvas,
        "draw_chips",
        lambda self, marks, scale=1.0: labels.append([(mark.name, mark.color) for mark in marks]),
    )
    boxes = torch.tensor([[20.0, 60, 100, 140], [180, 60, 300, 140], [180, 160, 300, 230]])
    draw_grounded_text(grey(320, 240), ground_text("", boxes, user_region_ids=[1]))
    assert labels == [[("your box", WHITE)], []]
    labels.clear()
    draw_grounded_text(grey(320, 240), ground_text("<r2>", boxes, user_region_ids=[0, 2]), regions=True)
    assert [name for name, _ in labels[0]] == ["<r2>", "your box 1", "your box 2"]
    assert [name for name, _ in labels[1]] == ["<r1>"]
    labels.clear()
    draw_grounded_text(grey(320, 240), ground_text("", boxes, user_region_ids=[0]), regions=True, user_boxes=False)
    assert [name for name, _ in labels[1]] == ["<r0>", "<r1>", "<r2>"] and labels[0] == []


@pytest.mark.parametrize("box", [[0.0, 0, 1, 1], [-1.0, -1, 320, 240], [318, 238, 320, 240], [0, 0, 0.3, 0.3]])
def test_odd_boxes_of_the_user_stay_inside_the_image(box):
    drawn = draw_grounded_text(grey(320, 240), ground_text("", torch.tensor([box]), user_region_ids=[0]))
    assert drawn.size == (320, 240) and colored(drawn, WHITE)


def test_dashes_have_an_edge_that_shows_on_white():
    white = Image.new("RGB", (320, 240), WHITE)
    answer = ground_text("", torch.tensor([[20.0, 60, 200, 200]]), user_region_ids=[0])
    drawn = draw_grounded_text(white, answer, caption=False)
    assert BLACK in pixels_along(drawn, 19, 80, 180) and WHITE in pixels_along(drawn, 21, 80, 180)


def test_the_edge_of_dashes_grows_with_the_image():
    """Else dashes are white on white where a large, bright image is shown small."""
    for size, edge in ((300, 1), (1320, 1), (1980, 2), (3300, 3)):
        canvas = _Canvas(Image.new("RGB", (size, size), WHITE))
        canvas.draw_dashed([_Mark((50.0, 60.0, 250.0, 240.0), WHITE)], canvas.line_width)
        assert colored(canvas.image, BLACK) == (50 - edge, 60 - edge, 250 + edge, 240 + edge)


def test_image_keeps_its_place_above_the_caption():
    answer = ground_text("<p>a dog</p> <roi><r0></roi> runs.", torch.tensor([[5.0, 5, 40, 40]]))
    for size in ((64, 48), (640, 425)):
        with_caption = draw_grounded_text(grey(*size), answer)
        without = draw_grounded_text(grey(*size), answer, caption=False)
        assert changed(without, with_caption) is None
        assert with_caption.width >= without.width == size[0]


def test_empty_answer_has_no_caption():
    assert draw_grounded_text(grey(64, 48), ground_text("", torch.zeros(0, 4))).size == (64, 48)


def test_caption_names_regions_that_have_no_phrase():
    boxes = torch.zeros(10, 4)
    assert _caption(ground_text("<roi><r4><r5></roi>", boxes)) == ("<r4><r5>", [0] * 8)
    text, owners = _caption(ground_text("It is <roi><r4></roi>, not <p>a dog</p> <roi><r5></roi>.", boxes))
    assert text == "It is <r4>, not a dog."
    assert [text[index] for index, owner in enumerate(owners) if owner == 0] == list("<r4>")
    assert [text[index] for index, owner in enumerate(owners) if owner == 1] == list("a dog")
    assert _caption(ground_text("<roi><r4></roi> is the dog", boxes))[0] == "<r4> is the dog"


def test_wrapping_loses_nothing_but_spaces():
    font = _font(12.0)
    generator = random.Random(0)
    for _ in range(100):
        words = ["a", "dog", "x" * generator.randint(1, 80), "on the grass", "\n", "東京" * 20]
        text = " ".join(generator.choices(words, k=generator.randint(0, 12)))
        lines = _wrapped(text, font, 150)
        if len(lines) <= 40:
            assert "".join(text[start:end] for start, end in lines).replace(" ", "") == text.replace(" ", "").replace(
                "\n", ""
            )
        assert all(font.getlength(text[start:end].rstrip()) <= 150 for start, end in lines)


@pytest.mark.parametrize(
    "text",
    [
        "東京タワー 🗼",
        "שלום עולם",
        "مرحبا",
        "\ud800 broken",
        "\x00\x07",
        "a\nb\r\nc\td",
        "e\u0301 \u200d",
        "𝔘",
        "%s {x} \\",
    ],
)
def test_any_text_can_be_drawn(text: str):
    answer = ground_text(f"{text} {render_grounded_phrase(text, [0])} {text}", torch.tensor([[20.0, 20, 90, 90]]))
    drawn = draw_grounded_text(grey(224, 149), answer, regions=True)
    assert drawn.height > 149
    assert changed(grey(224, 149), draw_boxes(grey(224, 149), [[20, 20, 90, 90]], labels=[text]))


def test_endless_answers_are_cut():
    word = ground_text("x" * 200_000, torch.zeros(0, 4))
    lines = ground_text("x\n" * 100_000, torch.zeros(0, 4))
    assert draw_grounded_text(grey(224, 149), word).height < 1200
    assert draw_grounded_text(grey(224, 149), lines).height < 1200


# --------------------------------------------------------------------------------------------------- colours and sizes


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
    assert _text_color(background) == expected


def test_tints_are_three_tenths_of_a_colour_on_white():
    assert _tint((0, 155, 255)) == (178, 225, 255)
    assert _tint(BLACK) == (178, 178, 178)


def test_palette_is_that_of_okabe_and_ito():
    codes = ["E69F00", "56B4E9", "009E73", "D55E00", "CC79A7", "0072B2", "F0E442"]
    assert [bytes(color).hex().upper() for color in PALETTE] == codes


def test_colours_of_boxes_come_in_turn():
    boxes = [[10.0 + 30 * index, 10, 30 + 30 * index, 30] for index in range(9)]
    drawn, proposals = draw_boxes(grey(320, 60), boxes), draw_proposals(grey(320, 60), torch.tensor(boxes))
    for index in range(9):
        assert drawn.getpixel((11 + 30 * index, 20)) == PALETTE[index % 7]
        assert proposals.getpixel((11 + 30 * index, 20)) == PALETTE[index % 7]


@pytest.mark.parametrize(
    ("size", "line_width", "font_size"),
    [
        ((100, 100), 2, 10),
        ((360, 360), 2, 10),
        ((540, 540), 2, 15),
        ((550, 550), 2, 15.28),
        ((660, 660), 3, 18.33),
        ((2000, 500), 5, 27.78),
    ],
)
def test_widths_of_lines_and_sizes_of_letters(size, line_width, font_size):
    canvas = _Canvas(grey(*size))
    assert (canvas.line_width, canvas.font_size) == (line_width, pytest.approx(font_size, abs=0.01))


def outline_width(image: Image.Image, color: tuple[int, int, int], y: int) -> int:
    """How many pixels of a colour stand at the left side of a row."""
    row = [image.getpixel((x, y)) == color for x in range(image.width)]
    first = row.index(True)
    return row[first:].index(False)


def test_widths_of_outlines():
    box = torch.tensor([[100.0, 100, 900, 900], [20, 20, 60, 60]])
    red = (255, 0, 0)
    assert outline_width(draw_boxes(grey(1320, 1320), box[:1], colors=[red]), red, 500) == 6
    assert outline_width(draw_proposals(grey(1320, 1320), box[:1]), PALETTE[0], 500) == 4
    assert outline_width(draw_proposals(grey(300, 300), box[1:]), PALETTE[0], 40) == 2
    answer = ground_text("<r1>", box)
    drawn = draw_grounded_text(grey(1320, 1320), answer, regions=True, caption=False)
    assert outline_width(drawn, GREY, 500) == 2
    # A fifth of the smaller side is the most.
    for corner, width in ((20, 4), (15, 3), (7, 1)):
        drawn = draw_boxes(grey(1320, 1320), [[10, 10, 10 + corner, 300]], colors=[red])
        assert outline_width(drawn, red, 150) == width
        turned = draw_boxes(grey(1320, 1320), [[10, 10, 300, 10 + corner]], colors=[red]).transpose(
            Image.Transpose.TRANSPOSE
        )
        assert outline_width(turned, red, 150) == width


def test_corners_are_rounded_to_pixels():
    for box, expected in (
        ([20.4, 30.6, 120.4, 99.6], (20, 31, 120, 100)),
        ([20.6, 30.4, 120.6, 99.4], (21, 30, 121, 99)),
    ):
        assert colored(draw_boxes(grey(200, 150), [box], colors=[(255, 0, 0)]), (255, 0, 0)) == expected


def test_outlines_have_a_dark_edge():
    for size, edge in ((300, 1), (1320, 1), (1980, 2)):
        drawn = draw_boxes(Image.new("RGB", (size, size), WHITE), [[50, 60, 250, 240]], colors=[(255, 0, 0)])
        assert colored(drawn, BLACK) == (50 - edge, 60 - edge, 250 + edge, 240 + edge)


def test_small_boxes_are_drawn_above_large_ones():
    small, large = [60, 60, 120, 120], [60, 60, 220, 200]
    for boxes, colors in (([small, large], PALETTE[:2]), ([large, small], PALETTE[1::-1])):
        drawn = draw_boxes(grey(320, 240), boxes, colors=list(colors))
        assert drawn.getpixel((61, 90)) == PALETTE[0]
        assert drawn.getpixel((61, 160)) == PALETTE[1]


# ------------------------------------------------------------------------------------------------------------- labels


def test_labels_are_drawn_in_the_colour_of_their_box():
    plain = draw_boxes(grey(320, 240), [[100, 100, 200, 200]], colors=[(255, 0, 0)])
    drawn = draw_boxes(grey(320, 240), [[100, 100, 200, 200]], labels=["a dog"], colors=[(255, 0, 0)])
    x1, y1, x2, y2 = changed(plain, drawn)
    assert x1 == 100 and y2 <= 101 and y1 > 80  # above the box, from its left side on
    assert x2 - x1 >= _font(10.0).getlength("a dog")
    chip = drawn.crop((x1 + 1, y1 + 1, x2 - 1, 99))
    assert chip.getpixel((0, 0)) == (255, 0, 0)
    assert min(chip.getdata())[0] < 100  # dark letters
    assert (
        changed(plain, draw_boxes(grey(320, 240), [[100, 100, 200, 200]], labels=[""], colors=[(255, 0, 0)])) is None
    )


def test_names_of_proposals(monkeypatch):
    labels = []
    monkeypatch.setattr(
        _Canvas, "draw_chips", lambda self, marks, scale=1.0: labels.append(([m.name for m in marks], scale))
    )
    boxes = torch.tensor([[10.0, 60, 90, 140]] * 3)
    draw_proposals(grey(200, 150), boxes, torch.tensor([0.994, 0.5, 0.066]), torch.tensor([True, False, True]))
    draw_proposals(grey(200, 150), boxes)
    draw_grounded_text(grey(200, 150), ground_text("<p>a</p> <roi><r1></roi>", boxes), regions=True)
    assert labels == [(["r0 99%", "r2 7%"], 0.8), (["r0", "r1", "r2"], 0.8), (["<r1>"], 1.0), (["<r0>", "<r2>"], 0.75)]


def chip_height(count: int, side: int = 1080, scale: float = 1.0) -> int:
    canvas = _Canvas(grey(side, side))
    canvas.draw_chips([_Mark((500.0, 500.0, 510.0, 510.0), PALETTE[0], name="r") for _ in range(count)], scale)
    _, y1, _, y2 = canvas.chips[0]
    return y2 - y1


def test_many_labels_are_smaller():
    one = chip_height(1)
    assert sum(_font(30.0).getmetrics()) + 6 == one == chip_height(30) > chip_height(31)
    assert sum(_font(15.0).getmetrics()) + 3 == chip_height(120) == chip_height(1, scale=0.5)
    # But not smaller than can be read.
    assert (
        chip_height(30, side=100, scale=0.1) == chip_height(1, side=360, scale=0.9) == sum(_font(9.0).getmetrics()) + 2
    )


def placed(boxes: list, *taken: tuple, size: tuple[int, int] = (200, 100), width: int = 30, height: int = 10):
    canvas = _Canvas(grey(*size))
    canvas.boxes = {tuple(map(float, box)): None for box in boxes}
    canvas.chips = [tuple(map(float, chip)) for chip in taken]
    return canvas._place(tuple(map(float, boxes[0])), width, height)


def test_a_label_takes_the_free_place_that_hides_least():
    box = (50, 40, 120, 80)
    above, below = (50, 30, 80, 40), (50, 80, 80, 90)
    right_above, right_below = (90, 30, 120, 40), (90, 80, 120, 90)
    beside_right, beside_left = (120, 40, 150, 50), (20, 40, 50, 50)
    order = [above, below, right_above, right_below, beside_right, beside_left]
    for number, expected in enumerate(order):
        assert placed([box], *order[:number]) == expected
    inside = [(50, 40, 80, 50), (90, 40, 120, 50), (50, 70, 80, 80), (90, 70, 120, 80)]
    for number, expected in enumerate(inside):
        assert placed([box], *order, *inside[:number]) == expected
    # A place that hides another box is worse, though not so bad as none.
    assert placed([box, (40, 25, 90, 40)]) == below
    # At the borders of the image labels are moved inside.
    assert placed([(0, 0, 200, 100)]) == (0, 0, 30, 10)
    assert placed([(190, 50, 200, 60)]) == (170, 40, 200, 50)
    assert placed([(5, 95, 9, 100)]) == (5, 85, 35, 95)


def test_a_label_may_be_as_large_as_the_image_and_no_larger():
    assert placed([(0, 0, 10, 10)], width=200, height=100) == (0, 0, 200, 100)
    assert placed([(0, 0, 10, 10)], width=201, height=100) is None
    assert placed([(0, 0, 10, 10)], width=200, height=101) is None


def test_a_label_far_from_its_box_is_the_nearest_that_is_free():
    """All places at the box are taken, and most of the others."""
    box = (90, 40, 110, 60)
    everything = [(x, y, x + 10, y + 10) for x in range(0, 200, 10) for y in range(0, 100, 10)]
    for free in ([(0, 80), (150, 80)], [(150, 0), (0, 0)], [(60, 80), (0, 80)]):
        holes = {(x + step, y) for x, y in free for step in (0, 10, 20)}
        taken = [chip for chip in everything if chip[:2] not in holes]
        distances = [((x - 90) ** 2 + (y - 30) ** 2, (x, y, x + 30, y + 10)) for x, y in free]
        assert placed([box], *taken) == min(distances)[1]
    assert placed([box], *everything) is None


def test_labels_that_touch_their_box_need_no_line():
    for gap, touches in ((0, True), (2, True), (2.5, False)):
        for chip in (
            (10 - gap - 5, 10, 10 - gap, 20),
            (20 + gap, 10, 25 + gap, 20),
            (10, 5, 20, 10 - gap),
            (10, 20 + gap, 20, 30),
        ):
            assert _touch(chip, (10, 10, 20, 20)) is touches
            assert _touch((10, 10, 20, 20), chip) is touches


def test_a_line_leads_from_a_label_to_a_box_that_it_does_not_touch(monkeypatch):
    red, box = (255, 0, 0), (90.0, 40.0, 110.0, 60.0)
    for chip in ((100, 10, 130, 20), (40, 45, 70, 55), (95, 80, 125, 90), (150, 45, 180, 55)):
        canvas = _Canvas(grey(200, 100))
        monkeypatch.setattr(_Canvas, "_place", lambda *_, chip=chip: chip)
        canvas.draw_chips([_Mark(box, red, name="r")])
        x1, y1, x2, y2 = map(round, _leader(chip, box))
        x, y = (x1 + x2) // 2, (y1 + y2) // 2
        assert canvas.image.getpixel((x, y)) == red
        # With a dark edge on either side.
        across = [(x, y + step) if y1 == y2 else (x + step, y) for step in (-3, -2, -1, 0, 1, 2, 3)]
        assert [canvas.image.getpixel(place) == BLACK for place in across].count(True) >= 2
    canvas = _Canvas(grey(200, 100))
    monkeypatch.setattr(canvas, "_place", lambda *_: (90, 30, 110, 40))
    canvas.draw_chips([_Mark(box, red, name="r")])
    assert colored(canvas.image, red) == (91, 31, 109, 39)  # the label inside of its edge, and no line


@pytest.mark.parametrize("boxes", [[[0, 0, 4, 4, 9]], [[0, 0, 4]], torch.zeros(1, 2, 4)])
def test_boxes_of_another_shape(boxes):
    with pytest.raises(ValueError, match="boxes must have shape"):
        draw_boxes(grey(64, 48), boxes)


def test_overlaps():
    assert _overlap((0, 0, 10, 10), (5, 2, 20, 4)) == 10
    assert _overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert _overlap((0, 0, 10, 10), (20, 20, 30, 30)) == 0
    assert _area((3, 4, 8, 6)) == 10 and _area((8, 4, 3, 6)) == _area((3, 6, 8, 4)) == _area((8, 6, 3, 4)) == 0


def test_labels_are_cut_at_80_letters():
    font = _font(12.0)
    assert _fitting_label("x" * 200, "", font, 10_000) == "x" * 200  # it fits
    cut = _fitting_label("x" * 400, "<r1>", font, font.getlength("x" * 200))
    assert cut == "x" * 80 + "… <r1>"
    assert _fitting_label("abcdefgh", "", font, font.getlength("abc…")) == "abc…"
    assert _fitting_label("abcdefgh", "", font, font.getlength("ab…")) == ""  # two letters say nothing
    assert _fitting_label("ab cdefgh", "<r1>", font, font.getlength("ab… <r1>")) == "ab… <r1>"


def test_labels_get_the_width_of_their_box_or_nearly_half_of_the_image(monkeypatch):
    rooms = []
    monkeypatch.setattr(visualization, "_fitting_label", lambda text, name, font, room: rooms.append(room) or name)
    canvas = _Canvas(grey(400, 400))
    for box in ((0.0, 0.0, 100.0, 50.0), (0.0, 0.0, 300.0, 50.0), (0.0, 0.0, 500.0, 50.0)):
        canvas.draw_chips([_Mark(box, WHITE, "a dog", "r")])
    assert rooms == pytest.approx([0.45 * 400 - 4, 300 - 4, 400 - 4])


# ------------------------------------------------------------------------------------------------------------ caption


def strip_of(answer_text: str, size: tuple[int, int] = (640, 480), **regions) -> Image.Image:
    answer = ground_text(answer_text, torch.tensor([[50.0, 50, 150, 150]] * 3))
    drawn = draw_grounded_text(grey(*size), answer)
    return drawn.crop((0, size[1], *drawn.size))


def test_size_of_the_caption():
    font_size = (640 * 480) ** 0.5 / 36
    line = round(sum(_font(font_size).getmetrics()) * 1.35)
    for lines in (1, 2, 5):
        assert strip_of("\n".join(["x"] * lines)).size == (640, lines * line + 2 * round(font_size * 0.7))
    # Small images get letters of 12 pixels, and a line holds 22 of them.
    assert strip_of("x", (64, 48)).width == 22 * 12
    assert strip_of("x", (300, 100)).width == 300


def test_a_caption_has_a_margin_on_every_side():
    for text in ("x" * 300, "ab " * 100):
        strip = strip_of(text, (300, 100))
        margin = round(12 * 0.7)
        x1, y1, x2, y2 = changed(Image.new("RGB", strip.size, WHITE), strip)
        assert margin - 1 <= x1 and margin <= y1 and x2 <= 300 - margin + 1 and y2 <= strip.height - margin
        assert x2 > 300 - margin - 24  # and no more than that


def test_a_caption_has_forty_lines_at_most():
    line = round(sum(_font(12.0).getmetrics()) * 1.35)

    def lines(count: int) -> Image.Image:
        return strip_of("\n".join(["x"] * count), (224, 149))

    height = 2 * round(12 * 0.7) + 40 * line
    assert lines(39).height == height - line
    assert lines(40).height == lines(41).height == lines(60).height == height
    # Only what is cut ends with "…".
    last = (0, height - line - 8, 264, height)
    assert changed(lines(40).crop(last), lines(41).crop(last)) is not None
    assert changed(lines(41), lines(60)) is None
    assert (
        changed(lines(40), strip_of("\n".join(["x"] * 39 + ["x…"]), (224, 149)).crop((0, 0, 264, height))) is not None
    )


def test_a_caption_has_8000_letters_at_most(monkeypatch):
    assert visualization.MAX_CAPTION_LENGTH == 8000  # as `draw_grounded_text` says
    monkeypatch.setattr(visualization, "MAX_CAPTION_LENGTH", 60)
    assert changed(strip_of("x" * 60), strip_of("x" * 61)) is not None
    assert changed(strip_of("x" * 61), strip_of("x" * 90)) is None


def test_phrases_are_marked_where_they_stand():
    font = _font((640 * 480) ** 0.5 / 36)
    margin = round(font.size * 0.7)
    strip = strip_of("I see <p>a dog</p> <roi><r0></roi> and <p>cats</p> <roi><r1></roi>.")
    starts = {PALETTE[0]: "I see ", PALETTE[1]: "I see a dog and "}
    for color, before in starts.items():
        phrase = "a dog" if color == PALETTE[0] else "cats"
        left = margin + font.getlength(before)
        right = left + font.getlength(phrase)
        for shade in (color, _tint(color)):
            x1, _, x2, _ = colored(strip, shade)
            assert abs(x1 - left) <= 1 and abs(x2 - right) <= 2
        underline, marked = colored(strip, color), colored(strip, _tint(color))
        assert underline[3] - underline[1] == max(2, round(font.size / 8))
        assert marked[3] == underline[1]
        ascent, descent = font.getmetrics()
        assert marked[1] == margin + (round((ascent + descent) * 1.35) - ascent - descent) // 2
        assert underline[3] == marked[1] + ascent + descent + 1
    # Letters are black, on the marks and beside them, and nothing stands in the margins.
    assert colored(strip, BLACK)[0] >= margin - 1 and strip.getpixel((margin - 2, strip.height // 2)) == WHITE
    plain = strip_of("I see a dog and cats.")
    assert colored(strip, BLACK) == colored(plain, BLACK)


@pytest.mark.parametrize("text", ["aaa bbb ccc", "aaabbbccc", "aaa  bbb", "aa\n\nbb", "a", ""])
def test_lines_are_as_long_as_they_can_be(text):
    font = _font(12.0)
    for limit in range(1, 90):
        lines = _wrapped(text, font, limit)
        for (start, end), (following, _) in pairwise(lines):
            if "\n" in text[end : following + 1]:
                continue
            # The next word, or the next letter of a word that had to be broken, would not have fit.
            next_word = text[following:].split("\n")[0].split(" ")[0]
            more = text[start:following] + (next_word if " " in text[end:following] else text[following])
            assert font.getlength(more) > limit or end - start == 1


def test_a_line_may_be_exactly_as_wide_as_its_room():
    font = _font(12.0)
    width = font.getlength("aaa bbb")
    assert _wrapped("aaa bbb", font, width) == [(0, 7)]
    assert _wrapped("aaa bbb", font, width - 0.1) == [(0, 3), (4, 7)]
    word = font.getlength("aaaa")
    assert _wrapped("aaaaa", font, word) == [(0, 4), (4, 5)]
    assert _wrapped("aaaaa", font, word - 0.1) == [(0, 3), (3, 5)]


def test_dashes_have_the_width_of_other_outlines_and_labels_keep_off_them(monkeypatch):
    monkeypatch.setattr(_Canvas, "draw_chips", lambda *_, **__: None)
    answer = ground_text("", torch.tensor([[20.0, 60, 600, 640]]), user_region_ids=[0])
    drawn = answer.draw(grey(1100, 1100))  # lines of 5 pixels
    # Through the dash below the upper left corner: edge, five pixels, edge, and the image.
    assert [drawn.getpixel((x, 68)) for x in range(18, 27)] == [
        (120, 120, 120),
        BLACK,
        *[WHITE] * 5,
        BLACK,
        (120, 120, 120),
    ]
    canvas = _Canvas(grey(320, 240))
    canvas.draw_dashed([_Mark((20.0, 60.0, 100.0, 140.0), WHITE)], 2)
    assert list(canvas.boxes) == [(20.0, 60.0, 100.0, 140.0)]
