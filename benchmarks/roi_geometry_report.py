"""The three ROI geometries of `roi_geometry.py`: where each samples, and tables and plots of the results.

Where samples fall is always asked of the package's own region encoder, never computed a second time.
"""

import io
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from transformers_groma import GromaRegionEncoderConfig
from transformers_groma._files import write_file
from transformers_groma.boxes import box_xyxy_to_cxcywh
from transformers_groma.evaluation.benchmarks.shapes import named_attributes
from transformers_groma.models.modeling_region_encoder import GromaRegionEncoder
from transformers_groma.shapes.scenes import Scene, make_scene
from transformers_groma.visualization import PALETTE

TABLE_BEGIN, TABLE_END = "<!-- table -->", "<!-- /table -->"
# Tasks, and the metrics of each in words, the main one first.
TASKS = {
    "region-caption": {
        "attributes_right": "attributes in region descriptions",
        "exact_match": "exact region descriptions",
    },
    "rec": {"acc@0.5": "REC, accuracy at IoU 0.5"},
}
METRICS = [(task, metric, words) for task, metrics in TASKS.items() for metric, words in metrics.items()]
TOP_LEFT, ELSEWHERE = "begins_top_left", "elsewhere"
RESULTS_PLOT, SAMPLES_PLOT = "roi-geometry.png", "roi-geometry-samples.png"
DOTS_PER_INCH = 150
COLORS = [tuple(value / 255 for value in PALETTE[index]) for index in (3, 0, 5)]
# The scene that is shown as an example.
EXAMPLE_SCENE, EXAMPLE_SIZE, PATCH_SIZE = 7, 224, 14


@dataclass(frozen=True)
class Geometry:
    """How boxes are put on the feature maps.

    Args:
        box_format (`str`): `region_encoder_config.roi_box_format`.
        stride_factor (`float`): `region_encoder_config.roi_strides` as a multiple of the right ones. 0.5 doubles
            coordinates.
        words (`str`): its name in tables and plots.
    """

    box_format: str
    stride_factor: float
    words: str

    def strides(self, patch_size: int = PATCH_SIZE) -> list[float]:
        """`roi_strides` for a patch size, finest map first."""
        return [self.stride_factor * patch_size / scale for scale in (4, 2, 1)]


GEOMETRIES = {
    "legacy": Geometry("cxcywh", 0.5, "legacy"),
    "corners_only": Geometry("xyxy", 0.5, "corners only"),
    "right": Geometry("xyxy", 1.0, "right"),
}


################
# Where samples fall
################
def roi_align_call(geometry: Geometry, boxes: Tensor, image_size: int) -> tuple[torch.nn.Module, list[Any]]:
    """The ROIAlign of a region encoder and what the encoder gives it for boxes.

    Args:
        geometry (`Geometry`): of the region encoder.
        boxes (`Tensor` of shape `(n, 4)`): `xyxy` in absolute pixels.
        image_size (`int`): side of the image in pixels, a multiple of the patch size.

    Returns:
        `tuple`: the module, and its arguments: maps, boxes, scales, side of the crops, samples on a bin's side, mask.
    """
    # Widths do not matter for where samples fall.
    config = GromaRegionEncoderConfig(
        roi_box_format=geometry.box_format,
        roi_strides=geometry.strides(),
        roi_output_size=5,
        num_fuse_layers=1,
        group_norm_groups=1,
        position_hidden_size=4,
        region_hidden_size=4,
    )
    encoder = GromaRegionEncoder(config, vision_hidden_size=4, output_size=4, image_size=image_size)
    calls: list[list[Any]] = []
    handle = encoder.roi_align.register_forward_pre_hook(lambda module, args: calls.append(list(args)))
    grid = image_size // PATCH_SIZE
    normalized = box_xyxy_to_cxcywh(boxes.float() / image_size)[None]
    with torch.no_grad():
        encoder([torch.zeros(1, 4, grid, grid)] * 3, normalized, torch.ones(1, len(boxes), dtype=torch.bool))
    handle.remove()
    return encoder.roi_align, calls[0]


