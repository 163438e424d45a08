"""`groma chat`: asks a question about an image and its boxes."""

import argparse
import json

from ..markup import REGION_MARK
from .arguments import (
    CommandError,
    add_command,
    add_model_arguments,
    add_output_arguments,
    box_xyxy,
    checked_folder,
    positive,
)
from .models import ask, check_boxes, load_pipeline, open_upright
from .output import answer_lines, note, printable, write_answer


def add_chat(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    chat = add_command(
        commands,
        "chat",
        run_chat,
        "ask a question about an image and its boxes",
        'groma chat photo.jpg "What is <region>?" --box 30,212,372,585 --model groma-7b --output answer\n'
        '         groma chat photo.jpg "[grounding] Describe the image in detail." --model groma-7b --json',
    )
    chat.add_argument("image", metavar="IMAGE", help="path or http(s) URL of an image")
    chat.add_argument(
        "question",
        metavar="QUESTION",
        nargs="?",
        help=f"question, with a {REGION_MARK} mark for each box; [grounding] at the start asks for a grounded answer, "
        "other control tokens are plain text. Without a question the model describes the boxes or, without boxes, "
        "the image",
    )
    chat.add_argument(
        "--box",
        dest="boxes",
        metavar="X1,Y1,X2,Y2",
        type=box_xyxy,
        action="append",
        default=[],
        help=f"a region that the question points at: corners in pixels of the upright image; the k-th box is the k-th "
        f"{REGION_MARK}",
    )
    chat.add_argument(
        "--parse-tokens",
        action="store_true",
        help="read control tokens in QUESTION (<p>, <image>, </s>, ...) as tokens of the model; without it they are "
        "plain text",
    )
    add_model_arguments(chat)
    add_output_arguments(chat, "answer.json and answer.png")
    chat.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=positive(int),
        default=256,
        help="maximum answer length (default: %(default)s)",
    )
    chat.add_argument("--sample", action="store_true", help="sample tokens instead of taking the most likely ones")
    chat.add_argument(
        "--temperature", metavar="T", type=positive(float), help="sampling temperature; implies --sample"
    )
    chat.add_argument(
        "--top-p", metavar="P", type=positive(float, 1.0), help="probability mass to sample from; implies --sample"
    )
    chat.add_argument("--seed", metavar="N", type=int, help="seed that makes sampling repeatable")


def run_chat(arguments: argparse.Namespace) -> None:
    """`groma chat`: one question, one answer."""
    folder = checked_folder(arguments.output)
    question = arguments.question
    if question is not None:
        if not question.strip():
            raise CommandError("QUESTION is empty: write one, or leave it out for the default question.")
        marks = question.count(REGION_MARK)
        if marks != len(arguments.boxes):
            raise CommandError(
                f"QUESTION {question!r} has {marks} {REGION_MARK} marks for {len(arguments.boxes)} --box: write one "
                f'{REGION_MARK} for each --box, as in "What is {REGION_MARK}?" --box 30,212,372,585, or leave '
                "QUESTION out for the default one."
            )
    image = open_upright(arguments.image)
    check_boxes(arguments.boxes, image)
    generate_kwargs = {"max_new_tokens": arguments.max_new_tokens}
    if arguments.sample or arguments.temperature is not None or arguments.top_p is not None:
        sampling = {"do_sample": True, "temperature": arguments.temperature, "top_p": arguments.top_p}
        generate_kwargs |= {name: value for name, value in sampling.items() if value is not None}

    pipe = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    if question is None:
        from ..models.groma.processing_groma import default_question

        question = default_question(len(arguments.boxes))
    if arguments.seed is not None:
        import torch

        torch.manual_seed(arguments.seed)
    answer = ask(pipe, image, question, arguments.boxes, generate_kwargs, arguments.parse_tokens)
    if arguments.json:
        print(json.dumps(answer.to_dict()))
    else:
        print(printable(answer_lines(answer)))
    if folder is not None:
        write_answer(folder, "answer", answer, image, question=question)
        note(f"wrote {folder / 'answer.json'} and {folder / 'answer.png'}")
