"""3x3 convolutions with fewer multiplications: equal to the layer, and taken only where they may be."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from transformers_groma import GromaRegionEncoderConfig
from transformers_groma.models import modeling_fast_convolution
from transformers_groma.models.modeling_fast_convolution import TILE, convolve, saves_time
from transformers_groma.models.modeling_region_encoder import GromaRegionEncoder

# Smaller than those of the module, so that tests take little time.
MIN_CHANNELS, MIN_TILES = 64, 128


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(modeling_fast_convolution, "MIN_CHANNELS", MIN_CHANNELS)
    monkeypatch.setattr(modeling_fast_convolution, "MIN_TILES", MIN_TILES)


def wide_convolution(bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(MIN_CHANNELS, MIN_CHANNELS, kernel_size=3, padding=1, bias=bias)


def wide_map(batch_size: int = 1, height: int = 48, width: int = 48, channels: int = MIN_CHANNELS) -> torch.Tensor:
    return torch.randn(batch_size, channels, height, width, generator=torch.Generator().manual_seed(1))


class TestConvolving:
    @pytest.mark.parametrize(
        "shape", [(1, 48, 48), (3, 25, 27), (11, 14, 14), (1, 46, 53)], ids=["whole", "batch", "crops", "cut tiles"]
    )
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("is_onednn", [True, False])
    @torch.no_grad()
    def test_it_is_the_layer(self, shape, bias, is_onednn, monkeypatch):
        if is_onednn and not torch.backends.mkldnn.is_available():
            pytest.skip("this torch has no oneDNN")
        monkeypatch.setattr(modeling_fast_convolution, "is_onednn_faster", lambda: is_onednn)
        conv, entry = wide_convolution(bias), wide_map(*shape)
        expected = conv.double()(entry.double()).float()
        conv.float()
        assert saves_time(conv, [entry])
        for max_tiles in (1024, 50, 1):
            monkeypatch.setattr(modeling_fast_convolution, "MAX_TILES", max_tiles)
            for layout in (torch.contiguous_format, torch.channels_last):
                (convolved,) = convolve(conv, [entry.contiguous(memory_format=layout)])
                assert_close(convolved, expected, atol=2e-5, rtol=0)
                assert convolved.stride(1) == 1  # channels last

    def test_its_constants_are_numbers_also_where_it_is_imported_on_the_meta_device(self):
        with torch.device("meta"):
            matrices = modeling_fast_convolution._transforms()
        assert [matrix.device.type for matrix in matrices] == ["cpu"] * 3

    @torch.no_grad()
    def test_maps_of_several_sizes_and_small_ones(self):
        conv, maps = wide_convolution(), [wide_map(), wide_map(2, 9, 7), wide_map(2, 40, 40)]
        # All together: the filters are transformed once for all.
        assert [saves_time(conv, [entry]) for entry in maps] == [True, False, True] and saves_time(conv, maps)
        for convolved, entry in zip(convolve(conv, maps), maps, strict=True):
            assert_close(convolved, conv(entry), atol=2e-5, rtol=0)

    @torch.no_grad()
    def test_weights_that_change_count_at_once(self):
        conv, entry = wide_convolution(), wide_map()
        convolve(conv, [entry])
        conv.weight.mul_(2)
        assert_close(convolve(conv, [entry])[0], conv(entry), atol=4e-5, rtol=0)

    def test_gradients_are_those_of_the_layer(self):
        conv, entry = wide_convolution(), wide_map(height=24).requires_grad_()
        convolve(conv, [entry])[0].square().sum().backward()
        expected = torch.autograd.grad(conv(entry).square().sum(), [entry, conv.weight, conv.bias])
        for tensor, gradient in zip((entry, conv.weight, conv.bias), expected, strict=True):
            assert_close(tensor.grad, gradient)


class TestWhere:
    @torch.no_grad()
    def test_from_a_number_of_tiles_and_channels_on(self):
        conv, side = wide_convolution(), TILE
        assert saves_time(conv, [wide_map(MIN_TILES, side, side)])
        assert not saves_time(conv, [wide_map(MIN_TILES - 1, side, side)])
        assert saves_time(conv, [wide_map(MIN_TILES - 1, side, side), wide_map(1, side, side)])
        assert saves_time(conv, [wide_map(MIN_TILES // 2, side, side + 1)])
        narrow = nn.Conv2d(MIN_CHANNELS - 1, MIN_CHANNELS, 3, padding=1)
        assert not saves_time(narrow, [wide_map(channels=MIN_CHANNELS - 1)])

    @pytest.mark.parametrize(
        "change",
        [
            {"kernel_size": 5, "padding": 2},
            {"padding": 0},
            {"padding": "same"},
            {"stride": 2},
            {"dilation": 2},
            {"groups": 2},
            {"padding_mode": "reflect"},
        ],
        ids=lambda change: " ".join(change),
    )
    @torch.no_grad()
    def test_other_convolutions_stay_as_they_are(self, change):
        settings = {"kernel_size": 3, "padding": 1} | change
        conv, entry = nn.Conv2d(MIN_CHANNELS, MIN_CHANNELS, **settings), wide_map()
        assert not saves_time(conv, [entry])
        assert torch.equal(convolve(conv, [entry])[0], conv(entry))

    def test_not_where_gradients_are_needed(self):
        conv, entry = wide_convolution(), wide_map()
        assert not saves_time(conv, [entry])
        conv.requires_grad_(False)
        assert saves_time(conv, [entry])
        assert not saves_time(conv, [entry.clone().requires_grad_()])
        conv.bias.requires_grad_()
        assert not saves_time(conv, [entry])
        conv.bias.requires_grad_(False)
        tangents = [
            torch.func.jvp(way, (entry,), (entry,))[1] for way in (conv, lambda given: convolve(conv, [given])[0])
        ]
        assert torch.equal(*tangents)

    def test_gradients_through_images_that_are_mapped(self):
        conv, entry = wide_convolution().requires_grad_(False), wide_map()[None]
        gradients = [
            torch.func.grad(lambda given, way=way: torch.vmap(way)(given).square().sum())(entry)
            for way in (conv, lambda given: convolve(conv, [given])[0])
        ]
        assert torch.equal(*gradients) and gradients[0].abs().sum() > 0

    @torch.no_grad()
    def test_not_in_half_precision_nor_elsewhere_than_on_a_cpu(self):
        conv, entry = wide_convolution(), wide_map()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not saves_time(conv, [entry])
            assert convolve(conv, [entry])[0].dtype == torch.bfloat16
        for change in ({"dtype": torch.bfloat16}, {"dtype": torch.float64}, {"device": "meta"}):
            assert not saves_time(wide_convolution().to(**change), [entry.to(**change)])

    @torch.no_grad()
    def test_not_where_a_layer_is_wrapped_hooked_or_traced(self, monkeypatch):
        entry, calls = wide_map(), []
        hooked, offloaded = wide_convolution(), wide_convolution()
        hooked.register_forward_hook(lambda module, inputs, output: calls.append("hook"))
        forward = offloaded.forward
        offloaded.forward = lambda *inputs: calls.append("forward") or forward(*inputs)
        for conv in (hooked, offloaded):
            convolve(conv, [entry])
        assert calls == ["hook", "forward"]
        handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append("any layer"))
        try:
            convolve(wide_convolution(), [entry])
        finally:
            handle.remove()
        assert calls[2:] == ["any layer"] and saves_time(wide_convolution(), [entry])
        assert not saves_time(nn.Sequential(wide_convolution()), [entry])
        assert not saves_time(nn.utils.parametrizations.weight_norm(wide_convolution()), [entry])
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not saves_time(wide_convolution(), [entry])


@torch.no_grad()
def test_a_region_encoder_gives_the_same_regions(monkeypatch):
    torch.manual_seed(0)
    config = GromaRegionEncoderConfig(roi_strides=[3.5, 7, 14], group_norm_groups=16, region_hidden_size=32)
    encoder = GromaRegionEncoder(config, MIN_CHANNELS, output_size=24, image_size=14 * 12).eval()
    maps, boxes = [torch.randn(1, MIN_CHANNELS, 12, 12) for _ in range(3)], torch.rand(1, 9, 4) * 0.4 + 0.1
    used, calls, own = torch.ones(1, 9, dtype=torch.bool), [], modeling_fast_convolution._convolve_tiles
    monkeypatch.setattr(
        modeling_fast_convolution, "_convolve_tiles", lambda *inputs: calls.append(inputs[0].shape) or own(*inputs)
    )
    regions = encoder(maps, boxes, used)
    # Five rounds of the three maps, and the crops of each map.
    sides = (48, 24, 12)
    assert calls == [(1, MIN_CHANNELS, side, side) for side in sides] * 5 + [(9, MIN_CHANNELS, 14, 14)] * 3
    monkeypatch.setattr(modeling_fast_convolution, "MIN_CHANNELS", MIN_CHANNELS + 1)
    assert_close(encoder(maps, boxes, used), regions, atol=1e-4, rtol=0)
    assert len(calls) == 18
