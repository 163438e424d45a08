"""Reads the tensors of a checkpoint folder as they are needed, and writes the converted ones shard by shard.

A model of 7 billion weights needs 14 GB, and a converter two copies of it. So nothing here holds a model: of the
tensors only shapes are kept, values are read from their files for one output file after the other.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..model_files import INDEX_FILE
from .convert_checks import check_finite, some, unfinished_tensors
from .convert_files import DAMAGED, PART_BYTES, checked_shapes, find_weights, in_parts, read_some

# Also the memory that a conversion takes, beside the parts that are being read.
MAX_SHARD_SIZE = "2GB"


class SavedTensors:
    """The tensors of a checkpoint folder: shapes in memory, values in their files.

    Attributes:
        shapes (`dict[str, Tensor]`): the tensors by name, on the meta device.
    """

    def __init__(self, shapes: Mapping[str, Tensor], files: Mapping[str, Path]):
        self.shapes = dict(shapes)
        self._files = dict(files)

    def read(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Read tensors with their values; all of them by default."""
        names = list(self.shapes if names is None else names)
        values: dict[str, Tensor] = {}
        for path in dict.fromkeys(self._files[name] for name in names):
            values.update(read_some(path, [name for name in names if self._files[name] == path]))
        return {name: values[name] for name in names}


def open_checkpoint(directory: str | Path, ignored: re.Pattern | None = None) -> SavedTensors:
    """Check all tensors of a checkpoint folder: safetensors or .bin, whole or in shards.

    Args:
        directory (`str` or `Path`): folder of the checkpoint.
        ignored (`re.Pattern`, *optional*): finds names of tensors that are not weights and are left out unchecked.

    Returns:
        `SavedTensors`: all of them floating point, finite and not empty.

    Raises:
        FileNotFoundError: if the folder holds no weights, or a shard that its index names is not there.
        ValueError: files that are damaged, or hold something else than one finite floating point tensor for each name.
    """
    files, weight_map = find_weights(Path(directory))
    shapes: dict[str, Tensor] = {}
    sources: dict[str, Path] = {}
    for path in tqdm(files, desc="read", unit="file", disable=len(files) < 2):
        saved = checked_shapes(path, ignored)
        named = [name for name, file in weight_map.items() if file == path.name]
        if lost := [name for name in named if name not in saved and not (ignored and ignored.search(name))]:
            raise ValueError(f"{path} lacks {some(lost)}, which its index says it holds: {DAMAGED}.")
        for name, tensor in saved.items():
            if name in shapes and not _is_same(name, path, sources[name]):
                raise ValueError(
                    f"{sources[name].name} and {path.name} in {path.parent} hold different values for {name!r}: keep "
                    "the shards of one training run alone."
                )
            shapes[name], sources[name] = tensor, path
    return SavedTensors(shapes, sources)


def write_weights(
    folder: Path,
    shapes: Mapping[str, Tensor],
    read: Callable[[Sequence[str]], Mapping[str, Tensor]],
    source: str | Path,
) -> None:
    """Write the weights of a model as safetensors, in shards if there is more than [`MAX_SHARD_SIZE`] of them.

    Args:
        folder (`Path`): where.
        shapes (`Mapping[str, Tensor]`): the weights by name, in the dtypes that are written; meta tensors do.
        read (`Callable`): gives some of them, by name, with their values.
        source (`str` or `Path`): where the values come from, for errors.

    Raises:
        ValueError: values that are not finite any more in the dtype that is written.
    """
    split = split_torch_state_dict_into_shards(dict(shapes), max_shard_size=MAX_SHARD_SIZE)
    shards = split.filename_to_tensors.items()
    for file, names in tqdm(shards, desc="write", unit="file", disable=len(shards) < 2):
        shard: dict[str, Tensor] = {}
        for part in in_parts({name: shapes[name] for name in names}, PART_BYTES):
            shard |= _copies(read(part), shapes, source)
        save_file({name: shard[name] for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copies(tensors: Mapping[str, Tensor], shapes: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Copies of tensors in the dtypes that are written: what was read would keep its whole file in memory."""
    copies = {}
    for name, tensor in tensors.items():
        dtype = shapes[name].dtype
        copies[name] = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
        if tensor.dtype != dtype:
            written = f"{source} as {str(dtype).removeprefix('torch.')}"
            check_finite(unfinished_tensors({name: copies[name]}), written)
    return copies


def _is_same(name: str, *paths: Path) -> bool:
    first, second = (read_some(path, [name])[name] for path in paths)
    return torch.equal(first, second)


__all__ = ["MAX_SHARD_SIZE", "SavedTensors", "open_checkpoint", "write_weights"]
