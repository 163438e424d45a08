"""Times both operators, forward and backward, against references and the card's memory bandwidth.

`ms` are what a caller of eager torch waits for, between two events; at small sizes most of it is Python. `device ms`
is the GPU's own time, from a CUDA graph. `of the copy rate` is the achieved bandwidth over that of a copy on the same
card: bytes that must move (each input read once, each output written once) / device time. Inputs rotate through more
memory than the card's cache holds.

In half precision, only maps and values have it; boxes and locations are float32, as in the model. Plain torch has no
operator that mixes the two: the reference computes in float32, as the package does without a kernel.
"""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from build import benchmark_module, load_kernel
from step import Results, copy_rate, device_ms, median_ms, step_arguments
from torch import Tensor

# Rotating inputs fill at least this much memory: more than twice the 50 to 60 MB of second-level cache of a Hopper
# card.
ROTATING_BYTES = 160 * 2**20


def nbytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def deformable_cases(small: bool) -> dict[str, tuple[list[tuple[int, int]], int, bool]]:
    """Maps, images and whether points are near, by name: two cases of bench_kernels.py, then the encoder at batch 8.

    Every pixel is a query. Points are all over the maps, which no cache likes, or within four pixels of their query's
    place, as a trained model's are.
    """
    four_levels = [(64, 64), (32, 32), (16, 16), (8, 8)]
    if small:
        return {"16 queries": ([(4, 4)], 1, False), "16 queries, near points": ([(4, 4)], 1, True)}
    return {
        "1024 queries, 1 level": ([(32, 32)], 1, False),
        "5440 queries, 4 levels": (four_levels, 1, False),
        "full size, 8 images": ([(32, 32)], 8, False),
        "full size, 8 images, near points": ([(32, 32)], 8, True),
        "full size, 4 levels, 8 images": (four_levels, 8, False),
        "full size, 4 levels, 8 images, near points": (four_levels, 8, True),
    }


def near_points(shapes: list[tuple[int, int]], locations: Tensor) -> Tensor:
    """Locations between 0 and 1 as places within four pixels of their query, on each level."""
    device = locations.device
    grids = [
        torch.cartesian_prod(*((torch.arange(n, device=device) + 0.5) / n for n in shape)).flip(-1) for shape in shapes
    ]
    own_places = torch.cat(grids)[None, :, None, None, None]
    sizes = torch.tensor(shapes, device=device).flip(-1)[:, None]  # width, height of each level
    return own_places + (locations - 0.5) * 8 / sizes


def roi_cases(small: bool) -> dict[str, tuple[int, int, bool]]:
    """Channels, images and whether maps are channels-last, by name."""
    if small:
        return {"8 channels": (8, 1, False)}
    return {
        "100 boxes, NCHW": (1024, 1, False),
        "100 boxes, channels-last": (1024, 1, True),
        "full size, 4 images, channels-last": (1024, 4, True),
    }


def rotating(make: Callable[[], tuple], size: int, small: bool) -> list[tuple]:
    """As many sets of inputs as fill `ROTATING_BYTES`, at least two."""
    return [make() for _ in range(2 if small else max(2, min(24, math.ceil(ROTATING_BYTES / size))))]


def measure(
    name: str,
    results: Results,
    device: str,
    copy: float,
    candidates: dict[str, Callable[[Any], list[Tensor]]],
    inputs: list[Any],
    leaves: Callable[[Any], list[Tensor]],
    forward_bytes: int,
    backward_bytes: int,
    seconds: float,
) -> None:
    """Forward, then forward and backward, of the kernel (`ours`) and of every reference."""

    def with_backward(function: Callable[[Any], list[Tensor]]) -> Callable[[Any], object]:
        def run(item: Any) -> object:
            with torch.enable_grad():
                outs = function(item)
                return torch.autograd.grad(outs, leaves(item), [torch.ones_like(out) for out in outs])

        return run

    def time_alone(function: Callable[[Any], object]) -> float | None:
        try:
            with torch.no_grad():
                return device_ms(function, inputs, device, seconds)
        except Exception as error:  # the times of eager calls stay
            print(f"{name}, in a CUDA graph: {type(error).__name__}: {str(error)[:200]}")
            return None

    for kind, moved in (("forward", forward_bytes), ("forward+backward", forward_bytes + backward_bytes)):
        times: dict[str, float | None] = {}
        for candidate, function in candidates.items():
            try:
                if kind == "forward":
                    with torch.no_grad():
                        times[candidate] = median_ms(function, inputs, device, seconds)
                else:
                    times[candidate] = median_ms(with_backward(function), inputs, device, seconds)
            except Exception as error:  # a reference that cannot do this costs only its own number
                print(f"{name}, {kind}, {candidate}: {type(error).__name__}: {str(error)[:200]}")
                if candidate == "ours":
                    raise
                times[candidate] = None
        ours = times.pop("ours")
        alone = time_alone(candidates["ours"] if kind == "forward" else with_backward(candidates["ours"]))
        rate = moved / (alone / 1e3) if alone else None
        results.add(
            f"{name}, {kind}",
            **{"ours ms": ours, "ours device ms": alone, "bytes MB": moved / 1e6},
            **{"GB/s": rate and rate / 1e9, "of the copy rate": rate and rate / copy},
            **{f"{reference} ms": time for reference, time in times.items()},
            **{f"over {reference}": time / ours for reference, time in times.items() if time is not None},
        )


def hub_deformable_attention(device: str) -> Callable | None:
    """The Hub's deformable attention, for CUDA only; if it is not available, prints the reason and returns `None`."""
    if device != "cuda":
        return None
    try:
        from kernels import get_kernel

        return get_kernel("kernels-community/deformable-detr").ms_deform_attn_forward
    except Exception as error:
        print(f"the Hub's deformable attention: {type(error).__name__}: {str(error)[:200]}")
        return None


