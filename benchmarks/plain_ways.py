"""The benchmarks' baseline for small models on a CPU: the computation as it was at commit 5993324a."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from transformers.cache_utils import DynamicLayer

from transformers_groma import onednn_products
from transformers_groma.models import modeling_compact_cache, modeling_region_encoder

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# What decides whether a later way is taken, and a value that decides against it.
WAYS = (
    (onednn_products, "MIN_MULTIPLICATIONS", math.inf),  # linear layers by oneDNN
    (modeling_region_encoder, "CACHED_BYTES", 0),  # some images fused at a time
    (modeling_compact_cache, "PreallocatedLayer", DynamicLayer),  # a step's token written into the cache
)


@contextmanager
def plain_ways() -> Iterator[None]:
    """Compute as before: torch's own linear layers, all maps of a batch at once, the cache copied in each step."""
    before = [getattr(module, name) for module, name, _ in WAYS]
    for module, name, value in WAYS:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(WAYS, before, strict=True):
            setattr(module, name, value)


def in_plain_ways(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, computing as before whenever it is called."""

    def computed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with plain_ways():
            return function(*args, **kwargs)

    return computed


__all__ = ["in_plain_ways", "plain_ways"]
