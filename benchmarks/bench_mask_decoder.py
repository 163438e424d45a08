"""Benchmark: what the masks of an answer cost, beside the answer itself.

    python benchmarks/bench_mask_decoder.py [--regions 10] [--new-tokens 64] [--rounds 2] [--threads 2]

Full vision size (DINOv2-L, 448 pixels, 100 regions) and a mask decoder of SAM's size (width 256, masks of 224), a
language model of 0.3 billion parameters, all of random weights: a small language model makes the masks' share large.
An answer of `--new-tokens` tokens to one image is generated; then the masks of `--regions` regions are decoded from
the features that are there, and enlarged to the image. Nothing of the image is computed again.

The ratio is the time of the answer with its masks to the time of the answer alone, in this run on this machine.
"""

import argparse

import torch
from measuring import print_result, seconds_of

from transformers_groma import GromaConfig, GromaForConditionalGeneration
from transformers_groma.masks import masks_of_logits
from transformers_groma.models.groma.configuration_groma import GromaMaskDecoderConfig

IMAGE_SIZE = (768, 1024)  # height and width of the upright image that masks are enlarged to


def build_model() -> GromaForConditionalGeneration:
    """Full-size vision with a mask decoder and a language model of 0.3 billion parameters, random weights."""
    torch.manual_seed(0)
    text_config = {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 4000,
    }
    config = GromaConfig(
        text_config=text_config,
        mask_decoder_config=GromaMaskDecoderConfig(),
        nms_threshold=1.0,
        box_score_threshold=0.0,
    )
    return GromaForConditionalGeneration(config).eval()


def prompt_ids(config: GromaConfig, question: int = 24) -> torch.Tensor:
    """A prompt about an image: image tokens, all region slots, and a question of this many tokens."""
    slots = [
        token
        for slot in range(config.max_regions)
        for token in (config.first_proxy_token_id + slot, config.image_token_id)
    ]
    return torch.tensor([[1, *[config.image_token_id] * config.num_image_tokens, *slots, *[7] * question]])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model = build_model()
    pixels, ids = torch.randn(1, 3, 448, 448), prompt_ids(model.config)
    settings = {"max_new_tokens": arguments.new_tokens, "min_new_tokens": arguments.new_tokens, "do_sample": False}
    features = model.get_image_features(pixels)
    slots = torch.arange(arguments.regions)[None]

    def masks() -> None:
        logits = model.segment(features, slots=slots).logits
        masks_of_logits(logits[0, :, 0], *IMAGE_SIZE)

    seconds = seconds_of(
        {
            "perceive": lambda: model.get_image_features(pixels),
            "answer": lambda: model.generate(
                ids, mm_encoder_outputs={"image": model.get_image_features(pixels)}, **settings
            ),
            "mask_embedding": lambda: model.mask_embedding(features),
            "masks": masks,
        },
        arguments.rounds,
    )
    ratios = {"answer_with_masks_over_answer": (seconds["answer"] + seconds["masks"]) / seconds["answer"]}
    decoder = sum(weight.numel() for weight in model.model.mask_decoder.parameters())
    print(f"mask decoder: {decoder / 1e6:.1f} million parameters; {arguments.regions} regions")
    for name, value in seconds.items():
        print(f"{name:16s} {value:7.2f} s")
    print(f"masks take {seconds['masks'] / seconds['answer']:.1%} of the answer's time")
    print_result("mask_decoder", ratios, seconds)


if __name__ == "__main__":
    main()
