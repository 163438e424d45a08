"""Runs each kernel's tests, gradient checks included; with a GPU they cover CUDA in every dtype."""

import re
import subprocess
from pathlib import Path

from step import PYTEST, step_arguments

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    results, device, small = step_arguments(__doc__)
    failed = False
    for name in ("ms-deform-attn", "roi-align"):
        command = [*PYTEST, f"kernels/{name}/tests"]
        # The CPU's part runs in every `make test`.
        selection = "gradcheck" if small else "cuda" if device == "cuda" else ""
        process = subprocess.run([*command, "-k", selection], cwd=REPOSITORY, capture_output=True, text=True)
        print(process.stdout[-3000:], process.stderr[-1000:])
        counts = {
            outcome: int(number)
            for number, outcome in re.findall(r"(\d+) (passed|failed|skipped|error)", process.stdout)
        }
        results.add(name, selection=selection or "all", passed=counts.get("passed", 0), failed=counts.get("failed", 0))
        failed |= process.returncode != 0
    if failed:
        raise SystemExit("tests of the kernels failed")


if __name__ == "__main__":
    main()
