"""Times a kernel and its torch reference in turns, so that a busy machine slows both; for the kernels' benchmarks."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Comparison(NamedTuple):
    """A line of a table: best times in ms, and peak memory above the start in MB, None where it cannot be measured."""

    name: str
    kernel_ms: float
    reference_ms: float
    kernel_mb: float | None
    reference_mb: float | None
    target: float | None

    @property
    def ratio(self) -> float:
        return self.reference_ms / self.kernel_ms

    def __str__(self) -> str:
        target = f" (target {self.target:g}x)" if self.target else ""
        memory = (
            "" if self.kernel_mb is None else f"  peak {self.kernel_mb:7.1f} MB, reference {self.reference_mb:7.1f} MB"
        )
        times = f"{self.kernel_ms:9.2f} ms, reference {self.reference_ms:9.2f} ms"
        return f"{self.name:58s} {times} = {self.ratio:5.1f}x{target}{memory}"


def time_once(function: Callable[[], object], device: str = "cpu") -> float:
    """Milliseconds of one call."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def peak_mb(function: Callable[[], object], device: str = "cpu") -> float | None:
    """How far one call raises the memory in use, its result included; on the CPU from Linux's resident memory."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def resident(key: str) -> float:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(key)) / 2**10

    try:
        # Memory that earlier calls freed is given back: reused, it would not be counted.
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak (VmHWM) to what is in use now
        before = resident("VmRSS")
        function()
        return max(0.0, resident("VmHWM") - before)
    except (OSError, AttributeError):  # not Linux with glibc
        return None


def compare(
    name: str,
    kernel: Callable[[], object],
    reference: Callable[[], object],
    target: float | None = None,
    device: str = "cpu",
    seconds: float = 4.0,
    rounds: int = 3,
) -> Comparison:
    """Run both in turns for about `seconds`, at least `rounds` times, and keep the best of each."""
    memory = [peak_mb(function, device) for function in (kernel, reference)]  # the first call warms up as well
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < rounds or (time.perf_counter() < end and len(times[0]) < 200):
        for function, results in zip((kernel, reference), times):
            results.append(time_once(function, device))
    return Comparison(name, min(times[0]), min(times[1]), *memory, target)
