"""For tests of GLaMM's training: a very small model with its tokenizer, and rows of each type."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features
from transformers import PreTrainedTokenizerFast

from transformers_groma.data.columns import (
    CONVERSATION_FEATURES,
    MASKS,
    image_part,
    phrase_part,
    region_part,
    text_part,
)
from transformers_groma.masks import mask_to_rle
from transformers_groma.models.glamm.chat_template_glamm import GLAMM_CHAT_TEMPLATE
from transformers_groma.models.glamm.image_processing_pil_glamm import GlammImageProcessorPil
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.models.glamm.processing_glamm import GlammProcessor
from transformers_groma.models.glamm.tokenization_glamm import add_glamm_tokens
from transformers_groma.training import glamm
from transformers_groma.training.arguments import parse_arguments
from transformers_groma.training.glamm_trainer import GlammTrainer
from transformers_groma.training.sft import GromaSFTConfig

from ..tiny import tiny_glamm
from .rows import COLORS, byte_level_tokenizer, history, image_file, short_training, turn

ROW_FEATURES = Features({**CONVERSATION_FEATURES, "masks": MASKS})
TYPES = ("caption", "region", "segmentation")


@functools.cache
def glamm_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of the chat template, so that prompts are short. Don't change it."""
    words = [f"a {color} box. What is this? Where is the {color} one? Sure, it is" for color in COLORS]
    tokenizer = byte_level_tokenizer([*GLAMM_CHAT_TEMPLATE.splitlines(), *words])
    add_glamm_tokens(tokenizer)
    return tokenizer


def glamm_model(seed: int = 0, **text_config: Any) -> GlammForConditionalGeneration:
    """The model of `tests.tiny` with the ids of `glamm_tokenizer`."""
    tokenizer = glamm_tokenizer()
    marks = {"image": "<image>", "region": "<bbox>", "seg": "[SEG]"}
    return tiny_glamm(
        seed,
        text_config={
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": 1024,
            **text_config,
        },
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()},
    )


def glamm_processor() -> GlammProcessor:
    """Its processor."""
    config = glamm_model().config
    side = config.vision_config.image_size
    images = GlammImageProcessorPil(size={"height": side, "width": side}, grounding_size=config.grounding_image_size)
    return GlammProcessor(images, glamm_tokenizer(), num_image_tokens=config.num_image_tokens)


def save_glamm(folder: Path, seed: int = 0, **text_config: Any) -> Path:
    """Both as a folder, to name in `model_name_or_path`."""
    glamm_model(seed, **text_config).save_pretrained(folder)
    glamm_processor().save_pretrained(folder)
    return folder


def box_mask(box: Sequence[int], height: int, width: int) -> dict[str, Any]:
    """The RLE of a filled box."""
    mask = np.zeros((height, width), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask_to_rle(mask)


def glamm_row(kind: str, number: int) -> dict[str, Any]:
    """A row about two boxes: their caption, a question about each, or a question for each and a caption with masks."""
    rng = np.random.default_rng([TYPES.index(kind), number])
    colors = rng.choice(COLORS, 2, replace=False).tolist()
    data, boxes = image_file(rng, colors)
    if kind == "caption":
        messages = turn([image_part(), text_part("What is this?")], [text_part(f"a {colors[0]} box.")])
    elif kind == "region":
        messages = [
            *turn([image_part(), text_part("What is "), region_part(0)], [text_part(f"a {colors[0]} box.")]),
            *turn([text_part("What is "), region_part(1)], [text_part(f"a {colors[1]} box.")]),
        ]
    else:
        caption = [phrase_part(f"a {colors[0]} box", [0]), text_part(" and "), phrase_part("a box", [1, 0])]
        messages = [
            *turn([image_part(), text_part("[grounding]What is this?")], caption),
            *turn(
                [text_part(f"Where is the {colors[1]} one?")],
                [text_part("Sure, it is "), phrase_part("", [1]), text_part(".")],
            ),
        ]
    width, height = _size(data)
    return {
        "image": {"bytes": data, "path": None},
        "image_id": f"{kind}-{number}",
        "boxes_xyxy": boxes,
        "messages": messages,
        "source": kind,
        "masks": [box_mask(box, height, width) for box in boxes],
    }


def _size(data: bytes) -> tuple[int, int]:
    # The header of a PNG.
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def glamm_rows(kind: str, count: int) -> Dataset:
    """Rows of a type. Captions have no column of masks."""
    rows = [glamm_row(kind, number) for number in range(count)]
    if kind == "caption":
        rows = [{name: value for name, value in row.items() if name != "masks"} for row in rows]
        return Dataset.from_list([{**row, "boxes_xyxy": []} for row in rows], features=CONVERSATION_FEATURES)
    return Dataset.from_list(rows, features=ROW_FEATURES)


def write_glamm_rows(folder: Path, count: int) -> Path:
    """A folder with a dataset of each type, and one of segmentation for evaluation."""
    for kind in TYPES:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        glamm_rows(kind, count).to_parquet(folder / kind / "train.parquet")
    glamm_rows("segmentation", 4).to_parquet(folder / "segmentation" / "validation.parquet")
    return folder


def glamm_command_line(model: Path, data: Path, output: Path, **overrides: Any) -> list[str]:
    """A short training on a CPU, in full. `None` leaves an argument out."""
    datasets = {f"{kind}_datasets": data / kind for kind in TYPES}
    settings = {**datasets, "use_peft": False, "per_device_train_batch_size": 2, **overrides}
    return short_training(model, output, **settings)


def run_glamm(arguments: list[str]) -> GlammTrainer:
    """A training from a command line."""
    classes = (glamm.GlammArguments, GromaSFTConfig, glamm.GlammModelConfig)
    return glamm.train(*parse_arguments(classes, arguments, "groma train glamm", ""))


def glamm_history(trainer: GlammTrainer) -> list[dict[str, float]]:
    """What was logged at every step, without what depends on the clock."""
    return history(trainer, also=("ce_loss", "bce_loss", "dice_loss"))


def learned(model: torch.nn.Module) -> set[str]:
    """The names of the weights that learn."""
    return {name for name, weight in model.named_parameters() if weight.requires_grad}
