"""Tints, outlines and labels of regions on an image."""

import math

import numpy as np
import pytest
from PIL import Image

from transformers_groma import region_drawing
from transformers_groma.colors import BLACK, PALETTE, WHITE
from transformers_groma.fonts import Typeset, line_metrics
from transformers_groma.label_layout import PlacedLabel, connecting_line
from transformers_groma.masks import masks_to_boxes
from transformers_groma.region_drawing import BOX_TINT, MASK_TINT, Mark, RegionCanvas, shortened

from .drawings import GROUND, changed, colored, grey, random_boxes, tinted

RED, GREEN = (255, 0, 0), (0, 255, 0)


# -------------------------------------------------------------------------------------------------------------- tints


def test_boxes_are_tinted():
    canvas = RegionCanvas(grey(100, 80))
    canvas.tint([Mark((20.4, 30.0, 60.0, 50.6), RED)])
    assert changed(grey(100, 80), canvas.image) == (20, 30, 60, 51)
    np.testing.assert_allclose(canvas.image.getpixel((40, 40)), tinted(RED, BOX_TINT), atol=1)


def test_where_regions_overlap_the_smallest_shows():
    small, large = Mark((30.0, 30.0, 50.0, 50.0), GREEN), Mark((20.0, 20.0, 90.0, 70.0), RED)
    for marks in ([small, large], [large, small]):
        canvas = RegionCanvas(grey(100, 80))
        canvas.tint(marks)
        np.testing.assert_allclose(canvas.image.getpixel((40, 40)), tinted(GREEN, BOX_TINT), atol=1)
        np.testing.assert_allclose(canvas.image.getpixel((25, 25)), tinted(RED, BOX_TINT), atol=1)
    half = RegionCanvas(grey(100, 80))
    half.tint([large], 0.5)
    np.testing.assert_allclose(half.image.getpixel((25, 25)), tinted(RED, BOX_TINT / 2), atol=1)


def test_masks_are_tinted_and_not_their_boxes():
    mask = np.zeros((80, 100), dtype=bool)
    mask[30:40, 20:70] = True
    canvas = RegionCanvas(grey(100, 80))
    canvas.tint([Mark((10.0, 10.0, 90.0, 70.0), RED, mask=mask)])
    assert changed(grey(100, 80), canvas.image) == (20, 30, 70, 40)
    np.testing.assert_allclose(canvas.image.getpixel((40, 35)), tinted(RED, MASK_TINT), atol=1)
    with pytest.raises(ValueError, match=r"A mask must have the shape .* \(80, 100\), got \(100, 80\)"):
        canvas.tint([Mark((10.0, 10.0, 90.0, 70.0), RED, mask=mask.T)])


# ----------------------------------------------------------------------------------------------------------- outlines


@pytest.mark.parametrize(
    ("size", "line_width"), [((100, 100), 2), ((650, 650), 2), ((660, 660), 3), ((4000, 1000), 8), ((4000, 3000), 13)]
)
def test_lines_grow_with_the_image(size, line_width):
    assert RegionCanvas(grey(*size)).line_width == line_width


@pytest.mark.parametrize(("thickness", "width"), [(100, 6), (20, 4), (15, 3), (7, 1)])
def test_an_outline_is_a_fifth_of_a_thin_object_at_most(thickness, width):
    for box in ((10.0, 10.0, 10.0 + thickness, 300.0), (10.0, 10.0, 300.0, 10.0 + thickness)):
        canvas = RegionCanvas(grey(400, 400))
        canvas.outline([Mark(box, RED)], 6)
        pixels = np.asarray(canvas.image) == RED
        # Across the long side, from the outside in.
        row = (pixels if box[2] < 300 else pixels.transpose(1, 0, 2))[150].all(axis=-1)
        assert row[10 : 10 + width].all() and not row[10 + width : 10 + thickness - width].any()


@pytest.mark.parametrize(
    ("box", "expected"),
    [((20.4, 30.6, 120.4, 99.6), (20, 31, 120, 100)), ((20.6, 30.4, 120.6, 99.4), (21, 30, 121, 99))],
)
def test_corners_are_rounded_to_pixels(box, expected):
    canvas = RegionCanvas(grey(200, 150))
    canvas.outline([Mark(box, RED)], 2)
    assert colored(canvas.image, RED) == expected
    assert canvas.image.getpixel((70, 65)) == GROUND


