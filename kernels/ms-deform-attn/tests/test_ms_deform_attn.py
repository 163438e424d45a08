"""The kernel against plain torch: values, gradients, torch.compile, layouts and types."""

from __future__ import annotations

import importlib
import importlib.util
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

KERNEL_DIR = Path(__file__).resolve().parents[1]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
# Outputs are rounded once to their type; sums are taken in float32.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(scope="session")
def ms_deform_attn():
    """The kernel as a module: installed (kernel-builder's test shell), else built here, apart from `build/`."""
    if importlib.util.find_spec("ms_deform_attn"):
        import ms_deform_attn

        return ms_deform_attn
    from kernels import get_local_kernel

    sys.path.insert(0, str(KERNEL_DIR.parent))
    import build_local

    backend = "cuda" if torch.version.cuda else "cpu"
    for tool in ["g++"] + (["nvcc"] if backend == "cuda" else []):
        if not shutil.which(tool):
            pytest.skip(f"{tool} not found: the kernel cannot be built here")
    return get_local_kernel(build_local.build(KERNEL_DIR, backend, output_dir=KERNEL_DIR / ".build_local" / "tests"))


def reference(value, shapes, locations, weights):
    """Deformable attention level by level with grid_sample."""
    batch, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    result = value.new_zeros(batch, heads, queries, channels)
    start = 0
    for level in range(levels):
        height, width = shapes[level]
        plane = value[:, start : start + height * width].permute(0, 2, 3, 1)
        plane = plane.reshape(batch * heads, channels, height, width)
        start += height * width
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled = F.grid_sample(plane, grid, padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        result += (sampled * weight).sum(-1).reshape(batch, heads, channels, queries).transpose(2, 3)
    return result.transpose(1, 2).reshape(batch, queries, heads * channels)


def make_inputs(
    shapes, queries=5, batch=2, heads=2, channels=8, points=3, dtype=torch.float32, seed=0, device="cpu", spread=0.3
):
    """value, spatial_shapes, level_start_index, locations (some outside), weights."""
    generator = torch.Generator().manual_seed(seed)
    levels = len(shapes)
    spatial_shapes = torch.tensor(shapes).reshape(levels, 2)
    starts = torch.cat([spatial_shapes.new_zeros(1), spatial_shapes.prod(1).cumsum(0)[:-1]])
    value = torch.randn(batch, int(spatial_shapes.prod(1).sum()), heads, channels, generator=generator)
    locations = torch.rand(batch, queries, heads, levels, points, 2, generator=generator)
    locations = locations * (1 + 2 * spread) - spread
    weights = torch.randn(batch, queries, heads, levels * points, generator=generator).softmax(-1)
    weights = weights.reshape(batch, queries, heads, levels, points)
    value, locations, weights = (x.to(device, dtype) for x in (value, locations, weights))
    return value, spatial_shapes.to(device), starts.to(device), locations, weights


def gradients(function, inputs, out_gradient):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, out_gradient.to(out.dtype))]


