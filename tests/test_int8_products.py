"""Few rows are multiplied with int8 weights as they are: as exact as torchao's own way, and only where it is safe."""

import pytest
import torch
from torch import nn

from transformers_groma.float32_products import MANY_ROWS
from transformers_groma.int8_products import FEW_ROWS, Int8Linear, pack_int8_products
from transformers_groma.loading import load_model
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.wide_products import WideInt8Linear, widen_products

torchao = pytest.importorskip("torchao.quantization")


def quantized(size_in: int, size_out: int, dtype=torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(size_in, size_out, dtype=dtype).requires_grad_(False)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    return layer


def exact(layer: nn.Linear, given: torch.Tensor) -> torch.Tensor:
    weight = layer.weight.qdata.double() * layer.weight.scale.double()
    return nn.functional.linear(given.double(), weight, layer.bias.double())


@pytest.fixture
def packed(monkeypatch) -> list[int]:
    """The rows of every packed product."""
    rows, multiply = [], torch._weight_int8pack_mm
    monkeypatch.setattr(
        torch, "_weight_int8pack_mm", lambda given, *rest: rows.append(len(given)) or multiply(given, *rest)
    )
    return rows


def test_as_exact_as_torchao(packed):
    layer = quantized(128, 192)
    given = [torch.randn(1, rows, 128).bfloat16() for rows in (1, 2, 3, 5, FEW_ROWS - 1, FEW_ROWS, 100)]
    plain = [layer(one) for one in given]
    assert pack_int8_products(layer) == 1 and type(layer) is Int8Linear and isinstance(layer, nn.Linear)
    for one, before in zip(given, plain, strict=True):
        output, truth = layer(one), exact(layer, one)
        assert output.shape == before.shape and output.dtype == torch.bfloat16
        assert (output - truth).abs().max() <= 1.5 * (before - truth).abs().max()
    assert packed == [1, 2, 3, 5, FEW_ROWS - 1]
    strided = torch.randn(128, 4).bfloat16().t()
    assert torch.allclose(layer(strided), layer(strided.contiguous())) and packed[-2:] == [4, 4]
    assert layer(torch.zeros(0, 128).bfloat16()).shape == (0, 192)


@pytest.mark.parametrize(
    ("sizes", "dtype"), [((70, 64), torch.bfloat16), ((64, 33), torch.bfloat16), ((64, 64), torch.float32)]
)
def test_what_the_kernel_cannot_do(packed, sizes, dtype):
    """Sizes that are not whole blocks, which it would read past, and dtypes in which it is slower."""
    layer = quantized(*sizes, dtype)
    given = torch.randn(2, sizes[0]).to(dtype)
    before = layer(given)
    pack_int8_products(layer)
    assert torch.equal(layer(given), before) and packed == []


def test_gradients_pass(packed):
    layer = quantized(64, 64)
    pack_int8_products(layer)
    layer(torch.randn(2, 64).bfloat16().requires_grad_())
    assert packed == []


def test_with_wide_products(packed):
    """Few rows packed, many in float32."""
    layer = quantized(128, 64)
    few, many = torch.randn(2, 128).bfloat16(), torch.randn(MANY_ROWS, 128).bfloat16()
    plain = layer(many)
    pack_int8_products(layer)
    assert widen_products(layer) == 1 and widen_products(layer) == 1 and type(layer) is WideInt8Linear
    layer(few)
    truth = exact(layer, many)
    assert (layer(many) - truth).abs().max() <= (plain - truth).abs().max() and packed == [2]


@pytest.mark.parametrize("wide", ["plain", "float32"])
def test_loaded_models(wide):
    options = LoadingOptions(dtype="bfloat16", quantization="int8", wide_products=wide)
    model, _ = load_model("hub_configs/groma-tiny", "cpu", options)
    kinds = {type(module) for module in model.model.language_model.layers.modules() if isinstance(module, nn.Linear)}
    assert kinds == {Int8Linear if wide == "plain" else WideInt8Linear}
    ids = torch.arange(3, 3 + MANY_ROWS)[None]
    with torch.no_grad():
        assert torch.isfinite(model.model.language_model(ids).last_hidden_state).all()
