"""Both sides of what is refused: boxes, placeholders, marks and regions that do not fit."""

import pytest
import torch

from tests.tiny import (
    MAX_REGIONS,
    tiny_model,
)
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.groma.modeling_groma_cached_prompt import CachedPrompt, remember_generated
from transformers_groma.models.groma.modeling_groma_checks import (
    boxes_of_images,
    check_no_image,
    check_same_regions,
    check_turn,
)
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures


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
    for tiny in (5e-13, -5e-13, 1e-40):
        box[0, 0, 1] = tiny
        with pytest.raises(ValueError, match="`boxes` must be normalized cxcywh"):
            boxes_of_images("boxes", box, 1)
    with pytest.raises(ValueError, match="`boxes` must be normalized cxcywh"):
        boxes_of_images("boxes", torch.tensor([[[100, 120, 50, 60]]], dtype=torch.int32), 1)
    for shape in ((1, 2, 3), (2, 2, 4), (2, 4), (1, 1, 2, 4)):
        with pytest.raises(ValueError, match="`boxes`"):
            boxes_of_images("boxes", torch.full(shape, 0.5), 1)
