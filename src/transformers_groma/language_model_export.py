"""Exports the language model of a Groma or a GLaMM as a plain causal language model, for servers of text."""

import copy
import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_utils import PreTrainedModel

from ._files import write_file
from ._folders import check_output_folder, complete_folder
from .hub_models import find_model, loading_model
from .loading import load_config, load_weights
from .loading_options import LoadingOptions
from .model_files import ANSWERING_MODELS

# A shard is held in memory a second time while it is written.
MAX_SHARD_SIZE = "2GB"
# The library's plain tokenizer by the name that its older releases know, too.
_PLAIN_TOKENIZER = "PreTrainedTokenizerFast"


def export_language_model(
    model: str | PathLike[str],
    output_dir: str | PathLike[str],
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    revision: str | None = None,
) -> Path:
    """Write the language model of a Groma or a GLaMM into a folder of its own, which loads without this package.

    The folder has the weights in shards, with the rows of added tokens, `config.json`, `generation_config.json`, the
    tokenizer and the chat template: what `AutoModelForCausalLM` and `vllm serve` read. It appears when it is complete.
    The weights are in memory once, and each shard once more while it is written.

    Args:
        model (`str` or path): folder or Hub name of a whole Groma or GLaMM, or the folder of an adapter of PEFT, which
            is merged.
        output_dir (`str` or path): folder to write; it must be new or empty.
        dtype (`torch.dtype`, *optional*): of the written weights; as saved by default.
        overwrite (`bool`): replace an `output_dir` that exists.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: another kind of model, or a quantized one.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or a source would be lost with it.
        OSError: no such folder, model or revision, or no access to it; the message says what to do.

    Example:
    ```python
    export_language_model("groma-7b", "groma-7b-lm")
    # where the package is not installed:
    language_model = AutoModelForCausalLM.from_pretrained("groma-7b-lm")
    ```
    """
    check_output_folder(output_dir, overwrite, [model])
    whole, processor = _loaded(model, dtype, revision)
    plain = plain_language_model(whole)
    with complete_folder(output_dir, overwrite, sources=[model]) as folder:
        plain.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
        _write_tokenizer(processor, folder)
    return Path(output_dir)


def plain_language_model(model: Any) -> PreTrainedModel:
    """The causal language model inside of a model that answers about images. They share their weights.

    Args:
        model (`PreTrainedModel`): a whole Groma or GLaMM, without adapters and not quantized.

    Returns:
        `PreTrainedModel`: of the class of `AutoModelForCausalLM` for `config.text_config`, with the generation
        settings of the whole model. It is made to be saved: tables that its class computes anew when it is loaded
        have no memory.

    Raises:
        ValueError: the model is quantized.

    Example:
    >>> from transformers import AutoModelForImageTextToText
    >>> import transformers_groma
    >>> whole = AutoModelForImageTextToText.from_pretrained("hub_configs/groma-tiny")
    >>> plain = plain_language_model(whole)
    >>> type(plain).__name__, plain.get_input_embeddings().weight is whole.get_input_embeddings().weight
    ('LlamaForCausalLM', True)
    """
    _check_not_quantized(model.config)
    head, weights = model.model.language_model_head, model.state_dict(keep_vars=True)
    config = copy.deepcopy(head.config)
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    # What the weights say: the setting of the whole model decides whether they are tied.
    config.tie_word_embeddings = output is embedding
    config.dtype = embedding.dtype
    with torch.device("meta"):
        plain = head.causal_class(config)
    plain.load_state_dict({name: weights[head.name_in_model(name)] for name in plain.state_dict()}, assign=True)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.eval()


def _loaded(model: str | PathLike[str], dtype: torch.dtype | None, revision: str | None) -> tuple[Any, Any]:
    """The whole model on the CPU, an adapter merged into it, and its processor."""
    base = find_model(model, revision)
    config = load_config(model, revision)
    if config.model_type not in ANSWERING_MODELS:
        raise ValueError(
            f"`model` {str(model)!r} is of type {config.model_type!r}, which has no language model to export. Pass a "
            f"model of type {' or '.join(map(repr, ANSWERING_MODELS))}."
        )
    _check_not_quantized(config)
    # The revision of an adapter is not that of its model.
    options = LoadingOptions("auto" if dtype is None else str(dtype), revision=None if base else revision)
    whole = load_weights(AutoModelForImageTextToText, base or model, "cpu", options)
    with loading_model(model, revision):
        if base is not None:
            from peft import PeftModel

            whole = PeftModel.from_pretrained(whole, model, revision=revision).merge_and_unload()
        return whole, AutoProcessor.from_pretrained(model, revision=revision)


def _check_not_quantized(config: Any) -> None:
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    name = getattr(method, "value", method)
    raise ValueError(
        f"The model is quantized (`quantization_config` of {str(name)!r}), and its weights cannot become plain ones "
        "again. Export the model that it was made of, and quantize in the language server (`vllm serve OUT "
        "--quantization …`)."
    )


def _write_tokenizer(processor: Any, folder: Path) -> None:
    """The tokenizer as a plain one, with the chat template of the processor."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = processor.chat_template
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("processor_class", "is_local", "local_files_only"):  # of this machine, or of the whole model
        settings.pop(name, None)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = _PLAIN_TOKENIZER
    write_file(path, (json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode())


__all__ = ["MAX_SHARD_SIZE", "export_language_model", "plain_language_model"]
