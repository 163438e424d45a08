"""Reads a checkpoint's files: settings, and weights as safetensors or .bin, complete or in shards.

Files come from anywhere: cut downloads, runs that were not gathered, other programs, other people. Each mistake is a
ValueError of one line that names the file, the tensor or the setting, and what to do.
"""

import math
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from ..model_files import read_json
from .convert_checks import (
    FLOAT_NAMES,
    LARGEST_SETTING,
    WEIGHT_DTYPES,
    check_finite,
    check_kinds,
    unfinished_tensors,
)

# Of a file, values that are in memory at a time.
PART_BYTES = 2**29
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Tables of positions and the like, which some models save.
_INDEX_DTYPES = (torch.int64, torch.int32, torch.bool)
_LFS_POINTER = b"version https://git-lfs"
DAMAGED = "it is cut or damaged: download or copy it again"
COPY_AGAIN = "Download or copy it again."


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file of settings, such as config.json, and check its numbers.

    Args:
        path (`Path`): a JSON file with an object.

    Returns:
        `dict`: the settings.

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
    """Find the files that hold the weights of a folder: safetensors before .bin, whole or in shards.

    Args:
        directory (`Path`): folder of a checkpoint.

    Returns:
        `tuple[list[Path], dict[str, str]]`: the files, and for shards the file of each tensor.

    Raises:
        FileNotFoundError: no weights, or a shard that is not there.
        ValueError: an index that cannot be read, names files elsewhere, or is beside a single-file checkpoint.
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
            # Not settings: the total size of tensors, which is also in there, has no limit.
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


def tensor_names(directory: str | Path) -> list[str]:
    """The names of all tensors of a checkpoint folder, without reading their values.

    Args:
        directory (`str` or `Path`): folder of the checkpoint.

    Returns:
        `list[str]`: the names.

    Raises:
        FileNotFoundError: if the folder holds no weights, or a shard that its index names is not there.
        ValueError: an index or a file that is damaged.
    """
    files, weight_map = find_weights(Path(directory))
    return list(weight_map) or [name for path in files for name in read_weights(path)]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weights file; code in it is never run.

    Args:
        path (`Path`): a safetensors file, or one of `torch.save`.

    Returns:
        `dict[str, Tensor]`: tensors by name.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    head = check_no_pointer(path)
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            # Files of old versions of torch are not zip archives and cannot be mapped.
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
                "the model alone."
            )
    return dict(loaded)


def checked_shapes(
    path: Path, ignored: re.Pattern | None = None, dtypes: Iterable[torch.dtype] = WEIGHT_DTYPES
) -> dict[str, Tensor]:
    """Check the tensors of a weights file, reading [`PART_BYTES`] of it at a time.

    Args:
        path (`Path`): a safetensors file, or one of `torch.save`.
        ignored (`re.Pattern`, *optional*): finds names of tensors that are not weights and are left out unchecked.
        dtypes (`Iterable[torch.dtype]`): what the others may be.

    Returns:
        `dict[str, Tensor]`: the tensors by name, on the meta device: without their values.

    Raises:
        ValueError: the file is damaged, or holds something else than tensors that can be weights.
    """
    saved = read_weights(path)
    tensors = {name: tensor for name, tensor in saved.items() if ignored is None or not ignored.search(name)}
    check_kinds(tensors, path, dtypes)
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    # Values that were read stay in memory for as long as any tensor of the file.
    del saved, tensors
    unfinished: list[str] = []
    for names in in_parts(shapes, PART_BYTES):
        unfinished += unfinished_tensors(read_some(path, names))
    check_finite(unfinished, path)
    return shapes


def read_some(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Some tensors of a weights file, see [`read_weights`]; of the others, nothing stays in memory."""
    saved = read_weights(path)
    return {name: saved[name] for name in names}


