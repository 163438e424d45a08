"""Times a full-size Groma-7B of random bfloat16 weights, made on the card.

Perceive (pixels to region tokens) with and without the kernels, eager and compiled; prefill and seconds a token for batches of 1, 8
and 32; one training step of stage 1 and one of stage 3 with LoRA. Memory is the peak of each, weights included.
"""

import gc
import time
from collections.abc import Callable

import torch
from build import BUILT, build_kernel
from step import Results, median_ms, peak_memory_gb, step_arguments, synchronize

from tests.tiny import prompt_ids, spread_proposals, tiny_config, tiny_detector_config
from transformers_groma import (
    GromaConfig,
    GromaForConditionalGeneration,
    GromaForRegionProposal,
    GromaRegionProposalConfig,
    use_kernels,
)


def build_model(device: str, small: bool) -> GromaForConditionalGeneration:
    """Random weights in the dtypes of a released model: the language model in bfloat16, what finds regions in float32."""
    config = tiny_config() if small else GromaConfig(box_score_threshold=0.0, nms_threshold=1.0)
    with torch.device(device):
        model = GromaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.model.vision_tower.float()
    model.model.region_proposer.float()
    spread_proposals(model.model.region_proposer)
    return model.eval()


def build_kernels(device: str) -> None:
    """Kernels of this checkout, built by the step before; built here if that did not happen."""
    for name in ("ms-deform-attn", "roi-align"):
        build_kernel(name, device)


def pixels_of(model: torch.nn.Module, batch: int, device: str) -> torch.Tensor:
    size = model.config.vision_config.image_size
    return torch.randn(batch, 3, size, size, device=device)


def measure_perceive(model: GromaForConditionalGeneration, results: Results, device: str, small: bool) -> None:
    """Eager with and without the kernels, then compiled; each ratio is to eager with the kernels."""
    batches = [1] if small else [1, 8]
    seconds = 0.02 if small else 1.0
    with torch.inference_mode():
        for batch in batches:
            inputs = [pixels_of(model, batch, device) for _ in range(3)]

            def eager(pixels: torch.Tensor) -> object:
                return model.get_image_features(pixels, return_dict=True)

            use_kernels("reference")
            reference = median_ms(eager, inputs, device, seconds)
            sources = use_kernels("local", BUILT)
            kernels = median_ms(eager, inputs, device, seconds)
            memory = peak_memory_gb(device, lambda inputs=inputs: eager(inputs[0]))
            results.add(
                f"perceive, batch {batch}",
                **{"ms": kernels, "without kernels ms": reference, "over torch": reference / kernels},
                **{"peak GB": memory, "kernels": ", ".join(sorted(set(sources.values())))},
            )
            # At tiny size only the way there is tried: compiling for real takes longer than all the rest.
            compiled = torch.compile(eager, backend="eager" if small else "inductor")
            start = time.perf_counter()
            compiled(inputs[0])
            synchronize(device)
            first = time.perf_counter() - start
            fast = median_ms(compiled, inputs, device, seconds)
            results.add(
                f"perceive compiled, batch {batch}",
                **{"ms": fast, "compiled over eager": kernels / fast, "first call s": first},
            )


def measure_generation(model: GromaForConditionalGeneration, results: Results, device: str, small: bool) -> None:
    """Prefill (image included), and seconds a token with a dynamic and with a compiled static cache."""
    batches, tokens = ([1, 2], 4) if small else ([1, 8, 32], 32)
    for batch in batches:
        ids = torch.tensor([prompt_ids(model.config)] * batch, device=device)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels_of(model, batch, device),
        }

        def seconds_of(new_tokens: int, inputs=inputs, **kwargs) -> float:
            synchronize(device)
            start = time.perf_counter()
            model.generate(
                **inputs,
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
                **kwargs,
            )
            synchronize(device)
            return time.perf_counter() - start

        seconds_of(2)
        first, all_tokens = seconds_of(1), seconds_of(1 + tokens)
        memory = peak_memory_gb(device, lambda seconds_of=seconds_of: seconds_of(1 + tokens))
        results.add(
            f"generate, batch {batch}",
            **{"first token s": first, "s per token": (all_tokens - first) / tokens},
            **{"tokens/s": batch * tokens / (all_tokens - first), "peak GB": memory},
        )
        if batch == 1:
            # On a GPU, the library compiles the decoding step for a static cache.
            static = {"cache_implementation": "static"}
            start = time.perf_counter()
            seconds_of(1 + tokens, **static)
            compile_seconds = time.perf_counter() - start
            compiled = seconds_of(1 + tokens, **static) - seconds_of(1, **static)
            eager = all_tokens - first
            results.add(
                "decoding with a static cache, batch 1",
                **{
                    "s per token": compiled / tokens,
                    "compiled over eager": eager / compiled,
                    "first call s": compile_seconds,
                },
            )


def training_step(
    model: torch.nn.Module, forward: Callable[[], torch.Tensor], device: str
) -> tuple[float, float | None]:
    """Seconds of a step of AdamW with its backward, after a first one that warms up, and the peak memory."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step() -> None:
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    start = time.perf_counter()
    memory = peak_memory_gb(device, step)
    synchronize(device)
    return time.perf_counter() - start, memory


def measure_stage_1(results: Results, device: str, small: bool) -> None:
    config = tiny_detector_config() if small else GromaRegionProposalConfig()
    batch = 2
    with torch.device(device):
        model = GromaForRegionProposal._from_config(config, dtype=torch.float32).train()
    model.vision_tower.requires_grad_(False)
    labels = [{"boxes": torch.rand(20, 4, device=device) * 0.4 + 0.2, "source": "coco"} for _ in range(batch)]
    pixels = pixels_of(model, batch, device)
    seconds, memory = training_step(model, lambda: model(pixels, labels=labels).loss, device)
    results.add(f"training step of stage 1, batch {batch}", **{"s": seconds, "peak GB": memory})


def measure_stage_3(model: GromaForConditionalGeneration, results: Results, device: str) -> None:
    """LoRA of rank 16 on the language model's attention, activations checkpointed."""
    from peft import LoraConfig, get_peft_model

    batch = 2
    model = get_peft_model(model, LoraConfig(r=16, target_modules=r".*language_model.*\.(q_proj|v_proj)")).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    config = model.get_base_model().config
    ids = torch.tensor([prompt_ids(config, question=tuple([7] * 64))] * batch, device=device)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels_of(model, batch, device),
    }
    seconds, memory = training_step(model, lambda: model(**inputs, labels=ids).loss, device)
    results.add(f"LoRA step of stage 3, batch {batch}", **{"s": seconds, "peak GB": memory})


def main() -> None:
    results, device, small = step_arguments(__doc__)
    torch.manual_seed(0)
    build_kernels(device)
    model = build_model(device, small)
    results.add("model", **{"parameters B": sum(p.numel() for p in model.parameters()) / 1e9})
    failed = []
    for name, measure in (
        ("perceive", lambda: measure_perceive(model, results, device, small)),
        ("generation", lambda: measure_generation(model, results, device, small)),
        ("stage 1", lambda: measure_stage_1(results, device, small)),
        ("stage 3", lambda: measure_stage_3(model, results, device)),
    ):
        try:
            measure()
        except Exception as error:  # what one part cannot do says nothing of the others
            print(f"{name}: {type(error).__name__}: {error}")
            failed.append(name)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
