"""Measures functions that take turns and the memory of a cache, and prints results, the same way in all benchmarks."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from machine import machine
from tqdm import tqdm
from transformers.cache_utils import Cache, EncoderDecoderCache


def seconds_of(
    functions: dict[str, Callable[[], object]], rounds: int, warm_up: bool = True, progress: bool = True
) -> dict[str, float]:
    """Fewest seconds of each function; they take turns, so that a slow moment of the machine hits all of them.

    Args:
        functions: What to measure, by name.
        rounds: How often each is called, and measured.
        warm_up: Whether one more round, which does not count, comes first.
        progress: Whether a bar counts rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in tqdm(range(rounds + warm_up), desc="rounds", unit="round", disable=not progress):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def cache_bytes(cache: Cache) -> int:
    """What the keys and values of a cache take, those of an encoder's output included."""
    if isinstance(cache, EncoderDecoderCache):
        return cache_bytes(cache.self_attention_cache) + cache_bytes(cache.cross_attention_cache)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def print_result(benchmark: str, ratios: Mapping[str, float], seconds: Mapping[str, Any], **more: Any) -> None:
    """Print the line of JSON that a benchmark ends with: its ratios and seconds, the machine, and what else it found.

    Args:
        benchmark: Name of the script, without `bench_`.
        ratios: Against the named baselines, by name.
        seconds: What the ratios are made of, by name; may be grouped.
        **more: Anything that JSON can hold.
    """
    result = {"benchmark": benchmark, "ratios": ratios, "seconds": seconds, **more, "machine": machine()}
    print(json.dumps(_rounded(result)))


def _rounded(value: Any) -> Any:
    """The value, its floats with four digits that count."""
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
