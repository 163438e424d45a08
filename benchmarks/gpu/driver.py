"""Runs the steps of `run.sh`, each in its own process with a time limit; results are written as they come.

    benchmarks/gpu/run.sh [--cpu] [--small] [--output DIR] [--budget SECONDS] [STEP …]

A step that fails, hangs or dies never stops the others: what it had measured until then is kept, its outcome is
written beside it, and its last lines are printed. `gpu.json` and `gpu.md` are rewritten after every step.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from report import render_markdown, summary_line
from step import SKIPPED

from transformers_groma._files import write_files

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]


class Step(NamedTuple):
    """A script of this folder, the seconds it may take, and what it finds out."""

    name: str
    seconds: int
    purpose: str


# In the order of what would be missed most if the time ran out. Their seconds add up to eight minutes with the
# driver's own.
STEPS = (
    Step("build", 45, "both kernels built for the card and loaded through the kernels library"),
    Step("operators", 65, "both operators: milliseconds, bytes, bandwidth, beside the references"),
    Step("full_model", 75, "a full-size random Groma-7B: perceive, prefill, decoding, training steps"),
    Step("compiled", 120, "what makes a full-size model faster: TF32, compiled blocks, a compiled decoding step"),
    Step("suite", 80, "the tests of the model that a device can break"),
    Step("kernel_tests", 60, "the kernels' own tests, with gradient checks"),
    Step("sanitizer", 30, "compute-sanitizer on one small case of each kernel"),
)
BUDGET = 480
# A CPU run checks the script, perhaps on a busy machine: its steps may take longer.
CPU_PATIENCE = 4


def machine(cpu: bool) -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    facts = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": "cpu" if cpu or not torch.cuda.is_available() else torch.cuda.get_device_name(),
        "processor": processor_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for package in ("transformers", "kernels", "peft", "bitsandbytes", "torchvision", "triton"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    return facts


def commit() -> str | None:
    """Which commit is measured: `GROMA_COMMIT` where the sources travelled without git, else what git says."""
    if given := os.environ.get("GROMA_COMMIT"):
        return given
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=REPOSITORY, capture_output=True, text=True
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def run_step(step: Step, seconds: float, cpu: bool, small: bool, output: Path) -> dict[str, Any]:
    """Run one step and say how it ended: `passed`, `failed`, `timed out`, `skipped`."""
    results, log = output / f"{step.name}.jsonl", output / f"{step.name}.log"
    results.unlink(missing_ok=True)
    command = [sys.executable, str(FOLDER / f"{step.name}.py"), "--results", str(results)]
    command += ["--device", "cpu" if cpu else "cuda", *(["--small"] if small else [])]
    start = time.perf_counter()
    with open(log, "w") as file:
        # A session of its own, so that a step's compilers and workers end with it.
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    outcome = {0: "passed", None: "timed out", SKIPPED: "skipped"}.get(code, "failed")
    entry: dict[str, Any] = {"name": step.name, "purpose": step.purpose, "outcome": outcome}
    entry["seconds"] = round(time.perf_counter() - start, 1)
    entry["results"] = read_results(results)
    if outcome != "passed":
        lines = log.read_text(errors="replace").strip().splitlines()
        entry["reason"] = (
            f"more than {seconds:.0f} s" if code is None else (lines[-1][:300] if lines else f"status {code}")
        )
        entry["last_lines"] = lines[-15:]
    return entry


def read_results(path: Path) -> list[dict[str, Any]]:
    """Lines that a step wrote; a last line that it did not finish is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text().split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="run on the CPU: checks the script, measures no GPU")
    parser.add_argument("--small", action="store_true", help="tiny sizes, seconds instead of minutes")
    parser.add_argument("--output", type=Path, default=FOLDER / "results", help="folder of gpu.json and gpu.md")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds in all (default: {BUDGET})")
    parser.add_argument(
        "steps", nargs="*", metavar="STEP", help=f"of {', '.join(step.name for step in STEPS)}; all by default"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.steps) - {step.name for step in STEPS}
    if unknown:
        parser.error(
            f"unknown step {', '.join(sorted(unknown))}: choose from {', '.join(step.name for step in STEPS)}"
        )
    import torch

    if not options.cpu and not torch.cuda.is_available():
        parser.error("torch sees no CUDA GPU: run on a machine with one, or with --cpu to test the script")
    end = time.perf_counter() + options.budget * (CPU_PATIENCE if options.cpu else 1)
    options.output.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(options.cpu), "small": options.small, "steps": []}
    if not options.cpu and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        report["machine"]["driver, memory"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    for step in STEPS:
        if options.steps and step.name not in options.steps:
            continue
        left = end - time.perf_counter()
        if left < 5:
            report["steps"].append(
                {
                    "name": step.name,
                    "purpose": step.purpose,
                    "outcome": "skipped",
                    "seconds": 0.0,
                    "results": [],
                    "reason": "no time left",
                    "last_lines": [],
                }
            )
        else:
            report["steps"].append(
                run_step(
                    step,
                    min(step.seconds * (CPU_PATIENCE if options.cpu else 1), left),
                    options.cpu,
                    options.small,
                    options.output,
                )
            )
        entry = report["steps"][-1]
        print(f"{step.name}: {entry['outcome']} in {entry['seconds']} s {entry.get('reason', '')}", flush=True)
        for line in entry.get("last_lines", []) if entry["outcome"] in ("failed", "timed out") else []:
            print(f"    {line}")
        page, data = render_markdown(report), json.dumps(report, indent=1) + "\n"
        write_files({options.output / "gpu.json": data.encode(), options.output / "gpu.md": page.encode()})
    print(render_markdown(report))
    print(summary_line(report))
    return int(any(entry["outcome"] in ("failed", "timed out") for entry in report["steps"]))


if __name__ == "__main__":
    sys.exit(main())
