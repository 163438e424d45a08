"""Benchmark: groma-tiny with masks beside glamm-tiny, on the same scenes: quality, time, encoder passes, memory.

    python benchmarks/bench_glamm.py [--groma hub_configs/groma-tiny] [--glamm hub_configs/glamm-tiny] [--rows 500]
                                     [--batch-size 16] [--max-new-tokens 512] [--single-rows 40] [--threads 2]
                                     [--seed 1]

Both models answer the same rows of scenes that neither was trained on, each in its own wording, as `groma evaluate`
asks them. Quality is that of the usual protocols: a grounded caption of the whole scene with masks, referring
segmentation, and the description of a region. Masks count with a score of 1 in the AP, for both.

- time: milliseconds of one grounded caption with masks, from the image to the answer, one after the other and in
  batches, and of a short answer without masks;
- encoder passes: how many images each image encoder looks at for one grounded caption with masks, for an answer
  without masks, and for the next caption with masks of the same image;
- memory: megabytes of weights, of what is kept of an image for follow-up questions, and how far the process grows
  while it answers in batches. Each model runs in a process of its own.

Prints the table of docs/glamm.md, and a last line of JSON. `--rows 500` takes some minutes for each model.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from transformers_groma.answer_masks import add_masks
from transformers_groma.data.conversations import to_messages
from transformers_groma.evaluation.benchmarks import grounded_conversation, referring_segmentation, region_caption
from transformers_groma.evaluation.generation import writes_masks
from transformers_groma.evaluation.loading import load_model
from transformers_groma.evaluation.questions import question_of
from transformers_groma.evaluation.respondents import ChatRespondent
from transformers_groma.evaluation.runner import evaluate
from transformers_groma.perceived_images import PerceivedImage, perceive, prompt_inputs
from transformers_groma.shapes.rows import shapes_dataset

MODELS = Path(__file__).parents[1] / "hub_configs"
IMAGE_SIZE = 224
# The image encoders of a family, by what the table calls them: parts of `model.model`.
ENCODERS = {
    "groma": {"vision encoder": "vision_tower"},
    "glamm": {"vision encoder": "vision_tower", "grounding encoder": "grounding_encoder"},
}
# What a person asks next.
PLAIN_QUESTION = "Is there anything red?"
PLAIN_TOKENS = 8

# Name in the table, key of the measurement, format.
ROWS = (
    ("grounded caption: AP at IoU 0.5", "ap@0.5", "{:.3f}"),
    ("grounded caption: mIoU of pairs", "miou", "{:.3f}"),
    ("grounded caption: mIoU of true masks", "target_miou", "{:.3f}"),
    ("grounded caption: mask recall", "mask_recall", "{:.3f}"),
    ("referring segmentation: cIoU", "ciou", "{:.3f}"),
    ("referring segmentation: gIoU", "giou", "{:.3f}"),
    ("region description: word for word", "exact_match", "{:.3f}"),
    ("caption with masks, one by one (ms)", "single_ms", "{:.0f}"),
    ("caption with masks, in batches (ms)", "batched_ms", "{:.0f}"),
    ("tokens of a caption", "tokens", "{:.0f}"),
    ("short answer without masks (ms)", "plain_ms", "{:.0f}"),
    ("images encoded for a caption with masks", "passes_masks", "{}"),
    ("images encoded for an answer without masks", "passes_plain", "{}"),
    ("images encoded for the next caption of an image", "passes_follow_up", "{}"),
    ("weights (MB)", "weights_mb", "{:.1f}"),
    ("kept of an image (MB)", "kept_mb", "{:.2f}"),
    ("memory of a batch of captions (MB)", "peak_mb", "{:.0f}"),
)


def scenes(task: str, rows: int, seed: int) -> Dataset:
    """Rows of a task on scenes of the test split."""
    if task == "grounded-caption":
        return shapes_dataset(task, rows, seed, split="test", questions=1, image_size=IMAGE_SIZE)
    return shapes_dataset(task, rows, seed, split="test", evaluation=True, image_size=IMAGE_SIZE)


def quality(model: Any, processor: Any, arguments: argparse.Namespace) -> dict[str, float]:
    """The metrics of the table, of `groma evaluate` on the same scenes."""
    found: dict[str, float] = {}
    for benchmark, task, metrics in (
        (
            grounded_conversation.BENCHMARK,
            "grounded-caption",
            {"glamm_release_ap@0.5": "ap@0.5", "miou": "miou", "target_miou": "target_miou"}
            | {"mask_recall": "mask_recall"},
        ),
        (referring_segmentation.BENCHMARK, "rec", {"ciou": "ciou", "giou": "giou"}),
        (region_caption.BENCHMARK, "region-caption", {"exact_match": "exact_match"}),
    ):
        dataset = scenes(task, arguments.rows, arguments.seed)
        with tempfile.TemporaryDirectory() as folder:
            limit = min(arguments.max_new_tokens, benchmark.asking.max_new_tokens)
            options = {"batch_size": arguments.batch_size, "max_new_tokens": limit}
            results = evaluate(benchmark, model, processor, dataset, folder, **options)
        found |= {name: results.metrics[metric] for metric, name in metrics.items()}
    return found


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Counts the images that each image encoder of a model looks at, by the name of the encoder."""
    names = ENCODERS[model.config.model_type]
    passes = dict.fromkeys(names, 0)

    def hook(name: str) -> Callable[..., None]:
        def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
            pixels = args[0] if args else kwargs["pixel_values"]
            passes[name] += len(pixels)

        return count

    handles = [
        model.model.get_submodule(part).register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, part in names.items()
    ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def times_and_passes(model: Any, processor: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of an answer, and images encoded for it."""
    rows = scenes("grounded-caption", max(arguments.single_rows, arguments.batch_size) + 1, arguments.seed + 1)
    rows = [{"index": index, **rows[index]} for index in range(len(rows))]
    asking = grounded_conversation.BENCHMARK.asking._replace(max_new_tokens=arguments.max_new_tokens)
    respondent = ChatRespondent(model, processor, asking)

    def answer(some: list[dict[str, Any]]) -> list[Any]:
        return respondent.answer(respondent.prepare(some))

    answer(rows[-1:])  # warms up
    with counted(model) as with_masks:
        answers = answer(rows[:1])
    assert answers[0].phrases, "the first caption points at nothing: a model that was not trained has no times"
    singles = [seconds_of(lambda row=row: answer([row])) for row in rows[: arguments.single_rows]]
    batch = rows[: arguments.batch_size]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batched = min(seconds_of(lambda: answer(batch)) for _ in range(3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    with counted(model) as plain:
        seen = perceive(model, processor, [rows[0]["image"]])
        plain_answer(model, processor, seen)
    tokens = masked_caption(model, processor, seen, rows[0], arguments.max_new_tokens)
    with counted(model) as follow_up:
        masked_caption(model, processor, seen, rows[0], arguments.max_new_tokens)
    plain_seconds = [
        seconds_of(lambda row=row: plain_answer(model, processor, perceive(model, processor, [row["image"]])))
        for row in rows[: arguments.single_rows]
    ]
    return {
        "single_ms": 1e3 * sorted(singles)[len(singles) // 2],
        "batched_ms": 1e3 * batched / len(batch),
        "plain_ms": 1e3 * sorted(plain_seconds)[len(plain_seconds) // 2],
        "tokens": tokens,
        "passes_masks": in_words(with_masks),
        "passes_plain": in_words(plain),
        "passes_follow_up": in_words(follow_up),
        "kept_mb": bytes_of(seen[0].features) / 1e6,
        # ru_maxrss is in kilobytes, on macOS in bytes.
        "peak_mb": peak / (1e6 if sys.platform == "darwin" else 1e3),
    }


@torch.inference_mode()
def plain_answer(model: Any, processor: Any, seen: list[PerceivedImage]) -> None:
    """Ask without masks about an image that was looked at before."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PLAIN_QUESTION}]}]
    inputs = prompt_inputs(model, processor, [messages], seen)
    model.generate(**inputs, max_new_tokens=PLAIN_TOKENS, do_sample=False)


@torch.inference_mode()
def masked_caption(model: Any, processor: Any, seen: list[PerceivedImage], row: dict[str, Any], longest: int) -> int:
    """Ask for a caption with masks about an image that was looked at before; the number of new tokens."""
    asked = question_of(row, wording=processor.question_wording)
    inputs = prompt_inputs(model, processor, [to_messages(asked)], seen)
    output = model.generate(**inputs, max_new_tokens=longest, do_sample=False, return_dict_in_generate=True)
    sizes = [image.size for image in seen]
    answers = processor.post_process_grounded_generation(output, inputs, [(size.height, size.width) for size in sizes])
    if not writes_masks(model):
        add_masks(model, inputs["mm_encoder_outputs"]["image"], answers, sizes)
    return output.sequences.shape[1] - inputs["input_ids"].shape[1]


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_words(passes: dict[str, int]) -> str:
    """Counts of passes, such as "1 vision encoder, 0 grounding encoder"."""
    return ", ".join(f"{count} {name}" for name, count in passes.items())


def bytes_of(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors in a value, each storage once."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        is_new = storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        return storage.nbytes() if is_new else 0
    if isinstance(value, dict):
        return sum(bytes_of(entry, seen) for entry in value.values())
    if isinstance(value, (list, tuple)):
        return sum(bytes_of(entry, seen) for entry in value)
    return bytes_of(vars(value), seen) if hasattr(value, "__dict__") else 0


def measure(path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model; called in a process of its own."""
    torch.set_num_threads(arguments.threads)
    model, processor = load_model(path)
    found = times_and_passes(model, processor, arguments)
    found["weights_mb"] = sum(weight.nbytes for weight in model.state_dict().values()) / 1e6
    return found | quality(model, processor, arguments)


def in_own_process(path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """[`measure`] in a fresh process, so that neither model pays for the memory of the other."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (path, arguments))


def table(found: dict[str, dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    lines = [f"| | {' | '.join(found)} |", f"|---|{'---:|' * len(found)}"]
    for title, key, form in ROWS:
        cells = [form.format(values[key]) for values in found.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groma", type=Path, default=MODELS / "groma-tiny", help="folder of a Groma with masks")
    parser.add_argument("--glamm", type=Path, default=MODELS / "glamm-tiny", help="folder of a GLaMM")
    parser.add_argument("--rows", type=int, default=500, help="scenes for each kind of question")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=512, help="longest caption")
    parser.add_argument("--single-rows", type=int, default=40, help="captions that are timed one by one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for option in ("groma", "glamm"):
        if not (getattr(arguments, option) / "config.json").is_file():
            parser.error(f"--{option} {str(getattr(arguments, option))!r} has no config.json: pass a model's folder")
    found = {path.resolve().name: in_own_process(str(path), arguments) for path in (arguments.groma, arguments.glamm)}
    print(table(found))
    print(
        f"\n{arguments.rows} scenes of {IMAGE_SIZE}x{IMAGE_SIZE} pixels for each kind of question, "
        f"{arguments.threads} threads, batches of {arguments.batch_size}; times are medians of "
        f"{arguments.single_rows} answers, and of a batch the best of three."
    )
    result = {
        "benchmark": "glamm",
        "rows": arguments.rows,
        "models": {
            name: {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
            for name, values in found.items()
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
