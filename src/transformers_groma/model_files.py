"""Lists the files of a model folder that belong to the model and may be copied or published.

A folder that was trained in holds more than a model: keys in `.env`, the history of `.git`, optimizer states, logs.
Copies and uploads go by this list.
"""

import json
import os
from pathlib import Path
from typing import Any

# The types of the models that answer with regions.
ANSWERING_MODELS = ("groma", "glamm")
# The types of the models that propose regions: a whole Groma, and the detector of training stage 1.
PROPOSING_MODELS = ("groma", "groma_region_proposal")

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Weights that are pickles run code when they are loaded; their names are known so that errors can say so.
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")

# What `save_pretrained` of models, adapters, processors, image processors and tokenizers writes, and what people read.
KNOWN_FILES = (
    "config.json",
    "generation_config.json",
    WEIGHTS_FILE,
    INDEX_FILE,
    "adapter_config.json",
    "adapter_model.safetensors",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "README.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
)


def model_files(folder: str | os.PathLike) -> list[Path]:
    """List the files of a folder that belong to the model: known names, and the shards in its index.

    Args:
        folder (`str` or `Path`): folder of a saved model.

    Returns:
        `list[Path]`: files directly in `folder`, sorted by name.

    Raises:
        ValueError: one of them is a link that leads out of the folder, or the index names something else than a file
            beside it.

    Example:
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("config.json", "model.safetensors", ".env", "optimizer.pt"):
    ...     _ = (folder / name).write_text("{}")
    >>> [path.name for path in model_files(folder)]
    ['config.json', 'model.safetensors']
    """
    folder = Path(folder)
    names = [name for name in KNOWN_FILES if os.path.lexists(folder / name)]
    if INDEX_FILE in names:
        names += shard_names(folder)
    return [checked_file(folder, name) for name in sorted(set(names))]


def shard_names(folder: Path) -> list[str]:
    """List the shards named in the index of a folder's weights.

    Args:
        folder (`Path`): folder with an index.

    Returns:
        `list[str]`: names, sorted.

    Raises:
        ValueError: the index cannot be read, or a name is not that of a safetensors file beside it.
    """
    index = read_json(checked_file(folder, INDEX_FILE))
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{folder / INDEX_FILE} has no `weight_map` from weights to files. Save the model again.")
    names = sorted(set(weight_map.values()))
    for name in names:
        # No folders, no hidden files, and nothing but weights: `../key.pem` and `C:\\key` are not shards.
        if not name.endswith(".safetensors") or name.startswith(".") or any(sign in name for sign in "/\\:\0"):
            raise ValueError(
                f"{folder / INDEX_FILE} names {name!r}, which is not a safetensors file beside it. Save the model "
                "again."
            )
    return names


def checked_file(folder: Path, name: str) -> Path:
    """Check that a name is a file inside a folder, and return its path.

    Args:
        folder (`Path`): the folder.
        name (`str`): name of the file, without folders.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: it is missing, is not a regular file, or is a link that leads out of the folder or to what is not a
            file of a model.
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path} is missing or is not a file. Save the model again.")
    target = path.resolve()
    if not any(target.is_relative_to(root) for root in _roots(folder)):
        raise ValueError(f"{path} is a link to {target}, which is outside of the folder. Put the file itself there.")
    if target.is_relative_to(folder.resolve()):
        # A known name must not let out what stays behind: keys in hidden files, optimizer states.
        is_hidden = any(part.startswith(".") for part in target.relative_to(folder.resolve()).parts)
        if is_hidden or target.suffix not in ("", path.suffix):
            raise ValueError(
                f"{path} is a link to {target}, which is not a file of a model. Put the file itself there."
            )
    return path


def _roots(folder: Path) -> list[Path]:
    """The folders that links may lead into.

    In the Hub's cache, the files of a snapshot are links to the blobs of the same model.
    """
    folder = folder.resolve()
    blobs = folder.parent.parent / "blobs"
    return [folder, blobs] if folder.parent.name == "snapshots" else [folder]


def read_json(path: Path, remedy: str = "Save the model again.") -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        path (`Path`): the file.
        remedy (`str`): what to do if it is damaged, for the message.

    Returns:
        `dict`: its content.

    Raises:
        ValueError: it is not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object. {remedy}")
    return content


def base_of_adapter(folder: str | os.PathLike) -> str | None:
    """The base model of an adapter.

    Args:
        folder (`str` or `Path`): folder or Hub name of a model or an adapter.

    Returns:
        `str`, *optional*: folder or Hub name; `None` for a whole model or a Hub name.

    Raises:
        ValueError: the adapter does not say it.
    """
    path = Path(folder, "adapter_config.json")
    # An adapter folder has no model settings.
    if not path.is_file() or Path(folder, "config.json").is_file():
        return None
    base = read_json(path).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{path} does not say which model the adapter was trained from (`base_model_name_or_path`).")
    return base


__all__ = [
    "ANSWERING_MODELS",
    "KNOWN_FILES",
    "PROPOSING_MODELS",
    "base_of_adapter",
    "checked_file",
    "model_files",
    "read_json",
    "shard_names",
]