def share_on_map(geometry: Geometry, boxes: Tensor, image_size: int) -> Tensor:
    """The share of a box's samples that fall on the finest map; the others are zeros, whatever the image shows.

    Args:
        geometry (`Geometry`): of the region encoder.
        boxes (`Tensor` of shape `(n, 4)`): `xyxy` in absolute pixels.
        image_size (`int`): side of the image in pixels.

    Returns:
        `Tensor` of shape `(n,)`: shares, 0..1.
    """
    roi_align, (maps, *rest) = roi_align_call(geometry, boxes, image_size)
    ones = [torch.ones_like(feature_map[:, :1]) for feature_map in maps]
    return roi_align(ones, *rest)[0].mean(dim=(1, 2, 3))


def read_weights(geometry: Geometry, box: Tensor, image_size: int) -> tuple[Tensor, list[float]]:
    """How much each pixel of the finest map counts in the crop of a box, and where the crop is.

    Args:
        geometry (`Geometry`): of the region encoder.
        box (`Tensor` of shape `(4,)`): `xyxy` in absolute pixels.
        image_size (`int`): side of the image in pixels.

    Returns:
        `tuple`: weights `(height, width)` that add up to the share of samples on the map, and the two corners `x, y,
        x, y` between which samples are taken, in pixels of the map. The second may be above or left of the first, and
        both may be off the map.
    """
    roi_align, (maps, boxes, scales, *rest) = roi_align_call(geometry, box[None], image_size)
    read = torch.zeros_like(maps[0][:, :1]).requires_grad_()
    # The gradient of an average is the weight of what is averaged.
    roi_align([read], boxes, scales[:1], *rest)[0].mean().backward()
    return read.grad[0, 0], (boxes[0, 0] * scales[0]).tolist()


def begins_top_left(box: Sequence[float], image_size: int) -> bool:
    """Whether an `xyxy` box in pixels begins in the top left quarter, so that its doubled corner is on the map."""
    return box[0] < image_size / 2 and box[1] < image_size / 2


def example_scene() -> tuple[Scene, dict[str, Tensor]]:
    """The example scene and two of its boxes, `xyxy`: one begins in the top left quarter, the other does not."""
    scene = make_scene(0, "test", EXAMPLE_SCENE, EXAMPLE_SIZE)
    boxes = sorted(scene.boxes_xyxy, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), reverse=True)
    first = next(box for box in boxes if begins_top_left(box, EXAMPLE_SIZE))
    second = next(box for box in boxes if not begins_top_left(box, EXAMPLE_SIZE))
    return scene, {"begins in the top left quarter": torch.tensor(first), "begins elsewhere": torch.tensor(second)}


