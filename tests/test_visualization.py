import random

import pytest
import torch
from PIL import Image, ImageChops

from transformers_groma.grounding import ground_text, render_grounded_phrase
from transformers_groma.visualization import (
    BLACK,
    PALETTE,
    WHITE,
    _Canvas,
    _caption,
    _fitting_label,
    _font,
    _leader,
    _Mark,
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
    # Along the user's box dashes and the image alternate; the box of the phrase is an unbroken line; the third is not drawn.
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
