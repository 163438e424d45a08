"""Losses and gradients of the original GLaMM, from our columns through collator and model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from transformers_groma.data.columns import check_row, image_part, phrase_part, region_part, text_part
from transformers_groma.masks import mask_to_rle, rle_to_box
from transformers_groma.models.glamm.convert_glamm_checkpoint import convert_glamm_checkpoint
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.models.glamm.processing_glamm import GlammProcessor
from transformers_groma.training.glamm_collator import GlammCollator

from ..golden import load_case

CASES = ("gcg", "refseg", "region", "region_extra", "mixed")
# Names of the original's weights, and ours.
NAMES = {
    "lm_head.weight": "lm_head.weight",
    "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
    "model.layers.": "model.language_model.layers.",
    "model.text_hidden_fcs.0.0.": "model.prompt_projection.linear_1.",
    "model.text_hidden_fcs.0.2.": "model.prompt_projection.linear_2.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.grounding_encoder.mask_decoder.output_hypernetworks_mlps.0.layers.2.": (
        "model.mask_decoder.mask_decoder.output_hypernetworks_mlps.0.proj_out."
    ),
    "model.grounding_encoder.mask_decoder.output_upscaling.0.": "model.mask_decoder.mask_decoder.upscale_conv1.",
    "model.grounding_encoder.mask_decoder.": "model.mask_decoder.mask_decoder.",
    "model.region_encoder.mlvl_fuse.input_conv.": "model.region_encoder.input_convs.",
    "model.region_encoder.mlvl_fuse.fuse_convs.4.conv.": "model.region_encoder.fuse_layers.4.conv.",
    "model.region_encoder.roi_align.pconvs.": "model.region_encoder.roi_convs.",
    "model.region_encoder.roi_align.flatten_linear.": "model.region_encoder.roi_projection.",
    "model.region_encoder.roi_align.pos_embedd.": "model.region_encoder.box_embedding.",
    "model.region_encoder.roi_align.updims.": "model.region_encoder.output_projection.",
}
# The image is 576 places in our prompts and one in those of the original.
IMAGE = -200


@pytest.fixture(scope="module")
def golden() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "golden_glamm"
    if not folder.is_dir():
        pytest.skip("there is no shared/golden_glamm beside the checkout")
    return folder


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("golden_glamm") / "model"
    return convert_glamm_checkpoint(golden / "legacy_checkpoint", output, golden / "clip_tiny")


@pytest.fixture(scope="module")
def model(converted) -> GlammForConditionalGeneration:
    """All weights learn, but those of the image encoder: the original runs it without gradients."""
    model = GlammForConditionalGeneration.from_pretrained(converted, attn_implementation="eager").train()
    model.model.vision_tower.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def collator(converted) -> GlammCollator:
    return GlammCollator(GlammProcessor.from_pretrained(converted))


def golden_rows(golden: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a case in our columns."""
    notes, case = load_case(golden, f"train_{name}")
    images = load_file(golden / "case_inputs.safetensors")
    rows = []
    for index, (letter, text) in enumerate(zip(notes["images"], notes["conversations"], strict=True)):
        image = Image.fromarray(images[f"image_{letter}"].numpy())
        masks = [mask_to_rle(mask.bool().numpy()) for mask in case.get(f"gt_masks_{index}", ())]
        regions = (case.get(f"boxes_{index}", torch.zeros(0, 4)) * torch.tensor([*image.size] * 2)).tolist()
        rows.append(
            {
                "image": image,
                "image_id": letter,
                "source": name,
                "boxes_xyxy": [*(rle_to_box(mask).tolist() for mask in masks), *regions],
                "masks": [*masks, *[None] * len(regions)],
                "messages": golden_messages(text, len(masks)),
            }
        )
    return rows


