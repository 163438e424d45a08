"""The operators with and without compiled kernels: equal results, and a fallback for any failure."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from tests.kernels.collect import KERNELS_DIR, TAKES_CPU_BUILDS, load_file
from tests.tiny import tiny_inputs, tiny_model
from transformers_groma import use_kernels
from transformers_groma.models import modeling_ops as ops

pytest.importorskip("kernels", reason="the kernels library is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with builds of both kernels for this machine."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing; the kernels cannot be built here")
    if not TAKES_CPU_BUILDS:
        pytest.skip("a CUDA build of torch loads no build for the CPU")
    build_local = load_file(KERNELS_DIR / "build_local.py")
    folder = tmp_path_factory.mktemp("kernels")
    for name in ops.KERNEL_NAMES:
        build_local.build(KERNELS_DIR / name, output_dir=folder / name / "build")
    return folder


@pytest.fixture(autouse=True)
def restore_kernels():
    before = dict(ops._kernels)
    yield
    ops._kernels.clear()
    ops._kernels.update(before)


@pytest.fixture
def log_lines(caplog):
    """Lines that the operators log."""
    name = "transformers_groma.models.modeling_ops"
    return lambda: [record.getMessage() for record in caplog.records if record.name == name]


def regions_case(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 6, side, side, generator=generator).to(dtype) for side in (16, 8, 4)]
    boxes = torch.rand(2, 5, 4, generator=generator) * 70 - 7  # mirrored and outlying boxes, too
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    return maps, boxes, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_roi_align(built, dtype, memory_format):
    maps, boxes, mask = regions_case(dtype)
    maps = [level.to(memory_format=memory_format) for level in maps]
    results = {}
    for source in ("reference", "local"):
        assert use_kernels(source, built)["roi-align"] == source
        layer = ops.GromaRoiAlign()
        leaves = [level.clone().requires_grad_() for level in maps]
        crops = layer(leaves, boxes, [1 / 3.5, 1 / 7, 1 / 14], 3, 2, mask)
        sum((crop.float() ** 2).sum() for crop in crops).backward()
        everything = layer(maps, boxes, [1 / 3.5, 1 / 7, 1 / 14], 3, 2)
        results[source] = [*crops, *(leaf.grad for leaf in leaves), *everything]
        assert [len(crop) for crop in crops] == [7, 7, 7]
        assert [len(crop) for crop in everything] == [10, 10, 10]
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 5e-2, "rtol": 5e-2}
    for one, other in zip(*results.values(), strict=True):
        assert one.dtype == dtype
        assert_close(one, other, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deformable_attention(built, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 5), (3, 4)]
    value = torch.randn(2, 42, 2, 4, generator=generator).to(dtype)
    locations = torch.rand(2, 7, 2, 2, 3, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, 7, 2, 2, 3, generator=generator).softmax(dim=-1).to(dtype)
    results = {}
    for source in ("reference", "local"):
        use_kernels(source, built)
        leaf = value.clone().requires_grad_()
        output = ops.GromaMultiScaleDeformableAttention()(
            leaf, torch.tensor(shapes), shapes, torch.tensor([0, 30]), locations, weights, 64
        )
        output.float().square().sum().backward()
        results[source] = (output, leaf.grad)
        assert output.dtype == dtype
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 5e-2, "rtol": 5e-2}
    for one, other in zip(*results.values(), strict=True):
        assert_close(one, other, **tolerance)


def test_the_model_gives_equal_outputs(built):
    model = tiny_model()
    inputs = tiny_inputs(model.config)
    outputs = {}
    for source in ("reference", "local"):
        use_kernels(source, built)
        outputs[source] = model(labels=inputs["input_ids"], **inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(model(**inputs).logits).all()
    one, other = outputs.values()
    assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
    assert_close(one.region_boxes, other.region_boxes, atol=1e-5, rtol=1e-4)
    gradients = {}
    for source in outputs:
        model.zero_grad()
        use_kernels(source, built)
        model(labels=inputs["input_ids"], **inputs).loss.backward()
        gradients[source] = model.model.region_encoder.input_convs[0].weight.grad.clone()
    assert_close(gradients["reference"], gradients["local"], atol=1e-5, rtol=1e-3)


def test_one_graph_with_kernels(built):
    use_kernels("local", built)
    model = tiny_model()
    inputs = tiny_inputs(model.config)
    compiled = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_models_choose_by_themselves(built, monkeypatch):
    monkeypatch.setattr(ops, "LOCAL_KERNELS", built)
    ops._kernels.clear()
    monkeypatch.setenv(ops.KERNELS_VARIABLE, "auto")
    tiny_model()
    assert all(kernel is not None for kernel in ops._kernels.values())
    ops._kernels.clear()
    monkeypatch.setenv(ops.KERNELS_VARIABLE, "reference")
    tiny_model()
    assert set(ops._kernels.values()) == {None}


def test_a_damaged_library_is_reported_once_and_replaced(built, tmp_path):
    """In a process of its own: what is loaded once stays loaded."""
    shutil.copytree(built, tmp_path / "kernels")
    for library in (tmp_path / "kernels" / "roi-align").rglob("*.so"):
        library.write_bytes(library.read_bytes()[:1000])
    code = f"""
