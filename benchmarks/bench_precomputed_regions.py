"""Benchmark: the part of a training step that precomputed regions save in stages 2 and 3.

    python benchmarks/bench_precomputed_regions.py [--rounds 2] [--threads 2]
                                                   [--cases groma_tiny eighth eighth_4_levels]

Measured, on this machine in this run: seconds of a step (forward and backward, the parts of stage 3 learn) that runs
the region proposer / seconds of the same step with the proposals given. The vision encoder runs in both, as regions
are cut out of its maps. Both compute the same loss, which is checked. Expected: the same ratio from the seconds of the
proposer alone; where that is little, the measured one is mostly the noise of the machine. Weights are random, all
region slots are used.

- groma_tiny: the size of groma-tiny, batches of 8;
- eighth: Groma-7B with every width and every number of heads divided by 8, batches of 1. Depths, 448x448 pixels, 300
  queries and 100 slots are those of the release. Matrix products shrink 64 times and everything else 8 times, so this
  is not a forecast for the full size, where the language model takes a larger share of a step, and the proposer a
  smaller one;
- eighth_4_levels: the same with four feature maps in the proposer instead of one, 21 times as many tokens.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import print_result, seconds_of
from torch import Tensor

from transformers_groma import GromaConfig, GromaForConditionalGeneration
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.training.trainable import eval_frozen_parts, set_trainable_parts

REPOSITORY = Path(__file__).parents[1]
TEXT_LENGTH = 128
ANSWER_LENGTH = 64
GROUND_BOXES = 4


def tiny_config() -> GromaConfig:
    """groma-tiny's configuration, as its builder makes it."""
    sys.path.append(str(REPOSITORY))
    from scripts.groma_tiny.build import build_config, build_tokenizer

    return build_config(build_tokenizer())


def eighth_config(num_feature_levels: int = 1) -> GromaConfig:
    """Groma-7B with widths and heads divided by 8."""
    return GromaConfig(
        vision_config={
            "model_type": "dinov2",
            "hidden_size": 128,
            "num_hidden_layers": 24,
            "num_attention_heads": 2,
            "image_size": 448,
            "patch_size": 14,
        },
        proposer_config={
            "d_model": 32,
            "num_feature_levels": num_feature_levels,
            "encoder_attention_heads": 1,
            "decoder_attention_heads": 1,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "bbox_head_hidden_size": 32,
        },
        region_encoder_config={"group_norm_groups": 8, "position_hidden_size": 32, "region_hidden_size": 128},
        text_config={
            "model_type": "llama",
            "vocab_size": 32114,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 32,
            "num_attention_heads": 4,
        },
    )


def build_model(config: GromaConfig) -> GromaForConditionalGeneration:
    """A random model set up for stage 3, whose proposals fill all slots."""
    torch.manual_seed(0)
    config.box_score_threshold, config.nms_threshold = 0.0, 1.0
    model = GromaForConditionalGeneration(config)
    with torch.no_grad():
        # A fresh proposer corrects nothing: its boxes would be the grid's.
        for head in model.model.region_proposer.bbox_embed:
            head.layers[-1].weight.normal_(std=0.05)
    set_trainable_parts(model, ["region_encoder", "projector", "language_model"])
    model.train()
    eval_frozen_parts(model)
    return model


def make_batch(config: GromaConfig, batch_size: int) -> dict[str, Tensor]:
    """Noise for images, random words for text, the last of them an answer."""
    generator = torch.Generator().manual_seed(0)
    size = config.vision_config.image_size
    slots = [
        token
        for slot in range(config.max_regions)
        for token in (config.first_proxy_token_id + slot, config.image_token_id)
    ]
    head = torch.tensor([1, *[config.image_token_id] * config.num_image_tokens, *slots]).expand(batch_size, -1)
    text = torch.randint(3, 259, (batch_size, TEXT_LENGTH), generator=generator)
    input_ids = torch.cat([head, text], dim=1)
    labels = input_ids.clone()
    labels[:, :-ANSWER_LENGTH] = IGNORED_LABEL
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(batch_size, 3, size, size, generator=generator),
        "ground_boxes": 0.3 + 0.4 * torch.rand(batch_size, GROUND_BOXES, 4, generator=generator),
        "labels": labels,
    }


def compare(config: GromaConfig, batch_size: int, rounds: int) -> dict[str, float]:
    """Seconds of a step with and without precomputed regions, and of the proposer alone."""
    model = build_model(config)
    batch = make_batch(config, batch_size)
    parts = model.model
    with torch.no_grad():
        vision, proposals = parts.detect(batch["pixel_values"])
        feature_map = parts.proposer_feature_map(vision.hidden_states)
    given = {"proposal_boxes": proposals.pred_boxes, "proposal_scores": proposals.scores}

    def step(**more: Tensor) -> Tensor:
        torch.manual_seed(0)
        model.zero_grad()
        loss = model(**batch, **more).loss
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def proposer() -> Tensor:
        return parts.region_proposer(feature_map).pred_boxes

    # What is compared computes the same. This also warms up.
    torch.testing.assert_close(step(**given), step())
    ways = {"on_the_fly": step, "precomputed": lambda: step(**given), "proposer": proposer}
    return seconds_of(ways, rounds, warm_up=False)


# Configuration and batch size.
CASES: dict[str, tuple[Callable[[], GromaConfig], int]] = {
    "groma_tiny": (tiny_config, 8),
    "eighth": (eighth_config, 1),
    "eighth_4_levels": (lambda: eighth_config(num_feature_levels=4), 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    ratios, seconds = {}, {}
    for name in arguments.cases:
        make_config, batch_size = CASES[name]
        found = compare(make_config(), batch_size, arguments.rounds)
        seconds.update({f"{name}_{part}": value for part, value in found.items()})
        ratios[name] = found["on_the_fly"] / found["precomputed"]
        ratios[f"{name}_expected"] = found["on_the_fly"] / (found["on_the_fly"] - found["proposer"])
        print(f"{name}, batch of {batch_size}, best of {arguments.rounds} rounds")
        for part, value in found.items():
            print(f"  {part:12s} {1000 * value:9.1f} ms")
        print(
            f"  on the fly / precomputed: {ratios[name]:.3f}x measured, {ratios[f'{name}_expected']:.3f}x expected",
            flush=True,
        )
    print_result("precomputed_regions", ratios, seconds)


if __name__ == "__main__":
    main()