def assert_same_as_reference(kernel, value, spatial_shapes, starts, locations, weights, logits=False):
    """Output and all gradients, against the reference in float64 on the same (rounded) numbers."""
    shapes = spatial_shapes.tolist()
    function = kernel.ms_deform_attn_logits if logits else kernel.ms_deform_attn

    def expected(v, place, w):
        if logits:
            w = w.flatten(3).softmax(-1).view_as(w)
        return reference(v, shapes, place, w)

    out_gradient = torch.randn(
        value.shape[0], locations.shape[1], value.shape[2] * value.shape[3], generator=torch.Generator().manual_seed(1)
    ).to(value.device, value.dtype)
    wanted = gradients(expected, [x.double() for x in (value, locations, weights)], out_gradient.double())
    got = gradients(
        lambda v, place, w: function(v, spatial_shapes, starts, place, w), (value, locations, weights), out_gradient
    )
    assert got[0].dtype == value.dtype
    for name, x, y, like in zip(
        ("output", "value", "locations", "weights"), got, wanted, (value, value, locations, weights)
    ):
        assert x.dtype == like.dtype and x.shape == y.shape
        # A location's gradient jumps where the point crosses a pixel centre; float64 may see it on the other side.
        tolerance = max(TOLERANCE[value.dtype], TOLERANCE[x.dtype]) * (50 if name == "locations" else 1)
        torch.testing.assert_close(
            x.double(), y, rtol=tolerance, atol=tolerance * max(1, y.abs().max().item() if y.numel() else 0), msg=name
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_dtypes(ms_deform_attn, device, dtype, logits):
    inputs = make_inputs([(6, 7), (3, 4)], channels=32, dtype=dtype, device=device)
    assert_same_as_reference(ms_deform_attn, *inputs, logits=logits)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("other_dtype", [torch.float32, torch.float64])
def test_mixed_dtypes(ms_deform_attn, device, value_dtype, other_dtype):
    """Under autocast the values are in 16 bit while locations and weights stay in float32."""
    value, shapes, starts, locations, weights = make_inputs([(5, 5)], device=device)
    assert_same_as_reference(
        ms_deform_attn, value.to(value_dtype), shapes, starts, locations.to(other_dtype), weights.to(other_dtype)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(24))
def test_any_shape_and_stride(ms_deform_attn, device, seed):
    chance = random.Random(seed)
    shapes = [(chance.randint(1, 9), chance.randint(1, 9)) for _ in range(chance.randint(1, 4))]
    value, spatial_shapes, starts, locations, weights = make_inputs(
        shapes,
        queries=chance.choice([1, 2, 7, 33]),
        batch=chance.randint(1, 3),
        heads=chance.randint(1, 5),
        channels=chance.choice([1, 2, 3, 4, 6, 8, 16, 17, 24, 32, 40, 64, 100, 130]),
        points=chance.randint(1, 5),
        seed=seed,
        device=device,
        spread=chance.choice([0.0, 0.3, 3.0]),
    )
    layout = chance.choice(["contiguous", "heads first", "slice", "strided channels", "one batch expanded"])
    if layout == "heads first":
        value = value.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "slice":
        value = torch.cat([value, value], -1)[..., : value.shape[-1]]
    elif layout == "strided channels":
        value = torch.stack([value, value], -1)[..., 0]
    elif layout == "one batch expanded":
        value = value[:1].expand_as(value)
    if chance.random() < 0.5:
        locations = torch.stack([locations, locations], 1)[:, 0]
        weights = weights.transpose(1, 2).contiguous().transpose(1, 2)
    assert_same_as_reference(
        ms_deform_attn, value, spatial_shapes, starts, locations, weights, logits=chance.random() < 0.3
    )


@pytest.mark.parametrize("level", ["base", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_every_instruction_set(ms_deform_attn, monkeypatch, level, dtype):
    """Levels that this machine lacks fall back to the next lower one."""
    monkeypatch.setenv("KERNELS_CPU_SIMD", level)
    for channels in (32, 43, 128):
        assert_same_as_reference(ms_deform_attn, *make_inputs([(4, 6), (2, 2)], channels=channels, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_conversions(ms_deform_attn, monkeypatch, dtype):
    """Every 16-bit number passes through unchanged: one pixel, one point in its middle, weight 1."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    value = every.reshape(1, 1, 64, 1024)
    for level in ("base", "avx2", "avx512"):
        monkeypatch.setenv("KERNELS_CPU_SIMD", level)
        for channels in (1024, 8):  # vectors, and one by one
            v = value.reshape(1, 1, -1, channels)[:, :, : 2**16 // channels]
            heads = v.shape[2]
            out = ms_deform_attn.ms_deform_attn(
                v,
                torch.tensor([[1, 1]]),
                torch.tensor([0]),
                torch.full((1, 1, heads, 1, 1, 2), 0.5),
                torch.ones(1, 1, heads, 1, 1),
            )
            torch.testing.assert_close(out.flatten(), every, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
def test_rounding_to_16_bits(ms_deform_attn, device):
    """The output is rounded as torch rounds: to nearest, ties to even, with subnormals and overflow."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16):
        value = torch.randn(1, 1, 16, 64, generator=generator) * 2.0 ** torch.randint(
            -20, 17, (64,), generator=generator
        )
        value = value.to(dtype)
        weight = torch.rand(1, 1, 16, 1, 1, generator=generator) * 3
        out = ms_deform_attn.ms_deform_attn(
            value.to(device),
            torch.tensor([[1, 1]], device=device),
            torch.tensor([0], device=device),
            torch.full((1, 1, 16, 1, 1, 2), 0.5, device=device),
            weight.to(device),
        )
        wanted = (value[0, 0].float() * weight.reshape(16, 1)).to(dtype)
        torch.testing.assert_close(out.cpu().view(16, 64), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("logits", [False, True])
def test_gradcheck(ms_deform_attn, device, logits):
    function = ms_deform_attn.ms_deform_attn_logits if logits else ms_deform_attn.ms_deform_attn
    value, shapes, starts, locations, weights = make_inputs(
        [(3, 4), (2, 2)], queries=3, channels=3, points=2, dtype=torch.float64, device=device
    )
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, place, w: function(v, shapes, starts, place, w), inputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(ms_deform_attn, device, dtype):
    value, shapes, starts, locations, weights = make_inputs([(3, 4), (2, 2)], dtype=dtype, device=device)
    strided = torch.stack([value, value], 1)[:, 0].requires_grad_()
    inputs = (strided, shapes, starts, locations.requires_grad_(), weights.requires_grad_())
    # By name: a kernel that was loaded before, from another folder, leaves its module without the attribute.
    ops = importlib.import_module(f"{ms_deform_attn.__name__}.autograd").ops
    for softmax in (False, True):
        torch.library.opcheck(ops.ms_deform_attn_forward.default, (*inputs, softmax))
        out = ops.ms_deform_attn_forward(*inputs, softmax).detach()
        detached = [x.detach() for x in inputs]
        torch.library.opcheck(
            ops.ms_deform_attn_backward.default,
            (out, *detached, softmax),
            rtol=1e-3,
            atol=1e-3,
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "empty", [{"queries": 0}, {"batch": 0}, {"points": 0}, {"channels": 0}, {"heads": 0}, {"shapes": [(0, 3), (2, 2)]}]
)
def test_empty(ms_deform_attn, device, empty):
    arguments = {"shapes": [(3, 4), (2, 2)], "queries": 4, **empty}
    value, shapes, starts, locations, weights = make_inputs(device=device, **arguments)
    for x in (value, locations, weights):
        x.requires_grad_()
    out = ms_deform_attn.ms_deform_attn(value, shapes, starts, locations, weights)
    assert out.shape == (value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    out.sum().backward()
    assert value.grad.shape == value.shape and locations.grad.shape == locations.shape
    if arguments.get("points") == 0:
        assert not out.any() and not value.grad.any()


@pytest.mark.parametrize("device", DEVICES)
def test_outside_is_zero_and_never_read(ms_deform_attn, device):
    value, shapes, starts, locations, weights = make_inputs([(3, 3)], heads=1, device=device)
    value[:] = float("nan")  # NaN everywhere: any read shows
    for far in (-5.0, 7.0, 1e30, -1e30, float("inf"), float("-inf"), float("nan")):
        locations[:] = far
        inputs = [x.clone().requires_grad_() for x in (value, locations, weights)]
        out = ms_deform_attn.ms_deform_attn(inputs[0], shapes, starts, *inputs[1:])
        assert torch.equal(out, torch.zeros_like(out))
        out.sum().backward()
        for x in inputs:
            assert torch.equal(x.grad, torch.zeros_like(x))


def test_deterministic_on_cpu(ms_deform_attn):
    """The same bits every time, and whatever the number of threads."""
    value, shapes, starts, locations, weights = make_inputs([(8, 8), (4, 4)], queries=300, channels=32, heads=4)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            inputs = [x.clone().requires_grad_() for x in (value, locations, weights)]
            out = ms_deform_attn.ms_deform_attn(inputs[0], shapes, starts, *inputs[1:])
            out.square().sum().backward()
            results.append([out.detach()] + [x.grad for x in inputs])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for x, y in zip(results[0], other):
            assert torch.equal(x, y)


def test_wrong_inputs(ms_deform_attn):
    value, shapes, starts, locations, weights = make_inputs([(3, 4), (2, 2)])
    call = ms_deform_attn.ms_deform_attn
    with pytest.raises(RuntimeError, match="does not fit into"):
        call(value, shapes + 1, starts, locations, weights)
    with pytest.raises(RuntimeError, match="does not fit into"):
        call(value, shapes, starts - 1, locations, weights)
    with pytest.raises(RuntimeError, match="disagree about dimension 1"):
        call(value, shapes, starts, locations, weights[:, :1])
    with pytest.raises(RuntimeError, match="disagree about batch or heads"):
        call(value[:1], shapes, starts, locations, weights)
    with pytest.raises(RuntimeError, match="one entry a level"):
        call(value, shapes[:1], starts[:1], locations, weights)
    with pytest.raises(RuntimeError, match="int64"):
        call(value, shapes.int(), starts, locations, weights)
    with pytest.raises(RuntimeError, match="float32, float64"):
        call(value.long(), shapes, starts, locations, weights)
    with pytest.raises(RuntimeError, match="value must be"):
        call(value[0], shapes, starts, locations, weights)


def test_no_second_derivative(ms_deform_attn):
    value, shapes, starts, locations, weights = make_inputs([(3, 4)])
    value.requires_grad_()
    out = ms_deform_attn.ms_deform_attn(value, shapes, starts, locations, weights)
    (gradient,) = torch.autograd.grad(out.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
def test_torch_compile(ms_deform_attn, device):
    """One graph, dynamic sizes, gradients."""

    def step(value, shapes, starts, locations, weights):
        return ms_deform_attn.ms_deform_attn_logits(value * 2, shapes, starts, locations, weights) + 1

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for queries in (4, 9):
        value, shapes, starts, locations, weights = make_inputs([(3, 4), (2, 2)], queries=queries, device=device)
        wanted, got = (
            gradients(
                lambda v, place, w, f=f, shapes=shapes, starts=starts: f(v, shapes, starts, place, w),
                (value, locations, weights),
                torch.ones(2, queries, 16, device=device),
            )
            for f in (step, compiled)
        )
        for x, y in zip(got, wanted):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("device", DEVICES)
def test_layers(ms_deform_attn, device):
    value, shapes, starts, locations, weights = make_inputs([(3, 4), (2, 2)], device=device)
    layers = ms_deform_attn.layers
    for layer, function in (
        (layers.MultiScaleDeformableAttention(), ms_deform_attn.ms_deform_attn),
        (layers.MultiScaleDeformableAttentionLogits(), ms_deform_attn.ms_deform_attn_logits),
    ):
        assert layer.has_backward and layer.can_torch_compile and not list(layer.parameters())
        out = layer(value, shapes, [(3, 4), (2, 2)], starts, locations, weights, 64)
        assert torch.equal(out, function(value, shapes, starts, locations, weights))
