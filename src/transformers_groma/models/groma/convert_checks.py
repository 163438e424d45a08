"""Reads the files of a checkpoint, and refuses what cannot be right before anything is written.

Files come from anywhere: cut downloads, runs that were not gathered, other programs, other people. Each mistake is a
ValueError of one line that names the file, the tensor or the setting, and what to do.
"""

import math
import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ...model_files import read_json

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Tables of positions and the like, which some models save.
_INDEX_DTYPES = (torch.int64, torch.int32, torch.bool)
_FLOAT_NAMES = "float32, bfloat16 or float16"
# Each region slot is a token of the vocabulary.
MOST_REGIONS = 10_000
# Far above every size of a model, far below what fills a memory with settings alone.
LARGEST_SETTING = 2**31
_LFS_POINTER = b"version https://git-lfs"
DAMAGED = "it is cut or damaged: download or copy it again"
COPY_AGAIN = "Download or copy it again."


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of settings.

    Args:
        path (`Path`): a JSON file with an object.

    Returns:
        `dict`

    Raises:
        ValueError: it is not a JSON object, or has numbers that are not finite or absurdly large.
    """
    value = read_json(path, COPY_AGAIN)
    _check_numbers(path, value, "")
    return value


def _check_numbers(path: Path, value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_numbers(path, item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for item in value:
            _check_numbers(path, item, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} says `{name}` {value}, which is not a finite number: correct it.")
    elif isinstance(value, int) and abs(value) > LARGEST_SETTING and "length" not in name:
        # Lengths are limits: tokenizers write 10 ** 30 for "none".
        raise ValueError(f"{path} says `{name}` {value}, which is not a valid size: correct it.")


def find_weights(directory: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that hold the weights of a folder: safetensors before .bin, whole or in shards.

    Args:
        directory (`Path`): folder of a checkpoint.

    Returns:
        `tuple[list[Path], dict[str, str]]`: the files, and for shards the file of each tensor.

    Raises:
        FileNotFoundError: no weights, or a shard that is not there.
        ValueError: an index that cannot be read, names files elsewhere, or stands beside a whole file.
    """
    for name in WEIGHT_FILES:
        whole, index = directory / name, directory / f"{name}.index.json"
        if whole.is_file() and index.is_file():
            raise ValueError(
                f"{directory} holds both {whole.name} and {index.name}: remove the one that is not of this model."
            )
        if whole.is_file():
            return [whole], {}
        if index.is_file():
            # Not settings: the size of all tensors, which stands there too, has no limit.
            weight_map = read_json(index, COPY_AGAIN).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ValueError(f"{index} has no `weight_map` of tensors and files: {DAMAGED}.")
            for file in weight_map.values():
                if not isinstance(file, str) or file in ("", ".", "..") or Path(file).name != file or "\\" in file:
                    raise ValueError(
                        f"{index} names the shard {file!r}, which is not a file beside it: correct `weight_map`, and "
                        "never load an index that you do not trust."
                    )
            files = [directory / file for file in sorted(set(weight_map.values()))]
            absent = [path.name for path in files if not path.is_file()]
            if absent:
                raise FileNotFoundError(f"{directory} misses shards that its index names: {', '.join(absent)}.")
            return files, weight_map
    raise FileNotFoundError(
        f"{directory} holds no weights: looked for model.safetensors, pytorch_model.bin and their shard indices."
    )


