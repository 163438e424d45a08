"""Level 1, depth: a map of each image, in which larger values are nearer.

python -m processing.grand.depth photos data/grand --model depth-anything/Depth-Anything-V2-Small-hf

Models of relative depth (MiDaS, Depth Anything) give larger values to what is nearer. Models of metric depth give
metres: with `--values distance` their inverse is kept. Maps are stored small, as 16-bit PNG with their range.
"""

import io
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Features, Value
from PIL import Image

from processing.grand import models
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import add_model_options, one_by_one, read_upright
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

TASKS = ("depth-estimation",)
LONGEST_SIDE = 512
LEVELS = 65535

FEATURES = Features({"png": Value("binary"), "low": Value("float64"), "high": Value("float64")})


def write_map(nearness: np.ndarray) -> Row:
    """Store a map.

    Args:
        nearness (`np.ndarray` of shape `(h, w)`, float): larger is nearer.

    Returns:
        `dict`: the columns of this step.

    Raises:
        SkipRecord: it has values that are not finite.

    Example:
    >>> read_map(write_map(np.array([[0.0, 1.0], [2.0, 4.0]]))).round(3).tolist()
    [[0.0, 1.0], [2.0, 4.0]]
    """
    if not np.isfinite(nearness).all():
        raise SkipRecord("the depth map has values that are not finite")
    height, width = nearness.shape
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(nearness.astype(np.float32)).resize(size, Image.Resampling.BOX), np.float64)
    low, high = float(small.min()), float(small.max())
    levels = (small - low) / max(high - low, 1e-12) * LEVELS
    buffer = io.BytesIO()
    Image.fromarray(levels.round().astype(np.uint16)).save(buffer, format="PNG")
    return {"png": buffer.getvalue(), "low": low, "high": high}


def read_map(columns: Mapping[str, Any]) -> np.ndarray:
    """The map that [`write_map`] stored.

    Args:
        columns (`Mapping`): of this step.

    Returns:
        `np.ndarray` of shape `(h, w)`, float64: larger is nearer.
    """
    levels = np.asarray(Image.open(io.BytesIO(columns["png"])), np.float64)
    return columns["low"] + levels / LEVELS * (columns["high"] - columns["low"])


def median_depth(depth: np.ndarray, bbox: Sequence[float], size: tuple[int, int]) -> float:
    """The median of a map in a box.

    Args:
        depth (`np.ndarray` of shape `(h, w)`): of the whole image, in any resolution.
        bbox (4 numbers): `xyxy` in pixels of the image.
        size (`tuple[int, int]`): width and height of the image in pixels.

    Returns:
        `float`: rounded to four decimals; of the nearest pixel of the map where the box is smaller than one.

    Example:
    >>> median_depth(np.array([[1.0, 2.0], [3.0, 4.0]]), [50, 0, 100, 40], (100, 100))
    2.0
    """
    height, width = depth.shape
    x1, x2 = _window(bbox[0] / size[0], bbox[2] / size[0], width)
    y1, y2 = _window(bbox[1] / size[1], bbox[3] / size[1], height)
    return round(float(np.median(depth[y1:y2, x1:x2])), 4)


def _window(start: float, end: float, count: int) -> tuple[int, int]:
    first = min(max(int(np.floor(start * count)), 0), count - 1)
    return first, min(max(int(np.ceil(end * count)), first + 1), count)


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    pipeline = models.load_pipeline(args)

    def make(row: Row) -> Row:
        predicted = pipeline(read_upright(args.images, row), **args.call)["predicted_depth"]
        values = predicted.float().cpu().numpy().astype(np.float64).squeeze()
        if args.values == "distance":
            values = 1.0 / np.maximum(values, 1e-6)
        return write_map(values)

    return one_by_one(make)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, TASKS)
    parser.add_argument(
        "--values",
        choices=("nearness", "distance"),
        default="nearness",
        help="what the model's values are: larger where it is nearer, or metres (default: %(default)s)",
    )


STEP = Step(
    name="depth",
    level=1,
    does="estimate the depth of the images",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images",),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
