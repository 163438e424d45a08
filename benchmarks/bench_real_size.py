"""Benchmark: a Groma of real size on a CPU: converted, loaded and asked, in seconds and memory.

    python benchmarks/bench_real_size.py [--folder DIR] [--layers 32] [--variants bfloat16 int8 4bit] [--threads 2]

Makes a checkpoint of random values in the layout of the original Groma-7B (bfloat16, in shards), converts it, asks the
converted model one question in each variant, and removes everything. Each step runs in a process of its own, as memory
that was used once stays with a process; peaks are resident memory, pages of mapped files included. A random model says
nothing sensible. With all 32 layers this takes 35 GB of disk; `--layers` makes fewer layers of the language model, all
of the same size, and `--steps` does a part of it and keeps the files in `--folder` for the next part.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from measuring import print_result
from safetensors import safe_open
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from transformers_groma import GromaConfig, GromaForConditionalGeneration, convert_legacy_checkpoint
from transformers_groma.loading import load_model
from transformers_groma.loading_options import WIDE_PRODUCTS, LoadingOptions
from transformers_groma.markup import GROMA_MARKUP_TOKENS
from transformers_groma.models.convert_saved_tensors import open_checkpoint
from transformers_groma.models.groma.convert_config import convert_legacy_config
from transformers_groma.models.groma.convert_names import ADDED_TOKEN_TABLES, rename_legacy_key
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.wide_products import slow_dtypes

REPOSITORY = Path(__file__).parents[1]
# A very small checkpoint of the original code: its names, its settings and its tokenizer.
SMALL = REPOSITORY / "tests" / "fixtures" / "golden" / "legacy_checkpoint"
REAL = REPOSITORY / "hub_configs" / "groma-7b"
STEPS = ("make", "convert", "ask")
VARIANTS = {
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "4bit": {"dtype": "bfloat16", "quantization": "4bit"},
}
SHARD_BYTES = 2 * 10**9
_NUMBER = re.compile(r"\.\d+\.")


def real_config(layers: int, is_small: bool) -> GromaConfig:
    """The configuration of Groma-7B, or of the very small checkpoint, with a number of layers."""
    if is_small:
        settings = json.loads((SMALL / "config.json").read_text())
        config = convert_legacy_config(settings, open_checkpoint(SMALL).shapes)
    else:
        config = GromaConfig.from_pretrained(REAL)
    config.text_config.num_hidden_layers = layers
    return config


def base_tokens(config: GromaConfig) -> int:
    """Tokens of the language model, which the added ones follow."""
    return config.image_token_id - GROMA_MARKUP_TOKENS.index("<image>")


def original_shapes(config: GromaConfig) -> dict[str, torch.Size]:
    """The tensors of a model by the original's names, which the very small checkpoint shows."""
    with safe_open(SMALL / "model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if name not in ADDED_TOKEN_TABLES]  # noqa: SIM118
    # The first number of a name counts layers.
    template = {_NUMBER.sub(".0.", rename_legacy_key(name), count=1): name for name in names}
    with torch.device("meta"):
        state = GromaForConditionalGeneration(config).state_dict()
    shapes = {}
    for name, tensor in state.items():
        number = _NUMBER.search(name)
        original = template[_NUMBER.sub(".0.", name, count=1)]
        shapes[original if number is None else _NUMBER.sub(number.group(), original, count=1)] = tensor.shape
    num_tokens = base_tokens(config)
    for table, name in ADDED_TOKEN_TABLES.items():
        original = template[name]
        rows, width = shapes[original]
        shapes[original], shapes[table] = torch.Size((num_tokens, width)), torch.Size((rows - num_tokens, width))
    return shapes


def original_settings(config: GromaConfig) -> dict:
    """The original's config.json for a model."""
    settings = json.loads((SMALL / "config.json").read_text())
    perceiver, num_tokens = settings["perceiver_cfg"], base_tokens(config)
    for part, ours in (
        (settings["llm_cfg"], config.text_config),
        (perceiver["vis_encoder_cfg"], config.vision_config),
        (perceiver["ddetr_cfg"], config.proposer_config),
    ):
        part.update({name: getattr(ours, name) for name in part if isinstance(getattr(ours, name, None), int)})
        part.pop("num_labels", None)
    settings["llm_cfg"] |= {"vocab_size": num_tokens, "pad_token_id": 0}
    perceiver["ddetr_cfg"]["two_stage_num_proposals"] = config.proposer_config.num_queries
    return settings | {"num_new_token": config.text_config.vocab_size - num_tokens, "vocab_size": num_tokens}


def write_tokenizer(folder: Path, num_tokens: int) -> None:
    """Write the very small checkpoint's tokenizer with more pieces, which stand for no text that is asked."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(SMALL / name, folder)
    pieces = sentencepiece_model_pb2.ModelProto.FromString((SMALL / "tokenizer.model").read_bytes())
    shift = num_tokens - len(pieces.pieces)
    for index in range(shift):
        pieces.pieces.add(piece=f"\u2581\u2581{index}", score=-1e5 - index)
    pieces.trainer_spec.vocab_size = num_tokens
    (folder / "tokenizer.model").write_bytes(pieces.SerializeToString())
    added = json.loads((SMALL / "added_tokens.json").read_text())
    (folder / "added_tokens.json").write_text(json.dumps({token: index + shift for token, index in added.items()}))


def in_shards(shapes: dict[str, torch.Size]) -> Iterator[dict[str, torch.Size]]:
    """The tensors of one file after the other."""
    shard, size = {}, 0
    for name, shape in shapes.items():
        if size + 2 * shape.numel() > SHARD_BYTES and shard:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += 2 * shape.numel()
    yield shard


def make(folder: Path, config: GromaConfig) -> dict:
    """Write a checkpoint of random values as the original code would have."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(original_settings(config)))
    write_tokenizer(folder, base_tokens(config))
    shapes = original_shapes(config)
    shards = list(in_shards(shapes))
    torch.manual_seed(0)
    # One block of random values in many places: drawing all of them would take longer than converting them.
    block = torch.randn(2**24).mul_(0.02).bfloat16()
    weight_map = {}
    for index, shard in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name, shape in shard.items():
            is_norm = len(shape) == 1 and name.endswith("weight")
            flat = torch.ones(shape.numel(), dtype=torch.bfloat16) if is_norm else None
            if flat is None:
                offset = hash_of(name) % 2**20
                flat = block[offset:].repeat(shape.numel() // (len(block) - offset) + 1)[: shape.numel()]
            tensors[name] = flat.reshape(shape).clone()
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    numel = sum(shape.numel() for shape in shapes.values())
    return {"billion_weights": numel / 1e9, "shards": len(shards)}


def hash_of(name: str) -> int:
    """A number by a name that is the same in every process."""
    return int.from_bytes(name.encode()[-8:], "little")


class FirstToken(BaseStreamer):
    """Notes when each token comes."""

    def __init__(self):
        self.times = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def ask(folder: Path, variant: str, wide: str, new_tokens: int) -> dict:
    """Load the converted model, let it look at an image, and ask one question."""
    start = time.perf_counter()
    model, processor = load_model(folder, "cpu", LoadingOptions(**VARIANTS[variant], wide_products=wide))
    loading = time.perf_counter() - start
    inputs = processor(images=make_scene(0, "test", 3, 448).draw(), text="What is this?", return_tensors="pt")
    start = time.perf_counter()
    with torch.no_grad():
        model.get_image_features(inputs["pixel_values"])
    perceive = time.perf_counter() - start
    streamer = FirstToken()
    start = time.perf_counter()
    model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, streamer=streamer)
    # The first thing that is put is the prompt.
    first, *others = streamer.times[1:]
    return {
        "load_s": loading,
        "perceive_s": perceive,
        "first_token_s": first - start,
        "first_word_with_loading_s": loading + first - start,
        "token_s": (others[-1] - first) / len(others),
        "prompt_tokens": inputs["input_ids"].shape[1],
    }


def run(step: str, arguments: argparse.Namespace) -> dict:
    """One step, in this process."""
    torch.set_num_threads(arguments.threads)
    original, converted = arguments.folder / "original", arguments.folder / "converted"
    start = time.perf_counter()
    if step == "make":
        result = make(original, real_config(arguments.layers, arguments.small))
    elif step == "convert":
        convert_legacy_checkpoint(original, converted)
        result = {}
    else:
        result = ask(converted, step, arguments.wide_products, arguments.new_tokens)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return result | {"seconds": time.perf_counter() - start, "peak_gb": peak}


def in_own_process(step: str, arguments: argparse.Namespace) -> dict:
    """[`run`] in a new process."""
    options = ["--folder", str(arguments.folder), "--layers", str(arguments.layers)]
    options += ["--threads", str(arguments.threads), "--new-tokens", str(arguments.new_tokens)]
    options += ["--wide-products", arguments.wide_products, *(["--small"] if arguments.small else [])]
    done = subprocess.run([sys.executable, __file__, *options, "--run", step], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{step}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    parser.add_argument("--layers", type=int, default=32, help="layers of the language model (default: all 32)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="what to do; all by default")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--wide-products", choices=WIDE_PRODUCTS, default="auto")
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a very small model, to try the script")
    parser.add_argument("--run", choices=("make", "convert", *VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    if arguments.new_tokens < 2:
        parser.error("--new-tokens must be at least 2: a first token, and one to time")
    if arguments.run is not None:
        print(json.dumps(run(arguments.run, arguments)))
        return
    is_whole = set(arguments.steps) == set(STEPS)
    if arguments.folder is None and not is_whole:
        parser.error("--steps needs --folder, where the files stay for the next step")
    with tempfile.TemporaryDirectory(prefix="bench-real-size-") as temporary:
        arguments.folder = arguments.folder or Path(temporary)
        steps = [step for step in STEPS[:2] if step in arguments.steps]
        steps += arguments.variants if "ask" in arguments.steps else []
        results = {}
        try:
            for step in steps:
                results[step] = {name: round(value, 3) for name, value in in_own_process(step, arguments).items()}
                line = "".join(f"  {name} {value:g}" for name, value in results[step].items())
                print(f"{step:10s}{line}", flush=True)
        finally:
            if is_whole:
                for name in ("original", "converted"):
                    shutil.rmtree(arguments.folder / name, ignore_errors=True)
    base = results.get("bfloat16")
    asked = [name for name in results if name in VARIANTS and base]
    ratios = {f"token, bfloat16 over {name}": base["token_s"] / results[name]["token_s"] for name in asked}
    settings = {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "slow_dtypes": [str(dtype) for dtype in slow_dtypes()],
        "threads": arguments.threads,
        "layers": arguments.layers,
        "wide_products": arguments.wide_products,
    }
    print_result("real_size", ratios, results, settings=settings)


if __name__ == "__main__":
    main()
