"""Drawing boxes, proposals and grounded answers."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.colors import BLACK, GREY, PALETTE, WHITE
from transformers_groma.grounding import GroundedPhrase, GroundedText, ground_text, render_grounded_phrase
from transformers_groma.region_drawing import BOX_TINT, MASK_TINT, RegionCanvas
from transformers_groma.regions import Regions
from transformers_groma.visualization import draw_boxes, draw_grounded_text, draw_proposals

from .drawings import GROUND, changed, colored, grey, random_boxes, tinted

RED = (255, 0, 0)


@pytest.fixture
def labels(monkeypatch) -> list:
    """What is asked to be labelled: for each call the texts and the scale."""
    calls = []
    monkeypatch.setattr(
        RegionCanvas,
        "label",
        lambda self, marks, scale=1.0: calls.append(([mark.label for mark in marks], scale)),
    )
    return calls


def pixels_along(image: Image.Image, x: int, y1: int, y2: int) -> set:
    return {image.getpixel((x, y)) for y in range(y1, y2)}


# -------------------------------------------------------------------------------------------------------------- boxes


def test_a_box_is_outlined_and_tinted():
    drawn = draw_boxes(grey(200, 150), [[20, 30, 120.4, 99.6]], colors=[RED])
    assert colored(drawn, RED) == (20, 30, 120, 100)
    np.testing.assert_allclose(drawn.getpixel((70, 65)), tinted(RED, BOX_TINT), atol=1)
    assert changed(grey(200, 150), drawn) == (19, 29, 121, 101)  # its edge of one pixel, and nothing else


def test_input_stays_as_it_was():
    image = grey(200, 150)
    drawn = draw_boxes(image, torch.tensor([[20, 30, 120, 100]]), labels=["a dog"])
    assert changed(image, drawn)
    assert changed(image, grey(200, 150)) is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "LA", "F"])
def test_every_mode_becomes_rgb(mode: str):
    drawn = draw_boxes(Image.new(mode, (64, 48)), [[5, 5, 30, 30]], colors=[RED])
    assert drawn.mode == "RGB"
    assert colored(drawn, RED) == (5, 5, 30, 30)


def test_boxes_follow_the_upright_image():
    image = grey(200, 150)
    image.getexif()[0x0112] = 6  # the camera was turned: shown upright, the image is 150 wide and 200 high
    drawn = draw_boxes(image, [[10, 160, 140, 190]], colors=[RED])
    assert drawn.size == (150, 200)
    assert colored(drawn, RED) == (10, 160, 140, 190)


def test_no_boxes():
    assert changed(grey(64, 48), draw_boxes(grey(64, 48), [])) is None
    assert changed(grey(64, 48), draw_proposals(grey(64, 48), torch.zeros(0, 4))) is None


@pytest.mark.parametrize(
    "box", [[-20, -20, 500, 500], [300, 300, 400, 400], [10, 10, 10, 10], [50, 50, 20, 20], [0, 0, 0.2, 0.2]]
)
def test_odd_boxes_are_drawn_inside_the_image(box: list[float]):
    drawn = draw_boxes(grey(64, 48), [box], labels=["x"], colors=[RED])
    assert drawn.size == (64, 48)
    assert colored(drawn, RED)


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
    for boxes in ("box", None, [[0, 0, 4, 4], [0]]):
        with pytest.raises(ValueError, match="boxes must be numbers, 4 for each box, got"):
            draw_boxes(image, boxes)
    for labels in ("a", [None], [5]):
        with pytest.raises(ValueError, match="`labels` must be texts, one for each box"):
            draw_boxes(image, [[0, 0, 4, 4]], labels=labels)
    for color in ("red", (300, 0, 0), (-1, 0, 0), (0.5, 0.5, 0.5), (0, 0, 0, 0)):
        with pytest.raises(ValueError, match="`colors` must be .* from 0 to 255, got"):
            draw_boxes(image, [[0, 0, 4, 4]], colors=[color])
    for wrong, what in (("dog.jpg", "str"), (np.asarray(image), "ndarray"), (Image.new("RGB", (0, 9)), "0x9 pixels")):
        with pytest.raises(ValueError, match=f"`image` must be a PIL image to draw on, got {what}"):
            draw_boxes(wrong, [[0, 0, 4, 4]])


@pytest.mark.parametrize("boxes", [[[0, 0, 4, 4, 9]], [[0, 0, 4]], torch.zeros(1, 2, 4)])
def test_boxes_of_another_shape(boxes):
    with pytest.raises(ValueError, match="boxes must have shape"):
        draw_boxes(grey(64, 48), boxes)


def test_colours_of_boxes_come_in_turn():
    boxes = [[10.0 + 30 * index, 10, 30 + 30 * index, 30] for index in range(9)]
    drawn, proposals = draw_boxes(grey(320, 60), boxes), draw_proposals(grey(320, 60), torch.tensor(boxes))
    for index in range(9):
        assert drawn.getpixel((11 + 30 * index, 20)) == PALETTE[index % 7]
        assert proposals.getpixel((11 + 30 * index, 20)) == PALETTE[index % 7]


def test_labels_stand_outside_of_their_box():
    plain = draw_boxes(grey(320, 240), [[100, 100, 200, 200]], colors=[RED])
    drawn = draw_boxes(grey(320, 240), [[100, 100, 200, 200]], labels=["a dog"], colors=[RED])
    x1, y1, x2, y2 = changed(plain, drawn)
    assert (x1, y2) == (100, 100) and y1 > 80 and x2 < 150  # above the box, from its left side on
    unlabelled = draw_boxes(grey(320, 240), [[100, 100, 200, 200]], labels=[""], colors=[RED])
    assert changed(plain, unlabelled) is None


def outline_width(image: Image.Image, color: tuple[int, int, int], y: int) -> int:
    """How many pixels of a colour stand at the left side of a row."""
    row = [image.getpixel((x, y)) == color for x in range(image.width)]
    first = row.index(True)
    return row[first:].index(False)


def test_widths_of_outlines():
    box = torch.tensor([[100.0, 100, 900, 900], [20, 20, 60, 60]])
    assert outline_width(draw_boxes(grey(1560, 1560), box[:1], colors=[RED]), RED, 500) == 6
    assert outline_width(draw_proposals(grey(1560, 1560), box[:1]), PALETTE[0], 500) == 4
    assert outline_width(draw_proposals(grey(300, 300), box[1:]), PALETTE[0], 40) == 2
    drawn = draw_grounded_text(grey(1560, 1560), ground_text("<r1>", box), regions=True, caption=False)
    assert outline_width(drawn, GREY, 500) == 2


# ---------------------------------------------------------------------------------------------------------- proposals


def test_proposals_respect_the_mask():
    boxes = torch.tensor([[10.0, 60, 90, 140], [float("nan")] * 4, [150, 60, 190, 140]])
    drawn = draw_proposals(grey(200, 150), boxes, mask=torch.tensor([True, False, False]))
    assert changed(grey(200, 150), drawn)[2] < 110
    assert colored(drawn, PALETTE[0])[2:] == (90, 140)


def test_proposals_are_tinted_half_as_much():
    """They are many and overlap."""
    drawn = draw_proposals(grey(200, 150), torch.tensor([[50.0, 60, 150, 140]]))
    np.testing.assert_allclose(drawn.getpixel((100, 110)), tinted(PALETTE[0], BOX_TINT / 2), atol=1)


def test_proposals_are_named_by_their_numbers(labels):
    boxes = torch.tensor([[10.0, 60, 90, 140]] * 3)
    draw_proposals(grey(200, 150), boxes, torch.tensor([0.994, 0.5, 0.066]), torch.tensor([True, False, True]))
    draw_proposals(grey(200, 150), boxes)
    assert labels == [(["r0 99%", "r2 7%"], 0.8), (["r0", "r1", "r2"], 0.8)]


def test_more_proposals_than_there_is_room_for():
    drawn = draw_proposals(grey(64, 48), random_boxes(100, 64, 48), scores=torch.rand(100))
    assert drawn.size == (64, 48)
    assert changed(grey(64, 48), drawn)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_proposals_may_be_lists_and_arrays(labels, kind):
    draw_proposals(grey(200, 150), kind([[10.0, 60, 90, 140]] * 2), kind([0.25, 0.5]), kind([False, True]))
    draw_proposals(grey(200, 150), kind([]))
    assert [found for found, _ in labels] == [["r1 50%"], []]


def test_regions_have_numbers_and_labels_of_their_own(labels):
    regions = Regions([[10, 60, 90, 140], [20, 70, 80, 130]], [0.9, 0.4], [3, 8], labels=["a dog", "a cup"])
    drawn = draw_proposals(grey(200, 150), regions)
    assert colored(drawn, PALETTE[3]) and colored(drawn, PALETTE[1]) and not colored(drawn, PALETTE[0])
    draw_proposals(grey(200, 150), regions, torch.tensor([0.1, 0.2]), torch.tensor([False, True]))
    draw_boxes(grey(200, 150), regions)
    draw_boxes(grey(200, 150), regions, ["one", "two"])
    assert [found for found, _ in labels] == [["r3 90%", "r8 40%"], ["r8 20%"], ["a dog", "a cup"], ["one", "two"]]


def test_a_hundred_regions_of_a_large_image_take_seconds_at_most():
    image, boxes = grey(4000, 3000), random_boxes(100, 4000, 3000)
    words = " ".join(render_grounded_phrase(f"thing {index}", [index]) for index in range(100))
    start = time.perf_counter()
    draw_proposals(image, boxes, torch.rand(100))
    draw_grounded_text(image, ground_text(words, boxes), question="What is here?")
    assert time.perf_counter() - start < 10  # 0.5 s on two cores


# ------------------------------------------------------------------------------------------------------------ answers


def test_a_phrase_has_one_colour_in_image_and_caption():
    boxes = torch.tensor([[20.0, 60, 100, 140], [120, 60, 200, 140], [220, 60, 300, 140]])
    answer = ground_text("<p>men</p> <roi><r0><r2></roi> and <p>a dog</p> <roi><r1></roi>.", boxes)
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert drawn.size == (320, 240)
    for x, color in ((21, PALETTE[0]), (121, PALETTE[1]), (221, PALETTE[0])):
        assert drawn.getpixel((x, 100)) == color
        assert drawn.getpixel((x, 55)) == color  # its label
        np.testing.assert_allclose(drawn.getpixel((x + 30, 100)), tinted(color, BOX_TINT), atol=1)
    strip = draw_grounded_text(grey(320, 240), answer)
    strip = strip.crop((0, 240, *strip.size))
    assert strip.getpixel((0, 0)) == WHITE
    assert colored(strip, PALETTE[0])[0] < colored(strip, PALETTE[1])[0]
    assert colored(strip, PALETTE[2]) is None


def test_two_phrases_for_one_region_both_show():
    answer = ground_text(
        "<p>men</p> <roi><r0></roi>; <p>they</p> <roi><r0></roi>", torch.tensor([[50.0, 50, 150, 150]])
    )
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert drawn.getpixel((50, 100)) == PALETTE[0]
    assert drawn.getpixel((53, 100)) == PALETTE[1]


def test_two_regions_of_one_box_both_show():
    boxes = torch.tensor([[50.0, 50, 150, 150], [50.2, 49.9, 150, 150]])
    answer = ground_text("<p>men</p> <roi><r0></roi>; <p>they</p> <roi><r1></roi>", boxes)
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert drawn.getpixel((50, 100)) == PALETTE[0]
    assert drawn.getpixel((53, 100)) == PALETTE[1]


@pytest.mark.parametrize(
    ("larger", "smaller", "shared"),
    [([0, 40, 20, 100], [-5000, 50, 10, 60], (0, 55)), ([200, 0, 200, 150], [199.7, 90, 200, 110], (199, 100))],
)
def test_what_is_outside_of_the_image_makes_no_box_larger(larger, smaller, shared):
    """A box hides no smaller one; a flat one is a pixel wide."""
    for boxes in ([larger, smaller], [smaller, larger]):
        colors = [RED if box is larger else PALETTE[1] for box in boxes]
        assert draw_boxes(grey(200, 150), boxes, colors=colors).getpixel(shared) == PALETTE[1]


def test_a_repeated_phrase_is_drawn_once():
    boxes = torch.tensor([[50.0, 50, 150, 150], [200, 50, 300, 150]])
    once = ground_text("<p>men</p> <roi><r0></roi> and <p>dogs</p> <roi><r1></roi>", boxes)
    twice = ground_text(f"{once.markup}: {once.markup}", boxes)
    drawn = draw_grounded_text(grey(320, 240), twice)
    assert changed(draw_grounded_text(grey(320, 240), once, caption=False), drawn) is None
    assert colored(drawn.crop((0, 240, *drawn.size)), PALETTE[2]) is None


def test_other_regions_are_drawn_on_demand(labels):
    boxes = torch.tensor([[20.0, 60, 100, 140], [180, 60, 300, 140]])
    answer = ground_text("<r0>", boxes)
    plain = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert changed(grey(320, 240), plain)[2] < 150
    drawn = draw_grounded_text(grey(320, 240), answer, regions=True, caption=False)
    assert changed(grey(320, 240), drawn)[2] > 290
    assert drawn.getpixel((240, 100)) == GROUND  # not tinted
    assert labels == [(["r0"], 1.0), ([], 0.75), (["r0"], 1.0), (["r1"], 0.75)]


def test_a_phrase_of_many_regions_is_written_once(labels):
    boxes = torch.tensor([[10.0 * index, 60, 10 * index + 5, 70] for index in range(5)])
    boxes[3, 3] = 90  # the largest
    four, five = (render_grounded_phrase("people", list(range(count))) for count in (4, 5))
    draw_grounded_text(grey(320, 240), ground_text(four, boxes))
    draw_grounded_text(grey(320, 240), ground_text(five, boxes))
    draw_grounded_text(grey(320, 240), ground_text("<roi><r0><r1><r2><r3><r4></roi>", boxes))
    assert [texts for texts, scale in labels if scale == 1.0] == [
        ["people"] * 4,
        ["", "", "", "people (5)", ""],
        ["r0", "r1", "r2", "r3", "r4"],
    ]


def test_a_mask_is_tinted_and_outlined_in_place_of_its_box():
    masks = np.zeros((2, 240, 320), dtype=bool)
    masks[0, 70:90, 30:60] = True
    regions = Regions([[20, 60, 100, 140], [180, 60, 300, 140]], masks=masks)
    answer = GroundedText("a dog", [GroundedPhrase("a dog", (0, 5), regions[[0]])], regions, (), "a dog", (1,))
    drawn = answer.draw(grey(320, 240))
    np.testing.assert_allclose(drawn.getpixel((40, 80)), tinted(PALETTE[0], MASK_TINT), atol=1)
    assert drawn.getpixel((80, 120)) == GROUND
    assert drawn.getpixel((30, 75)) == drawn.getpixel((59, 89)) == drawn.getpixel((40, 89)) == PALETTE[0]
    assert drawn.getpixel((29, 75)) == drawn.getpixel((60, 89)) == drawn.getpixel((40, 90)) == BLACK
    assert drawn.getpixel((28, 75)) == drawn.getpixel((61, 89)) == drawn.getpixel((40, 91)) == GROUND
    assert drawn.getpixel((21, 100)) == GROUND
    with pytest.raises(ValueError, match="A mask must have the shape"):
        answer.draw(grey(100, 100))


# ------------------------------------------------------------------------------------------------- regions of the user


def test_regions_of_the_user_are_dashed_and_not_tinted():
    boxes = torch.tensor([[20.0, 60, 100, 140], [180, 60, 300, 140], [180, 160, 300, 230]])
    answer = ground_text("<p>a dog</p> <roi><r1></roi>", boxes, user_region_ids=[0])
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    # Along the user's region dashes and the image alternate; the box of the phrase is an unbroken line; the third is
    # not drawn.
    assert pixels_along(drawn, 21, 70, 130) >= {WHITE, GROUND}
    assert PALETTE[0] not in pixels_along(drawn, 21, 70, 130)
    assert pixels_along(drawn, 181, 70, 130) == {PALETTE[0]}
    assert pixels_along(drawn, 181, 170, 220) == {GROUND}
    assert drawn.getpixel((60, 100)) == GROUND
    # The method of an answer does the same, and both can leave them out.
    assert changed(drawn, answer.draw(grey(320, 240))) is None
    for plain in (
        answer.draw(grey(320, 240), user_boxes=False),
        draw_grounded_text(grey(320, 240), answer, user_boxes=False),
    ):
        assert pixels_along(plain, 21, 70, 130) == {GROUND}
        assert pixels_along(plain, 181, 70, 130) == {PALETTE[0]}


def test_a_phrase_about_the_region_of_the_user_shows_between_its_dashes():
    answer = ground_text("<p>a dog</p> <roi><r0></roi>", torch.tensor([[20.0, 60, 200, 200]]), user_region_ids=[0])
    drawn = draw_grounded_text(grey(320, 240), answer, caption=False)
    assert pixels_along(drawn, 20, 80, 180) >= {WHITE, PALETTE[0]}


def test_labels_of_the_regions_of_the_user(labels):
    boxes = torch.tensor([[20.0, 60, 100, 140], [180, 60, 300, 140], [180, 160, 300, 230]])
    draw_grounded_text(grey(320, 240), ground_text("", boxes, user_region_ids=[1]))
    draw_grounded_text(grey(320, 240), ground_text("<r2>", boxes, user_region_ids=[0, 2]), regions=True)
    draw_grounded_text(grey(320, 240), ground_text("", boxes, user_region_ids=[0]), regions=True, user_boxes=False)
    assert [texts for texts, _ in labels] == [
        ["your region"],
        [],
        ["r2", "your region 1", "your region 2"],
        ["r1"],
        [],
        ["r0", "r1", "r2"],
    ]


@pytest.mark.parametrize("box", [[0.0, 0, 1, 1], [-1.0, -1, 320, 240], [318, 238, 320, 240], [0, 0, 0.3, 0.3]])
def test_odd_boxes_of_the_user_stay_inside_the_image(box):
    drawn = draw_grounded_text(grey(320, 240), ground_text("", torch.tensor([box]), user_region_ids=[0]))
    assert drawn.size == (320, 240) and colored(drawn, WHITE)


@pytest.mark.parametrize("draw", [draw_boxes, draw_proposals])
def test_masks_of_drawn_regions_are_drawn_in_place_of_their_boxes(draw):
    masks = np.zeros((2, 240, 320), dtype=bool)
    masks[1, 90:110, 200:260] = True
    regions = Regions([[20, 60, 100, 140], [180, 60, 300, 140]], masks=masks)
    drawn = draw(grey(320, 240), regions)
    assert drawn.getpixel((60, 100)) == drawn.getpixel((290, 75)) == GROUND
    assert drawn.getpixel((230, 100)) != GROUND
