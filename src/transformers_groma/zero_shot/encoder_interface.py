"""What a dual encoder of any family is asked: how long a text may be, its logit scale and bias, softmax or sigmoid."""

import math
from typing import Any

from torch import Tensor, nn

_FUNCTIONS = ("get_image_features", "get_text_features")
_SCALES = ("logit_scale", "temperature")
# Tokenizers without a limit say 1e30.
_NO_LIMIT = 10**6
# The tokens of every text that SigLIP and SigLIP 2 were trained with, padding included.
SIGLIP_LENGTH = 64


def check_dual_encoder(model: Any) -> None:
    """Check that a model encodes images and texts for one another; nothing is computed.

    Args:
        model: any object.

    Raises:
        ValueError: it lacks a function or a logit scale, or its weights are not in memory.

    Example:
    >>> check_dual_encoder(nn.Linear(1, 1))
    Traceback (most recent call last):
    ValueError: A Linear is not a dual encoder, as it has no `get_image_features`. ...
    """
    check_encoder_functions(model, type(model))
    if all(_parameter(model, name) is None for name in _SCALES):
        raise ValueError(_not_a_dual_encoder(type(model), "logit_scale"))
    if any(getattr(model, name).is_meta for name in _SCALES if _parameter(model, name) is not None):
        raise ValueError(
            f"The {type(model).__name__} has no weights in memory: it is on the device `meta`, or offloaded. Load it "
            "with `from_pretrained` and without `device_map`."
        )


def check_encoder_functions(model: Any, model_class: type) -> None:
    """Check that a model has functions that encode images and texts.

    Args:
        model: any object; or the class itself, before a model of it is loaded.
        model_class (`type`): its class, for the error.

    Raises:
        ValueError: it lacks a function; the message names both.
    """
    for name in _FUNCTIONS:
        if not callable(getattr(model, name, None)):
            raise ValueError(_not_a_dual_encoder(model_class, name))


def _not_a_dual_encoder(model_class: type, lacking: str) -> str:
    return (
        f"A {model_class.__name__} is not a dual encoder, as it has no `{lacking}`. Pass a CLIP, SigLIP, ALIGN or "
        "another model with an image and a text encoder."
    )


def check_tokenizer(tokenizer: Any, model_name: str) -> None:
    """Check that a tokenizer pads texts, and knows words.

    Where the files of a tokenizer are missing, the library makes one without words, for which all texts are alike.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of a processor.
        model_name (`str`): what an error calls the model.

    Raises:
        ValueError: it has no padding token, or no words.
    """
    if tokenizer.pad_token is None:
        raise ValueError(
            "`processor.tokenizer` has no padding token, so texts of several lengths cannot be in one batch: set "
            "`tokenizer.pad_token`, as a rule to its `eos_token`."
        )
    special = {*tokenizer.all_special_tokens, "▁"}  # "▁" is the space of SentencePiece
    if len(tokenizer) <= len(special) and special.issuperset(tokenizer.get_vocab()):
        raise ValueError(
            f"The tokenizer of {model_name} knows no words: its files are missing. Add tokenizer.json or the "
            "vocabulary that was published with the model."
        )


def is_sigmoid_encoder(model: Any) -> bool:
    """Whether an encoder was trained with a sigmoid for each pair, as SigLIP is, and texts padded to one length.

    Args:
        model (`PreTrainedModel`): a dual encoder.

    Returns:
        `bool`: the library's pipeline asks the same.
    """
    return "siglip" in model.config.model_type


def logit_scale_and_bias(model: Any) -> tuple[float, float]:
    """What the encoder itself makes of a cosine: `scale * cosine + bias`.

    Args:
        model (`PreTrainedModel`): a dual encoder.

    Returns:
        `tuple[float, float]`: read from the weights at each call, as training changes them.

    Raises:
        ValueError: one of them is not finite: probabilities would be NaN.
    """
    scale = _parameter(model, "logit_scale")
    if scale is None:
        factor = 1 / _parameter(model, "temperature").float()  # ALIGN, TIPSv2
    else:
        scale = scale.float()
        limit = getattr(model, "max_log_logit_scale", None)  # AIMv2
        factor = (scale if limit is None else scale.clamp(0, limit)).exp()
    bias = _parameter(model, "logit_bias")
    factor, offset = float(factor), 0.0 if bias is None else float(bias)
    if not (math.isfinite(factor) and math.isfinite(offset)):
        raise ValueError(
            f"The logit scale and bias of {type(model).__name__} are {factor} and {offset}, which are not finite. "
            "Check the weights of the model."
        )
    return factor, offset


def active_adapters(model: nn.Module) -> tuple[Any, ...]:
    """Which adapters (LoRA and its kind) take part: switching one changes features, and no weight.

    Args:
        model (`Module`): with or without adapters of PEFT in it.

    Returns:
        `tuple`: an entry for each layer with adapters: those that are on, those merged, and whether all are off.
    """
    layers = [module for module in model.modules() if hasattr(module, "merged_adapters")]
    return tuple(
        (tuple(layer.active_adapters), tuple(layer.merged_adapters), layer.disable_adapters) for layer in layers
    )


def context_length(model: Any, tokenizer: Any) -> int | None:
    """The most tokens of a text that an encoder reads.

    Args:
        model (`PreTrainedModel`): a dual encoder.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.

    Returns:
        `int`, *optional*: what the model has positions for, or less if its tokenizer says so. For SigLIP the positions
        that it was trained with, 64, as each text is padded to them. `None` if neither has a limit.
    """
    text_config = getattr(model.config, "text_config", model.config)
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions is not None:
        positions -= _unused_positions(model)
    if is_sigmoid_encoder(model):
        return SIGLIP_LENGTH if positions is None else min(positions, SIGLIP_LENGTH)
    limits = [limit for limit in (positions, tokenizer.model_max_length) if limit is not None and limit < _NO_LIMIT]
    return min(limits, default=None)


def _unused_positions(model: nn.Module) -> int:
    """RoBERTa and its kind (AltCLIP) count positions from behind that of the padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


def _parameter(model: Any, name: str) -> Tensor | None:
    """A parameter of one number; other models use the names for layers."""
    value = getattr(model, name, None)
    return value.detach() if isinstance(value, Tensor) and value.numel() == 1 else None


__all__ = [
    "active_adapters",
    "check_dual_encoder",
    "check_encoder_functions",
    "check_tokenizer",
    "context_length",
    "is_sigmoid_encoder",
    "logit_scale_and_bias",
]
