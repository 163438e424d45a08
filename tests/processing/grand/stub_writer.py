"""Stands in for a language model: it describes scene graphs by rules, so that its answers are the same every time.

    python -m tests.processing.grand.stub_writer

serves it as an OpenAI-compatible endpoint and prints the address.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.chat_server import ChatServer, completion


def text_of(body: dict[str, Any]) -> str:
    """The text of the one message of a request."""
    return "".join(part.get("text", "") for part in body["messages"][0]["content"])


def answer_to(question: str) -> str:
    """The answer to a question of the pipeline."""
    if "Which of these does the image show?" in question:
        return question.splitlines()[1]
    if question.startswith("List the kinds of objects"):
        return "star, heart"
    if "Answer with the paragraph alone" in question:
        return f"Much is known about {_named(question)[0]}."
    if question.startswith("Caption:"):
        caption = question.splitlines()[0].removeprefix("Caption: ")
        return "\n".join(f"{number}. {item}" for number, item in enumerate(_listed(caption), start=1))
    if "An earlier caption was:" in question:
        return _caption(_named(question))
    if question.startswith("Below is the scene graph"):
        # The first caption of an image names what is not there.
        return _caption([*_named(question), "a unicorn"])
    return "a thing"


def _named(question: str) -> list[str]:
    """What the groups of a scene graph hold: their descriptions, or else their labels."""
    groups = " ".join(re.findall(r"^Group \d+: (.*)$", question, flags=re.MULTILINE))
    found = re.findall(r"([^,()]+?)(?: \((.*?)\))?(?:, |$| (?=[^,()]+?(?: \(|,|$)))", groups)
    return list(dict.fromkeys((text or f"a {label.strip()}") for label, text in found))


def _caption(things: list[str]) -> str:
    return f"There is {' and there is '.join(things)}."


def _listed(caption: str) -> list[str]:
    return [item.strip(" .") for item in re.split(r"[Tt]here is|\band\b", caption) if item.strip(" .")]


@contextmanager
def stub_writer() -> Iterator[ChatServer]:
    """The endpoint, as long as the block runs."""

    def name_of(body: dict[str, Any]) -> str:
        question = text_of(body)
        server.replies.setdefault(question, [completion(answer_to(question))])
        return question

    server = ChatServer(name_of, completion("a thing"))
    with server.running():
        yield server


if __name__ == "__main__":
    with stub_writer() as running:
        print(running.url, flush=True)
        while True:
            time.sleep(1)
