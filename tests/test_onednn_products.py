"""Float32 products of many rows with oneDNN: when, how exactly, and that nothing else changes."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transformers_groma import onednn_products
from transformers_groma.float32_products import MANY_ROWS
from transformers_groma.loading import choose_products
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.onednn_products import (
    MIN_FEATURES,
    MIN_MULTIPLICATIONS,
    OneDnnLinear,
    is_onednn_faster,
    onednn_linear,
    use_onednn,
)
from transformers_groma.wide_products import WideLinear, widen_products

# The fewest rows of a layer of MIN_FEATURES x MIN_FEATURES that oneDNN multiplies.
ROWS = MIN_MULTIPLICATIONS // MIN_FEATURES**2

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def faster(monkeypatch):
    """As on a machine where oneDNN is faster."""
    monkeypatch.setattr(onednn_products, "is_onednn_faster", lambda: True)


@pytest.fixture
def multiplied(monkeypatch) -> list[int]:
    """The rows of every product of oneDNN from here on."""
    rows, multiply = [], onednn_products.onednn_linear

    def noted(given, *arguments):
        rows.append(given.numel() // given.shape[-1])
        return multiply(given, *arguments)

    monkeypatch.setattr(onednn_products, "onednn_linear", noted)
    return rows


def linear(size_in=MIN_FEATURES, size_out=MIN_FEATURES, bias=True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(size_in, size_out, bias=bias).requires_grad_(False)


def given_rows(rows=ROWS, size=MIN_FEATURES) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_layer(bias, multiplied):
    layer = linear(MIN_FEATURES, 2 * MIN_FEATURES, bias)
    exact = copy.deepcopy(layer).double()
    assert use_onednn(layer) == 1
    flat = given_rows()
    views = (flat, flat.view(2, -1, MIN_FEATURES), flat.T.contiguous().T, flat[:1].expand(ROWS, -1), flat[::2])
    for given in views:
        output = layer(given)
        assert output.dtype == torch.float32 and output.shape == (*given.shape[:-1], 2 * MIN_FEATURES)
        assert (output.double() - exact(given.double())).abs().max() < 5e-6
    assert multiplied == [ROWS] * 4 + [ROWS // 2]


def test_from_how_many_rows(multiplied):
    layer = linear()
    use_onednn(layer)
    for rows in (0, 1, ROWS - 1, ROWS):
        assert layer(given_rows(rows)).shape == (rows, MIN_FEATURES)
    layer(given_rows(1)[0])
    assert multiplied == [ROWS]
    wide = linear(1024, 2048)
    use_onednn(wide)
    wide(given_rows(MANY_ROWS - 1, 1024))
    wide(given_rows(MANY_ROWS, 1024))
    assert multiplied == [ROWS, MANY_ROWS]


def test_which_layers():
    small = MIN_FEATURES - 1
    others = (linear(small), linear(size_out=small), linear().bfloat16(), linear().double(), nn.Conv2d(256, 256, 1))
    for layer in others:
        assert use_onednn(layer) == 0 and type(layer) is not OneDnnLinear


def test_nothing_where_it_is_not_faster(monkeypatch):
    monkeypatch.setattr(onednn_products, "is_onednn_faster", lambda: False)
    layer = linear()
    assert use_onednn(layer) == 0 and type(layer) is nn.Linear


def test_gradients_are_those_of_the_layer(multiplied):
    """Of the input, of the weight, or of the bias alone."""
    for name in ("input", "weight", "bias"):
        layer, given = linear(), given_rows()
        use_onednn(layer)
        tensor = given if name == "input" else getattr(layer, name)
        tensor.requires_grad_()
        layer(given).square().sum().backward()
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0
    assert multiplied == []
    layer, given = linear(), given_rows()
    plain = copy.deepcopy(layer)
    use_onednn(layer)
    tangents = [torch.func.jvp(one, (given,), (given,))[1] for one in (layer, plain)]
    assert torch.equal(*tangents) and tangents[0].abs().sum() > 0


def test_where_others_see_what_it_does(multiplied):
    layer, given = linear(), given_rows()
    plain = copy.deepcopy(layer)
    use_onednn(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(given).dtype == torch.bfloat16
    torch.compiler.reset()
    assert torch.equal(torch.compile(layer, backend="eager")(given), plain(given))
    torch.compiler.reset()
    assert "aten::linear" in str(torch.jit.trace(layer, given, check_trace=False).inlined_graph)
    assert multiplied == []
    exported = torch.export.export(layer, (given,))
    assert "_linear_pointwise" not in str(exported.graph)


def test_derivatives_within_functional_transforms(multiplied):
    """A tensor within `vmap` does not say that it needs a gradient, and has no tangent to ask for."""
    layer, given = linear(), given_rows()[None]
    plain = copy.deepcopy(layer)
    use_onednn(layer)
    gradients = [
        torch.func.grad(lambda rows, one=one: torch.vmap(one)(rows).square().sum())(given) for one in (layer, plain)
    ]
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0
    tangents = [torch.func.jvp(torch.vmap(one), (given,), (given,))[1] for one in (layer, plain)]
    assert torch.equal(*tangents) and multiplied == []


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse CSR tensor support")
def test_sparse_and_nested_tensors(multiplied):
    layer, given = linear(bias=False), given_rows()
    plain = copy.deepcopy(layer)
    use_onednn(layer)
    assert layer(torch.nested.nested_tensor([given, given[:3]])).is_nested
    sparse = plain.weight.relu().to_sparse_csr()
    plain.weight, layer.weight = nn.Parameter(sparse, False), nn.Parameter(sparse, False)
    assert torch.equal(layer(given), plain(given)) and multiplied == []


def test_where_onednn_is_switched_off_or_missing(multiplied, monkeypatch):
    """Also for a layer that was made where it was there."""
    layer, given = linear(), given_rows()
    use_onednn(layer)
    with torch.backends.mkldnn.flags(enabled=False):
        layer(given)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    layer(given)
    assert multiplied == []


def test_the_wrong_size_is_named():
    layer = linear()
    use_onednn(layer)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(given_rows(ROWS, MIN_FEATURES + 1))


def test_a_layer_that_moves(multiplied):
    layer = linear()
    use_onednn(layer)
    assert layer.to(torch.bfloat16)(given_rows().bfloat16()).dtype == torch.bfloat16
    assert layer.to("meta")(given_rows().to("meta", torch.bfloat16)).is_meta and multiplied == []
    layer = linear()
    use_onednn(layer)
    assert widen_products(layer.bfloat16()) == 1 and type(layer) is WideLinear


def test_weights_names_and_copies_stay(multiplied):
    layer = linear()
    before = layer.state_dict()
    assert use_onednn(layer) == 1 and use_onednn(layer) == 1
    after = layer.state_dict()
    assert list(before) == list(after) and all(before[name].data_ptr() == after[name].data_ptr() for name in before)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(again) is OneDnnLinear and torch.equal(again(given_rows()), layer(given_rows()))
    layer.weight.zero_()
    layer.bias.fill_(3)
    assert (layer(given_rows()) == 3).all()
    seen = []
    layer.register_forward_hook(lambda *_: seen.append("hook"))
    layer(given_rows())
    assert seen == ["hook"]


def test_threads_at_once():
    layer, given = linear(), given_rows()
    use_onednn(layer)
    expected = layer(given)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(output, expected) for output in pool.map(layer, [given] * 8))


@pytest.mark.parametrize(("wanted", "expected"), [("auto", True), ("float32", True), ("plain", False)])
def test_the_options(wanted, expected):
    layer = linear()
    choose_products(layer, torch.device("cpu"), LoadingOptions(wide_products=wanted))
    assert (type(layer) is OneDnnLinear) is expected
    layer = linear()
    choose_products(layer, torch.device("meta"), LoadingOptions(wide_products=wanted))
    assert type(layer) is nn.Linear


class TestMeasuring:
    @pytest.fixture(autouse=True)
    def fresh(self):
        onednn_products._takes_less_time.cache_clear()
        yield
        onednn_products._takes_less_time.cache_clear()

    @pytest.mark.parametrize(("own", "onednn", "expected"), [(2.0, 1.0, True), (1.2, 1.0, False), (1.0, 2.0, False)])
    def test_by_time(self, monkeypatch, own, onednn, expected):
        clock = [0.0]

        def taking(seconds):
            def multiply(*_):
                clock[0] += seconds

            return multiply

        monkeypatch.setattr(nn.functional, "linear", taking(own))
        monkeypatch.setattr(onednn_products, "onednn_linear", taking(onednn))
        monkeypatch.setattr(onednn_products.time, "perf_counter", lambda: clock[0])
        assert is_onednn_faster() is expected
        measured = clock[0]
        assert is_onednn_faster() is expected and clock[0] == measured  # once in a process

    def test_without_onednn(self, monkeypatch):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert not is_onednn_faster()

    @pytest.mark.parametrize("context", [torch.device("meta"), torch.autocast("cpu")], ids=["meta", "autocast"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_float32_on_a_cpu_whatever_the_caller_has_set(self, context, dtype, monkeypatch):
        measured, multiply = [], onednn_products.onednn_linear

        def noted(rows, weight):
            measured.append((rows.dtype, rows.device.type, weight.device.type, torch.is_autocast_enabled("cpu")))
            return multiply(rows, weight)

        monkeypatch.setattr(onednn_products, "onednn_linear", noted)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with context:
                assert is_onednn_faster() in (True, False)
        finally:
            torch.set_default_dtype(before)
        assert set(measured) == {(torch.float32, "cpu", "cpu", False)}

    def test_not_while_it_is_switched_off(self, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(onednn_products, "_takes_less_time", lambda: True)
            assert is_onednn_faster()
            with torch.backends.mkldnn.flags(enabled=False):
                assert not is_onednn_faster()
            assert is_onednn_faster()

    def test_operations_are_counted(self):
        is_onednn_faster()
        with FlopCounterMode(display=False) as counter:
            onednn_linear(given_rows(3, 5), given_rows(4, 5))
        assert counter.get_total_flops() == 2 * 3 * 4 * 5


def test_single_products():
    given, weight = given_rows(3, 5), given_rows(4, 5)
    assert torch.allclose(onednn_linear(given, weight), given @ weight.T, atol=1e-5)