def load_checkpoint(directory: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint folder: safetensors or .bin, whole or in shards. .bin files are mapped, not copied.

    Args:
        directory (`str` or `Path`): folder of the checkpoint.

    Returns:
        `dict[str, Tensor]`: tensors by name, all of them floating point, finite and not empty.

    Raises:
        FileNotFoundError: if the folder holds no weights, or a shard that its index names is not there.
        ValueError: files that are damaged, or hold something else than one finite floating point tensor for each name.
    """
    files, weight_map = find_weights(Path(directory))
    state_dict: dict[str, Tensor] = {}
    source: dict[str, Path] = {}
    for path in tqdm(files, desc="read", unit="file", disable=len(files) < 2):
        tensors = read_weights(path)
        check_tensors(tensors, path)
        if lost := [name for name, file in weight_map.items() if file == path.name and name not in tensors]:
            raise ValueError(f"{path} lacks {some(lost)}, which its index says it holds: {DAMAGED}.")
        for name, tensor in tensors.items():
            if name in state_dict and not torch.equal(state_dict[name], tensor):
                raise ValueError(
                    f"{source[name].name} and {path.name} in {path.parent} hold different values for {name!r}: keep "
                    "the shards of one training run alone."
                )
            state_dict[name], source[name] = tensor, path
    return state_dict


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights. Nothing in it is run.

    Args:
        path (`Path`): a safetensors file, or one of `torch.save`.

    Returns:
        `dict[str, Tensor]`

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    head = check_no_pointer(path)
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            # Files of old versions of torch are no zip archives and cannot be mapped.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        if head[:2] in (b"PK", b"\x80\x02"):
            raise ValueError(
                f"{path} holds Python objects beside tensors, which could run code: it was not loaded. Save a "
                "`state_dict` of tensors, best as safetensors."
            ) from error
        raise ValueError(f"{path} is not a file of weights (it begins with {head[:12]!r}): {DAMAGED}.") from error
    except Exception as error:  # each format has its own, down to KeyError
        raise ValueError(f"{path} cannot be read ({_line(error)}): {DAMAGED}.") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__} and not tensors by name: save a `state_dict`.")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"{path} holds a {type(tensor).__name__} under {name!r} and not a tensor: save the `state_dict` of "
                f"the model alone."
            )
    return dict(loaded)


def check_no_pointer(path: Path) -> bytes:
    """Check that a file is not what Git LFS leaves in its place.

    Args:
        path (`Path`): the file.

    Returns:
        `bytes`: its beginning.

    Raises:
        ValueError: it is.
    """
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise ValueError(f"{path} is a pointer of Git LFS and not the file itself: run `git lfs pull` in its folder.")
    return head


def check_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, dtypes: Iterable[torch.dtype] = WEIGHT_DTYPES
) -> None:
    """Check that tensors are weights.

    Args:
        tensors (`Mapping[str, Tensor]`): by name.
        path (`str` or `Path`): where they come from, for the message.
        dtypes (`Iterable[torch.dtype]`): what they may be.

    Raises:
        ValueError: empty tensors, other dtypes or layouts, more values than are saved, values that are not finite.

    Example:
    >>> check_tensors({"head.weight": torch.zeros(0)}, "model.safetensors")
    Traceback (most recent call last):
    ValueError: model.safetensors: 1 of 1 tensors is empty, 'head.weight'. A DeepSpeed ZeRO-3 run saved them without
        gathering: run its zero_to_fp32.py and convert the result.
    """
    if empty := [name for name, tensor in tensors.items() if tensor.numel() == 0]:
        verb = "is" if len(empty) == 1 else "are"
        raise ValueError(
            f"{path}: {len(empty)} of {len(tensors)} tensors {verb} empty, {some(empty)}. A DeepSpeed ZeRO-3 run "
            "saved them without gathering: run its zero_to_fp32.py and convert the result."
        )
    dtypes = tuple(dtypes)
    for name, tensor in tensors.items():
        if tensor.is_quantized or tensor.layout is not torch.strided:
            kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise ValueError(f"{path}: {name!r} is a {kind} tensor: save it as plain {_FLOAT_NAMES}.")
        if tensor.dtype not in dtypes:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{path}: {name!r} is {dtype}, which is not a dtype of weights: save the model, not a quantized form "
                f"of it, as {_FLOAT_NAMES}."
            )
        if tensor.is_meta:
            raise ValueError(
                f"{path}: {name!r} has a shape but no values: save the model after its weights are loaded."
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{path}: {name!r} claims {tensor.numel()} values of shape {tuple(tensor.shape)}, but fewer are "
                "saved: save it with `.contiguous()`."
            )
    if unfinished := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(
            f"{path}: {some(unfinished)} {'has' if len(unfinished) == 1 else 'have'} values that are NaN or infinite. "
            "The training diverged or the file is damaged: take an earlier checkpoint, or download it again."
        )


def check_size(config_name: str, num_needed: int, num_saved: int) -> None:
    """Check that settings describe no larger model than the weights are, before any memory is taken for it.

    Args:
        config_name (`str`): the file of settings.
        num_needed (`int`): values of the model that it describes.
        num_saved (`int`): values in the weights.

    Raises:
        ValueError: it is more than twice as large; smaller differences have a tensor's name when the weights are
            loaded.
    """
    if num_needed > 2 * num_saved:
        raise ValueError(
            f"{config_name} describes a model of {num_needed:,} weights, but the files hold {num_saved:,}: they do "
            "not belong together. Take both from one checkpoint."
        )


def check_layers(name: str, value: Any, num_saved: int) -> None:
    """Check a number of layers against the weights, before any of them is made.

    Args:
        name (`str`): of the setting.
        value: its value.
        num_saved (`int`): layers in the weights.

    Raises:
        ValueError: another number.
    """
    if type(value) is not int or value != num_saved:
        raise ValueError(
            f"config.json says `{name}` {value!r}, but the weights have {num_saved} layers: take both from one "
            f"checkpoint."
        )


def check_share(name: str, value: Any) -> float:
    """Check a threshold.

    Args:
        name (`str`): of the setting.
        value: its value.

    Returns:
        `float`: the value.

    Raises:
        ValueError: not a number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"config.json says `{name}` {value!r}: it must be a number from 0 to 1.")
    return float(value)


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Check a setting that counts.

    Args:
        name (`str`): of the setting.
        value: its value.
        low, high (`int`): smallest and largest right value.

    Returns:
        `int`: the value.

    Raises:
        ValueError: not an integer in these limits.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"config.json says `{name}` {value!r}: it must be an integer from {low} to {high}.")
    return value


