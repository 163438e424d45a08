"""Benchmark: a step of stage 3, forward and backward, beside the same step with all tokens and all logits.

    python benchmarks/bench_training.py [--rounds 3] [--threads 2] [--cases groma_tiny middle]

The baseline is the forward pass of the model with its labels, as it was trained before: the language model reads all
region slots, and the head predicts every token. Ours leaves out slots without a region, and logits without a label.
Both take turns in this run, on the same batch, and their losses are compared. Weights are random, and regions are
given as precomputed proposals. `images` are the seconds until the language model begins, the same in both.

- groma_tiny: the size of groma-tiny, batches of 8, 8 of 30 slots used;
- middle: a language model of 0.3 B parameters, a vision encoder of DINOv2 small's size, batches of 2, 12 of 100 slots.

The last line is JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from transformers_groma import GromaConfig, GromaForConditionalGeneration
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.training.packing import packed_tokens
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


# By name: configuration, rows of a batch, slots with a region.
CASES = {"groma_tiny": (tiny_config, 8, 8), "middle": (middle_config, 2, 12)}


def build_model(config: GromaConfig) -> GromaForConditionalGeneration:
    """A random model set up for stage 3."""
    torch.manual_seed(0)
    model = GromaForConditionalGeneration(config)
    set_trainable_parts(model, ["region_encoder", "projector", "language_model"])
    model.train()
    eval_frozen_parts(model)
    return model


def make_batch(config: GromaConfig, rows: int, regions: int) -> dict[str, Tensor]:
    """Noise for images, boxes apart from each other, random words for text, the last of them an answer."""
    generator = torch.Generator().manual_seed(0)
    size = config.vision_config.image_size
    slots = [
        token
        for slot in range(config.max_regions)
        for token in (config.first_proxy_token_id + slot, config.image_token_id)
    ]
    head = torch.tensor([1, *[config.image_token_id] * config.num_image_tokens, *slots]).expand(rows, -1)
    input_ids = torch.cat([head, torch.randint(3, 259, (rows, TEXT_LENGTH), generator=generator)], dim=1)
    labels = input_ids.clone()
    labels[:, :-ANSWER_LENGTH] = IGNORED_LABEL
    centres = (torch.arange(regions) + 0.5) / regions
    boxes = torch.stack([centres, centres, *[torch.full((regions,), 0.9 / regions)] * 2], dim=1)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(rows, 3, size, size, generator=generator),
        "proposal_boxes": boxes.expand(rows, -1, -1).contiguous(),
        "proposal_scores": torch.full((rows, regions), 0.9),
        "labels": labels,
    }


def step(
    model: GromaForConditionalGeneration, batch: dict[str, Tensor], is_packed: bool
) -> tuple[float, float, float]:
    """The loss of a step, its seconds, and those of its images."""
    model.zero_grad(set_to_none=True)
    seen: list[float] = []
    hook = model.model.language_model.register_forward_pre_hook(lambda *_: seen.append(time.perf_counter()))
    torch.manual_seed(0)  # slots are shuffled in training
    start = time.perf_counter()
    if is_packed:
        with packed_tokens(model.model.language_model):
            loss = model(**batch, use_cache=False, loss_only=True).loss
    else:
        loss = model(**batch, use_cache=False).loss
    loss.backward()
    seconds = time.perf_counter() - start
    hook.remove()
    return loss.item(), seconds, seen[0] - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for name in arguments.cases:
        make_config, rows, regions = CASES[name]
        config = make_config()
        model, batch = build_model(config), make_batch(config, rows, regions)
        times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        losses = {is_packed: step(model, batch, is_packed)[0] for is_packed in times}
        if abs(losses[True] - losses[False]) > 1e-5 * abs(losses[False]):
            raise SystemExit(f"{name}: the losses differ: {losses}")
        for _ in range(arguments.rounds):
            for is_packed, rounds in times.items():
                rounds.append(step(model, batch, is_packed)[1:])
        (before, _), (ours, vision) = (min(times[is_packed]) for is_packed in (False, True))
        results[name] = {
            "seconds": round(ours, 3),
            "baseline_seconds": round(before, 3),
            "over_baseline": round(before / ours, 2),
            "forward_of_images_seconds": round(vision, 3),
            "parameters_of_language_model": sum(w.numel() for w in model.model.language_model.parameters()),
        }
        print(f"{name:<12} {ours:7.3f} s   baseline {before:7.3f} s   {before / ours:.2f}x   images {vision:.3f} s")
    ratios = {name: result["over_baseline"] for name, result in results.items()}
    print(json.dumps({"benchmark": "training", "threads": arguments.threads, "ratios": ratios, "results": results}))


if __name__ == "__main__":
    main()
