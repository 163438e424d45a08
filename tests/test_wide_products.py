"""Many rows are multiplied in float32: when, how exactly, within which memory, and that nothing else changes."""

import copy
import io
import pickle
import re

import pytest
import torch
from torch import nn

from transformers_groma import float32_products, wide_products
from transformers_groma.float32_products import MANY_ROWS
from transformers_groma.loading import check_loading, choose_products, load_model
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.perceiver_loading import load_perceiver
from transformers_groma.wide_products import (
    WideConv2d,
    WideLinear,
    has_half_precision_units,
    slow_dtypes,
    widen_products,
)

TINY = "hub_configs/groma-tiny"
HALF = (torch.bfloat16, torch.float16)


def linear(size_in=96, size_out=64, dtype=torch.bfloat16, bias=True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(size_in, size_out, bias=bias, dtype=dtype).requires_grad_(False)


def error(output: torch.Tensor, layer: nn.Linear, given: torch.Tensor) -> float:
    """How far an output is from the layer computed in float64."""
    bias = None if layer.bias is None else layer.bias.double()
    return (output.double() - nn.functional.linear(given.double(), layer.weight.double(), bias)).abs().max().item()


@pytest.fixture
def computed_wide(monkeypatch) -> list[int]:
    """The rows of every product that is computed in float32 from here on."""
    rows = []
    compute = wide_products.linear_in_float32

    def noted(given, *arguments):
        rows.append(given.numel() // given.shape[-1])
        return compute(given, *arguments)

    monkeypatch.setattr(wide_products, "linear_in_float32", noted)
    return rows


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("part", [1, 7 * 96, 10**9])
def test_as_exact_as_before(monkeypatch, dtype, bias, part):
    """Against float64, in parts of any size: never more than half a step of the dtype."""
    monkeypatch.setattr(float32_products, "_PART", part)
    layer = linear(dtype=dtype, bias=bias)
    given = torch.randn(3, MANY_ROWS, 96).to(dtype)
    plain = layer(given)
    assert widen_products(layer) == 1
    output = layer(given)
    assert output.dtype == dtype and output.shape == plain.shape
    assert error(output, layer, given) <= error(plain, layer, given)
    step = torch.finfo(dtype).eps * output.double().abs().max()
    assert error(output, layer, given) <= step / 2 + 1e-6


def test_from_how_many_rows(computed_wide):
    layer = linear()
    plain = copy.deepcopy(layer)
    widen_products(layer)
    for shape in ((1,), (MANY_ROWS - 1,), (MANY_ROWS,), (2, MANY_ROWS // 2), (1, 1), (0,)):
        given = torch.randn(*shape, 96).bfloat16()
        assert torch.allclose(layer(given), plain(given), atol=0.02)
    assert computed_wide == [MANY_ROWS, MANY_ROWS]
    single = torch.randn(96).bfloat16()
    assert torch.equal(layer(single), plain(single))


def test_only_in_plain_inference(computed_wide):
    layer = linear()
    widen_products(layer)
    given = torch.randn(MANY_ROWS, 96).bfloat16()
    layer(given.clone().requires_grad_()).sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(given)
    layer.requires_grad_(True)
    layer(given).sum().backward()
    assert layer.weight.grad is not None and computed_wide == []
    with torch.no_grad():
        layer(given)
    assert computed_wide == [MANY_ROWS]


def test_compiled_code_is_plain(computed_wide):
    layer = linear()
    plain = copy.deepcopy(layer)
    widen_products(layer)
    torch.compiler.reset()
    given = torch.randn(MANY_ROWS, 96).bfloat16()
    assert torch.equal(torch.compile(layer, backend="eager")(given), plain(given))
    assert computed_wide == []
    torch.compiler.reset()


def test_convolutions():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 6, 3, padding=1, dtype=torch.bfloat16).requires_grad_(False)
    given = torch.randn(2, 8, 9, 7).bfloat16()
    plain = layer(given)
    assert widen_products(layer) == 1 and isinstance(layer, WideConv2d)
    exact = copy.deepcopy(layer).double()(given.double())
    assert layer(given).dtype == torch.bfloat16
    assert (layer(given) - exact).abs().max() <= (plain - exact).abs().max()


def test_other_layers_stay():
    model = nn.Sequential(linear(dtype=torch.float32), nn.LayerNorm(4).bfloat16(), nn.Embedding(3, 4).bfloat16())
    assert widen_products(model) == 0 and type(model[0]) is nn.Linear
    assert widen_products(linear(), ()) == 0 and widen_products(linear(), (torch.float16,)) == 0


def test_weights_names_and_copies_stay():
    layer = linear()
    before = layer.state_dict()
    assert widen_products(layer) == 1 and widen_products(layer) == 1
    after = layer.state_dict()
    assert list(before) == list(after) and all(before[name].data_ptr() == after[name].data_ptr() for name in before)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(again) is WideLinear and torch.equal(again.weight, layer.weight)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert type(torch.load(buffer, weights_only=False)) is WideLinear


def test_memory_of_a_part(monkeypatch):
    """Of a layer's weights, only a part is float32 at a time."""
    sizes = []
    compute = nn.functional.linear
    monkeypatch.setattr(
        nn.functional,
        "linear",
        lambda given, weight, bias=None: sizes.append(weight.numel()) or compute(given, weight),
    )
    monkeypatch.setattr(float32_products, "_PART", 10 * 96)
    layer = linear(bias=False)
    widen_products(layer)
    layer(torch.randn(MANY_ROWS, 96).bfloat16())
    assert max(sizes) == 10 * 96 and sum(sizes) == layer.weight.numel()


def test_what_units_a_cpu_has(monkeypatch):
    """AVX-512 without bfloat16 units is slow in it, although torch's own kernels accept it."""
    monkeypatch.setattr(wide_products.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)
    for avx512, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: avx512)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert has_half_precision_units(torch.bfloat16) is (avx512 or amx)
        assert slow_dtypes() == ((torch.float16,) if avx512 or amx else HALF)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not has_half_precision_units(torch.bfloat16)  # as ONEDNN_MAX_CPU_ISA can make it
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(wide_products.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert has_half_precision_units(torch.bfloat16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert slow_dtypes() == HALF
    with pytest.raises(ValueError, match=r"`dtype` must be torch.bfloat16 or torch.float16, got torch.float32"):
        has_half_precision_units(torch.float32)


def test_the_question_can_be_asked_here():
    """Of this machine, with the functions that this release of torch has."""
    assert set(slow_dtypes()) <= set(HALF)


@pytest.mark.parametrize(
    ("wanted", "slow", "expected"),
    [
        ("auto", HALF, True),
        ("auto", (torch.float16,), False),
        ("auto", (), False),
        ("float32", (), True),
        ("plain", HALF, False),
    ],
)
def test_the_options(monkeypatch, wanted, slow, expected):
    monkeypatch.setattr("transformers_groma.loading.slow_dtypes", lambda: slow)
    layer = linear()
    choose_products(layer, torch.device("cpu"), LoadingOptions(wide_products=wanted))
    assert (type(layer) is WideLinear) is expected
    layer = linear()
    choose_products(layer, torch.device("meta"), LoadingOptions(wide_products=wanted))
    assert type(layer) is nn.Linear


def test_options_that_change_nothing(caplog):
    choose_products(linear(dtype=torch.float32), torch.device("cpu"), LoadingOptions(wide_products="float32"))
    assert "`wide_products='float32'` changes nothing, as no layer computes in half precision" in caplog.text
    with pytest.raises(ValueError, match="is for weights in half precision, and `dtype='float32'` loads none"):
        LoadingOptions(dtype="float32", wide_products="float32")
    with pytest.raises(ValueError, match="`wide_products` must be one of 'auto', 'float32', 'plain', got 'wide'"):
        LoadingOptions(wide_products="wide")
    with pytest.raises(ValueError, match=r"`wide_products='float32'` is for CPUs, and the device is 'cuda'"):
        check_loading(LoadingOptions(wide_products="float32"), torch.device("cuda"))


@pytest.mark.parametrize("name", ["groma-tiny", "glamm-tiny"])
def test_whole_models(name, tmp_path, computed_wide):
    """All half-precision parts, the head included; what is saved loads as before."""
    options = LoadingOptions(dtype="bfloat16", wide_products="float32")
    model, _ = load_model(f"hub_configs/{name}", "cpu", options)
    half = [
        module
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.dtype == torch.bfloat16
    ]
    assert len(half) > 20 and all(isinstance(module, (WideLinear, WideConv2d)) for module in half)
    assert type(model.lm_head) is WideLinear
    full = [module for module in model.modules() if type(module) is nn.Linear]
    assert full and all(module.weight.dtype == torch.float32 for module in full)
    plain, _ = load_model(f"hub_configs/{name}", "cpu", LoadingOptions(dtype="bfloat16", wide_products="plain"))
    exact, _ = load_model(f"hub_configs/{name}", "cpu")
    ids = torch.arange(3, 3 + 2 * MANY_ROWS)[None]
    with torch.no_grad():
        first, second, truth = (
            one.model.language_model(ids).last_hidden_state.float() for one in (model, plain, exact)
        )
    assert computed_wide and (first - truth).norm() < 1.05 * (second - truth).norm()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert type(again.lm_head) is nn.Linear and torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_offloaded_layers(computed_wide):
    """Layers that wait on disk compute wide, too, once their weights are there."""
    options = LoadingOptions(dtype="bfloat16", offload=True, wide_products="float32")
    model, _ = load_model(TINY, "cpu", options)
    layer = model.model.language_model.layers[0].mlp.up_proj
    assert layer.weight.is_meta
    ids = torch.arange(3, 3 + MANY_ROWS)[None]
    with torch.no_grad():
        model.model.language_model(ids)
    per_layer = sum(type(module) is WideLinear for module in model.model.language_model.layers[0].modules())
    assert len(computed_wide) == per_layer * len(model.model.language_model.layers)


def test_perceivers(monkeypatch):
    monkeypatch.setattr("transformers_groma.loading.slow_dtypes", lambda: HALF)
    perceiver, _, _ = load_perceiver(TINY, "cpu", LoadingOptions(dtype="bfloat16"))
    assert any(isinstance(module, WideConv2d) for module in perceiver.modules())


def test_lora_before_and_after(computed_wide):
    """Adapters around wide layers, and wide layers inside of adapters."""
    peft = pytest.importorskip("peft")
    given = torch.randn(MANY_ROWS, 96).bfloat16()
    config = peft.LoraConfig(r=2, target_modules=["0"])
    for is_before in (True, False):
        model = nn.Sequential(linear())
        if is_before:
            widen_products(model)
        adapted = peft.get_peft_model(model, config)
        if not is_before:
            widen_products(adapted)
        computed_wide.clear()
        with torch.no_grad():
            output = adapted(given)
        assert MANY_ROWS in computed_wide
        merged = adapted.merge_and_unload()
        with torch.no_grad():
            assert torch.allclose(merged(given), output, atol=0.02)


def test_4_bits(monkeypatch):
    """Of bitsandbytes: many rows from the dequantized weight in float32, few rows as before."""
    pytest.importorskip("bitsandbytes")
    options = LoadingOptions(dtype="bfloat16", quantization="4bit", wide_products="float32")
    model, _ = load_model(TINY, "cpu", options)
    layer = model.model.language_model.layers[0].mlp.up_proj
    assert re.match("WideLinear4bit", type(layer).__name__)
    from bitsandbytes.functional import dequantize_4bit

    monkeypatch.setattr(layer, "support_avx512bf16_for_cpu", False, raising=False)  # which packs the weight
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).double()
    for rows in (1, MANY_ROWS):
        given = torch.randn(rows, weight.shape[1]).bfloat16()
        with torch.no_grad():
            output = layer(given)
        exact = given.double() @ weight.t()
        bound = 0.5 if rows == MANY_ROWS else 4
        assert (output.double() - exact).abs().max() <= bound * torch.finfo(
            torch.bfloat16
        ).eps * exact.abs().max() + 1e-6
