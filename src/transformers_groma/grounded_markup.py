"""The markup of grounded text: how a phrase and its regions are written, and how an answer is read.

    <p>a dog</p> <roi><r4></roi> on <p>the grass</p> <roi><r7><r9></roi>.
    <p> a dog </p> [SEG] on <p> the grass </p> [SEG].

`<p>…</p>` marks a phrase. Groma names its regions after it, `<roi>…</roi>` with their proxy tokens `<r0>`, `<r1>`, …
GLaMM writes `[SEG]` after it for each region; the k-th `[SEG]` of an answer is its k-th region.
Spans are `(start, end)` offsets in characters.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from .markup import PHRASE_END, PHRASE_START, REGION_END, REGION_START, SEGMENT_TOKEN, proxy_token

# A proxy token is written in one way only: decimal digits, no sign, no leading zeros. 18 digits fit into an int64.
_TAG = re.compile(r"</?p>|</?roi>|<r(0|[1-9][0-9]{0,17})>")
SEGMENT_TAG = re.compile(r"</?p>|\[SEG\]")
# Punctuation that belongs to the word before it, and brackets that belong to the word after them.
_CLOSING = re.compile(r"[.,;:!?)\]}…。，、；：！？）】」』]|['’]s\b")
_OPENING = "([{（【「『"
# What two pieces of text could become together once a tag between them is taken out: a tag, or another token.
_MARKUP = re.compile(r"</?\w{1,24}>|<\|[^<>\s|]{1,24}\|>|\[(?:grounding|PAD|SEG)\]")
_LONGEST_MARKUP = 32
_LINE_BREAK = re.compile(r"[\r\n](?:\s*[\r\n])?")


def render_grounded_phrase(text: str, region_ids: Sequence[int]) -> str:
    """Write the markup of one phrase and its regions.

    Args:
        text (`str`): the phrase; empty for an answer that only names regions.
        region_ids (`Sequence[int]`): numbers of its regions; empty for a phrase that is not grounded.

    Returns:
        `str`: the markup.

    Raises:
        ValueError: if a region number is negative.

    Example:
    >>> from transformers_groma.grounding import render_grounded_phrase
    >>> render_grounded_phrase("two dogs", [4, 7])
    '<p>two dogs</p> <roi><r4><r7></roi>'
    >>> render_grounded_phrase("", [4])
    '<roi><r4></roi>'
    """
    parts = []
    if text:
        parts.append(f"{PHRASE_START}{text}{PHRASE_END}")
    if len(region_ids) > 0:
        parts.append(f"{REGION_START}{''.join(map(proxy_token, region_ids))}{REGION_END}")
    return " ".join(parts)


@dataclass(frozen=True)
class ParsedPhrase:
    """A phrase and the numbers of its regions.

    Args:
        text (`str`): the phrase; empty where regions were named without one.
        span (`tuple[int, int]`): its place in the plain text, so that `parsed.text[span[0] : span[1]] == text`.
        region_ids (`tuple[int, ...]`): numbers of its regions, at least one, in the order of the text, each once.
    """

    text: str
    span: tuple[int, int]
    region_ids: tuple[int, ...]


@dataclass(frozen=True)
class ParsedText:
    """Plain text and the phrases in it that are tied to regions.

    Args:
        text (`str`): the text without markup.
        phrases (`tuple[ParsedPhrase, ...]`): in the order of the text; their spans do not overlap.
        unknown_region_ids (`tuple[int, ...]`): numbers in the markup that are not regions, each once.
    """

    text: str
    phrases: tuple[ParsedPhrase, ...]
    unknown_region_ids: tuple[int, ...]


def parse_grounded_text(markup: str, valid_region_ids: Collection[int] | int | None = None) -> ParsedText:
    """Read the markup of an answer. Accepts every string and takes linear time.

    - Regions belong to the phrase right before them (several groups too); without one they make an empty phrase.
    - Regions, in `<roi>` or bare, end a phrase that is still open. Otherwise a phrase inside a phrase is part of it.
    - A phrase without a (valid) region is plain text. Stray tags vanish; text between `<roi>` and `</roi>` stays.
    - What is not exactly a tag (`<r007>`, `<r-1>`, `<ro`) stays in the text, like any other text.
    - Nothing looks ahead: a phrase that was found in a part of an answer can only get more regions from the rest.
    - Whitespace next to tags is tidied up: at most one space or line break, none before `.` or `)`, none at the ends.
    - Taking out tags never makes new ones in the text: `<<p>p>` becomes `< p>`.

    Args:
        markup (`str`): the text that the model wrote, without the tokenizer's special tokens. Spaces that the
            tokenizer puts around tags when it decodes do no harm.
        valid_region_ids (`Collection[int]` or `int`, *optional*): numbers of the regions that exist, or `n` for
            `0..n-1`. Without it every number counts as a region.

    Returns:
        `ParsedText`: plain text, phrases with spans and region numbers, unknown region numbers.

    Example:
    >>> from transformers_groma.grounding import parse_grounded_text
    >>> parsed = parse_grounded_text("<p>a dog</p> <roi><r4></roi> on <p>the grass</p> <roi><r7><r57></roi>.", 40)
    >>> parsed.text
    'a dog on the grass.'
    >>> parsed.phrases[1]
    ParsedPhrase(text='the grass', span=(9, 18), region_ids=(7,))
    >>> parsed.unknown_region_ids
    (57,)
    """
    parser = _Parser(valid_region_ids)
    position = 0
    for tag in _TAG.finditer(markup):
        parser.add_text(markup[position : tag.start()])
        if tag[1] is None:
            parser.add_tag(tag[0])
        else:
            parser.add_region(int(tag[1]))
        position = tag.end()
    parser.add_text(markup[position:])
    return parser.result()


def parse_segmented_text(
    markup: str, first_region_id: int = 0, tags: Sequence[tuple[int, int]] | None = None
) -> ParsedText:
    """Read the markup of an answer with `[SEG]`. Accepts every string and takes linear time.

    The regions have the numbers `first_region_id`, `first_region_id + 1`, … in the order of their `[SEG]`. What they
    belong to, and what becomes of the text, is as in [`parse_grounded_text`].

    Args:
        markup (`str`): the text that the model wrote, without the tokenizer's special tokens.
        first_region_id (`int`): number of the region of the first `[SEG]`.
        tags (`Sequence[tuple[int, int]]`, *optional*): spans of the tags that the model wrote as tokens, in order;
            the same letters elsewhere are text. Without it all of them are tags.

    Returns:
        `ParsedText`: plain text, phrases with spans and region numbers; no number is unknown.

    Example:
    >>> from transformers_groma.grounded_markup import parse_segmented_text
    >>> parsed = parse_segmented_text("<p> a dog </p> [SEG] and <p> two men </p> [SEG] [SEG].", first_region_id=1)
    >>> parsed.text
    'a dog and two men.'
    >>> [(phrase.text, phrase.region_ids) for phrase in parsed.phrases]
    [('a dog', (1,)), ('two men', (2, 3))]
    """
    if tags is None:
        tags = [tag.span() for tag in SEGMENT_TAG.finditer(markup)]
    parser = _Parser(None)
    position = 0
    region_id = first_region_id
    for start, end in tags:
        parser.add_text(markup[position:start])
        if markup[start:end] == SEGMENT_TOKEN:
            parser.add_region(region_id)
            region_id += 1
        else:
            parser.add_tag(markup[start:end])
        position = end
    parser.add_text(markup[position:])
    return parser.result()


@dataclass
class _PhraseDraft:
    """A phrase while it is read: the span of its text, and its regions so far."""

    start: int
    end: int
    region_ids: dict[int, None] = field(default_factory=dict)  # an ordered set


class _Parser:
    """What is known of an answer once it is read up to some tag. Fed with text and tags in turn."""

    def __init__(self, valid_region_ids: Collection[int] | int | None) -> None:
        if isinstance(valid_region_ids, int):
            self.valid_region_ids: Collection[int] | None = range(valid_region_ids)
        else:
            self.valid_region_ids = None if valid_region_ids is None else frozenset(valid_region_ids)
        self.text = _PlainText()
        self.depth = 0  # how many `<p>` are open: a phrase inside a phrase is part of it
        self.start: int | None = None  # where the text of the open phrase starts, once it has some
        self.in_regions = False  # between `<roi>` and `</roi>`, where bare proxy tokens start no group of their own
        self.phrase = _PhraseDraft(0, 0)  # the phrase that regions would belong to
        self.grounded: list[_PhraseDraft] = []
        self.unknown_region_ids: dict[int, None] = {}

    def add_text(self, text: str) -> None:
        start = self.text.append(text)
        if self.depth > 0 and self.start is None:
            self.start = start

    def add_tag(self, tag: str) -> None:
        if tag == PHRASE_START:
            self.in_regions = False
            self.depth += 1
        elif tag == PHRASE_END:
            if self.depth == 1:
                self._end_phrase()
            self.depth = max(self.depth - 1, 0)
        elif tag == REGION_START:
            self._start_regions()
            self.in_regions = True
        else:
            self.in_regions = False
        self.text.after_regions = tag == REGION_END

    def add_region(self, region_id: int) -> None:
        if not self.in_regions:
            self._start_regions()
        self.text.after_regions = True
        if self.valid_region_ids is not None and region_id not in self.valid_region_ids:
            self.unknown_region_ids[region_id] = None
            return
        if not self.phrase.region_ids:
            self.grounded.append(self.phrase)
        self.phrase.region_ids[region_id] = None

    def _end_phrase(self) -> None:
        end = self.text.length
        self.phrase = _PhraseDraft(end if self.start is None else self.start, end)
        self.start = None

    def _start_regions(self) -> None:
        if self.depth > 0:
            self._end_phrase()
            self.depth = 0
        elif self.phrase.end < self.text.length:  # other text has come since: these regions have no phrase
            self.phrase = _PhraseDraft(self.text.length, self.text.length)

    def result(self) -> ParsedText:
        text = self.text.joined()
        return ParsedText(
            text=text,
            phrases=tuple(
                ParsedPhrase(text[phrase.start : phrase.end], (phrase.start, phrase.end), tuple(phrase.region_ids))
                for phrase in self.grounded
            ),
            unknown_region_ids=tuple(self.unknown_region_ids),
        )


class _PlainText:
    """Text without its tags. Whitespace next to tags waits until the text after it is known."""

    def __init__(self) -> None:
        self.pieces: list[str] = []  # each is whitespace as a whole, or neither starts nor ends with it
        self.length = 0
        self.gaps: list[str] = []  # whitespace around the tags since the last text
        self.after_regions = False  # whether the last tag ended or named regions

    def append(self, text: str) -> int | None:
        """Add the text between two tags. Returns where its first character that is not whitespace is in the result."""
        core = text.strip()
        if not core:
            self.gaps.append(text)
            return None
        lead = text[: len(text) - len(text.lstrip())]
        gap = self._gap(lead, core) or self._gap_against_markup(core)
        start = self.length + len(gap)
        self.pieces += [gap, core]
        self.length = start + len(core)
        self.gaps = [text[len(lead) + len(core) :]]
        return start

    def _gap_against_markup(self, core: str) -> str:
        """A space where the end of the text so far and `core` would make a tag or token together."""
        # As many of the last pieces as a token may be long: `<`, `r`, `1` and `>` may come one by one.
        tail = ""
        for piece in reversed(self.pieces):
            tail = piece + tail
            if len(tail) >= _LONGEST_MARKUP:
                break
        tail, head = tail[-_LONGEST_MARKUP:], core[:_LONGEST_MARKUP]
        crossing = any(found.start() < len(tail) < found.end() for found in _MARKUP.finditer(tail + head))
        return " " if crossing else ""

    def _gap(self, lead: str, core: str) -> str:
        """What is left of the whitespace between the text so far and `core`."""
        if not self.pieces or not (lead or any(self.gaps)):
            return ""
        # A line break wins over spaces; of the spaces around it only the indentation of `core` means something.
        if line_break := _LINE_BREAK.search(lead):
            return lead[line_break.start() :]
        for gap in self.gaps:
            if line_break := _LINE_BREAK.search(gap):
                return line_break[0]
        if self.pieces[-1][-1] in _OPENING or _CLOSING.match(core):
            return ""
        # The space before regions goes with them before a closing quote, as in `a dog <roi><r4></roi>"`, and stays
        # before an opening bracket, as in `a dog <roi><r4></roi>(left)`.
        if self.after_regions and not lead and unicodedata.category(core[0]) in ("Pc", "Pd", "Pe", "Pf", "Po"):
            return ""
        return " "

    def joined(self) -> str:
        return "".join(self.pieces)


__all__ = [
    "SEGMENT_TAG",
    "ParsedPhrase",
    "ParsedText",
    "parse_grounded_text",
    "parse_segmented_text",
    "render_grounded_phrase",
]
