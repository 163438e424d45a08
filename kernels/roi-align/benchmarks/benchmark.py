"""Speed of ROIAlign against grid_sample and pooling.

kernels benchmark ./kernels/roi-align                     # the library's own runner; needs kernels[benchmark]
python kernels/roi-align/benchmarks/benchmark.py          # ratios, gradients and memory, one run (two minutes)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from kernels.benchmark import Benchmark
from torch.nn import functional as F

CHANNELS, BOXES, BINS, IMAGE = 1024, 100, 14, 448
SIZES = (128, 64, 32)
SCALES = [size / IMAGE for size in SIZES]


def reference(maps, rois):
    """Two samples along each side of a bin with grid_sample, then the mean; one image, boxes of any kind."""
    outs = []
    for feature_map, scale in zip(maps, SCALES):
        height, width = feature_map.shape[2:]
        x1, y1, x2, y2 = (rois[:, 1:] * scale - 0.5).unbind(1)
        steps = (torch.arange(2 * BINS, device=rois.device) + 0.5) / (2 * BINS)
        xs, ys = x1[:, None] + (x2 - x1)[:, None] * steps, y1[:, None] + (y2 - y1)[:, None] * steps
        inside = ((ys >= -1) & (ys <= height))[:, :, None] & ((xs >= -1) & (xs <= width))[:, None]
        grid_x = (2 * xs.clamp(0, width - 1) + 1) / width - 1
        grid_y = (2 * ys.clamp(0, height - 1) + 1) / height - 1
        grid = torch.stack(torch.broadcast_tensors(grid_x[:, None], grid_y[:, :, None]), -1).to(feature_map.dtype)
        # One image: all boxes below each other in one grid, so that the map is not copied for each.
        samples = F.grid_sample(feature_map, grid.flatten(0, 1)[None], padding_mode="border", align_corners=False)
        samples = samples * inside.flatten(0, 1)
        pooled = F.avg_pool2d(samples, 2).view(feature_map.shape[1], len(rois), BINS, BINS)
        outs.append(pooled.transpose(0, 1).contiguous())
    return outs


def make_inputs(device="cpu", dtype=torch.float32, channels_last=False):
    """Three maps and the boxes, (n, 5)."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, CHANNELS, size, size, generator=generator).to(device, dtype) for size in SIZES]
    centers = torch.rand(BOXES, 2, generator=generator) * IMAGE
    half_sizes = torch.rand(BOXES, 2, generator=generator) * 100 + 4
    boxes = torch.cat([centers - half_sizes, centers + half_sizes], 1).clamp(0, IMAGE)
    rois = torch.cat([torch.zeros(BOXES, 1), boxes], 1).to(device)
    if channels_last:
        maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    return maps, rois


class RoiAlignBenchmark(Benchmark):
    """What `kernels benchmark` runs; the time of `verify_…` is that of the reference."""

    seed = 0

    def setup_nchw(self):
        self.maps, self.rois = make_inputs(self.device)

    def setup_channels_last(self):
        self.maps, self.rois = make_inputs(self.device, channels_last=True)

    def benchmark_nchw(self):
        self.out = torch.stack(self.kernel.roi_align(self.maps, self.rois, SCALES, BINS, 2, True))

    def verify_nchw(self) -> torch.Tensor:
        return torch.stack(reference(self.maps, self.rois))

    benchmark_channels_last = benchmark_nchw
    verify_channels_last = verify_nchw


def comparisons(kernel, device: str = "cpu") -> Iterator:
    """The table's lines, each a `measure.Comparison`. The reference always gets NCHW maps, which suit it best."""
    from measure import compare

    planes, rois = make_inputs(device)
    pixels, _ = make_inputs(device, channels_last=True)

    def ours(maps):
        return kernel.roi_align(maps, rois, SCALES, BINS, 2, True)

    def gradients(function, maps):
        maps = [x.detach().requires_grad_() for x in maps]
        outs = function(maps)
        return torch.autograd.grad(outs, maps, [torch.ones_like(out) for out in outs])

    wanted = reference(planes, rois)
    for maps in (planes, pixels):
        for x, y in zip(ours(maps), wanted):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)
    del wanted, x, y
    name = f"ROIAlign, {BOXES} boxes, {CHANNELS} channels, 3 levels"
    for layout, maps, target in (("NCHW", planes, 10), ("channels-last", pixels, 15)):
        yield compare(
            f"{name}, {layout}, forward",
            lambda maps=maps: ours(maps),
            lambda: reference(planes, rois),
            target,
            device,
            rounds=2,
        )
    for layout, maps in (("NCHW", planes), ("channels-last", pixels)):
        yield compare(
            f"{name}, {layout}, fwd+bwd",
            lambda maps=maps: gradients(ours, maps),
            lambda: gradients(lambda xs: reference(xs, rois), planes),
            10,
            device,
            rounds=1,
            seconds=1,
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
