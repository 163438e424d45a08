"""The states that predicted the tokens of a step, for models whose masks are decoded from them."""

from typing import Any

from torch import Tensor, nn


class StepStates:
    """Keeps the last state of each row after every step of a model, within a `with` block.

    Args:
        model (`PreTrainedModel`): its outputs have `last_hidden_state`.

    Attributes:
        last (`Tensor` of shape `(B, hidden_size)`, *optional*): of the step that ended last: what the newest token of
            each row was predicted from, after the language model's last norm.
    """

    def __init__(self, model: nn.Module) -> None:
        self.last: Tensor | None = None
        self._model = model

    def __enter__(self) -> "StepStates":
        self._hook = self._model.register_forward_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.last = output.last_hidden_state[:, -1]


__all__ = ["StepStates"]
