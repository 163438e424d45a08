"""Takes single sentences out of a chat model's answer: no lists, no markdown, no quotation marks, no small talk."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Answers have a few sentences. What is longer is not one, and is read up to here.
LONGEST_ANSWER = 20_000
# What models that think aloud write before their answer.
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
# Marks of lists, headings and quotes at the start of a line.
_MARK = re.compile(r"^(?:[-*•‣▪–—+>]\s+|\(?\d{1,3}[.):]\s+|\(?[a-zA-Z]\)\s+)")
_HEADING = re.compile(r"^#{1,6}\s|^(\*\*|__)[^*_]+\1:?$")
_EMPHASIS = re.compile(r"(\*\*|__|\*|`)(?=\S)(.+?)(?<=\S)\1")
# After a sentence's end and closing marks, before what is not a small letter. Chinese and Japanese write no space.
_END = re.compile(r"""(?<=[.!?…])["'”’»)\]]*\s+(?=[^\sa-z])|(?<=[。！？])(?=\S)""")
_COMPLETE = re.compile(r"""[.!?…。！？]["'”’»)\]]*$""")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|[Ee]\.g|[Ii]\.e|U\.S|[Aa]pprox|[Cc]a|[Cc]f|[Dd]r|[Ff]ig|[Ii]nc|[Jj]r|[Mm]rs?|[Mm]s|[Mm]t|"
    r"[Nn]o|[Ss]r|[Ss]t|[Vv]s)\.$"
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“"}
# What a chat model says around its answer, or instead of it.
_SMALL_TALK = re.compile(
    r":$|^(?:sure|certainly|of course|absolutely|okay|ok|great question)(?: thing)?[.!]*$"
    r"|^(?:here is|here's|here are|let me know|i hope|feel free)\b"
    r"|^(?:i['’]m|i am) (?:sorry|unable|not able)\b|^sorry\b|^i (?:can['’]?t|cannot|do not|don['’]t)\b|^as an ai\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sentences:
    """The sentences of an answer.

    Args:
        kept (`tuple[str, ...]`): in their order, each with an end mark.
        cut (`int`): sentences that the answer's limit of tokens cut off, left out.
        small_talk (`int`): headings, introductions and refusals, left out.
    """

    kept: tuple[str, ...]
    cut: int = 0
    small_talk: int = 0


def sentences_of(answer: str, is_cut: bool = False) -> Sentences:
    """The single sentences of an answer, cleaned.

    Args:
        answer (`str`): what a model answered.
        is_cut (`bool`): whether it ended at its limit of tokens: a last sentence without an end is left out.

    Returns:
        [`Sentences`]

    Example:
    >>> sentences_of('Sure!\\n1. **A crane** is tall, e.g. 1.5 m high. It has long legs\\n2. "Cranes are grey."').kept
    ('A crane is tall, e.g. 1.5 m high.', 'It has long legs.', 'Cranes are grey.')
    """
    answer, is_cut = answer[:LONGEST_ANSWER], is_cut or len(answer) > LONGEST_ANSWER
    lines = [line for line in _THOUGHTS.sub("", answer).splitlines() if not line.lstrip().startswith("```")]
    lines = _texts_of_json("\n".join(lines)) or lines
    lines = [" ".join(_visible(line).split()) for line in lines]
    lines = [line for line in lines if _has_letters(line)]
    kept: list[str] = []
    cut = small_talk = 0
    for number, line in enumerate(lines, start=1):
        if _HEADING.search(line):
            small_talk += 1
            continue
        sentences = [text for part in _split(_unquoted(_plain(line))) if _has_letters(text := _unquoted(part))]
        for position, sentence in enumerate(sentences, start=1):
            is_last = number == len(lines) and position == len(sentences)
            is_complete = _COMPLETE.search(sentence) is not None
            if is_last and is_cut and not is_complete:
                cut += 1
            elif _SMALL_TALK.search(sentence):
                small_talk += 1
            else:
                kept.append(sentence if is_complete else f"{sentence.rstrip(',;')}.")
    return Sentences(tuple(kept), cut, small_talk)


def _texts_of_json(answer: str) -> list[str]:
    """The texts in a JSON list or object, which some models answer with; none for any other answer."""
    if not answer.lstrip().startswith(("[", "{")):
        return []
    try:
        return list(_texts_in(json.loads(answer)))
    except (ValueError, RecursionError):
        return []


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(item)


def _visible(line: str) -> str:
    """A line without control characters, and without what stands for a broken one."""
    return "".join(letter if letter.isprintable() and letter != "\ufffd" else " " for letter in line)


def _has_letters(text: str) -> bool:
    return any(letter.isalnum() for letter in text)


def _plain(line: str) -> str:
    """A line without marks of lists and without markdown."""
    while (shorter := _MARK.sub("", line)) != line:
        line = shorter
    # Emphasis within emphasis takes a second round; a mark without its partner goes, too.
    return _EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", line)).replace("**", "").replace("`", "").strip()


def _split(line: str) -> list[str]:
    """The sentences of a line; the period of an abbreviation ends none."""
    parts: list[str] = []
    start = 0
    for end in _END.finditer(line):
        before = line[start : end.end()].strip()
        if not _ABBREVIATION.search(before):
            parts.append(before)
            start = end.end()
    return [*parts, line[start:].strip()]


def _unquoted(text: str) -> str:
    """A text without quotation marks around the whole of it, and without one that lacks its partner."""
    text = text.strip()
    for mark in '"”':
        # The other half is around a sentence before this one.
        if text.endswith(mark) and text.count(mark) == 1 and not any(opening in text for opening in "“„"):
            text = text[:-1]
    closing = _QUOTES.get(text[:1])
    if closing is None:
        return text
    inner, end = text[1:], ""
    if inner[-1:] in (".", "!", "?") and inner[-2:-1] == closing:
        inner, end = inner[:-1], inner[-1]
    if closing not in inner:
        return inner.strip()
    if not inner.endswith(closing) or closing in inner[:-1]:
        return text
    return inner[:-1].strip() + end


__all__ = ["Sentences", "sentences_of"]
