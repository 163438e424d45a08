"""The region encoder: pools each box from three or four fused feature maps into one region token."""

import torch
from torch import Tensor, nn

from ..boxes import box_cxcywh_to_xyxy
from ..exact_boxes import exact_boxes
from .configuration_region_encoder import GromaRegionEncoderConfig
from .modeling_fast_convolution import convolve, is_untouched, saves_time
from .modeling_ops import GromaRoiAlign, computing_dtype

# oneDNN's float32 convolutions of 1024 channels were faster on planes (`benchmarks/bench_kernels.py` shows the maps'
# share), those of 64 slower. Where in between it turns was not measured.
WIDE_CONVOLUTION_CHANNELS = 256
# Above this size of a map the group norm's rounding errors with channels last were 5 times those on planes.
EXACT_NORM_PIXELS = 128 * 128
# The finest maps of the images that are fused at once, at most: they stay in the cache.
CACHED_BYTES = 8 * 2**20


class GromaFeatureFusion(nn.Module):
    """One round of fusion, with one convolution shared by all maps: each map mixes with its two neighbours."""

    def __init__(self, hidden_size: int, num_groups: int):
        super().__init__()
        self.conv = nn.Conv2d(hidden_size, hidden_size, kernel_size=3, padding=1, bias=False)
        self.norm = nn.GroupNorm(num_groups, hidden_size, eps=1e-5)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Mix each map with its neighbours, convolve and normalize it.

        Args:
            maps (`list[Tensor]`, each of shape `(B, C, H, W)`): finest first.

        Returns:
            `list[Tensor]`: fused maps of the same shapes.
        """
        normalized = [self._normalize(convolved) for convolved in convolve(self.conv, self.mix(maps))]
        # In place, unless a hook may have kept what the norm gave.
        in_place = not torch.compiler.is_compiling() and is_untouched(self.norm, nn.GroupNorm)
        return [nn.functional.relu(entry, inplace=in_place) for entry in normalized]

    def mix(self, maps: list[Tensor]) -> list[Tensor]:
        """What the convolution reads: half of each map's own channels, a quarter of each neighbour's.

        Args:
            maps (`list[Tensor]`, each of shape `(B, C, H, W)`): finest first.

        Returns:
            `list[Tensor]`: maps of the same shapes.
        """
        quarter = maps[0].shape[1] // 4
        # Split, not sliced: the gradient of each slice would be a whole map of zeros around its own.
        parts = [level.split([2 * quarter, quarter, quarter], dim=1) for level in maps]
        mixed = []
        # The finest map is its own finer neighbour, the coarsest its own coarser one. A map gives its third quarter of
        # channels to the coarser neighbour and its last quarter to the finer one.
        for index, own in enumerate(maps):
            (kept, _, _), (_, _, coarser) = parts[index], parts[min(index + 1, len(maps) - 1)]
            _, finer, _ = parts[max(index - 1, 0)]
            mixed.append(torch.cat([kept, resize_map(coarser, own), resize_map(finer, own)], dim=1))
        return mixed

    def _normalize(self, fused: Tensor) -> Tensor:
        """Normalize a map in its own layout. On a CPU torch sums large maps less exactly if channels come last."""
        if fused.device.type != "cpu" or fused.shape[-2] * fused.shape[-1] <= EXACT_NORM_PIXELS:
            return self.norm(fused)
        is_last = fused.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        return self.norm(fused.contiguous()).contiguous(memory_format=layout)


class GromaRegionEncoder(nn.Module):
    """Multi-scale ROIAlign region encoder of GPT4RoI (Zhang et al., 2023), which Groma (section 3.1) and GLaMM have.

    Args:
        config (`GromaRegionEncoderConfig`): geometry and sizes; `roi_strides` must be set (`GromaConfig` does that).
        vision_hidden_size (`int`): width of the vision encoder.
        output_size (`int`): width of the language model.
        image_size (`int`): side of the input image in pixels.

    Raises:
        ValueError: if the width does not fit the group norm.

    Example:

    ```python
    >>> import torch
    >>> from transformers_groma import GromaRegionEncoderConfig
    >>> from transformers_groma.models.modeling_region_encoder import GromaRegionEncoder

    >>> config = GromaRegionEncoderConfig(
    ...     roi_strides=[3.5, 7, 14], group_norm_groups=4, roi_output_size=4, region_hidden_size=8
    ... )
    >>> encoder = GromaRegionEncoder(config, vision_hidden_size=16, output_size=24, image_size=112).eval()
    >>> boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.2]]])  # normalized cxcywh
    >>> encoder([torch.zeros(1, 16, 8, 8)] * 3, boxes, torch.ones(1, 1, dtype=torch.bool)).shape
    torch.Size([1, 1, 24])
    ```"""

    def __init__(self, config: GromaRegionEncoderConfig, vision_hidden_size: int, output_size: int, image_size: int):
        super().__init__()
        if vision_hidden_size % config.group_norm_groups != 0 or vision_hidden_size % 4 != 0:
            raise ValueError(
                f"The vision encoder's hidden_size ({vision_hidden_size}) must be a multiple of 4 and of "
                f"`region_encoder_config.group_norm_groups` ({config.group_norm_groups})."
            )
        self.config = config
        self.image_size = image_size
        width, num_maps = vision_hidden_size, len(config.vision_feature_layers)
        # From the finest to the coarsest, as multiples of the vision encoder's patch grid: (4, 2, 1) for three maps.
        self.map_scales = [2**level for level in reversed(range(num_maps))]
        self.input_convs = nn.ModuleList([nn.Conv2d(width + 2, width, kernel_size=1) for _ in range(num_maps)])
        self.fuse_layers = nn.ModuleList(
            [GromaFeatureFusion(width, config.group_norm_groups) for _ in range(config.num_fuse_layers)]
        )
        self.roi_align = GromaRoiAlign()
        self.roi_convs = nn.ModuleList([nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in range(num_maps)])
        self.roi_projection = nn.Linear(width * config.roi_output_size**2, config.region_hidden_size)
        self.box_embedding = nn.Sequential(
            nn.Linear(4, config.position_hidden_size),
            nn.ReLU(),
            nn.LayerNorm(config.position_hidden_size),
            nn.Linear(config.position_hidden_size, config.region_hidden_size),
            nn.ReLU(),
            nn.LayerNorm(config.region_hidden_size),
        )
        self.output_projection = nn.Linear(config.region_hidden_size, output_size)

    def forward(
        self,
        feature_maps: list[Tensor],
        boxes: Tensor,
        mask: Tensor,
        fused_maps: list[Tensor] | None = None,
        return_maps: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Turn boxes into region tokens.

        Args:
            feature_maps (`list[Tensor]`, each of shape `(B, vision_hidden_size, grid, grid)`): hidden states of the
                vision encoder, for the maps from the finest to the coarsest.
            boxes (`Tensor` of shape `(B, R, 4)`): normalized `cxcywh`, float32 or packed by `boxes_to_bits`.
            mask (`Tensor` of shape `(B, R)`, bool): which slots are used, always the first ones of a row.
            fused_maps (`list[Tensor]`, *optional*): what a call before returned for these feature maps.
            return_maps (`bool`): whether to return the fused maps, too.

        Returns:
            `Tensor` of shape `(B, R, output_size)`: region tokens; zeros in unused slots. With `return_maps` also
            the fused maps.
        """
        boxes = exact_boxes(boxes)
        count, step = boxes.shape[0], self._images_at_once(feature_maps)
        if fused_maps is None and not return_maps and step < count:
            crops = []
            for images in (slice(start, start + step) for start in range(0, count, step)):
                maps = self.fuse_feature_maps([level[images] for level in feature_maps])
                crops.append(self._crop(maps, boxes[images], mask[images]))
            return self._encode([torch.cat(of_level) for of_level in zip(*crops, strict=True)], boxes, mask)
        if fused_maps is None:
            fused_maps = self.fuse_feature_maps(feature_maps)
        tokens = self._encode(self._crop(fused_maps, boxes, mask), boxes, mask)
        return (tokens, fused_maps) if return_maps else tokens

    def _images_at_once(self, feature_maps: list[Tensor]) -> int:
        """How many images to fuse and crop at once: on a CPU, in plain inference, as many as fit into its cache.

        The maps of more would pass through memory from one step to the next.
        """
        count, graph = feature_maps[0].shape[0], torch.compiler.is_compiling() or torch.jit.is_tracing()
        if graph or count < 2 or feature_maps[0].device.type != "cpu" or torch.is_grad_enabled():
            return count
        fitting = CACHED_BYTES // (self.map_scales[0] ** 2 * feature_maps[0][0].nbytes)
        return min(fitting, count) or count

    def _crop(self, maps: list[Tensor], boxes: Tensor, mask: Tensor) -> list[Tensor]:
        """The crops of boxes `(B, R, 4)` from fused maps: `(T, C, P, P)` of each map, T used slots in all."""
        boxes, mask = _used_slots(boxes, mask)
        return self.roi_align(
            maps,
            self._boxes_for_roi_align(boxes) * (self.config.roi_image_size or self.image_size),
            [1 / stride for stride in self.config.roi_strides],
            self.config.roi_output_size,
            self.config.roi_sampling_ratio,
            None if torch.compiler.is_compiling() else mask,
        )

    def _encode(self, crops: list[Tensor], boxes: Tensor, mask: Tensor) -> Tensor:
        """Region tokens `(B, R, output_size)` from the crops of boxes `(B, R, 4)`; zeros in unused slots."""
        num_slots = boxes.shape[1]
        boxes, mask = _used_slots(boxes, mask)
        if torch.compiler.is_compiling():
            regions = self.encode_crops(crops, boxes.flatten(0, 1))
            regions = regions.unflatten(0, mask.shape) * mask[..., None]
        else:
            encoded = self.encode_crops(crops, boxes[mask])
            # Back from the list of used slots (T, D) to (B, R, D).
            regions = encoded.new_zeros(*mask.shape, encoded.shape[-1])
            regions = regions.index_put((mask,), encoded)
        return nn.functional.pad(regions, (0, 0, 0, num_slots - mask.shape[1]))

    def fuse_feature_maps(self, feature_maps: list[Tensor]) -> list[Tensor]:
        """Compute the maps that ROIAlign reads.

        Args:
            feature_maps (`list[Tensor]`, each of shape `(B, C, grid, grid)`): see `forward`.

        Returns:
            `list[Tensor]`: of three maps of shapes `(B, C, 4 * grid, 4 * grid)`, `(B, C, 2 * grid, 2 * grid)` and
            `(B, C, grid, grid)`; of four the first is `(B, C, 8 * grid, 8 * grid)`.
        """
        maps, dtype = [], computing_dtype(self, feature_maps[0].dtype)
        layout = self._memory_format(feature_maps[0].to(dtype))
        for feature_map, scale, conv in zip(feature_maps, self.map_scales, self.input_convs, strict=True):
            # The original enlarges a map and its two coordinate maps and then convolves. A 1x1 convolution works on
            # single pixels, so it commutes with bilinear resizing: here it comes first, while the maps are small.
            # (Coordinate maps may be resized too: with aligned corners they come out as those of the larger size.)
            feature_map = feature_map.to(dtype)
            coordinates = _coordinate_maps(feature_map).expand(feature_map.shape[0], -1, -1, -1)
            projected = conv(torch.cat([feature_map, coordinates], dim=1))
            projected = projected.contiguous(memory_format=layout)
            maps.append(resize_map(projected, size=tuple(side * scale for side in feature_map.shape[-2:])))
        for layer in self.fuse_layers:
            maps = layer(maps)
        return maps

    def _memory_format(self, feature_map: Tensor) -> torch.memory_format:
        """The memory layout of the maps to fuse: the fastest for the convolution that reads them."""
        height, width = feature_map.shape[-2:]
        pixel = feature_map[..., :1, :1]
        # Their shapes without their memory.
        maps = [pixel.expand(-1, -1, scale * height, scale * width) for scale in self.map_scales]
        if self.fuse_layers and saves_time(self.fuse_layers[0].conv, maps):
            return torch.channels_last
        return _fastest_memory_format(feature_map)

    def _boxes_for_roi_align(self, boxes: Tensor) -> Tensor:
        """Normalized `cxcywh` boxes as the four numbers that ROIAlign takes for corners."""
        if self.config.roi_box_format == "cxcywh":
            return boxes  # as the released weights were trained: centre and size in the places of the corners
        return box_cxcywh_to_xyxy(boxes)

    def encode_crops(self, crops: list[Tensor], boxes: Tensor) -> Tensor:
        """Turn the crops of regions into region tokens.

        Args:
            crops (`list[Tensor]`, each of shape `(T, C, P, P)`): what ROIAlign cut out of each map.
            boxes (`Tensor` of shape `(T, 4)`): the regions' boxes, normalized `cxcywh`.

        Returns:
            `Tensor` of shape `(T, output_size)`.
        """
        merged = sum(convolve(conv, [crop])[0] for conv, crop in zip(self.roi_convs, crops, strict=True)).relu()
        content = self.roi_projection(merged.flatten(1))
        if self.config.box_embedding_format == "xyxy":
            boxes = box_cxcywh_to_xyxy(boxes)
        position = self.box_embedding(boxes.to(content.dtype))
        return self.output_projection(content + position)


