"""Checks of boxes, placeholders, marks and regions: both sides of each limit."""

import re

import pytest
import torch

from tests.tiny import (
    MAX_REGIONS,
    tiny_config,
    tiny_model,
)
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.groma.modeling_groma_checks import (
    check_image_is_new,
    check_no_image,
    check_placeholders,
    check_same_regions,
    check_sources,
    check_turn,
    given_proposals,
)
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures
from transformers_groma.models.modeling_cached_prompt import CachedPrompt, remember_generated
from transformers_groma.models.modeling_checks import boxes_of_images


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    # Some proposals are not good enough, so that images have different numbers of regions.
    return tiny_model(box_score_threshold=0.5)


class TestChecks:
    """Both sides of what is refused."""

    def test_placeholders_of_an_image_that_is_not_there(self, model):
        """Fewer than an image has may be said by a user or a model, alone or within a longer text."""
        most = model.config.num_image_tokens + MAX_REGIONS
        for others in (0, 1, 5):
            mask = torch.tensor([[False] * (others + most), [True] * (most - 1) + [False] * (others + 1)])
            check_no_image(mask, model.config)
            mask[0, others:] = True
            with pytest.raises(ValueError, match=rf"\[{most}, {most - 1}\] placeholders"):
                check_no_image(mask, model.config)
        check_no_image(torch.ones(1, most - 1, dtype=torch.bool), model.config)

    @pytest.mark.parametrize(
        ("placeholders", "marks", "counts", "fits"),
        [
            ([0, 1, 0], [1, 0, 0], None, False),  # only a user writes both
            ([0, 1, 1], [0, 0, 0], None, True),
            ([0, 0, 0], [1, 1, 0], None, True),
            ([1], [1], None, True),
            ([0, 1, 0], [1, 0, 0], [1], True),
            ([0, 1, 0], [1, 0, 0], [2], False),
            ([0, 1, 0], [1, 0, 0], [0], False),
            ([0, 1, 1], [1, 0, 0], [1], False),
            ([0, 1, 1], [1, 0, 0], [2], False),
            ([0, 1, 0], [1, 0, 1], [1], False),
            ([0, 0, 0], [0, 0, 0], [0], True),
            ([1], [1], [0], False),
        ],
    )
    def test_marks_of_a_later_turn(self, model, placeholders, marks, counts, fits):
        given = (torch.tensor([placeholders]).bool(), torch.tensor([marks]).bool(), counts and torch.tensor(counts))
        if fits:
            check_turn(*given, model.config)
            return
        with pytest.raises(ValueError, match="A later turn needs one `<refer_box>` mark and one placeholder"):
            check_turn(*given, model.config)

    def test_a_later_turn_has_no_image(self, model):
        """Not even with as many marks and boxes."""
        most = model.config.num_image_tokens + MAX_REGIONS
        placeholders = torch.tensor([[True] * most + [False] * most])
        with pytest.raises(ValueError, match="placeholders of an image"):
            check_turn(placeholders, ~placeholders, torch.tensor([most]), model.config)

    def test_other_regions_than_those_in_the_cache(self):
        """Boxes may differ by rounding; a region that came in a later turn is in the cache alone."""
        boxes = torch.rand(2, 3, 4)
        used = torch.tensor([[True, True, False], [True, False, False]])
        rows = torch.tensor([0, 0, 1])
        has_image = torch.tensor([True, False, True])
        later = torch.tensor([[True, True, True], [True, False, False]])
        cached = CachedPrompt(torch.ones(3, 2), has_image, rows, boxes[rows], torch.ones(3, 3), later[rows])

        def check(boxes: torch.Tensor, mask: torch.Tensor) -> None:
            check_same_regions(GromaImageFeatures(region_boxes=boxes, region_mask=mask), cached)

        check(boxes, used)
        check(boxes + 5e-5, used)
        check(torch.where(used[..., None], boxes, 0.7), used)
        moved, more = boxes.clone(), used.clone()
        moved[1, 0, 3] += 3e-4
        more[1, 2] = True
        for given in ((moved, used), (boxes, more), (boxes[1:], used[1:]), (boxes.flip(0), used)):
            with pytest.raises(ValueError, match="other images or regions"):
                check(*given)

    def test_nothing_is_remembered_without_a_cache(self):
        remember_generated(None, CachedPrompt(*[torch.zeros(1, 1)] * 6))


