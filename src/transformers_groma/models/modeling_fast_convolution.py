"""3x3 convolutions of wide maps on a CPU with a quarter of the multiplications (Winograd's minimal filtering).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016: F(4x4, 3x3). Outputs come in tiles of 4x4. A
tile of 6x6 inputs and the 3x3 filter are evaluated at 36 points, multiplied there, and read back: 36 products for 16
outputs instead of 144. It is exact but for rounding, whose errors stay about five times those of a plain convolution.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..onednn_products import is_float32_inference, is_onednn_faster, onednn_linear

# Outputs along a side of a tile, and the inputs that they need.
TILE, WINDOW = 4, 6
# Where polynomials are evaluated, beside infinity. Whole numbers (0, 1, -1, 2, -2) would round twice as much.
POINTS = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2), -math.sqrt(2))
# Measured with 1024 channels: 192 tiles (crops of 12 regions) took 1.2 times as long as torch's own convolution, most
# of it for the filters, 256 and more less. With fewer channels the transforms weigh more; from how many on
# it pays was not measured.
MIN_CHANNELS, MIN_TILES = 1024, 256
# Tiles that are worked on at once: at 1024 channels 36 * 256 * 1024 numbers of 4 bytes, 38 MB, of inputs, of values
# and of products. With 1024 tiles a map of 128x128 took 1.2 times as long.
MAX_TILES = 256


def convolve(conv: nn.Conv2d, maps: list[Tensor]) -> list[Tensor]:
    """Apply one 3x3 convolution to several maps, with fewer multiplications where that is faster.

    Args:
        conv (`nn.Conv2d`): any; those of another kernel than 3 or another padding than 1 are taken as they are.
        maps (`list[Tensor]`, each of shape `(B, C, H, W)`): batch and size may differ.

    Returns:
        `list[Tensor]`: what `conv` makes of each map. Gradients, half precision, GPUs, graphs, and layers that
        something else has wrapped or hooked take the layer itself.

    Example:
    >>> conv = nn.Conv2d(8, 16, kernel_size=3, padding=1)
    >>> [convolved.shape for convolved in convolve(conv, [torch.zeros(1, 8, 64, 64), torch.zeros(1, 8, 32, 32)])]
    [torch.Size([1, 16, 64, 64]), torch.Size([1, 16, 32, 32])]
    """
    if not saves_time(conv, maps):
        return [conv(entry) for entry in maps]
    # Once for all maps, and again in every call: kept ones would take four times the memory of the weights.
    filters = _transform_filters(conv.weight)
    return [_convolve_tiles(entry, filters, conv.bias) for entry in maps]


def saves_time(conv: nn.Conv2d, maps: list[Tensor]) -> bool:
    """Whether `convolve` takes the way with fewer multiplications.

    Args:
        conv (`nn.Conv2d`): see `convolve`.
        maps (`list[Tensor]`, each of shape `(B, C, H, W)`): what to convolve.

    Returns:
        `bool`: never where a gradient is needed, since the transforms would keep their inputs.
    """
    # Sizes last: code that is compiled would be bound to them.
    if not _is_plain(conv) or not is_float32_inference(conv.weight, conv.bias, *maps):
        return False
    tiles = sum(len(entry) * -(-entry.shape[-2] // TILE) * -(-entry.shape[-1] // TILE) for entry in maps)
    return tiles >= MIN_TILES and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS


def is_untouched(layer: nn.Module, layer_class: type[nn.Module]) -> bool:
    """Whether a layer is of this very class, and nothing wraps, hooks, offloads or adapts it.

    Args:
        layer (`nn.Module`): any.
        layer_class (`type`): a class of `nn`.

    Returns:
        `bool`: what touches a layer acts when the layer itself is called, or keeps what it gives.

    Example:
    >>> is_untouched(nn.ReLU(), nn.ReLU), is_untouched(nn.Sequential(nn.ReLU()), nn.ReLU)
    (True, False)
    """
    if type(layer) is not layer_class or "forward" in vars(layer):
        return False
    of_layer = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return not any(of_layer) and not _has_any_global_hook()


def _is_plain(conv: nn.Module) -> bool:
    """Whether a layer is a 3x3 convolution that `is_untouched`."""
    if not is_untouched(conv, nn.Conv2d):
        return False
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Matrices for filters `(36, 9)`, windows `(36, 36)` and outputs `(16, 36)`, float32.

    A filter and a row of outputs are polynomials, whose product has 6 coefficients: those of the values at 5 points
    and at infinity, where only the highest coefficient counts. A convolution is the transpose of that product.
    """
    # On the CPU also where this module is imported while a model is made on the meta device.
    powers = torch.tensor(POINTS, dtype=torch.float64, device="cpu")[:, None] ** torch.arange(WINDOW, device="cpu")

    def evaluation(coefficients: int) -> Tensor:
        at_infinity = torch.zeros(1, coefficients, dtype=torch.float64, device="cpu")
        at_infinity[0, -1] = 1
        return torch.cat([powers[:, :coefficients], at_infinity])

    of_filters, of_windows, of_outputs = evaluation(3), torch.linalg.inv(evaluation(WINDOW)).T, evaluation(TILE).T
    # Both axes at once: the Kronecker product of a matrix with itself.
    return tuple(torch.kron(matrix, matrix).float() for matrix in (of_filters, of_windows, of_outputs))


