"""Benchmark: perception at full size on a CPU with fewer and faster multiplications.

    python benchmarks/bench_fast_convolution.py [--rounds 3] [--regions 100 12]

Vision encoder, region proposer and region encoder of one 448x448 image (DINOv2-L, 300 queries, random weights) in
float32 on 2 threads, with kernels where they are built. The baseline is the same model in the same run whose
convolutions and matrix products are all torch's own. Prints seconds (of the best round), operations, ratios, and how
far the region tokens are from those of the baseline. Needs 4 GB.
"""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from bench_kernels import PARTS, best, build_model, matmul_rate, perceive_in_parts
from machine import machine
from measuring import print_result
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from transformers_groma import onednn_products
from transformers_groma.models import modeling_fast_convolution
from transformers_groma.models.groma.modeling_groma import GromaModel
from transformers_groma.models.modeling_region_encoder import GromaRegionEncoder

REGION_PARTS = PARTS[2:]


@contextmanager
def torchs_own(convolutions: bool = True, products: bool = True) -> Iterator[None]:
    """Let all convolutions and matrix products be torch's own."""
    before = modeling_fast_convolution.MIN_TILES, onednn_products.MIN_MULTIPLICATIONS
    modeling_fast_convolution.MIN_TILES = math.inf if convolutions else before[0]
    onednn_products.MIN_MULTIPLICATIONS = math.inf if products else before[1]
    try:
        yield
    finally:
        modeling_fast_convolution.MIN_TILES, onednn_products.MIN_MULTIPLICATIONS = before


def operations(model: GromaModel, pixels: Tensor) -> float:
    """Additions and multiplications of one image."""
    with FlopCounterMode(display=False) as counter:
        model.get_image_features(pixels)
    return counter.get_total_flops()


def difference(encoder: GromaRegionEncoder) -> float:
    """The largest difference of region tokens from those of the baseline, over their standard deviation."""
    generator = torch.Generator().manual_seed(0)
    grid, width = encoder.image_size // 14, encoder.roi_convs[0].in_channels
    maps = [torch.randn(1, width, grid, grid, generator=generator) for _ in encoder.roi_convs]
    boxes = torch.rand(1, 12, 4, generator=generator) * 0.4 + 0.1
    used = torch.ones(1, 12, dtype=torch.bool)
    fast = encoder(maps, boxes, used)
    with torchs_own():
        own = encoder(maps, boxes, used)
    return ((fast - own).abs().max() / own.std()).item()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--regions", type=int, nargs="+", default=[100, 12])
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(machine())
    print(f"matrix product, float32: {matmul_rate(torch.float32) / 1e12:.3f} TFLOP/s")
    model, pixels = build_model(), torch.randn(1, 3, 448, 448)
    print(f"linear layers that multiply with oneDNN, as it is faster here: {onednn_products.use_onednn(model)}")
    ratios, found = {}, {}
    for regions in arguments.regions:
        model.config.max_regions = regions
        seconds, counts = {}, {}
        for name in ("own", "fast"):
            with torchs_own(name == "own", name == "own"):
                counts[name] = operations(model, pixels)
                seconds[name] = best(lambda: perceive_in_parts(model, pixels, plain=False), arguments.rounds)
        own, fast = (sum(seconds[name].values()) for name in ("own", "fast"))
        print(f"\n{regions} regions: {counts['own'] / 1e12:.2f} to {counts['fast'] / 1e12:.2f} TFLOP")
        for part in PARTS:
            print(f"  {part:28s} {seconds['own'][part]:7.2f} s {seconds['fast'][part]:7.2f} s")
        print(f"  {'all':28s} {own:7.2f} s {fast:7.2f} s  {own / fast:.2f}x (target 1.3x)")
        own, fast = (sum(seconds[name][part] for part in REGION_PARTS) for name in ("own", "fast"))
        print(f"  {'region encoder':28s} {own:7.2f} s {fast:7.2f} s  {own / fast:.2f}x")
        for name, of_parts in seconds.items():
            found[f"{regions}_regions_{name}"] = of_parts
        ratios[f"perceive_{regions}_regions"] = sum(seconds["own"].values()) / sum(seconds["fast"].values())
    print(f"\nlargest difference of region tokens: {difference(model.region_encoder):.1e} of their standard deviation")
    print_result("fast_convolution", ratios, found)


if __name__ == "__main__":
    main()
