"""A dataset of the Hub is streamed from the server that stands for it; a mistake is a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

from datasets import Dataset, Image

from tests.hub_server import LoopbackHub

from .samples import TINY, png, rows_of

REPOSITORY = Path(__file__).parents[2]
# All in one process: importing what it needs takes most of the time.
SCRIPT = """
import json, sys
from transformers_groma.cli import main
for arguments in json.loads(sys.argv[1]):
    print(main(["annotate", *arguments, "--proposals", "--device", "cpu"]), file=sys.stderr)
"""


def test_a_dataset_of_the_hub(tmp_path):
    for index in range(2):
        rows = {"image": [{"bytes": png(index), "path": None}], "id": [f"scene {index}"]}
        dataset = Dataset.from_dict(rows).cast_column("image", Image())
        dataset.to_parquet(tmp_path / "repo" / "data" / f"train-{index:05d}-of-00002.parquet")
    with LoopbackHub() as hub:
        hub.add_repo("org/scenes", tmp_path / "repo", "dataset")
        model = ["--model", str(TINY)]
        calls = [
            ["org/scenes", str(tmp_path / "out"), *model],
            ["hf://datasets/org/scenes", str(tmp_path / "out"), *model],
            ["org/scenes", str(tmp_path / "out"), *model, "--split", "test"],
            ["org/nothing", str(tmp_path / "none"), *model],
        ]
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY / "src")}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(calls)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        # Nothing but Parquet was asked for, and as parts: the dataset was streamed.
        assert not list((tmp_path / "home").rglob("*.arrow"))
    assert "2 images annotated, 2 images in this run" in done.stderr
    assert "2 images annotated, 0 images in this run" in done.stderr
    assert "the dataset org/scenes cannot be read from the Hub (ValueError: Bad split: test" in done.stderr
    assert "org/nothing cannot be read from the Hub (DatasetNotFoundError" in done.stderr
    assert list(rows_of(tmp_path / "out")) == ["scene 0", "scene 1"]
