"""Gathers, while an answer is generated, the states that predicted its tokens: masks need those of `[SEG]`."""

from contextvars import ContextVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from ..modeling_assistant import DraftingAssistant


class GatheredStates:
    """The states that predicted each new token, step by step, of every row of a generation.

    Args:
        model (`nn.Module`): which model's states they are. An assistant, which drafts tokens for it, generates too.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._steps: list[Tensor] = []

    def add(self, model: nn.Module, outputs: ModelOutput, num_new_tokens: int) -> None:
        """Add the states of a step.

        Args:
            model (`nn.Module`): whose step it was.
            outputs (`ModelOutput`): of `forward`, with `last_hidden_state` and `logits`.
            num_new_tokens (`int`): tokens that the step added to each row; several in assisted decoding.
        """
        if model is not self._model:
            return
        # Generation asks for logits only where tokens may be predicted: after the last token and, in assisted
        # decoding, after each drafted one. Of the drafts, the first few were right.
        predicting = outputs.last_hidden_state[:, -outputs.logits.shape[1] :]
        self._steps.append(predicting[:, :num_new_tokens].detach().clone())

    def of_tokens(self, is_wanted: Tensor, beam_indices: Tensor | None = None) -> list[Tensor]:
        """The states that predicted some of the new tokens.

        Args:
            is_wanted (`Tensor` of shape `(B, new)`, bool): which tokens.
            beam_indices (`Tensor` of shape `(B, new)`, *optional*): after beam search, the row from which each token
                was generated.

        Returns:
            `list[Tensor]`, each of shape `(n, hidden_size)`: for each row, in order.

        Raises:
            ValueError: tokens whose steps were not seen.
        """
        seen = sum(step.shape[1] for step in self._steps)
        if is_wanted.any() and seen < is_wanted.shape[1]:
            raise ValueError(
                f"Masks need the state of each new token, but of {is_wanted.shape[1]} tokens those of {seen} were "
                "seen: `custom_generate` must call `model._update_model_kwargs_for_generation` after each step, as "
                "the library's own decoding does. Without it leave `return_dict_in_generate` out."
            )
        if not self._steps:
            return [torch.empty(0, 0) for _ in is_wanted]
        states = torch.cat(self._steps, dim=1)
        found = []
        for row, wanted in enumerate(is_wanted.to(states.device)):
            steps = wanted.nonzero().flatten()
            rows = row if beam_indices is None else beam_indices[row].to(states.device)[steps]
            found.append(states[rows, steps])
        return found


# Of the generation that runs in this thread, if it is about images.
GATHERED: ContextVar[GatheredStates | None] = ContextVar("gathered_states", default=None)


class GlammDraftingAssistant(DraftingAssistant):
    """A `DraftingAssistant` whose states are not gathered: it may be the very model that it drafts for."""

    def generate(self, *args, **kwargs):
        token = GATHERED.set(None)
        try:
            return super().generate(*args, **kwargs)
        finally:
            GATHERED.reset(token)


__all__ = ["GATHERED", "GatheredStates", "GlammDraftingAssistant"]
