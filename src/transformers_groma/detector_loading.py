"""Loads what proposes regions of a Groma, without its language model, whose weights are not read."""

from os import PathLike
from typing import Any

import torch
from transformers import AutoImageProcessor

from .hub_models import find_model, loading_model
from .loading import load_config, load_weights
from .loading_options import AS_SAVED, LoadingOptions
from .model_files import PROPOSING_MODELS
from .models.groma.modeling_groma_detector import GromaForRegionProposal


def load_detector(
    model: str | PathLike[str], device: str | torch.device | None = None, options: LoadingOptions = AS_SAVED
) -> tuple[GromaForRegionProposal, Any]:
    """Load what proposes regions: the vision encoder and the region proposer, of a whole Groma or of a detector.

    Args:
        model (`str` or path): folder or Hub name of a Groma, of a detector, or of an adapter of a Groma, which leaves
            the detector as it is.
        device (`str` or `torch.device`, *optional*): the best one available by default.
        options (`LoadingOptions`): how it is loaded; those of a language model change nothing.

    Returns:
        The detector, in evaluation mode on its device, and its image processor.

    Raises:
        OSError: no such folder, model or revision, or no access to it; the message says what to do.
        ValueError: a model of another kind, or options that do not fit the machine.

    Example:
    >>> detector, image_processor = load_detector("hub_configs/groma-tiny", device="cpu")
    >>> type(detector).__name__
    'GromaForRegionProposal'
    """
    options = options.without_language_model()
    base = find_model(model, options.revision)
    if base is not None:
        return load_detector(base, device, LoadingOptions(dtype=options.dtype, attn=options.attn))
    config = load_config(model, options.revision)
    if config.model_type not in PROPOSING_MODELS:
        raise ValueError(
            f"{str(model)!r} is of type {config.model_type!r}, which proposes no regions. Pass a Groma, or the "
            "detector of its first training stage."
        )
    detector = load_weights(GromaForRegionProposal, model, device, options)
    with loading_model(model, options.revision):
        return detector, AutoImageProcessor.from_pretrained(model, revision=options.revision)


__all__ = ["load_detector"]
