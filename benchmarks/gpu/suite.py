"""Runs tests/test_devices.py on the device: dtypes, batches, caches, compilation."""

import os
import re
import subprocess
from pathlib import Path

from step import PYTEST, step_arguments

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    results, device, small = step_arguments(__doc__)
    command = [*PYTEST, "tests/test_devices.py"]
    if small:  # compilation for a CPU takes longer than all the rest
        command += ["-k", "not compile"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env={**os.environ, "GROMA_TEST_DEVICE": device}, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        print(line, end="", flush=True)
        if match := re.match(r"(PASSED|FAILED|SKIPPED|ERROR) (.*)", line):
            outcome, test = match.groups()
            results.add(test.split("::", 1)[-1].split(" - ")[0], outcome=outcome.lower(), reason=reason_of(test))
    if process.wait():
        raise SystemExit("tests failed")


def reason_of(test: str) -> str | None:
    return test.split(" - ", 1)[1][:200] if " - " in test else None


if __name__ == "__main__":
    main()
