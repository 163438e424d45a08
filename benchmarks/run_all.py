"""Runs the benchmarks that need no GPU, and prints one table of their ratios, targets and the machine (`make bench`).

    python benchmarks/run_all.py [--only NAME …] [--timeout 1800] [--list]

Each is a process of its own, whose output is shown as it comes. Its last line of JSON has its ratios. One that fails
or takes too long is named at the end, the others run on, and the exit status is 1. The table says what each benchmark
compares with, and the targets: the least (>=) or the most (<=) that a ratio should be. A missed target is not a
failure, as it depends on the machine.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from machine import machine

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """What is known of one benchmark.

    Attributes:
        baseline: What its ratios are against.
        options: Of its command line.
        least, most: Targets of ratios, by the beginning of their names.
    """

    baseline: str
    options: tuple[str, ...] = ()
    least: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)


BENCHMARKS = {
    "inference": Benchmark(
        "original's data flow; single calls; earlier",
        least={
            "batch_of_8_vs_single_calls": 3.2,
            "ours_vs_original_batch_8": 1.5,
            "ours_vs_original_batch_1": 1.2,
            "ours_vs_earlier_batch_1": 1.2,
        },
    ),
    "unused_slots": Benchmark(
        "all slots read; a fresh chat",
        least={"prefill": 1.35, "answer_of_64_tokens": 1.15, "cache_of_the_prompt": 1.5, "second_question": 8},
    ),
    "kernels": Benchmark(
        "plain torch operators; the arithmetic floor",
        ("--rounds", "2"),
        least={"perceive_bfloat16_vs_baseline": 4},
        most={"perceive_bfloat16_vs_floor": 1.6},
    ),
    "fast_convolution": Benchmark("all convolutions torch's own", ("--rounds", "2"), least={"perceive": 1.3}),
    "evaluation": Benchmark(
        "one row at a time; earlier",
        least={
            "batch of 16 vs single, one image per row": 2.6,
            "single vs earlier single, one image per row": 1.2,
        },
    ),
    "training": Benchmark("all slots and all logits", least={"": 1.3}),
    "precomputed_regions": Benchmark("proposals found in each step"),
    "startup": Benchmark("transformers alone; imports alone"),
    "serving": Benchmark("the engine with batches of 1"),
    "annotation": Benchmark("one image at a time"),
    "scaling": Benchmark("the same task on a quarter (1: in proportion)"),
    "masks": Benchmark("pycocotools"),
    "mask_decoder": Benchmark("the answer without masks"),
    "glamm_generation": Benchmark(
        "no masks; the language model alone", most={"states gathered": 1.1, "masks, decoder apart": 1.1}
    ),
    "zero_shot": Benchmark("transformers' pipeline; views one by one"),
    "wide_products": Benchmark("weights as they are"),
    "loading": Benchmark("float32"),
    "peers": Benchmark("Qwen2.5-VL, Kosmos-2, Florence-2", ("--rounds", "1")),
}
# What does not run here, and why.
LEFT_OUT = {
    "glamm": "it compares the answers of two trained models, not the speed with a baseline",
    "real_size": "it writes 35 GB and takes half an hour",
}


def ratios_of(result: dict) -> dict[str, float]:
    """The numbers under `ratios` of a benchmark's last line, those of inner groups with the groups' names."""

    def flat(value, name: str) -> Iterator[tuple[str, float]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(inner, f"{name}, {key}" if name else key)
        elif isinstance(value, (int, float)):
            yield name, float(value)

    return dict(flat(result.get("ratios", {}), ""))


def last_result(lines: list[str]) -> dict | None:
    """The last line that is the JSON of a benchmark, or None."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                result = json.loads(line)
            except ValueError:
                continue
            if "benchmark" in result:
                return result
    return None


def run(name: str, options: tuple[str, ...], timeout: float) -> dict[str, float]:
    """Run one benchmark, show what it prints, and return its ratios.

    Raises:
        RuntimeError: if it fails, takes too long, or prints no ratios; the message is one sentence.
    """
    command = [sys.executable, "-u", str(FOLDER / f"bench_{name}.py"), *options]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            process.kill()
            raise
        finally:
            is_late = not timer.is_alive()
            timer.cancel()
    if is_late:
        raise RuntimeError(f"stopped after {timeout:g} s; --timeout sets this limit")
    if process.returncode:
        raise RuntimeError(f"ended with status {process.returncode}; its message is above")
    ratios = ratios_of(last_result(lines) or {})
    if not ratios:
        raise RuntimeError("printed no line of JSON with ratios")
    return ratios


def target_of(benchmark: Benchmark, ratio: str, value: float) -> str:
    """The target of a ratio and whether it is met; nothing where there is none."""
    for targets, sign, is_met in (
        (benchmark.least, ">=", value.__ge__),
        (benchmark.most, "<=", value.__le__),
    ):
        for start, target in targets.items():
            if ratio.startswith(start):
                return f"{sign} {target:g} {'met' if is_met(target) else 'MISSED'}"
    return ""


def table(found: dict[str, dict[str, float]]) -> str:
    """One table of all ratios, with what they are against and their targets."""
    rows = [
        (name, ratio, f"{value:.2f}x", target_of(BENCHMARKS[name], ratio, value), BENCHMARKS[name].baseline)
        for name, ratios in found.items()
        for ratio, value in ratios.items()
    ]
    rows.insert(0, ("benchmark", "ratio", "", "target", "against"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(f"{cell:>{w}}" if i == 2 else f"{cell:<{w}}" for i, (cell, w) in enumerate(zip(row, [*widths, 0])))
        for row in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds that one may take (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="what would run, what is left out and why")
    given = parser.parse_args()
    if given.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:20s} against {benchmark.baseline}")
        for name, why in LEFT_OUT.items():
            print(f"{name:20s} left out: {why}")
        return 0
    found, failed = {}, {}
    for name in given.only:
        print(f"\n== {name}", flush=True)
        start = time.perf_counter()
        try:
            found[name] = run(name, BENCHMARKS[name].options, given.timeout)
        except RuntimeError as error:
            failed[name] = str(error)
            print(f"{name}: {error}", flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{machine()} in this process; a benchmark may set its own threads, most take 2\n")
    print(table(found))
    print("\nLeft out: " + "; ".join(f"{name}, as {why}" for name, why in LEFT_OUT.items()))
    for name, why in failed.items():
        print(f"FAILED: {name} {why}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
