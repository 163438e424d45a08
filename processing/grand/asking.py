"""Asks models questions in words: a chat model at an endpoint, a pipeline of transformers, or a Groma.

Answers of an endpoint are in `answers.jsonl` of the step before anything else happens to them, by a digest of model,
settings, question and image: none is paid for twice, whatever is interrupted or made again.
"""

import base64
import io
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from processing.endpoint_options import budget_of, endpoint_of
from processing.grand import models
from processing.grand.job import NoAnswer, Worker
from processing.grand.models import ENDPOINT, GROUNDING, in_batches, read_upright
from processing.grand.work_folder import Row
from processing.rows import markup_in
from transformers_groma._jsonl import JsonlLog, read_jsonl
from transformers_groma.data.left_out import DATA_ERRORS, SkipRecord
from transformers_groma.data.provenance import digest_of

# Tasks of models that are asked about images, and of those that are asked without one.
IMAGE_TASKS = ("image-text-to-text", ENDPOINT, GROUNDING)
TEXT_TASKS = ("text-generation", "image-text-to-text", ENDPOINT)
# Images are sent no larger: models see no more, and cost by the pixel.
LONGEST_SIDE = 1344
JPEG_QUALITY = 90
MAX_NEW_TOKENS = 512

Given = TypeVar("Given")
Made = TypeVar("Made")


class Question(NamedTuple):
    """A question to a model.

    Args:
        name (`str`): what it is about, such as the id of an image; a name in logs.
        text (`str`): the question.
        image (`Callable[[], PIL.Image.Image]`, *optional*): reads the image that it is about.
        image_digest (`str`): tells images apart, and regions of them.
    """

    name: str
    text: str
    image: Callable[[], Image.Image] | None = None
    image_digest: str = ""


# Answers in the order of the questions; `SkipRecord` where there is none.
Asker = Callable[[Sequence[Question]], list[str | SkipRecord]]


def make_asker(args: Namespace, folder: Path) -> Asker:
    """What answers the questions of a step.

    Args:
        args (`Namespace`): with the options of `models.add_model_options`.
        folder (`Path`): of the step, for what the model has cost and answered.

    Returns:
        `Asker`
    """
    if args.task == ENDPOINT:
        return _EndpointAsker(args, folder)
    pipeline = models.load_pipeline(args)
    call = {"max_new_tokens": MAX_NEW_TOKENS, **args.call}
    run = partial(_ask_grounding if args.task == GROUNDING else _ask_pipeline, pipeline, args.batch_size, call)
    return lambda questions: [_usable(answer) for answer in in_batches(questions, args.batch_size, run)]


def _ask_grounding(pipeline: Any, size: int, call: dict[str, Any], questions: Sequence[Question]) -> list[str]:
    """Ask a Groma, which needs an image."""
    images = [question.image() for question in questions]
    texts = [question.text for question in questions]
    return [answer.text for answer in pipeline.ask(images, texts, batch_size=size, **call)]


def _ask_pipeline(pipeline: Any, size: int, call: dict[str, Any], questions: Sequence[Question]) -> list[str]:
    """Ask a pipeline of the task `image-text-to-text` or `text-generation`, greedily."""
    # Where each of them takes the settings of `generate`: in a dict, or among its own.
    settings = {"do_sample": False}
    greedily = {"generate_kwargs": settings} if pipeline.task == "image-text-to-text" else settings
    call = {"batch_size": size, "return_full_text": False, **greedily, **call}
    # Of the processor where there is one, as chat templates of models that see images are there.
    has_chat = getattr(pipeline.processor or pipeline.tokenizer, "chat_template", None) is not None
    if has_chat:
        answers = pipeline([_chat(question) for question in questions], **call)
    elif questions[0].image is None:
        answers = pipeline([question.text for question in questions], **call)
    else:  # older captioners
        images = [question.image() for question in questions]
        answers = pipeline(images, text=[question.text for question in questions], **call)
    # One answer a question, in a list of its own where a pipeline may give several.
    firsts = [answer[0] if isinstance(answer, list) else answer for answer in answers]
    return [answer["generated_text"] for answer in firsts]


def _chat(question: Question) -> list[dict[str, Any]]:
    if question.image is None:
        return [{"role": "user", "content": question.text}]
    content = [{"type": "image", "image": question.image()}, {"type": "text", "text": question.text}]
    return [{"role": "user", "content": content}]


