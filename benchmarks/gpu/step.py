"""Shared by the steps: arguments, results written as they come, times and memory traffic."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

# Exit status of a step that has nothing to do on this machine; the last line it prints says why.
SKIPPED = 77
# How a step runs tests of the repository.
PYTEST = (sys.executable, "-m", "pytest", "-q", "--no-header", "-rA", "-p", "no:cacheprovider")


class Results:
    """Appends results to a file of JSON lines, so that they survive whatever ends the step."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, name: str, **values: Any) -> None:
        """One named result; numbers are rounded to five digits."""
        rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in values.items()}
        print(name, rounded, flush=True)
        with open(self.path, "a") as file:
            file.write(json.dumps({"name": name, **rounded}) + "\n")


def step_arguments(description: str | None) -> tuple[Results, str, bool]:
    """Where results go, the device (`cuda` or `cpu`), and whether sizes are tiny."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    return Results(arguments.results), arguments.device, arguments.small


def skip(reason: str) -> NoReturn:
    """End the step as skipped; the reason is its last line."""
    print(reason, flush=True)
    sys.exit(SKIPPED)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def median_ms(
    function: Callable[[Any], object], inputs: Sequence[Any], device: str, seconds: float = 0.6, warm_up: int = 3
) -> float:
    """Median milliseconds of a call.

    Inputs rotate, so that what one call left in the cache does not help the next. On a GPU each call is between
    two events.
    """
    for index in range(warm_up):
        function(inputs[index % len(inputs)])
    synchronize(device)
    times: list[float] = []
    pairs = []
    end = time.perf_counter() + seconds
    while len(times) + len(pairs) < 5 or (time.perf_counter() < end and len(times) + len(pairs) < 400):
        item = inputs[(len(times) + len(pairs)) % len(inputs)]
        if device == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function(item)
            stop.record()
            pairs.append((start, stop))
            if len(pairs) % 20 == 0:
                torch.cuda.synchronize()  # the clock above must see how long the calls take
        else:
            begin = time.perf_counter()
            function(item)
            times.append((time.perf_counter() - begin) * 1e3)
    synchronize(device)
    times += [start.elapsed_time(stop) for start, stop in pairs]
    return statistics.median(times)


def device_ms(function: Callable[[Any], object], inputs: Sequence[Any], device: str, seconds: float = 0.2) -> float:
    """Milliseconds that a call takes on the device alone: no gaps in which the GPU waits for Python.

    A CUDA graph of one call with each input is replayed; every call has its own output. On a CPU, as `median_ms`.
    """
    if device != "cuda":
        return median_ms(function, inputs, device, seconds)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is set up by a first call must not be recorded
        for _ in range(2):
            function(inputs[0])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [function(item) for item in inputs]
    milliseconds = median_ms(lambda _: graph.replay(), [None], device, seconds) / len(outputs)
    graph.reset()
    return milliseconds


def copy_rate(device: str, size: int) -> float:
    """Bytes a second of a copy within the device's memory, read and written counted."""
    sources = [torch.randn(size // 4, device=device) for _ in range(2)]
    target = torch.empty_like(sources[0])
    milliseconds = median_ms(target.copy_, sources, device)
    return 2 * target.nbytes / (milliseconds / 1e3)


def peak_memory_gb(device: str, function: Callable[[], object]) -> float | None:
    """The most memory in use during a call, in GB, weights included; `None` on a CPU."""
    if device != "cuda":
        function()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e9
