"""Checks that a folder holds a complete model or adapter, before anything of it is uploaded."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoModelForObjectDetection,
    AutoProcessor,
    PreTrainedModel,
)
from transformers.utils import logging

from ..model_cards import KIND_OF_TYPE
from ..model_files import INDEX_FILE, PICKLED_WEIGHTS, WEIGHTS_FILE, checked_file, read_json, shard_names
from ..models.released_weights import check_weights

ADAPTER_WEIGHTS = "adapter_model.safetensors"
DETECTOR = "groma_region_proposal"
# What may hold a chat template beside a file of its own.
_TEMPLATE_HOLDERS = ("processor_config.json", "tokenizer_config.json")


def check_model(folder: Path) -> PreTrainedModel:
    """Check that a folder holds a model with all its weights, settings and its processor.

    The model is built without memory for its weights (on the device `meta`), so that a large one takes seconds too;
    only a quantized one is loaded.

    Args:
        folder (`Path`): folder of a Groma, a GLaMM or a detector.

    Returns:
        `PreTrainedModel`: on the device `meta`, or `cpu` if it is quantized.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: weights are missing, damaged, pickles or not those of the settings; the processor or tokenizer is
            missing or does not fit.
    """
    check_weight_files(folder)
    settings = read_json(checked_file(folder, "config.json"))
    model_type = settings.get("model_type")
    if model_type not in KIND_OF_TYPE:
        raise ValueError(
            f"{folder} holds a model of type {model_type!r}, and what is pushed is of type "
            f"{' or '.join(KIND_OF_TYPE)}: push it with `hf upload`."
        )
    auto_class = AutoModelForObjectDetection if model_type == DETECTOR else AutoModelForImageTextToText
    with _quiet(), _naming(folder, "the model cannot be loaded"):
        # Weights in 4 bit are unpacked while they are loaded, which needs memory.
        device = "cpu" if settings.get("quantization_config") else "meta"
        model, info = auto_class.from_pretrained(folder, device_map=device, output_loading_info=True)
    for key, words in (
        ("missing_keys", "weights are missing"),
        ("unexpected_keys", "weights are not the model's"),
        ("mismatched_keys", "weights have another shape than config.json says"),
    ):
        if info[key]:
            first = sorted(str(each[0] if isinstance(each, tuple) else each) for each in info[key])[0]
            raise ValueError(f"{folder}: {len(info[key])} {words}, {first!r} for example. Save the model again.")
    said, expected = settings.get("architectures"), [type(model).__name__]
    if said != expected:
        raise ValueError(
            f"{folder / 'config.json'} says `architectures` {said}, and the weights are those of {expected}. Other "
            "tools go by that name: save the model again."
        )
    check_processor(folder, model.config)
    return model


def check_weight_files(folder: Path) -> None:
    """Check that the weights are complete safetensors files.

    Args:
        folder (`Path`): folder of a model.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are pickles; a shard that the index names is missing, cannot be read, or lacks
            weights that the index puts there.
    """
    if not any((folder / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE)):
        pickled = next((name for name in PICKLED_WEIGHTS if (folder / name).is_file()), None)
        if pickled is not None:
            raise ValueError(
                f"The weights of {folder} are a pickle, {pickled}, which runs code when it is loaded and is not "
                "pushed. Load the model and save it again, as safetensors."
            )
        check_weights(folder)
        raise ValueError(
            f"{folder} has no weights ({WEIGHTS_FILE}, or {INDEX_FILE} and its shards). Push a folder that "
            "`save_pretrained`, `groma convert` or a training wrote."
        )
    # With both, loading takes the single file: an index beside it is a leftover.
    if (folder / WEIGHTS_FILE).is_file():
        tensor_names(checked_file(folder, WEIGHTS_FILE))
        if (folder / INDEX_FILE).is_file():
            raise ValueError(
                f"{folder} has both {WEIGHTS_FILE} and {INDEX_FILE}, and it is unclear which are the model's weights. "
                "Remove one of them."
            )
        return
    weight_map = read_json(checked_file(folder, INDEX_FILE))["weight_map"] if shard_names(folder) else {}
    for shard in shard_names(folder):
        held = tensor_names(checked_file(folder, shard))
        lacking = sorted(name for name, place in weight_map.items() if place == shard and name not in held)
        if lacking:
            raise ValueError(
                f"{folder / shard} lacks {len(lacking)} weights that {INDEX_FILE} puts there, {lacking[0]!r} for "
                "example. Save the model again."
            )


def tensor_names(path: Path) -> set[str]:
    """The names of the tensors in a safetensors file.

    Args:
        path (`Path`): the file.

    Returns:
        `set[str]`

    Raises:
        ValueError: it is damaged, a pointer of git LFS, or empty.
    """
    with path.open("rb") as file:
        if file.read(64).startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} is a pointer of git LFS, not the weights: run `git lfs pull`.")
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): it is damaged or incomplete. Save it again.") from error
    if not names:
        raise ValueError(f"{path} holds no weights. Save the model again.")
    return names


def check_processor(folder: Path, config: Any) -> None:
    """Check that a folder's processor loads and is that of the model.

    Args:
        folder (`Path`): the folder.
        config (`PreTrainedConfig`): of its model.

    Raises:
        ValueError: processor, image processor, tokenizer or chat template are missing, or the tokenizer has other
            tokens than the model.
    """
    is_detector = config.model_type == DETECTOR
    with _quiet(), _naming(folder, "the processor cannot be loaded"):
        processor = (AutoImageProcessor if is_detector else AutoProcessor).from_pretrained(folder)
    if is_detector:
        return
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"{folder} has no tokenizer of its model. Save the processor into it (`save_pretrained`).")
    # The processor would take the family's own, which need not be that of the training.
    if not any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        held = [read_json(folder / name) for name in _TEMPLATE_HOLDERS if (folder / name).is_file()]
        if not any(each.get("chat_template") for each in held):
            raise ValueError(f"{folder} has no chat template. Save the processor into it (`save_pretrained`).")
    rows = config.text_config.vocab_size
    if len(tokenizer) > rows:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model {rows}: it is another model's."
        )
    for name in ("image_token_id", "first_proxy_token_id", "refer_box_token_id", "seg_token_id"):
        expected = getattr(config, name, None)
        found = getattr(processor, name, expected)
        if found != expected:
            raise ValueError(
                f"{folder}: `{name}` is {found} in the tokenizer and {expected} in config.json: it is another model's."
            )


def check_adapter(folder: Path, base_model: str | None) -> str:
    """Check that a folder holds a complete adapter whose model others can get.

    Args:
        folder (`Path`): folder of an adapter.
        base_model (`str`, *optional*): Hub name of the model that it belongs to, in place of what its settings say.

    Returns:
        `str`: Hub name of the model.

    Raises:
        ValueError: no weights, damaged settings, or a model that is a folder of this machine.
    """
    settings = read_json(checked_file(folder, "adapter_config.json"))
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {ADAPTER_WEIGHTS}. Save the adapter again (`save_pretrained`).")
    tensor_names(checked_file(folder, ADAPTER_WEIGHTS))
    base = base_model or settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{folder / 'adapter_config.json'} does not say which model the adapter was trained from: pass it with "
            "--base-model ORG/NAME."
        )
    if Path(base).exists() or Path(base).is_absolute() or base.startswith(".") or base.count("/") != 1:
        raise ValueError(
            f"the adapter in {folder} belongs to {base!r}, a folder that nobody else has: push that model first, and "
            "name it with --base-model ORG/NAME; or push the merged model instead."
        )
    with _quiet(), _naming(folder, "the processor cannot be loaded"):
        AutoProcessor.from_pretrained(folder)
    return base


@contextmanager
def _naming(folder: Path, what: str) -> Iterator[None]:
    """Say of which folder an error of the libraries is."""
    try:
        yield
    except (OSError, ImportError, ValueError, KeyError, RuntimeError, TypeError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: {what} ({reason[:300]}). Save it again, then push.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' reports of what is checked here."""
    verbosity, had_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_progress:
            logging.enable_progress_bar()


__all__ = ["ADAPTER_WEIGHTS", "DETECTOR", "check_adapter", "check_model", "check_processor", "check_weight_files"]