def test_masks_are_outlined_and_not_their_boxes():
    mask = np.zeros((240, 320), bool)
    mask[60:160, 80:200] = True
    mask[90:120, 120:150] = False
    box = (20.0, 30.0, 300.0, 220.0)
    for is_dashed in (False, True):
        canvas = RegionCanvas(grey(320, 240))
        canvas.outline([Mark(box, RED, mask=mask, is_dashed=is_dashed)], 4)
        x1, y1, x2, y2 = changed(grey(320, 240), canvas.image)
        grown = 4 if is_dashed else 1  # dashes lie across the edge of the mask
        assert (
            80 - grown <= x1 <= 80 and 60 - grown <= y1 <= 60 and 200 <= x2 <= 200 + grown and 160 <= y2 <= 160 + grown
        )
        assert colored(canvas.image.crop((110, 80, 160, 130)), RED), "around the hole too"
        assert canvas.image.getpixel((100, 100)) == canvas.image.getpixel((135, 105)) == GROUND
        assert canvas.regions == [(80.0, 60.0, 200.0, 160.0)], "labels go by the mask"
    with pytest.raises(ValueError, match=r"A mask must have the shape .* \(240, 320\), got \(320, 240\)"):
        canvas.outline([Mark(box, RED, mask=mask.T)], 4)


def test_a_region_with_an_empty_mask_is_not_lost():
    box = (50.0, 60.0, 250.0, 200.0)
    for is_dashed in (False, True):
        masked, plain = RegionCanvas(grey(320, 240)), RegionCanvas(grey(320, 240))
        mark = Mark(box, RED, "a dog", np.zeros((240, 320), bool), is_dashed=is_dashed)
        masked.tint([mark])
        masked.outline([mark], 2)
        masked.label([mark])
        plain.outline([Mark(box, RED, is_dashed=is_dashed)], 2)
        plain.label([Mark(box, RED, "a dog", is_dashed=is_dashed)])
        assert changed(plain.image, masked.image) is None


@pytest.mark.parametrize(("line_width", "edge"), [(2, 1), (7, 1), (8, 2), (12, 3)])
@pytest.mark.parametrize("is_dashed", [False, True])
def test_lines_have_a_dark_edge_that_grows_with_them(line_width, edge, is_dashed):
    """Else they are lost on a bright image, or where a large one is shown small."""
    canvas = RegionCanvas(Image.new("RGB", (300, 300), WHITE))
    canvas.line_width = line_width
    canvas.outline([Mark((50.0, 60.0, 250.0, 240.0), RED, is_dashed=is_dashed)], line_width)
    assert colored(canvas.image, BLACK) == (50 - edge, 60 - edge, 250 + edge, 240 + edge)
    assert colored(canvas.image, RED) == (50, 60, 250, 240)


def test_small_boxes_are_drawn_above_large_ones():
    small, large = Mark((60.0, 60.0, 120.0, 120.0), RED), Mark((60.0, 60.0, 220.0, 200.0), GREEN)
    for marks in ([small, large], [large, small]):
        canvas = RegionCanvas(grey(320, 240))
        canvas.outline(marks, 2)
        assert canvas.image.getpixel((61, 90)) == RED
        assert canvas.image.getpixel((61, 160)) == GREEN


def test_one_region_named_again_and_again():
    canvas = RegionCanvas(grey(640, 480))
    canvas.outline([Mark((50.0, 50.0, 90.0, 90.0), PALETTE[0], inset=index) for index in range(100)], 2)
    # Nothing outside of the box and its edge of one pixel.
    assert changed(grey(640, 480), canvas.image) == (49, 49, 91, 91)


def test_the_first_of_several_outlines_is_the_innermost():
    canvas = RegionCanvas(grey(320, 240))
    canvas.outline([Mark((50.0, 50.0, 150.0, 150.0), RED, inset=2)], 3)
    assert colored(canvas.image, RED) == (56, 56, 144, 144)  # two outlines of three pixels fit around it


def test_outlines_are_kept_off_by_labels():
    """Also those of points and of boxes outside the image; there is space around tiny ones."""
    canvas = RegionCanvas(grey(64, 48))
    canvas.outline(
        [Mark(box, RED) for box in ((5.0, 5.0, 5.0, 5.0), (70.0, 80.0, 90.0, 90.0), (-9.0, 2.0, 7.0, 9.0))], 2
    )
    assert sorted(canvas.regions) == [(-0.5, 1.5, 7.5, 9.5), (1.5, 1.5, 9.5, 9.5), (59.5, 43.5, 67.5, 51.5)]


# ------------------------------------------------------------------------------------------------------------- dashes


def test_dashes_have_the_width_of_other_outlines():
    canvas = RegionCanvas(grey(700, 700))
    canvas.outline([Mark((20.0, 60.0, 600.0, 640.0), WHITE, is_dashed=True)], 5)
    # Through the dash below the upper left corner: edge, five pixels, edge, and the image.
    assert [canvas.image.getpixel((x, 68)) for x in range(18, 27)] == [GROUND, BLACK, *[WHITE] * 5, BLACK, GROUND]
    assert canvas.regions == [(20.0, 60.0, 600.0, 640.0)]


