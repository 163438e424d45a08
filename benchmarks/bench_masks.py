"""Benchmark: masks to RLE, polygons, boxes and IoU and back, beside pycocotools.

    python benchmarks/bench_masks.py [--baseline pycocotools|faster_coco_eval] [--masks 8] [--rounds 5]

Each ratio is seconds of the baseline / our seconds, for the same masks in the same run, whose results are compared
first. The masks are bool arrays `(H, W)` as models and images give them, rows one after the other in memory; the
baseline turns them to its order of columns before it encodes them, and back to bool after it decodes them. They are
discs, rings and stars of random sizes, in images of 640x480 and 4000x3000 pixels; noise, half of its pixels in random
order, is the worst case of a run-length encoding. Our functions check what they are given, the baseline does not.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from measuring import print_result

from transformers_groma.masks import (
    mask_areas,
    mask_iou,
    mask_to_polygons,
    mask_to_rle,
    masks_to_boxes,
    polygons_to_mask,
    polygons_to_rle,
    rle_area,
    rle_iou,
    rle_to_box,
    rle_to_mask,
)

BASELINES = {"pycocotools": "pycocotools.mask", "faster_coco_eval": "faster_coco_eval.core.mask"}
SIZES = ((480, 640), (3000, 4000))


def shapes(count: int, height: int, width: int) -> np.ndarray:
    """Discs, rings and stars in random places, of an eighth to a half of the image's height."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    masks = np.zeros((count, height, width), bool)
    for number, mask in enumerate(masks):
        radius = generator.uniform(height / 16, height / 4)
        y, x = generator.uniform(0, height), generator.uniform(0, width)
        distance = np.hypot(rows - y, columns - x)
        if number % 3 == 2:
            distance *= 1 + 0.4 * np.cos(5 * np.arctan2(rows - y, columns - x))
        mask[:] = distance < radius
        if number % 3 == 1:
            mask &= distance > radius / 2
    return masks


def star_polygons(count: int, height: int, width: int) -> list[list[list[float]]]:
    """For each region one polygon of 60 corners, as people draw them."""
    generator = np.random.default_rng(1)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    polygons = []
    for _ in range(count):
        radii = generator.uniform(height / 8, height / 4) * generator.uniform(0.5, 1, 60)
        x = generator.uniform(0, width) + radii * np.cos(angles)
        y = generator.uniform(0, height) + radii * np.sin(angles)
        polygons.append([np.stack([x, y], axis=1).round(2).reshape(-1).tolist()])
    return polygons


def best_seconds(rounds: int, ours: Callable[[], Any], baseline: Callable[[], Any]) -> tuple[float, float]:
    """The seconds of the fastest round of each; they take turns, so that a slow moment of the machine hits both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for function, times in zip((ours, baseline), seconds, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return min(seconds[0]), min(seconds[1])


def of_coco(coco: ModuleType, mask: np.ndarray) -> dict[str, Any]:
    return coco.encode(np.asfortranarray(mask, np.uint8))


def tasks(
    coco: ModuleType, masks: np.ndarray, polygons: list[list[list[float]]]
) -> dict[str, tuple[Callable, Callable]]:
    """Ours and the baseline for each task, with the same results but for their form."""
    height, width = masks.shape[1:]
    half = len(masks) // 2
    rles, encoded = [mask_to_rle(mask) for mask in masks], [of_coco(coco, mask) for mask in masks]
    assert [rle["counts"] for rle in rles] == [rle["counts"].decode() for rle in encoded]

    def corners(boxes: np.ndarray) -> np.ndarray:
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    def drawn(polygon: list[list[float]]) -> dict[str, Any]:
        return coco.merge(coco.frPyObjects(polygon, height, width))

    return {
        "mask to RLE": (
            lambda: [mask_to_rle(mask)["counts"] for mask in masks],
            lambda: [of_coco(coco, mask)["counts"].decode() for mask in masks],
        ),
        "RLE to mask": (
            lambda: [rle_to_mask(rle) for rle in rles],
            lambda: [coco.decode(rle).astype(bool) for rle in encoded],
        ),
        "RLE to area": (lambda: [rle_area(rle) for rle in rles], lambda: coco.area(encoded)),
        "RLE to box": (lambda: [rle_to_box(rle) for rle in rles], lambda: corners(coco.toBbox(encoded))),
        "RLE to IoU": (
            lambda: rle_iou(rles[:half], rles[half:]),
            lambda: coco.iou(encoded[:half], encoded[half:], [0] * (len(encoded) - half)),
        ),
        "masks to areas": (lambda: mask_areas(masks), lambda: coco.area([of_coco(coco, mask) for mask in masks])),
        "masks to boxes": (
            lambda: masks_to_boxes(masks),
            lambda: corners(coco.toBbox([of_coco(coco, mask) for mask in masks])),
        ),
        "masks to IoU": (
            lambda: mask_iou(masks[:half], masks[half:]),
            lambda: coco.iou(
                [of_coco(coco, mask) for mask in masks[:half]],
                [of_coco(coco, mask) for mask in masks[half:]],
                [0] * (len(masks) - half),
            ),
        ),
        "polygons to RLE": (
            lambda: [polygons_to_rle(polygon, height, width)["counts"] for polygon in polygons],
            lambda: [drawn(polygon)["counts"].decode() for polygon in polygons],
        ),
        "polygons to mask": (
            lambda: [polygons_to_mask(polygon, height, width) for polygon in polygons],
            lambda: [coco.decode(drawn(polygon)).astype(bool) for polygon in polygons],
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", choices=BASELINES, default="pycocotools")
    parser.add_argument("--masks", type=int, default=8, help="of each size, at least 2")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.masks < 2 or arguments.rounds < 1:
        parser.error("--masks must be 2 at least, and --rounds 1")
    try:
        coco = importlib.import_module(BASELINES[arguments.baseline])
    except ImportError:
        sys.exit(
            f"The baseline is not installed, so there is nothing to compare with: pip install {arguments.baseline}"
        )
    ratios, seconds = {}, {}
    noise = np.random.default_rng(2).random((arguments.masks, *SIZES[0])) > 0.5
    for name, masks in (
        *((f"{width}x{height}", shapes(arguments.masks, height, width)) for height, width in SIZES),
        ("noise", noise),
    ):
        print(f"{name}: {len(masks)} masks, milliseconds of one")
        print(f"  {'':18s} {arguments.baseline:>16s} {'ours':>9s} {'ratio':>7s}")
        for task, (ours, baseline) in tasks(coco, masks, star_polygons(len(masks), *masks.shape[1:])).items():
            np.testing.assert_array_equal(ours(), baseline())
            ours_seconds, baseline_seconds = best_seconds(arguments.rounds, ours, baseline)
            key = f"{name}: {task}"
            ratios[key], seconds[key] = baseline_seconds / ours_seconds, ours_seconds / len(masks)
            milliseconds = 1e3 * baseline_seconds / len(masks)
            print(f"  {task:18s} {milliseconds:16.3f} {1e3 * seconds[key]:9.3f} {ratios[key]:6.2f}x", flush=True)
        if name != "noise":
            start = time.perf_counter()
            for mask in masks:
                mask_to_polygons(mask)
            seconds[f"{name}: mask to polygons"] = (time.perf_counter() - start) / len(masks)
            print(f"  {'mask to polygons':18s} {'-':>16s} {1e3 * seconds[f'{name}: mask to polygons']:9.3f}")
    print_result("masks", ratios, seconds, baseline=arguments.baseline)


if __name__ == "__main__":
    main()
