"""The detector alone: levels, heads, labels, and moving it into a complete model and back."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForObjectDetection

from tests.tiny import (
    spread_proposals,
    tiny_config,
    tiny_detector_config,
    tiny_model,
)
from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal
from transformers_groma.models.groma.loss_groma_proposer import region_proposal_loss

EXACT = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    # Some proposals are not good enough, so that images have different numbers of regions.
    return tiny_model(box_score_threshold=0.5)


class TestDetector:
    @pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
    @pytest.mark.parametrize("refine", [True, False])
    def test_levels(self, num_levels, refine):
        torch.manual_seed(0)
        config = tiny_detector_config(num_feature_levels=num_levels, refine_reference_points=refine)
        model = GromaForRegionProposal(config)
        labels = [{"boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]]), "source": "sa1b"}, {"boxes": torch.zeros(0, 4)}]
        output = model(torch.randn(2, 3, 56, 56), labels=labels)
        assert output.pred_boxes.shape == (2, 10, 4)
        tokens = sum(side * side for side in (16, 8, 4, 2)[-num_levels:]) if num_levels > 1 else 16
        assert output.proposer_output.encoder_logits.shape == (2, tokens, 1)
        output.loss.backward()
        unused = {"embeddings.mask_token", "layernorm.weight", "layernorm.bias"}
        for name, parameter in model.named_parameters():
            if name.removeprefix("vision_tower.") not in unused:
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name

    def test_every_image_teaches_the_head_of_its_source(self):
        """A mixed batch has, image by image, the losses of batches of one source."""
        torch.manual_seed(0)
        config = tiny_detector_config()
        model = GromaForRegionProposal(config).eval()
        spread_proposals(model.region_proposer)
        pixels = torch.randn(2, 3, 56, 56)
        boxes = torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.2, 0.3, 0.1, 0.2]])
        proposals = model(pixels).proposer_output

        def loss(*sources: str) -> dict[str, torch.Tensor]:
            labels = [{"boxes": boxes, "source": source} for source in sources]
            return region_proposal_loss(proposals, labels, config.proposer_config)[1]

        coco, sa1b, mixed = loss("coco", "coco"), loss("sa1b", "sa1b"), loss("coco", "sa1b")
        assert mixed["loss_ce"] not in (coco["loss_ce"], sa1b["loss_ce"])
        for index, (source, expected) in enumerate((("coco", coco), ("sa1b", sa1b))):
            one = model(pixels[index : index + 1]).proposer_output
            single = region_proposal_loss(one, [{"boxes": boxes, "source": source}], config.proposer_config)[1]
            other = 1 - index
            rest = model(pixels[other : other + 1]).proposer_output
            rest = region_proposal_loss(rest, [{"boxes": boxes, "source": source}], config.proposer_config)[1]
            assert_close((single["loss_ce"] + rest["loss_ce"]) / 2, expected["loss_ce"], **EXACT)
        first = region_proposal_loss(
            model(pixels[:1]).proposer_output, [{"boxes": boxes, "source": "coco"}], config.proposer_config
        )[1]
        second = region_proposal_loss(
            model(pixels[1:]).proposer_output, [{"boxes": boxes, "source": "sa1b"}], config.proposer_config
        )[1]
        assert_close(mixed["loss_ce"], (first["loss_ce"] + second["loss_ce"]) / 2, **EXACT)

    def test_refinement_moves_the_sampling(self):
        torch.manual_seed(0)
        refined = GromaForRegionProposal(tiny_detector_config(decoder_layers=3)).eval()
        spread_proposals(refined.region_proposer)
        fixed = GromaForRegionProposal(tiny_detector_config(decoder_layers=3, refine_reference_points=False)).eval()
        fixed.load_state_dict(refined.state_dict())
        pixels = torch.randn(1, 3, 56, 56)
        one, other = refined(pixels).proposer_output, fixed(pixels).proposer_output
        # The first layer is the same; later ones look at other places.
        assert_close(one.all_pred_boxes[:, 0], other.all_pred_boxes[:, 0])
        assert not torch.allclose(one.decoder_hidden_states[:, 2], other.decoder_hidden_states[:, 2])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([{"boxes": torch.tensor([[0.5, 0.5, 0.1, 0.1]]), "source": "voc"}], "'coco' or 'sa1b'"),
            ([{"boxes": torch.tensor([[50.0, 50.0, 10.0, 10.0]])}], "normalized cxcywh"),
            ([], "one dict for each"),
        ],
    )
    def test_bad_labels(self, labels, message):
        model = GromaForRegionProposal(tiny_detector_config())
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(1, 3, 56, 56), labels=labels)

    def test_more_queries_than_tokens(self):
        model = GromaForRegionProposal(tiny_detector_config(num_queries=17))
        with pytest.raises(ValueError, match="num_queries"):
            model(torch.zeros(1, 3, 56, 56))

    def test_loads_into_the_whole_model_and_back(self, tmp_path):
        torch.manual_seed(0)
        detector = GromaForRegionProposal(tiny_detector_config()).eval()
        detector.save_pretrained(tmp_path / "detector")
        assert type(AutoModelForObjectDetection.from_pretrained(tmp_path / "detector")) is GromaForRegionProposal

        model = GromaForConditionalGeneration.from_pretrained(tmp_path / "detector", config=tiny_config())
        expected = detector.state_dict()
        actual = model.model.state_dict()
        assert all(torch.equal(actual[name], value) for name, value in expected.items())

        model.save_pretrained(tmp_path / "whole")
        again = GromaForRegionProposal.from_pretrained(tmp_path / "whole", config=tiny_detector_config())
        assert all(torch.equal(again.state_dict()[name], value) for name, value in expected.items())

    def test_proposals_of_detector_and_whole_model_agree(self):
        whole = tiny_model()
        detector = GromaForRegionProposal(tiny_detector_config()).eval()
        detector.load_state_dict({k: v for k, v in whole.model.state_dict().items() if k in detector.state_dict()})
        pixels = torch.randn(2, 3, 56, 56)
        one, other = detector.propose_regions(pixels), whole.propose_regions(pixels)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.mask, other.mask)
