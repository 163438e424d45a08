"""Experiment: why fixing only the box format made the original worse; groma-tiny in three ROI geometries.

    python benchmarks/roi_geometry.py [--alignment-steps 150] [--sft-steps 300] [--seeds 0 1 2] [--rows 300]

The original feeds `(cx, cy, w, h)` to ROIAlign as if they were corners, and its strides double every coordinate.
Stages 2 and 3 of groma-tiny, short, with legacy geometry (both faults), right corners alone (doubled strides), and
right geometry. A run starts from the language model of groma-tiny, which has seen no region encoder, and its detector;
`make train-tiny` makes both, and the data. The weights of region encoder and projector and the order of the data
follow from the seed and are the same for all geometries. Everything else is as in the recipes of groma-tiny.

Measured: region descriptions (attributes, and all of them at once) and REC on test scenes. Ratios: mean accuracy of a
geometry / that of the right one. Seconds: mean of a run; an interrupted part counts from where it resumed.

An interrupted command resumes when it is started again: finished parts of runs are noted in the work folder, and a
training continues from its last checkpoint. At the end, the table in `docs/roi-geometry.md` and its plots are written.
"""

import argparse
import gc
import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from roi_geometry_report import (
    ELSEWHERE,
    GEOMETRIES,
    METRICS,
    RESULTS_PLOT,
    SAMPLES_PLOT,
    TASKS,
    TOP_LEFT,
    Geometry,
    begins_top_left,
    blind_attributes,
    draw_samples,
    fill_document,
    main_metric,
    plot_results,
    results_table,
    share_on_map,
    summary,
)
from tqdm import tqdm

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma._files import write_file
from transformers_groma.evaluation.benchmarks.shapes import SCORES, answer_shapes
from transformers_groma.shapes.rows import shapes_dataset
from transformers_groma.training import alignment, sft

ROOT = Path(__file__).parents[1]
TEST_SEED = 1000
WARMUP_SHARE = 0.1
SAVE_STEPS = 50
STAGES: dict[str, Callable[[Sequence[str]], None]] = {"alignment": alignment.main, "sft": sft.main}
EVALUATION = "evaluation"


def write_start_model(language: Path, geometry: Geometry, seed: int, folder: Path) -> None:
    """Write the model that a run starts from.

    Args:
        language (`Path`): groma-tiny whose language model is trained, and nothing else.
        geometry (`Geometry`): the geometry of its region encoder.
        seed (`int`): seed of the weights of region encoder and projector.
        folder (`Path`): output folder.
    """
    model = GromaForConditionalGeneration.from_pretrained(language, dtype=torch.float32)
    model.config.region_encoder_config.roi_box_format = geometry.box_format
    model.config.region_encoder_config.roi_strides = geometry.strides(model.config.vision_config.patch_size)
    torch.manual_seed(seed)
    fresh = GromaForConditionalGeneration(model.config)
    for name in ("region_encoder", "multi_modal_projector"):
        getattr(model.model, name).load_state_dict(getattr(fresh.model, name).state_dict())
    model.save_pretrained(folder)
    GromaProcessor.from_pretrained(language).save_pretrained(folder)


def stage_arguments(
    stage: str, settings: Mapping[str, Any], recipes: Path, seed: int, model: Path, output: Path
) -> list[str]:
    """The command line of a stage: its recipe, shorter, and from its last checkpoint if there is one."""
    steps = settings[f"{stage}_steps"]
    return [
        *("--config", str(recipes / f"{stage}.yaml")),
        *("--model_name_or_path", str(model), "--output_dir", str(output), "--resume_from_checkpoint", "auto"),
        *("--max_steps", str(steps), "--warmup_steps", str(round(WARMUP_SHARE * steps)), "--seed", str(seed)),
        *("--save_steps", str(SAVE_STEPS), "--save_total_limit", "1", "--eval_strategy", "no", "--report_to", "none"),
    ]  # fmt: skip


