"""Prompts of the tiny model and answers to them, for tests of generation and cached prompts."""

import torch

from tests.tiny import tiny_inputs
from transformers_groma import GromaForConditionalGeneration

GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
EXACT = {"atol": 1e-5, "rtol": 1e-4}
# What three prompts continue with: tokens, and a box that no proposal has.
NEW = torch.tensor([[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34]])
NEW_BOX = torch.tensor([0.31, 0.42, 0.23, 0.17])


def one(inputs: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    return {name: value[index : index + 1] for name, value in inputs.items()}


def new_tokens(model, inputs, **kwargs) -> torch.Tensor:
    return model.generate(**inputs, **{**GREEDY, **kwargs})[:, inputs["input_ids"].shape[1] :]


def padded_inputs(model: GromaForConditionalGeneration, padding: int = 0) -> dict[str, torch.Tensor]:
    """Three images with different numbers of regions; the second prompt is shorter and padded on the left."""
    inputs = tiny_inputs(model.config, batch_size=3, seed=10)
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.nn.functional.pad(inputs[name], (padding, 0), value=0)
    inputs["attention_mask"][[0, 2], :padding] = 1
    inputs["input_ids"][[0, 2], :padding] = 6
    return inputs


def extended(inputs: dict[str, torch.Tensor], new_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs with more ids, which are on."""
    return {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], new_ids], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(new_ids)], dim=1),
    }


def turn_ids(config, num_boxes: int = 1, question: tuple[int, ...] = (15, 16)) -> list[int]:
    """A later turn: question, regions, and a last token that is neither."""
    return [*question, *[config.refer_box_token_id, config.image_token_id] * num_boxes, 17]


def logits_of_whole(model, inputs, new_ids, **kwargs) -> torch.Tensor:
    """Logits of the new tokens, without a cache: the whole prompt at once."""
    output = model(**{**extended(inputs, new_ids), **kwargs}, use_cache=False)
    return output.logits[:, -new_ids.shape[1] :]
