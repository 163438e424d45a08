"""`groma chat`: asks one question about an image and its regions, or talks about it (`--interactive`)."""

import argparse

from .._words import counted
from ..markup import REGION_MARK
from .arguments import (
    CommandError,
    add_command,
    generate_kwargs,
)
from .chat_session import run_session
from .models import ask
from .verb_commands import add_answer_arguments, add_image_argument, open_all, show_answers

_INTERACTIVE = """\
with --interactive:
  Each line of the standard input is a question. A line such as one of
    box: 30,212,372,585
    point: 90,300                 several points of one region: point: 90,300 120,310
    not-point: 400,20             not on the region of the point before
    ambiguity: part               or object or group: what the point or scribble before means
    scribble: 90,300 120,310 150,290
    mask: region.png
  points at a region, in pixels of the upright image. The next question is about it, or about all of them, if several
  such lines come before it; "box: none" forgets them. "quit" or the end of the input (Ctrl-D) ends the chat, Ctrl-C
  stops an answer. The model looks at the image once and remembers what was said.

  printf 'box: 30,212,372,585\\nWhat is this?\\nWhat is behind it?\\n' | groma chat photo.jpg -i --model groma-7b
"""


def add_chat(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    chat = add_command(
        commands,
        "chat",
        run_chat,
        "ask a question about an image and its regions, or talk about the image",
        'groma chat photo.jpg "What is <region>?" --box 30,212,372,585 --model groma-7b --output answer\n'
        '         groma chat photo.jpg "[grounding] Describe the image in detail." --model groma-7b --json\n'
        f"         groma chat photo.jpg --interactive --model groma-7b\n\n{_INTERACTIVE}",
    )
    add_image_argument(chat)
    chat.add_argument(
        "question",
        metavar="QUESTION",
        nargs="?",
        help=f"question, with a {REGION_MARK} mark for each region; [grounding] at the start asks for a grounded "
        "answer, other control tokens are plain text. Without a question the model describes the regions or, without "
        "any, the image. With --interactive the first question, which needs no marks",
    )
    chat.add_argument(
        "--interactive",
        "-i",
        action="store_true",
        help="talk about the image: one question a line, typed or from a pipe; see below",
    )
    chat.add_argument(
        "--parse-tokens",
        action="store_true",
        help="read control tokens in QUESTION (<p>, <image>, </s>, ...) as tokens of the model; without it they are "
        "plain text",
    )
    add_answer_arguments(
        chat,
        "answer.json and answer.png (with --interactive answer_1.json, …)",
        f"What the question points at: the k-th region is the k-th {REGION_MARK}",
    )


def run_chat(arguments: argparse.Namespace) -> None:
    """`groma chat`: one question, one answer; or many, one after the other."""
    if arguments.interactive:
        if arguments.parse_tokens:
            raise CommandError("--parse-tokens is for one QUESTION; with --interactive questions are plain text.")
        return run_session(arguments)
    if arguments.stream:
        raise CommandError("--stream goes with --interactive; for one question use `groma ask` with --stream.")
    question = arguments.question
    if question is not None:
        if not question.strip():
            raise CommandError("QUESTION is empty: write one, or leave it out for the default question.")
        marks = question.count(REGION_MARK)
        if marks != len(arguments.regions):
            raise CommandError(
                f"QUESTION {question!r} has {counted(marks, f'{REGION_MARK} mark')} for "
                f"{counted(len(arguments.regions), 'region')}: write one {REGION_MARK} for each --box, --point, "
                f'--scribble or --mask, as in "What is {REGION_MARK}?" --box 30,212,372,585, or leave QUESTION out '
                "for the default one."
            )
    opened = open_all(arguments)
    if question is None:
        question = opened.pipe.processor.question_wording.default(len(arguments.regions))
    answer = ask(
        *(opened.pipe, opened.image, question, opened.regions, generate_kwargs(arguments)),
        parse_tokens=arguments.parse_tokens,
        masks=arguments.masks,
    )
    show_answers(arguments, opened, [answer], [question])