def asked_rows(task: str, rows: int, image_size: int) -> tuple[Dataset, list[list[float]]]:
    """Test rows of a task, and the one box, `xyxy`, that each is about."""
    dataset = shapes_dataset(task, rows, TEST_SEED, split="test", evaluation=True, image_size=image_size)
    column = "target_boxes_xyxy" if task == "rec" else "boxes_xyxy"
    return dataset, [boxes[0] for boxes in dataset[column]]


def evaluate(folder: Path, rows: int) -> dict[str, dict[str, float | None]]:
    """Measure a model on test scenes: the metrics of `evaluate_shapes`, and the main one by where the box begins.

    Args:
        folder (`Path`): folder of the model.
        rows (`int`): scenes for each task.

    Returns:
        `dict`: metrics by task; `None` for a group without rows.
    """
    model = GromaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = GromaProcessor.from_pretrained(folder)
    size = model.config.vision_config.image_size
    metrics: dict[str, dict[str, float | None]] = {}
    for task in TASKS:
        dataset, boxes = asked_rows(task, rows, size)
        predictions = answer_shapes(model, processor, dataset, task)
        metrics[task] = dict(SCORES[task](predictions, dataset))
        groups: dict[str, list[int]] = {TOP_LEFT: [], ELSEWHERE: []}
        for index, box in enumerate(boxes):
            groups[TOP_LEFT if begins_top_left(box, size) else ELSEWHERE].append(index)
        for group, members in groups.items():
            metrics[task][f"rows_{group}"] = len(members)
            of_group = [predictions[index] for index in members]
            scores = SCORES[task](of_group, dataset.select(members)) if members else {}
            metrics[task][group] = scores.get(main_metric(task))
    return metrics


class Run:
    """One geometry trained with one seed: its folder, and which parts of it are finished.

    Args:
        folder (`Path`): folder of the run; `run.json` in it notes what is finished.
        geometry (`str`): one of `GEOMETRIES`.
        seed (`int`): seed of weights and data.
        settings (`Mapping`): what results depend on.

    Raises:
        ValueError: the folder holds a run with other settings.
    """

    def __init__(self, folder: Path, geometry: str, seed: int, settings: Mapping[str, Any]):
        self.folder = folder
        self.note = folder / "run.json"
        self.result: dict[str, Any] = {"geometry": geometry, "seed": seed, "settings": dict(settings), "seconds": {}}
        if self.note.exists():
            saved = json.loads(self.note.read_text(encoding="utf-8"))
            if differing := sorted(key for key, value in settings.items() if saved["settings"].get(key) != value):
                raise ValueError(
                    f"{folder} holds a run with other settings ({', '.join(differing)}). Name another folder with "
                    "--work, or remove this one."
                )
            self.result = saved

    def parts(self, language: Path, detection: Path, recipes: Path) -> dict[str, Callable[[], None]]:
        """The parts of the run, in order."""
        start, aligned, tuned = self.folder / "start", self.folder / "alignment", self.folder / "sft"
        settings, seed = self.result["settings"], self.result["seed"]

        def align() -> None:
            write_start_model(language, GEOMETRIES[self.result["geometry"]], seed, start)
            arguments = stage_arguments("alignment", settings, recipes, seed, start, aligned)
            STAGES["alignment"]([*arguments, "--detector", str(detection)])

        def tune() -> None:
            STAGES["sft"](stage_arguments("sft", settings, recipes, seed, aligned, tuned))

        def measure() -> None:
            self.result["metrics"] = evaluate(tuned, settings["rows"])

        return {"alignment": align, "sft": tune, EVALUATION: measure}

    def do(self, name: str, part: Callable[[], None]) -> None:
        """Do a part and note that it is finished."""
        start = time.perf_counter()
        part()
        self.result["seconds"][name] = time.perf_counter() - start
        write_file(self.note, json.dumps(self.result, indent=2).encode())
        if name == EVALUATION:
            # The optimizer states in them are most of a run's files.
            for checkpoint in self.folder.glob("*/checkpoint-*"):
                shutil.rmtree(checkpoint)
        gc.collect()


