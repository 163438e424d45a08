"""The kernel against plain torch: values, gradients, torch.compile, layouts and types."""

from __future__ import annotations

import importlib
import importlib.util
import math
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

KERNEL_DIR = Path(__file__).resolve().parents[1]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
# Outputs are rounded once to their type; sums are taken in float32.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(scope="session")
def roi_align():
    """The kernel as a module: installed (kernel-builder's test shell), else built here, apart from `build/`."""
    if importlib.util.find_spec("roi_align"):
        import roi_align

        return roi_align
    from kernels import get_local_kernel

    sys.path.insert(0, str(KERNEL_DIR.parent))
    import build_local

    backend = "cuda" if torch.version.cuda else "cpu"
    for tool in ["g++"] + (["nvcc"] if backend == "cuda" else []):
        if not shutil.which(tool):
            pytest.skip(f"{tool} not found: the kernel cannot be built here")
    return get_local_kernel(build_local.build(KERNEL_DIR, backend, output_dir=KERNEL_DIR / ".build_local" / "tests"))


def reference(feature_map, rois, scale, output_size, sampling_ratio, aligned):
    """One sample after the other, in plain torch. Coordinates are float32 as in the kernel, or float64 as the rois."""
    rows, columns = output_size
    height, width = feature_map.shape[2:]
    offset = 0.5 if aligned else 0.0
    outs = []
    for roi in rois:
        x1, y1, x2, y2 = (roi[1:] * scale - offset).unbind()
        box_width, box_height = x2 - x1, y2 - y1
        if not aligned:
            box_width, box_height = box_width.clamp(min=1), box_height.clamp(min=1)
        grid_rows = sampling_ratio if sampling_ratio > 0 else max(0, math.ceil(box_height / rows))
        grid_columns = sampling_ratio if sampling_ratio > 0 else max(0, math.ceil(box_width / columns))
        if grid_rows == 0 or grid_columns == 0:
            outs.append(feature_map.new_zeros(feature_map.shape[1], rows, columns))
            continue

        def places(start, size, bins, grid, like=roi):
            bin_index = torch.arange(bins, dtype=like.dtype, device=like.device)[:, None]
            sample = torch.arange(grid, dtype=like.dtype, device=like.device)[None]
            return (start + bin_index * (size / bins) + (sample + 0.5) * (size / bins) / grid).flatten()

        ys, xs = places(y1, box_height, rows, grid_rows), places(x1, box_width, columns, grid_columns)
        inside = ((ys >= -1) & (ys <= height))[:, None] & ((xs >= -1) & (xs <= width))[None]
        ys, xs = ys.clamp(0, height - 1).nan_to_num(), xs.clamp(0, width - 1).nan_to_num()
        top, left = ys.long(), xs.long()
        bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
        part_y, part_x = (ys - top).to(feature_map)[:, None], (xs - left).to(feature_map)[None]
        image = feature_map[int(roi[0])]
        upper, lower = image.index_select(1, top), image.index_select(1, bottom)
        upper = upper.index_select(2, left) * (1 - part_x) + upper.index_select(2, right) * part_x
        lower = lower.index_select(2, left) * (1 - part_x) + lower.index_select(2, right) * part_x
        samples = upper * (1 - part_y) + lower * part_y
        samples = torch.where(inside, samples, 0)
        outs.append(samples.reshape(-1, rows, grid_rows, columns, grid_columns).mean((2, 4)))
    return torch.stack(outs) if outs else feature_map.new_zeros(0, feature_map.shape[1], rows, columns)


def make_rois(n, batch, size, generator):
    """Boxes of all kinds: ordinary, tiny, mirrored, half outside, far outside, without area."""
    corners = torch.rand(n, 4, generator=generator) * size * 1.6 - 0.3 * size
    rois = torch.cat([torch.randint(0, batch, (n, 1), generator=generator).float(), corners], 1)
    kind = torch.randint(0, 6, (n,), generator=generator)
    ordered = torch.cat([rois[:, 1:3].minimum(rois[:, 3:5]), rois[:, 1:3].maximum(rois[:, 3:5])], 1)
    rois[:, 1:] = torch.where((kind < 3)[:, None], ordered, rois[:, 1:])
    rois[kind == 3, 3:] = rois[kind == 3, 1:3] + 0.1
    rois[kind == 4, 3:] = rois[kind == 4, 1:3]
    rois[kind == 5, 1:] += 10 * size
    return rois


