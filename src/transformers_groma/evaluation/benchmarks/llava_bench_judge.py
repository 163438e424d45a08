"""Asks the judge model to compare answers with reference answers, as LLaVA-Bench (COCO) does.

Every review is in its file before the next one is handled, so an interrupted run resumes and no review is paid for
twice.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..._jsonl import JsonlLog, read_jsonl
from ...endpoints.asking import AskingFiles, AskingReport, Budget, ask_all
from ...endpoints.endpoint import Endpoint
from ...endpoints.replies import Reply
from .llava_bench_files import MAX_SCORE, NO_SCORES, BenchQuestion

# The words of the protocol, as published with LLaVA (table/rule.json and table/prompt.jsonl, Apache-2.0) and used by
# Groma for all three categories. Scores only compare if the judge reads the same.
JUDGE_SYSTEM_PROMPT = "You are a helpful and precise assistant for checking the quality of the answer."
JUDGE_PROMPT = (
    "We would like to request your feedback on the performance of two AI assistants in response to the user question "
    "displayed above. The user asks the question on observing an image. For your reference, the visual content in the "
    "image is represented with five descriptive sentences describing the same image and the bounding box coordinates "
    "of each object in the scene. These coordinates are in the form of bounding boxes, represented as (x1, y1, x2, "
    "y2) with floating numbers ranging from 0 to 1. These values correspond to the top left x, top left y, bottom "
    "right x, and bottom right y. \n"
    "Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each assistant receives "
    "an overall score on a scale of 1 to 10, where a higher score indicates better overall performance.\n"
    "Please first output a single line containing only two values indicating the scores for Assistant 1 and 2, "
    "respectively. The two scores are separated by a space.\n"
    "In the subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any potential "
    "bias and ensuring that the order in which the responses were presented does not affect your judgment."
)

_SCORE = r"(\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*10)?"
_LABEL = r"(?:(?:score\s+(?:for|of)\s+)?assistant\s*{}(?:'s\s+score|\s+score)?\s*[:=–-]?\s*)?"
# A line with two scores and nothing else but labels and brackets: `8 9`, `8.5, 9`, `Scores: (8, 9)`, `Assistant 1:
# 8/10, Assistant 2: 9/10`.
_PAIR = re.compile(
    rf"(?:(?:final\s+)?(?:scores?|ratings?|output|tuple)\s*[:=]\s*)?[(\[]?\s*{_LABEL.format(1)}{_SCORE}"
    rf"(?:\s*[,;|&]\s*(?:and\s+)?|\s+(?:and\s+)?){_LABEL.format(2)}{_SCORE}\s*[)\]]?[.,]?",
    re.IGNORECASE,
)
# Each on a separate line: `Assistant 1: 8 (correct, but short)`.
_SINGLE = re.compile(
    rf"(?:[-•]\s*)?(?:score\s+(?:for|of)\s+)?assistant\s*([12])(?:'s\s+score|\s+score)?\s*[:=–-]\s*{_SCORE}(?![\d.]*\d)",
    re.IGNORECASE,
)
# A longer line is not one of scores alone.
_LONGEST_LINE = 500
_MARKDOWN = str.maketrans("", "", "*`_#>")


def judge_messages(question: BenchQuestion, answer: str) -> list[dict[str, str]]:
    """Write the messages for the judge.

    Args:
        question (`BenchQuestion`): the question; its reference answer is shown as Assistant 1's.
        answer (`str`): the model's answer, without markup, shown as Assistant 2's.

    Returns:
        `list[dict]`: messages in the OpenAI chat format.

    Example:
    >>> question = BenchQuestion("1", "7", "What color is the dog?", "conv", "Brown.", "A dog runs.")
    >>> print(judge_messages(question, "It is black.")[1]["content"].split("\\n\\n[Assistant 2]")[0])
    [Context]
    A dog runs.
    <BLANKLINE>
    [Question]
    What color is the dog?
    <BLANKLINE>
    [Assistant 1]
    Brown.
    <BLANKLINE>
    [End of Assistant 1]
    """
    content = (
        f"[Context]\n{question.context}\n\n"
        f"[Question]\n{question.text}\n\n"
        f"[Assistant 1]\n{question.reference}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n"
        f"[System]\n{JUDGE_PROMPT}\n\n"
    )
    return [{"role": "system", "content": JUDGE_SYSTEM_PROMPT}, {"role": "user", "content": content}]


def parse_scores(text: str) -> tuple[float, float] | None:
    """Find the two scores in a judge's answer.

    The judge is asked for a first line with two numbers. Judges also write labels, brackets, `/10`, Markdown, thoughts
    or a few words before that line, or a line for each assistant. The first line with two scores counts, or else the
    last such pair of lines. Numbers in a sentence do not count.

    Args:
        text (`str`): what the judge wrote.

    Returns:
        `tuple[float, float]`: scores of Assistant 1 and 2, 0..10; `None` if there are none.

    Example:
    >>> parse_scores("8 9.5\\nBoth answers are good.")
    (8.0, 9.5)
    >>> parse_scores("**Assistant 1:** 7/10\\n**Assistant 2:** 9/10\\n\\nThe second one names 3 dogs.")
    (7.0, 9.0)
    >>> parse_scores("I cannot rate these 2 answers.") is None
    True
    """
    lines = [line.translate(_MARKDOWN).strip()[: _LONGEST_LINE + 1] for line in _without_thoughts(text).split("\n")]
    for line in lines:
        if len(line) <= _LONGEST_LINE and (match := _PAIR.fullmatch(line)):
            return _checked(match[1], match[2])
    single = {match[1]: match[2] for line in lines if (match := _SINGLE.match(line))}
    return _checked(single["1"], single["2"]) if len(single) == 2 else None


def _without_thoughts(text: str) -> str:
    """Remove the text between `<think>` and `</think>`."""
    pieces = []
    start = 0
    while (thought := text.find("<think>", start)) >= 0 and (end := text.find("</think>", thought)) >= 0:
        pieces.append(text[start:thought])
        start = end + len("</think>")
    return "".join([*pieces, text[start:]])


def review_answers(
    questions: Sequence[BenchQuestion],
    answers: Mapping[str, str],
    endpoint: Endpoint,
    path: str | os.PathLike,
    *,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    budget: Budget | None = None,
) -> AskingReport:
    """Ask the judge about the answers that have no review yet.

    Beside the file of reviews, such as `reviews.jsonl`, this writes `reviews_costs.jsonl`, `reviews_failures.jsonl`
    and `reviews_cost_summary.json`. A review without scores is kept, as it was paid for; remove its line to ask again.

    Args:
        questions (`Sequence[BenchQuestion]`): the questions.
        answers (`Mapping[str, str]`): the model's answers by the name of their question.
        endpoint (`Endpoint`): the judge model; the papers ask with `judge.JUDGE_OPTIONS`.
        path (`str` or `Path`): file of JSON lines, one a review, each appended as it comes; see
            `llava_bench_files.read_reviews`.
        concurrency (`int`): how many requests run at the same time.
        requests_per_minute (`float`, *optional*): the rate limit, retries included; none by default.
        budget (`Budget`, *optional*): prices, and what all runs with this file together may cost.

    Returns:
        `AskingReport`: the outcome.

    Raises:
        ValueError: an answer is missing, or the file holds reviews of other answers or by another judge.
        EndpointError: the endpoint cannot be used like this; reviews so far are kept.
        KeyboardInterrupt: once the answers to the requests under way are in the file.
    """
    path = Path(path)
    missing = [question.question_id for question in questions if question.question_id not in answers]
    if missing:
        raise ValueError(f"`answers` has none for {len(missing)} questions, the first is {missing[0]!r}.")
    by_name = {question.question_id: question for question in questions}
    digests = {name: _digest(judge_messages(by_name[name], answers[name]), endpoint) for name in by_name}
    reviewed = _reviewed(path, digests)
    todo = [name for name in by_name if name not in reviewed]
    log = JsonlLog(path)

    def keep(name: str, reply: Reply) -> None:
        log.write(
            {
                "question_id": name,
                "category": by_name[name].category,
                "tuple": list(parse_scores(reply.text) or NO_SCORES),
                "content": reply.text,
                "judge": reply.model,
                "request": digests[name],
            }
        )

    try:
        return ask_all(
            {name: partial(judge_messages, by_name[name], answers[name]) for name in todo},
            endpoint,
            keep,
            AskingFiles.in_folder(path.parent, prefix=f"{path.stem}_", name="question_id"),
            answered=len(reviewed),
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            budget=budget,
            unit="answer",
        )
    finally:
        log.close()


def _reviewed(path: Path, digests: Mapping[str, str]) -> set[str]:
    """The questions that have a review; a review of something else is an error, as metrics would mix them."""
    names = set()
    for entry in read_jsonl(path):
        name = str(entry.get("question_id"))
        if name not in digests:
            continue
        if entry.get("request") != digests[name]:
            raise ValueError(
                f"{path} holds a review of another answer to question {name}, or by a judge of another name or with "
                "other options. Choose another file, or remove this one to pay for all reviews again."
            )
        names.add(name)
    return names


def _digest(messages: Sequence[Mapping[str, Any]], endpoint: Endpoint) -> str:
    """A fingerprint of what a review depends on: the judge, its options, and the messages that it read."""
    request = [endpoint.model, dict(endpoint.options), list(messages)]
    return hashlib.blake2b(json.dumps(request, sort_keys=True).encode(), digest_size=16).hexdigest()


def _checked(first: str, second: str) -> tuple[float, float] | None:
    """Check that two scores are at most the judge's maximum."""
    scores = float(first), float(second)
    return scores if max(scores) <= MAX_SCORE else None


__all__ = [
    "JUDGE_PROMPT",
    "JUDGE_SYSTEM_PROMPT",
    "judge_messages",
    "parse_scores",
    "review_answers",
]
