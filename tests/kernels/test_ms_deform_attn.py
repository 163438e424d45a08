"""The kernel's own tests, the original's golden outputs, and the layer in place of transformers'."""

from pathlib import Path

import pytest
import torch

from tests.golden import load_case

from .collect import kernel_tests

kernels = pytest.importorskip("kernels", reason="the kernels library is not installed")
globals().update(kernel_tests("ms-deform-attn"))


def test_golden(ms_deform_attn, golden_dir):
    tensors = {k.removeprefix("msda."): v for k, v in load_case(golden_dir, "ops")[1].items() if k.startswith("msda.")}
    shapes = tensors["spatial_shapes"]
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    inputs = (tensors["value"], shapes, starts, tensors["sampling_locations"])
    out = ms_deform_attn.ms_deform_attn(*inputs, tensors["attention_weights"])
    torch.testing.assert_close(out, tensors["output"], rtol=1e-5, atol=1e-6)
    out = ms_deform_attn.ms_deform_attn_logits(*inputs, tensors["attention_weights"].log())
    weights = tensors["attention_weights"].flatten(3)
    normalised = (weights / weights.sum(-1, keepdim=True)).view_as(tensors["attention_weights"])
    torch.testing.assert_close(out, ms_deform_attn.ms_deform_attn(*inputs, normalised), rtol=1e-5, atol=1e-6)


class Attention(torch.nn.Module):
    """A model with transformers' layer in it."""

    def __init__(self):
        super().__init__()
        from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

        class Layer(MultiScaleDeformableAttention):  # a class of our own: kernelize changes nothing for others
            pass

        kernels.replace_kernel_forward_from_hub(Layer, "MultiScaleDeformableAttention")
        self.attention = Layer()

    def forward(self, value, shapes, starts, locations, weights):
        shapes_list = [(3, 4), (2, 2)]
        return self.attention(value * 1, shapes, shapes_list, starts, locations, weights, 64)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_kernelize_transformers_layer(ms_deform_attn, training, compiled):
    """Same 7 arguments, same result and gradients; `kernelize` refuses layers that lack what a mode asks for."""
    mode = kernels.Mode.TRAINING if training else kernels.Mode.INFERENCE
    if compiled:
        mode |= kernels.Mode.TORCH_COMPILE
    reference_model, model = Attention().train(training), Attention().train(training)
    repository = kernels.LocalLayerRepository(
        Path(ms_deform_attn.__file__).parent, layer_name="MultiScaleDeformableAttention"
    )
    with kernels.use_kernel_mapping({"MultiScaleDeformableAttention": {"cpu": {mode: repository}}}):
        kernels.kernelize(model, mode=mode, device="cpu", use_fallback=False)
    assert "forward" in vars(model.attention)
    run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    results = []
    for function in (reference_model, run):
        value, shapes, starts, locations, weights = make_inputs([(3, 4), (2, 2)])  # noqa: F821
        inputs = [x.requires_grad_(training) for x in (value, locations, weights)]
        out = function(inputs[0], shapes, starts, *inputs[1:])
        if training:
            out.square().sum().backward()
        results.append([out.detach()] + [x.grad for x in inputs if training])
    for x, y in zip(*results):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_autocast(ms_deform_attn):
    """Linear layers give bfloat16 values under autocast; locations and weights may stay in float32."""
    value, shapes, starts, locations, weights = make_inputs([(3, 4), (2, 2)])  # noqa: F821
    projection = torch.nn.Linear(8, 8)
    locations.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = ms_deform_attn.ms_deform_attn(projection(value), shapes, starts, locations, weights)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert locations.grad.dtype == torch.float32 and projection.weight.grad.dtype == torch.float32
    expected = ms_deform_attn.ms_deform_attn(projection(value), shapes, starts, locations, weights)
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=2e-2)
