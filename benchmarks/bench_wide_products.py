"""Benchmark: products with half-precision weights on a CPU, as they are and many rows in float32.

    python benchmarks/bench_wide_products.py [--threads 2] [--layers 2] [--rounds 3]

A layer of 4096x11008 at several numbers of rows, which decides from how many on float32 pays, and a prompt of 515
tokens through a random language model of that width. On a CPU with bfloat16 units plain bfloat16 wins and the model is
left alone. These variables let torch treat it as one without them, which is an emulation: the instructions that remain
run as fast as this CPU runs them.

    export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
    python benchmarks/bench_wide_products.py
"""

import argparse
import os
import resource
import time
from collections.abc import Callable

import torch
from measuring import print_result
from torch import nn
from transformers import Cache, LlamaConfig, LlamaModel

from transformers_groma.float32_products import linear_in_float32
from transformers_groma.wide_products import slow_dtypes, widen_products

PROMPT = 515
EMULATION = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def best(function: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some calls, after one that does not count."""
    function()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def time_layer(size_in: int, size_out: int, rows: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one layer, by rows."""
    weight = torch.randn(size_out, size_in).mul_(0.02)
    half = weight.bfloat16()
    int8, scale = torch.randint(-127, 128, half.shape, dtype=torch.int8), torch.rand(size_out).bfloat16()
    milliseconds = {}
    for number in rows:
        given = torch.randn(number, size_in)
        rounded = given.bfloat16()
        ways = {
            "float32": lambda given=given: nn.functional.linear(given, weight),
            "bfloat16": lambda given=rounded: nn.functional.linear(given, half),
            "bfloat16 in float32": lambda given=rounded: linear_in_float32(given, half, None),
            "int8 converted": lambda given=rounded: torch.mm(given, int8.t().to(given.dtype)) * scale,
            "int8 packed": lambda given=rounded: torch._weight_int8pack_mm(given, int8, scale),
        }
        milliseconds[str(number)] = {name: best(way, rounds) * 1000 for name, way in ways.items()}
        line = "".join(f"{value:22.1f}" for value in milliseconds[str(number)].values())
        print(f"{number:5d} rows{line}", flush=True)
    return milliseconds


@torch.no_grad()
def time_model(size: dict[str, int], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a prompt and of a token after it, and the peak of memory, plain and with wide products in float32."""
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(**size, vocab_size=512)).bfloat16().eval()
    ids = torch.randint(0, 512, (1, PROMPT))
    results = {}
    for name in ("plain", "wide"):
        if name == "wide":
            widen_products(model)
        cache = model(ids).past_key_values

        def token(cache: Cache = cache) -> None:
            model(ids[:, :1], past_key_values=cache)
            cache.crop(-1)

        results[name] = {"prompt_s": best(lambda: model(ids), rounds), "token_s": best(token, rounds)}
        results[name]["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(name, {key: round(value, 3) for key, value in results[name].items()}, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2, help="of the language model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16, 32, 64, PROMPT])
    parser.add_argument("--small", action="store_true", help="very small sizes, to try the script")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    width, inner, heads = (64, 128, 2) if arguments.small else (4096, 11008, 32)
    print(
        f"milliseconds of a layer of {width}x{inner}: float32, bfloat16, bfloat16 in float32, int8 converted, packed"
    )
    layer = time_layer(width, inner, arguments.rows, arguments.rounds)
    size = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}
    model = time_model({**size, "num_hidden_layers": arguments.layers}, max(arguments.rounds - 1, 1))
    ratios = {
        f"{rows} rows, bfloat16 over bfloat16 in float32": times["bfloat16"] / times["bfloat16 in float32"]
        for rows, times in layer.items()
    }
    ratios |= {
        f"{rows} rows, int8 converted over packed": times["int8 converted"] / times["int8 packed"]
        for rows, times in layer.items()
    }
    ratios |= {
        "prompt, plain over wide": model["plain"]["prompt_s"] / model["wide"]["prompt_s"],
        "token, plain over wide": model["plain"]["token_s"] / model["wide"]["token_s"],
    }
    seconds = {
        f"{rows} rows, {name}": milliseconds / 1000
        for rows, times in layer.items()
        for name, milliseconds in times.items()
    }
    seconds |= {f"{name}, {key}": value for name, result in model.items() for key, value in result.items()}
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    settings = {
        "cpu": capabilities.get("cpu_name"),
        "instructions": [
            name for name in ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16") if capabilities.get(name)
        ],
        "used": torch.backends.cpu.get_cpu_capability(),
        "emulated": {name: os.environ[name] for name in EMULATION if name in os.environ},
        "slow_dtypes": [str(dtype) for dtype in slow_dtypes()],
        "threads": arguments.threads,
    }
    print_result("wide_products", ratios, seconds, settings=settings)


if __name__ == "__main__":
    main()
