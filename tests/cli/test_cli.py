"""The command `groma` itself: help, version."""

import subprocess
import sys

import pytest


def test_help_needs_no_torch():
    code = (
        "import sys; from transformers_groma.cli import main; code = main(['chat', '--help']); "
        "sys.exit(code or int('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "example: groma chat" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["chat"],
        ["propose"],
        ["convert"],
        ["data"],
        ["data", "shapes"],
        ["data", "folder"],
        ["train"],
        ["evaluate"],
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
