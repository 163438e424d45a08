"""Loads a dual encoder with its processor from a folder or the Hub."""

import os
from typing import Any

import torch
from transformers import (
    MODEL_MAPPING,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    ProcessorMixin,
    VisionTextDualEncoderProcessor,
)

from ..hub_models import find_model, loading_model
from ..loading import load_config, load_weights
from ..loading_options import AS_SAVED, LoadingOptions
from .encoder_interface import check_encoder_functions


def load_encoder(
    name: str | os.PathLike[str], device: str | torch.device | None = None, options: LoadingOptions = AS_SAVED
) -> tuple[Any, Any]:
    """Load a dual encoder and its processor.

    Images are prepared with Pillow, also where torchvision is installed: the same image gives the same pixels on every
    machine, and those of the code that was published with the method.

    Args:
        name (`str` or path): folder or Hub name.
        device (`str` or `torch.device`, *optional*): the best one of this machine by default.
        options (`LoadingOptions`): revision and dtype.

    Returns:
        The model, in evaluation mode on its device, and its processor.

    Raises:
        OSError: no such folder, model or revision, or no access to it; the message says what to do.
        ValueError: a model that is not a dual encoder; nothing of its weights is loaded.

    Example:
    >>> model, processor = load_encoder("tests/fixtures/golden_wca/clip_b2_c4/model", device="cpu")
    >>> type(model).__name__, type(processor).__name__
    ('CLIPModel', 'CLIPProcessor')
    """
    find_model(name, options.revision)
    config = load_config(name, options.revision)
    _check_class(config)
    with loading_model(name, options.revision):
        processor = _load_processor(name, options.revision)
    return load_weights(AutoModel, name, device, options), processor


def _check_class(config: Any) -> None:
    """Refuse, before its weights are read, a model whose class lacks the functions."""
    model_class = MODEL_MAPPING.get(type(config), None)
    if model_class is None or not hasattr(model_class, "from_pretrained"):
        return  # a class that the library does not choose by itself: the model is checked once it is loaded
    check_encoder_functions(model_class, model_class)


def _load_processor(name: str | os.PathLike[str], revision: str | None) -> Any:
    processor = AutoProcessor.from_pretrained(name, revision=revision, backend="pil")
    if isinstance(processor, ProcessorMixin):
        return processor
    # Of a model without a processor class of its own the library loads one half.
    image_processor = AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    return VisionTextDualEncoderProcessor(image_processor, tokenizer)


__all__ = ["load_encoder"]
