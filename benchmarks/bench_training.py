"""Benchmark: a step of stage 3, forward and backward, beside the same step with all tokens and all logits.

    python benchmarks/bench_training.py [--rounds 3] [--threads 2] [--cases groma_tiny middle …]

The baseline is the forward pass of the model with its labels, as it was trained before: the language model reads all
region slots, and the head predicts every token, and each row has its image. Ours leaves out slots without a region and
logits without a label, and encodes an image once for all its rows. Both take turns in this run, on the same batch, and
their losses are compared. Weights are random, and regions are given as precomputed proposals. `with_stored_features`
is how much faster ours would be at most if the frozen vision encoder's maps were read from a disk in no time.

- groma_tiny: the size of groma-tiny, batches of 8, 8 of 30 slots used;
- groma_tiny_4_rows_an_image: the same with 2 images in a batch, as `--rows_per_image 4` makes it;
- groma_tiny_by_length: 8 batches of rows of many lengths, in an order by length (`group_by_length`) / at random;
- middle: a language model of 0.3 B parameters, a vision encoder of DINOv2 small's size, batches of 2, 12 of 100 slots;
- middle_2_rows_an_image: the same with 1 image in a batch.

The last line is JSON.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from measuring import print_result
from torch import Tensor

from transformers_groma import GromaConfig, GromaForConditionalGeneration
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.training.packing import packed_tokens
from transformers_groma.training.row_order import SeededOrder, order_by_length
from transformers_groma.training.trainable import eval_frozen_parts, set_trainable_parts

TEXT_LENGTH, ANSWER_LENGTH = 96, 48


def tiny_config() -> GromaConfig:
    """groma-tiny's configuration, as its builder makes it."""
    sys.path.append(str(Path(__file__).parents[1]))
    from scripts.groma_tiny.build import build_config, build_tokenizer

    return build_config(build_tokenizer())


def middle_config() -> GromaConfig:
    """About a fifteenth of Groma-7B, in its proportions of text to images."""
    return GromaConfig(
        vision_config={
            "model_type": "dinov2",
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "image_size": 448,
            "patch_size": 14,
        },
        region_encoder_config={"group_norm_groups": 8, "position_hidden_size": 64, "region_hidden_size": 256},
        text_config={
            "model_type": "llama",
            "vocab_size": 32114,
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 18,
            "num_attention_heads": 16,
        },
    )


# By name: configuration, rows of a batch, images in it, slots with a region.
STEPS = {
    "groma_tiny": (tiny_config, 8, 8, 8),
    "groma_tiny_4_rows_an_image": (tiny_config, 8, 2, 8),
    "middle": (middle_config, 2, 2, 12),
    "middle_2_rows_an_image": (middle_config, 2, 1, 12),
}
BY_LENGTH = "groma_tiny_by_length"


def build_model(config: GromaConfig) -> GromaForConditionalGeneration:
    """A random model set up for stage 3."""
    torch.manual_seed(0)
    model = GromaForConditionalGeneration(config)
    set_trainable_parts(model, ["region_encoder", "projector", "language_model"])
    model.train()
    eval_frozen_parts(model)
    return model