def test_pixels_that_were_read_as_fractions():
    """Whole numbers as bits of floats are next to 0; a padding row is 0, and so may one side be."""
    box = torch.tensor([[[0.5, 0.5, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]]])
    assert torch.equal(boxes_of_images("boxes", box, 1), box)
    assert boxes_of_images("boxes", None, 1) is None
    box[0, 0, 1] = 2e-12
    assert torch.equal(boxes_of_images("boxes", box, 1), box)
    # The boxes of datasets were rounded: they may stick out by a hundredth.
    for outside in (-0.0099, 1.0099):
        box[0, 0, 1] = outside
        assert torch.equal(boxes_of_images("boxes", box, 1), box)
    for wrong in (-0.0101, 1.0101, 5e-13, -5e-13, 1e-40):
        box[0, 0, 1] = wrong
        with pytest.raises(ValueError, match="`boxes` must be normalized cxcywh"):
            boxes_of_images("boxes", box, 1)
    with pytest.raises(ValueError, match="`boxes` must be normalized cxcywh"):
        boxes_of_images("boxes", torch.tensor([[[100, 120, 50, 60]]], dtype=torch.int32), 1)
    for shape in ((1, 2, 3), (2, 2, 4), (2, 4), (1, 1, 2, 4)):
        with pytest.raises(ValueError, match="`boxes`"):
            boxes_of_images("boxes", torch.full(shape, 0.5), 1)


def test_proposals_come_with_their_scores():
    boxes, scores = torch.full((2, 3, 4), 0.5), torch.full((2, 3), 0.7)
    assert given_proposals(None, None, 2) is None
    proposals = given_proposals(boxes.double(), scores.double(), 2)
    assert torch.equal(proposals.pred_boxes, boxes) and torch.equal(proposals.scores, scores)
    for given in ((boxes, None), (None, scores)):
        with pytest.raises(ValueError, match="together: both or none"):
            given_proposals(*given, 2)
    with pytest.raises(ValueError, match=r"`proposal_scores` must have shape \(2, 3\), .*got \(2, 2\)"):
        given_proposals(boxes, scores[:, :2], 2)
    with pytest.raises(ValueError, match="row for each of the 3 images"):
        given_proposals(boxes, scores, 3)


def test_images_come_from_one_source():
    pixels, boxes = torch.zeros(1, 3, 8, 8), torch.full((1, 1, 4), 0.5)
    seen = GromaImageFeatures(region_mask=torch.ones(1, 2).bool())
    only_tokens = GromaImageFeatures(pooler_output=[torch.zeros(1, 2)])
    cached = CachedPrompt(*[torch.zeros(1, 1)] * 6)
    check_sources(None, None, None, None, ground_boxes=None)
    check_sources(None, pixels, boxes, None, ground_boxes=boxes)
    check_sources(seen, None, boxes, None, ground_boxes=None)
    check_sources(None, None, boxes, cached, ground_boxes=None)
    for features in (seen, only_tokens):
        with pytest.raises(ValueError, match="`pixel_values` or `mm_encoder_outputs`, not both"):
            check_sources(features, pixels, None, None)
    for features in (None, only_tokens):
        with pytest.raises(ValueError, match="`refer_boxes` need `pixel_values`, or a cache"):
            check_sources(features, None, boxes, None)
    for features, prompt in ((None, None), (seen, None), (None, cached)):
        with pytest.raises(ValueError, match="`ground_boxes` need `pixel_values`"):
            check_sources(features, None, None, prompt, ground_boxes=boxes)


def test_a_prompt_in_a_cache_gets_no_image():
    pixels, cached = torch.zeros(1, 3, 8, 8), CachedPrompt(*[torch.zeros(1, 1)] * 6)
    seen = GromaImageFeatures(region_mask=torch.ones(1, 2).bool())
    check_image_is_new(seen, None, None)
    check_image_is_new(None, pixels, None)
    check_image_is_new(None, None, cached)
    check_image_is_new(GromaImageFeatures(pooler_output=[]), None, cached)
    for given in ((seen, None), (None, pixels)):
        with pytest.raises(ValueError, match="holds a prompt with its images already"):
            check_image_is_new(*given, cached)


def test_rows_have_the_placeholders_of_their_images_or_none():
    config = tiny_config()
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]]).bool()
    check_placeholders(mask, torch.tensor([2, 3]), torch.tensor([0, 0, 1]), config)
    for counts in ([3, 3], [2, 2], [3, 2], [1, 3]):
        with pytest.raises(ValueError, match=re.escape(f"expected {counts} for the images, found [2, 0, 3]")):
            check_placeholders(mask, torch.tensor(counts), torch.tensor([0, 0, 1]), config)
