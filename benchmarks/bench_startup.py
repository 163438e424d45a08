"""Benchmark: `groma chat` with groma-tiny in a fresh process, to the first word of its answer and to its end.

    python benchmarks/bench_startup.py [--rounds 5]

The baseline is the same question in the same run through transformers alone: `AutoModelForImageTextToText`,
`AutoProcessor` and `generate`. The floor is the imports that no program with this model can do without: torch,
transformers' `PreTrainedModel` and the classes of the model's parts. Processes take turns, so that a slow moment of
the machine hits all of them; the first round does not count: after it modules are compiled, and files are in the
memory of the system. The last line is JSON.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from measuring import print_result

import transformers_groma

ROOT = Path(transformers_groma.__file__).parents[2]
MODEL, IMAGE = "hub_configs/groma-tiny", "docs/images/scene.png"
QUESTION, BOX = "What is <region>?", "278,338,345,405"
_PARTS = """
import torch, transformers.modeling_utils
import transformers.models.llama.modeling_llama, transformers.models.dinov2.modeling_dinov2
import transformers.models.deformable_detr.modeling_deformable_detr, transformers.models.sam.modeling_sam
print("!", flush=True)
"""
_PLAIN = f"""
import transformers_groma
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained({MODEL!r})
processor = AutoProcessor.from_pretrained({MODEL!r})
inputs = processor(images=Image.open({IMAGE!r}), text={QUESTION!r}, boxes=[[{BOX}]], return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=1)
print(processor.decode(output[0, inputs["input_ids"].shape[1]:]) or "!", flush=True)
"""
PROGRAMS = {
    "groma chat": [
        *("-m", "transformers_groma.cli", "chat", IMAGE, QUESTION, "--box", BOX),
        *("--model", MODEL, "--device", "cpu", "--max-new-tokens", "1"),
    ],
    "transformers alone": ["-c", _PLAIN],
    "imports alone": ["-c", _PARTS],
    "groma --help": ["-m", "transformers_groma.cli", "--help"],
    "groma --version": ["-m", "transformers_groma.cli", "--version"],
}


def seconds_of(arguments: list[str]) -> tuple[float, float]:
    """Seconds from the start of a process to its first output, and to its end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "GROMA_KERNELS": "reference"}
    # An installed package is compiled once; where Python must not store that, it would be in each process.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    first = process.stdout.read(1)
    to_first = time.perf_counter() - start
    process.stdout.read()
    if process.wait() != 0 or not first:
        raise SystemExit(f"{' '.join(arguments[:3])} ended with code {process.returncode}")
    return to_first, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="the fastest counts (default: %(default)s)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)  # as in the processes, for the name of the machine
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds + 1):
        for name, arguments in PROGRAMS.items():
            times[name].append(seconds_of(arguments))
    best = {name: [min(column) for column in zip(*rows[1:])] for name, rows in times.items()}
    for name, (first, end) in best.items():
        print(f"{name:<20} first output {first:5.2f} s   end {end:5.2f} s")
    ours, plain, floor = (best[name] for name in ("groma chat", "transformers alone", "imports alone"))
    ratios = {
        "first word, over transformers alone": plain[0] / ours[0],
        "end, over transformers alone": plain[1] / ours[1],
        "first word, of the floor": ours[0] / floor[0],
    }
    seconds = {name: {"first output": first, "end": end} for name, (first, end) in best.items()}
    print_result("startup", ratios, seconds)


if __name__ == "__main__":
    main()
