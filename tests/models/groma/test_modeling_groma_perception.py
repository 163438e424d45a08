"""Region tokens: right and legacy geometry, without padding, and in later turns."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import (
    tiny_inputs,
    tiny_model,
)
from transformers_groma.models.groma.modeling_groma_perception import VisualTokens
from transformers_groma.models.modeling_cached_prompt import CachedPrompt


class TestRegionEncoder:
    def test_right_geometry_reads_the_box(self):
        """With the right geometry a crop shows what is inside of its box; with the legacy one it is elsewhere."""
        from transformers_groma.boxes import box_cxcywh_to_xyxy
        from transformers_groma.models.modeling_ops import GromaRoiAlign

        encoder = tiny_model().model.region_encoder
        assert encoder.config.roi_box_format == "xyxy"
        assert encoder.config.roi_strides == [3.5, 7.0, 14.0]
        box = torch.tensor([[[0.75, 0.75, 0.25, 0.25]]])
        feature_map = torch.zeros(1, 1, 16, 16)
        feature_map[..., 10:14, 10:14] = 1.0  # the box covers pixels 10 to 14
        corners = box_cxcywh_to_xyxy(box) * 56
        (crop,) = GromaRoiAlign()([feature_map], corners, [1 / 3.5], 4, 2)
        assert crop.min() > 0.7
        (legacy,) = GromaRoiAlign()([feature_map], box * 56, [1 / 1.75], 4, 2)
        assert legacy.mean() < 0.1

    def test_legacy_and_right_geometry_are_configurations(self):
        legacy = tiny_model(region_encoder_config={"roi_box_format": "cxcywh", "roi_strides": [1.75, 3.5, 7.0]})
        right = tiny_model()
        pixels = tiny_inputs(right.config)["pixel_values"]
        one, other = (m.get_image_features(pixels, return_dict=True) for m in (legacy, right))
        assert torch.equal(one.region_boxes, other.region_boxes)
        assert not torch.allclose(one.pooler_output[0], other.pooler_output[0])

    def test_roi_align_gradients(self):
        from transformers_groma.models.modeling_ops import GromaRoiAlign

        feature_map = torch.randn(2, 2, 5, 6, dtype=torch.float32, requires_grad=True)
        boxes = torch.tensor([[[0.5, 1.0, 4.0, 3.5]], [[2.0, 0.0, 1.0, 4.0]]])
        (crops,) = GromaRoiAlign()([feature_map], boxes, [1.0], 2, 2)
        crops.sum().backward()
        # Every bin is an average of weights that sum to 1, so the gradient sums to the number of bins.
        assert feature_map.grad.sum().item() == pytest.approx(crops.numel(), rel=1e-5)

    def test_regions_are_encoded_in_groups_of_bounded_memory(self, monkeypatch):
        from transformers_groma.models import modeling_ops as ops

        feature_map, boxes = torch.randn(1, 3, 8, 8), torch.rand(1, 9, 4) * 8
        whole = ops.GromaRoiAlign()([feature_map], boxes, [1.0], 3, 2)[0]
        monkeypatch.setattr(ops, "MAX_ROI_ALIGN_ELEMENTS", 200)
        assert_close(ops.GromaRoiAlign()([feature_map], boxes, [1.0], 3, 2)[0], whole)


def test_rows_of_visual_tokens_have_no_padding():
    tokens, counts = torch.randn(2, 3, 4), torch.tensor([3, 1])
    rows = VisualTokens(tokens, counts, is_padded=True).rows()
    assert torch.equal(rows[0], tokens[0]) and torch.equal(rows[1], tokens[1, :1])
    assert all(map(torch.equal, VisualTokens(tokens, counts, is_padded=False).rows(), tokens))


@torch.no_grad()
def test_an_image_token_is_made_of_four_patches():
    """In the order of the released weights: the left column, then the right one."""
    projector, seen = tiny_model().model.multi_modal_projector, []
    projector.linear_1.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    width = projector.linear_1.in_features // 4
    patches = torch.arange(16.0).view(1, 1, 4, 4) + 100 * torch.arange(width).view(1, width, 1, 1)
    projector(patches)
    corners = torch.tensor([[0.0, 4, 1, 5], [2, 6, 3, 7], [8, 12, 9, 13], [10, 14, 11, 15]])
    expected = corners[:, :, None] + 100 * torch.arange(width)
    assert torch.equal(seen[0], expected.flatten(1)[None])


@torch.no_grad()
def test_regions_are_chosen_from_given_proposals(monkeypatch):
    """The proposer is not run, and the features are those that it led to."""
    model = tiny_model()
    pixels = tiny_inputs(model.config)["pixel_values"]
    found = model.get_image_features(pixels, return_dict=True)
    monkeypatch.setattr(type(model.model.region_proposer), "forward", None)
    given = {"proposal_boxes": found.proposal_boxes, "proposal_scores": found.proposal_scores}
    again = model.get_image_features(pixels, return_dict=True, **given)
    assert torch.equal(again.region_boxes, found.region_boxes)
    assert_close(again.pooler_output, found.pooler_output)
    given["proposal_boxes"] = given["proposal_boxes"].roll(1, dims=1)
    other = model.get_image_features(pixels, return_dict=True, **given)
    assert not torch.equal(other.region_boxes, found.region_boxes)


@torch.no_grad()
def test_boxes_of_a_later_turn_are_encoded_row_by_row():
    """The tokens are those that the boxes have in a prompt of their own; rows without an image have none."""
    model = tiny_model(box_score_threshold=0.5)
    pixels = tiny_inputs(model.config)["pixel_values"]
    features = model.get_image_features(pixels, return_dict=True)
    boxes = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.5, 0.6, 0.2, 0.3]], [[0.4, 0.4, 0.5, 0.1], [0.0] * 4]])
    rows = torch.tensor([0, 0, 1])
    cached = CachedPrompt(
        attention_mask=torch.ones(3, 5).bool(),
        has_image=torch.tensor([True, False, True]),
        image_index=rows,
        region_boxes=features.region_boxes[rows],
        region_scores=features.region_scores[rows],
        region_mask=features.region_mask[rows],
        feature_maps=features.region_feature_maps,
    )
    turn, after = model.model.encode_turn_regions(boxes, cached)
    used = features.region_mask.sum(dim=1)
    assert turn.counts.tolist() == [2, 0, 1]
    assert turn.slots.tolist() == [[used[0], used[0] + 1], [0, 0], [used[1], 0]]
    assert (after.region_mask.sum(dim=1) - cached.region_mask.sum(dim=1)).tolist() == [2, 0, 1]
    alone = model.get_image_features(pixels, boxes, return_dict=True)
    assert_close(turn.tokens[0], alone.pooler_output[0][-2:], atol=1e-5, rtol=1e-4)
    assert_close(turn.tokens[2, :1], alone.pooler_output[1][-1:], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="`refer_boxes` of a later turn need what regions are encoded from"):
        model.model.encode_turn_regions(boxes, replace(cached, feature_maps=None))