def test_dashes_lie_along_the_inside_of_the_box():
    canvas = RegionCanvas(grey(320, 240))
    canvas.outline([Mark((20.0, 60.0, 100.0, 140.0), WHITE, is_dashed=True)], 2)
    assert changed(grey(320, 240), canvas.image) == (19, 59, 101, 141)  # an edge of one pixel
    assert changed(grey(60, 60), canvas.image.crop((30, 70, 90, 130))) is None
    side = {canvas.image.getpixel((21, y)) for y in range(70, 130)}
    assert side >= {WHITE, GROUND}


# ------------------------------------------------------------------------------------------------------------- labels


def test_a_label_has_the_colour_of_its_region_and_stands_outside():
    canvas = RegionCanvas(grey(320, 240))
    canvas.label([Mark((100.0, 100.0, 200.0, 200.0), RED, "a dog")])
    [(x1, y1, x2, y2)] = canvas.labels
    assert (x1, y2) == (100, 100) and changed(grey(320, 240), canvas.image) == (x1, y1, x2, y2)
    # Two pixels on either side of letters of twelve.
    assert x2 - x1 == math.ceil(Typeset("a dog", 12.0).length()) + 4 and y2 - y1 < 1.5 * 12
    pixels = np.asarray(canvas.image.crop((x1, y1, x2, y2)))
    assert (pixels[0, 0] == RED).all() and pixels[..., 0].min() < 100  # dark letters
    for label in ("", "   "):
        plain = RegionCanvas(grey(320, 240))
        plain.label([Mark((100.0, 100.0, 200.0, 200.0), RED, label)])
        assert plain.labels == [] and changed(grey(320, 240), plain.image) is None


def test_a_tiny_object_stays_in_sight():
    """A label leaves some pixels around it free and a line leads to it."""
    canvas = RegionCanvas(grey(320, 240))
    mark = Mark((100.0, 100.0, 101.0, 101.0), RED, "a dot")
    canvas.outline([mark], 2)
    canvas.label([mark])
    [(_, _, _, y2)] = canvas.labels
    assert y2 == 96 and canvas.image.getpixel((100, 98)) == RED and canvas.image.getpixel((104, 98)) == GROUND


def test_a_line_leads_from_a_label_to_a_mask_that_is_not_beside_it():
    """The corners of the box around a mask, where labels stand, may be far from its pixels."""
    rows, columns = np.mgrid[:240, :320]
    disc = (rows - 120) ** 2 + (columns - 160) ** 2 < 80**2
    for mask, has_line in ((disc, True), (np.pad(np.ones((160, 160), bool), 80)[40:-40], False)):
        canvas = RegionCanvas(grey(320, 240))
        canvas.label([Mark((0.0, 0.0, 320.0, 240.0), RED, "a disc", mask)])
        [(x1, y1, x2, y2)] = canvas.labels
        assert (x1, y2) == tuple(masks_to_boxes(mask[None])[0, :2]), "above the mask, on the left"
        left, top, right, bottom = changed(grey(320, 240), canvas.image)
        assert (left, top) == (x1, y1)
        if has_line:
            assert bottom > y2 + 5 and disc[bottom - 2, :].any()
            assert (np.asarray(canvas.image)[disc] == RED).all(axis=-1).sum() < 10, "up to its edge"
        else:
            assert (right, bottom) == (x2, y2)


def test_a_label_of_a_dashed_box_shows_on_white():
    canvas = RegionCanvas(Image.new("RGB", (320, 240), WHITE))
    canvas.label([Mark((100.0, 100.0, 200.0, 200.0), WHITE, "your region", is_dashed=True)])
    assert colored(canvas.image, BLACK) == canvas.labels[0]


@pytest.mark.parametrize("size", [(64, 48), (224, 149), (640, 425), (120, 900), (2250, 1500)])
def test_labels_are_inside_and_apart(size):
    """The rules of `label_layout` hold for what is drawn: labels of other calls and all outlines count."""
    canvas = RegionCanvas(grey(*size))
    boxes = [tuple(box) for box in random_boxes(12, *size, seed=1).tolist()]
    marks = [Mark(box, RED, f"thing {index}") for index, box in enumerate(boxes)]
    canvas.outline(marks, 2)
    canvas.label(marks[:6])
    canvas.label(marks[6:], scale=0.8)
    assert len(canvas.labels) == 12 or size == (64, 48)
    for number, (x1, y1, x2, y2) in enumerate(canvas.labels):
        assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]
        for other in canvas.labels[:number]:
            assert x2 <= other[0] or other[2] <= x1 or y2 <= other[1] or other[3] <= y1
        for region in canvas.regions:
            shared = max(0, min(x2, region[2]) - max(x1, region[0])) * max(0, min(y2, region[3]) - max(y1, region[1]))
            assert shared <= 0.1 * (region[2] - region[0]) * (region[3] - region[1]) + 1e-6


