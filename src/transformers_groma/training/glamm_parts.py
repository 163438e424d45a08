"""Which parts of a GLaMM learn: in full, or the language model by LoRA and the others in full."""

from collections.abc import Sequence
from typing import Any

from peft import PeftConfig
from torch import nn
from trl import ModelConfig, get_peft_config

from ..models.modeling_adapters import pattern_of_parts
from .trainable import train_modules

# Names of the parts, and their modules. The embeddings are those of words, at the entry and at the exit.
LANGUAGE_MODEL, EMBEDDINGS = "language_model", "embeddings"
PARTS = {
    "vision_tower": "model.vision_tower",
    "projector": "model.multi_modal_projector",
    "region_encoder": "model.region_encoder",
    "grounding_encoder": "model.grounding_encoder",
    "prompt_projection": "model.prompt_projection",
    "prompt_encoder": "model.mask_decoder.prompt_encoder",
    "mask_decoder": "model.mask_decoder.mask_decoder",
    LANGUAGE_MODEL: "model.language_model",
}
ALL_PARTS = (*PARTS, EMBEDDINGS)
# What the released models' training taught: the language model by LoRA, the others in full.
DEFAULT_PARTS = ["region_encoder", "prompt_projection", "mask_decoder", EMBEDDINGS, LANGUAGE_MODEL]
# The layers of the language model, under Llama-like names, in which the released models have LoRA.
LORA_TARGET_MODULES = r".*language_model.*\.(q_proj|v_proj)"


def check_glamm_parts(parts: Sequence[str]) -> None:
    """Check the names of trainable parts.

    Args:
        parts (`Sequence[str]`): the names, see `PARTS` and `EMBEDDINGS`.

    Raises:
        ValueError: an unknown part.

    Example:
    >>> check_glamm_parts(["sam"])
    Traceback (most recent call last):
    ValueError: Unknown part 'sam' of the model. Use some of vision_tower, projector, region_encoder,
        grounding_encoder, prompt_projection, prompt_encoder, mask_decoder, language_model, embeddings.
    """
    if unknown := [part for part in parts if part not in ALL_PARTS]:
        raise ValueError(f"Unknown part {unknown[0]!r} of the model. Use some of {', '.join(ALL_PARTS)}.")


def train_glamm_parts(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze everything but the named parts, which learn in full.

    Args:
        model (`GlammForConditionalGeneration`): changed in place.
        parts (`Sequence[str]`): of `PARTS`, and `embeddings`; `language_model` has its head and the embeddings.

    Raises:
        ValueError: an unknown part.
    """
    check_glamm_parts(parts)
    modules = [PARTS[part] for part in parts if part != EMBEDDINGS]
    if LANGUAGE_MODEL in parts:
        modules += model.model.language_model_head.names.values()
    elif EMBEDDINGS in parts:
        modules += embedding_modules(model)
    train_modules(model, modules)


def embedding_modules(model: nn.Module) -> list[str]:
    """The paths of the word embeddings and of the layer that makes logits; one of them where they are tied.

    Args:
        model (`GlammForConditionalGeneration`): the model.

    Returns:
        `list[str]`: one or two paths.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    wanted = [embedding] if tied or head is None else [embedding, head]
    paths = {id(module): name for name, module in model.named_modules()}
    return [paths[id(module)] for module in wanted]


def glamm_lora(model_args: ModelConfig, parts: Sequence[str], model: nn.Module) -> PeftConfig | None:
    """LoRA for the language model; the other trainable parts learn in full and are saved with the adapter.

    Args:
        model_args (`ModelConfig`): `use_peft` and the settings of LoRA. Its `lora_target_modules` and
            `lora_modules_to_save` override GLaMM's own.
        parts (`Sequence[str]`): trainable parts; `language_model` must be among them.
        model (`GlammForConditionalGeneration`): the model to adapt.

    Returns:
        `PeftConfig`, *optional*: `None` without `use_peft`.

    Raises:
        ValueError: `language_model` is not among the parts.
    """
    config: Any = get_peft_config(model_args)
    if config is None:
        return None
    if LANGUAGE_MODEL not in parts:
        raise ValueError(
            f"`use_peft` puts LoRA into the language model, but `trainable_parts` are {', '.join(parts)}. Add "
            f"`{LANGUAGE_MODEL}`, or set `use_peft` to false."
        )
    if model_args.lora_target_modules is None:
        config.target_modules = LORA_TARGET_MODULES
    # Word embeddings that are those of the head as well stay so: PEFT would train a copy for one of the two.
    config.ensure_weight_tying = bool(model.config.tie_word_embeddings)
    if model_args.lora_modules_to_save is None:
        saved = [PARTS[part] for part in parts if part not in (LANGUAGE_MODEL, EMBEDDINGS)]
        config.modules_to_save = saved + (embedding_modules(model) if EMBEDDINGS in parts else [])
    # Even targets such as "all-linear" leave the other parts alone: those learn in full or not at all.
    config.exclude_modules = pattern_of_parts(*model.visual_parts)
    return config


__all__ = [
    "ALL_PARTS",
    "DEFAULT_PARTS",
    "EMBEDDINGS",
    "LANGUAGE_MODEL",
    "PARTS",
    "check_glamm_parts",
    "embedding_modules",
    "glamm_lora",
    "train_glamm_parts",
]