def draw_samples(path: Path) -> None:
    """Draw what each geometry reads of the finest map for two boxes.

    Args:
        path (`Path`): PNG file to write.
    """
    scene, boxes = example_scene()
    image = scene.draw()
    figure = Figure(figsize=(9, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(boxes), len(GEOMETRIES), squeeze=False)
    for row, (where, box) in enumerate(boxes.items()):
        for column, geometry in enumerate(GEOMETRIES.values()):
            weights, corners = read_weights(geometry, box, EXAMPLE_SIZE)
            _draw_panel(axes[row][column], image, box / EXAMPLE_SIZE, weights, corners)
            title = f"{geometry.words}: {float(weights.sum()):.0%} on the map"
            axes[row][column].set_title(title, fontsize=10, fontweight="bold", color=COLORS[column])
        axes[row][0].set_ylabel(f"box that {where}", fontsize=10)
    note = "black: the box; red: what ROIAlign reads of the finest map; "
    note += "dashed: where its samples lie; gray: off the map, zeros"
    figure.supxlabel(note, fontsize=8.5, color="0.35")
    _save(figure, path)


def _draw_panel(axes: Axes, image: Any, box: Tensor, weights: Tensor, corners: Sequence[float]) -> None:
    """Draw an `xyxy` box in 0..1 and what is read for it, in pixels of the map, whose pixel 0 reaches from 0 to 1."""
    height, width = weights.shape
    axes.set_facecolor("0.72")
    axes.imshow(image, extent=(0, width, height, 0))
    # What is not read is transparent.
    layer = torch.zeros(height, width, 4)
    layer[..., :3] = torch.tensor([0.85, 0.0, 0.0])
    layer[..., 3] = (weights / max(float(weights.max()), 1e-12)) ** 0.5
    axes.imshow(layer.numpy(), extent=(0, width, height, 0))
    x, y, right, bottom = (box * torch.tensor([width, height, width, height])).tolist()
    axes.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor="black", linewidth=2))
    first_x, first_y, last_x, last_y = corners
    axes.add_patch(
        Rectangle(
            (first_x, first_y), last_x - first_x, last_y - first_y, fill=False, edgecolor="0.2", linewidth=1.2,
            linestyle=(0, (4, 2)), clip_on=True,
        )
    )  # fmt: skip
    axes.set(xlim=(-2, 2 * width), ylim=(2 * height, -2), xticks=(0, width), yticks=(0, height))


################
# Results
################
def main_metric(task: str) -> str:
    """The metric that tells how much the place of a box matters."""
    return next(iter(TASKS[task]))


def summary(runs: Sequence[Mapping[str, Any]], task: str, metric: str) -> dict[str, list[float]]:
    """The values of a metric for each geometry, one for each seed, in the order of the seeds.

    Args:
        runs (`Sequence[Mapping]`): results of runs.
        task (`str`): one of `TASKS`.
        metric (`str`): name of the metric.

    Returns:
        `dict`: geometry to values.
    """
    ordered = sorted(runs, key=lambda run: run["seed"])
    return {name: [run["metrics"][task][metric] for run in ordered if run["geometry"] == name] for name in GEOMETRIES}


def blind_attributes(descriptions: Sequence[str]) -> float:
    """The share of attributes that can be named without looking at the image.

    That is the size, which the box tells, and of every other kind the most frequent word.

    Args:
        descriptions (`Sequence[str]`): the true descriptions.

    Returns:
        `float`: 0..1.
    """
    kinds: dict[str, Counter[str]] = {}
    for text in descriptions:
        for kind, word in named_attributes(text).items():
            kinds.setdefault(kind, Counter())[word] += 1
    right = sum(words.total() if kind == "size" else max(words.values()) for kind, words in kinds.items())
    return right / sum(words.total() for words in kinds.values())


