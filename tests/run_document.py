"""Runs the commands and Python code of a document in order, in this process, as a reader would.

    python -m tests.run_document docs/finetune.md options.json

The file of options has `quick`, arguments that are added to commands by their beginning, so that trainings take
seconds; and `check`, code that runs last and sees what the document's code has made.
"""

import json
import re
import shlex
import sys
from pathlib import Path

from transformers_groma import cli

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a document: language and text, in order."""
    return [match.groups() for match in _BLOCK.finditer(document.read_text(encoding="utf-8"))]


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block as words; lines that end with a backslash go on."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.startswith("#")]


def run(document: Path, quick: dict[str, list[str]], check: str) -> None:
    """Run all blocks of `bash` and `python`; commands other than `groma` are an error."""
    namespace: dict = {}
    for language, text in blocks(document):
        if language == "bash":
            for words in commands(text):
                assert words[0] == "groma", f"cannot run {words}"
                extra = [word for start, more in quick.items() if " ".join(words).startswith(start) for word in more]
                code = cli.main([*words[1:], *extra])
                assert code == 0, f"{shlex.join(words)} ended with {code}"
        elif language == "python":
            exec(compile(text, str(document), "exec"), namespace)
    exec(compile(check, "check", "exec"), namespace)


if __name__ == "__main__":
    options = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    run(Path(sys.argv[1]), options["quick"], options["check"])
