"""The conversation of `groma chat --interactive`: one question a line, from a terminal or a pipe."""

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import CommandError, errors_of, generate_kwargs
from .models import check_region
from .output import image_note, note, print_answer, print_stream, write_answer
from .region_arguments import (
    ambiguity_word,
    box_region,
    mask_region,
    points_region,
    points_xy,
    scribble_region,
    with_ambiguity,
    with_negative_points,
)
from .verb_commands import open_all

if TYPE_CHECKING:
    from PIL import Image

    from ..grounded_chat import GroundedChat
    from ..grounding import GroundedText

# What a line that points at a region begins with, and what reads the rest.
_REGION_READERS = {"box": box_region, "point": points_region, "scribble": scribble_region, "mask": mask_region}
# What else is said about such a region.
_NOT_POINT, _AMBIGUITY = "not-point", "ambiguity"
# Such a line, with any spaces that people type.
REGION_LINE = re.compile(rf"({'|'.join([*_REGION_READERS, _NOT_POINT, _AMBIGUITY])})\s*:\s*", re.IGNORECASE)
# What some editors and shells put before the first line of a text.
_BYTE_ORDER_MARK = "\ufeff"
NO_REGION = "none"
QUIT = ("quit", "exit")


def run_session(arguments: argparse.Namespace) -> None:
    """Answer the lines of the standard input.

    A mistake in a line ends the command where the lines come from a pipe; at a terminal it is noted, and the next line
    may be a better one.
    """
    if arguments.question is not None and not arguments.question.strip():
        raise CommandError("QUESTION is empty: write one, or leave it out and write questions on the standard input.")
    if sys.stdin is None:
        raise CommandError("the standard input is closed: write questions on it, or use `groma ask` for one QUESTION.")
    pipe, image, regions, folder = open_all(arguments)
    with errors_of("IMAGE"):
        chat = pipe.chat(image)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        note(
            'Ask about the image; "box: 30,212,372,585" or "point: 90,300" points at a region; Ctrl-D or "quit" ends '
            "the chat."
        )
    for name, line in _lines(arguments.question, is_terminal):
        text = line.strip()
        if text.lower() in QUIT:
            break
        try:
            if match := REGION_LINE.match(text):
                regions = _with_region(regions, match[1].lower(), text[match.end() :], image, name)
            elif text:
                answer = _ask(chat, text, regions, arguments, name, is_terminal)
                regions = []
                _write(folder, chat, answer, image, image_note(arguments.image, image))
        except CommandError as error:
            if not is_terminal:
                raise
            note(str(error))
    if regions and not is_terminal:
        raise CommandError("the standard input ends with a region and no question about it: write one.")
    if not chat.turns and not is_terminal:
        raise CommandError("the standard input has no question: write one a line, or give QUESTION.")


def _lines(question: str | None, is_terminal: bool) -> Iterator[tuple[str, str]]:
    """Each line, and how an error names it."""
    if question is not None:
        yield "QUESTION", question
    if is_terminal:
        with suppress(ImportError):  # not on every system; with it `input` edits lines and remembers them
            import readline  # noqa: F401
        while True:
            try:
                line = _prompted_line()
            except EOFError:
                note("")
                return
            yield "this line", line
    with errors_of("the standard input"):  # bytes that are not text
        for number, line in enumerate(sys.stdin, start=1):
            line = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            yield f"line {number} of the standard input", line


def _prompted_line() -> str:
    if sys.stdout.isatty():
        return input("> ")
    # What goes to a file is the answers alone.
    print("> ", end="", file=sys.stderr, flush=True)
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line


def _with_region(regions: list[Any], kind: str, text: str, image: "Image.Image", name: str) -> list[Any]:
    """The regions that the next question is about, with what another line says."""
    if text.lower() == NO_REGION:
        return []
    try:
        if kind == _NOT_POINT:
            regions = with_negative_points(regions, points_xy(text), "point line")
        elif kind == _AMBIGUITY:
            regions = with_ambiguity(regions, ambiguity_word(text), "a point or scribble line")
        else:
            regions = [*regions, _REGION_READERS[kind](text)]
    except argparse.ArgumentTypeError as error:
        # Some are whole sentences.
        raise CommandError(f"{name}: {str(error).removesuffix('.')}, or {kind}: {NO_REGION}") from error
    check_region(regions[-1], image, kind, name)
    return regions


def _ask(
    chat: "GroundedChat",
    question: str,
    regions: list[Any],
    arguments: argparse.Namespace,
    name: str,
    is_terminal: bool,
) -> "GroundedText":
    is_shown = arguments.stream or (sys.stdout.isatty() and not arguments.json)
    stream = is_shown or is_terminal  # where Ctrl-C is to stop an answer, it comes step by step in any case
    num_turns = len(chat.turns)
    with errors_of(name):
        answer = chat.ask(
            question,
            regions=regions,
            stream=stream,
            masks=arguments.masks,
            generate_kwargs=generate_kwargs(arguments),
        )
    if not stream:
        print_answer(answer, arguments.json)
        return answer
    try:
        with closing(answer):
            if is_shown:
                return print_stream(answer)
            *_, whole = answer
            print_answer(whole, arguments.json)
            return whole
    except KeyboardInterrupt:
        if not is_terminal or len(chat.turns) == num_turns:
            raise
        note("\n(stopped)")
        written = chat.turns[-1].answer
        if not is_shown:
            print_answer(written, arguments.json)
        return written


def _write(
    folder: Path | None, chat: "GroundedChat", answer: "GroundedText", image: "Image.Image", notes: dict[str, Any]
) -> None:
    if folder is not None:
        name = f"answer_{len(chat.turns)}"
        write_answer(folder, name, answer, image, notes, chat.turns[-1].question)
        note(f"wrote {folder / name}.json and {folder / name}.png")
