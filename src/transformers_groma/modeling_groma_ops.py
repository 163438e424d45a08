"""The two operators that make Groma's vision expensive, as plain torch layers: any device, any dtype, differentiable.

Both are stateless, so that a compiled kernel can take over their `forward`. Geometry is float32 whatever the model's dtype.
"""

import torch
from torch import Tensor, nn
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

# Elements of the largest intermediate of ROIAlign; regions are processed in groups that stay below it (256 MB).
MAX_ROI_ALIGN_ELEMENTS = 64 * 1024 * 1024


class GromaMultiScaleDeformableAttention(MultiScaleDeformableAttention):
    """Multi-scale deformable attention (Zhu et al., ICLR 2021) whose sampling runs in the dtype of the locations.

    transformers' layer wants values and locations of one dtype; in half precision the locations would be rounded to
    1/256 of the image. Here float32 locations sample half precision values, and the result has the values' dtype.
    """

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """Sample and sum values.

        Args:
            value (`Tensor` of shape `(B, sum of H*W, heads, channels)`): projected features of all levels.
            value_spatial_shapes (`Tensor` of shape `(levels, 2)`): `(H, W)` of each level.
            value_spatial_shapes_list (`list[tuple[int, int]]`): the same as numbers.
            level_start_index (`Tensor` of shape `(levels,)`): where each level starts in `value`.
            sampling_locations (`Tensor` of shape `(B, queries, heads, levels, points, 2)`): `(x, y)`, 0..1 over the map.
            attention_weights (`Tensor` of shape `(B, queries, heads, levels, points)`): weights, summing to 1.
            im2col_step (`int`): unused here; part of the kernel interface.

        Returns:
            `Tensor` of shape `(B, queries, heads * channels)`.
        """
        output = super().forward(
            value.to(sampling_locations.dtype),
            value_spatial_shapes,
            value_spatial_shapes_list,
            level_start_index,
            sampling_locations,
            attention_weights.to(sampling_locations.dtype),
            im2col_step,
        )
        return output.to(value.dtype)


class GromaRoiAlign(nn.Module):
    """ROIAlign (He et al., ICCV 2017) of the same boxes on several maps, `aligned=True`, average of the samples.

    Semantics are those of mmcv and of the original Groma: a sample outside of `-1 <= y <= H` (x alike) is 0 but counts
    in the average, samples between the border and the centre of the border pixel take the border pixel, and boxes of
    negative size are allowed (they are sampled mirrored).

    The bilinear weights of a region's sampling grid factor into a part for rows and one for columns, so each crop is two
    matrix products with the map, exact and without a gather.
    """

    def forward(
        self,
        feature_maps: list[Tensor],
        boxes: Tensor,
        spatial_scales: list[float],
        output_size: int,
        sampling_ratio: int,
    ) -> list[Tensor]:
        """Crop every box from every map.

        Args:
            feature_maps (`list[Tensor]`, each of shape `(B, C, H, W)`): maps of one or more resolutions.
            boxes (`Tensor` of shape `(B, R, 4)`, float32): `xyxy` boxes in the pixels that `spatial_scales` refers to.
            spatial_scales (`list[float]`): map pixels for each box pixel, one number a map (1 / stride).
            output_size (`int`): side `P` of the crops.
            sampling_ratio (`int`): samples a bin and side.

        Returns:
            `list[Tensor]`, each of shape `(B, R, C, P, P)`, in the dtype of its map, channels last in memory.
        """
        return [
            self._align(feature_map, boxes * scale, output_size, sampling_ratio)
            for feature_map, scale in zip(feature_maps, spatial_scales, strict=True)
        ]

    @staticmethod
    def _align(feature_map: Tensor, boxes: Tensor, output_size: int, sampling_ratio: int) -> Tensor:
        batch_size, channels, height, width = feature_map.shape
        # Autocast would round the weights to half precision.
        with torch.autocast(device_type=feature_map.device.type, enabled=False):
            x1, y1, x2, y2 = boxes.float().unbind(-1)
            rows = _bin_weights(y1, y2, height, output_size, sampling_ratio)  # (B, R, P, H)
            columns = _bin_weights(x1, x2, width, output_size, sampling_ratio)  # (B, R, P, W)
            # A channels-last map is read as it lies in memory.
            pixel_rows = feature_map.float().permute(0, 2, 3, 1).reshape(batch_size, height, width * channels)
            group = max(1, MAX_ROI_ALIGN_ELEMENTS // (batch_size * output_size * width * channels))
            crops = []
            for rows_group, columns_group in zip(rows.split(group, dim=1), columns.split(group, dim=1), strict=True):
                sampled = rows_group.flatten(1, 2) @ pixel_rows
                sampled = sampled.view(*rows_group.shape[:3], width, channels)
                crops.append(columns_group[:, :, None] @ sampled)  # (B, R, y bin, x bin, C)
            return torch.cat(crops, dim=1).to(feature_map.dtype).permute(0, 1, 4, 2, 3)


def _bin_weights(start: Tensor, end: Tensor, size: int, output_size: int, sampling_ratio: int) -> Tensor:
    """How much each of `size` map pixels counts in each output bin along one axis: `(..., output_size, size)`."""
    start, end = start[..., None] - 0.5, end[..., None] - 0.5
    steps = torch.arange(output_size * sampling_ratio, dtype=start.dtype, device=start.device) + 0.5
    samples = start + steps * ((end - start) / (output_size * sampling_ratio))
    inside = (samples >= -1.0) & (samples <= size)
    pixels = torch.arange(size, dtype=start.dtype, device=start.device)
    weights = (1 - (samples.clamp(0, size - 1)[..., None] - pixels).abs()).clamp(min=0) * inside[..., None]
    return weights.unflatten(-2, (output_size, sampling_ratio)).mean(dim=-2)


__all__ = ["GromaMultiScaleDeformableAttention", "GromaRoiAlign"]
