"""The kernel's own tests, the original's golden outputs, and the layer in place of the model's."""

from pathlib import Path

import pytest
import torch

from tests.golden import load_case

from .collect import kernel_tests

kernels = pytest.importorskip("kernels", reason="the kernels library is not installed")
globals().update(kernel_tests("roi-align"))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_golden(roi_align, golden_dir, memory_format):
    """Mirrored boxes, boxes without area, boxes half and wholly outside: as mmcv computes them."""
    tensors = load_case(golden_dir, "ops")[1]
    feature_map = tensors["roialign.feat"].contiguous(memory_format=memory_format)
    for name, output_size, stride in (("out14_stride7", 14, 7), ("out14_stride28", 14, 28), ("out7_stride28", 7, 28)):
        (out,) = roi_align.roi_align([feature_map], tensors["roialign.rois"], [1 / stride], output_size, 2, True)
        torch.testing.assert_close(out, tensors[f"roialign.{name}"], rtol=1e-5, atol=1e-6)


class RegionModel(torch.nn.Module):
    """A model whose ROIAlign layer may be taken over; on its own it does nothing useful."""

    def __init__(self):
        super().__init__()

        class Layer(torch.nn.Module):
            def forward(self, feature_maps, rois, spatial_scales, output_size, sampling_ratio, aligned):
                return [
                    reference(x, rois, scale, (output_size, output_size), sampling_ratio, aligned)  # noqa: F821
                    for x, scale in zip(feature_maps, spatial_scales)
                ]

        kernels.replace_kernel_forward_from_hub(Layer, "RoiAlign")
        self.roi_align = Layer()

    def forward(self, feature_maps, rois):
        return torch.stack(self.roi_align([x * 1 for x in feature_maps], rois, [0.5, 0.25], 3, 2, True))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_kernelize(roi_align, training, compiled):
    mode = kernels.Mode.TRAINING if training else kernels.Mode.INFERENCE
    if compiled:
        mode |= kernels.Mode.TORCH_COMPILE
    reference_model, model = RegionModel().train(training), RegionModel().train(training)
    repository = kernels.LocalLayerRepository(Path(roi_align.__file__).parent, layer_name="RoiAlign")
    with kernels.use_kernel_mapping({"RoiAlign": {"cpu": {mode: repository}}}):
        kernels.kernelize(model, mode=mode, device="cpu", use_fallback=False)
    assert "forward" in vars(model.roi_align)
    run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    results = []
    for function in (reference_model, run):
        generator = torch.Generator().manual_seed(0)
        maps = [torch.randn(2, 4, n, n, generator=generator).requires_grad_(training) for n in (8, 4)]
        rois = make_rois(4, 2, 16, generator)  # noqa: F821
        out = function(maps, rois)
        if training:
            out.square().sum().backward()
        results.append([out.detach()] + [x.grad for x in maps if training])
    for x, y in zip(*results):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
