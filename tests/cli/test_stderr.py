"""What commands print on stderr: notes and progress, and no warnings that a user cannot act on."""

import json
import re
import subprocess
import sys

import pytest

from .samples import BOX, PHOTO, TINY

# Runs commands one after the other in one process, so that the imports are paid for once.
PROGRAM = """
import json, sys
from transformers_groma.cli import main
for arguments in json.loads(sys.argv[1]):
    print("$ groma", *arguments[:3], file=sys.stderr)
    code = main(arguments)
    assert code == 0, (arguments, code)
"""
NOTES = (
    r"\$ groma .*",
    r"wrote .* and .*",
    r"using the tiny model groma-tiny, which only knows .*",
    r"(train|test): \d+ rows from \d+ records",
)
# "  50%|█████     | 1/2 [00:01<00:01,  1.80s/it]", with words in front or none.
PROGRESS = re.compile(r".*(\d+%\||\[\d\d:\d\d).*|")


def unexpected_lines(stderr: str) -> list[str]:
    lines = [line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[\w", "", stderr))]
    return [line for line in lines if not PROGRESS.fullmatch(line) and not any(re.fullmatch(n, line) for n in NOTES)]


def run_all(commands, folder) -> str:
    arguments = [[str(word) for word in words] for words in commands]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def test_unexpected_lines_are_found():
    stderr = (
        "$ groma chat\n\r  0%|   | 0/2 [00:00<?, ?it/s]\rx.py:3: UserWarning: You'd better\n  warnings.warn(\n"
        "wrote a and b\n"
    )
    assert unexpected_lines(stderr) == ["x.py:3: UserWarning: You'd better", "warnings.warn("]
    assert unexpected_lines("[transformers] `use_cache=True` is incompatible") != []


def test_asking_says_nothing_but_notes(tmp_path):
    commands = [
        ["chat", PHOTO, "What is <region>?", "--box", BOX, "--output", "answer", "--max-new-tokens", "4"],
        ["chat", PHOTO, "Hi", "--json", "--sample", "--temperature", "0.7", "--seed", "0", "--max-new-tokens", "4"],
        ["propose", PHOTO, "--output", "regions"],
        [
            "data",
            "shapes",
            "--task",
            "rec",
            "--rows",
            "2",
            "--seed",
            "0",
            "--evaluation",
            "--split",
            "test",
            "--output",
            "rec",
        ],
        ["evaluate", "rec", "--dataset", "rec", "--output", "results", "--gallery", "1"],
    ]
    assert unexpected_lines(run_all(commands, tmp_path)) == []


@pytest.mark.parametrize("lora", [(), ("--use_peft", "--dtype", "bfloat16")], ids=["full", "lora"])
def test_training_says_nothing_but_progress(tmp_path, lora):
    quick = ["--max_steps", "1", "--per_device_train_batch_size", "1", "--use_cpu", "true", "--report_to", "none"]
    model = ["--model_name_or_path", TINY]
    shapes = ["data", "shapes", "--rows", "2", "--seed", "0", "--image-size", "160", "--max-regions", "30"]
    commands = [
        [*shapes, "--task", "chat", "--output", "chat"],
        ["train", "sft", *model, "--train_datasets", "chat", "--output_dir", "sft", *quick, *lora],
    ]
    if not lora:
        commands += [
            ["train", "alignment", *model, "--train_datasets", "chat", "--output_dir", "alignment", *quick],
            [*shapes, "--task", "detection", "--output", "boxes"],
            ["train", "detection", *model, *quick, "--train_datasets", "boxes", "--output_dir", "detection"],
            ["propose", PHOTO, "--model", "detection"],
        ]
    assert unexpected_lines(run_all(commands, tmp_path)) == []
