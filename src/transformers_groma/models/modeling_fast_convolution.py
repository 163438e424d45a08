"""3x3 convolutions of wide maps on a CPU with a quarter of the multiplications (Winograd's minimal filtering).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016: F(4x4, 3x3). Outputs come in tiles of 4x4. A
tile of 6x6 inputs and the 3x3 filter are evaluated at 36 points, multiplied there, and read back: 36 products for 16
outputs instead of 144. It is exact but for rounding, whose errors stay about five times those of a plain convolution.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Outputs along a side of a tile, and the inputs that they need.
TILE, WINDOW = 4, 6
# Where polynomials are evaluated, beside infinity. Whole numbers (0, 1, -1, 2, -2) would round twice as much.
POINTS = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2), -math.sqrt(2))
# Measured with 1024 channels: 192 tiles (crops of 12 regions) took as long as torch's own convolution, 1024 tiles and
# more less. With fewer channels the transforms weigh more; where that turns was not measured.
MIN_CHANNELS, MIN_TILES = 1024, 256
# Tiles that are worked on at once: at 1024 channels 36 * 1024 * 1024 numbers of 4 bytes, 151 MB, before and after.
MAX_TILES = 1024


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
    fast = [saves_time(conv, entry) for entry in maps]
    if not any(fast):
        return [conv(entry) for entry in maps]
    # Once for all maps, and again in every call: kept ones would take four times the memory of the weights.
    filters = _transform_filters(conv.weight)
    return [
        _convolve_tiles(entry, filters, conv.bias) if is_fast else conv(entry)
        for entry, is_fast in zip(maps, fast, strict=True)
    ]


def saves_time(conv: nn.Conv2d, feature_map: Tensor) -> bool:
    """Whether `convolve` takes the way with fewer multiplications for this map.

    Args:
        conv (`nn.Conv2d`): see `convolve`.
        feature_map (`Tensor` of shape `(B, C, H, W)`): what to convolve.

    Returns:
        `bool`: never where a gradient is needed, since the transforms would keep their inputs.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not _is_plain(conv):
        return False
    for tensor in (conv.weight, feature_map):
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            return False
        if torch.is_grad_enabled() and tensor.requires_grad:
            return False
    batch_size, _, height, width = feature_map.shape
    tiles = batch_size * -(-height // TILE) * -(-width // TILE)
    is_wide = min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
    return is_wide and tiles >= MIN_TILES and not torch.is_autocast_enabled("cpu")


def _is_plain(conv: nn.Module) -> bool:
    """Whether a layer is a 3x3 convolution that nothing wraps, hooks, offloads, quantizes or adapts."""
    # What does so acts when the layer itself is called.
    if type(conv) is not nn.Conv2d or "forward" in vars(conv) or conv._forward_hooks or conv._forward_pre_hooks:
        return False
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and type(conv.weight) in (nn.Parameter, Tensor)


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


# Made once: 1305 + 576 + 324 numbers.
_OF_FILTERS, _OF_WINDOWS, _OF_OUTPUTS = _transforms()


def _transform_filters(weight: Tensor) -> Tensor:
    """`(36, out, in, 1, 1)`: the filters `(out, in, 3, 3)` at 36 points."""
    filters = _OF_FILTERS @ weight.detach().reshape(-1, 9).T
    return filters.view(WINDOW**2, *weight.shape[:2], 1, 1)


def _convolve_tiles(feature_map: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve `(B, C, H, W)` with transformed filters, channels last in memory."""
    batch_size, channels, height, width = feature_map.shape
    rows, columns, out_channels = -(-height // TILE), -(-width // TILE), filters.shape[1]
    # A border of one pixel, and what the last tiles lack.
    border = (0, 0, 1, TILE * columns - width + 1, 1, TILE * rows - height + 1)
    padded = nn.functional.pad(feature_map.permute(0, 2, 3, 1), border)
    windows = padded.unfold(1, WINDOW, TILE).unfold(2, WINDOW, TILE)  # (B, rows, columns, C, 6, 6), a view
    convolved = feature_map.new_empty(batch_size, rows, TILE, columns, TILE, out_channels)
    for images, lines in _groups(batch_size, rows, columns):
        group = windows[images, lines]
        # The points first and the channels last, so that each point has a matrix (tiles, C) of its own.
        values = _OF_WINDOWS @ group.permute(4, 5, 0, 1, 2, 3).reshape(WINDOW**2, -1)
        values = values.view(WINDOW**2, 1, -1, 1, channels)
        products = values.new_empty(WINDOW**2, values.shape[2], out_channels)
        for point, filters_of_point in enumerate(filters):
            # A 1x1 convolution is this matrix product, and on a CPU where it differs from `@` it is faster.
            product = nn.functional.conv2d(values[point].permute(0, 3, 1, 2), filters_of_point)
            products[point] = product[0, :, :, 0].T
        outputs = (_OF_OUTPUTS @ products.flatten(1)).view(TILE, TILE, *group.shape[:3], out_channels)
        convolved[images, lines] = outputs.permute(2, 3, 0, 4, 1, 5)
    convolved = convolved.view(batch_size, TILE * rows, TILE * columns, out_channels)[:, :height, :width]
    if bias is not None:
        convolved += bias.detach()
    return convolved.permute(0, 3, 1, 2)


def _groups(batch_size: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows of tiles to work on at once: several whole images, or some rows of one."""
    images, lines = max(1, MAX_TILES // (rows * columns)), max(1, MAX_TILES // columns)
    for image in range(0, batch_size, images):
        for line in range(0, rows, lines):
            yield slice(image, image + images), slice(line, line + lines)


__all__ = ["convolve", "saves_time"]
