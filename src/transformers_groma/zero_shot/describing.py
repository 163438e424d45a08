"""Has a chat model describe labels, as CuPL does: questions about each label, answers as single sentences.

Every answer is in a file beside the output before the next one is handled: an interrupted run resumes, and no answer
is paid for twice. The descriptions follow from that file alone, in the order of labels and questions.
"""

import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .._jsonl import JsonlLog, read_jsonl
from .._words import counted
from ..endpoints.asking import AskingFiles, AskingReport, Budget, ask_all
from ..endpoints.endpoint import Endpoint
from ..endpoints.replies import Reply
from .label_lists import check_labels
from .sentences import sentences_of
from .templates import check_templates, fill_template

# What is asked about each label. {} is its name.
QUESTIONS = (
    "What does {} look like? Name what can be seen of it: shape, colours, surface, parts.",
    "Which visible features tell {} from things that look similar?",
    "Describe {} to somebody who has never seen it and has to recognize it in a photo.",
    "Somebody took a photo of {}. What does the photo show?",
    "Where is {} usually seen, and what is around it there?",
)
HOW_TO_ANSWER = "Answer with one plain sentence that names it. No list, no introduction."
ANSWERS_EACH = 10


class Question(NamedTuple):
    """One question about one label, asked as often as there should be answers.

    Args:
        label (`str`): the name of the label.
        text (`str`): what is asked.
        number (`int`): of the answer; the first one is 1.
    """

    label: str
    text: str
    number: int


@dataclass(frozen=True)
class DescribingPlan:
    """What is asked about which labels.

    Args:
        labels (`Sequence[str]`): at least one, and no two of one name.
        questions (`Sequence[str]`): texts with `{}` where the name goes.
        answers_each (`int`): answers to each question.
        about (`str`, *optional*): what the labels are, such as "a species of bird", where a name means several things.

    Raises:
        ValueError: no labels, two of one name, a question without `{}` or twice, a blank `about`, or no answers.

    Example:
    >>> plan = DescribingPlan(["crane"], ["What does {} look like?"], answers_each=2, about="a bird")
    >>> [question.text for question in plan.asked()]  # doctest: +ELLIPSIS
    ['What does "crane" (a bird) look like? Answer with ...', 'What does "crane" (a bird) look like? Answer with ...']
    """

    labels: Sequence[str]
    questions: Sequence[str] = QUESTIONS
    answers_each: int = ANSWERS_EACH
    about: str | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", check_labels(self.labels))
        object.__setattr__(self, "questions", check_templates(self.questions, "`questions`"))
        if len(set(self.questions)) < len(self.questions):
            raise ValueError("`questions` has one twice: ask for more answers instead.")
        if self.about is not None and not self.about.strip():
            raise ValueError("`about` is blank: say what the labels are, as in 'a species of bird', or leave it out.")
        if self.answers_each < 1:
            raise ValueError(f"`answers_each` must be at least 1, got {self.answers_each}.")

    def asked(self) -> Iterator[Question]:
        """All questions, label by label."""
        for name in self.names:
            subject = f'"{name}"' if self.about is None else f'"{name}" ({self.about})'
            for question in self.questions:
                text = f"{fill_template(question, subject)} {HOW_TO_ANSWER}"
                for number in range(1, self.answers_each + 1):
                    yield Question(name, text, number)


@dataclass(frozen=True)
class DescribingFiles:
    """The output, and the files beside it that a run resumes from.

    Args:
        output (`Path`): the descriptions, JSON in CuPL's format.
        answers (`Path`): JSON lines, one for each answer.
        asking (`AskingFiles`): what answers cost, and why questions failed.

    Example:
    >>> DescribingFiles.of("birds.json").answers.name
    'birds.answers.jsonl'
    """

    output: Path
    answers: Path
    asking: AskingFiles

    @classmethod
    def of(cls, output: str | os.PathLike) -> "DescribingFiles":
        """The files of an output, named after it."""
        output = Path(output)
        asking = AskingFiles.in_folder(output.parent, prefix=f"{output.stem}.", name="question")
        return cls(output, output.with_name(f"{output.stem}.answers.jsonl"), asking)


@dataclass
class Described:
    """What the answers say about the labels.

    Args:
        texts (`dict[str, list[str]]`): sentences by label, in the order of the questions, none twice in a label.
        unanswered (`dict[str, int]`): by label, questions without an answer; labels without such are not in it.
        unused (`int`): answers in the file to questions that are not asked any more.
        duplicates (`int`): sentences left out as the label has them already.
        cut (`int`): sentences left out as the limit of tokens cut them off.
        small_talk (`int`): headings, introductions and refusals, left out.
        empty (`int`): answers that hold no sentence.
        nameless (`int`): sentences that do not hold the label's name; they stay, as in CuPL.
    """

    texts: dict[str, list[str]]
    unanswered: dict[str, int] = field(default_factory=dict)
    unused: int = 0
    duplicates: int = 0
    cut: int = 0
    small_talk: int = 0
    empty: int = 0
    nameless: int = 0

    @property
    def content(self) -> bytes:
        """The file of descriptions."""
        return (json.dumps(self.texts, indent=1, ensure_ascii=False) + "\n").encode()

    def labels_below(self, least: int) -> dict[str, int]:
        """The labels with fewer sentences, and how many they have."""
        return {label: len(texts) for label, texts in self.texts.items() if len(texts) < least}

    def summary(self) -> str:
        """The numbers in one line."""
        counts = sorted(map(len, self.texts.values()))
        left_out = f"{counted(self.duplicates, 'duplicate')}, {self.cut} cut off, {self.small_talk} beside the point"
        return (
            f"{counted(sum(counts), 'sentence')} for {counted(len(counts), 'label')}, {counts[0]} to {counts[-1]} "
            f"each, median {statistics.median_low(counts)}; left out: {left_out}; without the name of their label: "
            f"{self.nameless}"
        )


