"""A run that is killed in the middle of a batch: the next one does the rest, and nothing twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from .samples import TINY, files_of, rows_of

REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys
from transformers_groma.annotation.annotator import Annotator
from transformers_groma.cli import main

look, calls = Annotator.annotate, []

def dying(self, images):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return look(self, images)

Annotator.annotate = dying
main(["annotate", *sys.argv[1:]])
"""


def test_a_killed_run_resumes(annotate, photos, tmp_path):
    options = ("--proposals", "--batch-size", "1", "--shard-size", "2", "--model", str(TINY))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, photos, tmp_path / "out", "--device", "cpu", *options],
        env=environment,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL
    # One shard is whole; of the next nothing but what was under way is lost.
    first = tmp_path / "out" / "train-00000-of-00002.parquet"
    assert list(files_of(tmp_path / "out")) == [first.name]
    time = first.stat().st_mtime_ns

    code, said = annotate(photos, tmp_path / "out", *options)
    assert code == 0 and "4 images annotated, 1 image in this run" in said
    assert first.stat().st_mtime_ns == time
    assert len(rows_of(tmp_path / "out")) == 4
    assert sorted(path.name for path in (tmp_path / "out" / ".annotate").iterdir()) == [
        "settings.json",
        "train-00000-of-00002.report.json",
        "train-00001-of-00002.report.json",
    ]
    assert annotate(photos, tmp_path / "whole", *options)[0] == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
