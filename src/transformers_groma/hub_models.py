"""Finds models by folder or Hub name, adapters with their model; what is not there is said in one sentence."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from .damaged_models import errors_of_damaged_files
from .hub_errors import HubError, loading_from_hub, nearest_folder, page_of
from .hub_names import is_hub_name
from .model_files import base_of_adapter, read_json

_LACKS_A_FILE = re.compile(r"does not appear to have (?:a file|files) named (.+?)\.?(?:$| Checkout|\n)", re.MULTILINE)
_CONFIG, _ADAPTER_CONFIG = "config.json", "adapter_config.json"


def find_model(
    model: str | os.PathLike[str], revision: str | None = None, token: str | bool | None = None
) -> str | None:
    """Check that a model is there, and tell whether it is an adapter; nothing but its settings is downloaded.

    Args:
        model (`str` or path): folder or Hub name of a model or an adapter.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub.
        token (`str` or `bool`, *optional*): of the Hub; by default that of `hf auth login` or HF_TOKEN.

    Returns:
        `str`, *optional*: for an adapter the folder or Hub name of its model.

    Raises:
        HubError: no such folder or model, no access to it, no such revision, or no connection; the message says what
            to do. A kind of `OSError`.
        ValueError: a revision of a folder, or an adapter that does not name its model.

    Example:
    >>> find_model("hub_configs/groma-tiny") is None
    True
    """
    name = os.fspath(model)
    if not is_hub_name(name):
        if revision is not None:
            raise ValueError(
                f"`revision={revision!r}` is of models on the Hub, and {name!r} is a folder: leave it out."
            )
        check_folder(name)
        return base_of_adapter(name)
    if _download(name, _CONFIG, revision, token) is not None:
        return None
    path = _download(name, _ADAPTER_CONFIG, revision, token)
    if path is None:
        raise HubError(
            f"{name} holds no model of transformers, as it has neither {_CONFIG} nor {_ADAPTER_CONFIG}: look at "
            f"{page_of(name)}/tree/{revision or 'main'}."
        )
    base = read_json(path).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"{_ADAPTER_CONFIG} of {name} does not say which model the adapter was trained from "
            "(`base_model_name_or_path`)."
        )
    return base


def check_folder(model: str | os.PathLike[str]) -> None:
    """Check that a model that is not a name on the Hub is a folder.

    Args:
        model (`str` or path): folder or Hub name.

    Raises:
        HubError: there is no such folder; the message says which one may be meant.

    Example:
    >>> check_folder("hub_configs/groma-tiny")
    >>> check_folder("/no/folder")
    Traceback (most recent call last):
    transformers_groma.hub_errors.HubError: '/no/folder' is not a folder: pass a model's folder, or a Hub name ...
    """
    name = os.fspath(model)
    if is_hub_name(name) or os.path.isdir(name):
        return
    what = "a file" if os.path.isfile(name) else "not a folder"
    near = nearest_folder(name)
    hint = f"; did you mean {near!r}?" if near else ": pass a model's folder, or a Hub name such as org/groma-7b."
    raise HubError(f"{name!r} is {what}{hint}")


def _download(name: str, file: str, revision: str | None, token: str | bool | None) -> Path | None:
    """A file of a model on the Hub; `None` if the model has no such file."""
    with loading_from_hub(name, revision):
        try:
            return Path(hf_hub_download(name, file, revision=revision, token=token))
        except LocalEntryNotFoundError:
            # Without a connection the cache may know that the file does not exist.
            cached = try_to_load_from_cache(name, file, revision=revision or constants.DEFAULT_REVISION)
            if cached is None or isinstance(cached, str):
                raise
            return None
        except EntryNotFoundError:
            return None


@contextmanager
def loading_model(model: str | os.PathLike[str], revision: str | None = None) -> Iterator[None]:
    """While a model is loaded that [`find_model`] has found: one sentence if the Hub fails, or a file is damaged.

    Args:
        model (`str` or path): folder or Hub name.
        revision (`str`, *optional*): branch, tag or commit.

    Raises:
        HubError: a file of the model cannot be had from the Hub.
        ValueError: a file is damaged.
    """
    name = os.fspath(model)
    if not is_hub_name(name):
        with errors_of_damaged_files(name):
            yield
        return
    try:
        with loading_from_hub(name, revision), errors_of_damaged_files(name, revision):
            yield
    except (OSError, ValueError) as error:
        # The libraries say which file is missing between many other words.
        lacking = None if isinstance(error, HubError) else _LACKS_A_FILE.search(str(error))
        if lacking is None:
            raise
        raise HubError(
            f"{name} has no {lacking[1]}, so it is not a complete model: look at {page_of(name)}/tree/"
            f"{revision or 'main'}."
        ) from error


__all__ = ["check_folder", "find_model", "loading_model"]
