"""Which parts of the model a stage trains."""

from collections.abc import Sequence

import torch
from torch import nn

from ..modeling_groma import GromaForConditionalGeneration

# Names of the parts and their modules. `NEW_TOKENS` are rows of the embedding and of the head, see `train_new_tokens`.
PARTS = {
    "vision_tower": "model.vision_tower",
    "region_proposer": "model.region_proposer",
    "region_encoder": "model.region_encoder",
    "projector": "model.multi_modal_projector",
    "language_model": "model.language_model",
}
NEW_TOKENS = "new_tokens"


def set_trainable_parts(
    model: GromaForConditionalGeneration, parts: Sequence[str], new_token_ids: Sequence[int] = ()
) -> None:
    """Freeze everything but the named parts.

    Args:
        model (`GromaForConditionalGeneration`): changed in place.
        parts (`Sequence[str]`): of `vision_tower`, `region_proposer`, `region_encoder`, `projector`, `language_model` (with its head)
            and `new_tokens` (only the rows of Groma's own tokens in embedding and head).
        new_token_ids (`Sequence[int]`): ids of Groma's own tokens, for `new_tokens`.

    Raises:
        ValueError: an unknown part, `new_tokens` beside `language_model` (which holds them), or without ids.

    Example:
    >>> from transformers_groma import GromaForConditionalGeneration
    >>> model = GromaForConditionalGeneration.from_pretrained("hub_configs/groma-tiny")
    >>> set_trainable_parts(model, ["projector"])
    >>> sorted({name.split(".")[1] for name, weight in model.named_parameters() if weight.requires_grad})
    ['multi_modal_projector']
    """
    unknown = [part for part in parts if part not in (*PARTS, NEW_TOKENS)]
    if unknown:
        raise ValueError(f"Unknown part {unknown[0]!r} of the model. Use some of {', '.join((*PARTS, NEW_TOKENS))}.")
    if NEW_TOKENS in parts and "language_model" in parts:
        raise ValueError("`language_model` holds the new tokens: name one of `new_tokens` and `language_model`.")
    model.requires_grad_(False)
    for part in parts:
        if part != NEW_TOKENS:
            model.get_submodule(PARTS[part]).requires_grad_(True)
    if "language_model" in parts:
        model.lm_head.requires_grad_(True)
    if NEW_TOKENS in parts:
        train_new_tokens(model, new_token_ids)


def train_new_tokens(model: GromaForConditionalGeneration, token_ids: Sequence[int]) -> None:
    """Let only some rows of embedding and head learn; the others keep every bit.

    The gradient of the other rows is zero. An optimizer without weight decay then leaves them as they are.

    Args:
        model (`GromaForConditionalGeneration`): changed in place.
        token_ids (`Sequence[int]`): the rows that learn.

    Raises:
        ValueError: no ids.
    """
    if not token_ids:
        raise ValueError("`new_token_ids` is empty: give the ids of the tokens that Groma added.")
    learns = torch.zeros(model.config.text_config.vocab_size, dtype=torch.bool)
    learns[list(token_ids)] = True
    # Tied embedding and head are one weight.
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    for weight in {id(module.weight): module.weight for module in modules}.values():
        weight.requires_grad_(True)
        weight.register_hook(lambda gradient: gradient * learns.to(gradient.device)[:, None])


def eval_frozen_parts(model: nn.Module) -> None:
    """Put the frozen parts of a model in training into evaluation mode: dropout would only disturb what they perceive.

    Args:
        model (`nn.Module`): changed in place.

    Example:
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> _ = model[0].requires_grad_(False)
    >>> eval_frozen_parts(model)
    >>> model[0].training, model[1].training
    (False, True)
    """
    for module in model.children():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()
        else:
            eval_frozen_parts(module)


__all__ = ["NEW_TOKENS", "PARTS", "eval_frozen_parts", "set_trainable_parts", "train_new_tokens"]
