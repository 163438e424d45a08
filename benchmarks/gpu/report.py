"""Turns gpu.json into Markdown tables and a summary line. Only what was measured is printed."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

# Which columns of the results are ratios, and what they should reach.
TARGETS = {
    "of the copy rate": 0.7,
    "over torch": 1.5,
    "compiled over eager": 1.5,
}


def render_markdown(report: dict[str, Any]) -> str:
    """The report as a page: machine, outcome of the steps, a table of results for each step."""
    machine = report["machine"]
    lines = [f"# {machine['device']}, {machine['date']}", ""]
    if report["small"]:
        lines += ["Tiny sizes: this run checks the script, its times say nothing.", ""]
    lines += [
        ", ".join(f"{key} {value}" for key, value in machine.items() if value and key not in ("device", "date")),
        "",
    ]
    lines += ["| step | outcome | seconds | |", "|---|---|---|---|"]
    for step in report["steps"]:
        lines.append(
            f"| {step['name']} | {step['outcome']} | {step['seconds']} | {cell(step.get('reason', step['purpose']))} |"
        )
    for step in report["steps"]:
        if step["results"]:
            lines += ["", f"## {step['name']}"]
        # Results with the same columns make one table.
        for keys, results in itertools.groupby(step["results"], key=lambda result: tuple(result)):
            lines += ["", f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
            lines += ["| " + " | ".join(cell(result[key]) for key in keys) + " |" for result in results]
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def summary_line(report: dict[str, Any]) -> str:
    """The last line of every benchmark: ratios against named baselines, and seconds of the steps.

    Ratios of a CPU run or of tiny sizes are left out: they check the script.
    """
    ratios = {}
    if not report["small"] and report["machine"]["device"] != "cpu":
        for step in report["steps"]:
            for result in step["results"]:
                ratios |= {f"{result['name']}, {key}": result[key] for key in TARGETS if result.get(key) is not None}
    return json.dumps(
        {"benchmark": "gpu", "ratios": ratios, "seconds": {step["name"]: step["seconds"] for step in report["steps"]}}
    )


def speed_table(report: dict[str, Any]) -> str:
    """The table of docs/speed.md: every ratio of a full-size run on a GPU, beside its target."""
    ratios = json.loads(summary_line(report))["ratios"]
    lines = [
        f"{report['machine']['device']}, {report['machine']['date']}:",
        "",
        "| | measured | target |",
        "|---|---|---|",
    ]
    for name, ratio in ratios.items():
        what, key = name.rsplit(", ", 1)
        lines.append(f"| {what}: {key} | {ratio:.2f} | {TARGETS[key]:g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(speed_table(json.loads(Path(sys.argv[1]).read_text())))
