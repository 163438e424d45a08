"""Renames tensors of original checkpoints, part by part, with patterns."""

import re
from collections.abc import Sequence

# Patterns and what replaces them. The first one that matches is used.
Renames = Sequence[tuple[str, str]]


def rename_tensor(key: str, parts: Sequence[tuple[str, str, Renames]]) -> str | None:
    """Translate the name of a tensor.

    Args:
        key (`str`): its name in the original checkpoint.
        parts (`Sequence[tuple[str, str, Renames]]`): of each part of the model, the prefix of its names in the
            original, ours, and what changes in the rest of the name. The first prefix that fits is used.

    Returns:
        `str`, *optional*: our name; `None` if the tensor is in no part.

    Example:
    >>> rename_tensor("old.mlp.fc1.bias", [("old.", "new.", [(r"\\.fc(\\d)\\.", r".linear_\\1.")])])
    'new.mlp.linear_1.bias'
    """
    for prefix, new_prefix, renames in parts:
        if key.startswith(prefix):
            rest = key.removeprefix(prefix)
            for pattern, replacement in renames:
                rest, count = re.subn(pattern, replacement, rest)
                if count:
                    break
            return new_prefix + rest
    return None


__all__ = ["Renames", "rename_tensor"]
