"""The step from images to proposals, and its pieces."""

import pytest
import torch

from transformers_groma import GromaForRegionProposal, GromaModel
from transformers_groma.models.groma.modeling_groma_proposer import GromaRegionProposerOutput
from transformers_groma.models.modeling_parts import (
    no_autocast,
    requested_hidden_states,
    requested_output,
)

from ...tiny import tiny_detector, tiny_detector_config, tiny_inputs, tiny_model


class TestPieces:
    @pytest.fixture(scope="class")
    def model(self) -> GromaModel:
        return tiny_model(proposer_config={"num_vision_layers": 2}).model

    @pytest.mark.parametrize("shape", [(3, 56, 56), (1, 3, 56, 57), (1, 3, 57, 56), (1, 3, 28, 28), (1, 1, 3, 56, 56)])
    def test_pixels_of_another_shape_are_refused_before_any_work(self, model, shape, monkeypatch):
        monkeypatch.setattr(type(model.vision_tower), "forward", lambda *_, **__: pytest.fail("the encoder ran"))
        with pytest.raises(
            ValueError, match=rf"\(number of images, channels, 56, 56\), got \({shape[0]}, .*own processor"
        ):
            model.detect(torch.zeros(shape))

    def test_patches_as_a_map_row_by_row_without_other_tokens(self, model):
        for num_others in (0, 1, 5):
            tokens = torch.arange((num_others + 16) * 2.0).view(1, -1, 2)
            feature_map = model.feature_map(tokens)
            assert feature_map.shape == (1, 2, 4, 4)
            for row in range(4):
                for column in range(4):
                    assert torch.equal(feature_map[0, :, row, column], tokens[0, num_others + 4 * row + column])

    @pytest.mark.parametrize("num_layers", [1, 2, 3])
    def test_the_proposer_sees_the_mean_of_the_last_layers(self, num_layers):
        model = tiny_model(proposer_config={"num_vision_layers": num_layers}).model
        states = tuple(torch.full((1, 17, 2), float(3**layer)) for layer in range(4))
        expected = sum(3**layer for layer in range(4)[-num_layers:]) / num_layers
        torch.testing.assert_close(model.proposer_feature_map(states), torch.full((1, 2, 4, 4), expected))

    @pytest.mark.parametrize(
        ("asked", "configured", "expected"),
        [(None, False, False), (None, True, True), (False, True, False), (True, False, True), ([1], False, [1])],
    )
    def test_what_the_call_says_comes_before_the_configuration(self, asked, configured, expected):
        config = tiny_detector_config()
        config.output_hidden_states = configured
        assert requested_output({"output_hidden_states": asked}, config, "output_hidden_states") == expected
        assert requested_output({}, config, "output_hidden_states") is configured

    def test_hidden_states_that_are_asked_for(self):
        states, config = tuple(torch.tensor(float(index)) for index in range(4)), tiny_detector_config()
        for asked, kept in (
            (None, None),
            (False, None),
            ([], None),
            (True, [0, 1, 2, 3]),
            ([0], [0]),
            ([-1, 2], [2, 3]),
        ):
            found = requested_hidden_states(states, {"output_hidden_states": asked}, config)
            if kept is None:
                assert found is None
            else:
                assert [index for index, state in enumerate(found) if state is not None] == kept
                assert all(found[index] is states[index] for index in kept) and len(found) == 4

    def test_autocast_is_off_inside(self):
        weight = torch.ones(2, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (weight @ weight).dtype == torch.bfloat16
            with no_autocast(weight):
                assert (weight @ weight).dtype == torch.float32
            assert (weight @ weight).dtype == torch.bfloat16

    @pytest.mark.parametrize(("chosen", "expected"), [("eager", "eager"), ("sdpa", "sdpa")])
    def test_attention_of_the_proposer(self, chosen, expected):
        config = tiny_detector_config()
        config._attn_implementation = chosen
        assert GromaForRegionProposal(config).config.proposer_config._attn_implementation == expected

    def test_regions_are_chosen_with_the_settings_of_the_configuration(self):
        model = tiny_model(max_regions=3, nms_threshold=0.3, box_score_threshold=0.4).model
        boxes = torch.tensor(
            [[[0.3, 0.3, 0.2, 0.2], [0.3, 0.36, 0.2, 0.2], [0.7, 0.7, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1]]]
        )
        proposals = GromaRegionProposerOutput(pred_boxes=boxes, scores=torch.tensor([[0.9, 0.8, 0.41, 0.39]]))
        selection = model.select_regions(proposals)
        assert selection.mask.tolist() == [[True, True, False]]
        torch.testing.assert_close(selection.boxes[0, :2], boxes[0, [0, 2]])
        torch.manual_seed(0)
        firsts = {model.select_regions(proposals, permute=True).scores[0, 0].item() for _ in range(20)}
        assert len(firsts) == 2


class TestDetect:
    """The one step from images to proposals."""

    def test_it_is_the_vision_encoder_and_the_proposer_in_every_class(self):
        groma, detector = tiny_model(), tiny_detector()
        detector.load_state_dict(groma.model.state_dict(), strict=False)
        pixels = tiny_inputs(groma.config)["pixel_values"]
        expected = detector(pixels, output_hidden_states=True)
        for model in (groma, groma.model, detector):
            vision, proposals = model.detect(pixels)
            assert len(vision.hidden_states) == 5
            for found, state in zip(vision.hidden_states, expected.hidden_states, strict=True):
                assert torch.equal(found, state)
            for name, value in expected.proposer_output.items():
                assert torch.equal(proposals[name], value), name

    def test_proposals_are_exact_constants_and_the_vision_encoder_can_learn(self):
        model = tiny_model()
        pixels = tiny_inputs(model.config)["pixel_values"]
        exact = model.detect(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vision, proposals = model.detect(pixels)
        assert torch.equal(proposals.pred_boxes, exact.proposals.pred_boxes)
        assert torch.equal(vision.last_hidden_state, exact.vision.last_hidden_state)
        assert vision.last_hidden_state.requires_grad and not proposals.scores.requires_grad

    def test_for_losses_gradients_reach_the_proposer_and_autocast_applies(self):
        model = tiny_detector()
        pixels = torch.randn(1, 3, 56, 56)
        exact = model.detect(pixels, differentiable=True)
        assert torch.equal(exact.proposals.scores, model.detect(pixels).proposals.scores)
        exact.proposals.scores.sum().backward()
        assert model.region_proposer.class_embed_coco[-1].weight.grad.any()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not torch.equal(model.detect(pixels, differentiable=True).proposals.scores, exact.proposals.scores)

    def test_attentions_are_returned_when_asked_for(self):
        model = GromaForRegionProposal(tiny_detector_config()).eval()
        model.set_attn_implementation("eager")
        pixels = torch.zeros(1, 3, 56, 56)
        assert not model.detect(pixels).vision.attentions
        assert len(model.detect(pixels, output_attentions=True).vision.attentions) == 4
