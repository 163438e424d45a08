"""Runs each kernel's tests, gradient checks included; with a GPU they cover CUDA in every dtype."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from build import build_kernel
from step import PYTEST, Results, step_arguments

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("ms-deform-attn", "roi-align")


def run_tests(name: str, selection: str, installed: Path, results: Results) -> bool:
    """Whether the tests of a kernel pass, on the build in `installed`."""
    command = [*PYTEST, f"kernels/{name}/tests", "-k", selection]
    environment = {**os.environ, "PYTHONPATH": f"{installed}:{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    print(process.stdout[-3000:], process.stderr[-1000:])
    counts = {outcome: int(n) for n, outcome in re.findall(r"(\d+) (passed|failed|skipped|error)", process.stdout)}
    results.add(name, selection=selection or "all", passed=counts.get("passed", 0), failed=counts.get("failed", 0))
    return process.returncode == 0


def main() -> None:
    results, device, small = step_arguments(__doc__)
    # The CPU's part runs in every `make test`.
    selection = "gradcheck" if small else "cuda" if device == "cuda" else ""
    with tempfile.TemporaryDirectory() as folder:
        installed = Path(folder)
        for name in NAMES:  # the tests take a kernel that is installed: this is the build that was measured
            (installed / name.replace("-", "_")).symlink_to(build_kernel(name, device))
        passed = [run_tests(name, selection, installed, results) for name in NAMES]
    if not all(passed):
        raise SystemExit("tests of the kernels failed")


if __name__ == "__main__":
    main()