def make_batch(
    config: GromaConfig, rows: int, images: int, regions: int, text_lengths: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Noise for images, boxes apart from each other, random words for text, the last of them an answer."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(text_lengths or [TEXT_LENGTH] * rows)
    size = config.vision_config.image_size
    slots = [
        token
        for slot in range(config.max_regions)
        for token in (config.first_proxy_token_id + slot, config.image_token_id)
    ]
    head = torch.tensor([1, *[config.image_token_id] * config.num_image_tokens, *slots]).expand(rows, -1)
    longest = int(lengths.max())
    input_ids = torch.cat([head, torch.randint(3, 259, (rows, longest), generator=generator)], dim=1)
    labels = input_ids.clone()
    labels[:, :-ANSWER_LENGTH] = IGNORED_LABEL
    # Padded on the left, as the processor does it.
    place = torch.arange(head.shape[1] + longest)
    padding = (longest - lengths)[:, None]
    source = torch.where(place < padding, 0, place - padding)
    source = torch.where(source < head.shape[1], source, place)
    input_ids = input_ids.gather(1, source).masked_fill(place < padding, 0)
    centres = (torch.arange(regions) + 0.5) / regions
    boxes = torch.stack([centres, centres, *[torch.full((regions,), 0.9 / regions)] * 2], dim=1)
    return {
        "input_ids": input_ids,
        "attention_mask": (place >= padding).long(),
        "pixel_values": torch.randn(images, 3, size, size, generator=generator),
        "pixel_index": torch.arange(rows) * images // rows,
        "proposal_boxes": boxes.expand(rows, -1, -1).contiguous(),
        "proposal_scores": torch.full((rows, regions), 0.9),
        "labels": labels,
    }


def step(
    model: GromaForConditionalGeneration, batch: dict[str, Tensor], is_packed: bool
) -> tuple[float, float, float]:
    """The loss of a step, its seconds, and those of the frozen vision encoder in it."""
    model.zero_grad(set_to_none=True)
    seen: list[float] = []
    vision_tower = model.model.vision_tower
    hooks = [
        vision_tower.register_forward_pre_hook(lambda *_: seen.append(time.perf_counter())),
        vision_tower.register_forward_hook(lambda *_: seen.append(time.perf_counter())),
    ]
    index = batch["pixel_index"]
    if not is_packed or len(batch["pixel_values"]) == len(index):
        others = {name: value for name, value in batch.items() if name != "pixel_index"}
        batch = {**others, "pixel_values": batch["pixel_values"][index]}
    torch.manual_seed(0)  # slots are shuffled in training
    start = time.perf_counter()
    if is_packed:
        with packed_tokens(model.model.language_model):
            loss = model(**batch, use_cache=False, loss_only=True).loss
    else:
        loss = model(**batch, use_cache=False).loss
    loss.backward()
    seconds = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    return loss.item(), seconds, seen[1] - seen[0]


def compare(name: str, rounds: int) -> dict[str, float]:
    """Seconds of a step, ours and the baseline."""
    make_config, *sizes = STEPS[name]
    config = make_config()
    model, batch = build_model(config), make_batch(config, *sizes)
    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    losses = {is_packed: step(model, batch, is_packed)[0] for is_packed in times}
    if abs(losses[True] - losses[False]) > 1e-5 * abs(losses[False]):
        raise SystemExit(f"{name}: the losses differ: {losses}")
    for _ in range(rounds):
        for is_packed, found in times.items():
            found.append(step(model, batch, is_packed)[1:])
    (before, _), (ours, vision) = (min(times[is_packed]) for is_packed in (False, True))
    return {
        "seconds": round(ours, 3),
        "baseline_seconds": round(before, 3),
        "over_baseline": round(before / ours, 2),
        "vision_encoder_seconds": round(vision, 3),
        "with_stored_features": round(ours / (ours - vision), 2),
        "parameters_of_language_model": sum(w.numel() for w in model.model.language_model.parameters()),
    }


def by_length(rounds: int) -> dict[str, float]:
    """Seconds of an epoch of rows with 64 to 512 words, by length and at random; both are packed."""
    config = tiny_config()
    model = build_model(config)
    generator = torch.Generator().manual_seed(0)
    lengths = (64 * 8 ** torch.rand(64, generator=generator)).long().tolist()
    orders = {
        False: list(range(64)),  # the lengths are random
        True: list(SeededOrder(order_by_length(lengths, 8), 64)),
    }

    batches = {
        is_ordered: [[lengths[row] for row in order[start : start + 8]] for start in range(0, 64, 8)]
        for is_ordered, order in orders.items()
    }

    def epoch(is_ordered: bool) -> float:
        return sum(step(model, make_batch(config, 8, 8, 8, b), is_packed=True)[1] for b in batches[is_ordered])

    words = {is_ordered: sum(max(batch) for batch in found) for is_ordered, found in batches.items()}

    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):  # the first one warms up
        for is_ordered, found in times.items():
            found.append(epoch(is_ordered))
    before, ours = (min(times[is_ordered][1:]) for is_ordered in (False, True))
    return {
        "seconds": round(ours, 3),
        "baseline_seconds": round(before, 3),
        "over_baseline": round(before / ours, 2),
        "words_with_padding_over_baseline": round(words[False] / words[True], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    cases = [*STEPS, BY_LENGTH]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for name in arguments.cases:
        results[name] = by_length(arguments.rounds) if name == BY_LENGTH else compare(name, arguments.rounds)
        seconds, baseline, ratio = (results[name][key] for key in ("seconds", "baseline_seconds", "over_baseline"))
        print(f"{name:<27} {seconds:7.3f} s   baseline {baseline:7.3f} s   {ratio:.2f}x", flush=True)
    ratios = {name: result["over_baseline"] for name, result in results.items()}
    seconds = {
        name: {"ours": found["seconds"], "baseline": found["baseline_seconds"]} for name, found in results.items()
    }
    print_result("training", ratios, seconds, results=results)


if __name__ == "__main__":
    main()
