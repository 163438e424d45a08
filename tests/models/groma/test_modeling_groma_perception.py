"""What regions are encoded from: the right geometry and the legacy one."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import (
    tiny_inputs,
    tiny_model,
)


class TestRegionEncoder:
    def test_right_geometry_reads_the_box(self):
        """With the right geometry a change outside of a box's surroundings does not change its crop; legacy is elsewhere."""
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
