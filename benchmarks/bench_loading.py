"""Benchmark: memory and speed of the ways to load a model, on a language model of middle size with random weights.

    python benchmarks/bench_loading.py [--new-tokens 16] [--repeats 2] [--threads 1] [--variants float32 4bit …]

Builds a Groma with groma-tiny's visual part and a language model of 0.3 billion random weights, saved in float32, and
answers the same question with each of the options of `groma … --dtype --quantization --compile --offload`, in a
process of its own. A random model says nothing sensible: only memory and seconds count, and how many of its tokens are
those of float32. Ratios are against float32 in the same run. "after" and
"peak" are resident memory; they count the pages of the weights' file, which stay mapped and can be given back.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measuring import print_result
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.utils import logging

from transformers_groma import GromaConfig, GromaForConditionalGeneration, GromaProcessor
from transformers_groma.loading import load_model
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.shapes.scenes import make_scene

MODEL = Path(__file__).parents[1] / "hub_configs" / "groma-tiny"
# 0.3 billion weights in few layers, so that compiling does not take longer than all the rest.
SIZE = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 6, "num_attention_heads": 16}
SIZE |= {"num_key_value_heads": 16, "head_dim": 128}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 2, "head_dim": 32}
VARIANTS = {
    "float32": LoadingOptions(),
    "bfloat16": LoadingOptions(dtype="bfloat16"),
    "4bit": LoadingOptions(quantization="4bit"),
    "8bit": LoadingOptions(quantization="8bit"),
    "int8": LoadingOptions(quantization="int8"),
    "4bit, bfloat16": LoadingOptions(dtype="bfloat16", quantization="4bit"),
    "int8, bfloat16": LoadingOptions(dtype="bfloat16", quantization="int8"),
    "compile": LoadingOptions(compile=True),
    "offload": LoadingOptions(offload=True),
}
MEBIBYTE = 2**20


def build(folder: Path, size: dict) -> None:
    """Write the random model and its processor."""
    config = GromaConfig.from_pretrained(MODEL)
    for name, value in size.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(0)
    GromaForConditionalGeneration(config).save_pretrained(folder)
    GromaProcessor.from_pretrained(MODEL).save_pretrained(folder)


def status_mb(name: str) -> float:
    """A line of this process's status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


def bytes_of(weight: torch.Tensor) -> int:
    """The memory of a weight; one of torchao is made of several, one that is offloaded takes none."""
    if is_traceable_wrapper_subclass(weight):
        return sum(getattr(weight, part).nbytes for part in weight.__tensor_flatten__()[0])
    return 0 if weight.is_meta else weight.nbytes


def measure(folder: Path, variant: str, new_tokens: int, repeats: int) -> dict:
    """Load the model in one way and let it answer; runs in a process of its own.

    Returns:
        `dict`: seconds, MiB and the tokens of the answer.
    """
    start = time.perf_counter()
    model, processor = load_model(folder, "cpu", VARIANTS[variant])
    loading = time.perf_counter() - start
    inputs = processor(images=make_scene(0, "test", 3, 448).draw(), text="What is this?", return_tensors="pt")
    settings = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        output = model.generate(**inputs, **settings)
        seconds.append(time.perf_counter() - start)
    tensors = [*model.model.language_model.parameters(), *model.model.language_model.buffers()]
    return {
        "weights_mb": sum(map(bytes_of, tensors)) / MEBIBYTE,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "after_mb": status_mb("VmRSS"),
        "load_s": loading,
        "first_s": seconds[0],
        "answer_s": min(seconds[1:]),
        "tokens": output[0, inputs["input_ids"].shape[1] :].tolist(),
    }


def in_own_process(folder: Path, variant: str, arguments: argparse.Namespace) -> dict:
    """[`measure`] in a new process, as memory that was used once stays with a process."""
    options = ["--new-tokens", str(arguments.new_tokens), "--repeats", str(arguments.repeats)]
    options += ["--threads", str(arguments.threads), "--measure", variant, "--folder", str(folder)]
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{variant}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(results: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Each variant against float32: times less memory for weights, times faster, share of equal tokens."""
    base = results["float32"]
    return {
        variant: {
            "less_memory": base["weights_mb"] / result["weights_mb"],
            "faster": base["answer_s"] / result["answer_s"],
            "same_tokens": sum(map(int.__eq__, result["tokens"], base["tokens"])) / len(base["tokens"]),
        }
        for variant, result in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--small", action="store_true", help="a very small language model, to try the script")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.folder, arguments.measure, arguments.new_tokens, arguments.repeats)))
        return
    variants = list(dict.fromkeys(["float32", *arguments.variants]))
    with tempfile.TemporaryDirectory(prefix="bench-loading-") as folder:
        build(Path(folder), SMALL if arguments.small else SIZE)
        results = {}
        print(f"{'':16s}{'weights':>9s}{'after':>9s}{'peak MiB':>10s}{'load s':>9s}{'first s':>9s}{'answer s':>10s}")
        for variant in variants:
            results[variant] = result = in_own_process(Path(folder), variant, arguments)
            print(
                f"{variant:16s}{result['weights_mb']:9.0f}{result['after_mb']:9.0f}{result['peak_mb']:10.0f}"
                f"{result['load_s']:9.1f}{result['first_s']:9.1f}{result['answer_s']:10.2f}",
                flush=True,
            )
    ratios = compare(results)
    for variant, ratio in ratios.items():
        print(
            f"  {variant:16s} weights {ratio['less_memory']:5.2f}x less, {ratio['faster']:5.2f}x faster, "
            f"{ratio['same_tokens']:.0%} of the tokens"
        )
    flat = {f"{name}, {kind}": value for name, kinds in ratios.items() for kind, value in kinds.items()}
    seconds = {name: {key: found[key] for key in found if key.endswith("_s")} for name, found in results.items()}
    megabytes = {name: {key: found[key] for key in found if key.endswith("_mb")} for name, found in results.items()}
    print_result("loading", flat, seconds, megabytes=megabytes)


if __name__ == "__main__":
    main()
