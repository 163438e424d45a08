"""What a turn names and where, and outlines of masks."""

import re

import numpy as np
import pytest
import torch

from transformers_groma.apps.answer_places import spoken_places, turn_places
from transformers_groma.apps.answer_transcript import question_regions
from transformers_groma.apps.answer_view import Turn, answer_view
from transformers_groma.apps.outline_path import outline_path
from transformers_groma.colors import PALETTE
from transformers_groma.grounding import GroundedPhrase, GroundedText, ground_text
from transformers_groma.image_inputs import ImageSize
from transformers_groma.masks import mask_to_rle
from transformers_groma.regions import Regions

from .parsed_html import Parsed

BOXES = torch.tensor([[10.0, 20, 110, 220], [150, 40, 300, 200], [0, 0, 320, 240], [12, 30, 60, 80]])


def view(turn: Turn) -> Parsed:
    return Parsed(answer_view("groma", [turn], image_url="/image.png", size=ImageSize(240, 320)))


def test_phrases_are_numbered_and_coloured_in_the_order_of_the_text():
    answer = ground_text("<p>a cat</p> <roi><r0></roi> and <p>a dog</p> <roi><r1></roi>.", BOXES)
    places = turn_places("0", answer, Regions([]))
    assert [(named.sign, named.label, named.color) for named in places.phrases] == [
        ("1", "a cat", PALETTE[0]),
        ("2", "a dog", PALETTE[1]),
    ]
    assert [place.box for named in places.phrases for place in named.places] == [
        (10, 20, 110, 220),
        (150, 40, 300, 200),
    ]


def test_a_phrase_said_twice_is_one_name_and_the_same_words_elsewhere_are_another():
    markup = "<p>a cat</p> <roi><r0></roi>, <p>a cat</p> <roi><r1></roi>, <p>a cat</p> <roi><r0></roi>"
    first, second, third = turn_places("0", ground_text(markup, BOXES), Regions([])).phrases
    assert first is third and first is not second


def test_places_are_one_where_boxes_agree_to_the_pixel():
    boxes = torch.cat([BOXES, BOXES[:1] + 0.2, BOXES[:1] + 1])
    answer = ground_text("<p>a</p> <roi><r0></roi> <p>b</p> <roi><r4></roi> <p>c</p> <roi><r5></roi>", boxes)
    places = turn_places("0", answer, Regions([])).places
    assert sorted([named.label for named in place.names] for place in places) == [["a", "b"], ["c"]]


def test_small_places_come_last_so_that_they_lie_on_top():
    answer = ground_text("<p>a</p> <roi><r3></roi> <p>b</p> <roi><r2></roi> <p>c</p> <roi><r0></roi>", BOXES)
    places = turn_places("0", answer, Regions([])).places
    assert [place.names[0].label for place in places] == ["b", "c", "a"]


def test_regions_with_masks_share_no_place_though_their_boxes_agree():
    masks = np.zeros((2, 240, 320), bool)
    masks[0, 20:220, 10:60] = masks[1, 20:220, 60:110] = True
    regions = Regions(BOXES[[0, 0]], masks=masks)
    phrases = [
        GroundedPhrase(text, span, regions[[i]]) for i, (text, span) in enumerate([("a", (0, 1)), ("b", (2, 3))])
    ]
    answer = GroundedText("a b", phrases, regions, (), "")
    assert len(turn_places("0", answer, Regions([])).places) == 2
    parsed = view(Turn("", answer))
    lines = [attributes for attributes, _ in parsed.of_class("groma-line")]
    assert sorted(line["d"] for line in lines if "d" in line) == ["M10 20H60V220H10Z", "M60 20H110V220H60Z"]
    assert [line["width"] for line in lines if "d" not in line] == ["100", "100"]  # where masks are switched off
    assert len(parsed.of_class("is-mask")) == len(parsed.of_class("is-box")) == 4  # shapes and holes


def test_outlines_that_are_given_take_the_place_of_masks():
    answer = ground_text("<p>a</p> <roi><r0></roi> <p>b</p> <roi><r1></roi>", BOXES)
    parsed = view(Turn("", answer, outlines={0: "M10 20H60V220H10Z"}))
    lines = [attributes for attributes, _ in parsed.of_class("groma-line")]
    assert [line["d"] for line in lines if "d" in line] == ["M10 20H60V220H10Z"]
    assert len([line for line in lines if "d" not in line]) == 2


def test_masks_can_be_switched_off_where_there_are_some():
    answer = ground_text("<p>a</p> <roi><r0></roi>", BOXES[:1])
    for outlines, count in ((None, 0), ({}, 0), ({0: "M10 20H60V220H10Z"}, 1)):
        parsed = view(Turn("", answer, outlines=outlines))
        switches = [element for element in parsed.elements if element[1].get("data-groma-control") == "masks"]
        assert len(switches) == count and all("checked" in attributes for _, attributes, _ in switches)


