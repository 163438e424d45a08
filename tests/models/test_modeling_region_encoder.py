"""The region encoder against its plain definition: resizing, fusion, cropping. Random weights, seconds."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.tiny import REGION_ENCODER
from transformers_groma import GromaRegionEncoderConfig
from transformers_groma.models import modeling_region_encoder
from transformers_groma.models.modeling_region_encoder import (
    WIDE_CONVOLUTION_CHANNELS,
    GromaFeatureFusion,
    GromaRegionEncoder,
    _coordinate_maps,
    _fastest_memory_format,
    resize_map,
)

WIDTH, GRID, IMAGE_SIZE = 8, 4, 56


def tiny_encoder(**settings) -> GromaRegionEncoder:
    torch.manual_seed(0)
    config = GromaRegionEncoderConfig(**{**REGION_ENCODER, "roi_strides": [3.5, 7.0, 14.0], **settings})
    return GromaRegionEncoder(config, WIDTH, output_size=10, image_size=IMAGE_SIZE).eval()


def tiny_maps(batch_size: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch_size, WIDTH, GRID, GRID, generator=generator) for _ in range(3)]


BOXES = torch.tensor(
    [
        [[0.5, 0.5, 0.4, 0.2], [0.2, 0.7, 0.3, 0.5], [0.8, 0.1, 0.2, 0.2]],
        [[0.3, 0.3, 0.1, 0.6], [0.5, 0.5, 1, 1], [0.0, 0, 0, 0]],
    ]
)
MASK = torch.tensor([[True, True, False], [True, False, False]])


class TestResizing:
    def test_the_corners_are_aligned(self):
        small = torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]])
        expected = torch.tensor([[0.0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]])
        assert_close(resize_map(small, size=(4, 4))[0, 0], expected)
        assert_close(resize_map(small, like=torch.zeros(1, 5, 4, 4))[0, 0], expected)
        assert resize_map(small, size=(2, 5)).shape == (1, 1, 2, 5)

    def test_a_map_of_the_right_size_is_taken_as_it_is(self):
        small = torch.zeros(1, 1, 2, 2)
        assert resize_map(small, size=(2, 2)) is small
        assert resize_map(small, like=torch.zeros(3, 9, 2, 2)) is small

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_rounded_once_at_the_end(self, dtype):
        small = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
        exact = nn.functional.interpolate(small.double(), size=(17, 13), mode="bilinear", align_corners=True)
        resized = resize_map(small, size=(17, 13))
        assert resized.dtype == dtype
        # Half a unit in the last place, not more.
        assert ((resized.double() - exact).abs() <= 0.51 * torch.finfo(dtype).eps * exact.abs() + 1e-6).all()

    def test_computed_in_float32(self, monkeypatch):
        """Here the CPU does so by itself; other devices round the weights of the pixels, too."""
        seen, interpolate = [], nn.functional.interpolate
        monkeypatch.setattr(
            nn.functional,
            "interpolate",
            lambda entry, **settings: seen.append(entry.dtype) or interpolate(entry, **settings),
        )
        assert resize_map(torch.ones(1, 1, 2, 2).half(), size=(4, 4)).dtype == torch.float16
        assert seen == [torch.float32]


class TestFusing:
    def test_every_map_sees_a_part_of_its_neighbours(self):
        fusion = GromaFeatureFusion(WIDTH, 2)
        fusion.norm = nn.Identity()
        nn.init.dirac_(fusion.conv.weight)
        maps = [torch.rand(1, WIDTH, side, side, generator=torch.Generator().manual_seed(side)) for side in (8, 4, 2)]
        fused = fusion(maps)
        for index, (own, finer, coarser) in enumerate(((0, 0, 1), (1, 0, 2), (2, 1, 2))):
            assert_close(fused[index][:, :4], maps[own][:, :4])
            assert_close(fused[index][:, 4:6], resize_map(maps[coarser][:, 6:], maps[own]))
            assert_close(fused[index][:, 6:], resize_map(maps[finer][:, 4:6], maps[own]))

    def test_hooks_of_the_norm_keep_what_it_gave(self):
        """The ReLU works in place only where nothing can have kept its input."""
        encoder, kept, gradients = tiny_encoder(), [], []
        norm = encoder.fuse_layers[0].norm
        handle = norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
        with torch.no_grad():
            encoder.fuse_feature_maps(tiny_maps())
        handle.remove()
        assert kept and all(output.min() < 0 for output in kept)
        norm.register_full_backward_hook(lambda module, inputs, outputs: gradients.append(outputs))
        sum(fused.sum() for fused in encoder.fuse_feature_maps(tiny_maps())).backward()
        assert len(gradients) == 3

    def test_fused_maps_are_normalized_and_not_negative(self):
        fusion = GromaFeatureFusion(WIDTH, 2)
        maps = [entry * 100 for entry in tiny_maps(1)]
        (fused, *_) = fusion(maps)
        expected = nn.functional.group_norm(
            fusion.conv(torch.cat([maps[0][:, :4], maps[1][:, 6:], maps[0][:, 4:6]], dim=1)), 2
        ).relu()
        assert_close(fused, expected)
        assert fused.min() == 0

    def test_coordinates_run_from_left_to_right_and_from_top_to_bottom(self):
        coordinates = _coordinate_maps(torch.zeros(2, 5, 2, 3, dtype=torch.bfloat16))
        assert coordinates.tolist() == [[[[-1, 0, 1], [-1, 0, 1]], [[-1, -1, -1], [1, 1, 1]]]]
        assert coordinates.dtype == torch.bfloat16

    @pytest.mark.parametrize("num_fuse_layers", [0, 1, 3])
    def test_maps_are_those_of_the_plain_definition(self, num_fuse_layers):
        """Enlarge, append the coordinates, convolve: the encoder does it in another order."""
        encoder = tiny_encoder(num_fuse_layers=num_fuse_layers)
        expected = []
        for entry, scale, conv in zip(tiny_maps(), (4, 2, 1), encoder.input_convs, strict=True):
            enlarged = resize_map(entry, size=(GRID * scale, GRID * scale))
            expected.append(conv(torch.cat([enlarged, _coordinate_maps(enlarged).expand(2, -1, -1, -1)], dim=1)))
        assert len(encoder.fuse_layers) == num_fuse_layers
        for layer in encoder.fuse_layers:
            expected = layer(expected)
        maps = encoder.fuse_feature_maps(tiny_maps())
        assert [tuple(entry.shape[-2:]) for entry in maps] == [(16, 16), (8, 8), (4, 4)]
        for entry, other in zip(maps, expected, strict=True):
            assert_close(entry, other, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize(
        ("channels", "dtype", "expected"),
        [
            (WIDE_CONVOLUTION_CHANNELS - 1, torch.float32, torch.channels_last),
            (WIDE_CONVOLUTION_CHANNELS, torch.float32, torch.contiguous_format),
            (WIDE_CONVOLUTION_CHANNELS, torch.bfloat16, torch.channels_last),
        ],
    )
    def test_memory_format(self, channels, dtype, expected):
        assert _fastest_memory_format(torch.zeros(1, channels, 1, 1, dtype=dtype)) is expected
        assert (
            _fastest_memory_format(torch.zeros(1, channels, 1, 1, dtype=dtype, device="meta")) is torch.channels_last
        )


class TestRegions:
    def test_a_region_is_encoded_alike_alone_in_a_batch_and_in_a_traced_graph(self, monkeypatch):
        encoder = tiny_encoder()
        regions = encoder(tiny_maps(), BOXES, MASK)
        assert regions.shape == (2, 3, 10)
        assert not regions[~MASK].any() and regions[MASK].all(dim=-1).all()
        for image, slot in MASK.nonzero().tolist():
            maps = [entry[image : image + 1] for entry in tiny_maps()]
            alone = encoder(maps, BOXES[image, slot].view(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
            assert_close(alone[0, 0], regions[image, slot], atol=1e-5, rtol=1e-4)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert_close(encoder(tiny_maps(), BOXES, MASK), regions, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("used", [0, 1, 2, 3])
    def test_any_number_of_slots_may_be_used(self, used):
        mask = torch.arange(3).expand(2, -1) < used
        regions = tiny_encoder()(tiny_maps(), BOXES, mask)
        assert regions.shape == (2, 3, 10)
        assert torch.equal(regions.any(dim=-1), mask)

    def test_as_many_images_at_once_as_fit_into_the_cache(self, monkeypatch):
        encoder, maps, batches = tiny_encoder(), tiny_maps(3), []
        boxes, mask = torch.cat([BOXES, BOXES[:1]]), torch.cat([MASK, torch.zeros_like(MASK[:1])])
        size = 16 * maps[0][0].nbytes  # of the finest map of an image
        fuse = encoder.fuse_feature_maps
        monkeypatch.setattr(encoder, "fuse_feature_maps", lambda maps: batches.append(len(maps[0])) or fuse(maps))
        expected = encoder(maps, boxes, mask).detach()
        for limit, at_once in (
            (3 * size, [3]),
            (3 * size - 1, [2, 1]),
            (2 * size - 1, [1, 1, 1]),
            (size, [1, 1, 1]),
            (size - 1, [3]),  # those of no image fit
            (0, [3]),
        ):
            monkeypatch.setattr(modeling_region_encoder, "CACHED_BYTES", limit)
            batches.clear()
            with torch.no_grad():
                tokens = encoder(maps, boxes, mask)
            assert batches == at_once
            assert_close(tokens, expected, atol=1e-5, rtol=1e-4)
            assert not tokens[~mask].any()

    def test_all_images_at_once_where_they_are_kept_or_learned_from(self, monkeypatch):
        encoder, batches = tiny_encoder(), []
        monkeypatch.setattr(modeling_region_encoder, "CACHED_BYTES", 16 * tiny_maps()[0][0].nbytes)
        fuse = encoder.fuse_feature_maps
        monkeypatch.setattr(encoder, "fuse_feature_maps", lambda maps: batches.append(len(maps[0])) or fuse(maps))
        encoder(tiny_maps(), BOXES, MASK)
        with torch.no_grad():
            tokens, fused = encoder(tiny_maps(), BOXES, MASK, return_maps=True)
            assert batches == [2, 2]
            assert_close(encoder(tiny_maps(), BOXES, MASK, fused_maps=fused), tokens)
            assert batches == [2, 2]
            assert_close(encoder(tiny_maps(), BOXES, MASK), tokens, atol=1e-5, rtol=1e-4)
            assert batches == [2, 2, 1, 1]
            assert not encoder(tiny_maps(), BOXES, torch.zeros_like(MASK)).any()
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
            encoder(tiny_maps(), BOXES, MASK)
        assert batches[-1] == 2

    @pytest.mark.parametrize("box_format", ["xyxy", "cxcywh"])
    def test_a_region_is_the_sum_of_its_crops_and_its_place(self, box_format):
        encoder = tiny_encoder(roi_box_format=box_format, num_fuse_layers=1)
        maps, box = encoder.fuse_feature_maps(tiny_maps(1)), BOXES[:1, 1:2]
        cx, cy, width, height = box.unbind(-1)
        corners = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], dim=-1)
        corners = (box if box_format == "cxcywh" else corners) * IMAGE_SIZE
        crops = [
            encoder.roi_align([entry], corners, [1 / stride], 3, 2)[0] for entry, stride in zip(maps, (3.5, 7, 14))
        ]
        content = sum(conv(crop) for conv, crop in zip(encoder.roi_convs, crops)).relu()
        content = encoder.roi_projection(content.flatten(1))
        expected = encoder.output_projection(content + encoder.box_embedding(box[0]))
        actual = encoder(tiny_maps(1), box, torch.ones(1, 1, dtype=torch.bool))
        assert_close(actual[0], expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_gives_regions_of_its_dtype_for_boxes_of_float32(self, dtype):
        exact = tiny_encoder()(tiny_maps(), BOXES, MASK)
        maps = [entry.to(dtype) for entry in tiny_maps()]
        regions = tiny_encoder().to(dtype)(maps, BOXES, MASK)
        assert regions.dtype == dtype
        assert_close(regions.float(), exact, atol=0.1, rtol=0.1)

    def test_settings_that_are_not_defaults(self):
        encoder = tiny_encoder(roi_output_size=2, region_hidden_size=12, position_hidden_size=6)
        assert encoder.roi_projection.in_features == WIDTH * 4
        assert encoder(tiny_maps(), BOXES, MASK).shape == (2, 3, 10)

    def test_gradients_reach_every_weight_and_the_maps(self):
        encoder = tiny_encoder()
        maps = [entry.requires_grad_() for entry in tiny_maps()]
        encoder(maps, BOXES, MASK).square().sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name
        assert all(entry.grad.any() for entry in maps)

    @pytest.mark.parametrize(("width", "groups"), [(10, 5), (8, 3), (6, 2)])
    def test_widths_that_do_not_fit(self, width, groups):
        config = GromaRegionEncoderConfig(**{**REGION_ENCODER, "roi_strides": [1, 2, 4], "group_norm_groups": groups})
        with pytest.raises(
            ValueError, match=rf"hidden_size \({width}\) must be a multiple of 4 and of .* \({groups}\)"
        ):
            GromaRegionEncoder(config, width, output_size=10, image_size=IMAGE_SIZE)
