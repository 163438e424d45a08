"""Times a full-size Groma-7B with random bfloat16 weights.

Perceive (pixels to region tokens) with and without the kernels; prefill and seconds a token at batch 1, 8 and 32;
one training step of stage 1 and one of stage 3 with LoRA. Memory is the peak of each, weights included.
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

# By whether sizes are tiny: seconds of each measurement, and tokens of an answer.
SECONDS = {True: 0.02, False: 1.0}
TOKENS = {True: 4, False: 32}


def build_model(device: str, small: bool, **language_model: int) -> GromaForConditionalGeneration:
    """A model of random weights in the dtypes of a released one: the detector in float32, the others in bfloat16."""
    if small:
        config = tiny_config()
    else:
        text = {"model_type": "llama", **language_model}
        config = GromaConfig(box_score_threshold=0.0, nms_threshold=1.0, text_config=text)
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
    """Eager, with and without the kernels."""
    with torch.inference_mode():
        for batch in [1] if small else [1, 8]:
            inputs = [pixels_of(model, batch, device) for _ in range(3)]
            use_kernels("reference")
            reference = median_ms(perceive(model), inputs, device, SECONDS[small])
            sources = use_kernels("local", BUILT)
            kernels = median_ms(perceive(model), inputs, device, SECONDS[small])
            memory = peak_memory_gb(device, lambda inputs=inputs: perceive(model)(inputs[0]))
            results.add(
                f"perceive, batch {batch}",
                **{"ms": kernels, "without kernels ms": reference, "over torch": reference / kernels},
                **{"peak GB": memory, "kernels": ", ".join(sorted(set(sources.values())))},
            )


def perceive(model: GromaForConditionalGeneration) -> Callable[[torch.Tensor], object]:
    return lambda pixels: model.get_image_features(pixels, return_dict=True)


def prompt(
    model: GromaForConditionalGeneration, batch: int, device: str, question: int = 3
) -> dict[str, torch.Tensor]:
    """A batch of prompts about images of noise."""
    ids = torch.tensor([prompt_ids(model.config, question=(7,) * question)] * batch, device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels_of(model, batch, device)}


def seconds_of(model: GromaForConditionalGeneration, inputs: dict, new_tokens: int, device: str, **kwargs) -> float:
    """Seconds of an answer of exactly this many tokens."""
    synchronize(device)
    start = time.perf_counter()
    lengths = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
    model.generate(**inputs, **lengths, do_sample=False, pad_token_id=0, **kwargs)
    synchronize(device)
    return time.perf_counter() - start


def measure_generation(model: GromaForConditionalGeneration, results: Results, device: str, small: bool) -> None:
    """The first token, image included, and what each further one takes."""
    for batch in [1, 2] if small else [1, 8, 32]:
        inputs, tokens = prompt(model, batch, device), TOKENS[small]
        seconds_of(model, inputs, 2, device)
        first = seconds_of(model, inputs, 1, device)
        whole = seconds_of(model, inputs, 1 + tokens, device)
        memory = peak_memory_gb(device, lambda i=inputs, t=tokens: seconds_of(model, i, 1 + t, device))
        results.add(
            f"generate, batch {batch}",
            **{"first token s": first, "s per token": (whole - first) / tokens},
            **{"tokens/s": batch * tokens / (whole - first), "peak GB": memory},
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
    """LoRA of rank 16 on the language model's attention, activations checkpointed. The model is left unchanged."""
    from peft import LoraConfig, get_peft_model

    batch = 2
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules=r".*language_model.*\.(q_proj|v_proj)")).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    adapted.enable_input_require_grads()
    inputs = prompt(model, batch, device, question=64)
    seconds, memory = training_step(adapted, lambda: adapted(**inputs, labels=inputs["input_ids"]).loss, device)
    results.add(f"LoRA step of stage 3, batch {batch}", **{"s": seconds, "peak GB": memory})
    adapted.unload()
    model.gradient_checkpointing_disable()
    model.eval()


def run_parts(parts: dict[str, Callable[[], None]], device: str) -> None:
    """Measure one part after the other; what one cannot do says nothing of the others."""
    failed = []
    for name, measure in parts.items():
        try:
            measure()
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            failed.append(name)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def main() -> None:
    results, device, small = step_arguments(__doc__)
    torch.manual_seed(0)
    build_kernels(device)
    model = build_model(device, small)
    results.add("model", **{"parameters B": sum(p.numel() for p in model.parameters()) / 1e9})
    parts = {
        "perceive": lambda: measure_perceive(model, results, device, small),
        "generation": lambda: measure_generation(model, results, device, small),
        "stage 1": lambda: measure_stage_1(results, device, small),
        "stage 3": lambda: measure_stage_3(model, results, device),
    }
    run_parts(parts, device)


if __name__ == "__main__":
    main()
