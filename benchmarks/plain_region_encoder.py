"""The benchmarks' baseline: the original's region encoder in plain torch."""

import torch
from torch import Tensor, nn

from transformers_groma.boxes import box_cxcywh_to_xyxy
from transformers_groma.models.modeling_region_encoder import GromaRegionEncoder


class PlainRegionEncoder:
    """The original's region encoder for the regions of one image, with the weights of ours."""

    def __init__(self, encoder: GromaRegionEncoder) -> None:
        self.encoder, self.config = encoder, encoder.config

    def __call__(self, feature_maps: list[Tensor], boxes: Tensor, mask: Tensor) -> Tensor:
        return self.encode(self.crop(self.fuse(feature_maps), boxes), boxes)

    def fuse(self, feature_maps: list[Tensor]) -> list[Tensor]:
        """The three maps: enlarged, with coordinates, through the convolutions."""
        maps = []
        for feature_map, scale, conv in zip(feature_maps, (4, 2, 1), self.encoder.input_convs, strict=True):
            side = feature_map.shape[-1] * scale
            enlarged = nn.functional.interpolate(feature_map, size=(side, side), mode="bilinear", align_corners=True)
            line = torch.linspace(-1, 1, side)
            y, x = torch.meshgrid(line, line, indexing="ij")
            position = torch.stack([x, y])[None].expand(len(enlarged), -1, -1, -1)
            maps.append(conv(torch.cat([enlarged, position], dim=1)))
        for layer in self.encoder.fuse_layers:
            maps = [layer.norm(layer.conv(mixed)).relu() for mixed in layer.mix(maps)]
        return maps

    def crop(self, maps: list[Tensor], boxes: Tensor) -> list[Tensor]:
        """ROIAlign of normalized cxcywh boxes `(1, R, 4)`."""
        corners = box_cxcywh_to_xyxy(boxes[0]) * self.encoder.image_size
        return [
            self.roi_align(level, corners / stride)
            for level, stride in zip(maps, self.config.roi_strides, strict=True)
        ]

    def encode(self, crops: list[Tensor], boxes: Tensor) -> Tensor:
        """Region tokens `(1, R, hidden_size)`."""
        merged = sum(conv(crop) for conv, crop in zip(self.encoder.roi_convs, crops, strict=True))
        content = self.encoder.roi_projection(merged.relu().flatten(1))
        return self.encoder.output_projection(content + self.encoder.box_embedding(boxes[0]))[None]

    def roi_align(self, feature_map: Tensor, corners: Tensor) -> Tensor:
        size, ratio = self.config.roi_output_size, self.config.roi_sampling_ratio
        steps = (torch.arange(size * ratio) + 0.5) / (size * ratio)
        x1, y1, x2, y2 = (corners - 0.5).unbind(-1)
        x = x1[:, None] + steps * (x2 - x1)[:, None]
        y = y1[:, None] + steps * (y2 - y1)[:, None]
        last = feature_map.shape[-1] - 1
        grid_x = x.clamp(0, last)[:, None, :].expand(-1, len(steps), -1)
        grid_y = y.clamp(0, last)[:, :, None].expand(-1, -1, len(steps))
        grid = 2 * torch.stack([grid_x, grid_y], dim=-1) / last - 1
        samples = nn.functional.grid_sample(feature_map, grid.flatten(0, 1)[None], mode="bilinear", align_corners=True)
        samples = samples[0].unflatten(1, (len(corners), len(steps))).transpose(0, 1)
        inside_x, inside_y = ((axis >= -1) & (axis <= last + 1) for axis in (x, y))
        samples = samples * (inside_y[:, None, :, None] & inside_x[:, None, None, :])
        return nn.functional.avg_pool2d(samples, ratio)
