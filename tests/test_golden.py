"""The converted checkpoint computes what the original code computes, stage by stage and end to end.

Tolerances are those of the original against itself (float32 against float64, one thread against two).
"""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.golden import (
    FIRST_PROXY,
    IMAGE,
    PAD,
    check_greedy_generation,
    expand_batch,
    golden_pixels,
    load_case,
    pad_boxes,
)
from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal
from transformers_groma.boxes import nms
from transformers_groma.models.convert_saved_tensors import open_checkpoint
from transformers_groma.models.groma.convert_config import convert_legacy_config
from transformers_groma.models.groma.convert_groma_checkpoint import convert_groma_checkpoint
from transformers_groma.models.groma.convert_names import rename_legacy_key
from transformers_groma.models.groma.convert_weights import convert_legacy_state_dict
from transformers_groma.models.groma.loss_groma_proposer import region_proposal_loss
from transformers_groma.models.groma.modeling_groma_regions import resolve_box_tokens, select_regions
from transformers_groma.models.modeling_ops import GromaMultiScaleDeformableAttention, GromaRoiAlign

VISION, ONE_LEVEL, FOUR_LEVELS, END_TO_END = ({"atol": atol, "rtol": 0} for atol in (1e-4, 1e-4, 1e-3, 2e-3))


@pytest.fixture(scope="module")
def model(converted_golden) -> GromaForConditionalGeneration:
    return GromaForConditionalGeneration.from_pretrained(converted_golden).eval()


@pytest.fixture(scope="module")
def pixels(golden_dir) -> torch.Tensor:
    return golden_pixels(golden_dir)


@pytest.fixture(scope="module")
def vision(model, pixels):
    with torch.no_grad():
        return model.detect(pixels).vision


@pytest.fixture(scope="module")
def proposals(model, vision):
    with torch.no_grad():
        return model.model.region_proposer(model.model.proposer_feature_map(vision.hidden_states))


