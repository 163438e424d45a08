"""Stage 3: in full and with LoRA."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText
from trl import ModelConfig

from transformers_groma import GromaForConditionalGeneration
from transformers_groma.training import sft
from transformers_groma.training.callbacks import NonFiniteLossError
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.sft import SFT_PARTS, GromaSFTConfig, language_model_quantization, lora_config
from transformers_groma.training.trainer import GromaSFTTrainer

from ..tiny import MASK_DECODER, tiny_model
from .rows import (
    command_line,
    conversations,
    history,
    keep_slot_order,
    losses,
    run_sft,
    same_weights,
    save_training_model,
    training_model,
    training_processor,
    write_conversations,
)

STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8}
VARIANTS = {"full": {}, "lora": LORA}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_training_model(tmp_path_factory.mktemp("stage3") / "model", tied=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage3") / "data"
    write_conversations(folder, 4, "validation")
    return write_conversations(folder, 16)


@pytest.fixture(scope="module")
def runs(base, data, tmp_path_factory) -> dict[str, GromaSFTTrainer]:
    """Six steps at once, in full and with LoRA. The rates let a few steps be seen."""
    folder = tmp_path_factory.mktemp("stage3")
    settings = {**STEPS, "eval_datasets": data, "eval_strategy": "steps", "eval_steps": 3}
    return {
        name: run_sft(command_line(base, data, folder / name, **settings, **changes))
        for name, changes in VARIANTS.items()
    }


@pytest.fixture(scope="module")
def batch():
    return ConversationCollator(training_processor())([*conversations(5)])


def test_what_learns_in_full(runs, base):
    before = GromaForConditionalGeneration.from_pretrained(base).state_dict()
    for name, weight in runs["full"].model.state_dict().items():
        frozen = name.startswith(("model.vision_tower.", "model.region_proposer."))
        assert torch.equal(weight, before[name]) is frozen, name
    saved = GromaForConditionalGeneration.from_pretrained(runs["full"].args.output_dir)
    assert same_weights(saved, runs["full"].model)


def test_what_learns_with_lora(runs, base):
    """LoRA in every linear layer of the language model; region encoder and projector in full."""
    model = runs["lora"].model
    learns = {name for name, weight in model.named_parameters() if weight.requires_grad}
    lora = {name for name in learns if "lora_" in name}
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(lora) == 2 * 2 * len(linear)  # two layers, two matrices
    assert all(".language_model." in name for name in lora)
    assert all(
        ".region_encoder.modules_to_save." in n or ".multi_modal_projector.modules_to_save." in n
        for n in learns - lora
    )
    before = GromaForConditionalGeneration.from_pretrained(base).state_dict()
    for name, weight in model.named_parameters():
        if name in learns:
            is_new = "lora_" in name
            original = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
            assert weight.any() if is_new else not torch.equal(weight, before[original]), name
        elif ".original_module." not in name:
            original = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(weight, before[original]), name


@pytest.mark.parametrize("load", ["peft", "auto"])
def test_adapter_loads_into_a_fresh_model(runs, base, batch, load):
    """With PEFT and by the name of its folder: the same logits to the last bit, and it loads no weights at random."""
    folder = runs["lora"].args.output_dir
    if load == "peft":
        loaded = PeftModel.from_pretrained(GromaForConditionalGeneration.from_pretrained(base), folder)
    else:
        loaded = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        expected = runs["lora"].model.eval()(**batch).logits
        assert torch.equal(loaded.eval()(**batch).logits, expected)
        assert not torch.equal(GromaForConditionalGeneration.from_pretrained(base)(**batch).logits, expected)
        if load == "peft":
            assert_close(loaded.merge_and_unload()(**batch).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_is_exact(runs, base, data, tmp_path, variant, workers):
    """Slots are shuffled and LoRA drops at random; losses and weights are those of an uninterrupted run."""
    whole = runs[variant]
    resumed = run_sft(
        command_line(
            base,
            data,
            tmp_path,
            **STEPS,
            **VARIANTS[variant],
            eval_datasets=data,
            eval_strategy="steps",
            eval_steps=3,
            dataloader_num_workers=workers,
            resume_from_checkpoint=Path(whole.args.output_dir) / "checkpoint-3",
        )
    )
    assert history(resumed) == history(whole)
    assert len(history(whole)) == 6
    assert same_weights(resumed.model, whole.model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_activation_checkpointing_changes_nothing(runs, base, data, tmp_path, variant):
    """TRL switches it on by default. Up to the first evaluation, which draws random numbers, too."""
    assert runs[variant].args.activation_checkpointing
    changes = {**VARIANTS[variant], "activation_checkpointing": False}
    plain = run_sft(command_line(base, data, tmp_path, max_steps=6, **changes))
    assert_close(losses(plain)[:3], losses(runs[variant])[:3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_accumulated_batches_are_one_batch(base, data, tmp_path, monkeypatch, variant):
    """Slots are not shuffled and LoRA drops nothing: two batches draw random numbers in another order than one."""
    keep_slot_order(monkeypatch)
    settings = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, **VARIANTS[variant]}
    if variant == "lora":
        settings["lora_dropout"] = 0
    once = run_sft(command_line(base, data, tmp_path / "1", **settings))
    settings |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    twice = run_sft(command_line(base, data, tmp_path / "2", **settings))
    assert_close(losses(twice), losses(once), atol=1e-5, rtol=1e-5)
    weights = twice.model.state_dict()
    for name, weight in once.model.state_dict().items():
        assert_close(weights[name], weight, atol=1e-5, rtol=1e-5, msg=name)


def test_evaluation_and_card(runs, data):
    """The card has the mean loss of the evaluation rows."""
    trainer = runs["full"]
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [3, 6]
    collated = ConversationCollator(training_processor())([*conversations(4)])
    with torch.no_grad():
        expected = trainer.model.eval()(**collated).loss.item()
    assert evaluated[-1]["eval_loss"] == pytest.approx(expected, abs=1e-5)
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert f"| eval_loss | {expected:.4g} |" in card
    assert "| trained parts | region_encoder, projector, language_model |" in card
    card = (Path(runs["lora"].args.output_dir) / "README.md").read_text()
    assert "| LoRA | r 4, alpha 8, dropout 0.05 |" in card
    assert str(data.parent) not in card


def test_a_loss_that_is_not_a_number_stops(base, data, tmp_path):
    """Also with TRL's trainer."""
    with pytest.raises(NonFiniteLossError, match="non_finite_batch-.*-0.pt"):
        run_sft(command_line(base, data, tmp_path, max_steps=4, learning_rate=1e30, max_grad_norm=1e30, optim="sgd"))
    assert [*tmp_path.glob("non_finite_batch-*.pt")]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"load_in_4bit": True, "use_peft": True},
            ImportError,
            r"`load_in_4bit` needs bitsandbytes: .*groma\[qlora\]",
        ),
        (
            {"load_in_8bit": True, "use_peft": True},
            ImportError,
            r"`load_in_8bit` needs bitsandbytes: .*groma\[qlora\]",
        ),
        ({"load_in_4bit": True}, ValueError, "`load_in_4bit` needs `use_peft`: weights with so few bits"),
        ({"model_name_or_path": None}, ValueError, "`model_name_or_path` is missing"),
        ({"max_length": 512}, ValueError, "`max_length` is 512, but .* Use `max_tokens`"),
        ({"loss_type": "dft"}, ValueError, "`loss_type` is 'dft', but the loss is the model's own"),
        ({"label_smoothing_factor": 0.1}, ValueError, "`label_smoothing_factor` is 0.1"),
        ({"packing": True}, ValueError, "Packing is not supported for vision datasets"),
        ({"trainable_parts": "new_tokens", "weight_decay": 0.1}, ValueError, "`weight_decay` is 0.1"),
        ({"trainable_parts": "new_tokens", "use_peft": True}, ValueError, "`new_tokens` cannot be trained with LoRA"),
        ({"trainable_parts": "projector", "use_peft": True}, ValueError, "`trainable_parts` are projector. Add"),
    ],
)
def test_bad_arguments(base, data, tmp_path, changes, error, message, monkeypatch):
    monkeypatch.setattr(sft, "is_bitsandbytes_available", lambda: False)
    monkeypatch.setattr(GromaSFTTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    with pytest.raises(error, match=message):
        sft.main(command_line(base, data, tmp_path, **changes))


def test_lora_config():
    config = lora_config(ModelConfig(use_peft=True), SFT_PARTS)
    assert config.modules_to_save == ["region_encoder", "multi_modal_projector"]
    assert lora_config(ModelConfig(use_peft=True), ["language_model"]).modules_to_save == []
    assert lora_config(ModelConfig(), SFT_PARTS) is None
    chosen = ModelConfig(use_peft=True, lora_target_modules=["q_proj", "v_proj"], lora_modules_to_save=["lm_head"])
    config = lora_config(chosen, SFT_PARTS)
    assert config.target_modules == {"q_proj", "v_proj"}
    assert config.modules_to_save == ["lm_head"]


@pytest.mark.parametrize("parts", [SFT_PARTS, ["language_model"]])
@pytest.mark.parametrize("build", [training_model, lambda: tiny_model(mask_decoder_config=MASK_DECODER)])
def test_lora_on_all_linear_layers_is_lora_in_the_language_model(parts, build):
    config = lora_config(ModelConfig(use_peft=True, lora_target_modules=["all-linear"]), parts)
    adapted = get_peft_model(build(), config)
    places = {name.split(".lora_")[0] for name, _ in adapted.named_parameters() if ".lora_" in name}
    assert any(name.endswith(".down_proj") for name in places)
    assert all(".language_model." in name for name in places)


def test_qlora(base, data, tmp_path):
    """Four bits in the language model alone, and a resume that is exact."""
    pytest.importorskip(
        "bitsandbytes", reason='bitsandbytes is not installed (pip install "transformers-groma[qlora]")'
    )
    settings = {**STEPS, **LORA, "load_in_4bit": True}
    whole = run_sft(command_line(base, data, tmp_path / "whole", **settings))
    quantized = {name for name, module in whole.model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert quantized
    assert all(".language_model." in name for name in quantized)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    resumed = run_sft(command_line(base, data, tmp_path / "rest", **settings, resume_from_checkpoint=checkpoint))
    assert history(resumed) == history(whole)
    assert "| bits of the language model | 4 |" in (tmp_path / "whole" / "README.md").read_text()


def test_only_the_language_model_is_quantized(monkeypatch):
    monkeypatch.setattr(sft, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr("transformers.BitsAndBytesConfig.post_init", lambda self: None)
    config = language_model_quantization(ModelConfig(use_peft=True, load_in_4bit=True))
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert set(config.llm_int8_skip_modules) == {
        "model.vision_tower",
        "model.region_proposer",
        "model.region_encoder",
        "model.multi_modal_projector",
        "model.mask_decoder",
        "lm_head",
    }
    assert language_model_quantization(ModelConfig(use_peft=True)) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, True),
        ({"activation_checkpointing": False}, False),
        ({"activation_checkpointing": True}, True),
        ({"gradient_checkpointing": False}, False),
        ({"gradient_checkpointing": True}, True),
    ],
)
def test_activation_checkpointing_by_either_name(tmp_path, arguments, expected, recwarn):
    args = GromaSFTConfig(output_dir=str(tmp_path), use_cpu=True, **arguments)
    assert args.activation_checkpointing is args.gradient_checkpointing is expected
    # The old name is answered with the advice to use the new one; no one else hears of it.
    told = [str(warning.message) for warning in recwarn if "gradient_checkpointing" in str(warning.message)]
    assert len(told) == ("gradient_checkpointing" in arguments)
