"""Benchmark: what reads, writes and draws answers takes time in proportion to what it is given.

    python benchmarks/bench_scaling.py [--only NAME] [--rounds 3] [--scale 1.0]

Each task runs on n, 2n and 4n, some of them the worst that people or models can write: marks that are never closed, a
checkerboard as a mask, an answer that is read after every token. `growth` is the time of the 4n-th over four times the
time of the n-th: 1 where time is in proportion, 4 where it grows with the square. The baseline of each task is itself,
on n. The last line is JSON.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import print_result
from PIL import Image
from transformers import AutoTokenizer

import transformers_groma
from transformers_groma._jsonl import JsonlLog, read_jsonl, write_jsonl
from transformers_groma.boxes import nms
from transformers_groma.control_tokens import break_control_tokens, control_tokens
from transformers_groma.grounded_markup import parse_segmented_text
from transformers_groma.grounding import ground_text, parse_grounded_text
from transformers_groma.label_layout import place_labels
from transformers_groma.masks import (
    mask_outlines,
    mask_to_polygons,
    mask_to_rle,
    polygons_to_rle,
    rle_iou,
    rle_to_mask,
)
from transformers_groma.streaming import next_read, partial_text

# `make` of a task makes what is timed for some n, not timed itself.
Task = tuple[int, Callable[[int], Callable[[], Any]]]
MODEL = Path(transformers_groma.__file__).parents[2] / "hub_configs" / "groma-tiny"


def boxes_around(count: int, objects: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes around some objects, as a detector finds them, and their scores."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(objects, 2, generator=generator) * 1000
    objects_xyxy = torch.cat([corners, corners + 40 + 60 * torch.rand(objects, 2, generator=generator)], dim=1)
    boxes = objects_xyxy[torch.randint(objects, (count,), generator=generator)]
    return boxes + torch.randn(count, 4, generator=generator), torch.rand(count, generator=generator)


def small_boxes(count: int) -> list[tuple[float, float, float, float]]:
    """Boxes of 12 pixels, as dense for every number: the image grows with it."""
    side = image_side(count)
    corners = np.random.default_rng(0).integers(0, side - 12, (count, 2))
    return [(float(x), float(y), float(x + 12), float(y + 12)) for x, y in corners]


def image_side(count: int) -> int:
    """The side of the image of `small_boxes`, in pixels."""
    return int(40 * count**0.5) + 40


def checkerboard(pixels: int) -> np.ndarray:
    """The mask that has the most runs."""
    side = int(pixels**0.5)
    return (np.arange(side)[:, None] + np.arange(side)) % 2 == 1


def holes(pixels: int) -> np.ndarray:
    """One part with as many holes as fit."""
    side = int(pixels**0.5) | 1
    mask = np.ones((side, side), bool)
    mask[1:-1:2, 1:-1:2] = False
    return mask


def comb(pixels: int) -> np.ndarray:
    """One part with the longest outline: teeth of one pixel."""
    side = int(pixels**0.5)
    mask = np.zeros((side, side), bool)
    mask[:, ::2] = mask[0] = True
    return mask


def many_phrases(count: int) -> str:
    return " and ".join(f"<p>thing {number}</p> <roi><r{number}></roi>" for number in range(count))


def tasks(folder: Path) -> dict[str, Task]:
    """By name: the n of each task, and what makes the call for some n."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    forbidden = control_tokens(tokenizer, None)

    def drawing(count: int) -> Callable[[], Any]:
        side = image_side(count)
        answer = ground_text(many_phrases(count), torch.tensor(small_boxes(count)))
        return lambda: answer.draw(Image.new("RGB", (side, side), "white"), regions=True)

    def labels(count: int) -> Callable[[], Any]:
        boxes, side = small_boxes(count), image_side(count)
        return lambda: place_labels(boxes, [[(40, 12), (20, 12)]] * count, (side, side), boxes)

    def labels_in_one_image(count: int) -> Callable[[], Any]:
        corners = np.random.default_rng(0).integers(0, 988, (count, 2)).astype(float)
        boxes = [(x, y, x + 12, y + 12) for x, y in corners.tolist()]
        return lambda: place_labels(boxes, [[(40, 12), (20, 12)]] * count, (1000, 1000), boxes)

    def dashes(count: int) -> Callable[[], Any]:
        mask = comb(count)
        box = torch.tensor([[0.0, 0, mask.shape[1], mask.shape[0]]])
        answer = ground_text("It is blue.", box, user_region_ids=[0]).with_masks({0: mask})
        return lambda: answer.draw(Image.new("RGB", mask.shape[::-1], "white"))

    def streaming(count: int) -> Callable[[], Any]:
        ids = tokenizer(many_phrases(40), add_special_tokens=False)["input_ids"]
        ids, boxes = (ids * (count // len(ids) + 1))[:count], torch.tensor(small_boxes(40))

        def stream() -> None:
            due = 1
            for length in range(1, count + 1):  # one more each time
                if length >= due:
                    due = next_read(length)
                    ground_text(partial_text(tokenizer, ids[:length]), boxes)

        return stream

    def rle_tasks(count: int) -> Callable[[], Any]:
        rles = [mask_to_rle(mask) for mask in (checkerboard(count), ~checkerboard(count))]
        return lambda: rle_iou(rles[:1], rles[1:])

    def resume(count: int) -> Callable[[], Any]:
        path = folder / f"{count}.jsonl"
        write_jsonl(path, [{"index": number, "text": "a dog"} for number in range(count)])

        def read() -> None:
            log = JsonlLog(path)
            log.close()
            assert len(read_jsonl(path)) == count

        return read

    def appended(count: int) -> Callable[[], Any]:
        def write() -> None:
            (folder / "log.jsonl").unlink(missing_ok=True)
            log = JsonlLog(folder / "log.jsonl")
            for number in range(count):
                log.write({"index": number, "text": "a dog"})
            log.close()

        return write

    def boxes_of(objects: Callable[[int], int]) -> Callable[[int], Callable[[], Any]]:
        def make(count: int) -> Callable[[], Any]:
            boxes, scores = boxes_around(count, objects(count))
            return lambda: nms(boxes, scores, 0.5)

        return make

    def of_text(read: Callable[[str], Any], text: str) -> Callable[[int], Callable[[], Any]]:
        return lambda count: lambda: read(text * count)

    def of_mask(use: Callable[[Any], Any], make: Callable[[int], Any]) -> Callable[[int], Callable[[], Any]]:
        def prepare(count: int) -> Callable[[], Any]:
            given = make(count)
            return lambda: use(given)

        return prepare

    return {
        "NMS, boxes around 50 objects": (5000, boxes_of(lambda count: 50)),
        "NMS, nearly all boxes stay": (2500, boxes_of(lambda count: 20 * count)),
        "parsing, phrases and regions": (5000, of_text(parse_grounded_text, "<p>a dog</p> <roi><r1></roi> ")),
        "parsing, marks that are never closed": (25_000, of_text(parse_grounded_text, "<p><roi>")),
        "parsing, half marks": (25_000, of_text(parse_grounded_text, "<p<roi<r1")),
        "parsing, spaces and tags": (25_000, of_text(parse_grounded_text, " </p>\n")),
        "parsing, [SEG]": (5000, of_text(parse_segmented_text, "<p> a dog </p> [SEG] ")),
        "grounding, a region for each phrase": (
            1000,
            lambda count: lambda: ground_text(many_phrases(count), torch.tensor(small_boxes(count))),
        ),
        "control tokens in a question": (
            2500,
            of_text(lambda text: break_control_tokens([text], forbidden, tokenizer), "is </s> <image> a token? "),
        ),
        "streaming, token by token": (1500, streaming),
        "RLE of a checkerboard, writing": (1_000_000, of_mask(mask_to_rle, checkerboard)),
        "RLE of a checkerboard, reading": (
            1_000_000,
            of_mask(rle_to_mask, lambda count: mask_to_rle(checkerboard(count))),
        ),
        "RLE of checkerboards, IoU": (500_000, rle_tasks),
        "outlines of a checkerboard": (60_000, of_mask(mask_outlines, checkerboard)),
        "polygons of a mask full of holes": (60_000, of_mask(mask_to_polygons, holes)),
        "polygons to RLE": (
            60_000,
            of_mask(lambda given: polygons_to_rle(*given), lambda count: (mask_to_polygons(holes(count)), 800, 800)),
        ),
        "places of labels": (1000, labels),
        "places of labels in one image": (1000, labels_in_one_image),
        "drawing, the dashes of a comb": (400_000, dashes),
        "drawing, a phrase for each region": (100, drawing),
        "JSON lines, appending": (5000, appended),
        "JSON lines, resuming": (10_000, resume),
    }


def best_seconds(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", default="", help="tasks whose name has this in it")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all n (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # else the search for garbage among torch's million objects would hit some of the tasks
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (count, make) in tasks(Path(folder)).items():
            if arguments.only not in name:
                continue
            count = max(1, round(count * arguments.scale))
            seconds = [best_seconds(make(count * times), arguments.rounds) for times in (1, 2, 4)]
            growth = seconds[2] / (4 * seconds[0])
            results[name] = {"n": count, "seconds": seconds, "growth": round(growth, 2)}
            shown = "  ".join(f"{value * 1000:9.1f}" for value in seconds)
            print(f"{name:<40} n {count:>9}  ms at n, 2n, 4n: {shown}   growth {growth:.2f}", flush=True)
    growths = {name: result["growth"] for name, result in results.items()}
    seconds = {name: result["seconds"] for name, result in results.items()}
    numbers = {name: result["n"] for name, result in results.items()}
    print_result("scaling", growths, seconds, n=numbers, python=sys.version.split()[0])


if __name__ == "__main__":
    main()
