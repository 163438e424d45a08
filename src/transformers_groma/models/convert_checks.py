"""Checks the tensors, settings and tokens of a checkpoint before anything is written.

Each mistake is a ValueError of one line that names the tensor or the setting, and what to do.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FLOAT_NAMES = "float32, bfloat16 or float16"
# Far above every size of a model, far below what fills a memory with settings alone.
LARGEST_SETTING = 2**31


def check_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, dtypes: Iterable[torch.dtype] = WEIGHT_DTYPES
) -> None:
    """Check that tensors can be weights: floating point, finite and not empty.

    Args:
        tensors (`Mapping[str, Tensor]`): by name.
        path (`str` or `Path`): where they come from, for the message.
        dtypes (`Iterable[torch.dtype]`): what they may be.

    Raises:
        ValueError: empty tensors, other dtypes or layouts, more values than are saved, values that are not finite.
    """
    check_kinds(tensors, path, dtypes)
    check_finite(unfinished_tensors(tensors), path)


def check_kinds(
    tensors: Mapping[str, Tensor], path: str | Path, dtypes: Iterable[torch.dtype] = WEIGHT_DTYPES
) -> None:
    """Check what can be checked of tensors without reading their values.

    Args:
        tensors (`Mapping[str, Tensor]`): by name.
        path (`str` or `Path`): where they come from, for the message.
        dtypes (`Iterable[torch.dtype]`): what they may be.

    Raises:
        ValueError: empty tensors, other dtypes or layouts, more values than are saved.

    Example:
    >>> check_kinds({"head.weight": torch.zeros(0)}, "model.safetensors")
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
            raise ValueError(f"{path}: {name!r} is a {kind} tensor: save it as plain {FLOAT_NAMES}.")
        if tensor.dtype not in dtypes:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{path}: {name!r} is {dtype}, which is not a dtype of weights: save the model, not a quantized form "
                f"of it, as {FLOAT_NAMES}."
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


def unfinished_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with values that are NaN or infinite."""
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def check_finite(unfinished: Sequence[str], path: str | Path) -> None:
    """Check that no tensor has values that are not finite.

    Args:
        unfinished (`Sequence[str]`): names of those that have, by [`unfinished_tensors`].
        path (`str` or `Path`): where they come from, for the message.

    Raises:
        ValueError: some have.
    """
    if unfinished:
        raise ValueError(
            f"{path}: {some(unfinished)} {'has' if len(unfinished) == 1 else 'have'} values that are NaN or infinite. "
            "Training diverged or the file is damaged: use an earlier checkpoint, or download it again."
        )


def check_size(config_name: str, num_needed: int, num_saved: int) -> None:
    """Check that settings do not describe a model larger than the weights, before allocating it.

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
    """Check that settings have as many layers as the weights, before any layer is built.

    Args:
        name (`str`): name of the setting.
        value: its value.
        num_saved (`int`): layers in the weights.

    Raises:
        ValueError: another number.
    """
    if type(value) is not int or value != num_saved:
        raise ValueError(
            f"config.json says `{name}` {value!r}, but the weights have {num_saved} layers: take both from one "
            "checkpoint."
        )


def check_against_model(converted: Mapping[str, Tensor], unknown: Sequence[str], model: nn.Module) -> None:
    """Check that tensors are exactly those of a model, by name and shape.

    Args:
        converted (`Mapping[str, Tensor]`): tensors by the model's names.
        unknown (`Sequence[str]`): names of further tensors of the checkpoint, which have no name in the model.
        model (`nn.Module`): the model; on the meta device it takes no memory.

    Raises:
        ValueError: tensors that are missing, unknown or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = []
    missing = sorted(set(expected) - set(converted))
    unknown = [*unknown, *sorted(set(converted) - set(expected))]
    if missing:
        problems.append(f"missing: {some(missing)}")
    if unknown:
        problems.append(f"unknown: {some(unknown)}")
    wrong = [name for name, shape in expected.items() if name in converted and tuple(converted[name].shape) != shape]
    if wrong:
        name = wrong[0]
        others = f" (and of {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        problems.append(f"wrong shape: {name} is {tuple(converted[name].shape)}, expected {expected[name]}{others}")
    if problems:
        raise ValueError("The checkpoint does not fit its config.json; " + "; ".join(problems))


def is_same_tensor(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same values; of tensors without values, whether they have the same shape."""
    if first.is_meta or second.is_meta:
        return first.shape == second.shape
    return torch.equal(first, second)


def check_share(name: str, value: Any) -> float:
    """Check that a setting is a number from 0 to 1.

    Args:
        name (`str`): name of the setting.
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
    """Check that a setting is an integer within limits.

    Args:
        name (`str`): name of the setting.
        value: its value.
        low, high (`int`): the smallest and the largest value allowed.

    Returns:
        `int`: the value.

    Raises:
        ValueError: not an integer in these limits.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"config.json says `{name}` {value!r}: it must be an integer from {low} to {high}.")
    return value


def check_positive(name: str, value: Any) -> None:
    """Check that a setting is a number above zero.

    Args:
        name (`str`): name of the setting.
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


def some(names: Sequence[str]) -> str:
    """The first three of many names, for an error message.

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


__all__ = [
    "FLOAT_NAMES",
    "LARGEST_SETTING",
    "WEIGHT_DTYPES",
    "check_against_model",
    "check_finite",
    "check_integer",
    "check_kinds",
    "check_layers",
    "check_positive",
    "check_share",
    "check_size",
    "check_tensors",
    "check_tokens",
    "is_same_tensor",
    "some",
    "unfinished_tensors",
]
