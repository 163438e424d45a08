"""Loads a model with its processor, for all that answer questions: commands, app and server."""

from os import PathLike
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor


def best_device() -> torch.device:
    """The accelerator of this machine if torch can use it, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load_model(
    model: str | PathLike[str], device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> tuple[Any, Any]:
    """Load a model and its processor.

    Args:
        model (`str` or path): folder or Hub name of a model, or the folder of an adapter.
        device (`str` or `torch.device`, *optional*): [`best_device`] by default.
        dtype (`str` or `torch.dtype`, *optional*): as the weights are saved by default.

    Returns:
        The model, in evaluation mode on its device, and its processor.

    Raises:
        OSError: no such folder or model.

    Example:
    >>> import transformers_groma
    >>> model, processor = load_model("hub_configs/groma-tiny", device="cpu")
    >>> type(processor).__name__
    'GromaProcessor'
    """
    processor = AutoProcessor.from_pretrained(model)
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype="auto" if dtype is None else dtype)
    return loaded.to(best_device() if device is None else device), processor


__all__ = ["best_device", "load_model"]
