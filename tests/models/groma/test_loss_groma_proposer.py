"""The region proposer's loss: its parts, its labels, and the source of each part."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import PROPOSER
from transformers_groma import GromaProposerConfig
from transformers_groma.models.groma.loss_groma_proposer import region_proposal_loss

from .test_modeling_groma_proposer import feature_map, tiny_proposer


class TestLoss:
    @pytest.fixture(scope="class")
    def outputs(self):
        return tiny_proposer(decoder_layers=3)(feature_map(2))

    @pytest.fixture
    def config(self) -> GromaProposerConfig:
        # None of the weights is a default, and no two are equal.
        return GromaProposerConfig(
            **{**PROPOSER, "class_loss_coefficient": 1.5, "bbox_loss_coefficient": 3.5, "giou_loss_coefficient": 0.25}
        )

    @staticmethod
    def labels(**changes) -> list[dict]:
        boxes = torch.tensor([[0.3, 0.4, 0.2, 0.1], [0.6, 0.2, 0.3, 0.4]])
        return [{"boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]]), **changes}, {"boxes": boxes, **changes}]

    def test_the_loss_is_the_weighted_sum_of_all_layers_and_the_encoder(self, outputs, config):
        loss, parts = region_proposal_loss(outputs, self.labels(), config)
        names = {f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou") for suffix in ("", "_0", "_1", "_enc")}
        assert names == {name for name in parts if name.startswith("loss")}
        expected = sum(
            {"ce": 1.5, "bbox": 3.5, "giou": 0.25}[name.split("_")[1]] * parts[name].item() for name in names
        )
        assert loss.item() == pytest.approx(expected, rel=1e-5)

    def test_logits_of_half_precision_are_compared_in_float32(self, outputs, config):
        logits = ("all_logits_coco", "all_logits_sa1b", "encoder_logits")
        half = SimpleNamespace(**{**outputs, **{name: outputs[name].bfloat16() for name in logits}})
        rounded = SimpleNamespace(**{**outputs, **{name: outputs[name].bfloat16().float() for name in logits}})
        loss, parts = region_proposal_loss(half, self.labels(), config)
        assert loss.dtype == torch.float32
        assert_close(parts, region_proposal_loss(rounded, self.labels(), config)[1])

    def test_coco_is_the_default_source(self, outputs, config):
        labels = self.labels()
        plain, coco, sa1b = (
            region_proposal_loss(outputs, [{**label, **source} for label in labels], config)[0].item()
            for source in ({}, {"source": "coco"}, {"source": "sa1b"})
        )
        assert plain == coco != sa1b

    @pytest.mark.parametrize(
        "box", [[0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.1, 0.1], [0.5, 0.5, 0.0, 0.0]]
    )
    def test_boxes_may_reach_the_border(self, box, outputs, config):
        labels = [{"boxes": torch.tensor([box])}, {"boxes": torch.zeros(0, 4)}]
        assert region_proposal_loss(outputs, labels, config)[0].isfinite()

    @pytest.mark.parametrize("place", range(4))
    @pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
    def test_boxes_outside_of_the_image_are_refused(self, place, value, outputs, config):
        labels = self.labels()
        labels[1]["boxes"] = torch.full((2, 4), 0.5)
        labels[1]["boxes"][1, place] = value
        with pytest.raises(ValueError, match=r"`labels\[1\]\['boxes'\]` must be normalized cxcywh"):
            region_proposal_loss(outputs, labels, config)

    def test_a_label_for_each_image(self, outputs, config):
        for labels in (self.labels()[:1], self.labels() + self.labels()[:1]):
            with pytest.raises(ValueError, match=f"each of the 2 images, got {len(labels)}"):
                region_proposal_loss(outputs, labels, config)

    def test_the_encoder_learns_from_its_own_boxes(self, outputs, config):
        parts = region_proposal_loss(outputs, self.labels(), config)[1]
        moved = SimpleNamespace(**{**outputs, "encoder_logits": outputs.encoder_logits + 1.0})
        others = region_proposal_loss(moved, self.labels(), config)[1]
        changed = {name for name in parts if not torch.allclose(parts[name], others[name])}
        assert "loss_ce_enc" in changed and not any("enc" not in name for name in changed)
