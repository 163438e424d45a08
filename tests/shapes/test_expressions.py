"""Expressions are unambiguous, also at the limits of directions."""

import numpy as np
import pytest

from transformers_groma.shapes.expressions import RELATIONS, outermost_object, some_group, the_one_ahead
from transformers_groma.shapes.scenes import Attributes
from transformers_groma.shapes.world import World

CIRCLE = Attributes("small", "solid", "red", "circle")
SQUARE = Attributes("small", "solid", "blue", "square")


def in_direction(relation: str, *distances: float) -> World:
    """An object in the middle, and others at these distances from it in a direction."""
    axis, sign = RELATIONS[relation]
    centers = [(0.5, 0.5)]
    for distance in distances:
        center = [0.5, 0.5]
        center[axis] += sign * distance
        centers.append(tuple(center))
    return World([CIRCLE] * len(centers), centers)


@pytest.mark.parametrize("relation", RELATIONS)
def test_one_object_lies_clearly_in_a_direction(relation):
    for distances, expected in (
        ((0.125, -0.3), 1),
        ((0.09,), None),  # not clearly
        ((0.125, 0.05), None),  # another one lies there a little
        ((0.125, 0.25), None),  # two
        ((0.125, 0.0), 1),  # beside it is not ahead
        ((-0.125,), None),
    ):
        world = in_direction(relation, *distances)
        assert the_one_ahead(world, world.objects[1:], 0, relation) == expected


def test_the_outermost_object_leads_clearly():
    attempts = range(50)
    near = World([CIRCLE, CIRCLE], [(0.4, 0.4), (0.49, 0.49)])
    assert all(outermost_object(near, np.random.default_rng(seed)) is None for seed in attempts)
    far = World([CIRCLE, CIRCLE], [(0.4, 0.4), (0.55, 0.55)])
    found = [outermost_object(far, np.random.default_rng(seed)) for seed in attempts]
    assert {(text.split()[0], target) for text, target, _ in found} == {
        ("leftmost", 0), ("topmost", 0), ("rightmost", 1), ("bottommost", 1)
    }  # fmt: skip


def test_groups_have_at_most_five_objects():
    rng = np.random.default_rng(0)
    assert some_group(World([CIRCLE] * 6), rng, with_shape=True) is None
    assert some_group(World([CIRCLE] * 5), rng, with_shape=True) is not None
    assert some_group(World([CIRCLE] * 6 + [SQUARE]), rng, with_shape=True).shape == "square"