def results_table(runs: Sequence[Mapping[str, Any]], on_map: Mapping[str, Tensor], blind: float) -> str:
    """The part of the document that holds what was measured.

    Args:
        runs (`Sequence[Mapping]`): results of all runs.
        on_map (`Mapping[str, Tensor]`): for each geometry, `share_on_map` of the boxes that were asked about.
        blind (`float`): `blind_attributes` of the regions that were asked about.

    Returns:
        `str`: Markdown.
    """
    seeds = sorted({run["seed"] for run in runs})
    settings = runs[0]["settings"]
    seeds_head = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    lines = [
        f"Each run has {settings['alignment_steps']} steps of stage 2 and {settings['sft_steps']} of stage 3, and "
        f"{settings['rows']} test scenes per task. In percent; ± is the standard deviation over the seeds. A guess "
        "that knows only the size of an object, which its box shows, and otherwise says the most frequent word gets "
        f"{_percent(blind)} % of the attributes.",
        "",
        f"| geometry | samples on the map | {' | '.join(f'{words} | {seeds_head}' for _, _, words in METRICS)} |",
        f"|---|---|{'---|' * (2 * len(METRICS))}",
    ]
    for name, geometry in GEOMETRIES.items():
        cells = [geometry.words, _percent(float(on_map[name].mean()))]
        for task, metric, _ in METRICS:
            values = summary(runs, task, metric)[name]
            cells += [_mean_and_spread(values), ", ".join(map(_percent, values))]
        lines.append(f"| {' | '.join(cells)} |")
    counts = {
        task: {group: runs[0]["metrics"][task][f"rows_{group}"] for group in (TOP_LEFT, ELSEWHERE)} for task in TASKS
    }
    head = " | ".join(
        f"{TASKS[task][main_metric(task)]}: begins there ({counts[task][TOP_LEFT]} rows) | elsewhere "
        f"({counts[task][ELSEWHERE]})"
        for task in TASKS
    )
    lines += [
        "",
        "The same by where the box begins (its top left corner): in the top left quarter of the image, where doubled "
        "corners are still on the map, or elsewhere, where right corners with doubled strides read only zeros.",
        "",
        f"| geometry | boxes that read only zeros | {head} |",
        f"|---|---|{'---|' * (2 * len(TASKS))}",
    ]
    for name, geometry in GEOMETRIES.items():
        cells = [geometry.words, _percent(float((on_map[name] == 0).float().mean()))]
        for task in TASKS:
            cells += [_mean_and_spread(summary(runs, task, group)[name]) for group in (TOP_LEFT, ELSEWHERE)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"![Accuracy of each geometry, one point per seed](images/{RESULTS_PLOT})"]
    return "\n".join(lines)


def fill_document(document: Path, table: str) -> None:
    """Put the results between the document's markers.

    Args:
        document (`Path`): Markdown file, changed in place.
        table (`str`): Markdown.

    Raises:
        ValueError: the document lacks a marker.
    """
    text = document.read_text(encoding="utf-8")
    head, begin, rest = text.partition(TABLE_BEGIN)
    _, end, tail = rest.partition(TABLE_END)
    if not begin or not end:
        raise ValueError(
            f"{document} must hold {TABLE_BEGIN} and, behind it, {TABLE_END}: the results go between them."
        )
    write_file(document, f"{head}{begin}\n{table}\n{end}{tail}".encode())


def plot_results(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the metrics of each task: a point for each seed, a line for their mean.

    Args:
        runs (`Sequence[Mapping]`): results of all runs.
        path (`Path`): PNG file to write.
    """
    figure = Figure(figsize=(4 * len(METRICS), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, name, words) in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        for place, (values, color) in enumerate(zip(summary(runs, task, name).values(), COLORS, strict=True)):
            heights = [100 * value for value in values]
            mean = statistics.fmean(heights)
            # Side by side, so that equal values are all seen.
            places = [place + 0.12 * (number - (len(heights) - 1) / 2) for number in range(len(heights))]
            axes.hlines(mean, place - 0.3, place + 0.3, color=color, linewidth=2.5, zorder=2)
            axes.scatter(places, heights, s=36, color=color, edgecolor="white", zorder=3, clip_on=False)
            axes.annotate(f"{mean:.1f}", (place + 0.33, mean), va="center", fontsize=9)
        axes.set_title(words, loc="left", fontsize=10.5, fontweight="bold")
        axes.set(xlim=(-0.5, len(GEOMETRIES) - 0.3), ylim=(0, 100), ylabel="%", xticks=range(len(GEOMETRIES)))
        axes.set_xticklabels([geometry.words for geometry in GEOMETRIES.values()])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", zorder=0)
    figure.supxlabel("a point a seed, a line for their mean", fontsize=8.5, color="0.45", x=0.99, ha="right")
    _save(figure, path)


def _mean_and_spread(values: Sequence[float | None]) -> str:
    # A group without rows has no value.
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {_percent(statistics.stdev(known))}" if len(known) > 1 else ""
    return f"{_percent(statistics.fmean(known))}{spread}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    # Without matplotlib's version in it, equal results give equal bytes.
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    write_file(path, buffer.getvalue())
