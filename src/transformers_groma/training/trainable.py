"""Which parts learn: freezes the rest, and trains single rows of the embedding and the head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..models.groma.modeling_groma import GromaForConditionalGeneration

# Names of the parts, and their modules. `NEW_TOKENS` are rows of the embedding and of the head: `train_new_tokens`.
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
        parts (`Sequence[str]`): of `vision_tower`, `region_proposer`, `region_encoder`, `projector`, `language_model`
            (with its head) and `new_tokens` (only the rows of Groma's own tokens in embedding and head).
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
    check_parts(parts)
    train_all_rows(model)
    modules = [PARTS[part] for part in parts if part != NEW_TOKENS]
    if "language_model" in parts:
        modules += model.model.language_model_head.names.values()
    train_modules(model, modules)
    if NEW_TOKENS in parts:
        train_new_tokens(model, new_token_ids)


def train_modules(model: nn.Module, modules: Sequence[str]) -> None:
    """Freeze everything but the named modules.

    Args:
        model (`nn.Module`): changed in place.
        modules (`Sequence[str]`): their paths in the model.

    Example:
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> train_modules(model, ["1"])
    >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
    ['1.weight', '1.bias']
    """
    model.requires_grad_(False)
    for name in modules:
        model.get_submodule(name).requires_grad_(True)


def check_parts(parts: Sequence[str]) -> None:
    """Check the names of trainable parts.

    Args:
        parts (`Sequence[str]`): the names, see `set_trainable_parts`.

    Raises:
        ValueError: an unknown part, or `new_tokens` beside `language_model` (which holds them).

    Example:
    >>> check_parts(["eyes"])
    Traceback (most recent call last):
    ValueError: Unknown part 'eyes' of the model. Use some of vision_tower, region_proposer, region_encoder, projector,
        language_model, new_tokens.
    """
    unknown = [part for part in parts if part not in (*PARTS, NEW_TOKENS)]
    if unknown:
        raise ValueError(f"Unknown part {unknown[0]!r} of the model. Use some of {', '.join((*PARTS, NEW_TOKENS))}.")
    if NEW_TOKENS in parts and "language_model" in parts:
        raise ValueError("`language_model` holds the new tokens: name one of `new_tokens` and `language_model`.")


def train_new_tokens(model: GromaForConditionalGeneration, token_ids: Sequence[int]) -> None:
    """Train only some rows of the embedding and the head; the others keep every bit.

    The gradient of the other rows is exactly zero, so an optimizer without weight decay leaves them as they are.

    Args:
        model (`GromaForConditionalGeneration`): changed in place: the head becomes another module with the same
            weights. Names of weights stay as they are.
        token_ids (`Sequence[int]`): the rows that learn.

    Raises:
        ValueError: no ids.
    """
    if not token_ids:
        raise ValueError("`new_token_ids` is empty: give the ids of the tokens that Groma added.")
    train_all_rows(model)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    learned_rows = torch.zeros(model.config.text_config.vocab_size, dtype=torch.bool)
    learned_rows[list(token_ids)] = True
    # Gradients are cut in the forward pass. Hooks on the weights would be the obvious way, but FSDP2 replaces weights
    # and drops their hooks; `torch.nn.utils.parametrize` would rename the weights in checkpoints and untie them.
    # A hook on the output is enough for an embedding, of whatever class: each output row is a row of the weight.
    embedding.weight.requires_grad_(True)
    embedding.register_buffer("learned_rows", learned_rows.to(embedding.weight.device), persistent=False)
    embedding.learned_rows_hook = embedding.register_forward_hook(_detach_other_rows)
    # In a head all rows meet all hidden states. A hook would have to compute the logits a second time.
    head.weight.requires_grad_(True)
    model.set_output_embeddings(_HeadWithLearnedRows(head, learned_rows.to(head.weight.device)))


def train_all_rows(model: GromaForConditionalGeneration) -> None:
    """Undo `train_new_tokens`: every row of the embedding and the head gets its gradient again.

    Args:
        model (`GromaForConditionalGeneration`): changed in place; nothing happens where there is nothing to undo.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(head, _HeadWithLearnedRows):
        embedding.learned_rows_hook.remove()
        del embedding.learned_rows_hook, embedding.learned_rows
        model.set_output_embeddings(head.plain())


class _LearnRows(torch.autograd.Function):
    """Returns a weight unchanged; in the backward pass, only some of its rows get a gradient."""

    @staticmethod
    def forward(ctx, weight: Tensor, learned_rows: Tensor) -> Tensor:
        ctx.save_for_backward(learned_rows)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (learned_rows,) = ctx.saved_tensors
        # Filled in rather than multiplied: infinity times zero is NaN.
        return gradient.masked_fill(~learned_rows[:, None], 0), None


class _HeadWithLearnedRows(nn.Linear):
    """A head in which only some rows learn. It shares the parameters of the head that it replaces, so ties hold."""

    def __init__(self, head: nn.Linear, learned_rows: Tensor):
        super().__init__(head.in_features, head.out_features, head.bias is not None, device="meta")
        self.weight, self.bias = head.weight, head.bias
        self.register_buffer("learned_rows", learned_rows, persistent=False)
        self.train(head.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return nn.functional.linear(hidden_states, _LearnRows.apply(self.weight, self.learned_rows), self.bias)

    def plain(self) -> nn.Linear:
        """A head with the same parameters in which all rows learn."""
        head = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        head.weight, head.bias = self.weight, self.bias
        return head.train(self.training)


def _detach_other_rows(embedding: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return torch.where(embedding.learned_rows[inputs[0]][..., None], output, output.detach())


def eval_frozen_parts(model: nn.Module) -> None:
    """Put the frozen parts of a training model into evaluation mode: dropout would only disturb their features.

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


def checkpoint_frozen_layers(language_model: nn.Module) -> None:
    """Keep activation checkpointing of frozen layers, which `eval_frozen_parts` would switch off.

    Gradients pass through the frozen language model of stage 2 on their way to the projector, so its layers hold
    activations. A layer recomputes them only in training mode. Its parts, where dropout is, stay in evaluation mode.

    Args:
        language_model (`nn.Module`): changed in place; nothing happens without activation checkpointing.
    """
    for layer in language_model.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            layer.training = True


__all__ = [
    "NEW_TOKENS",
    "PARTS",
    "check_parts",
    "checkpoint_frozen_layers",
    "eval_frozen_parts",
    "set_trainable_parts",
    "train_all_rows",
    "train_modules",
    "train_new_tokens",
]
