"""peft adapters, added in every usual way. Random weights, seconds."""

import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.tiny import MASK_DECODER, skip_if_peft_is_too_old, tiny_detector, tiny_glamm, tiny_inputs, tiny_model
from transformers_groma.models.groma.modeling_groma_base import GromaPreTrainedModel
from transformers_groma.models.modeling_adapters import pattern_of_parts

PARTS = (
    "vision_tower",
    "region_proposer",
    "mask_decoder",
    "region_encoder",
    "multi_modal_projector",
    "language_model",
    "lm_head",
)


def adapted_parts(model, adapter: str = "default") -> set[str]:
    names = [name for name, _ in model.named_parameters() if ".lora_A." in name and f".{adapter}." in name]
    return {part for name in names for part in PARTS if part in name.split(".")}


def lora(**settings) -> LoraConfig:
    return LoraConfig(**{"r": 2, "init_lora_weights": False, "target_modules": "all-linear", **settings})


def as_peft_model(model, config):
    return get_peft_model(model, config)


def with_add_adapter(model, config):
    skip_if_peft_is_too_old()
    model.add_adapter(config)
    return model


WAYS = pytest.mark.parametrize("adapt", [as_peft_model, with_add_adapter])


@WAYS
@pytest.mark.parametrize(
    ("target_modules", "parts"),
    [
        ("all-linear", {"region_encoder", "multi_modal_projector", "language_model"}),
        (["q_proj", "v_proj"], {"language_model"}),
        (r".*\.(q_proj|fc1|output_projection)", {"region_encoder", "language_model"}),
    ],
)
@pytest.mark.parametrize("mask_decoder_config", [None, MASK_DECODER], ids=["boxes only", "mask decoder"])
def test_parts_that_do_not_learn_from_text_are_left_alone(adapt, target_modules, parts, mask_decoder_config):
    model = tiny_model(mask_decoder_config=mask_decoder_config)
    inputs = tiny_inputs(model.config)
    expected, before = model.propose_regions(inputs["pixel_values"]), model(**inputs).logits
    names = {
        name
        for name, _ in model.named_parameters()
        if set(name.split(".")) & set(GromaPreTrainedModel.parts_without_text)
    }
    adapted = adapt(model, lora(target_modules=target_modules)).eval()
    assert adapted_parts(adapted) == parts
    found = {name.removeprefix("base_model.model.") for name, _ in adapted.named_parameters()}
    assert names <= found  # the plain layers are back under their names
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trainable and all(".lora_" in name for name in trainable)
    assert torch.equal(model.propose_regions(inputs["pixel_values"]).boxes, expected.boxes)
    assert not torch.allclose(adapted(**inputs).logits, before)
    adapted(labels=inputs["input_ids"], **inputs).loss.backward()
    assert all(parameter.grad is not None for parameter in adapted.parameters() if parameter.requires_grad)


def test_an_adapter_is_saved_and_loaded_without_the_detector(tmp_path):
    model = tiny_model()
    inputs = tiny_inputs(model.config)
    adapted = get_peft_model(model, lora()).eval()
    expected = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path)
    for is_trainable in (False, True):
        again = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=is_trainable).eval()
        assert adapted_parts(again) == adapted_parts(adapted)
        assert_close(again(**inputs).logits, expected)
    loaded = tiny_model()
    loaded.load_adapter(tmp_path)
    assert adapted_parts(loaded) == adapted_parts(adapted)
    assert_close(loaded(**inputs).logits, expected)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model) and not adapted_parts(merged)
    assert_close(merged(**inputs).logits, expected, atol=1e-5, rtol=1e-4)
    assert not hasattr(merged, "peft_config")


@WAYS
def test_who_says_what_to_exclude_decides(adapt):
    assert "region_proposer" in adapted_parts(adapt(tiny_model(), lora(exclude_modules=[])))
    parts = adapted_parts(adapt(tiny_model(), lora(exclude_modules=r".*(language_model|vision_tower).*")))
    assert parts == {"region_proposer", "region_encoder", "multi_modal_projector"}


