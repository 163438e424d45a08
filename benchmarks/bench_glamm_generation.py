"""Benchmark: what masks cost a GLaMM while it writes, on a random model of middle size.

    python benchmarks/bench_glamm_generation.py [--new-tokens 64] [--every 8] [--batch-sizes 1 8] [--threads 2]
                                                [--repeats 5] [--small]

Four generations of the same tokens for the same images, which were looked at before; every n-th token is a [SEG]. They
take turns, and the fastest rounds count. Seconds are CPU time of all threads, which other programs on the machine
change little. The ratios are seconds of one over seconds of another:

- "states gathered": with the states of the [SEG] tokens in the output / without them. This is what masks cost in the
  loop, and may be 1.10 at most;
- "masks, decoder apart": with masks, less the seconds that the grounding encoder and the mask decoder need for these
  states by themselves / without masks. 1.10 at most, too;
- "against the language model": without masks / the language model alone in transformers, with as many embeddings.

And seconds of the decoder: a mask of an image that was encoded before, and the first mask of an image. Then it is
checked, not measured, that a chat without masks never runs the grounding encoder, and that a follow-up question about
an image runs no encoder at all. The last line is JSON.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import print_result
from torch import Tensor
from transformers import LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

from transformers_groma.models.glamm.configuration_glamm import GlammConfig
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration

LIMIT = 1.10
QUESTION_TOKENS = 40
# 336 pixels and 576 image tokens as in the released models, everything else narrower.
MIDDLE = {
    "vision_config": {
        **{"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8},
        **{"image_size": 336, "patch_size": 14},
    },
    "text_config": {
        **{"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 10, "num_attention_heads": 12},
        **{"vocab_size": 8000, "max_position_embeddings": 2048},
    },
    "grounding_config": {
        **{"hidden_size": 128, "mlp_dim": 512, "num_hidden_layers": 4, "num_attention_heads": 4},
        **{"global_attn_indexes": [1, 3], "image_size": 512, "output_channels": 256},
    },
    "region_encoder_config": {"region_hidden_size": 128},
}
# A moment's work, to test this script.
SMALL = {
    "vision_config": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 12, "num_attention_heads": 2},
        **{"image_size": 56, "patch_size": 14},
    },
    "text_config": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"vocab_size": 100, "max_position_embeddings": 512},
    },
    "grounding_config": {
        **{"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "window_size": 3},
        **{"global_attn_indexes": [1], "image_size": 64, "patch_size": 8, "output_channels": 32, "num_pos_feats": 16},
    },
    "region_encoder_config": {"region_hidden_size": 16, "group_norm_groups": 4},
    "mask_decoder_config": {
        **{"hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 32, "iou_head_hidden_dim": 16},
        **{"mask_input_channels": 8, "use_skip_maps": False},
    },
}


class ForcedTokens(LogitsProcessor):
    """Makes every row say one token again and again, and `[SEG]` every n-th time.

    Args:
        prompt_length (`int`): tokens before the first new one.
        every (`int`): n; 0 for no `[SEG]`.
        seg_token_id (`int`): id of `[SEG]`.
    """

    def __init__(self, prompt_length: int, every: int, seg_token_id: int) -> None:
        self.prompt_length, self.every, self.seg_token_id = prompt_length, every, seg_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids.shape[1] - self.prompt_length + 1
        forced = self.seg_token_id if self.every and new % self.every == 0 else 7
        scores[:] = -torch.inf
        scores[:, forced] = 0
        return scores


class Generations:
    """The generations that are compared, of one batch of images.

    Args:
        model (`GlammForConditionalGeneration`): the model.
        batch_size (`int`): how many images.
        new_tokens (`int`), every (`int`): how many tokens are written, and which of them are `[SEG]`.
    """

    def __init__(self, model: GlammForConditionalGeneration, batch_size: int, new_tokens: int, every: int) -> None:
        self.model, self.every = model, every
        config = model.config
        side, grounding_side = config.vision_config.image_size, config.grounding_image_size
        generator = torch.Generator().manual_seed(0)
        prompt = [1, *[config.image_token_id] * config.num_image_tokens, *[9] * QUESTION_TOKENS]
        self.input_ids = torch.tensor([prompt] * batch_size)
        self.views = {
            "pixel_values": torch.randn(batch_size, 3, side, side, generator=generator),
            "grounding_pixel_values": torch.randn(batch_size, 3, grounding_side, grounding_side, generator=generator),
            "grounding_sizes": torch.tensor([[grounding_side * 3 // 4, grounding_side]] * batch_size),
        }
        self.options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        self.language_model = LlamaForCausalLM(config.text_config).eval()
        self.language_model.model, self.language_model.lm_head = model.model.language_model, model.lm_head
        self.embeds = model.get_input_embeddings()(self.input_ids)

    def look(self) -> Any:
        """What the model sees of the images; the grounding encoder has not run."""
        return self.model.get_image_features(**self.views, return_dict=True)

    def generate(self, features: Any, **kwargs: Any) -> Any:
        forced = ForcedTokens(self.input_ids.shape[1], self.every, self.model.config.seg_token_id)
        return self.model.generate(
            self.input_ids,
            mm_encoder_outputs={"image": features},
            logits_processor=LogitsProcessorList([forced]),
            **self.options,
            **kwargs,
        )

    def plain(self, features: Any) -> Tensor:
        """Only the tokens."""
        return self.generate(features)

    def with_states(self, features: Any) -> Any:
        """The tokens, and the states of `[SEG]`."""
        return self.generate(features, return_dict_in_generate=True, decode_masks=False)

    def with_masks(self, features: Any) -> Any:
        """The tokens and the masks."""
        return self.generate(features, return_dict_in_generate=True)

    def language_model_alone(self, features: Any) -> Tensor:
        """The same tokens of the language model by itself; it reads embeddings, and so returns only what is new."""
        forced = ForcedTokens(0, self.every, self.model.config.seg_token_id)
        return self.language_model.generate(
            inputs_embeds=self.embeds, logits_processor=LogitsProcessorList([forced]), **self.options
        )


def seconds_of(function: Callable[..., Any], *args: Any) -> float:
    start = time.process_time()
    function(*args)
    return time.process_time() - start


@torch.inference_mode()
def compare(generations: Generations, repeats: int) -> dict[str, float]:
    """CPU seconds of the fastest round of each generation, and of the decoder by itself."""
    kinds = {
        "language model alone": generations.language_model_alone,
        "without masks": generations.plain,
        "states gathered": generations.with_states,
        "with masks": generations.with_masks,
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*kinds, "first decoding", "next decoding")}
    states = generations.with_states(generations.look()).segment_states  # warms up, too
    wanted = generations.options["max_new_tokens"] // generations.every * len(states)
    assert sum(map(len, states)) == wanted, f"{sum(map(len, states))} states of [SEG] instead of {wanted}"
    index = list(range(len(states)))
    for _ in range(repeats):
        for name, generate in kinds.items():
            features = generations.look()  # fresh, so that masks run the grounding encoder
            seconds[name].append(seconds_of(generate, features))
        features = generations.look()
        for name in ("first decoding", "next decoding"):
            seconds[name].append(seconds_of(generations.model.decode_segments, features, states, index))
    return {name: min(values) for name, values in seconds.items()}


def ratios_of(seconds: dict[str, float]) -> dict[str, float]:
    """The ratios that the docstring of this file explains."""
    plain = seconds["without masks"]
    return {
        "states gathered": seconds["states gathered"] / plain,
        "masks, decoder apart": (seconds["with masks"] - seconds["first decoding"]) / plain,
        "against the language model": plain / seconds["language model alone"],
    }


@torch.inference_mode()
def check_laziness(model: GlammForConditionalGeneration, new_tokens: int, every: int) -> None:
    """A chat without masks runs no grounding encoder; a follow-up question encodes nothing again.

    Raises:
        AssertionError: an encoder ran.
    """
    ran: list[str] = []
    handles = [
        model.model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name in ("vision_tower", "grounding_encoder")
    ]
    quiet, masked = Generations(model, 1, new_tokens, 0), Generations(model, 1, new_tokens, every)
    features = quiet.look()
    quiet.with_masks(features)
    assert ran == ["vision_tower"], f"a chat without masks ran {ran}"
    masked.with_masks(features)
    assert ran == ["vision_tower", "grounding_encoder"], f"the first masks ran {ran}"
    masked.with_masks(features)
    assert len(ran) == 2, f"a follow-up question ran {ran[2:]}"
    for handle in handles:
        handle.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--every", type=int, default=8, help="every n-th token is a [SEG]")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a very small model, whose ratios mean nothing")
    arguments = parser.parse_args()
    if not 1 <= arguments.every <= arguments.new_tokens:
        parser.error("--every must be from 1 to --new-tokens")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = GlammForConditionalGeneration(GlammConfig(**(SMALL if arguments.small else MIDDLE))).eval()
    check_laziness(model, arguments.every, arguments.every)
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(
        f"a random GLaMM of {millions:.0f} million parameters, {arguments.threads} threads, {arguments.new_tokens} "
        "new tokens"
    )
    ratios, seconds = {}, {}
    for batch_size in arguments.batch_sizes:
        of_batch = compare(Generations(model, batch_size, arguments.new_tokens, arguments.every), arguments.repeats)
        found = ratios_of(of_batch)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in of_batch.items())
        print(f"batch of {batch_size}, CPU seconds: {shown}")
        for name, value in found.items():
            limit = "" if name == "against the language model" else f" (at most {LIMIT:.2f})"
            print(f"  {name:28s} {value:5.2f}x{limit}")
        seconds |= {f"{name}, batch {batch_size}": value for name, value in of_batch.items()}
        ratios |= {f"{name}, batch {batch_size}": value for name, value in found.items()}
    print("a chat without masks ran no grounding encoder; a follow-up question ran no encoder")
    print_result("glamm_generation", ratios, seconds)


if __name__ == "__main__":
    main()