def torchvision_roi_align() -> Callable | None:
    try:
        from torchvision.ops import roi_align
    except Exception as error:
        print(f"torchvision: {type(error).__name__}: {str(error)[:200]}")
        return None
    return roi_align


def measure_deformable(kernel: ModuleType, results: Results, device: str, copy: float, small: bool) -> None:
    module = benchmark_module("ms-deform-attn")
    hub = hub_deformable_attention(device)
    for (name, (shapes, images, near)), dtype in cases(deformable_cases(small)):
        queries = sum(height * width for height, width in shapes)
        value, spatial_shapes, starts, locations, weights = module.make_inputs(shapes, queries, device, batch=images)
        if near:
            locations = near_points(shapes, locations)
        first = (value.to(dtype), spatial_shapes, starts, locations, weights)

        def make(first=first) -> tuple:
            value, spatial_shapes, starts, locations, weights = (tensor.clone() for tensor in first)
            leaves = [x.requires_grad_() for x in (value, locations, weights)]
            return (*leaves, spatial_shapes, starts)

        def ours(item: tuple) -> list[Tensor]:
            value, locations, weights, spatial_shapes, starts = item
            return [kernel.ms_deform_attn(value, spatial_shapes, starts, locations, weights)]

        def plain(item: tuple, shapes=shapes) -> list[Tensor]:
            return [module.reference(item[0].float(), shapes, item[1], item[2]).to(item[0].dtype)]

        candidates = {"ours": ours, "torch": plain}
        if hub is not None and dtype == torch.float32:
            candidates["Hub kernel"] = lambda item: [hub(item[0], item[3], item[4], item[1], item[2], 64)]
        inputs = rotating(make, nbytes(*first), small)
        value, locations, weights = inputs[0][:3]
        out = ours(inputs[0])[0]
        torch.testing.assert_close(out, plain(inputs[0])[0], rtol=3e-2, atol=3e-2)
        traffic = nbytes(value, locations, weights)
        # The backward reads the output's gradient and the inputs again and writes a gradient of each.
        measure(
            f"deformable attention, {name}, {str(dtype)[6:]}", results, device, copy, candidates, inputs,
            lambda item: list(item[:3]), traffic + nbytes(out), nbytes(out) + 2 * traffic, 0.02 if small else 0.1,
        )  # fmt: skip


def measure_roi_align(kernel: ModuleType, results: Results, device: str, copy: float, small: bool) -> None:
    module = benchmark_module("roi-align")
    torchvision = torchvision_roi_align()
    for (name, (channels, images, channels_last)), dtype in cases(roi_cases(small)):
        maps, rois = module.make_inputs(device, dtype, channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        maps = [x[:, :channels].expand(images, -1, -1, -1).contiguous(memory_format=memory_format) for x in maps]
        rois = torch.cat([rois + torch.tensor([image, 0, 0, 0, 0], device=device) for image in range(images)])

        def make(maps=maps, rois=rois) -> tuple:
            return [x.clone().requires_grad_() for x in maps], rois

        def ours(item: tuple) -> list[Tensor]:
            return list(kernel.roi_align(item[0], item[1], module.SCALES, module.BINS, 2, True))

        def plain(item: tuple) -> list[Tensor]:
            # The kernel's benchmark crops one image; several are cropped one after the other.
            crops = []
            for image in range(len(item[0][0])):
                of_image = item[1][item[1][:, 0] == image]
                crops.append(module.reference([x[image : image + 1].float() for x in item[0]], of_image))
            return [torch.cat(level).to(item[0][0].dtype) for level in zip(*crops)]

        def others(item: tuple) -> list[Tensor]:
            # It wants boxes of the maps' dtype, in which half precision would move them.
            maps = [x.float() for x in item[0]]
            return [torchvision(x, item[1], module.BINS, scale, 2, True) for x, scale in zip(maps, module.SCALES)]

        candidates = {"ours": ours, "torch": plain}
        if torchvision is not None:
            candidates["torchvision"] = others
        inputs = rotating(make, nbytes(*maps), small)
        outs = ours(inputs[0])
        for out, expected in zip(outs, plain(inputs[0])):
            torch.testing.assert_close(out, expected, rtol=3e-2, atol=6e-2)
        # Boxes are all over the image, so nearly every pixel of every map is read.
        measure(
            f"ROIAlign, {name}, {str(dtype)[6:]}", results, device, copy, candidates, inputs,
            lambda item: item[0], nbytes(*maps, rois, *outs), nbytes(*outs, rois, *maps), 0.02 if small else 0.1,
        )  # fmt: skip


def cases(table: dict[str, tuple]) -> Iterator[tuple[tuple[str, tuple], torch.dtype]]:
    """Every case in every dtype; float32 first, as it is what the model runs its detector in."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for item in table.items():
            yield item, dtype


def main() -> None:
    results, device, small = step_arguments(__doc__)
    copy = copy_rate(device, 2**20 if small else 2**30)
    results.add("copy within the device", **{"GB/s": copy / 1e9})
    ones = [torch.ones(1, device=device) for _ in range(20)]
    times = {
        "ms": median_ms(Tensor.zero_, ones, device, 0.02),
        "device ms": device_ms(Tensor.zero_, ones, device, 0.02),
    }
    results.add("the smallest launch, zeroing one number", **times)
    failed = []
    for name, function in (("ms-deform-attn", measure_deformable), ("roi-align", measure_roi_align)):
        try:
            function(load_kernel(name, device), results, device, copy, small)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
