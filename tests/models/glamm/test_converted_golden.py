"""The golden checkpoint, converted, saved and loaded again by the Auto classes, answers as the original does."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from transformers_groma import convert_legacy_checkpoint
from transformers_groma.models.glamm.convert_names_glamm import rename_glamm_key

IMAGE_SPAN = 576


@pytest.fixture(scope="module")
def converted(glamm_golden, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    convert_legacy_checkpoint(
        glamm_golden / "legacy_checkpoint", folder / "first", vision_encoder=glamm_golden / "clip_tiny"
    )
    # What a user would do with it.
    AutoModelForImageTextToText.from_pretrained(folder / "first").save_pretrained(folder / "again")
    AutoProcessor.from_pretrained(folder / "first").save_pretrained(folder / "again")
    return folder / "again"


@pytest.fixture(scope="module")
def opened(converted):
    return AutoModelForImageTextToText.from_pretrained(converted).eval(), AutoProcessor.from_pretrained(converted)


def test_every_tensor_is_there_bit_for_bit(glamm_golden, opened):
    weights = opened[0].state_dict()
    original = load_file(glamm_golden / "legacy_checkpoint" / "model.safetensors")
    assert all(torch.equal(weights[rename_glamm_key(name)], value) for name, value in original.items())
    assert len(original) == sum(not name.startswith("model.vision_tower.") for name in weights)


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("gcg", "[grounding]Could you please give me a detailed description of the image?"),
        ("region", "Can you provide me with a detailed description of the region in the picture marked by <region>?"),
        ("none", "What is in the image?"),
    ],
)
def test_greedy_answers_and_their_masks(glamm_golden, opened, name, question):
    model, processor = opened
    notes = json.loads((glamm_golden / f"case_gen_{name}.json").read_text())
    golden = load_file(glamm_golden / f"case_gen_{name}.safetensors")
    pixels = load_file(glamm_golden / "case_inputs.safetensors")[f"image_{notes['image']}"]
    image = Image.fromarray(pixels.numpy())
    boxes = None
    if name == "region":
        # The original takes fractions of the whole image.
        size = torch.tensor([image.width, image.height] * 2)
        boxes = (golden["boxes"].reshape(-1, 4).float() * size).tolist()
    if name == "gcg":
        # The golden prompt has one space where the original's script has five.
        question = notes["prompt"].partition("picture.\n")[2].removesuffix(" ASSISTANT:")
    inputs = processor(images=image, text=question, boxes=boxes, return_tensors="pt")
    prompt = golden["prompt_ids"][0]
    place = (prompt == -200).nonzero()[0, 0].item()
    expected = prompt[:place].tolist() + [model.config.image_token_id] * IMAGE_SPAN + prompt[place + 1 :].tolist()
    assert inputs["input_ids"][0].tolist() == expected
    output = model.generate(**inputs, max_new_tokens=notes["max_new_tokens"], return_dict_in_generate=True)
    answer = output.sequences[0, len(expected) :].tolist()
    assert answer == golden["output_ids"][0, len(prompt) :].tolist() == notes["generated"]
    size = (image.height, image.width)
    found = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[size])[0]
    regions = found.regions[len(boxes or []) :]
    assert len(regions) == notes["n_masks"]
    if notes["n_masks"]:
        torch.testing.assert_close(output.segment_logits[0], golden["low_res"], rtol=0, atol=5e-5)
        masks = golden["pred_masks"] > 0
        for number, mask in zip(regions.ids, masks, strict=True):
            assert torch.equal(torch.as_tensor(found.masks[number]), mask)
        assert [phrase.text for phrase in found.phrases] == ["a red dog", "the grass"]
