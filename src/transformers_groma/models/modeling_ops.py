"""Deformable attention and ROIAlign as layers: a compiled kernel where there is one, else plain torch.

Both layers are stateless. In plain torch they run on any device and are differentiable. The kernels come through the
`kernels` library from `kernels/` of a checkout or from the Hub. Geometry is float32 whatever the model's dtype.
"""

import os
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention
from transformers.utils import logging

logger = logging.get_logger(__name__)

KernelSource = Literal["auto", "reference", "local", "hub"]
# Which kernels to use when nothing was said: an environment variable, since models load in many ways.
KERNELS_VARIABLE = "GROMA_KERNELS"
KERNEL_NAMES = ("ms-deform-attn", "roi-align")
HUB_OWNER = "transformers-groma"
# In a checkout `kernels/` is beside `src/`. A copy of this file in remote code of the Hub finds nothing there.
LOCAL_KERNELS = Path(__file__).resolve().parents[3] / "kernels"

# Elements of the largest intermediate of ROIAlign in plain torch, 256 MB; regions are cropped in groups below it.
MAX_ROI_ALIGN_ELEMENTS = 64 * 1024 * 1024

# Weights of any other dtype are quantized.
COMPUTING_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# Loaded kernels by name; missing before the first look, None after a look that found nothing.
_kernels: dict[str, ModuleType | None] = {}