def _used_slots(boxes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and mask of as many slots as the fullest image uses. A traced graph needs static shapes and keeps all."""
    # An unused slot would cost as much as a used one.
    count = boxes.shape[1] if torch.compiler.is_compiling() else int(mask.sum(dim=1).max())
    return boxes[:, :count], mask[:, :count]


def resize_map(feature_map: Tensor, like: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
    """Resize a map bilinearly with aligned corners, computed in float32.

    Args:
        feature_map (`Tensor` of shape `(B, C, H, W)`): the map.
        like (`Tensor`, *optional*): a map whose size to take.
        size (`tuple[int, int]`, *optional*): height and width to take.

    Returns:
        `Tensor` of shape `(B, C, *size)`, in the dtype of `feature_map`.

    Example:
    >>> resize_map(torch.zeros(1, 2, 4, 4), size=(8, 8)).shape
    torch.Size([1, 2, 8, 8])
    """
    size = tuple(like.shape[-2:]) if like is not None else size
    if tuple(feature_map.shape[-2:]) == size:
        return feature_map
    resized = nn.functional.interpolate(feature_map.float(), size=size, mode="bilinear", align_corners=True)
    return resized.to(feature_map.dtype)


def _fastest_memory_format(feature_map: Tensor) -> torch.memory_format:
    """How maps are laid out: channels last, except for wide float32 convolutions on a CPU, faster on planes."""
    if (
        feature_map.device.type == "cpu"
        and feature_map.dtype == torch.float32
        and feature_map.shape[1] >= WIDE_CONVOLUTION_CHANNELS
    ):
        return torch.contiguous_format
    return torch.channels_last


def _coordinate_maps(feature_map: Tensor) -> Tensor:
    """x and y in -1..1 at every pixel: `(1, 2, H, W)`."""
    height, width = feature_map.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=torch.float32, device=feature_map.device),
        torch.linspace(-1, 1, width, dtype=torch.float32, device=feature_map.device),
        indexing="ij",
    )
    return torch.stack([x, y])[None].to(feature_map.dtype)


__all__ = ["GromaFeatureFusion", "GromaRegionEncoder", "resize_map"]
