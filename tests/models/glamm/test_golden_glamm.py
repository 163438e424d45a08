"""The converted golden checkpoint computes what the original computes, part by part, and in training.

Tolerances are those of the original against itself (one thread against two; FACTS of the golden data, section 12).
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from transformers_groma import convert_legacy_checkpoint
from transformers_groma.boxes import box_xyxy_to_cxcywh
from transformers_groma.models.glamm.convert_names_glamm import rename_glamm_key
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.models.modeling_mask_decoder import MaskEmbedding, MaskPrompts

PART, REGIONS, LOGITS, MASKS = ({"atol": atol, "rtol": 0} for atol in (1e-5, 5e-5, 3e-4, 5e-5))
# The original counts the image as one token, -200; ours has a placeholder for each patch.
ORIGINAL_IMAGE, NUM_IMAGE_TOKENS = -200, 576
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
TRAINING = ["gcg", "refseg", "region", "region_extra", "mixed"]


@pytest.fixture(scope="module")
def model(glamm_golden, tmp_path_factory) -> GlammForConditionalGeneration:
    folder = tmp_path_factory.mktemp("golden") / "converted"
    convert_legacy_checkpoint(glamm_golden / "legacy_checkpoint", folder, vision_encoder=glamm_golden / "clip_tiny")
    return GlammForConditionalGeneration.from_pretrained(folder).eval()


def load_case(folder: Path, name: str) -> tuple[dict, dict[str, Tensor]]:
    return json.loads((folder / f"case_{name}.json").read_text()), load_file(folder / f"case_{name}.safetensors")


def normalized(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    pixels = pixels.permute(2, 0, 1).float()
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def images(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """The two views of images, from the golden 8-bit pixels."""
    pixels = load_file(folder / "case_inputs.safetensors")
    clip = [normalized(pixels[f"clip_u8_{name}"] / 255, CLIP_MEAN, CLIP_STD) for name in names]
    sam = [normalized(pixels[f"sam_u8_{name}"], SAM_MEAN, SAM_STD) for name in names]
    padded = [torch.nn.functional.pad(view, (0, 256 - view.shape[2], 0, 256 - view.shape[1])) for view in sam]
    return {
        "pixel_values": torch.stack(clip),
        "grounding_pixel_values": torch.stack(padded),
        "grounding_sizes": torch.tensor([view.shape[1:] for view in sam]),
    }


def boxes_of(rows: list[Tensor]) -> Tensor:
    """Corners of each image's boxes as the model's `refer_boxes`."""
    rows = [box_xyxy_to_cxcywh(row.reshape(-1, 4).float()) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def expanded(ids: Tensor, values: Tensor, inside: int) -> Tensor:
    """Values of each original token, with `inside` at every patch of the image."""
    rows = []
    for row, own in zip(ids.tolist(), values.tolist(), strict=True):
        pairs = zip(row, own, strict=True)
        rows.append(
            [v for i, value in pairs for v in ([inside] * NUM_IMAGE_TOKENS if i == ORIGINAL_IMAGE else [value])]
        )
    return torch.tensor(rows)


class TestParts:
    @pytest.fixture(scope="class")
    def features(self, model, glamm_golden):
        with torch.no_grad():
            return model.get_image_features(
                **images(glamm_golden, ["A", "B"]), output_hidden_states=True, return_dict=True
            )

    def test_clip(self, model, glamm_golden, features):
        _, golden = load_case(glamm_golden, "clip")
        layers = model.config.region_encoder_config.vision_feature_layers
        assert_close(features.hidden_states[model.config.vision_feature_layer][0, 1:], golden["select_A"], **PART)
        for level, layer in enumerate(layers):
            assert_close(features.hidden_states[layer][0, 1:65], golden[f"level{level}_A_first64"], **PART)
        assert_close(features.pooler_output[0], golden["projected_A"], **PART)
        assert_close(features.pooler_output[1][:32], golden["projected_B_first32"], **PART)

    def test_regions(self, model, glamm_golden, features):
        _, golden = load_case(glamm_golden, "region")
        boxes = boxes_of([golden["boxes_A"], golden["boxes_B"]])
        encoder = model.model.region_encoder
        with torch.no_grad():
            encoded = model.encode_regions(features, boxes)
            maps = encoder.fuse_feature_maps(features.region_feature_maps)
        for row, name in enumerate("AB"):
            assert_close(encoded.pooler_output[row][NUM_IMAGE_TOKENS:], golden[f"region_{name}"], **REGIONS)
        for level in range(3):
            flat = maps[level].contiguous().flatten()
            sample = flat[:: flat.numel() // 4096][:4096]
            assert_close(sample, golden[f"fused_level{level}_sample"], **REGIONS)
        assert_close(maps[3][0, :, ::4, ::4], golden["fused_level3_first"], **REGIONS)

    def test_sam_encoder(self, model, glamm_golden, features):
        _, golden = load_case(glamm_golden, "sam_encoder")
        with torch.no_grad():
            assert_close(model.mask_embedding(features).image, golden["image_embeddings_AB"], **PART)

    def test_mask_decoder(self, model, glamm_golden):
        _, golden = load_case(glamm_golden, "sam_decoder")
        decoder, embedding = model.model.mask_decoder, MaskEmbedding(golden["image_embedding"])
        prompts = MaskPrompts(torch.zeros(3, dtype=torch.long), vectors=golden["text_embeds"][:, None])
        with torch.no_grad():
            logits, quality = decoder(embedding, prompts)
            several, _ = decoder(embedding, prompts, multimask=True)
            assert_close(decoder.image_positions(), golden["dense_pe"], **PART)
        assert_close(logits, golden["low_res_masks"], **PART)
        assert_close(quality, golden["iou"], **PART)
        assert_close(several[:1], golden["low_res_masks_multi_first"], **PART)
        masks = model.upright_masks(logits[:, 0], *golden["full_A"].shape[-2:])
        assert torch.equal(torch.from_numpy(masks), golden["full_A"][:, 0] > 0)

    def test_no_prompt_no_mask(self, model, glamm_golden):
        _, golden = load_case(glamm_golden, "sam_decoder")
        prompts = MaskPrompts(torch.zeros(0, dtype=torch.long), vectors=golden["text_embeds"][:0, None])
        logits, _ = model.model.mask_decoder(MaskEmbedding(golden["image_embedding"]), prompts)
        assert logits.shape == (0, 1, 64, 64)


@pytest.mark.parametrize("name", ["gcg", "none", "region"])
def test_logits_of_each_step(model, glamm_golden, name):
    notes, golden = load_case(glamm_golden, f"gen_{name}")
    ids = expanded(golden["prompt_ids"], golden["prompt_ids"], model.config.image_token_id)
    inputs = images(glamm_golden, [notes["image"]])
    if "boxes" in golden:
        inputs["refer_boxes"] = boxes_of([golden["boxes"]])
    output = model.generate(
        ids, **inputs, max_new_tokens=notes["max_new_tokens"], return_dict_in_generate=True, output_logits=True
    )
    assert output.sequences[0, ids.shape[1] :].tolist() == notes["generated"]
    assert_close(torch.cat(output.logits), golden["step_logits"], **LOGITS)
    assert_close(output.segment_states[0], golden["hidden_seg"], atol=1e-5, rtol=0)
    if notes["n_masks"]:
        assert_close(output.segment_logits[0], golden["low_res"], **MASKS)
        masks = model.upright_masks(output.segment_logits[0], *notes["mask_shape"][1:])
        assert torch.equal(torch.from_numpy(masks), golden["pred_masks"] > 0)


def training_inputs(model, folder: Path, name: str) -> tuple[dict, dict[str, Tensor], dict]:
    notes, golden = load_case(folder, f"train_{name}")
    ids, count = golden["input_ids"], len(notes["images"])
    inputs = {
        "input_ids": expanded(ids, ids, model.config.image_token_id),
        "attention_mask": expanded(ids, golden["attention_mask"], 1),
        "labels": expanded(ids, golden["labels"], -100),
        "mask_labels": [golden.get(f"gt_masks_{row}", torch.zeros(0, 8, 8)) for row in range(count)],
        **images(folder, notes["images"]),
    }
    boxes = [golden.get(f"boxes_{row}", torch.zeros(0, 4)) for row in range(count)]
    # The original drops a box without a mark, of which this case has one; here it is an error.
    boxes = [own[:1] for own in boxes] if name == "region_extra" else boxes
    if any(map(len, boxes)):
        inputs["refer_boxes"] = boxes_of(boxes)
    return notes, golden, inputs


@pytest.mark.parametrize("name", TRAINING)
def test_losses_and_gradients(model, glamm_golden, name):
    notes, golden, inputs = training_inputs(model, glamm_golden, name)
    model.train()
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    model.eval()
    given = [output.loss, output.ce_loss, 2 * output.bce_loss, 0.5 * output.dice_loss]
    names = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss")
    assert_close(
        torch.stack(given).double(), torch.tensor([notes["losses"][n] for n in names]).double(), rtol=1e-5, atol=1e-6
    )
    start = 610
    on = inputs["attention_mask"][:, start::3].bool()
    logits = output.logits[:, start::3]
    assert_close(logits[on], golden["logits_text"][:, : logits.shape[1]][on], **LOGITS)
    weights = dict(model.named_parameters())
    for key, norm in notes["grad_norms"].items():
        gradient = weights[rename_glamm_key(key)].grad
        if norm is None:
            assert gradient is None or not gradient.any()
            continue
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3)
        if f"grad_{key}" in golden:
            expected = golden[f"grad_{key}"]
            assert_close(gradient.flatten()[: len(expected)], expected, atol=2e-3 * norm, rtol=1e-2)
    for row, masks in enumerate(output.segment_logits or []):
        assert_close(masks, golden[f"low_res_{row}"], **MASKS)
        truth = golden[f"pred_masks_{row}"]
        found = model.upright_masks(masks.detach(), *truth.shape[-2:])
        assert torch.equal(torch.from_numpy(found), truth > 0)


def test_teacher_forced_referring_segmentation(model, glamm_golden):
    notes, golden = load_case(glamm_golden, "refseg_eval")
    ids = expanded(golden["input_ids"], golden["input_ids"], model.config.image_token_id)
    with torch.no_grad():
        output = model(ids, **images(glamm_golden, [notes["image"]]), mask_labels=[golden["gt_masks"]])
    assert_close(output.segment_logits[0], golden["low_res"], **MASKS)
    found = torch.from_numpy(model.upright_masks(output.segment_logits[0], *golden["gt_masks"].shape[-2:]))
    truth = golden["gt_masks"].bool()
    assert (found & truth).sum().item() == notes["intersection_bg_fg"][1]
    assert (found | truth).sum().item() == notes["union_bg_fg"][1]
