"""Scenes with one main object: labels and boxes are true, splits differ, clutter is smaller and of other classes."""

import numpy as np
import pytest

from scripts.shapes_clip.scenes import CLASSES, IMAGE_SIZE, Layout, ObjectClass, make_cluttered_scene
from transformers_groma.shapes.drawing import COLORS

LARGE = Layout(main_sides=(0.35, 0.6), clutter=(6, 12))
ALONE = Layout(main_sides=(0.35, 0.6), clutter=(0, 0))


def test_there_are_300_classes_with_different_names():
    assert len(CLASSES) == len({kind.name for kind in CLASSES}) == 300
    assert ObjectClass("solid", "red", "circle").name == "solid red circle"


def test_a_scene_is_the_same_at_each_call_and_another_in_each_split():
    kind = CLASSES[42]
    image = np.asarray(make_cluttered_scene("test", 3, LARGE, kind).image)
    assert (image == np.asarray(make_cluttered_scene("test", 3, LARGE, kind).image)).all()
    for split, index in (("validation", 3), ("train", 3), ("test", 4)):
        assert (image != np.asarray(make_cluttered_scene(split, index, LARGE, kind).image)).any()


@pytest.mark.parametrize("number", range(0, 300, 37))
def test_the_main_object_is_where_its_box_says_and_the_only_one_of_its_class(number):
    kind = CLASSES[number]
    scene = make_cluttered_scene("test", number, LARGE, kind)
    left, top, right, bottom = scene.main_box_xyxy
    assert 0 <= left < right <= IMAGE_SIZE and 0 <= top < bottom <= IMAGE_SIZE
    assert 0.34 <= max(right - left, bottom - top) / IMAGE_SIZE <= 0.61
    assert scene.main == kind and kind not in scene.clutter and 1 <= len(scene.clutter) <= 12
    # Of the ten colors its own one has the most pixels, beside which the background and stripes have none.
    pixels = np.asarray(scene.image)[top:bottom, left:right].astype(int)
    counts = {color: (np.abs(pixels - first).sum(axis=-1) < 45).sum() for color, (first, _) in COLORS.items()}
    assert max(counts, key=counts.get) == kind.color


def test_without_clutter_there_is_nothing_beside_the_main_object():
    scene = make_cluttered_scene("test", 0, ALONE, ObjectClass("solid", "red", "square"))
    assert scene.clutter == ()
    left, top, right, bottom = scene.main_box_xyxy
    outside = np.asarray(scene.image).astype(int).copy()
    outside[top - 2 : bottom + 2, left - 2 : right + 2] = outside[0, 0]
    # Backgrounds are gray: no colour is left.
    assert (outside.max(axis=-1) - outside.min(axis=-1)).max() < 60


def test_colors_that_a_background_swallows_have_the_other_one():
    white, black = (
        make_cluttered_scene("test", 0, ALONE, ObjectClass("solid", color, "star")) for color in ("white", "black")
    )
    assert white.is_dark and not black.is_dark
    assert np.asarray(white.image)[0, 0].mean() < 100 < np.asarray(black.image)[0, 0].mean()


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="`split` must be one of .*got 'held-out'"):
        make_cluttered_scene("held-out", 0, LARGE, CLASSES[0])