# Made once: 324 + 1296 + 576 numbers.
_OF_FILTERS, _OF_WINDOWS, _OF_OUTPUTS = _transforms()


def _transform_filters(weight: Tensor) -> Tensor:
    """`(36, out, in)`: the filters `(out, in, 3, 3)` at 36 points."""
    filters = _OF_FILTERS @ weight.detach().reshape(-1, 9).T
    return filters.view(WINDOW**2, *weight.shape[:2])


def _convolve_tiles(feature_map: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve `(B, C, H, W)` with transformed filters, channels last in memory."""
    batch_size, channels, height, width = feature_map.shape
    rows, columns, out_channels = -(-height // TILE), -(-width // TILE), filters.shape[1]
    # A border of one pixel, and what the last tiles lack.
    border = (0, 0, 1, TILE * columns - width + 1, 1, TILE * rows - height + 1)
    padded = nn.functional.pad(feature_map.permute(0, 2, 3, 1), border)
    windows = padded.unfold(1, WINDOW, TILE).unfold(2, WINDOW, TILE)  # (B, rows, columns, C, 6, 6), a view
    convolved = feature_map.new_empty(batch_size, rows, TILE, columns, TILE, out_channels)
    buffers = None
    for images, lines in _groups(batch_size, rows, columns):
        group = windows[images, lines]
        tiles = group.shape[:3].numel()
        if buffers is None or buffers.tiles != tiles:  # the last group may be smaller
            buffers = _Buffers(feature_map, tiles, channels, out_channels)
        # The points first and the channels last, so that each point has a matrix (tiles, C) of its own.
        buffers.inputs.view(WINDOW, WINDOW, *group.shape[:4]).copy_(group.permute(4, 5, 0, 1, 2, 3))
        torch.mm(_OF_WINDOWS, buffers.inputs.flatten(1), out=buffers.values.flatten(1))
        _multiply(buffers.values, filters, out=buffers.products)
        torch.mm(_OF_OUTPUTS, buffers.products.flatten(1), out=buffers.outputs.flatten(1))
        outputs = buffers.outputs.view(TILE, TILE, *group.shape[:3], out_channels)
        convolved[images, lines] = outputs.permute(2, 3, 0, 4, 1, 5)
    convolved = convolved.view(batch_size, TILE * rows, TILE * columns, out_channels)[:, :height, :width]
    if bias is not None:
        convolved += bias.detach()
    return convolved.permute(0, 3, 1, 2)


class _Buffers:
    """What a group of tiles is written into; new memory for each group would take longer to get than to fill."""

    def __init__(self, like: Tensor, tiles: int, channels: int, out_channels: int):
        self.tiles = tiles
        self.inputs = like.new_empty(WINDOW**2, tiles, channels)
        self.values = torch.empty_like(self.inputs)
        self.products = like.new_empty(WINDOW**2, tiles, out_channels)
        self.outputs = like.new_empty(TILE**2, tiles, out_channels)


def _multiply(values: Tensor, filters: Tensor, out: Tensor) -> None:
    """Multiply values `(36, tiles, in)` and filters `(36, out, in)` at each point."""
    if not is_onednn_faster():
        torch.bmm(values, filters.transpose(1, 2), out=out)
        return
    for values_of_point, filters_of_point, products_of_point in zip(values, filters, out, strict=True):
        products_of_point.copy_(onednn_linear(values_of_point, filters_of_point))


def _groups(batch_size: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows of tiles to work on at once: several whole images, or some rows of one."""
    images, lines = max(1, MAX_TILES // (rows * columns)), max(1, MAX_TILES // columns)
    for image in range(0, batch_size, images):
        for line in range(0, rows, lines):
            yield slice(image, image + images), slice(line, line + lines)


__all__ = ["convolve", "is_untouched", "saves_time"]
