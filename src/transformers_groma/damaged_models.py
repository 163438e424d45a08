"""Says of a model that cannot be loaded which of its files is damaged, or which weights it lacks."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from .model_files import KNOWN_FILES, read_json

_REMEDY = "Save the model again, or if it is from the Hub, `hf download --force-download` it."


@contextmanager
def errors_of_damaged_files(model: str | os.PathLike[str], revision: str | None = None) -> Iterator[None]:
    """While a model is loaded: if that fails because a file is damaged, one sentence that names the file.

    Args:
        model (`str` or path): folder or Hub name.
        revision (`str`, *optional*): branch, tag or commit.

    Raises:
        ValueError: a file is damaged, or weights have other shapes than the settings say. Other errors pass.
    """
    try:
        yield
    except (SafetensorError, ValueError, AttributeError, TypeError, KeyError, OSError) as error:
        check_files(model, revision)
        if isinstance(error, SafetensorError):
            raise ValueError(f"The weights of {os.fspath(model)} cannot be read ({error}). {_REMEDY}") from error
        raise
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"The weights of {os.fspath(model)} have other shapes than config.json says. {_REMEDY}"
        ) from error


def check_files(model: str | os.PathLike[str], revision: str | None = None) -> None:
    """Check that the settings of a model are JSON objects and its weights complete files; what is missing is not said.

    Args:
        model (`str` or path): folder or Hub name; of the Hub, what is in the cache is checked.
        revision (`str`, *optional*): branch, tag or commit.

    Raises:
        ValueError: one is damaged.

    Example:
    >>> check_files("hub_configs/groma-tiny")
    """
    folder = Path(model)
    if not folder.is_dir():
        cached = try_to_load_from_cache(os.fspath(model), "config.json", revision=revision or "main")
        if not isinstance(cached, str):
            return
        folder = Path(cached).parent
    for name in KNOWN_FILES:
        if name.endswith(".json") and (folder / name).is_file():
            read_json(folder / name, _REMEDY)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or incomplete ({error}). {_REMEDY}") from error


def check_all_loaded(model: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Check that every weight of a model came from its files: what is missing would be random numbers.

    Args:
        model (`str` or path): folder or Hub name.
        report (`Mapping`): what `from_pretrained(…, output_loading_info=True)` says beside the model.

    Raises:
        ValueError: weights were missing, or had another shape.
    """
    for key, words in (
        ("missing_keys", "lacks {} of its weights"),
        ("mismatched_keys", "has {} weights of other shapes than config.json says"),
    ):
        names = _names(report.get(key) or ())
        if names:
            raise ValueError(f"{os.fspath(model)} {words.format(len(names))}, {names[0]!r} for example. {_REMEDY}")


def _names(keys: Iterable[Any]) -> list[str]:
    return sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)


__all__ = ["check_all_loaded", "check_files", "errors_of_damaged_files"]