def in_parts(shapes: Mapping[str, Tensor], size: int) -> Iterator[list[str]]:
    """The names of tensors, as many at a time as have at most `size` bytes together, and at least one.

    Args:
        shapes (`Mapping[str, Tensor]`): the tensors; meta tensors do.
        size (`int`): bytes.

    Yields:
        `list[str]`: names.

    Example:
    >>> list(in_parts({"a": torch.zeros(2), "b": torch.zeros(1), "c": torch.zeros(4)}, 12))
    [['a', 'b'], ['c']]
    """
    names, held = [], 0
    for name, tensor in shapes.items():
        if names and held + tensor.nbytes > size:
            yield names
            names, held = [], 0
        names.append(name)
        held += tensor.nbytes
    if names:
        yield names


def check_no_pointer(path: Path) -> bytes:
    """Check that a file is not a Git LFS pointer.

    Args:
        path (`Path`): the file.

    Returns:
        `bytes`: its beginning.

    Raises:
        ValueError: it is a pointer.
    """
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise ValueError(f"{path} is a pointer of Git LFS and not the file itself: run `git lfs pull` in its folder.")
    return head


def check_component(name: str, folder: str | Path) -> int | None:
    """Check the files of a component before the library loads them.

    Args:
        name (`str`): name of the argument, for errors.
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
            f"`{name}` {folder} is quantized ({method}): pass the model in {FLOAT_NAMES}; quantize the "
            "result when you load it."
        )
    files, _ = find_weights(folder)
    sizes: dict[str, int] = {}
    for path in files:
        shapes = checked_shapes(path, dtypes=(*WEIGHT_DTYPES, *_INDEX_DTYPES))
        sizes.update({key: tensor.numel() for key, tensor in shapes.items()})
    _check_layer_counts(config_file, config, len(sizes))
    return sum(sizes.values())


def _check_layer_counts(path: Path, config: Mapping[str, Any], num_tensors: int) -> None:
    """Refuse settings with more layers than tensors, which would take minutes and memory to fail."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_layer_counts(path, value, num_tensors)
        elif isinstance(value, int) and (key.endswith(("_layers", "n_layer", "num_labels"))) and value > num_tensors:
            raise ValueError(
                f"{path} says `{key}` {value}, but the weights have {num_tensors} tensors: they do not belong "
                "together. Take both from one checkpoint."
            )


def check_tokenizer_files(folder: Path) -> None:
    """Check that a folder has a tokenizer of SentencePiece that can be read.

    Args:
        folder (`Path`): folder of a checkpoint.

    Raises:
        FileNotFoundError: it has no tokenizer.model.
        ValueError: its tokenizer.model is damaged or something else.
    """
    model_file = folder / "tokenizer.model"
    if not model_file.is_file():
        raise FileNotFoundError(
            f"{folder} has no tokenizer.model: copy it, and the other files of the tokenizer, from the checkpoint."
        )
    check_no_pointer(model_file)
    try:
        SentencePieceProcessor(model_file=str(model_file))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{model_file} is not a SentencePiece model: {DAMAGED}.") from error


def check_added_tokens(folder: Path, added: Mapping[str, int]) -> None:
    """Check that the list of a checkpoint's added tokens, if it has one, gives them the ids that the model knows.

    The library counts added tokens up from the last piece, whatever ids the file gives them.

    Args:
        folder (`Path`): folder of a checkpoint.
        added (`Mapping[str, int]`): the added tokens and their ids.

    Raises:
        ValueError: `added_tokens.json` cannot be read, or gives one of them another id.
    """
    added_file = folder / "added_tokens.json"
    if not added_file.is_file():
        return
    for token, index in read_json(added_file, COPY_AGAIN).items():
        if added.get(token, index) != index:
            raise ValueError(
                f"The model knows the token {token!r} by the id {added[token]}, but {added_file} says {index!r}: "
                "take the tokenizer's files from the folder of this checkpoint."
            )


def _line(error: BaseException) -> str:
    """The message of an error, in one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]}…"


__all__ = [
    "COPY_AGAIN",
    "DAMAGED",
    "PART_BYTES",
    "check_added_tokens",
    "check_component",
    "check_no_pointer",
    "check_tokenizer_files",
    "checked_shapes",
    "find_weights",
    "in_parts",
    "read_settings",
    "read_some",
    "read_weights",
    "tensor_names",
]