class TestStages:
    def test_vision(self, shared_golden, model, vision):
        _, golden = load_case(shared_golden, "vision")
        assert_close(vision.hidden_states[0][:1], golden["embedding_output"], **VISION)
        for index in (-4, -3, -2, -1):
            expected = golden[f"hidden_states[{index}]"]
            assert_close(vision.hidden_states[index][: len(expected)], expected, **VISION)
        assert_close(vision.last_hidden_state[:1], golden["last_hidden_state_after_layernorm"], **VISION)
        merged = model.model.proposer_feature_map(vision.hidden_states)[:1].flatten(2).transpose(1, 2)
        assert_close(merged, golden["mean_last4_patches"], **VISION)
        baked = model.model.vision_tower.embeddings.position_embeddings
        assert_close(baked.detach(), golden["pos_embed_interpolated"], atol=1e-6, rtol=0)

    def test_proposer_with_one_level(self, shared_golden, proposals):
        _, golden = load_case(shared_golden, "perceiver_l1")
        assert torch.equal(proposals.topk_proposals, golden["topk_proposals"])
        for name, expected in {
            "encoder_last_hidden_state": golden["encoder_last_hidden_state"],
            "encoder_logits": golden["enc_outputs_class"],
            "encoder_box_logits": golden["enc_outputs_coord_logits"],
            "init_reference_points": golden["init_reference_points"],
            "decoder_hidden_states": golden["decoder_hidden_states"],
            "all_pred_boxes": golden["coords_all_levels"],
            "all_logits_coco": golden["logits_coco_all_levels"],
            "all_logits_sa1b": golden["logits_sa1b_all_levels"],
            "pred_boxes": golden["pred_boxes"],
            "logits_coco": golden["logits_coco"],
            "logits_sa1b": golden["logits_sa1b"],
            "scores": golden["scores_fused"],
        }.items():
            assert_close(proposals[name], expected, **ONE_LEVEL, msg=lambda text, name=name: f"{name}: {text}")

    def test_proposer_with_four_levels(self, shared_golden, tmp_path, pixels):
        notes, golden = load_case(shared_golden, "perceiver_l4")
        folder = convert_groma_checkpoint(shared_golden / "legacy_checkpoint_ddetr_l4", tmp_path / "detector")
        detector = GromaForRegionProposal.from_pretrained(folder).eval()
        _, losses = load_case(shared_golden, "det_loss")
        labels = [{"boxes": losses["boxes_0"][:4], "source": "coco"}]
        with torch.no_grad():
            output = detector(pixels[:1], labels=labels)
        proposals = output.proposer_output
        assert torch.equal(proposals.topk_proposals, golden["topk_proposals"])
        assert torch.equal(proposals.encoder_box_logits.isinf().all(dim=-1), golden["enc_coord_is_inf"])
        index = golden["token_index"]
        for actual, expected in (
            (proposals.encoder_last_hidden_state[:, index], golden["encoder_last_hidden_state_at_token_index"]),
            (proposals.encoder_logits, golden["enc_outputs_class"]),
            (proposals.encoder_box_logits[:, index], golden["enc_outputs_coord_logits_at_token_index"]),
            (proposals.decoder_hidden_states, golden["decoder_hidden_states"]),
            (proposals.all_pred_boxes, golden["coords_all_levels"]),
            (proposals.all_logits_coco, golden["logits_coco_all_levels"]),
            (proposals.all_logits_sa1b, golden["logits_sa1b_all_levels"]),
            (proposals.scores, golden["scores_fused"]),
        ):
            assert_close(actual, expected, **FOUR_LEVELS)
        assert output.loss.item() == pytest.approx(notes["loss"], rel=1e-4)

    def test_selection(self, golden_dir):
        _, golden = load_case(golden_dir, "selection")
        selection = select_regions(
            golden["pred_boxes"], golden["scores_fused"], max_regions=100, nms_threshold=0.6, score_threshold=0.15
        )
        for index in range(2):
            expected = golden[f"selected_boxes_{index}"]
            assert selection.mask[index].sum() == len(expected)
            assert torch.equal(selection.boxes[index][selection.mask[index]], expected)

    def test_region_encoder(self, golden_dir, model, vision):
        _, golden = load_case(golden_dir, "region_encoder")
        encoder = model.model.region_encoder
        maps = [model.model.feature_map(vision.hidden_states[index]) for index in (-3, -2, -1)]
        boxes = pad_boxes([golden["boxes_0"], golden["boxes_1"]])
        mask = (boxes != 0).any(dim=-1)
        with torch.no_grad():
            fused = encoder.fuse_feature_maps(maps)
            for size, stride in ((128, 8), (64, 4), (32, 2)):
                actual = next(level for level in fused if level.shape[-1] == size)[:1, :, ::stride, ::stride]
                assert_close(actual, golden[f"fuse_{size}_strided"], **VISION)
            features = encoder(maps, boxes, mask)
            for index in range(2):
                assert_close(features[index][mask[index]], golden[f"features_{index}"], **VISION)
            assert not features[~mask].any()
            # The second image without any box.
            mask = torch.tensor([[True, True], [False, False]])
            features = encoder(maps, boxes[:, :2], mask)
            assert_close(features[0], golden["features_second_image_empty_0"], **VISION)

    @pytest.mark.parametrize("case", ["coco", "sa1b", "coco_second_image_empty", "coco_all_empty"])
    def test_detection_loss(self, golden_dir, model, proposals, case):
        notes, golden = load_case(golden_dir, "det_loss")
        run = notes["runs"][case]
        boxes = {0: golden["boxes_0"], 1: golden["boxes_1"]}
        if case == "coco_second_image_empty":
            boxes[1] = boxes[1][:0]
        if case == "coco_all_empty":
            boxes = {0: boxes[0][:0], 1: boxes[1][:0]}
        labels = [{"boxes": boxes[index], "source": run["source"]} for index in range(2)]
        loss, losses = region_proposal_loss(proposals, labels, model.config.proposer_config)
        assert loss.item() == pytest.approx(run["loss"], rel=1e-5)
        for name, expected in run["loss_dict"].items():
            # Today's library counts confident predictions there; it is not part of the loss.
            if not name.startswith("cardinality"):
                assert losses[name].item() == pytest.approx(expected, rel=1e-4, abs=1e-5), name

    @pytest.mark.parametrize("case", ["coco", "sa1b"])
    def test_detection_gradients(self, golden_dir, model, vision, case):
        notes, golden = load_case(golden_dir, "det_loss")
        proposer = copy.deepcopy(model.model.region_proposer)
        proposals = proposer(model.model.proposer_feature_map(vision.hidden_states))
        labels = [{"boxes": golden[f"boxes_{index}"], "source": case} for index in range(2)]
        region_proposal_loss(proposals, labels, model.config.proposer_config)[0].backward()
        parameters = dict(proposer.named_parameters())
        compared = 0
        for key, expected in notes["runs"][case]["grad_norm_and_grad_dot_param"].items():
            if key.startswith("vis_encoder."):
                continue
            parameter = parameters[rename_legacy_key(f"perceiver.{key}").removeprefix("model.region_proposer.")]
            if expected is None:  # the other source's heads
                assert parameter.grad is None or not parameter.grad.any(), key
                continue
            norm, dot = expected
            assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), key
            assert (parameter.grad * parameter).sum().item() == pytest.approx(dot, rel=1e-3, abs=1e-3), key
            compared += 1
        assert compared > 100
        for name, expected in golden.items():
            if name.startswith(f"{case}.grad."):
                key = rename_legacy_key(f"perceiver.{name.removeprefix(f'{case}.grad.')}")
                actual = parameters[key.removeprefix("model.region_proposer.")].grad
                assert_close(actual, expected, atol=1e-4, rtol=1e-3)


