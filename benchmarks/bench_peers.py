"""Benchmark: a grounded description of ten objects by Groma, Qwen2.5-VL, Kosmos-2 and Florence-2, of equal sizes.

    python benchmarks/bench_peers.py [--models Groma Qwen2.5-VL …] [--rounds 2] [--batch-size 8] [--results FILE]

All are classes of transformers (ours: of this package) with random weights in float32. What is the same in all: a
language model of 24 layers and width 1024 with 403 million weights in its layers (Florence-2: 12 layers of an encoder
and 12 of a decoder, whose sum is that), 16 heads of keys and values, a vocabulary of 32768, a vision encoder of the
size of ViT-B, 40 tokens of text in the prompt, 2 threads. What differs is what each model is:

- the image of 448x448 pixels, at the size that each expects: 448 for Groma and Qwen2.5-VL, 224 for Kosmos-2, 768 for
  Florence-2. Groma finds 12 regions in it, with a proposer and a region encoder that the others have not;
- the answer. Its words and boxes are the same, its grammar is each model's (`peer_answers.py`). Groma and Kosmos-2
  write a sentence with places in it, Qwen2.5-VL and Florence-2 a list of phrases with places: a description in words
  would be a second answer. A word counts 1.3 tokens in all, a tag one token, and Qwen2.5-VL's JSON is cut by the
  published rule of its tokenizer, every digit by itself.

Answers are forced to that number of tokens. Seconds start at pixel values: resizing is not in them. Rounds take turns
between models, of which one is in memory at a time; the best counts. `--results` keeps measurements in a file, for
models that are measured one after the other. Ratios are the other model's value over ours, of images per second ours
over theirs, so more than 1 is better for ours.
"""

import argparse
import gc
import json
import time
from pathlib import Path

import torch
from machine import machine
from measuring import cache_bytes, print_result
from peer_models import PEERS, SMALL, Peer, Sizes, parameters
from tqdm import tqdm
from transformers.utils import logging

from transformers_groma import use_kernels

OURS = "Groma (ours)"
# Column of a measurement, how it is printed, and whether less is better.
COLUMNS = {
    "answer_tokens": ("tokens", "{:.0f}", True),
    "prompt_columns": ("prompt", "{:.0f}", True),
    "look_s": ("look s", "{:.3f}", True),
    "first_token_s": ("first token s", "{:.3f}", True),
    "answer_s": ("answer s", "{:.2f}", True),
    "token_ms": ("ms a token", "{:.1f}", True),
    "cache_mb": ("cache MB", "{:.1f}", True),
    "images_per_second": ("images/s", "{:.3f}", False),
}


@torch.inference_mode()
def measure(peer: Peer, sizes: Sizes, batch_size: int) -> dict[str, float]:
    """Build one model, and measure an answer to one image and to a batch."""
    torch.manual_seed(0)
    model = peer.build(sizes)
    tokens = peer.count(peer.answer())

    def answer(inputs: dict[str, torch.Tensor], length: int):
        start = time.perf_counter()
        output = model.generate(
            **inputs, min_new_tokens=length, max_new_tokens=length, do_sample=False, return_dict_in_generate=True
        )
        return time.perf_counter() - start, output

    single = peer.inputs(model, sizes, 1)
    answer(single, 2)
    first = min(answer(single, 1)[0] for _ in range(2))
    start = time.perf_counter()
    peer.look(model, single)
    look = time.perf_counter() - start
    seconds, output = answer(single, tokens)
    cache = output.past_key_values
    found = {
        "language_model_weights": parameters(*peer.layers(model)),
        "vision_weights": parameters(peer.vision(model)),
        "all_weights": parameters(model),
        "answer_tokens": tokens,
        # The image alone, to what the language model reads: the part of the first token that a second question saves
        # where a model keeps it.
        "look_s": look,
        "first_token_s": first,
        "answer_s": seconds,
        "cache_mb": cache_bytes(cache) / 1e6,
        # What a step attends to at the end, but for the answer: the prompt, or the encoder's output.
        "prompt_columns": prompt_columns(cache, tokens),
    }
    del output, cache
    batch_seconds, _ = answer(peer.inputs(model, sizes, batch_size), tokens)
    return {**found, "images_per_second": batch_size / batch_seconds}


def prompt_columns(cache, tokens: int) -> int:
    """How many columns of a cache the prompt takes, after an answer of `tokens` tokens."""
    cross = getattr(cache, "cross_attention_cache", None)
    # Groma's cache counts the slots that it left out in its length, but has no columns for them.
    return (cross or cache).layers[0].keys.shape[2] - (0 if cross is not None else tokens - 1)


def best(old: dict[str, float] | None, new: dict[str, float]) -> dict[str, float]:
    """The better of two measurements, column by column; a token takes what an answer takes after its first one."""
    if old is not None:
        better = {name: min if less else max for name, (_, _, less) in COLUMNS.items()}
        new = {name: better.get(name, min)(old[name], value) for name, value in new.items()}
    tokens = new["answer_tokens"] - 1
    return {**new, "token_ms": 1000 * (new["answer_s"] - new["first_token_s"]) / tokens}


def ratios_of(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ours beside each other model: more than 1 is better for ours."""
    ratios = {}
    for name, values in found.items():
        if name == OURS or OURS not in found:
            continue
        for column, (_, _, less) in COLUMNS.items():
            ours, theirs = found[OURS][column], values[column]
            ratios[f"{column}, {name}"] = theirs / ours if less else ours / theirs
    return ratios


def print_table(found: dict[str, dict[str, float]]) -> None:
    print(f"{'':14s}{'layers M':>10s}{'vision M':>10s}" + "".join(f"{title:>15s}" for title, _, _ in COLUMNS.values()))
    for name, values in found.items():
        sizes = f"{values['language_model_weights'] / 1e6:10.1f}{values['vision_weights'] / 1e6:10.1f}"
        print(
            f"{name:14s}{sizes}" + "".join(f"{shape.format(values[c]):>15s}" for c, (_, shape, _) in COLUMNS.items())
        )
    for name, ratio in ratios_of(found).items():
        print(f"  {name:32s} {ratio:6.2f}x{'' if ratio >= 1 else '  ours loses'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {name.split()[0]: name for name in PEERS}
    parser.add_argument("--models", nargs="+", choices=list(names), default=list(names))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, help="JSON file of measurements to add to; must be of this machine")
    parser.add_argument("--small", action="store_true", help="very small models, to try the script")
    given = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(given.threads)
    settings = {"machine": machine(), "kernels": use_kernels(), "batch_size": given.batch_size, "small": given.small}
    found: dict[str, dict[str, float]] = {}
    if given.results is not None and given.results.exists():
        before = json.loads(given.results.read_text())
        if before["settings"] != settings:
            parser.error(f"--results {given.results} has measurements of {before['settings']}, this is {settings}")
        found = before["found"]
    print(f"{settings['machine']}, float32, kernels {settings['kernels']}, batches of {given.batch_size}", flush=True)
    sizes = SMALL if given.small else Sizes()
    turns = [names[name] for _ in range(given.rounds) for name in given.models]
    for name in tqdm(turns, desc="models", unit="model"):
        found[name] = best(found.get(name), measure(PEERS[name], sizes, given.batch_size))
        gc.collect()
        if given.results is not None:
            given.results.write_text(json.dumps({"settings": settings, "found": found}, indent=1))
    found = {name: found[name] for name in PEERS if name in found}
    print_table(found)
    print_result("peers", ratios_of(found), found, **{name: settings[name] for name in settings if name != "machine"})


if __name__ == "__main__":
    main()