def golden_messages(text: str, num_masks: int) -> list[dict[str, Any]]:
    """A conversation of the original as messages of our columns; boxes of masks come before those of regions."""
    segments, regions = iter(range(num_masks)), iter(range(num_masks, num_masks + 10))
    turns = re.findall(r"USER: (.*?) ASSISTANT: (.*?)</s>", text, flags=re.DOTALL)
    messages = []
    for number, (question, answer) in enumerate(turns):
        question = question.removeprefix("The <im_start><image><im_end> provides an overview of the picture.\n")
        parts = [] if number else [image_part()]
        for piece in re.split("(<bbox>)", question):
            if piece:
                parts.append(region_part(next(regions)) if piece == "<bbox>" else text_part(piece))
        messages.append({"role": "user", "content": parts})
        parts = []
        for piece in re.split(r"(<p> .*? </p> \[SEG\]|\[SEG\])", answer):
            if piece.endswith("[SEG]"):
                phrase = re.match("<p> (.*) </p>", piece)
                parts.append(phrase_part(phrase[1] if phrase else "", [next(segments)]))
            elif piece:
                parts.append(text_part(piece))
        messages.append({"role": "assistant", "content": parts})
    return messages


def our_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        if name.startswith(theirs):
            return ours + name[len(theirs) :].replace("norm_final_attn", "layer_norm_final_attn")
    raise KeyError(name)


def without_image(ids: Tensor, values: Tensor, image: int) -> list[int]:
    """Values of the places that are not the image's."""
    return values[ids != image].tolist()


@pytest.mark.parametrize("name", CASES)
def test_the_batch_is_the_original_one(golden, collator, name):
    """Ids, labels, boxes and masks; we pad on the left, and have a place for each patch."""
    _, case = load_case(golden, f"train_{name}")
    rows = golden_rows(golden, name)
    batch = collator(rows)
    for index, row in enumerate(rows):
        assert check_row(row, "conversation") is None
        seen = case["attention_mask"][index].bool()
        ids, labels = case["input_ids"][index][seen], case["labels"][index][seen]
        ours = batch["attention_mask"][index].bool()
        image = collator.processor.image_token_id
        own = batch["input_ids"][index][ours]
        assert (own == image).sum() == 576
        assert without_image(own, own, image) == without_image(ids, ids, IMAGE)
        assert without_image(own, batch["labels"][index][ours], image) == without_image(ids, labels, IMAGE)
        if "mask_labels" in batch:
            assert torch.equal(batch["mask_labels"][index], case[f"gt_masks_{index}"].bool())
    assert ("mask_labels" in batch) == ("gt_masks_0" in case)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_original_ones(golden, model, collator, name):
    notes, case = load_case(golden, f"train_{name}")
    model.zero_grad()
    output = model(**collator(golden_rows(golden, name)), use_cache=False)
    output.loss.backward()
    losses = notes["losses"]
    parts = {"loss": output.loss, "ce_loss": output.ce_loss}
    if output.bce_loss is None:
        assert losses["mask_loss"] == 0
    else:
        parts |= {"mask_bce_loss": 2 * output.bce_loss, "mask_dice_loss": 0.5 * output.dice_loss}
    for part, value in parts.items():
        assert_close(value.item(), losses[part], rtol=1e-5, atol=1e-6, msg=lambda text, n=part: f"{n}: {text}")
    weights = dict(model.named_parameters())
    assert sum(norm is not None for norm in notes["grad_norms"].values()) > 10
    for theirs, norm in notes["grad_norms"].items():
        gradient = weights[our_name(theirs)].grad
        if norm is None:
            assert gradient is None or not gradient.any(), theirs
            continue
        assert_close(gradient.norm().item(), norm, rtol=1e-3, atol=1e-6, msg=lambda text, n=theirs: f"{n}: {text}")
        sample = case[f"grad_{theirs}"]
        assert_close(
            gradient.flatten()[: len(sample)],
            sample,
            rtol=1e-3,
            atol=max(1e-4 * norm, 1e-6),
            msg=lambda text, n=theirs: f"{n}: {text}",
        )
