"""Loads the perceiving parts of a model, whose language model runs in a language server."""

from os import PathLike
from typing import Any

import torch
from transformers import AutoProcessor, GenerationConfig

from .hub_models import find_model, loading_model
from .loading import best_device, choose_products, load_config
from .loading_options import AS_SAVED, LoadingOptions
from .models.groma.modeling_groma_perceiver import GromaPerceiver


def load_perceiver(
    model: str | PathLike[str], device: str | torch.device | None = None, options: LoadingOptions = AS_SAVED
) -> tuple[GromaPerceiver, Any, GenerationConfig]:
    """Load the perceiving parts of a Groma, without its language model, whose weights are not read.

    Args:
        model (`str` or path): folder or Hub name of a whole Groma.
        device (`str` or `torch.device`, *optional*): [`best_device`] by default.
        options (`LoadingOptions`): dtype and attention; by default the model is loaded as it was saved.

    Returns:
        The perceiving parts, in evaluation mode on their device, the processor, and the generation settings.

    Raises:
        ValueError: another kind of model, an adapter, options for a language model, or weights that lack a part.
        OSError: no such folder, model or revision, or no access to it; the message says what to do.
    """
    if options.of_language_model:
        names = " and ".join(f"`{name}`" for name in options.of_language_model)
        raise ValueError(
            f"{names} would change the language model, which is not loaded here: leave it out, and set what the "
            "language server has for it."
        )
    if find_model(model, options.revision) is not None:
        raise ValueError(
            f"{str(model)!r} is an adapter, which may change what is seen, too. Merge it into a whole model "
            "(`merge_and_unload` of PEFT, then `save_pretrained`), and take that model here and for `groma export-lm`."
        )
    config = load_config(model, options.revision)
    if config.model_type == "glamm":
        raise ValueError(
            f"{str(model)!r} is a GLaMM, which makes its masks from states of its language model. A language server "
            "does not return them: serve it whole, without a language server."
        )
    if config.model_type != "groma":
        raise ValueError(f"{str(model)!r} is of type {config.model_type!r}. Pass a whole model of type 'groma'.")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"{str(model)!r} is quantized, which concerns its language model alone. Take the model that it was made "
            "of, and quantize in the language server."
        )
    attention = {} if options.attn is None else {"attn_implementation": options.attn}
    with loading_model(model, options.revision):
        processor = AutoProcessor.from_pretrained(model, revision=options.revision)
        loaded, report = GromaPerceiver.from_pretrained(
            model, dtype=options.dtype, revision=options.revision, output_loading_info=True, **attention
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"The weights of {str(model)!r} lack {', '.join(missing[:3])}. Save the whole model again.")
    try:
        generation_config = GenerationConfig.from_pretrained(model, revision=options.revision)
    except OSError:
        generation_config = GenerationConfig.from_model_config(config)
    device = torch.device(best_device() if device is None else device)
    choose_products(loaded.to(device), device, options)
    return loaded.eval(), processor, generation_config


__all__ = ["load_perceiver"]
