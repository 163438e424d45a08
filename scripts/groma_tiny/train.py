"""Trains groma-tiny from scratch into `hub_configs/groma-tiny`: `make train-tiny`.

    python -m scripts.groma_tiny.train [--work output/groma-tiny] [--output hub_configs/groma-tiny]

The steps: synthetic scenes, an untrained base, the language model alone, the vision encoder alone, then the three
stages of Groma and its mask decoder by their own commands and the recipes in `hub_configs/recipes/tiny/`, and the
folder to ship, with weights in bfloat16. `make evaluate-tiny` measures the model afterwards and puts its metrics into
the card.

Finished steps are skipped, and an interrupted one resumes from its last checkpoint: run the command again.
"""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers_groma import GromaForConditionalGeneration
from transformers_groma._files import write_file
from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from .build import build_groma_tiny
from .card import HUB_CONFIGS, MINUTES, MODEL, STEPS, tiny_card
from .package import package
from .pretrain_language_model import pretrain_language_model
from .pretrain_vision_encoder import pretrain_vision_encoder
from .steps import run_steps

RECIPES = HUB_CONFIGS / "recipes" / "tiny"
# The recipes name these folders.
WORK = Path("output/groma-tiny")
SEED = 0
# Task: rows to train on, rows for evaluation during training, questions per row.
DATA = {
    "detection": (12000, 200, 1),
    "rec": (8000, 200, 10),
    "grounding": (6000, 200, 8),
    "region-caption": (8000, 200, 12),
    "grounded-caption": (6000, 200, 4),
    "chat": (12000, 256, 10),
}
# The mask decoder learns from other scenes, drawn at two sizes: photos have more pixels than the model's 224.
MASK_SIZES = (448, 224)
MASK_ROWS, MASK_WATCHED = 4000, 60
MASK_SEED = 1


def make_data(folder: Path) -> None:
    """Write the synthetic scenes of the three stages; no scene is in two splits."""
    for task, (rows, watched, questions) in DATA.items():
        for split, count in (("train", rows), ("validation", watched)):
            options = ShapesOptions(task, seed=SEED, split=split, questions=questions)
            write_shapes(options, count, folder / task, num_shards=1)


def make_mask_data(folder: Path) -> None:
    """Write the synthetic scenes from which the mask decoder learns."""
    for size in MASK_SIZES:
        for split, count in (("train", MASK_ROWS), ("validation", MASK_WATCHED)):
            options = ShapesOptions("detection", seed=MASK_SEED, split=split, image_size=size)
            write_shapes(options, count, folder / f"masks-{size}", num_shards=1)


def run_stage(stage: str, model: Path, output: Path, *arguments: str) -> None:
    """Run a stage as users do, resuming from its last checkpoint if there is one."""
    command = [
        sys.executable,
        "-m",
        f"transformers_groma.training.{stage}",
        "--config",
        str(RECIPES / f"{stage}.yaml"),
    ]
    command += ["--model_name_or_path", str(model), "--output_dir", str(output)]
    command += ["--resume_from_checkpoint", "auto", *arguments]
    subprocess.run(command, check=True)


def train(work: Path, output: Path) -> None:
    """Run all steps that are not finished.

    Args:
        work (`Path`): folder of data, checkpoints and the log of finished steps; the recipes expect
            `output/groma-tiny`.
        output (`Path`): folder to ship.
    """
    base, language, vision = work / "base", work / "language", work / "vision"
    detection, alignment, sft, masks = (work / stage for stage in ("detection", "alignment", "sft", "masks"))
    steps: dict[str, Callable[[], Any]] = {
        "data": lambda: make_data(work / "data"),
        "base": lambda: build_groma_tiny(base),
        "language": lambda: pretrain_language_model(base, language),
        "vision": lambda: pretrain_vision_encoder(base, vision),
        "detection": lambda: run_stage("detection", vision, detection),
        "alignment": lambda: run_stage("alignment", language, alignment, "--detector", str(detection)),
        "sft": lambda: run_stage("sft", alignment, sft),
        "mask data": lambda: make_mask_data(work / "data"),
        "masks": lambda: run_stage("masks", sft, masks),
    }
    done = run_steps(steps, work / "finished.json")
    package(base, masks, output)
    minutes = {step: round(done[step] / 60) for step in STEPS}
    write_file(MINUTES, (json.dumps(minutes, indent=2) + "\n").encode())
    card = tiny_card(GromaForConditionalGeneration.from_pretrained(output), minutes)
    write_file(output / "README.md", card.encode())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=WORK, help="folder of data and checkpoints (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=MODEL, help="folder to ship (default: %(default)s)")
    arguments = parser.parse_args()
    train(arguments.work, arguments.output)
