"""Loads the pretrained components of a new model, and adds a family's tokens to its language model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..hub_models import check_folder, loading_model
from .convert_checks import check_size, check_tensors

# Settings of sampling. Without sampling they mean nothing, and the library refuses to save them.
_SAMPLING_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


@contextmanager
def loading_component(name: str, source: str | Path) -> Iterator[None]:
    """Turn any error of loading a component into one line that names it; the library raises many kinds.

    Args:
        name (`str`): name of the argument.
        source (`str` or `Path`): the component's folder or Hub name.

    Raises:
        ValueError: whatever was wrong with the component.
        OSError: its files are not there.
    """
    try:
        check_folder(source)
        with loading_model(source):
            yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        start = "" if text.startswith(f"`{name}`") else f"`{name}` {source} cannot be loaded: "
        raise ValueError(f"{start}{text if len(text) <= 600 else text[:600] + '…'}") from error


def check_model_size(model_class: type, config: PreTrainedConfig, num_saved: int | None) -> None:
    """Check the size of the model that a configuration describes, without allocating it.

    Args:
        model_class (`type`): a model class, or an Auto class.
        config (`PreTrainedConfig`): the configuration.
        num_saved (`int`, *optional*): values in the weights; `None`, for names of the Hub, checks nothing.

    Raises:
        ValueError: the model is much larger than its weights.
    """
    if num_saved is not None:
        with torch.device("meta"):
            model = model_class.from_config(config) if hasattr(model_class, "from_config") else model_class(config)
        check_size("config.json", sum(weight.numel() for weight in model.parameters()), num_saved)


def load_component(
    model_class: type, source: str | Path, dtype: torch.dtype | str, may_miss: str | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Load a pretrained model and check that all of its weights come from its files.

    Args:
        model_class (`type`): a model class, or an Auto class.
        source (`str` or `Path`): folder or Hub name.
        dtype (`torch.dtype` or `str`): dtype of the loaded weights; `"auto"` for that of the files.
        may_miss (`str`, *optional*): beginning of the names of weights that some checkpoints lack and nobody uses.
        **kwargs: for `from_pretrained`.

    Returns:
        `PreTrainedModel`: the model.

    Raises:
        ValueError: weights that are missing, of other shapes, or not finite.
    """
    # Weights of other sizes are refused below, with their names.
    model, loading = model_class.from_pretrained(
        source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    missing = sorted(name for name in loading["missing_keys"] if may_miss is None or not name.startswith(may_miss))
    if loading["mismatched_keys"]:
        name, saved, described = sorted(loading["mismatched_keys"])[0]
        raise ValueError(
            f"its weight {name!r} has the shape {tuple(saved)}, but its config.json describes {tuple(described)}"
        )
    if missing:
        raise ValueError(
            f"its files lack {len(missing)} weights that its config.json describes, such as {missing[0]!r}"
        )
    changed = "" if dtype == "auto" else f" as {str(dtype).removeprefix('torch.')}"
    check_tensors(dict(model.named_parameters()), f"{source}{changed}")
    return model


def own_chat_template(tokenizer: PreTrainedTokenizerBase, default: str) -> str | dict[str, str]:
    """The chat template of a language model, or the default if it has none.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the language model's tokenizer.
        default (`str`): the template of the model family.

    Returns:
        `str` or `dict[str, str]`: one template, or several by name.

    Raises:
        ValueError: several templates, but none for ordinary conversations.
    """
    template = tokenizer.chat_template
    if isinstance(template, Mapping) and template and "default" not in template:
        raise ValueError(
            f"The language model's tokenizer has the chat templates {', '.join(sorted(template))}, but none of them "
            "is named 'default'. Give the one for ordinary conversations that name in its files."
        )
    return template or default


def own_generation_config(generation_config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The generation settings of a language model, with the padding token of its tokenizer.

    Args:
        generation_config (`GenerationConfig`): the language model's settings; changed in place.
        tokenizer (`PreTrainedTokenizerBase`): with the family's tokens.

    Returns:
        `GenerationConfig`: settings that can be saved. Of sampling nothing is left where the model does not sample.

    Raises:
        ValueError: settings that contradict each other.
    """
    generation_config.pad_token_id = tokenizer.pad_token_id
    if not generation_config.do_sample:
        for name in _SAMPLING_SETTINGS:
            if getattr(generation_config, name, None) is not None:
                setattr(generation_config, name, None)
    generation_config.validate(strict=True)
    return generation_config


def greedy_generation_config(text_config: PreTrainedConfig) -> GenerationConfig:
    """The generation settings of a converted model: greedy, as an answer that points should be the same twice.

    Args:
        text_config (`PreTrainedConfig`): configuration of its language model.

    Returns:
        `GenerationConfig`
    """
    return GenerationConfig(
        bos_token_id=text_config.bos_token_id,
        eos_token_id=text_config.eos_token_id,
        pad_token_id=text_config.pad_token_id,
        do_sample=False,
    )


def add_tokens(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[str],
    add_to_tokenizer: Callable[[PreTrainedTokenizerBase], Any],
) -> None:
    """Add a family's tokens to a language model and its tokenizer, in place. Existing rows keep every bit.

    Args:
        llm (`PreTrainedModel`): the language model; its new rows start at the mean of the vocabulary's.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        tokens (`Sequence[str]`): the tokens.
        add_to_tokenizer (`Callable`): adds them to a tokenizer, in place.

    Raises:
        ValueError: a tokenizer of another model.
    """
    num_tokens, num_rows = len(tokenizer), llm.get_input_embeddings().weight.shape[0]
    vocabulary = tokenizer.get_vocab()
    # A tokenizer may have been given a token or two that the model never saw, for padding for instance. But the model
    # must know all pieces of text.
    pieces = [index for token, index in vocabulary.items() if token not in tokenizer.added_tokens_encoder]
    if max(pieces, default=0) >= num_rows:
        raise ValueError(
            f"The language model's tokenizer has {max(pieces) + 1} pieces, but its embedding has {num_rows} rows: "
            "they do not belong together. Pass the folder with the tokenizer that the model was trained with."
        )
    add_to_tokenizer(tokenizer)
    # Some models have more rows than tokens. These stay; those that now get a token were never trained, and start at
    # the mean of the vocabulary like new rows.
    if len(tokenizer) > num_rows:
        llm.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    added = [token for token in tokens if token not in vocabulary]
    unused_rows = [index for index in tokenizer.convert_tokens_to_ids(added) if index < num_rows]
    with torch.no_grad():
        for table in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            table.weight[unused_rows] = table.weight[: min(num_tokens, num_rows)].mean(dim=0)
    llm.config.pad_token_id = tokenizer.pad_token_id


__all__ = [
    "add_tokens",
    "check_model_size",
    "greedy_generation_config",
    "load_component",
    "loading_component",
    "own_chat_template",
    "own_generation_config",
]
