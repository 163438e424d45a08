"""The cache under both names in transformers: `past_key_values` up to 5.23, `cache` from 5.24."""

from dataclasses import fields

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import ModelOutput

#: What the installed transformers calls a cache, both as an argument of `forward` and as a field of its outputs.
CACHE_NAME = "cache" if any(field.name == "cache" for field in fields(BaseModelOutputWithPast)) else "past_key_values"


def given_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache that a caller passed, by whichever name.

    Args:
        cache, past_key_values (`Cache`, *optional*): the same argument under its new and its old name.

    Returns:
        `Cache` or `None`: the one that was passed.

    Raises:
        ValueError: both were passed and differ.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("Pass `cache` or `past_key_values`, not both: they are two names of the same argument.")
    return past_key_values if cache is None else cache


def cache_kwargs(cache: Cache | None) -> dict[str, Cache | None]:
    """The cache as a keyword argument of the installed transformers, for `forward`, `generate` and outputs.

    Example:

    ```python
    >>> from transformers_groma.models.modeling_cache import CACHE_NAME, cache_kwargs
    >>> cache_kwargs(None) == {CACHE_NAME: None}
    True

    ```
    """
    return {CACHE_NAME: cache}


def cache_of(output: ModelOutput) -> Cache | None:
    """The cache that a model returned; `None` if it returned none."""
    return getattr(output, CACHE_NAME, None)


__all__ = ["CACHE_NAME", "cache_kwargs", "cache_of", "given_cache"]
