"""The region proposer: initialization, gradient flow, learning. Random weights, seconds."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrMultiscaleDeformableAttention

from tests.tiny import PROPOSER, spread_proposals, tiny_detector_config
from transformers_groma import GromaForRegionProposal, GromaProposerConfig
from transformers_groma.models.groma.modeling_groma_proposer import (
    GromaRegionProposer,
    _grid_proposals,
    _level_starts,
    box_position_code,
    build_input_projections,
    init_proposer_weights,
)


def tiny_proposer(**settings) -> GromaRegionProposer:
    """A proposer on maps of 12 channels whose heads have random weights."""
    torch.manual_seed(0)
    config = tiny_detector_config(**settings).proposer_config
    config._attn_implementation = "sdpa"
    proposer = GromaRegionProposer(config, 12).eval()
    init_proposer_weights(proposer)
    spread_proposals(proposer)
    for module in proposer.modules():
        if isinstance(module, DeformableDetrMultiscaleDeformableAttention):
            # Fresh ones look at the same places whatever the query is.
            nn.init.normal_(module.sampling_offsets.weight, std=0.3)
            nn.init.normal_(module.attention_weights.weight, std=0.3)
    return proposer


def feature_map(batch_size: int = 1, side: int = 4) -> torch.Tensor:
    return torch.randn(batch_size, 12, side, side, generator=torch.Generator().manual_seed(1))


def gradient(output: torch.Tensor, module: nn.Module) -> float:
    """How much of an output's gradient reaches a module."""
    weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((output * weights).sum(), list(module.parameters()), allow_unused=True)
    return sum(float(entry.abs().sum()) for entry in gradients if entry is not None)


class TestGradients:
    @pytest.mark.parametrize("refine", [True, False])
    def test_boxes_learn_from_the_layer_after_theirs_and_no_further(self, refine):
        proposer = tiny_proposer(decoder_layers=3, refine_reference_points=refine)
        for layer in range(3):
            for head in range(3):
                boxes = proposer(feature_map()).all_pred_boxes[:, layer]
                assert (gradient(boxes, proposer.bbox_embed[head]) > 0) == (layer - 1 <= head <= layer), (layer, head)

    @pytest.mark.parametrize("refine", [True, False])
    def test_no_gradient_runs_through_the_places_that_are_sampled(self, refine):
        proposer = tiny_proposer(decoder_layers=3, refine_reference_points=refine)
        for head in proposer.bbox_embed:
            assert gradient(proposer(feature_map()).decoder_hidden_states, head) == 0

    def test_no_gradient_runs_into_the_first_boxes(self):
        proposer = tiny_proposer()
        output = proposer(feature_map())
        assert not output.init_reference_points.requires_grad
        assert gradient(output.all_pred_boxes, proposer.bbox_embed[-1]) == 0
        assert gradient(proposer(feature_map()).encoder_box_logits[..., 5:7, :], proposer.bbox_embed[-1]) > 0


