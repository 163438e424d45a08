"""Trains groma-tiny from nothing to `hub_configs/groma-tiny`: `make train-tiny`.

    python -m scripts.groma_tiny.train [--work output/groma-tiny] [--output hub_configs/groma-tiny]

Data (synthetic scenes), an untrained base, the language model's first look-backs, what patches show for the vision
encoder, then the three stages of Groma with their own commands and the recipes in `hub_configs/recipes/tiny/`, figures
on test scenes, and the folder with weights in bfloat16.

A step that is finished is skipped, and a killed one goes on from its last checkpoint: start the command again.
"""

import argparse
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma._files import write_file
from transformers_groma.evaluation.benchmarks.shapes import evaluate_shapes
from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from .build import build_groma_tiny
from .card import tiny_card
from .pretrain_language_model import pretrain_language_model
from .pretrain_vision_encoder import pretrain_vision_encoder

logger = logging.getLogger("train_groma_tiny")

HUB_CONFIGS = Path(__file__).parents[2] / "hub_configs"
RECIPES = HUB_CONFIGS / "recipes" / "tiny"
# The recipes name these folders.
WORK = Path("output/groma-tiny")
SEED = 0
TEST_SEED, TEST_ROWS = 1000, 500
# Task: rows to train on, rows to watch, questions of a row.
DATA = {
    "detection": (12000, 200, 1),
    "rec": (8000, 200, 10),
    "grounding": (6000, 200, 8),
    "region-caption": (8000, 200, 12),
    "grounded-caption": (6000, 200, 4),
    "chat": (12000, 256, 10),
}


def make_data(folder: Path) -> None:
    """Write all synthetic scenes. Splits share none."""
    for task, (rows, watched, questions) in DATA.items():
        for split, count in (("train", rows), ("validation", watched)):
            options = ShapesOptions(task, seed=SEED, split=split, questions=questions)
            write_shapes(options, count, folder / task, num_shards=1)


def run_stage(stage: str, model: Path, output: Path, *arguments: str) -> None:
    """Run a stage as its users do, from its last checkpoint if there is one."""
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


def evaluate(model_folder: Path, figures_path: Path) -> None:
    """Measure the model on fresh test scenes."""
    model = GromaForConditionalGeneration.from_pretrained(model_folder).eval()
    processor = GromaProcessor.from_pretrained(model_folder)
    figures = evaluate_shapes(model, processor, rows=TEST_ROWS, seed=TEST_SEED, split="test")
    write_file(figures_path, json.dumps(figures, indent=2).encode())


def package(base: Path, model_folder: Path, figures_path: Path, seconds: dict[str, float], output: Path) -> None:
    """Write the folder that is shipped: weights in bfloat16, which git can hold, a config that asks for float32, and a card."""
    # Loading keeps what sees in float32 whatever it is asked for.
    model = GromaForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).to(torch.bfloat16)
    model.save_pretrained(output)
    # The configuration would note the type of the weights, and a processor that was loaded from where it was.
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, output / path.name)
    figures: dict[str, Any] = json.loads(figures_path.read_text(encoding="utf-8"))
    write_file(output / "README.md", tiny_card(model, figures, seconds, TEST_ROWS).encode())


def train(work: Path, output: Path) -> None:
    """Run all steps that are not finished yet.

    Args:
        work (`Path`): folder of data, checkpoints and the log of finished steps; the recipes expect
            `output/groma-tiny`.
        output (`Path`): folder to ship.
    """
    base, language, vision = work / "base", work / "language", work / "vision"
    detection, alignment, sft = work / "detection", work / "alignment", work / "sft"
    figures = work / "figures.json"
    done_path = work / "finished.json"
    done: dict[str, float] = json.loads(done_path.read_text()) if done_path.exists() else {}
    steps: dict[str, Callable[[], Any]] = {
        "data": lambda: make_data(work / "data"),
        "base": lambda: build_groma_tiny(base),
        "language": lambda: pretrain_language_model(base, language),
        "vision": lambda: pretrain_vision_encoder(base, vision),
        "detection": lambda: run_stage("detection", vision, detection),
        "alignment": lambda: run_stage("alignment", language, alignment, "--detector", str(detection)),
        "sft": lambda: run_stage("sft", alignment, sft),
        "figures": lambda: evaluate(sft, figures),
    }
    for name, step in steps.items():
        if name in done:
            logger.info(f"{name}: finished before, in {done[name] / 60:.1f} minutes")
            continue
        start = time.monotonic()
        step()
        done[name] = time.monotonic() - start
        write_file(done_path, json.dumps(done, indent=2).encode())
        logger.info(f"{name}: finished in {done[name] / 60:.1f} minutes")
    package(base, sft, figures, done, output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=WORK, help="folder of data and checkpoints (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=HUB_CONFIGS / "groma-tiny", help="folder to ship (default: %(default)s)"
    )
    arguments = parser.parse_args()
    train(arguments.work, arguments.output)