def test_a_mask_with_several_phrases_has_a_share_of_the_tint_of_each():
    answer = ground_text("<p>a</p> <roi><r0></roi> <p>b</p> <roi><r0></roi>", BOXES)
    parsed = view(Turn("", answer, outlines={0: "M10 20H60V220H10Z"}))
    styles = [attributes["style"] for attributes, _ in parsed.of_class("groma-line") if "d" in attributes]
    assert len(styles) == 2 and all("--share:0.5" in style for style in styles)


def test_a_box_that_the_user_mentions_twice_has_one_name():
    parts = [{"type": "region", "box": box} for box in ([1, 2, 30, 40], [5, 5, 9, 9], [1, 2, 30, 40])]
    parsed = view(Turn(parts))
    assert [text for _, text in parsed.of_class("groma-name")] == ["your region 1", "your region 2", "your region 1"]
    assert len(parsed.of_class("groma-place")) == 2


def test_what_the_user_points_at_is_a_region_in_every_form():
    for part in ({"box": [1, 2, 30, 40]}, {"point": [9, 9]}):
        parsed = view(Turn([{"type": "region", **part}]))
        assert [text for _, text in parsed.of_class("groma-name")] == ["your region"]
    mask = np.zeros((240, 320), bool)
    mask[20:30, 10:60] = True
    regions = [{"scribble": [[5, 6], [60, 80]]}, {"mask": mask}, {"mask": mask_to_rle(mask)}, {"points": [[7, 8]]}]
    places = [turn_places("0", None, question_regions([{"type": "region", **region}], None)) for region in regions]
    boxes = [named.box for named in (turn.places[0] for turn in places)]
    assert boxes == [(5, 6, 61, 81), (10, 20, 60, 30), (10, 20, 60, 30), (7, 8, 8, 9)]


def test_outlines_of_a_caller_are_text():
    answer = ground_text("<p>a</p> <roi><r0></roi>", BOXES)
    assert '"><script' not in answer_view(
        "groma", [Turn("", answer, outlines={0: '"><script>'})], image_url="/image.png", size=ImageSize(240, 320)
    )


def test_many_places_are_described_by_the_first_ones():
    boxes = [[10 * i, 0, 10 * i + 5, 5] for i in range(9)]
    answer = ground_text(
        "<p>dots</p> <roi>" + "".join(f"<r{i}>" for i in range(9)) + "</roi>", torch.tensor(boxes) * 1.0
    )
    spoken = spoken_places(turn_places("0", answer, Regions([])).phrases[0].places)
    assert spoken.startswith("9 regions: left 0, top 0, width 5, height 5; left 10,") and spoken.endswith(
        "; and 3 more"
    )


@pytest.mark.parametrize("seed", range(6))
def test_an_outline_covers_exactly_the_pixels_of_its_mask(seed):
    generator = np.random.default_rng(seed)
    mask = generator.random((9, 7)) < (0.2 + 0.1 * seed)
    # A pixel is inside if the loops' vertical lines to its left are odd in number.
    crossings = np.zeros((9, 8), int)
    for loop in outline_path(mask).split("Z")[:-1]:
        points = [tuple(map(int, re.match(r"M(\d+) (\d+)", loop).groups()))]
        for kind, value in re.findall(r"([HV])(\d+)", loop):
            x, y = points[-1]
            points.append((int(value), y) if kind == "H" else (x, int(value)))
        for (x, y1), (x2, y2) in zip(points, points[1:] + points[:1]):
            assert x == x2 or y1 == y2
            if x == x2:
                crossings[min(y1, y2) : max(y1, y2), x] += 1
    assert ((crossings.cumsum(axis=1)[:, :7] % 2 == 1) == mask).all()


@pytest.mark.parametrize(("longest_side", "outline"), [(8, "M2 1H8V4H2Z"), (4, "M2 0H8V4H2Z"), (1, "M0 0H8V5H0Z")])
def test_of_a_large_mask_squares_of_pixels_are_outlined(longest_side, outline):
    mask = np.zeros((5, 8), bool)
    mask[1:4, 2:8] = True
    assert outline_path(mask, longest_side) == outline  # never out of the image


def test_a_mask_smaller_than_a_square_keeps_an_outline():
    mask = np.zeros((40, 80), bool)
    mask[9, 71] = True
    assert outline_path(mask, 8) == "M70 0H80V10H70Z"


def test_an_empty_mask_has_no_outline():
    assert outline_path(np.zeros((40, 4), bool), 4) == ""
    assert outline_path(np.zeros((4, 4), bool)) == ""
