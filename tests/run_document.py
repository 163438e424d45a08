"""Runs the commands and Python code of a document in order, in this process, as a reader would.

    python -m tests.run_document docs/finetune.md options.json

The file of options has `quick`, arguments that are added to commands by their beginning, so that trainings take
seconds; and `check`, code that runs last and sees what the document's code has made.

`<!-- not run: REASON -->` on the line before a fence says why a test does not run the block.
"""

import ast
import contextlib
import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from transformers_groma import cli

_BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
# What a command reads from the lines below it, up to a word.
_HERE_DOCUMENT = re.compile(r" *<< ?(\w+)\n.*?^\1$", flags=re.M | re.S)
# A command whose value a document says behind it: `answer.text  # A black star.`
_PROMISE = re.compile(r"  # (.+)$")


class Block(NamedTuple):
    """A fenced block of a document."""

    language: str
    text: str
    reason: str | None  # why it is not run
    line: int
    shows_output: bool  # whether it stands right below a block of Python and has no language


def read_blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document in order; a fence that is indented or not closed is an error."""
    text = document.read_text(encoding="utf-8")
    found, end, language = [], None, None
    for match in _BLOCK.finditer(text):
        shows_output = language == "python" and match["language"] == "" and not text[end : match.start()].strip()
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(match["language"], match["text"], match["reason"], line, shows_output))
        end, language = match.end(), match["language"]
    fences = re.findall(r"^\s*```", text, flags=re.MULTILINE)
    assert len(fences) == 2 * len(found), f"{document.name}: {len(fences)} lines of fences for {len(found)} blocks"
    return found


def blocks(document: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a document that name their language: language and text, in order."""
    return [(block.language, block.text) for block in read_blocks(document) if block.language]


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block as words, without the texts that they read; a backslash continues a line."""
    text = _HERE_DOCUMENT.sub("\n", text)
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.startswith("#")]


def run_command(words: list[str], extra: list[str] = ()) -> None:
    """Run a `groma` command; another program or a failure is an error."""
    assert words[0] == "groma", f"cannot run {words}"
    code = cli.main([*words[1:], *extra])
    assert code == 0, f"{shlex.join(words)} ended with {code}"


def run(document: Path, quick: dict[str, list[str]], check: str) -> None:
    """Run all blocks of `bash` and `python`; commands other than `groma` are an error."""
    namespace: dict = {}
    for language, text in blocks(document):
        if language == "bash":
            for words in commands(text):
                run_command(
                    words,
                    [word for start, more in quick.items() if " ".join(words).startswith(start) for word in more],
                )
        elif language == "python":
            exec(compile(text, str(document), "exec"), namespace)
    exec(compile(check, "check", "exec"), namespace)


def run_python(text: str, name: str, namespace: dict) -> str:
    """Run a block of Python and return what it prints.

    A comment behind an expression is its value as text or as `repr`, and behind a `print` what it prints; an error
    says where this is not so.
    """
    lines, output = text.splitlines(), io.StringIO()
    with contextlib.redirect_stdout(output):
        for statement in ast.parse(text, name).body:
            promise = _PROMISE.search(lines[statement.end_lineno - 1])
            start = output.tell()
            if not isinstance(statement, ast.Expr):
                exec(compile(ast.Module([statement], []), name, "exec"), namespace)
                continue
            value = eval(compile(ast.Expression(statement.value), name, "eval"), namespace)
            if promise is not None:
                printed = output.getvalue()[start:].rstrip("\n")
                given = {printed} if printed else {str(value), repr(value)}
                assert promise[1] in given, f"{name}, {lines[statement.lineno - 1]!r}: this is {given}"
    return output.getvalue()


def run_block(block: Block, name: str, namespace: dict) -> str:
    """Run a block of `bash` or `python` that a reader could run, and return what Python printed."""
    if block.language == "python":
        return run_python(block.text, f"{name}:{block.line}", namespace)
    for words in commands(block.text):
        run_command(words)
    return ""


if __name__ == "__main__":
    options = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    run(Path(sys.argv[1]), options["quick"], options["check"])