def run_all(runs: Sequence[Run], language: Path, detection: Path, recipes: Path) -> None:
    """Do the parts that are not finished yet. The progress bar counts training steps of all runs."""
    settings = runs[0].result["settings"]
    # An evaluation has no steps, but its time is in the estimate of the time left.
    steps = {stage: settings[f"{stage}_steps"] for stage in STAGES}
    finished = sum(steps[stage] for run in runs for stage in STAGES if stage in run.result["seconds"])
    with tqdm(total=len(runs) * sum(steps.values()), initial=finished, unit="step", smoothing=0) as progress:
        for run in runs:
            for name, part in run.parts(language, detection, recipes).items():
                if name in run.result["seconds"]:
                    continue
                progress.set_description(f"{run.folder.name}, {name}")
                run.do(name, part)
                progress.update(steps.get(name, 0))
                progress.write(str(progress))


def make_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What results depend on: steps, rows, recipes and the models that runs start from.

    Raises:
        FileNotFoundError: a model is not there.
    """
    settings: dict[str, Any] = {
        "alignment_steps": arguments.alignment_steps,
        "sft_steps": arguments.sft_steps,
        "rows": arguments.rows,
    }
    for stage in STAGES:
        settings[f"{stage}_recipe"] = yaml.safe_load((arguments.recipes / f"{stage}.yaml").read_text(encoding="utf-8"))
    for name in ("language", "detection"):
        content = b""
        for path in (getattr(arguments, name) / file for file in ("config.json", "model.safetensors")):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing. `make train-tiny` makes it, or name a folder with --{name}."
                )
            content += path.read_bytes()
        settings[name] = hashlib.sha256(content).hexdigest()
    return settings


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alignment-steps", type=int, default=150)
    parser.add_argument("--sft-steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=300, help="test scenes per task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--language", type=Path, default=Path("output/groma-tiny/language"))
    parser.add_argument("--detection", type=Path, default=Path("output/groma-tiny/detection"))
    parser.add_argument("--recipes", type=Path, default=ROOT / "hub_configs" / "recipes" / "tiny")
    parser.add_argument("--work", type=Path, default=Path("output/roi-geometry"), help="folder of all runs")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "roi-geometry.md", help="gets the table")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)

    settings = make_settings(arguments)
    # Seed by seed, so that whatever is finished can be compared.
    runs = [
        Run(arguments.work / f"{name}-seed{seed}", name, seed, settings)
        for seed in arguments.seeds
        for name in GEOMETRIES
    ]
    run_all(runs, arguments.language, arguments.detection, arguments.recipes)

    results = [run.result for run in runs]
    size = GromaForConditionalGeneration.config_class.from_pretrained(arguments.language).vision_config.image_size
    boxes = torch.tensor([box for task in TASKS for box in asked_rows(task, arguments.rows, size)[1]])
    on_map = {name: share_on_map(geometry, boxes, size) for name, geometry in GEOMETRIES.items()}
    described, _ = asked_rows("region-caption", arguments.rows, size)
    blind = blind_attributes([references[0] for references in described["references"]])
    table = results_table(results, on_map, blind)
    images = arguments.document.parent / "images"
    draw_samples(images / SAMPLES_PLOT)
    plot_results(results, images / RESULTS_PLOT)
    fill_document(arguments.document, table)
    print(table)

    ratios: dict[str, float | None] = {}
    for task, metric, _ in METRICS:
        means = {name: statistics.fmean(values) for name, values in summary(results, task, metric).items()}
        for name in GEOMETRIES:
            if name != "right":
                ratios[f"{task}_{metric}_{name}"] = (
                    round(means[name] / means["right"], 3) if means["right"] > 0 else None
                )
    seconds = {
        part: round(statistics.fmean(result["seconds"][part] for result in results), 1)
        for part in (*STAGES, EVALUATION)
    }
    print(json.dumps({"benchmark": "roi_geometry", "ratios": ratios, "seconds": seconds}))


if __name__ == "__main__":
    main()
