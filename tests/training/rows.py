"""For tests of stages 2 and 3: a very small model with its tokenizer, and a handful of conversations."""

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, TrainingArguments
from trl import ModelConfig, SFTConfig

from transformers_groma import GromaForConditionalGeneration, GromaImageProcessorPil, GromaProcessor
from transformers_groma.data.columns import CONVERSATION_FEATURES, image_part, phrase_part, region_part, text_part
from transformers_groma.models.groma import modeling_groma_base
from transformers_groma.models.groma.modeling_groma_regions import select_regions
from transformers_groma.models.groma.tokenization_groma import GROMA_CHAT_TEMPLATE, add_groma_tokens
from transformers_groma.training import alignment, sft
from transformers_groma.training.arguments import parse_arguments
from transformers_groma.training.conversation_stage import ConversationArguments
from transformers_groma.training.trainer import GromaSFTTrainer, GromaTrainer

from ..tiny import MASK_DECODER, MAX_REGIONS, VISION, tiny_model

COLORS = ("red", "green", "blue", "white")
VOCAB_SIZE = 420  # before the tokens of Groma or GLaMM


def byte_level_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE learned from texts, of `VOCAB_SIZE` tokens, with `<s>` at the head of every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


@functools.cache
def training_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of the chat template, so that prompts are short. Don't change it."""
    words = [f"a {color} box. What is this? Where is the {color} one? Hello." for color in COLORS]
    tokenizer = byte_level_tokenizer([*GROMA_CHAT_TEMPLATE.splitlines(), *words])
    add_groma_tokens(tokenizer, max_regions=MAX_REGIONS)
    return tokenizer


def training_model(
    seed: int = 0, tied: bool = False, masks: bool = False, **text_config: Any
) -> GromaForConditionalGeneration:
    """The model of `tests.tiny` with the ids of `training_tokenizer`, and a mask decoder with `masks`."""
    tokenizer = training_tokenizer()
    marks = {"image": "<image>", "refer_box": "<refer_box>", "ground_box": "<ground_box>", "first_proxy": "<r0>"}
    return tiny_model(
        seed,
        text_config={
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": tied,
            **text_config,
        },
        **({"mask_decoder_config": MASK_DECODER} if masks else {}),
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()},
    )


def training_processor() -> GromaProcessor:
    """Its processor."""
    side = VISION["image_size"]
    return GromaProcessor(
        GromaImageProcessorPil(size={"height": side, "width": side}),
        training_tokenizer(),
        num_image_tokens=4,
        max_regions=MAX_REGIONS,
    )


def save_training_model(folder: Path, seed: int = 0, tied: bool = False, masks: bool = False) -> Path:
    """Both as a folder, to name in `model_name_or_path`."""
    training_model(seed, tied, masks).save_pretrained(folder)
    training_processor().save_pretrained(folder)
    return folder


def image_file(rng: np.random.Generator, colors: Sequence[str]) -> tuple[bytes, list[list[int]]]:
    """A PNG with a rectangle of each colour on black, in one of three shapes, and the boxes, `xyxy` in its pixels."""
    width, height = ((56, 56), (72, 48), (40, 64))[rng.integers(3)]
    image = Image.new("RGB", (width, height))
    boxes = []
    for color in colors:
        w, h = rng.integers(10, 24, 2).tolist()
        x, y = rng.integers(0, (width - w, height - h)).tolist()
        ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=color)
        boxes.append([x, y, x + w, y + h])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), boxes


def turn(question: Sequence[dict[str, Any]], answer: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A question and its answer, of message parts."""
    return [{"role": "user", "content": list(question)}, {"role": "assistant", "content": list(answer)}]


def conversation(number: int, text_only: bool = False) -> dict[str, Any]:
    """A row: the user points at one box and asks for the other one, or says hello."""
    if text_only:
        messages = turn([text_part("Hello.")], [text_part(f"Hello. {number}")])
        return {"image": None, "image_id": str(number), "boxes_xyxy": [], "messages": messages, "source": "chat"}
    rng = np.random.default_rng(number)
    colors = rng.choice(COLORS, 2, replace=False).tolist()
    data, boxes = image_file(rng, colors)
    messages = [
        *turn(
            [image_part(), text_part("What is "), region_part(0), text_part("?")], [text_part(f"a {colors[0]} box.")]
        ),
        *turn(
            [text_part("Where is "), phrase_part(f"the {colors[1]} one"), text_part("?")],
            [phrase_part(f"the {colors[1]} one", [1])],
        ),
    ]
    return {
        "image": {"bytes": data, "path": None},
        "image_id": str(number),
        "boxes_xyxy": boxes,
        "messages": messages,
        "source": "boxes",
    }


def conversations(count: int, text_only_every: int | None = 5) -> Dataset:
    """Rows of which every fifth has no image."""
    rows = [
        conversation(number, text_only_every is not None and number % text_only_every == text_only_every - 1)
        for number in range(count)
    ]
    return Dataset.from_list(rows, features=CONVERSATION_FEATURES)


def write_conversations(folder: Path, count: int, split: str = "train", text_only_every: int | None = 5) -> Path:
    """The same as a folder with a Parquet file, to name in `train_datasets`."""
    folder.mkdir(parents=True, exist_ok=True)
    conversations(count, text_only_every).to_parquet(folder / f"{split}.parquet")
    return folder


def losses(trainer) -> list[float]:
    """The loss of every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two models of the same kind are equal to the last bit."""
    weights = second.state_dict()
    return all(torch.equal(weight, weights[name]) for name, weight in first.state_dict().items())


def training_arguments(folder: Path, **overrides: Any) -> TrainingArguments:
    """A short training on a CPU that writes nothing but what it is asked for."""
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **overrides,
    }
    return TrainingArguments(**settings, remove_unused_columns=False)


def command_line(model: Path, data: Path, output: Path, **overrides: Any) -> list[str]:
    """The same as a command line of stage 2 or 3. `None` leaves an argument out."""
    return short_training(model, output, **{"train_datasets": data, **overrides})


def short_training(model: Path, output: Path, **overrides: Any) -> list[str]:
    """Arguments of any training that is short and on a CPU, beside its data. `None` leaves one out."""
    settings = {
        "model_name_or_path": model,
        "output_dir": output,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
        **overrides,
    }
    arguments = []
    for name, value in settings.items():
        if value is not None:
            values = value if isinstance(value, (list, tuple)) else [value]
            arguments += [f"--{name}", *map(str, values)]
    return arguments


def keep_slot_order(monkeypatch) -> None:
    """Don't shuffle the slots in training, so that runs can be compared that draw random numbers in another order."""
    monkeypatch.setattr(
        modeling_groma_base,
        "select_regions",
        lambda *args, permute=False, **kwargs: select_regions(*args, **kwargs),
    )


def run_alignment(arguments: list[str]) -> GromaTrainer:
    """Stage 2 from a command line."""
    return alignment.train(
        *parse_arguments((alignment.AlignmentArguments, TrainingArguments), arguments, "stage 2", "")
    )


def run_sft(arguments: list[str]) -> GromaSFTTrainer:
    """Stage 3 from a command line."""
    return sft.train(*parse_arguments((ConversationArguments, SFTConfig, ModelConfig), arguments, "stage 3", ""))


def history(trainer, also: Sequence[str] = ()) -> list[dict[str, float]]:
    """What was logged at every step, without what depends on the clock. `also` are names that some steps lack."""
    names = ("step", "epoch", "loss", "grad_norm", "learning_rate")
    return [
        {name: entry[name] for name in (*names, *(name for name in also if name in entry))}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