def check_positive(name: str, value: Any) -> None:
    """Check a setting that must be above zero.

    Args:
        name (`str`): of the setting.
        value: its value.

    Raises:
        ValueError: not a number above zero.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"config.json says `{name}` {value!r}: it must be a number above 0.")


def check_tokens(tokenizer: PreTrainedTokenizerBase, expected: Mapping[str | None, int], num_rows: int) -> None:
    """Check that a tokenizer is the one that a model was trained with.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.
        expected (`Mapping[str | None, int]`): tokens and the ids that the model knows them by.
        num_rows (`int`): rows of the model's embedding.

    Raises:
        ValueError: another id, a token that is missing, or another number of tokens than rows.
    """
    vocabulary = tokenizer.get_vocab()
    for token, index in expected.items():
        if vocabulary.get(token) != index:
            found = "lacks it" if token not in vocabulary else f"has it at {vocabulary[token]}"
            raise ValueError(
                f"The model knows the token {token!r} by the id {index}, but the tokenizer {found}: take the "
                "tokenizer's files from the folder of this checkpoint."
            )
    if len(tokenizer) != num_rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, but the embedding has {num_rows} rows: take the tokenizer's "
            "files from the folder of this checkpoint."
        )


def check_component(name: str, folder: str | Path) -> int | None:
    """Check the files of a component before the library loads them.

    Args:
        name (`str`): of the argument, for the message.
        folder (`str` or `Path`): folder; names of the Hub are left to the library.

    Returns:
        `int`, *optional*: how many values the weights have.

    Raises:
        FileNotFoundError: no settings or no weights.
        ValueError: files that are damaged, quantized, or hold something else than weights; see [`check_tensors`].
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"`{name}` {folder} has no config.json: pass the folder of a model.")
    config = read_settings(config_file)
    if config.get("quantization_config"):
        method = config["quantization_config"]
        method = method.get("quant_method") if isinstance(method, dict) else method
        raise ValueError(
            f"`{name}` {folder} is quantized ({method}): pass the model in {_FLOAT_NAMES}; quantize the Groma when "
            f"you load it."
        )
    files, _ = find_weights(folder)
    sizes: dict[str, int] = {}
    for path in files:
        tensors = read_weights(path)
        check_tensors(tensors, path, (*WEIGHT_DTYPES, *_INDEX_DTYPES))
        sizes.update({key: tensor.numel() for key, tensor in tensors.items()})
    _check_layer_counts(config_file, config, len(sizes))
    return sum(sizes.values())


def _check_layer_counts(path: Path, config: Mapping[str, Any], num_tensors: int) -> None:
    """Each layer has a tensor at least: settings with more layers would take minutes and memory before anybody notices."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_layer_counts(path, value, num_tensors)
        elif isinstance(value, int) and (key.endswith(("_layers", "n_layer", "num_labels"))) and value > num_tensors:
            raise ValueError(
                f"{path} says `{key}` {value}, but the weights have {num_tensors} tensors: they do not belong "
                "together. Take both from one checkpoint."
            )


def some(names: Sequence[str]) -> str:
    """A few names of many, for a message.

    Args:
        names (`Sequence[str]`): the names.

    Returns:
        `str`: the first three, and how many more there are.

    Example:
    >>> some(["a", "b"]), some(["a", "b", "c", "d"])
    ("'a', 'b'", "'a', 'b', 'c' and 1 more")
    """
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _line(error: BaseException) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]}…"


__all__ = [
    "DAMAGED",
    "LARGEST_SETTING",
    "MOST_REGIONS",
    "check_component",
    "check_integer",
    "check_layers",
    "check_no_pointer",
    "check_positive",
    "check_share",
    "check_size",
    "check_tensors",
    "check_tokens",
    "find_weights",
    "load_checkpoint",
    "read_settings",
    "read_weights",
    "some",
]