def use_kernels(source: KernelSource | None = None, folder: str | os.PathLike | None = None) -> dict[str, str]:
    """Choose where this process gets its compiled kernels, for all its models.

    If it is not called, the first model calls it with the environment variable `GROMA_KERNELS`, or `"auto"`.

    Args:
        source (`str`, *optional*): `"auto"`: a build in the checkout, else the Hub, else plain torch; `"local"`: a
            build in the checkout, else plain torch; `"hub"`: the Hub, else plain torch; `"reference"`: plain torch.
        folder (`str` or `Path`, *optional*): folder of local kernels instead of the checkout's `kernels/`.

    Returns:
        `dict[str, str]`: where each kernel comes from: `"local"`, `"hub"` or `"reference"` (plain torch).

    Raises:
        ValueError: `source` is none of the four.

    Example:
    >>> before = dict(_kernels)
    >>> use_kernels("reference")
    {'ms-deform-attn': 'reference', 'roi-align': 'reference'}
    >>> _kernels.update(before)
    """
    source = source or os.environ.get(KERNELS_VARIABLE) or "auto"
    if source not in ("auto", "reference", "local", "hub"):
        raise ValueError(
            f"`source` (or {KERNELS_VARIABLE}) must be 'auto', 'reference', 'local' or 'hub', got {source!r}."
        )
    found, problems = {}, {}
    for name in KERNEL_NAMES:
        _kernels[name], found[name] = None, "reference"
        if source == "reference":
            continue
        try:
            _kernels[name], found[name] = _load_kernel(name, source, Path(folder or LOCAL_KERNELS))
        # A kernel may fail to load in any way (another glibc, a damaged file, no network): the model works without it.
        except Exception as error:
            problems[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    if problems:
        reasons = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        logger.warning(f"Plain torch replaces the compiled kernels, with equal results ({reasons}).")
    return found


def _load_kernel(name: str, source: KernelSource, folder: Path) -> tuple[ModuleType | None, str]:
    """The kernel and where it comes from; (None, "reference") where no kernel is expected, so nothing is missing."""
    # transformers refuses remote code that imports what is not installed, unless the import is in a `try`. Names
    # are imported since without the library `kernels` may be any folder, as in the root of a checkout.
    try:
        from kernels import get_kernel, get_local_kernel
    except ImportError:
        if source == "auto":
            return None, "reference"
        raise

    if source != "hub" and (folder / name / "build").is_dir():
        return get_local_kernel(folder / name), "local"
    if source == "local":
        raise FileNotFoundError(f"no build in {folder / name}; run `python kernels/build_local.py kernels/{name}`")
    if source == "auto" and (folder / name).is_dir():
        return None, "reference"  # a checkout whose kernels were not built
    return get_kernel(f"{HUB_OWNER}/{name}", version=1), "hub"


def _kernel_for(name: str, tensor: Tensor) -> ModuleType | None:
    """The loaded kernel if it can take this tensor."""
    kernel = _kernels.get(name)
    if kernel is None or tensor.device.type == "cpu":
        return kernel
    # A build for the CPU has no CUDA code; the folder of a build names its backend.
    return kernel if tensor.device.type == "cuda" and "-cu" in str(kernel.__file__) else None


def computing_dtype(module: nn.Module, default: torch.dtype) -> torch.dtype:
    """The dtype that a module computes in: that of its first weight or bias that is not quantized.

    Only the dtype is asked for, which offloaded, sharded and partitioned weights keep.

    Args:
        module (`nn.Module`): a module with layers; PEFT may have wrapped some of them.
        default (`torch.dtype`): for a module whose weights are all quantized.

    Returns:
        `torch.dtype`: float32, float64 or half precision.

    Example:
    >>> computing_dtype(nn.Sequential(nn.ReLU(), nn.Linear(2, 2).bfloat16()), torch.float32)
    torch.bfloat16
    """
    for layer in module.modules():
        # By attribute: while FSDP1 runs a layer, its weights are not among the layer's parameters.
        for tensor in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
            if isinstance(tensor, Tensor) and tensor.dtype in COMPUTING_DTYPES:
                return tensor.dtype
    return default


class _KernelLayer:
    """Loads the kernels when the first such layer is built, since torch.compile may trace `forward`."""

    def __init__(self) -> None:
        super().__init__()
        if not _kernels:
            use_kernels()


class GromaMultiScaleDeformableAttention(_KernelLayer, MultiScaleDeformableAttention):
    """Multi-scale deformable attention (Zhu et al., ICLR 2021) whose sampling runs in the dtype of the locations.

    transformers' layer needs values and locations of one dtype; in bfloat16 the locations would be rounded to 1/256 of
    the image. Here float32 locations sample half precision values, and the result has the values' dtype.
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
        """Sum values at the sampling locations, weighted by attention.

        Args:
            value (`Tensor` of shape `(B, sum of H*W, heads, channels)`): projected features of all levels.
            value_spatial_shapes (`Tensor` of shape `(levels, 2)`): `(H, W)` of each level.
            value_spatial_shapes_list (`list[tuple[int, int]]`): the same as integers, read without waiting for a GPU.
            level_start_index (`Tensor` of shape `(levels,)`): where each level starts in `value`.
            sampling_locations (`Tensor` of shape `(B, queries, heads, levels, points, 2)`): `(x, y)`, 0..1 over the
                map.
            attention_weights (`Tensor` of shape `(B, queries, heads, levels, points)`): weights, summing to 1.
            im2col_step (`int`): unused here; part of the kernel interface.

        Returns:
            `Tensor` of shape `(B, queries, heads * channels)`.
        """
        attention_weights = attention_weights.to(sampling_locations.dtype)
        kernel = _kernel_for("ms-deform-attn", value)
        if kernel is not None:
            return kernel.ms_deform_attn(
                value, value_spatial_shapes, level_start_index, sampling_locations, attention_weights
            )
        output = super().forward(
            value.to(sampling_locations.dtype),
            value_spatial_shapes,
            value_spatial_shapes_list,
            level_start_index,
            sampling_locations,
            attention_weights,
            im2col_step,
        )
        return output.to(value.dtype)


class GromaRoiAlign(_KernelLayer, nn.Module):
    """ROIAlign (He et al., ICCV 2017) of the same boxes on several maps, `aligned=True`, average of the samples.

    As in mmcv and the original Groma, a sample outside of `-1 <= y <= H` (and likewise x) is 0 but counts in the
    average, a sample between the border and the centre of the border pixel takes the border pixel, and a box of
    negative size is sampled mirrored.
    """

    def forward(
        self,
        feature_maps: list[Tensor],
        boxes: Tensor,
        spatial_scales: list[float],
        output_size: int,
        sampling_ratio: int,
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        """Crop boxes from every map.

        Args:
            feature_maps (`list[Tensor]`, each of shape `(B, C, H, W)`): maps of one or more resolutions.
            boxes (`Tensor` of shape `(B, R, 4)`, float32): `xyxy` boxes in the pixels that `spatial_scales` refers to.
            spatial_scales (`list[float]`): map pixels for each box pixel (1 / stride), one number for each map.
            output_size (`int`): side `P` of the crops.
            sampling_ratio (`int`): samples along each side of a bin.
            mask (`Tensor` of shape `(B, R)`, bool, *optional*): which boxes to crop; all by default.

        Returns:
            `list[Tensor]`, each of shape `(T, C, P, P)`, image after image, in the dtype of its map; T boxes in all.
        """
        boxes = boxes.float()
        kernel = _kernel_for("roi-align", feature_maps[0])
        if kernel is None:
            crops = (
                _roi_align(feature_map, boxes * scale, output_size, sampling_ratio)
                for feature_map, scale in zip(feature_maps, spatial_scales, strict=True)
            )
            return [crop.flatten(0, 1) if mask is None else crop[mask] for crop in crops]
        # The kernel takes a list of regions: image index and box, only those that are asked for.
        image_index = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None, None]
        rois = torch.cat([image_index.expand(-1, boxes.shape[1], -1), boxes], dim=-1)
        rois = rois.flatten(0, 1) if mask is None else rois[mask]
        return kernel.roi_align(feature_maps, rois, spatial_scales, output_size, sampling_ratio, True)


def _roi_align(feature_map: Tensor, boxes: Tensor, output_size: int, sampling_ratio: int) -> Tensor:
    """`(B, R, C, P, P)` crops of `(B, R, 4)` xyxy boxes in map pixels, channels last in memory.

    The bilinear weights of a region's sampling grid factor into a part for rows and one for columns, so each crop is
    two matrix products with the map, exact and without a gather.
    """
    batch_size, channels, height, width = feature_map.shape
    # Autocast would round the weights to half precision.
    with torch.autocast(device_type=feature_map.device.type, enabled=False):
        x1, y1, x2, y2 = boxes.unbind(-1)
        rows = _bin_weights(y1, y2, height, output_size, sampling_ratio)  # (B, R, P, H)
        columns = _bin_weights(x1, x2, width, output_size, sampling_ratio)  # (B, R, P, W)
        # A channels-last map is read in its memory layout.
        pixel_rows = feature_map.float().permute(0, 2, 3, 1).reshape(batch_size, height, width * channels)
        # An exported graph takes any number of images, so its groups are those of one.
        images = 1 if torch.compiler.is_exporting() else batch_size
        group = max(1, MAX_ROI_ALIGN_ELEMENTS // (images * output_size * width * channels))
        crops = []
        for rows_group, columns_group in zip(rows.split(group, dim=1), columns.split(group, dim=1), strict=True):
            # (B, R * P, H) @ (B, H, W * C): every bin's rows, summed; then the columns of each.
            sampled = rows_group.flatten(1, 2) @ pixel_rows
            sampled = sampled.view(*rows_group.shape[:3], width, channels)
            crops.append(columns_group[:, :, None] @ sampled)  # (B, R, y bin, x bin, C)
        return torch.cat(crops, dim=1).to(feature_map.dtype).permute(0, 1, 4, 2, 3)


def _bin_weights(start: Tensor, end: Tensor, size: int, output_size: int, sampling_ratio: int) -> Tensor:
    """How much each of `size` map pixels counts in each output bin along one axis: `(..., output_size, size)`.

    Args:
        start, end (`Tensor` of shape `(...)`): where boxes begin and end along this axis, in map pixels.
    """
    # `aligned`: the centre of pixel i is at i + 0.5, so that it is at i after this shift.
    start, end = start[..., None] - 0.5, end[..., None] - 0.5
    steps = torch.arange(output_size * sampling_ratio, dtype=start.dtype, device=start.device) + 0.5
    samples = start + steps * ((end - start) / (output_size * sampling_ratio))
    inside = (samples >= -1.0) & (samples <= size)
    pixels = torch.arange(size, dtype=start.dtype, device=start.device)
    # Linear interpolation: a pixel at distance d from a sample counts 1 - d, and nothing from a distance of 1 on.
    weights = (1 - (samples.clamp(0, size - 1)[..., None] - pixels).abs()).clamp(min=0) * inside[..., None]
    return weights.unflatten(-2, (output_size, sampling_ratio)).mean(dim=-2)


__all__ = ["GromaMultiScaleDeformableAttention", "GromaRoiAlign", "computing_dtype", "use_kernels"]
