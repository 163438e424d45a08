"""Compares the settings of a checkpoint with its tensors, and reads off the sizes that settings leave out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from .convert_checks import LARGEST_SETTING, check_integer, check_layers


def saved_size(state_dict: Mapping[str, Tensor], key: str, dim: int) -> int:
    """A size that the original has in its code, not in its config.json: read from a tensor's shape.

    Args:
        state_dict (`Mapping[str, Tensor]`): tensors of the checkpoint; meta tensors do.
        key (`str`): name of the tensor.
        dim (`int`): its dimension.

    Returns:
        `int`: at least 1.

    Raises:
        ValueError: the tensor is missing, empty, or has too few dimensions.
    """
    if key not in state_dict:
        raise ValueError(f"The checkpoint lacks {key!r}, which determines a size.")
    shape = tuple(state_dict[key].shape)
    if 0 in shape:
        raise ValueError(f"The tensor {key!r} of the checkpoint is empty: gather the weights before they are saved.")
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"The tensor {key!r} of the checkpoint has the shape {shape}, which determines no size.")
    return shape[dim]


def settings_part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A nested part of the original's config.json, model settings only.

    Args:
        config (`Mapping[str, Any]`): the settings.
        name (`str`): of the part.

    Returns:
        `dict`: the part, perhaps empty.

    Raises:
        ValueError: it is something else.
    """
    part = config.get(name, {})
    if not isinstance(part, Mapping):
        raise ValueError(
            f"config.json has a {type(part).__name__} as `{name}`: it is not what the original code saves."
        )
    # Labels are counted up to a number that nothing bounds.
    ignored = ("transformers_version", "num_labels", "id2label", "label2id")
    return {key: value for key, value in part.items() if key not in ignored}


def check_saved_layers(state_dict: Mapping[str, Tensor], name: str, value: Any, prefix: str) -> None:
    """Check that a setting is the number of layers whose tensors begin with `prefix`.

    Args:
        state_dict (`Mapping[str, Tensor]`): tensors of the checkpoint.
        name (`str`): name of the setting, for the message.
        value: its value.
        prefix (`str`): of the layers' tensors; the number of the layer follows.

    Raises:
        ValueError: another number.
    """
    saved = {key.removeprefix(prefix).partition(".")[0] for key in state_dict if key.startswith(prefix)}
    check_layers(name, value, len(saved))


def check_count(part: Mapping[str, Any], part_name: str, name: str) -> None:
    """Check that a setting, if present, is a positive integer.

    Args:
        part (`Mapping[str, Any]`): the settings.
        part_name (`str`): of the part that they are, for the message; empty for the whole file.
        name (`str`): name of the setting.

    Raises:
        ValueError: something else.
    """
    if name in part:
        check_integer(f"{part_name}.{name}" if part_name else name, part[name], 1, LARGEST_SETTING)


def check_rows(holder: Mapping[str, Any], name: str, number: int) -> None:
    """Check that a setting (the last part of `name`), if present, is the number of rows of its table.

    Args:
        holder (`Mapping[str, Any]`): the settings.
        name (`str`): name of the setting with its parts.
        number (`int`): rows of its table.

    Raises:
        ValueError: another number.
    """
    value = holder.get(name.rpartition(".")[2], number)
    if type(value) is not int or value != number:
        raise ValueError(
            f"config.json says `{name}` {value!r}, but its table has {number} rows: take both from one checkpoint."
        )


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn the library's errors about settings of a wrong kind into a one-line ValueError."""
    try:
        yield
    except (
        StrictDataclassError,
        ArithmeticError,
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            text if isinstance(error, ValueError) else f"config.json describes no model: {text}"
        ) from error


__all__ = [
    "check_count",
    "check_rows",
    "check_saved_layers",
    "config_errors",
    "saved_size",
    "settings_part",
]
