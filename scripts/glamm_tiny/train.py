"""Trains glamm-tiny into `hub_configs/glamm-tiny`: `make train-glamm-tiny`.

    python -m scripts.glamm_tiny.train [--work output/glamm-tiny] [--output hub_configs/glamm-tiny]

The steps: the grounding encoder with its mask decoder, the vision encoder, the language model, each on synthetic
scenes by a script of its own; then `groma train glamm` with the recipe in `hub_configs/recipes/glamm_tiny/`, and the
folder to ship, with weights in bfloat16. Vision encoder and language model start from groma-tiny's.

Finished steps are skipped, and an interrupted one resumes from its last checkpoint: run the command again. It also
runs in the background: `nohup make train-glamm-tiny > glamm-tiny.log &`.
"""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.groma_tiny.card import HUB_CONFIGS
from scripts.groma_tiny.steps import run_steps
from transformers_groma._files import write_file
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from .build import build_glamm_tiny
from .card import MINUTES, MODEL, STEPS, tiny_card
from .package import package
from .pretrain_grounding import pretrain_grounding
from .pretrain_language_model import pretrain_language_model
from .pretrain_vision import pretrain_vision

RECIPE = HUB_CONFIGS / "recipes" / "glamm_tiny" / "glamm.yaml"
# The recipe names this folder.
WORK = Path("output/glamm-tiny")
SEED = 5
# Task: rows to train on, questions per row.
DATA = {
    "rec": (8000, 10),
    "grounding": (3000, 6),
    "region-caption": (6000, 10),
    "grounded-caption": (12000, 1),
    "chat": (3000, 8),
}


def make_data(folder: Path) -> None:
    """Write the synthetic scenes of the last step, in GLaMM's words."""
    for task, (rows, questions) in DATA.items():
        options = ShapesOptions(task, seed=SEED, questions=questions, wording="glamm")
        write_shapes(options, rows, folder / task, num_shards=1)


def train_whole(model: Path, output: Path, *arguments: str) -> None:
    """Run `groma train glamm` as users do, resuming from its last checkpoint if there is one."""
    command = [sys.executable, "-m", "transformers_groma.training.glamm", "--config", str(RECIPE)]
    command += ["--model_name_or_path", str(model), "--output_dir", str(output)]
    command += ["--resume_from_checkpoint", "auto", *arguments]
    subprocess.run(command, check=True)


def train(work: Path, output: Path) -> None:
    """Run all steps that are not finished.

    Args:
        work (`Path`): folder of data, checkpoints and the log of finished steps; the recipe expects
            `output/glamm-tiny`.
        output (`Path`): folder to ship.
    """
    grounding, vision, language = work / "grounding", work / "vision", work / "language"
    base, trained = work / "base", work / "glamm"
    steps: dict[str, Callable[[], Any]] = {
        "grounding": lambda: pretrain_grounding(grounding),
        "vision": lambda: pretrain_vision(vision),
        "language": lambda: pretrain_language_model(vision, grounding, language),
        "base": lambda: build_glamm_tiny(grounding, language, base),
        "data": lambda: make_data(work / "data"),
        "glamm": lambda: train_whole(base, trained),
    }
    done = run_steps(steps, work / "finished.json")
    package(base, trained, output)
    minutes = {step: round(done[step] / 60) for step in STEPS}
    write_file(MINUTES, (json.dumps(minutes, indent=2) + "\n").encode())
    # Without the metrics that the folder's card has: they are those of the model before.
    card = tiny_card(GlammForConditionalGeneration.from_pretrained(output), minutes)
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