def read_described(plan: DescribingPlan, files: DescribingFiles, endpoint: Endpoint) -> Described:
    """What the answers so far say.

    Args:
        plan (`DescribingPlan`): what is asked.
        files (`DescribingFiles`): where the answers are; none are there at first.
        endpoint (`Endpoint`): whose answers these have to be.

    Returns:
        [`Described`]

    Raises:
        ValueError: the file holds answers of another model or with other settings, or is damaged.
    """
    answers = _answers(files.answers, endpoint)
    described = Described({name: [] for name in plan.names})
    used = 0
    for question in plan.asked():
        answer = answers.get(question)
        if answer is None:
            described.unanswered[question.label] = described.unanswered.get(question.label, 0) + 1
            continue
        used += 1
        _add(described, question.label, answer)
    described.unused = len(answers) - used
    return described


def _add(described: Described, label: str, answer: Mapping[str, Any]) -> None:
    """Add the sentences of an answer to those of its label."""
    is_cut = answer["finish_reason"] == "length"
    sentences = sentences_of("" if answer["refusal"] else answer["text"], is_cut)
    # A model that thinks first may reach the limit before it says anything.
    described.cut += max(sentences.cut, int(is_cut and not sentences.kept))
    described.small_talk += sentences.small_talk
    described.empty += not sentences.kept
    texts = described.texts[label]
    for sentence in sentences.kept:
        if sentence in texts:
            described.duplicates += 1
            continue
        texts.append(sentence)
        described.nameless += label.casefold() not in sentence.casefold()


def ask_about_labels(
    plan: DescribingPlan,
    files: DescribingFiles,
    endpoint: Endpoint,
    *,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    budget: Budget | None = None,
) -> AskingReport:
    """Ask the questions that have no answer yet; the descriptions are then in [`read_described`].

    Each answer is a request of its own, as not all servers give several to one.

    Args:
        plan (`DescribingPlan`): what is asked.
        files (`DescribingFiles`): where answers are kept.
        endpoint (`Endpoint`): where to ask; its `options` are the settings of sampling.
        concurrency (`int`), requests_per_minute (`float`, *optional*), budget (`Budget`, *optional*): see `ask_all`.

    Returns:
        `AskingReport`: the outcome.

    Raises:
        ValueError: the file holds answers of another model or with other settings.
        EndpointError: the endpoint refuses every question; answers so far are kept.
        OutputError: a file cannot be written, or another process is writing it.
    """
    log = JsonlLog(files.answers)
    try:
        answers = _answers(files.answers, endpoint)
        everything = list(plan.asked())
        todo = {_name_of(plan, question): question for question in everything if question not in answers}
        questions: dict[str, Callable[[], list[dict[str, Any]]]] = {
            name: partial(_messages, question) for name, question in todo.items()
        }

        def keep(name: str, reply: Reply) -> None:
            question = todo[name]
            log.write(
                {
                    "label": question.label,
                    "question": question.text,
                    "number": question.number,
                    "model": endpoint.model,
                    "options": dict(endpoint.options),
                    "answered_by": reply.model,
                    "text": reply.text,
                    "finish_reason": reply.finish_reason,
                    "refusal": reply.refusal,
                }
            )

        return ask_all(
            questions,
            endpoint,
            keep,
            files.asking,
            answered=len(everything) - len(todo),
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            budget=budget,
        )
    finally:
        log.close()


def _messages(question: Question) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question.text}]


def _name_of(plan: DescribingPlan, question: Question) -> str:
    """How files of costs and failures name a question."""
    return f"{question.label}: {question.text} [{question.number} of {plan.answers_each}]"


def _answers(path: Path, endpoint: Endpoint) -> dict[Question, dict[str, Any]]:
    """The answers in a file, by their questions."""
    answers: dict[Question, dict[str, Any]] = {}
    for line, answer in enumerate(read_jsonl(path), start=1):
        try:
            key = Question(answer["label"], answer["question"], answer["number"])
            asked = {"model": answer["model"], **answer["options"]}
            hash(key), answer["text"] + answer["finish_reason"], answer["refusal"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}, record {line} is not an answer ({error}). Remove that line.") from error
        wanted = {"model": endpoint.model, **endpoint.options}
        for name in (*wanted, *asked):
            if asked.get(name) != wanted.get(name):
                raise ValueError(
                    f"{path} holds answers made with {name} {asked.get(name)!r}, and now it is {wanted.get(name)!r}: "
                    "pass another --output, or remove that file."
                )
        answers[key] = answer
    return answers


__all__ = [
    "ANSWERS_EACH",
    "QUESTIONS",
    "Described",
    "DescribingFiles",
    "DescribingPlan",
    "Question",
    "ask_about_labels",
    "read_described",
]