@WAYS
def test_an_adapter_of_the_detector_alone_stays(adapt):
    regex = r".*(vision_tower|region_proposer).*\.(query|q_proj)"
    assert adapted_parts(adapt(tiny_model(), lora(target_modules=regex))) == {"vision_tower", "region_proposer"}
    detector = tiny_detector().train()
    assert adapted_parts(adapt(detector, lora())) == {"vision_tower", "region_proposer"}


def test_an_adapter_of_the_mask_decoder_alone_stays():
    """For who trains it with masks."""
    model = tiny_model(mask_decoder_config=MASK_DECODER)
    adapted = get_peft_model(model, lora(target_modules=r".*mask_decoder.*\.(q_proj|region_projection)"))
    assert adapted_parts(adapted) == {"mask_decoder"}


def test_two_adapters():
    skip_if_peft_is_too_old()
    model = tiny_model()
    model.add_adapter(lora(target_modules=r".*region_proposer.*\.q_proj"), "detector")
    model.add_adapter(lora(), "text")
    assert adapted_parts(model, "detector") == {"region_proposer"}
    assert adapted_parts(model, "text") == {"region_encoder", "multi_modal_projector", "language_model"}
    assert set(model.peft_config) == {"detector", "text"}


def test_an_adapter_that_was_trained_in_the_detector_is_loaded_as_it_is(tmp_path):
    inputs = tiny_inputs(tiny_model().config)
    adapted = get_peft_model(tiny_model(), lora(exclude_modules=[])).eval()
    expected = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    assert "vision_tower" in adapted_parts(again)
    assert_close(again(**inputs).logits, expected)


def test_it_is_said_that_the_detector_was_left_out(caplog, monkeypatch):
    import logging

    from transformers_groma.models.modeling_adapters import logger

    logger.warning_once.__func__.cache_clear()
    monkeypatch.setattr(logging.getLogger("transformers_groma"), "propagate", True)
    caplog.set_level("WARNING")
    get_peft_model(tiny_model(), lora(target_modules=r".*language_model.*\.q_proj"))
    assert "stays out of" not in caplog.text
    model = get_peft_model(tiny_model(), lora())
    assert "Adapter 'default' stays out of vision_tower, region_proposer, which text" in caplog.text
    caplog.clear()
    get_peft_model(tiny_model(mask_decoder_config=MASK_DECODER), lora(target_modules=["q_proj"]))
    assert "stays out of vision_tower, region_proposer, mask_decoder, which text" in caplog.text
    assert model.peft_config["default"].exclude_modules == pattern_of_parts(*GromaPreTrainedModel.parts_without_text)


def test_pattern_of_parts():
    pattern = re.compile(pattern_of_parts("a", "b_c"))
    for name in ("a", "x.a", "a.y", "x.y.b_c.z.0"):
        assert pattern.fullmatch(name)
    for name in ("aa", "x.ab", "b", "c", "b_cd.x", "xa.y"):
        assert not pattern.fullmatch(name)


@WAYS
def test_a_name_for_a_module_and_one_inside_it_is_refused_before_training(adapt, tmp_path):
    model = tiny_glamm()
    with pytest.raises(ValueError, match="`modules_to_save` 'mask_decoder' names a module and another") as error:
        adapt(model, lora(modules_to_save=["lm_head", "mask_decoder"]))
    # What the message names can be saved.
    parts = re.findall(r"'(mask_decoder\.\w+)'", str(error.value))
    assert parts == ["mask_decoder.mask_decoder", "mask_decoder.prompt_encoder"]
    model = get_peft_model(tiny_glamm(), lora(modules_to_save=parts))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert any("mask_decoder.mask_decoder.mask_tokens" in name for name in saved)
    # In a Groma there is one further inside, which peft leaves to the outer one.
    model = get_peft_model(tiny_model(mask_decoder_config=MASK_DECODER), lora(modules_to_save=["mask_decoder"]))
    model.save_pretrained(tmp_path / "groma")
    assert load_file(tmp_path / "groma" / "adapter_model.safetensors")