class TestForward:
    def test_as_many_queries_as_tokens_are_enough_and_one_more_is_not(self):
        output = tiny_proposer(num_queries=16, num_feature_levels=1)(feature_map())
        assert sorted(output.topk_proposals[0].tolist()) == list(range(16))
        with pytest.raises(ValueError, match=r"`num_queries` \(17\) is more than the 16 encoder tokens"):
            tiny_proposer(num_queries=17, num_feature_levels=1)(feature_map())
        # The tokens of all levels count: 16 and 4.
        assert tiny_proposer(num_queries=20, num_feature_levels=2)(feature_map()).pred_boxes.shape == (1, 20, 4)
        with pytest.raises(ValueError, match="more than the 20 encoder tokens"):
            tiny_proposer(num_queries=21, num_feature_levels=2)(feature_map())

    def test_the_decoder_starts_at_the_best_tokens(self):
        output = tiny_proposer()(feature_map(2))
        best = output.encoder_logits[..., 0].sort(dim=1, descending=True).indices[:, :10]
        assert torch.equal(output.topk_proposals, best)
        boxes = output.encoder_box_logits.sigmoid().gather(1, best[..., None].expand(-1, -1, 4))
        assert_close(output.init_reference_points, boxes)
        assert_close(output.pred_boxes, output.all_pred_boxes[:, -1])
        assert_close(output.logits_coco, output.all_logits_coco[:, -1])
        assert_close(output.logits_sa1b, output.all_logits_sa1b[:, -1])

    @pytest.mark.parametrize("weight", [0.4, 0.9])
    def test_scores_are_fused_of_both_heads(self, weight):
        output = tiny_proposer(coco_score_weight=weight)(feature_map())
        coco, sa1b = output.logits_coco[..., 0].sigmoid(), output.logits_sa1b[..., 0].sigmoid()
        assert_close(output.scores, coco**weight * sa1b ** (1 - weight))

    def test_dropout_is_on_in_training_and_off_in_evaluation(self):
        # Without encoder layers what comes out is the tokens themselves.
        proposer = tiny_proposer(encoder_layers=0, dropout=0.5)
        tokens = proposer(feature_map()).encoder_last_hidden_state
        assert torch.equal(tokens, proposer(feature_map()).encoder_last_hidden_state) and (tokens != 0).all()
        proposer.train()
        dropped = proposer(feature_map()).encoder_last_hidden_state
        assert 0.3 < (dropped == 0).float().mean() < 0.7
        assert_close(dropped[dropped != 0], 2 * tokens[dropped != 0])

    def test_every_level_has_its_own_embedding(self):
        proposer = tiny_proposer(num_feature_levels=2)
        before = proposer(feature_map()).encoder_last_hidden_state
        for level, tokens in enumerate((slice(0, 16), slice(16, 20))):
            changed = tiny_proposer(num_feature_levels=2)
            with torch.no_grad():
                changed.level_embed[level] += 3.0
            after = changed(feature_map()).encoder_last_hidden_state
            assert not torch.allclose(after[:, tokens], before[:, tokens], atol=1e-3)

    def test_images_of_a_batch_are_alone(self):
        proposer = tiny_proposer()
        batch = proposer(feature_map(3))
        for index in range(3):
            single = proposer(feature_map(3)[index : index + 1])
            assert_close(batch.pred_boxes[index], single.pred_boxes[0], atol=1e-5, rtol=1e-4)
            assert_close(batch.scores[index], single.scores[0], atol=1e-5, rtol=1e-4)