class _EndpointAsker:
    """Asks a chat model at an endpoint, and never the same question twice."""

    def __init__(self, args: Namespace, folder: Path) -> None:
        self._args, self._endpoint, self._budget = args, endpoint_of(args), budget_of(args)
        self._folder, self._path = folder, folder / "answers.jsonl"
        self._answers = {answer["key"]: answer for answer in read_jsonl(self._path)}

    def __call__(self, questions: Sequence[Question]) -> list[str | SkipRecord]:
        # Only here: other tasks need no client.
        from transformers_groma.endpoints.asking import AskingFiles, ask_all
        from transformers_groma.endpoints.client import EndpointError
        from transformers_groma.endpoints.replies import Reply

        keys = [self._key(question) for question in questions]
        todo = {key: question for key, question in zip(keys, questions, strict=True) if key not in self._answers}
        reasons: list[str] = []
        if todo:
            names = {f"{self._folder.name}/{question.name}/{key}": key for key, question in todo.items()}
            log = JsonlLog(self._path)

            def keep(name: str, reply: Reply) -> None:
                answer = {
                    "key": names[name],
                    "question": todo[names[name]].name,
                    "model": reply.model,
                    "text": reply.text,
                    "finish_reason": reply.finish_reason,
                    "refusal": reply.refusal,
                }
                log.write(answer)
                self._answers[names[name]] = answer

            try:
                report = ask_all(
                    {name: partial(self._messages, todo[key]) for name, key in names.items()},
                    self._endpoint,
                    keep,
                    # Of all steps together, as `--max-cost` is of all of them.
                    AskingFiles.in_folder(self._folder.parent, name="question"),
                    concurrency=self._args.concurrency,
                    requests_per_minute=self._args.requests_per_minute,
                    budget=self._budget,
                )
            except EndpointError as error:
                raise ValueError(str(error)) from None
            finally:
                log.close()
            reasons = ["--max-cost is used up"] * report.over_budget + [report.stopped] * bool(report.stopped)
        return [self._read(key, reasons) for key in keys]

    def _read(self, key: str, reasons: Sequence[str]) -> str | SkipRecord:
        answer = self._answers.get(key)
        if answer is None:
            why = reasons[0] if reasons else f"the reason is in {self._folder.parent / 'failures.jsonl'}"
            return NoAnswer("the endpoint gave no answer", why)
        if answer["refusal"]:
            return SkipRecord("the model refused", answer["refusal"])
        if answer["finish_reason"] not in ("stop", ""):
            return SkipRecord(
                "the answer was cut: allow more tokens with --options", f"finish reason {answer['finish_reason']}"
            )
        return _usable(answer["text"])

    def _key(self, question: Question) -> str:
        return digest_of([self._args.model, self._args.options, question.text, question.image_digest])

    def _messages(self, question: Question) -> list[dict[str, Any]]:
        from transformers_groma.endpoints.client import RequestError

        content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
        if question.image is not None:
            try:
                content.append({"type": "image_url", "image_url": {"url": image_url(question.image())}})
            except (SkipRecord, *DATA_ERRORS) as error:
                raise RequestError(f"{question.name}: {error}") from error
        return [{"role": "user", "content": content}]


def image_question(images: Path, row: Row, text: str) -> Question:
    """A question about a whole image.

    Args:
        images (`Path`): folder of the images.
        row (`dict`): with the columns of the step `images`.
        text (`str`): the question.

    Returns:
        `Question`
    """
    index = row["images"]
    return Question(index["image_id"], text, partial(read_upright, images, row), index["digest"])


def one_question(ask: Asker, question_about: Callable[[Row], Question], read: Callable[[str], Row]) -> Worker:
    """A worker that asks one question about each row.

    Args:
        ask (`Asker`): what answers.
        question_about (`Callable[[Row], Question]`): the question about a row; raises `SkipRecord` for a row that is
            left out.
        read (`Callable[[str], Row]`): the columns that an answer makes; raises `SkipRecord` for a useless
            answer.

    Returns:
        `Worker`

    Example:
    >>> work = one_question(lambda questions: [each.text.upper() for each in questions],
    ...                     lambda row: Question(row["id"], row["text"]), lambda answer: {"answer": answer})
    >>> list(work([{"id": "0", "text": "what?"}]))
    [{'answer': 'WHAT?'}]
    """

    def work(rows: Sequence[Row]) -> Iterator[Row | SkipRecord]:
        questions = [_or_skipped(question_about, row) for row in rows]
        answers = iter(ask([each for each in questions if isinstance(each, Question)]))
        for question in questions:
            answer = next(answers) if isinstance(question, Question) else question
            yield answer if isinstance(answer, SkipRecord) else _or_skipped(read, answer)

    return work


def _or_skipped(make: Callable[[Given], Made], given: Given) -> Made | SkipRecord:
    try:
        return make(given)
    except SkipRecord as error:
        return error


def image_url(image: Image.Image) -> str:
    """An image as a `data:` URL, its longer side at most `LONGEST_SIDE` pixels."""
    image = image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _usable(answer: str | SkipRecord) -> str | SkipRecord:
    if isinstance(answer, SkipRecord):
        return answer
    if token := markup_in(answer):
        return SkipRecord("the model's answer holds a token of a model", token)
    return answer.strip() or SkipRecord("the model's answer is empty")


__all__ = [
    "IMAGE_TASKS",
    "TEXT_TASKS",
    "Asker",
    "Question",
    "image_question",
    "image_url",
    "make_asker",
    "one_question",
]
