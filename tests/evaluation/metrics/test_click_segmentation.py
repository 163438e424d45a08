"""Mean IoU after clicks, by hand."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.click_segmentation import click_segmentation_scores
from transformers_groma.masks import mask_to_rle

from .masks import filled

TARGET, HALF, MORE = filled(0, 0, 10, 10), filled(0, 0, 10, 5), filled(0, 0, 10, 6)


def test_by_hand():
    scores = click_segmentation_scores({3: [TARGET, MORE], 1: [HALF, np.zeros_like(HALF)]}, [TARGET, TARGET])
    assert scores == {"miou@1": 0.25, "hit@1": 0.0, "miou@3": 0.8, "hit@3": 1.0}
    assert list(scores) == ["miou@1", "hit@1", "miou@3", "hit@3"]


def test_rle_gives_the_same():
    rle = click_segmentation_scores({1: [mask_to_rle(HALF)]}, [mask_to_rle(TARGET)])
    assert rle == click_segmentation_scores({1: [HALF]}, [TARGET])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ({}, [TARGET], "`predictions` is empty"),
        ({1: []}, [], "`references` is empty"),
        (
            {1: [HALF], 3: []},
            [TARGET],
            r"`predictions\[3\]` must have one entry for each of the 1 `references`, got 0",
        ),
        ({1: [HALF.T]}, [TARGET], "has 12x16 pixels"),
    ],
)
def test_bad_input(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        click_segmentation_scores(predictions, references)