class TestOperators:
    def test_roi_align(self, golden_dir):
        _, golden = load_case(golden_dir, "ops")
        rois = golden["roialign.rois"]
        for size, stride in ((14, 7), (7, 28), (14, 28)):
            for image in range(2):
                mine = rois[:, 0] == image
                (crops,) = GromaRoiAlign()(
                    [golden["roialign.feat"][image : image + 1]], rois[mine][None, :, 1:], [1 / stride], size, 2
                )
                assert_close(crops, golden[f"roialign.out{size}_stride{stride}"][mine], atol=1e-5, rtol=1e-5)

    def test_deformable_attention(self, golden_dir):
        _, golden = load_case(golden_dir, "ops")
        shapes = [tuple(shape) for shape in golden["msda.spatial_shapes"].tolist()]
        output = GromaMultiScaleDeformableAttention()(
            golden["msda.value"],
            golden["msda.spatial_shapes"],
            shapes,
            torch.tensor([0, shapes[0][0] * shapes[0][1]]),
            golden["msda.sampling_locations"],
            golden["msda.attention_weights"],
            64,
        )
        assert_close(output, golden["msda.output"], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("thr0.6_score0.15_max100", (0.6, 0.15, 100)),
            ("thr0.6_score0_max20", (0.6, 0.0, 20)),
            ("thr0.3_score0.5_all", (0.3, 0.5, None)),
        ],
    )
    def test_nms(self, golden_dir, name, arguments):
        _, golden = load_case(golden_dir, "ops")
        assert torch.equal(nms(golden["nms.boxes"], golden["nms.scores"], *arguments), golden[f"nms.{name}"])


def run_case(model, folder: Path, pixels: torch.Tensor, name: str):
    """Our output, the golden tensors, and for every row the positions that the original has too."""
    notes, golden = load_case(folder, name)
    inputs = expand_batch(golden["input_ids"], golden.get("labels"))
    given = {key: value.clone() for key, value in inputs.items()}
    for kind in ("refer", "ground"):
        boxes = [golden[key] for key in sorted(golden) if key.startswith(f"{kind}_boxes_")]
        if boxes:
            inputs[f"{kind}_boxes"] = pad_boxes(boxes)
    output = model(pixel_values=pixels[: len(golden["input_ids"])], **inputs)
    for key, value in given.items():
        assert torch.equal(inputs[key], value), f"`{key}` was changed in place"
    placeholders = inputs["input_ids"] == IMAGE
    mask = model.model.mask_unused_regions(inputs["attention_mask"], placeholders, output.region_mask)
    return notes, golden, inputs, output, [row.nonzero()[:, 0] for row in mask]