def label_height(count: int, side: int = 1080, scale: float = 1.0) -> int:
    canvas = RegionCanvas(grey(side, side))
    canvas.label([Mark((500.0, 500.0, 510.0, 510.0), RED, "r1") for _ in range(count)], scale)
    _, y1, _, y2 = canvas.labels[0]
    return y2 - y1


def test_many_labels_are_smaller_but_can_be_read():
    assert sum(line_metrics(27.0)) + 2 == label_height(1) == label_height(30) > label_height(31)
    assert sum(line_metrics(13.5)) + 1 == label_height(120) == label_height(1, scale=0.5)
    assert sum(line_metrics(10.0)) + 1 == label_height(1, scale=0.1) == label_height(120, side=520)
    assert sum(line_metrics(12.0)) + 1 == label_height(1, side=520 // 2)


def test_labels_without_room_are_cut_or_left_out():
    canvas = RegionCanvas(grey(320, 240))
    canvas.label([Mark((100.0, 100.0, 140.0, 130.0), RED, "a dog in the grass") for _ in range(400)])
    assert 20 < len(canvas.labels) < 400
    # Beside the box there is room for fourteen letters of seventeen, and the next place is far off.
    narrow = RegionCanvas(grey(320, 240))
    narrow.labels = [(0, 0, 320, 99), (0, 121, 320, 240), (0, 99, 100, 121), (200, 99, 320, 121)]
    narrow.label([Mark((100.0, 100.0, 140.0, 120.0), RED, "a dog in the grass")])
    [(x1, _, x2, _)] = narrow.labels[4:]
    assert x1 == 140 and x2 <= 200


def test_labels_get_the_width_of_their_box_or_nearly_half_of_the_image(monkeypatch):
    rooms = []
    monkeypatch.setattr(region_drawing, "shortened", lambda text, size, room: rooms.append(room) or "r")
    canvas = RegionCanvas(grey(400, 400))
    for box in ((50.0, 20.0, 150.0, 70.0), (50.0, 20.0, 350.0, 70.0), (0.0, 0.0, 500.0, 50.0)):
        canvas.label([Mark(box, WHITE, "a dog")])
    assert rooms == pytest.approx([0.45 * 400 - 4, 100 - 4, 300 - 4, 300 - 4, 400 - 4, 400 - 4])


def test_a_line_leads_from_a_label_to_a_box_that_it_does_not_touch(monkeypatch):
    box = (90.0, 40.0, 110.0, 60.0)
    for label in ((100, 10, 130, 20), (40, 45, 70, 55), (95, 80, 125, 90), (150, 45, 180, 55)):
        canvas = RegionCanvas(grey(200, 100))
        monkeypatch.setattr(region_drawing, "place_labels", lambda *_, label=label: [PlacedLabel(label, 0)])
        canvas.label([Mark(box, RED, "r1")])
        x1, y1, x2, y2 = map(round, connecting_line(label, box))
        x, y = (x1 + x2) // 2, (y1 + y2) // 2
        assert canvas.image.getpixel((x, y)) == RED
        # With a dark edge on either side.
        across = [(x, y + step) if y1 == y2 else (x + step, y) for step in (-3, -2, -1, 0, 1, 2, 3)]
        assert [canvas.image.getpixel(place) == BLACK for place in across].count(True) >= 2
    canvas = RegionCanvas(grey(200, 100))
    monkeypatch.setattr(region_drawing, "place_labels", lambda *_: [PlacedLabel((90, 30, 110, 40), 0)])
    canvas.label([Mark(box, RED, "r1")])
    assert colored(canvas.image, RED) == (90, 30, 110, 40)  # the label and no line


def test_labels_are_cut_at_40_letters():
    def width(text: str) -> float:
        return Typeset(text, 12.0).length()

    assert shortened("a dog", 12.0, 200) == "a dog"
    assert shortened("x" * 40, 12.0, 10_000) == "x" * 40
    assert shortened("x" * 41, 12.0, 10_000) == "x" * 40 + "…"
    assert shortened("abcdefgh", 12.0, width("abcdefgh")) == "abcdefgh"
    assert shortened("abcdefgh", 12.0, width("abc…")) == "abc…"
    assert shortened("abcdefgh", 12.0, width("abc…") - 0.1) == ""  # two letters say nothing
    assert shortened("abc defgh", 12.0, width("abc …")) == "abc…"
    cut = shortened("a very long phrase about a dog " * 20, 12.0, 120)
    assert cut.startswith("a very") and cut.endswith("…") and width(cut) <= 120
