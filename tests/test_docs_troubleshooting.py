"""docs/troubleshooting.md quotes messages that the code really has."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from .run_document import read_blocks

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "troubleshooting.md"
QUOTED = [block.text.strip() for block in read_blocks(DOCUMENT) if block.language == "text"]
# What transformers says, which a process without this package shows.
OF_TRANSFORMERS = next(message for message in QUOTED if "does not recognize this architecture" in message)
# A text with fewer letters of its own would match nearly everything.
MIN_LETTERS = 20


@cache
def patterns() -> list[re.Pattern]:
    """Every text of the source as a pattern, in which a value may be anything."""
    found = []
    for path in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            is_text = all(text is None or isinstance(text, str) for text in texts)
            if is_text and sum(len(text) for text in texts if text) >= MIN_LETTERS:
                found.append(re.compile("".join(".*" if text is None else re.escape(text) for text in texts)))
    return found


def in_the_source(message: str) -> bool:
    # A full stop may be added by whoever passes a message on.
    return any(pattern.fullmatch(text) for pattern in patterns() for text in (message, message.removesuffix(".")))


def test_messages_are_those_of_the_code():
    assert len(QUOTED) >= 30 and len(set(QUOTED)) == len(QUOTED)
    assert [message for message in QUOTED if message != OF_TRANSFORMERS and not in_the_source(message)] == []


def test_a_message_that_nobody_says_is_found():
    assert not in_the_source("`boxes` must have shape (number of boxes, 5) for one image, got ….")


@pytest.mark.slow
def test_the_message_of_transformers():
    """Without an import of this package."""
    code = "from transformers import AutoConfig; AutoConfig.from_pretrained('hub_configs/groma-tiny')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and OF_TRANSFORMERS in done.stderr


def test_every_message_has_a_cause_and_a_remedy():
    text = DOCUMENT.read_text(encoding="utf-8")
    for message in QUOTED:
        below = text.partition(f"```text\n{message}\n```\n")[2].lstrip()
        assert below and not below.startswith(("#", "```")), message
