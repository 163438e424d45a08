"""The operators with compiled kernels and without: equal results, and a fallback for whatever is wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.kernels.collect import KERNELS_DIR, load_file
from tests.tiny import tiny_inputs, tiny_model
from transformers_groma import modeling_groma_ops as ops
from transformers_groma import use_kernels

pytest.importorskip("kernels", reason="the kernels library is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with builds of both kernels for this machine."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing; the kernels cannot be built here")
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
    name = "transformers_groma.modeling_groma_ops"
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
from transformers_groma.modeling_groma_ops import GromaRoiAlign, use_kernels
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