import torch
from transformers_groma.models.modeling_ops import GromaRoiAlign, use_kernels
print(use_kernels("auto", {str(tmp_path / "kernels")!r}))
print(GromaRoiAlign()([torch.ones(1, 2, 8, 8)], torch.tensor([[[1.0, 1.0, 5.0, 5.0]]]), [1.0], 2, 2)[0].sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{'ms-deform-attn': 'local', 'roi-align': 'reference'}", "8.0"]
    (line,) = [line for line in done.stderr.splitlines() if "Plain torch" in line]
    assert "roi-align" in line
    assert "ms-deform-attn" not in line


def test_a_checkout_without_builds_is_silent(tmp_path, log_lines):
    for name in ops.KERNEL_NAMES:
        (tmp_path / name).mkdir()
    assert set(use_kernels("auto", tmp_path).values()) == {"reference"}
    assert log_lines() == []
    # Asked for by name it is worth a line.
    assert set(use_kernels("local", tmp_path).values()) == {"reference"}
    (line,) = log_lines()
    assert "build_local.py" in line


def test_the_hub_out_of_reach(tmp_path, log_lines):
    """Tests run offline: the Hub cannot be asked, and the model works all the same."""
    assert set(use_kernels("hub", tmp_path).values()) == {"reference"}
    assert len(log_lines()) == 1
    assert tiny_model() is not None


def test_unknown_source():
    with pytest.raises(ValueError, match="'fast'"):
        use_kernels("fast")


class TestComputingDtype:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_of_the_first_weight(self, dtype):
        first, second = torch.nn.Linear(2, 2, dtype=dtype), torch.nn.Linear(2, 2, dtype=torch.float32)
        assert ops.computing_dtype(torch.nn.Sequential(torch.nn.ReLU(), first, second), torch.float64) == dtype

    @pytest.mark.parametrize("quantized", [torch.int8, torch.uint8, torch.float8_e4m3fn])
    def test_quantized_weights_do_not_count(self, quantized):
        layer = torch.nn.Linear(2, 2, dtype=torch.float16)
        layer.weight = torch.nn.Parameter(layer.weight.to(quantized), requires_grad=False)
        assert ops.computing_dtype(layer, torch.float32) == torch.float16  # its bias
        layer.bias = None
        assert ops.computing_dtype(layer, torch.float32) == torch.float32
        assert (
            ops.computing_dtype(torch.nn.Sequential(layer, torch.nn.Linear(1, 1).half()), torch.float32)
            == torch.float16
        )

    def test_offloaded_weights_and_weights_that_are_no_parameters(self):
        assert (
            ops.computing_dtype(torch.nn.Linear(2, 2, device="meta", dtype=torch.bfloat16), torch.float32)
            == torch.bfloat16
        )
        layer = torch.nn.Linear(2, 2, bias=False)
        weight = layer.weight.data.half()
        del layer.weight
        layer.weight = weight  # as FSDP's first version while a layer runs
        assert ops.computing_dtype(layer, torch.float32) == torch.float16


# -------------------------------------------------------------------------------------------- which kernel, if any


@pytest.mark.parametrize(
    "imported",
    [None, ModuleType("kernels")],
    ids=["nothing of that name", "a folder of that name, as in the root of a checkout"],
)
def test_without_the_kernels_library(monkeypatch, log_lines, tmp_path, imported):
    monkeypatch.setitem(sys.modules, "kernels", imported)
    assert set(use_kernels("auto", tmp_path / "nowhere").values()) == {"reference"}
    assert set(use_kernels("auto", tmp_path).values()) == {"reference"}
    assert log_lines() == []
    for number, source in enumerate(("local", "hub"), start=1):
        assert set(use_kernels(source, tmp_path).values()) == {"reference"}
        assert len(log_lines()) == number


def test_where_there_is_no_checkout_the_hub_is_asked(tmp_path, log_lines):
    use_kernels("auto", tmp_path / "nowhere")
    (line,) = log_lines()
    assert all(name in line for name in ops.KERNEL_NAMES)


def test_nothing_is_asked_for_in_vain(monkeypatch, tmp_path):
    monkeypatch.setattr(ops, "_load_kernel", lambda *_: pytest.fail("a kernel was looked for"))
    assert use_kernels("reference", tmp_path) == dict.fromkeys(ops.KERNEL_NAMES, "reference")
    monkeypatch.setenv(ops.KERNELS_VARIABLE, "reference")
    assert use_kernels(folder=tmp_path) == dict.fromkeys(ops.KERNEL_NAMES, "reference")
    # Layers that are made later leave the choice as it is.
    monkeypatch.setattr(ops, "use_kernels", lambda *_: pytest.fail("the kernels were chosen again"))
    ops.GromaRoiAlign()
    ops._kernels.clear()
    with pytest.raises(pytest.fail.Exception, match="chosen again"):
        ops.GromaRoiAlign()


@pytest.mark.parametrize(
    ("file", "device", "fits"),
    [
        ("build/torch213-cxx11-cpu-x86_64/op.py", "cpu", True),
        ("build/torch213-cxx11-cpu-x86_64/op.py", "cuda", False),
        ("build/torch213-cxx11-cu130-x86_64/op.py", "cuda", True),
        ("build/torch213-cxx11-cu130-x86_64/op.py", "cpu", True),
        ("build/torch213-cxx11-cu130-x86_64/op.py", "mps", False),
    ],
)
def test_a_build_serves_the_devices_that_it_was_made_for(file, device, fits):
    kernel = SimpleNamespace(__file__=file)
    ops._kernels["roi-align"] = kernel
    tensor = SimpleNamespace(device=SimpleNamespace(type=device))
    assert ops._kernel_for("roi-align", tensor) is (kernel if fits else None)
    ops._kernels["roi-align"] = None
    assert ops._kernel_for("roi-align", tensor) is None
    assert ops._kernel_for("another", tensor) is None


# ----------------------------------------------------------------------------------------------- plain torch, in loops


def sampled(pixels: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """A bilinear sample of `(C, H, W)` as mmcv takes it."""
    height, width = pixels.shape[-2:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return pixels.new_zeros(len(pixels))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = pixels[:, top, left] * (1 - (x - left)) + pixels[:, top, right] * (x - left)
    lower = pixels[:, bottom, left] * (1 - (x - left)) + pixels[:, bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


@pytest.mark.parametrize(("output_size", "sampling_ratio"), [(1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("limit", [1, 200, 10**9])
def test_roi_align_in_plain_torch_is_the_mean_of_samples(output_size, sampling_ratio, limit, monkeypatch):
    """Also if boxes are mirrored, stick out or lie outside, and however many regions are cropped at a time."""
    use_kernels("reference")
    monkeypatch.setattr(ops, "MAX_ROI_ALIGN_ELEMENTS", limit)
    pixels = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(
        [
            [[1.0, 1, 5, 4], [5, 4, 1, 1], [-3, -2, 3, 3], [4, 2, 12, 9]],
            [[0, 0, 7, 5], [2.5, 2.5, 2.5, 2.5], [-9, -9, -5, -5], [-1.5, -0.5, 8.5, 6.5]],
        ]
    )
    (crops,) = ops.GromaRoiAlign()([pixels], boxes * 2, [0.5], output_size, sampling_ratio)
    crops = crops.unflatten(0, (2, 4))
    steps = output_size * sampling_ratio
    for image in range(2):
        for region, (x1, y1, x2, y2) in enumerate(boxes[image].tolist()):
            expected = torch.zeros(3, output_size, output_size)
            for row in range(steps):
                for column in range(steps):
                    y = y1 - 0.5 + (row + 0.5) * (y2 - y1) / steps
                    x = x1 - 0.5 + (column + 0.5) * (x2 - x1) / steps
                    value = sampled(pixels[image], y, x) / sampling_ratio**2
                    expected[:, row // sampling_ratio, column // sampling_ratio] += value
            assert_close(crops[image, region], expected, atol=1e-5, rtol=1e-4)


def test_roi_align_under_autocast_keeps_its_weights_exact():
    use_kernels("reference")
    maps, boxes, mask = regions_case()
    expected = ops.GromaRoiAlign()(maps, boxes, [1 / 3.5, 1 / 7, 1 / 14], 3, 2, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        crops = ops.GromaRoiAlign()(maps, boxes, [1 / 3.5, 1 / 7, 1 / 14], 3, 2, mask)
    for one, other in zip(crops, expected, strict=True):
        assert torch.equal(one, other)