def gradients(function, maps, out_gradients):
    maps = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in maps]
    outs = function(maps)
    return outs, torch.autograd.grad(outs, maps, [g.to(out) for g, out in zip(out_gradients, outs)])


def assert_same_as_reference(kernel, maps, rois, scales, output_size, sampling_ratio=2, aligned=True):
    """Outputs and gradients of all levels, against the reference in float64 on the same (rounded) numbers."""
    generator = torch.Generator().manual_seed(1)
    out_gradients = [torch.randn(len(rois), x.shape[1], *output_size, generator=generator).to(x) for x in maps]
    wanted, wanted_gradients = gradients(
        lambda xs: [reference(x, rois, s, output_size, sampling_ratio, aligned) for x, s in zip(xs, scales)],
        [x.double() for x in maps],
        [x.double() for x in out_gradients],
    )
    got, got_gradients = gradients(
        lambda xs: kernel.roi_align(xs, rois, scales, output_size, sampling_ratio, aligned), maps, out_gradients
    )
    for x, y in zip([*got, *got_gradients], [*wanted, *wanted_gradients]):
        tolerance = TOLERANCE[x.dtype]
        scale = max(1, y.abs().max().item() if y.numel() else 0)
        torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(30))
def test_any_shape_and_layout(roi_align, device, seed):
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    batch = chance.randint(1, 3)
    maps = []
    for _ in range(chance.randint(1, 3)):
        channels = chance.choice([1, 2, 5, 8, 16, 19, 32, 70, 300])
        height, width = chance.choice([1, 2, 9, 16, 33]), chance.choice([1, 3, 8, 16, 40])
        feature_map = torch.randn(batch, channels, height, width, generator=generator)
        layout = chance.choice(["nchw", "nchw", "channels last", "channels last", "crop", "channel slice", "any"])
        if layout == "channels last":
            feature_map = feature_map.contiguous(memory_format=torch.channels_last)
        elif layout == "crop":
            feature_map = torch.nn.functional.pad(feature_map, (1, 2, 1, 0))[:, :, 1:, 1:-2]
        elif layout == "channel slice":
            feature_map = torch.cat([feature_map, feature_map], 1)[:, channels:]
        elif layout == "any":
            feature_map = feature_map.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        maps.append(feature_map.to(device))
    rois = make_rois(chance.choice([1, 4, 11]), batch, 100, generator).to(device)
    scales = [chance.choice([0.05, 0.1, 0.3, 0.5]) for _ in maps]
    output_size = chance.choice([(7, 7), (14, 14), (1, 1), (2, 5), (3, 17), (20, 4)])
    sampling_ratio, aligned = chance.choice([2, 2, 1, 3, 0, -1]), chance.random() < 0.6
    assert_same_as_reference(roi_align, maps, rois, scales, output_size, sampling_ratio, aligned)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_dtypes(roi_align, device, dtype, memory_format):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 35, n, n, generator=generator) for n in (20, 10)]
    maps = [x.to(device, dtype).contiguous(memory_format=memory_format) for x in maps]
    rois = make_rois(9, 2, 80, generator).to(device, torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same_as_reference(roi_align, maps, rois, [0.25, 0.125], (7, 7))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("level", ["base", "avx2", "avx512"])
def test_every_instruction_set(roi_align, monkeypatch, level, dtype):
    """Levels that this machine lacks fall back to the next lower one."""
    monkeypatch.setenv("KERNELS_CPU_SIMD", level)
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(1, 150, 12, 30, generator=generator).to(dtype)
    maps = [planes[:, :9], planes.contiguous(memory_format=torch.channels_last), planes[:, :9, :, :5]]
    rois = make_rois(6, 1, 90, generator).to(torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same_as_reference(roi_align, maps, rois, [0.3, 0.3, 0.1], (14, 14))


@pytest.mark.parametrize("device", DEVICES)
def test_edges(roi_align, device):
    """Samples exactly on the borders of what counts: -1 and the map's size are in, beyond is zero but averaged."""
    ones = torch.ones(1, 1, 4, 4, device=device)
    # One bin with 2 x 2 samples at start + size / 4 and start + 3 size / 4.
    for low, high, inside in ((-1.0, 4.0, 2), (-1.001, 4.0, 1), (-1.0, 4.001, 1), (-3.0, 9.0, 0), (0.5, 2.0, 2)):
        size = 2 * (high - low)
        start = low - size / 4 + 0.5  # aligned boxes start half a pixel later
        rois = torch.tensor([[0, start, start, start + size, start + size]], dtype=torch.float64, device=device)
        (out,) = roi_align.roi_align([ones.double()], rois, [1.0], 1)
        assert out.item() == pytest.approx((inside / 2) ** 2)


@pytest.mark.parametrize("device", DEVICES)
def test_outside_is_never_read(roi_align, device):
    nan = torch.full((1, 40, 6, 6), float("nan"), device=device)
    infinity = float("inf")
    rois = [[0, 50, 50, 90, 90], [0, -90, -90, -50, -60], [0, math.nan, 0, 5, 5], [0, 0, -infinity, 5, infinity]]
    rois = torch.tensor(rois, device=device)
    for feature_map in (nan, nan.contiguous(memory_format=torch.channels_last)):
        for sampling_ratio in (2, 0):
            feature_map = feature_map.detach().requires_grad_()
            (out,) = roi_align.roi_align([feature_map], rois, [1.0], 3, sampling_ratio)
            assert torch.equal(out, torch.zeros_like(out))
            out.sum().backward()
            assert torch.equal(feature_map.grad, torch.zeros_like(feature_map))


@pytest.mark.parametrize("device", DEVICES)
def test_memory_format_follows_the_map(roi_align, device):
    maps = [torch.randn(2, 8, 5, 5, device=device), torch.randn(2, 8, 5, 5, device=device)]
    maps[1] = maps[1].contiguous(memory_format=torch.channels_last)
    maps = [x.requires_grad_() for x in maps]
    rois = torch.tensor([[0, 0, 0, 4.0, 4.0], [1, 1, 1, 3, 3]], device=device)
    outs = roi_align.roi_align(maps, rois, [1.0, 1.0], 4)
    assert outs[0].is_contiguous() and outs[1].is_contiguous(memory_format=torch.channels_last)
    # Gradients that come in the other layout, or expanded, are understood too.
    (outs[0].sum() + outs[1].contiguous().square().sum()).backward()
    assert maps[0].grad.is_contiguous() and maps[1].grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", DEVICES)
def test_rois_of_another_dtype(roi_align, device):
    """Features in bfloat16, boxes in float32: coordinates are never rounded to the features' type."""
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.randn(1, 16, 32, 32, generator=generator).to(device)
    rois = make_rois(6, 1, 32, generator).to(device)
    (exact,) = roi_align.roi_align([feature_map.bfloat16().float()], rois, [1.0], 7)
    (out,) = roi_align.roi_align([feature_map.bfloat16()], rois, [1.0], 7)
    assert torch.equal(out, exact.bfloat16())
    (out,) = roi_align.roi_align([feature_map.bfloat16().float()], rois.double(), [1.0], 7)
    assert torch.equal(out, exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradcheck(roi_align, device, memory_format):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 5, 6, generator=generator), torch.randn(2, 2, 3, 3, generator=generator)]
    maps = [x.double().to(device).contiguous(memory_format=memory_format).requires_grad_() for x in maps]
    rois = make_rois(5, 2, 12, generator).double().to(device)
    assert torch.autograd.gradcheck(lambda *xs: tuple(roi_align.roi_align(xs, rois, [0.5, 0.25], (2, 3))), maps)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(roi_align, device):
    generator = torch.Generator().manual_seed(0)
    nchw = torch.randn(2, 4, 6, 5, generator=generator).to(device)
    maps = [nchw.requires_grad_(), nchw.detach().contiguous(memory_format=torch.channels_last).requires_grad_()]
    rois = make_rois(3, 2, 12, generator).to(device)
    # By name: a kernel that was loaded before, from another folder, leaves its module without the attribute.
    ops = importlib.import_module(f"{roi_align.__name__}.autograd").ops
    torch.library.opcheck(ops.roi_align_forward.default, (maps, rois, [0.5, 0.25], 2, 3, 2, True))
    torch.library.opcheck(
        ops.roi_align_backward.default,
        ([torch.randn(3, 4, 2, 3, device=device)] * 2, rois, [0.5, 0.25], [2, 4, 6, 5] * 2, [False, True], 2, True),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_empty(roi_align, device):
    feature_map = torch.randn(2, 3, 5, 5, device=device, requires_grad=True)
    (out,) = roi_align.roi_align([feature_map], torch.zeros(0, 5, device=device), [1.0], 7)
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert torch.equal(feature_map.grad, torch.zeros_like(feature_map))
    (out,) = roi_align.roi_align([feature_map[:, :0]], torch.zeros(4, 5, device=device), [1.0], 7)
    assert out.shape == (4, 0, 7, 7)
    (out,) = roi_align.roi_align([feature_map[:0]], torch.zeros(0, 5, device=device), [1.0], 7)
    assert out.shape == (0, 3, 7, 7)


def test_deterministic_on_cpu(roi_align):
    """The same bits every time, and whatever the number of threads."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(2, 90, 20, 20, generator=generator)
    maps = [planes, planes.contiguous(memory_format=torch.channels_last)]
    rois = make_rois(30, 2, 40, generator)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            outs, grads = gradients(
                lambda xs: roi_align.roi_align(xs, rois, [0.5, 0.5], 7), maps, [torch.ones(30, 90, 7, 7)] * 2
            )
            results.append([*outs, *grads])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for x, y in zip(results[0], other):
            assert torch.equal(x, y)


def test_wrong_inputs(roi_align):
    feature_map, rois = torch.randn(2, 3, 5, 5), torch.zeros(2, 5)
    call = roi_align.roi_align
    for index in (2.0, -1.0, math.nan):
        with pytest.raises(RuntimeError, match="batch index"):
            call([feature_map], torch.tensor([[index, 0, 0, 1, 1]]), [1.0], 7)
    with pytest.raises(RuntimeError, match="1 maps but 2 scales"):
        call([feature_map], rois, [1.0, 2.0], 7)
    with pytest.raises(RuntimeError, match="rois must be"):
        call([feature_map], rois[:, :4], [1.0], 7)
    with pytest.raises(RuntimeError, match="output size"):
        call([feature_map], rois, [1.0], 0)
    with pytest.raises(RuntimeError, match="different types"):
        call([feature_map, feature_map.double()], rois, [1.0, 1.0], 7)
    with pytest.raises(RuntimeError, match="without pixels"):
        call([feature_map[:, :, :0]], rois, [1.0], 7)


def test_some_levels_need_no_gradient(roi_align):
    maps = [torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(1, 2, 4, 4)]
    outs = roi_align.roi_align(maps, torch.tensor([[0, 0, 0, 4.0, 4.0]]), [1.0] * 3, 2)
    outs[1].sum().backward()
    assert maps[1].grad.sum().item() == pytest.approx(8)


def test_no_second_derivative(roi_align):
    feature_map = torch.randn(1, 2, 4, 4, requires_grad=True)
    (out,) = roi_align.roi_align([feature_map], torch.tensor([[0, 0, 0, 4.0, 4.0]]), [1.0], 2)
    (gradient,) = torch.autograd.grad(out.square().sum(), feature_map, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
def test_torch_compile(roi_align, device):
    """One graph, dynamic sizes, gradients, both layouts."""

    def step(maps, rois):
        return [out + 1 for out in roi_align.roi_align([x * 2 for x in maps], rois, [0.5, 0.25], 3)]

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(0)
    for n, size in ((4, 8), (7, 10)):
        planes = torch.randn(2, 6, size, size, generator=generator).to(device)
        maps = [planes, planes.contiguous(memory_format=torch.channels_last)]
        rois = make_rois(n, 2, 16, generator).to(device)
        out_gradients = [torch.ones(n, 6, 3, 3, device=device)] * 2
        wanted, got = (
            gradients(lambda xs, f=f, rois=rois: f(xs, rois), maps, out_gradients) for f in (step, compiled)
        )
        for x, y in zip([*got[0], *got[1]], [*wanted[0], *wanted[1]]):
            torch.testing.assert_close(x, y)
            assert x.stride() == y.stride()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_same_as_torchvision(roi_align, aligned, sampling_ratio):
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.randn(2, 5, 20, 24, generator=generator)
    rois = make_rois(30, 2, 40, generator)
    rois[:, 3:] = rois[:, 1:3].maximum(rois[:, 3:])
    wanted = ops.roi_align(feature_map, rois, 7, 0.5, sampling_ratio, aligned)
    (got,) = roi_align.roi_align([feature_map], rois, [0.5], 7, sampling_ratio, aligned)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_layer(roi_align, device):
    layer = roi_align.layers.RoiAlign()
    assert layer.has_backward and layer.can_torch_compile and not list(layer.parameters())
    maps = [torch.randn(1, 3, 6, 6, device=device), torch.randn(1, 4, 3, 3, device=device)]
    rois = torch.tensor([[0, 1, 1, 9.0, 7.0]], device=device)
    outs = layer(maps, rois, [0.5, 0.25], (3, 2), 2, True)
    for out, wanted in zip(outs, roi_align.roi_align(maps, rois, [0.5, 0.25], (3, 2), 2, True)):
        assert torch.equal(out, wanted)
