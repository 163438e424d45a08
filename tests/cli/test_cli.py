"""The command `groma` itself: help, version."""

import subprocess
import sys
from pathlib import Path

import pytest

from transformers_groma._output_errors import OutputError


def test_help_needs_no_torch():
    code = (
        "import sys; from transformers_groma.cli import main; code = main(['chat', '--help']); "
        "sys.exit(code or int('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "example: groma chat" in done.stdout


def test_a_closed_standard_output_is_refused_before_any_work(monkeypatch, capsys):
    from transformers_groma.cli import main

    monkeypatch.setattr(sys, "stdout", None)
    code = main(["caption", "no-such-photo.jpg"])
    monkeypatch.undo()
    assert code == 2
    assert capsys.readouterr().err.startswith("groma caption: error: the standard output is closed: send it to a file")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["caption"],
        ["describe"],
        ["locate"],
        ["ask"],
        ["chat"],
        ["propose"],
        ["classify"],
        ["convert"],
        ["data"],
        ["data", "shapes"],
        ["data", "folder"],
        ["train"],
        ["evaluate"],
        ["serve"],
        ["demo"],
    ],
)
def test_every_help_has_an_example(run, command):
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert f"example: groma {' '.join(command)}" in out


def test_version(run):
    assert run("--version")[:2] == (0, "0.1.0\n")


def test_as_a_module():
    """As launchers start it."""
    command = [sys.executable, "-m", "transformers_groma.cli", "chat", "no-such.jpg", "Hi"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("groma chat: error: IMAGE 'no-such.jpg'")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_ends_with_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "transformers_groma.cli", "data"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "groma data: error: the standard output cannot be written (No space left on device). Free some space, or pass "
        "another output folder."
    ]


def test_a_reader_that_has_seen_enough_is_not_an_error():
    """As with `groma data | head -1`."""
    command = [sys.executable, "-m", "transformers_groma.cli", "data"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


def test_an_output_that_cannot_be_written_ends_with_one_line(run, monkeypatch):
    def fail(arguments):
        raise OutputError("rows cannot be written (No space left on device). Free some space.")

    monkeypatch.setattr("transformers_groma.cli.data.run_data", fail)
    code, out, err = run("data")
    assert (code, out) == (2, "")
    assert err == "groma data: error: rows cannot be written (No space left on device). Free some space.\n"


def test_without_arguments_the_help_is_printed(run):
    assert run() == run("--help")
    code, out, err = run()
    assert (code, err) == (0, "") and "groma ask photo.jpg" in out and "demo" in out


def test_ctrl_c_leaves_one_line(run, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers_groma.cli.propose.open_upright", interrupted)
    assert run("propose", "a.jpg") == (130, "", "groma propose: interrupted\n")
    # Also where the commands are not known yet.
    monkeypatch.setattr("transformers_groma.cli.add_demo", interrupted)
    assert run("propose", "a.jpg") == (130, "", "groma: interrupted\n")


@pytest.mark.parametrize("stage", ["sft", "alignment", "detection", "masks", "precompute-regions"])
def test_mistakes_in_the_arguments_of_a_stage_are_one_line(run, stage):
    needed = ["--model_name_or_path", "x", "--dataset_dir", "x", "--output_dir", "x"]
    code, out, err = run("train", stage, *(needed if stage == "precompute-regions" else needed[4:]), "--bogus", "3")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--bogus" in err
    code, out, err = run(
        "train", stage, *needed[4:], "--seed" if stage != "precompute-regions" else "--batch_size", "many"
    )
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "invalid int value: 'many'" in err and f"(see groma train {stage} --help)" in err
    code, out, err = run("train", stage, "--help")
    assert (code, err) == (0, "") and f"groma train {stage}" in out
