"""Turns gpu.json into Markdown tables and a summary line, and merges several runs. Only what was measured is printed.

python benchmarks/gpu/report.py RUN.json …                          # the table of docs/speed.md
python benchmarks/gpu/report.py RUN.json … --output gpu.json        # the same, and one file of every step's newest run
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

# Which columns of the results are ratios, and what they should reach.
TARGETS = {
    "of the copy rate": 0.7,
    "over torch": 1.5,
    "compiled over eager": 1.5,
}


def run_of(report: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """What a step ran on and when: its own note in a merged report, else its report's."""
    machine = report["machine"]
    return step.get("run") or {key: machine.get(key) for key in ("device", "date", "commit")}


def merge_reports(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """One report of several, oldest first: each step as it ran last, with a note of that run. Machine: the last one's.

    Raises:
        ValueError: a trial at tiny size or on a CPU is among them.
    """
    if any(report["small"] or report["machine"]["device"] == "cpu" for report in reports):
        raise ValueError("a trial (--small or --cpu) measures nothing: merge full-size runs on a GPU only")
    steps: dict[str, dict[str, Any]] = {}
    for report in reports:
        for step in report["steps"]:
            if step["name"] in steps and step.get("reason") == "no time left":
                continue
            # Without the last lines of its log, which name the machine's folders.
            kept = {key: value for key, value in step.items() if key != "last_lines"}
            steps[step["name"]] = {**kept, "run": run_of(report, step)}
    return {"machine": reports[-1]["machine"], "small": False, "steps": list(steps.values())}


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
        lines += tables(step["results"])
    return "\n".join(lines) + "\n"


def tables(results: list[dict[str, Any]]) -> list[str]:
    """Results as lines of tables: those with the same columns that follow each other make one."""
    lines = []
    for keys, rows in itertools.groupby(results, key=lambda result: tuple(result)):
        lines += ["", f"| {' | '.join('' if key == 'name' else key for key in keys)} |", "|" + "---|" * len(keys)]
        lines += ["| " + " | ".join(cell(row[key]) for key in keys) + " |" for row in rows]
    return lines


def cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
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
    """The tables of docs/speed.md: the times of every step, and for ratios with a target whether they reach it."""
    lines = [f"Targets: {', '.join(f'{key} {target:g}' for key, target in TARGETS.items())}."]
    for step in report["steps"]:
        rows = [row_of_document(result) for result in step["results"] if is_measurement(result)]
        run = run_of(report, step)
        where = ", ".join(str(run[key]) for key in ("device", "date") if run.get(key))
        commit = f", commit {run['commit']}" if run.get("commit") else ""
        ending = f" ({step['reason']})" if step["outcome"] != "passed" and "reason" in step else ""
        lines += ["", f"**{step['name']}**, {step['outcome']}{ending}: {step['purpose']}. {where}{commit}."]
        lines += tables(rows)
        failed = [result["name"] for result in step["results"] if result.get("outcome") == "failed"]
        if failed:
            lines += ["", f"Failed: {', '.join(f'`{name}`' for name in failed)}."]
    return "\n".join(lines)


def is_measurement(result: dict[str, Any]) -> bool:
    return any(isinstance(value, float) for value in result.values())


def row_of_document(result: dict[str, Any]) -> dict[str, Any]:
    """A result with a last column that names the targets it misses."""
    missed = [
        f"{key} missed" for key, target in TARGETS.items() if result.get(key) is not None and result[key] < target
    ]
    has_target = any(result.get(key) is not None for key in TARGETS)
    return {**result, "targets": "; ".join(missed) or "met"} if has_target else result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, metavar="RUN.json", help="reports of runs, oldest first")
    parser.add_argument("--output", type=Path, help="write the merged report here")
    arguments = parser.parse_args()
    report = merge_reports([json.loads(path.read_text()) for path in arguments.reports])
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(speed_table(report))


if __name__ == "__main__":
    main()
