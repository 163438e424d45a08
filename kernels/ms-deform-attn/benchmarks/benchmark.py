"""Speed of deformable attention against grid_sample.

kernels benchmark ./kernels/ms-deform-attn                     # the library's own runner; needs kernels[benchmark]
python kernels/ms-deform-attn/benchmarks/benchmark.py          # ratios, gradients and memory, one run
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from kernels.benchmark import Benchmark
from torch.nn import functional as F

HEADS, POINTS, CHANNELS = 8, 4, 32
CASES = {
    # name: levels, queries, target ratio forward and with the backward
    "1024 queries, 1 level": ([(32, 32)], 1024, 5, 5),
    "5440 queries, 4 levels": ([(64, 64), (32, 32), (16, 16), (8, 8)], 5440, 10, 5),
}


def reference(value, shapes, locations, weights):
    """Deformable attention with grid_sample, as transformers computes it."""
    batch, _, heads, channels = value.shape
    _, queries, _, levels, points, _ = locations.shape
    grids = 2 * locations - 1
    sampled = []
    for level, plane in enumerate(value.split([height * width for height, width in shapes], dim=1)):
        plane = plane.flatten(2).transpose(1, 2).reshape(batch * heads, channels, *shapes[level])
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(plane, grid, padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    out = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1)
    return out.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


def make_inputs(shapes, queries, device="cpu", dtype=torch.float32, batch=1):
    """value, spatial_shapes, level_start_index, locations, weights."""
    generator = torch.Generator().manual_seed(0)
    spatial_shapes = torch.tensor(shapes)
    starts = torch.cat([spatial_shapes.new_zeros(1), spatial_shapes.prod(1).cumsum(0)[:-1]])
    pixels = int(spatial_shapes.prod(1).sum())
    value = torch.randn(batch, pixels, HEADS, CHANNELS, generator=generator)
    locations = torch.rand(batch, queries, HEADS, len(shapes), POINTS, 2, generator=generator)
    weights = torch.rand(batch, queries, HEADS, len(shapes) * POINTS, generator=generator).softmax(-1)
    weights = weights.view(batch, queries, HEADS, len(shapes), POINTS)
    value, locations, weights = (x.to(device, dtype) for x in (value, locations, weights))
    return value, spatial_shapes.to(device), starts.to(device), locations, weights


class MsDeformAttnBenchmark(Benchmark):
    """What `kernels benchmark` runs; the time of `verify_…` is that of the reference."""

    seed = 0

    def setup_one_level(self):
        self.shapes, queries, *_ = CASES["1024 queries, 1 level"]
        self.inputs = make_inputs(self.shapes, queries, self.device)

    def setup_four_levels(self):
        self.shapes, queries, *_ = CASES["5440 queries, 4 levels"]
        self.inputs = make_inputs(self.shapes, queries, self.device)

    def benchmark_one_level(self):
        self.out = self.kernel.ms_deform_attn(*self.inputs)

    def verify_one_level(self) -> torch.Tensor:
        value, _, _, locations, weights = self.inputs
        return reference(value, self.shapes, locations, weights)

    benchmark_four_levels = benchmark_one_level
    verify_four_levels = verify_one_level


def comparisons(kernel, device: str = "cpu") -> Iterator:
    """The table's lines, each a `measure.Comparison`."""
    from measure import compare

    for name, (shapes, queries, forward_target, backward_target) in CASES.items():
        value, spatial_shapes, starts, locations, weights = make_inputs(shapes, queries, device)
        leaves = [x.clone().requires_grad_() for x in (value, locations, weights)]

        def ours(v, place, w, spatial_shapes=spatial_shapes, starts=starts):
            return kernel.ms_deform_attn(v, spatial_shapes, starts, place, w)

        def theirs(v, place, w, shapes=shapes):
            return reference(v, shapes, place, w)

        def gradients(function, leaves=leaves):
            out = function(*leaves)
            return torch.autograd.grad(out, leaves, torch.ones_like(out))

        torch.testing.assert_close(ours(value, locations, weights), theirs(value, locations, weights))
        for x, y in zip(gradients(ours), gradients(theirs)):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)
        yield compare(
            f"deformable attention, {name}, forward",
            lambda ours=ours, x=(value, locations, weights): ours(*x),
            lambda theirs=theirs, x=(value, locations, weights): theirs(*x),
            forward_target,
            device,
        )
        yield compare(
            f"deformable attention, {name}, forward+backward",
            lambda ours=ours, gradients=gradients: gradients(ours),
            lambda theirs=theirs, gradients=gradients: gradients(theirs),
            backward_target,
            device,
        )


def main() -> None:
    from kernels import get_local_kernel

    kernel_dir = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(kernel_dir.parent))
    from build_local import build

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kernel = get_local_kernel(build(kernel_dir, device))
    print(f"float32 on {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for line in comparisons(kernel, device):
        print(line, flush=True)


if __name__ == "__main__":
    main()
