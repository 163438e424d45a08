"""The names of the files in the work folder."""

import json
import os
from typing import Any

from transformers_groma._files import write_file

SELECTION = "selection.jsonl"
SELECTION_REPORT = "selection.report.json"
ANSWERS = "answers.jsonl"
# As `AskingFiles.in_folder` names them.
FAILURES = "failures.jsonl"
COSTS = "costs.jsonl"
COST_SUMMARY = "cost_summary.json"
RELEASED = "groma_instruct.json"
REJECTED = "rejected.jsonl"
PARSE_REPORT = "parse.report.json"
DATASET = "dataset"


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a whole JSON file in one step, indented.

    Args:
        path (`str` or `Path`): the file.
        content: anything that JSON holds.
    """
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())