class TestPieces:
    @pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
    def test_maps_of_the_pyramid(self, num_levels):
        """Strides of a quarter, half, one and two patches: the last of them, as many as there are levels."""
        projections = build_input_projections(num_levels, vision_hidden_size=12, d_model=16)
        finest = [["T12>8", "N8", "G", "T8>4", "C4>16k1", "N16", "C16>16k3"], ["T12>8", "C8>16k1", "N16", "C16>16k3"]]
        expected = (
            [*finest, ["C12>16k1", "N16"], ["C12>16k3s2", "N16"]][-num_levels:]
            if num_levels > 1
            else [["C12>16k1", "N16"]]
        )
        described = []
        for projection in projections:
            layers = []
            for layer in projection:
                if isinstance(layer, nn.ConvTranspose2d):
                    assert layer.kernel_size == layer.stride == (2, 2)
                    layers.append(f"T{layer.in_channels}>{layer.out_channels}")
                elif isinstance(layer, nn.Conv2d):
                    assert layer.padding == (layer.kernel_size[0] // 2,) * 2
                    stride = f"s{layer.stride[0]}" if layer.stride[0] != 1 else ""
                    layers.append(f"C{layer.in_channels}>{layer.out_channels}k{layer.kernel_size[0]}{stride}")
                elif isinstance(layer, nn.GELU):
                    layers.append("G")
                else:
                    assert layer.eps == 1e-6
                    layers.append(f"N{len(layer.weight)}")
            described.append(layers)
        assert described == expected
        sides = [projection(torch.zeros(1, 12, 6, 6)).shape[-1] for projection in projections]
        assert sides == ([24, 12, 6, 3][-num_levels:] if num_levels > 1 else [6])

    def test_position_code(self):
        boxes = torch.tensor([[0.1, 0.2, 0.3, 0.9]])
        code = box_position_code(boxes, 6)
        expected = []
        for value in boxes[0].tolist():
            for pair in range(3):
                angle = value * 2 * math.pi / 10000 ** (2 * pair / 6)
                expected += [math.sin(angle), math.cos(angle)]
        assert_close(code, torch.tensor([expected]))
        assert box_position_code(boxes.double(), 6).dtype == torch.float32

    def test_level_starts(self):
        assert _level_starts([(4, 4)]) == [0]
        assert _level_starts([(4, 5), (2, 3), (1, 1)]) == [0, 20, 26]

    def test_grid_proposals_at_the_border_are_none(self):
        shapes = [(60, 3), (4, 60), (2, 2)]
        logits, inside = _grid_proposals(shapes, torch.device("cpu"))
        index = 0
        for level, (height, width) in enumerate(shapes):
            for row in range(height):
                for column in range(width):
                    box = [(column + 0.5) / width, (row + 0.5) / height, 0.05 * 2**level, 0.05 * 2**level]
                    expected = all(0.01 < value < 0.99 for value in box)
                    assert inside[0, index].item() == expected
                    if expected:
                        assert_close(logits[0, index].sigmoid(), torch.tensor(box))
                    else:
                        assert (logits[0, index] == torch.inf).all()
                    index += 1
        assert index == inside.shape[1] == logits.shape[1]
        assert 0 < inside.sum() < index

    def test_tokens_that_close_to_the_border_are_none(self):
        # The outer tokens of a grid of 50 are at 0.01 and 0.99 exactly.
        for side, kept in ((49, 49), (50, 48)):
            for shape in ((side, 3), (3, side)):
                assert _grid_proposals([shape], torch.device("cpu"))[1].sum() == 3 * kept

    def test_proposals_larger_than_the_image_are_none(self):
        assert _grid_proposals([(2, 2)] * 5, torch.device("cpu"))[1].all()
        inside = _grid_proposals([(2, 2)] * 6, torch.device("cpu"))[1][0]
        assert inside[:20].all() and not inside[20:].any()  # the sixth level's would be 1.6 of the image


class TestInitialWeights:
    @pytest.fixture(scope="class")
    def proposer(self) -> GromaRegionProposer:
        torch.manual_seed(0)
        config = GromaProposerConfig(**{**PROPOSER, "d_model": 64, "num_queries": 40, "encoder_attention_heads": 8})
        return GromaForRegionProposal(tiny_detector_config(**config.to_dict())).region_proposer

    def test_objectness_starts_at_a_hundredth(self, proposer):
        heads = (proposer.class_embed_enc, *proposer.class_embed_coco, *proposer.class_embed_sa1b)
        assert len(heads) == 5
        for head in heads:
            assert head.bias.sigmoid().item() == pytest.approx(0.01)

    def test_boxes_start_without_corrections(self, proposer):
        for head in proposer.bbox_embed:
            assert not head.layers[-1].weight.any() and not head.layers[-1].bias.any()
            assert head.layers[0].weight.any()

    def test_embeddings_start_with_a_normal_distribution(self, proposer):
        for weight in (proposer.level_embed, proposer.query_position_embeddings.weight):
            assert 0.8 < weight.std().item() < 1.2 and abs(weight.mean().item()) < 0.2

    def test_projections_start_with_xavier_weights(self, proposer):
        attentions = [m for m in proposer.modules() if isinstance(m, DeformableDetrMultiscaleDeformableAttention)]
        assert len(attentions) == 4
        projections = [getattr(a, name) for a in attentions for name in ("value_proj", "output_proj")]
        for linear in (proposer.enc_output, proposer.pos_trans, *projections):
            limit = math.sqrt(6 / (linear.in_features + linear.out_features))
            assert 0.9 * limit < linear.weight.abs().max().item() <= limit
        assert not any(linear.bias.any() for linear in projections)

    def test_every_attention_head_looks_in_its_own_direction(self, proposer):
        for module in proposer.modules():
            if not isinstance(module, DeformableDetrMultiscaleDeformableAttention):
                continue
            assert not module.sampling_offsets.weight.any()
            assert not module.attention_weights.weight.any() and not module.attention_weights.bias.any()
            offsets = module.sampling_offsets.bias.view(module.n_heads, module.n_levels, module.n_points, 2)
            for head in range(module.n_heads):
                angle = 2 * math.pi * head / module.n_heads
                x, y = math.cos(angle), math.sin(angle)
                direction = torch.tensor([x, y]) / max(abs(x), abs(y))
                for point in range(module.n_points):
                    for level in range(module.n_levels):
                        assert_close(offsets[head, level, point], direction * (point + 1), atol=1e-5, rtol=1e-5)
