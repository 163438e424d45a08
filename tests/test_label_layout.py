"""Label placement: apart from each other, inside the image, off small objects."""

import random

import pytest

from transformers_groma.label_layout import (
    MAX_HIDDEN_SHARE,
    REACH,
    PlacedLabel,
    connecting_line,
    place_labels,
    rectangle_area,
    touch,
)


def overlap(box1, box2) -> float:
    corners = max(box1[0], box2[0]), max(box1[1], box2[1]), min(box1[2], box2[2]), min(box1[3], box2[3])
    return rectangle_area(corners)


@pytest.mark.parametrize("seed", range(40))
def test_labels_are_apart_and_off_small_objects(seed):
    """Random boxes: many or few, small or large, in narrow, wide, small and large images."""
    draws = random.Random(seed)
    width, height = draws.choice([(64, 48), (224, 149), (640, 425), (120, 900), (1600, 120), (2250, 1500)])
    spread = draws.choice([8, 40, max(width, height)])

    def box() -> tuple[float, float, float, float]:
        x, y = draws.uniform(-5, width), draws.uniform(-5, height)
        return x, y, x + draws.uniform(1, spread), y + draws.uniform(1, spread)

    boxes, regions = ([box() for _ in range(draws.choice([1, 8, 60]))] for _ in range(2))
    sizes = [[(length, 12), (length // 2, 12)] for length in (draws.randint(10, 90) for _ in boxes)]
    taken = [(3, 3, 20, 15), (width - 30, 5, width, 17)]
    placed = place_labels(boxes, sizes, (width, height), regions, taken)
    assert len(placed) == len(boxes)
    found = [label for label in placed if label is not None]
    assert found or width < 90 or len(boxes) == 1
    for number, label in enumerate(found):
        x1, y1, x2, y2 = label.box
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert all(isinstance(value, int) for value in label.box)
        for other in [*taken, *(earlier.box for earlier in found[:number])]:
            assert overlap(label.box, other) == 0
        for region in (*boxes, *regions):
            assert overlap(label.box, region) <= MAX_HIDDEN_SHARE * rectangle_area(region) + 1e-6
    for label, box_, choices in zip(placed, boxes, sizes, strict=True):
        if label is not None:
            x1, y1, x2, y2 = label.box
            assert (x2 - x1, y2 - y1) == choices[label.choice]
            gap = max(box_[0] - x2, x1 - box_[2], box_[1] - y2, y1 - box_[3])
            assert gap <= REACH * 12 + 12


@pytest.mark.parametrize("seed", range(8))
def test_what_is_far_away_changes_no_place(seed, monkeypatch):
    """Only regions and labels near a place are looked at; all of them give the same."""
    draws = random.Random(seed)
    corners = [(draws.uniform(0, 900), draws.uniform(0, 700)) for _ in range(120)]
    boxes = [(x, y, x + draws.uniform(2, 90), y + draws.uniform(2, 90)) for x, y in corners]
    arguments = (boxes, [[(60, 12), (30, 12)]] * 120, (960, 720), boxes[::2], [(5, 5, 90, 30)])
    placed = place_labels(*arguments)
    everything = property(lambda boxes: lambda places: boxes._boxes[: boxes._count])
    monkeypatch.setattr("transformers_groma.label_layout._Boxes.near", everything)
    assert place_labels(*arguments) == placed
    monkeypatch.undo()
    for most in (0, 1, 10**9):  # tiles of a box: none is in tiles, few are, all are
        monkeypatch.setattr("transformers_groma.label_layout._MOST_TILES", most)
        monkeypatch.setattr("transformers_groma.label_layout._FEW", 7)
        assert place_labels(*arguments) == placed
    assert len({label.choice for label in placed if label is not None}) > 0


def place(box, *taken, regions=(), size=(30, 10), image_size=(200, 100)):
    [placed] = place_labels([box], [[size]], image_size, regions, taken)
    return placed and placed.box


def test_a_label_takes_the_free_place_that_hides_least():
    box = (50, 40, 120, 80)
    corners = [(50, 30), (50, 80), (90, 30), (90, 80), (120, 40), (20, 40), (120, 70), (20, 70)]
    places = [(x, y, x + 30, y + 10) for x, y in corners]
    for number, expected in enumerate(places):
        assert place(box, *places[:number]) == expected
    # In the middle, if the corners are taken.
    above, below = [(40, 30, 60, 40), (110, 30, 130, 40)], [(40, 80, 60, 90), (110, 80, 130, 90)]
    assert place(box, *places[4:], *above, *below) == (70, 30, 100, 40)
    assert place(box, *places[4:], *above, *below, (80, 30, 81, 40)) == (70, 80, 100, 90)
    # A place that hides some of another box is worse, if it is allowed at all.
    assert place(box, regions=[(40, 0, 90, 32)]) == places[1]
    assert place(box, regions=[(40, 25, 90, 40)]) == places[1]


def test_a_label_is_inside_of_its_box_only_where_that_is_large():
    """A box as large as the image, of which a label of 30 x 10 hides a tenth, or a little more."""
    assert place((0, 0, 60, 50), image_size=(60, 50)) == (0, 0, 30, 10)
    assert place((0, 0, 60, 49), image_size=(60, 49)) is None
    assert place((0, 0, 200, 100)) == (0, 0, 30, 10)
    # Its corners in turn, where all around it is taken.
    box, around = (40, 20, 140, 80), [(0, 0, 200, 20), (0, 80, 200, 100), (0, 20, 40, 80), (140, 20, 200, 80)]
    inside = [(40, 20, 70, 30), (110, 20, 140, 30), (40, 70, 70, 80), (110, 70, 140, 80)]
    for number, expected in enumerate(inside):
        assert place(box, *around, *inside[:number]) == expected
    assert place(box, *around, *inside) is None


def test_labels_at_the_borders_are_moved_inside():
    assert place((190, 50, 200, 60)) == (170, 40, 200, 50)
    assert place((5, 95, 9, 100)) == (5, 85, 35, 95)
    assert place((0, 0, 8, 8)) == (0, 8, 30, 18)
    assert place((-20, 30, 10, 60)) in ((0, 20, 30, 30), (0, 60, 30, 70))


def test_a_tenth_of_another_region_may_be_hidden_and_no_more():
    """There is room for a label above the box only, where another region is."""
    box, walls = (0, 20, 60, 60), [(0, 60, 60, 62), (60, 0, 62, 62), (0, 0, 60, 10)]
    image_size = (62, 62)
    assert place(box, *walls, regions=[(0, 10, 60, 60)], image_size=image_size) == (0, 10, 30, 20)
    assert place(box, *walls, regions=[(0, 10, 60, 59.9)], image_size=image_size) is None


def test_a_label_may_be_as_wide_as_the_image_and_no_wider():
    assert place((0, 50, 10, 60), size=(200, 10)) == (0, 40, 200, 50)
    assert place((0, 50, 10, 60), size=(201, 10)) is None
    assert place((0, 50, 10, 60), size=(30, 101)) is None


def test_the_next_size_is_tried_before_places_further_off():
    box = (50, 40, 60, 50)
    around = [(0, 0, 200, 30), (0, 60, 200, 100), (0, 30, 20, 60), (84, 30, 200, 60)]
    [placed] = place_labels([box], [[(60, 10), (30, 10)]], (200, 100), taken=around)
    assert placed == PlacedLabel((50, 30, 80, 40), 1)
    [none] = place_labels([box], [[]], (200, 100))
    assert none is None


def test_a_label_off_its_box_is_near_it():
    """All places at the box are taken, and most of the others."""
    box = (90, 40, 110, 60)
    everything = [(x, y, x + 10, y + 10) for x in range(0, 200, 10) for y in range(0, 100, 10)]
    for free, expected in (([(0, 80), (140, 80)], (140, 80)), ([(60, 0), (0, 0)], (60, 0)), ([(150, 40)], (150, 40))):
        holes = {(x + step, y) for x, y in free for step in (0, 10, 20)}
        taken = [cell for cell in everything if cell[:2] not in holes]
        assert place(box, *taken) == (*expected, expected[0] + 30, expected[1] + 10)
    assert place(box, *everything) is None


def test_a_label_off_its_box_hides_little():
    """Two free places at the same distance, of which the first hides some of another region."""
    box = (90, 40, 110, 60)
    everything = [(x, y, x + 10, y + 10) for x in range(0, 200, 10) for y in range(0, 100, 10)]
    taken = [cell for cell in everything if cell[:2] not in {(x, 40) for x in (20, 30, 40, 150, 160, 170)}]
    assert place(box, *taken) == (20, 40, 50, 50)
    assert place(box, *taken, regions=[(0, 0, 50, 90)]) == (150, 40, 180, 50)


def test_no_label_is_far_from_its_box():
    box = (10, 0, 20, 10)
    for gap, is_placed in ((REACH * 10, True), (REACH * 10 + 40, False)):
        taken = [(0, 0, 20 + gap, 10)]
        assert (place(box, *taken, image_size=(400, 10)) is not None) is is_placed


def test_labels_of_equal_boxes_are_apart():
    placed = place_labels([(100.0, 100.0, 140.0, 130.0)] * 25, [[(40, 15)]] * 25, (400, 300))
    assert len({label.box for label in placed}) == 25


def test_small_boxes_choose_first():
    small, large = (50, 40, 60, 50), (50, 40, 190, 90)
    placed = place_labels([large, small], [[(30, 10)]] * 2, (200, 100))
    assert placed[1].box == place(small, regions=[large])
    assert overlap(placed[0].box, placed[1].box) == 0


def test_no_boxes():
    assert place_labels([], [], (200, 100)) == []


def test_connecting_lines_are_the_shortest():
    assert connecting_line((0, 0, 10, 10), (20, 30, 40, 50)) == (10, 10, 20, 30)
    assert connecting_line((60, 0, 70, 10), (0, 30, 80, 50)) == (65, 10, 65, 30)
    assert connecting_line((60, 35, 70, 45), (0, 30, 20, 50)) == (60, 40, 20, 40)


def test_labels_that_touch_their_box_need_no_line():
    for gap, touches in ((0, True), (2, True), (2.5, False)):
        for label in (
            (10 - gap - 5, 10, 10 - gap, 20),
            (20 + gap, 10, 25 + gap, 20),
            (10, 5, 20, 10 - gap),
            (10, 20 + gap, 20, 30),
        ):
            assert touch(label, (10, 10, 20, 20)) is touches
            assert touch((10, 10, 20, 20), label) is touches


def test_areas():
    assert rectangle_area((3, 4, 8, 6)) == 10
    assert rectangle_area((8, 4, 3, 6)) == rectangle_area((3, 6, 8, 4)) == rectangle_area((8, 6, 3, 4)) == 0
