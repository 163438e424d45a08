"""Benchmark: the compiled kernels against torch, alone and in the full-size vision parts.

    python benchmarks/bench_kernels.py [--skip-perceive] [--dtype auto|float32|bfloat16] [--rounds 2]

Operators: seconds of `grid_sample` (and pooling) in torch / seconds of the kernel, by each kernel's own benchmark.

Perceive: vision encoder, region proposer and region encoder of one 448x448 image at full size (DINOv2-L, 300 queries,
100 regions, random weights). Ours: kernels, channels-last maps, `--dtype`. The baseline: float32, NCHW, plain torch
operators, the original's region encoder written down plainly. The floor: the operations of our matrix products and
convolutions / the matrix product rate measured in this run for the same dtype. `auto` takes bfloat16 where this
machine multiplies it faster than float32.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import print_result
from plain_region_encoder import PlainRegionEncoder
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from transformers_groma import GromaConfig, use_kernels
from transformers_groma.boxes import box_cxcywh_to_xyxy
from transformers_groma.models.groma.modeling_groma import GromaModel

KERNELS = Path(__file__).parents[1] / "kernels"
PARTS = (
    "vision encoder",
    "region proposer",
    "region encoder: maps",
    "region encoder: ROIAlign",
    "region encoder: crops",
)


def build_model() -> GromaModel:
    """Full-size vision and a language model of one small layer, random weights, all 100 slots in use."""
    torch.manual_seed(0)
    text_config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "vocab_size": 400,
    }
    config = GromaConfig(text_config=text_config, nms_threshold=1.0, box_score_threshold=0.0)
    with torch.no_grad():
        model = GromaModel(config).eval()
        # A fresh proposer corrects nothing: its 300 boxes would be the grid's.
        for head in model.region_proposer.bbox_embed:
            head.layers[-1].weight.normal_(std=0.05)
    return model


class Timer:
    """Seconds of named parts, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = function()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result


def perceive_in_parts(model: GromaModel, pixels: Tensor, plain: bool) -> dict[str, float]:
    """Seconds of each part, one after the other as in `get_image_features`."""
    timer = Timer()
    vision = timer(
        PARTS[0], lambda: model.vision_tower(pixels.to(model.vision_tower.dtype), output_hidden_states=True)
    )
    maps = [model.feature_map(vision.hidden_states[index]) for index in (-3, -2, -1)]
    feature_map = model.proposer_feature_map(vision.hidden_states)
    proposals = timer(PARTS[1], lambda: model.region_proposer(feature_map))
    selection = timer(PARTS[1], lambda: model.select_regions(proposals))
    encoder = model.region_encoder
    if plain:
        baseline = PlainRegionEncoder(encoder)
        fused = timer(PARTS[2], lambda: baseline.fuse(maps))
        crops = timer(PARTS[3], lambda: baseline.crop(fused, selection.boxes))
        timer(PARTS[4], lambda: baseline.encode(crops, selection.boxes))
        return timer.seconds
    fused = timer(PARTS[2], lambda: encoder.fuse_feature_maps(maps))
    corners = box_cxcywh_to_xyxy(selection.boxes) * encoder.image_size
    scales = [1 / stride for stride in encoder.config.roi_strides]
    crops = timer(PARTS[3], lambda: encoder.roi_align(fused, corners, scales, 14, 2, selection.mask))
    timer(PARTS[4], lambda: encoder.encode_crops(crops, selection.boxes[selection.mask]))
    return timer.seconds


def best(measure: Callable[[], dict[str, float]], rounds: int) -> dict[str, float]:
    """The parts of the fastest round; a first round warms up."""
    measure()
    return min((measure() for _ in range(rounds)), key=lambda seconds: sum(seconds.values()))


def matmul_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Operations a second of a matrix product."""
    one, other = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    one @ other
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        one @ other
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


@torch.inference_mode()
def compare_perceive(dtype_name: str, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    rates = {dtype: matmul_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    for dtype, rate in rates.items():
        print(f"matrix product, {dtype}: {rate / 1e12:.3f} TFLOP/s")
    dtype = max(rates, key=rates.get) if dtype_name == "auto" else getattr(torch, dtype_name)
    model = build_model()
    pixels = torch.randn(1, 3, 448, 448)

    use_kernels("reference")
    before = best(lambda: perceive_in_parts(model, pixels, plain=True), rounds)
    use_kernels("local")
    model = model.to(dtype)
    with FlopCounterMode(display=False) as counter:
        model.get_image_features(pixels)
    after = best(lambda: perceive_in_parts(model, pixels, plain=False), rounds)
    floor = counter.get_total_flops() / rates[dtype]

    print(f"\nperceive, DINOv2-L, 448x448, 100 regions: ours in {str(dtype).removeprefix('torch.')}")
    print(f"  {'part':28s} {'baseline s':>10s} {'share':>6s} {'ours s':>8s} {'share':>6s}")
    totals = sum(before.values()), sum(after.values())
    for part in PARTS:
        shares = before[part] / totals[0], after[part] / totals[1]
        print(f"  {part:28s} {before[part]:10.2f} {shares[0]:6.0%} {after[part]:8.2f} {shares[1]:6.0%}")
    print(f"  {'all':28s} {totals[0]:10.2f} {'':6s} {totals[1]:8.2f}")
    print(
        f"  floor: {counter.get_total_flops() / 1e12:.2f} TFLOP = {floor:.2f} s; ours takes {totals[1] / floor:.2f}x "
        "(target 1.6x)"
    )
    print(f"  ours is {totals[0] / totals[1]:.2f}x as fast as the float32 baseline (target 4x, bfloat16)")
    if rates[torch.bfloat16] < rates[torch.float32]:
        print("  This machine has no bfloat16 units: the target for bfloat16 cannot be measured here.")
    name = f"perceive_{str(dtype).removeprefix('torch.')}"  # each dtype has targets of its own
    ratios = {f"{name}_vs_baseline": totals[0] / totals[1], f"{name}_vs_floor": totals[1] / floor}
    return ratios, {"perceive_baseline": totals[0], "perceive": totals[1], "perceive_floor": floor}


def compare_operators() -> tuple[dict[str, float], dict[str, float]]:
    sys.path.insert(0, str(KERNELS))
    import importlib.util

    from build_local import build

    from kernels import get_local_kernel

    ratios, seconds = {}, {}
    for name in ("ms-deform-attn", "roi-align"):
        build(KERNELS / name)
        path = KERNELS / name / "benchmarks" / "benchmark.py"
        spec = importlib.util.spec_from_file_location(f"benchmark_{name.replace('-', '_')}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for comparison in module.comparisons(get_local_kernel(KERNELS / name), "cpu"):
            print(comparison, flush=True)
            ratios[comparison.name] = comparison.ratio
            seconds[comparison.name] = comparison.kernel_ms / 1e3
    return ratios, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-perceive", action="store_true", help="operators alone")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    ratios, seconds = compare_operators()
    if not arguments.skip_perceive:
        more_ratios, more_seconds = compare_perceive(arguments.dtype, arguments.rounds)
        ratios.update(more_ratios)
        seconds.update(more_seconds)
    print_result("kernels", ratios, seconds)


if __name__ == "__main__":
    main()
