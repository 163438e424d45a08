"""What the C library's way with freed memory costs on a CPU, and how much of it settings give back.

    python benchmarks/bench_allocator.py [--rounds 3] [--calls 6] [--threads 2]

glibc returns large blocks to the system as soon as they are free, and the next tensor of that size is mapped and cleared page by page
again. Three settings against the default, each in processes of its own that take turns:

- keep: `MALLOC_*` variables, with which glibc keeps what is freed;
- huge: `THP_MEM_ALLOC_ENABLE=1`, with which torch asks for huge pages, so that there are fewer of them;
- both.

Measured with groma-tiny, random weights: `forward` without gradients on 16 images, and a training `step` of stage 3 (forward and
backward) on 8. Ratios: seconds with the default / seconds with the setting. Without glibc (macOS, Alpine, Windows) there is nothing to gain
from `keep`, and without Linux nothing from `huge`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from bench_precomputed_regions import build_model, make_batch, tiny_config
from tqdm import tqdm

KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}
HUGE = {"THP_MEM_ALLOC_ENABLE": "1"}
SETTINGS: dict[str, dict[str, str]] = {"default": {}, "keep": KEEP, "huge": HUGE, "both": KEEP | HUGE}
FORWARD_BATCH, STEP_BATCH = 16, 8


def measure(calls: int, threads: int) -> dict[str, float]:
    """Fewest seconds of each task in this process, after one call that does not count."""
    torch.set_num_threads(threads)
    config = tiny_config()
    model = build_model(config)
    many, few = make_batch(config, FORWARD_BATCH), make_batch(config, STEP_BATCH)

    def forward() -> None:
        with torch.no_grad():
            model(**many)

    def step() -> None:
        model.zero_grad()
        model(**few).loss.backward()

    tasks: dict[str, Callable[[], None]] = {"forward": forward, "step": step}
    found = {}
    for name, task in tasks.items():
        times = []
        for _ in range(calls + 1):
            start = time.perf_counter()
            task()
            times.append(time.perf_counter() - start)
        found[name] = min(times[1:])
    return found


def measure_elsewhere(variables: dict[str, str], calls: int, threads: int) -> dict[str, float]:
    """The same in a new process, because allocators read their settings once."""
    inherited = {name: value for name, value in os.environ.items() if name not in KEEP | HUGE}
    command = [sys.executable, __file__, "--child", "--calls", str(calls), "--threads", str(threads)]
    done = subprocess.run(command, env=inherited | variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=6, help="of each task in a process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.calls, arguments.threads)))
        return

    found: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for _ in tqdm(range(arguments.rounds), desc="rounds", unit="round"):
        for name, variables in SETTINGS.items():
            found[name].append(measure_elsewhere(variables, arguments.calls, arguments.threads))
    best = {name: {task: min(one[task] for one in runs) for task in runs[0]} for name, runs in found.items()}
    print(
        f"groma-tiny, {arguments.threads} threads, best of {arguments.rounds} processes with {arguments.calls} calls each"
    )
    for name, times in best.items():
        line = "  ".join(f"{task} {1000 * value:8.1f} ms" for task, value in times.items())
        print(f"  {name:8} {line}")
    ratios = {
        f"{task}_{name}": round(best["default"][task] / times[task], 3)
        for name, times in best.items()
        if name != "default"
        for task in times
    }
    seconds = {f"{task}_{name}": round(value, 5) for name, times in best.items() for task, value in times.items()}
    print(json.dumps({"benchmark": "allocator", "ratios": ratios, "seconds": seconds}))


if __name__ == "__main__":
    main()
