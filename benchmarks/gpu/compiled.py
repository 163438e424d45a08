"""Times what makes a full-size model faster without changing it: TF32, compiled blocks, a compiled decoding step.

The vision part has its full size and random weights; the language model is cut to a few layers, since nothing here but
the decoding step runs it. Blocks that repeat are compiled once each: compiling all of perceive as one graph took more
than a minute on the machine of an H200, and was never waited for.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from build import BUILT
from full_model import (
    SECONDS,
    TOKENS,
    build_kernels,
    build_model,
    perceive,
    pixels_of,
    prompt,
    run_parts,
    seconds_of,
)
from step import Results, median_ms, step_arguments, synchronize

from transformers_groma import GromaForConditionalGeneration, GromaProcessor, use_kernels
from transformers_groma.shapes.scenes import make_scene

LANGUAGE_LAYERS = 8
REPOSITORY = Path(__file__).resolve().parents[2]
# Images on which the small trained model selects regions with and without TF32, by whether sizes are tiny.
SCENES = {True: 2, False: 32}
# What repeats in the vision part, or is one block of convolutions.
BLOCKS = ("Dinov2Layer", "DeformableDetrEncoderLayer", "DeformableDetrDecoderLayer", "GromaRegionEncoder")


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """`highest`: matrix products in float32; `high`: in TF32 where the card has it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def largest_change(model: GromaForConditionalGeneration, pixels: torch.Tensor) -> tuple[float, float]:
    """What TF32 changes: the share of images with other regions, and the most that a box moved in the others."""
    with torch.inference_mode():
        with matmul_precision("highest"):
            exact = model.propose_regions(pixels)
        with matmul_precision("high"):
            fast = model.propose_regions(pixels)
    # A region that changed places with another of nearly the same score is still the same region.
    moved = []
    for mask, boxes, other_mask, other_boxes in zip(exact.mask, exact.boxes, fast.mask, fast.boxes, strict=True):
        ours, theirs = boxes[mask], other_boxes[other_mask]
        same_number = len(ours) == len(theirs) and len(ours) > 0
        moved.append(torch.cdist(ours, theirs, p=torch.inf).min(1).values.max() if same_number else None)
    distances = [float(m) for m in moved if m is not None]
    other = sum(m is None or m > 0.02 for m in moved) / len(moved)
    return other, max((d for d in distances if d <= 0.02), default=0.0)


def measure_tf32(model: GromaForConditionalGeneration, results: Results, device: str, small: bool) -> None:
    """Perceive with float32 matrix products and with TF32 ones."""
    with torch.inference_mode():
        for batch in [1] if small else [1, 8]:
            inputs = [pixels_of(model, batch, device) for _ in range(3)]
            with matmul_precision("highest"):
                exact = median_ms(perceive(model), inputs, device, SECONDS[small] / 2)
            with matmul_precision("high"):
                fast = median_ms(perceive(model), inputs, device, SECONDS[small] / 2)
            results.add(
                f"perceive with TF32, batch {batch}",
                **{"ms": fast, "float32 ms": exact, "over float32": exact / fast},
            )


def measure_tf32_regions(results: Results, device: str, small: bool) -> None:
    """Whether TF32 selects other regions: the small trained model on scenes it knows how to read."""
    folder = REPOSITORY / "hub_configs" / "groma-tiny"
    model = GromaForConditionalGeneration.from_pretrained(folder).eval().to(device)
    processor = GromaProcessor.from_pretrained(folder)
    scenes = [make_scene(0, "test", number, model.config.vision_config.image_size) for number in range(SCENES[small])]
    pixels = processor.image_processor([scene.draw() for scene in scenes], return_tensors="pt")["pixel_values"]
    other, moved = largest_change(model, pixels.to(device))
    results.add(
        f"groma-tiny on {len(scenes)} scenes, TF32 against float32",
        **{"share of images with other regions": float(other), "largest move of a box": moved},
    )


def first_call(function: Callable[[torch.Tensor], object], item: torch.Tensor, device: str) -> float:
    """Seconds of the call that compiles."""
    start = time.perf_counter()
    function(item)
    synchronize(device)
    return time.perf_counter() - start


def measure_compiled_blocks(
    model: GromaForConditionalGeneration, results: Results, device: str, small: bool, precision: str
) -> None:
    """The repeated blocks compiled: each kind takes seconds, once for all of its layers."""
    batch = 1 if small else 8
    blocks = [module for module in model.modules() if type(module).__name__ in BLOCKS]
    inputs = [pixels_of(model, batch, device) for _ in range(3)]
    torch.compiler.reset()  # the precision is compiled in
    with torch.inference_mode(), matmul_precision(precision):
        for block in blocks:
            # At tiny size only the way there is tried: compiling for real takes longer than all the rest.
            block.compile(backend="eager" if small else "inductor", dynamic=False)
        first = first_call(perceive(model), inputs[0], device)
        fast = median_ms(perceive(model), inputs, device, SECONDS[small] / 2)
        for block in blocks:
            block._compiled_call_impl = None  # eager again
        eager = median_ms(perceive(model), inputs, device, SECONDS[small] / 2)
    results.add(
        f"perceive, blocks compiled, {'TF32' if precision == 'high' else 'float32'}, batch {batch}",
        **{"ms": fast, "eager ms": eager, "compiled over eager": eager / fast, "first call s": first},
    )


def measure_compiled_decoding(
    model: GromaForConditionalGeneration, results: Results, device: str, small: bool
) -> None:
    """With a static cache, for which the library compiles the decoding step on a GPU, against a dynamic one."""
    inputs, tokens = prompt(model, 1, device), TOKENS[small]

    def decoding(**kwargs) -> float:
        return seconds_of(model, inputs, 1 + tokens, device, **kwargs) - seconds_of(model, inputs, 1, device, **kwargs)

    decoding()
    eager = decoding()
    start = time.perf_counter()
    decoding(cache_implementation="static")
    first = time.perf_counter() - start
    compiled = decoding(cache_implementation="static")
    layers = model.config.text_config.num_hidden_layers
    results.add(
        f"decoding with a static cache, {layers} layers, batch 1",
        **{"s per token": compiled / tokens, "eager s per token": eager / tokens},
        **{"compiled over eager": eager / compiled, "first answers s": first},
    )


def main() -> None:
    results, device, small = step_arguments(__doc__)
    torch.manual_seed(0)
    build_kernels(device)
    use_kernels("local", BUILT)
    model = build_model(device, small, num_hidden_layers=LANGUAGE_LAYERS)

    def blocks(precision: str) -> None:
        measure_compiled_blocks(model, results, device, small, precision)

    parts = {
        "compiled blocks with TF32": lambda: blocks("high"),
        "compiled decoding": lambda: measure_compiled_decoding(model, results, device, small),
        "TF32": lambda: measure_tf32(model, results, device, small),
        "regions with TF32": lambda: measure_tf32_regions(results, device, small),
        "compiled blocks": lambda: blocks("highest"),
    }
    run_parts(parts, device)


if __name__ == "__main__":
    main()