class TestEndToEnd:
    @pytest.mark.parametrize("name", ["groma_plain", "groma_labels", "groma_ground", "groma_refer"])
    def test_forward(self, shared_golden, model, pixels, name):
        with torch.no_grad():
            notes, golden, _, output, positions = run_case(model, shared_golden, pixels, name)
        if "loss" in notes:
            assert output.loss.item() == pytest.approx(notes["loss"], abs=1e-4)
        for index, row in enumerate(positions):
            length = notes["expanded_lengths"][index]
            assert len(row) == length
            num_regions = len(golden[f"selected_boxes_{index}"])
            assert_close(output.region_boxes[index, :num_regions], golden[f"selected_boxes_{index}"], **ONE_LEVEL)
            assert output.num_regions[index] == num_regions
            visual = output.image_hidden_states[index, 256 : 256 + num_regions]
            assert_close(visual, golden[f"region_features_{index}"], **END_TO_END)
            logits = output.logits[index, row]
            if "logits" in golden:
                assert_close(logits, golden["logits"][index, :length], **END_TO_END)
            else:
                # The golden logits start behind the image: three tokens and 256 patches.
                assert_close(logits[259:], golden["logits_from_image_end"][index, : length - 259], **END_TO_END)

    @pytest.mark.parametrize("name", ["groma_plain", "groma_labels", "groma_ground", "groma_refer"])
    def test_expanded_sequence(self, shared_golden, model, pixels, name):
        with torch.no_grad():
            _, golden, inputs, output, positions = run_case(model, shared_golden, pixels, name)
            features = model.get_image_features(
                pixels, inputs.get("refer_boxes"), inputs.get("ground_boxes"), return_dict=True
            )
        ids = inputs["input_ids"]
        for token, slots in ((330, features.refer_slots), (331, features.ground_slots)):
            ids = ids if slots is None else resolve_box_tokens(ids, token, slots, FIRST_PROXY)
        for index, row in enumerate(positions):
            expected = golden["expanded_input_ids"][index]
            expected = expected[expected != PAD]
            # The original has three placeholder ids: <image>, <region> and <refer_feat>.
            expected = torch.where((expected == 329) | (expected == 332), IMAGE, expected)
            assert torch.equal(ids[index, row], expected)
        if name == "groma_plain":
            assert_close(output.image_hidden_states[0, :256], golden["image_features_after_bridge"][0], **VISION)

    def test_user_boxes_that_overlap_keep_their_own_slots(self, shared_golden, model, pixels):
        # The original lets the first suppress the second; everything before the question is the same.
        _, golden = load_case(shared_golden, "groma_refer_tied")
        inputs = expand_batch(golden["input_ids"])
        boxes = golden["refer_boxes_0"][None]
        with torch.no_grad():
            output = model(pixel_values=pixels[:1], refer_boxes=boxes, **inputs)
        assert torch.equal(output.region_boxes[0, :3], boxes[0])
        assert (output.region_scores[0, :3] == 1).all()

    def test_gradients(self, shared_golden, converted_golden, pixels):
        model = GromaForConditionalGeneration.from_pretrained(converted_golden).eval()
        model.model.vision_tower.requires_grad_(False)
        notes, golden, _, output, _ = run_case(model, shared_golden, pixels, "groma_ground")
        output.loss.backward()
        parameters = dict(model.named_parameters())
        compared = 0
        for key, expected in notes["grad_norm_and_grad_dot_param"].items():
            name = rename_legacy_key(key)
            if expected is None:
                assert parameters[name].grad is None, key
                continue
            gradient, parameter = parameters[name].grad, parameters[name]
            # Joined tables: the original's rows are the first or the last ones.
            num_added = 114
            if key in ("llm.model.embed_tokens.weight", "llm.lm_head.weight"):
                gradient, parameter = gradient[:-num_added], parameter[:-num_added]
            if key in ("new_input_embs.weight", "extra_lm_head.weight"):
                gradient, parameter = gradient[-num_added:], parameter[-num_added:]
            norm, dot = expected
            assert gradient.norm().item() == pytest.approx(norm, rel=1e-2, abs=1e-4), key
            assert (gradient * parameter).sum().item() == pytest.approx(dot, rel=2e-2, abs=2e-3), key
            compared += 1
        assert compared > 40
        for name, expected in golden.items():
            if name.startswith("grad."):
                key = name.removeprefix("grad.")
                gradient = parameters[rename_legacy_key(key)].grad
                if key in ("new_input_embs.weight", "extra_lm_head.weight"):
                    gradient = gradient[-114:]
                assert_close(gradient, expected, atol=5e-4, rtol=0)

    @pytest.mark.parametrize("name", ["plain", "refer"])
    def test_greedy_generation(self, golden_dir, model, name):
        check_greedy_generation(model, golden_dir, name, END_TO_END["atol"])


class TestRealSize:
    def test_all_released_names_map(self, shared_golden):
        shapes = {}
        for line in (shared_golden / "real_size_keys.txt").read_text().splitlines():
            name, shape = line.split("\t")[:2]
            shapes[name] = tuple(int(side) for side in shape.strip("()").split(",") if side.strip())
        assert len(shapes) == 1177
        state_dict = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        config = convert_legacy_config(json.loads((shared_golden / "real_size_config.json").read_text()), state_dict)
        converted = convert_legacy_state_dict(state_dict, config)  # raises for names left over or missing
        original = 7_377_311_657
        # The position table shrinks from 37x37 to 32x32 when it is baked.
        assert sum(tensor.numel() for tensor in converted.values()) == original - (37 * 37 - 32 * 32) * 1024

    def test_golden_checkpoint_names_map(self, golden_dir):
        state_dict = open_checkpoint(golden_dir / "legacy_checkpoint").read()
        assert len({rename_legacy_key(name) for name in state_dict}) == len(state_dict) - 2  # two joined tables
