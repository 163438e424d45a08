"""Installed quantizers convert the language model alone; regions and boxes equal the full model's."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, BitsAndBytesConfig

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaModel

from .tiny import LANGUAGE_MODEL, linear_layers, tiny_detector, tiny_inputs, tiny_model
from .training.rows import (
    command_line,
    losses,
    run_sft,
    training_model,
    training_processor,
    write_conversations,
)

# bitsandbytes wants rows of at least 64 numbers.
TEXT = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(scope="module")
def model():
    return tiny_model(text_config=TEXT)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


def bits(number: int):
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(**{f"load_in_{number}bit": True})


def torchao_config():
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


def quanto_config():
    pytest.importorskip("optimum.quanto")
    from transformers import QuantoConfig

    return QuantoConfig(weights="int8")


BACKENDS = {"4bit": lambda: bits(4), "8bit": lambda: bits(8), "torchao": torchao_config, "quanto": quanto_config}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends(model, folder, tmp_path, backend, dtype):
    """Regions equal the full model's to the last bit; generation, saving, loading and the saved detector work."""
    config = BACKENDS[backend]()
    quantized = GromaForConditionalGeneration.from_pretrained(folder, quantization_config=config, dtype=dtype)
    same = {
        name
        for name, module in quantized.named_modules()
        if type(module) is nn.Linear and type(module.weight.data) is torch.Tensor
    }
    assert linear_layers(model) - same == LANGUAGE_MODEL
    inputs = tiny_inputs(model.config)
    inputs["refer_boxes"] = torch.tensor([[[0.6, 0.5, 0.2, 0.2]], [[0.3, 0.4, 0.5, 0.2]]])
    proposals = model.propose_regions(inputs["pixel_values"], inputs["refer_boxes"])
    given = quantized.propose_regions(inputs["pixel_values"], inputs["refer_boxes"])
    assert torch.equal(given.boxes, proposals.boxes) and torch.equal(given.scores, proposals.scores)
    del inputs["refer_boxes"]
    expected = model(**inputs)
    output = quantized(**inputs)
    assert torch.equal(output.region_boxes, expected.region_boxes)
    close = torch.nn.functional.cosine_similarity(output.logits.float(), expected.logits, dim=-1)
    assert close.mean() > 0.9
    generated = quantized.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
    assert torch.equal(generated.region_boxes, expected.region_boxes)

    if not quantized.hf_quantizer.is_serializable():
        return  # quanto
    quantized.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto")
    repeated = again(**inputs)
    # On a CPU bitsandbytes packs 4-bit weights anew in the first forward, and rounds their scales.
    tolerance = 0.1 if backend == "4bit" else 0
    torch.testing.assert_close(repeated.logits, output.logits, rtol=0, atol=tolerance)
    assert torch.equal(repeated.region_boxes, expected.region_boxes)
    assert again.lm_head.weight.dtype == (dtype or torch.float32)
    detector = GromaForRegionProposal.from_pretrained(tmp_path)
    expected = model.propose_regions(inputs["pixel_values"])
    assert torch.equal(detector.propose_regions(inputs["pixel_values"]).boxes, expected.boxes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_leave_the_other_models_right(folder, detector, tmp_path, backend):
    config = BACKENDS[backend]()
    pixels = torch.randn(2, 3, 56, 56)
    detector.save_pretrained(tmp_path)
    again = GromaForRegionProposal.from_pretrained(tmp_path, quantization_config=config)
    assert torch.equal(again.propose_regions(pixels).boxes, detector.propose_regions(pixels).boxes)
    base = AutoModel.from_pretrained(folder, quantization_config=config)
    assert type(base) is GromaModel
    full = AutoModel.from_pretrained(folder)
    assert torch.equal(base.propose_regions(pixels).boxes, full.propose_regions(pixels).boxes)


@pytest.mark.parametrize("number", [4, 8])
def test_qlora_trains(tmp_path, number):
    """Stage 3 with LoRA on a quantized language model: it learns, and sees what the full model sees."""
    pytest.importorskip("bitsandbytes")
    model = training_model(**TEXT)
    model.save_pretrained(tmp_path / "model")
    training_processor().save_pretrained(tmp_path / "model")
    data = write_conversations(tmp_path / "data", 8)
    options = {"use_peft": True, "lora_r": 4, f"load_in_{number}bit": True, "max_steps": 4, "learning_rate": 1e-2}
    trainer = run_sft(command_line(tmp_path / "model", data, tmp_path / "out", **options))
    history = losses(trainer)
    assert history[-1] < history[0]
    trained = trainer.accelerator.unwrap_model(trainer.model).base_model.model.eval()
    weight = trained.model.language_model.layers[0].mlp.up_proj.weight
    assert weight.dtype == {4: torch.uint8, 8: torch.int8}[number]
    pixels = torch.randn(2, 3, 56, 56)
    assert torch.equal(trained.propose_regions(pixels).boxes, model.propose_regions(pixels).boxes)
