"""Turns control tokens that a user typed into plain text: the model reads the words, not the tokens.

`<image>`, `<r5>` or `</s>` in a question would be read as tokens of the model: placeholders of an image, a region that
without a box, the end of a turn. Here such a text is cut inside each of them by a mark, the break. The tokenizer
encodes the text between the breaks piece by piece and drops the breaks (transformers' own way, see
`encode_marked_chat`), so that the ids hold no control token and decode to the very text that was typed. With | for the
break:

    typed      What does </s> mean?
    broken     What does <|/s> mean?
    encoded    "What does <" and "/s> mean?", each on its own: the ids of "<", "/", "s", ">" and not the one of "</s>"
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

# transformers' marks around tokens that a user typed. Of these two characters we write the second alone, as a break:
# the tokenizer drops it, and no token joins across it.
_MARKED_START, BREAK = "\U000f0000", "\U000f0001"
# What formats without tokens for it write around turns, Vicuna's first. They are words and not tokens: cut at every
# letter, they read the same but are not the same ids.
ROLE_MARKS = (
    *("USER:", "ASSISTANT:"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    *("### Human:", "### Assistant:", "### User:", "### Instruction:", "### Response:", "### System:"),
)
# What no tokenizer reads: halves of characters (lone surrogates), which JSON can spell.
_HALVES = map(chr, range(0xD800, 0xE000))
_UNREADABLE = str.maketrans(dict.fromkeys((_MARKED_START, BREAK, *_HALVES), "\ufffd"))


def control_tokens(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> tuple[str, ...]:
    """The tokens that a user may not type: all added tokens of the vocabulary, and role markers.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of the model.
        chat_template (`str`, *optional*): its template, for the marks of roles.

    Returns:
        `tuple[str, ...]`: without tokens of a single character or of whitespace, which are ordinary text.
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    marks = [mark for mark in ROLE_MARKS if mark in (chat_template or "")]
    return tuple(token for token in [*added, *marks] if len(token) > 1 and not token.isspace())


def break_control_tokens(
    texts: Sequence[str],
    tokens: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    keep: Collection[str] = (),
    keep_first: str | None = None,
) -> list[str]:
    """Insert a break into each control token of texts.

    The texts are read as one, because a template renders them one after the other: `<` at the end of a part and `/s>`
    at the head of the next are a token together.

    Args:
        texts (`Sequence[str]`): parts of one message.
        tokens (`tuple[str, ...]`): see [`control_tokens`].
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of the model.
        keep (`Collection[str]`): tokens that stay tokens.
        keep_first (`str`, *optional*): a token that stays one at the head of the first text, once.

    Returns:
        `list[str]`: the same texts with breaks; equal to `texts` where there are no control tokens. Breaks that a user
        typed, and what is not a character (a lone surrogate), become U+FFFD.

    Example:
    >>> from transformers import LlamaTokenizer
    >>> tokenizer = LlamaTokenizer()
    >>> first, second = break_control_tokens(["What does <", "/s> mean?"], control_tokens(tokenizer, None), tokenizer)
    >>> first.endswith("<" + BREAK), second
    (True, '/s> mean?')
    """
    texts = [text.translate(_UNREADABLE) for text in texts]
    joined = "".join(texts)
    # Tokens that stay are cut out before the search, so that nothing joins over them and nothing cuts them. With
    # `<region>` kept, "</s> <region> </s>" is searched as "</s> " and " </s>".
    kept = [match.span() for match in _pattern(tuple(keep)).finditer(joined)] if keep else []
    if keep_first is not None:
        head = len(joined) - len(joined.lstrip())
        if joined.startswith(keep_first, head):
            kept.insert(0, (head, head + len(keep_first)))
    positions: list[int] = []
    start = 0
    for stop, end in [*kept, (len(joined), len(joined))]:
        if start < stop:
            positions += _break_positions(joined[start:stop], start, tokens, tokenizer)
        start = max(start, end)
    return _insert_breaks(texts, positions)


def has_breaks(texts: Iterable[str]) -> bool:
    """Whether a text holds breaks of [`break_control_tokens`]."""
    return any(BREAK in text for text in texts)


def without_breaks(text: str) -> str:
    """A text as it was typed."""
    return text.replace(BREAK, "")


def piecewise_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """The offsets of the tokens of a text with breaks; the tokenizer itself gives them only for texts without.

    "Is <|/s> it" (| for the break) is encoded as "Is <" and "/s> it". Offsets in the second piece begin at 0 and are
    moved by 5, the characters before it with the break, so that the token "it" is at (9, 11) of the text.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a fast one.
        text (`str`): a text with breaks, which starts with its BOS token if it is to have one.

    Returns:
        `list[tuple[int, int]]`: start and end of each token of `tokenizer(text, sanitize_control_tokens=True)`.
    """
    newline_ids = tokenizer("\n", add_special_tokens=False)["input_ids"]
    offsets: list[tuple[int, int]] = []
    start = 0
    for piece in re.split(f"[{_MARKED_START}{BREAK}]", text):
        if start == 0:
            offsets += _offsets(tokenizer, piece, 0, 0)[1]
        elif piece:
            # As transformers encodes it: after a newline, so that it is not the start of a text (some tokenizers put a
            # space there). The ids of the newline are cut off; where it joined the piece, the piece is encoded alone.
            ids, spans = _offsets(tokenizer, "\n" + piece, start - 1, len(newline_ids))
            offsets += spans if ids == newline_ids else _offsets(tokenizer, piece, start, 0)[1]
        start += len(piece) + 1
    return offsets


def _offsets(
    tokenizer: PreTrainedTokenizerBase, text: str, shift: int, num_skipped: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """The first ids of a text, and the offsets of the others."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [(start + shift, end + shift) for start, end in encoding["offset_mapping"]]
    return encoding["input_ids"][:num_skipped], spans[num_skipped:]


def _break_positions(text: str, offset: int, tokens: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where to cut a text, from `offset` on: after the first character of a control token, anywhere in a role."""
    # `(?=…)` finds a token at every position, within another one too.
    cuts = {match.start() + 1 for match in _pattern(tokens, overlapping=True).finditer(text)}
    if marks := tuple(mark for mark in ROLE_MARKS if mark in tokens):
        cuts.update(cut for match in _pattern(marks).finditer(text) for cut in range(match.start() + 1, match.end()))
    added = {index: token for index, token in tokenizer.added_tokens_decoder.items() if token.content in tokens}
    if any(token.normalized for token in added.values()):
        # These are found after the text was normalized: in capitals, in full width. Only the tokenizer itself can
        # tell.
        ids = frozenset(added) - {tokenizer.unk_token_id}
        for start, end in pairwise([0, *sorted(cuts), len(text)]):
            cuts.update(_halving_cuts(text[start:end], start, ids, tokenizer))
    return sorted(offset + cut for cut in cuts)


def _halving_cuts(text: str, offset: int, ids: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Cut in half repeatedly, until no part encodes to a control token."""
    if len(text) < 2 or ids.isdisjoint(tokenizer(text, add_special_tokens=False)["input_ids"]):
        return []
    middle = len(text) // 2
    return [
        *_halving_cuts(text[:middle], offset, ids, tokenizer),
        offset + middle,
        *_halving_cuts(text[middle:], offset + middle, ids, tokenizer),
    ]


def _insert_breaks(texts: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Insert breaks into texts at sorted positions of their concatenation."""
    marked = []
    start = 0
    remaining = iter([*positions, float("inf")])
    position = next(remaining)
    for text in texts:
        pieces, done = [], 0
        # A cut at the border of two texts belongs to the first.
        while position <= start + len(text):
            cut = int(position) - start
            pieces += [text[done:cut], BREAK]
            done, position = cut, next(remaining)
        marked.append("".join([*pieces, text[done:]]))
        start += len(text)
    return marked


@lru_cache(maxsize=32)
def _pattern(tokens: tuple[str, ...], overlapping: bool = False) -> re.Pattern[str]:
    """Matches tokens, the longest first."""
    alternatives = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"
    return re.compile(f"(?={alternatives})" if overlapping else alternatives)


def break_in_values(values: Any, tokens: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> Any:
    """Apply [`break_control_tokens`] to the strings in nested lists and dictionaries, but not to keys.

    Args:
        values: what a template may render besides the content of messages, such as tools.
        tokens (`tuple[str, ...]`): see [`control_tokens`].
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of the model.

    Returns:
        The same with breaks.
    """
    if isinstance(values, str):
        return break_control_tokens([values], tokens, tokenizer)[0]
    if isinstance(values, dict):
        return {key: break_in_values(value, tokens, tokenizer) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [break_in_values(value, tokens, tokenizer) for value in values]
    return values


__all__ = [
    "BREAK",
    "ROLE_MARKS",
    "break_control_tokens",
    "break_in_values",
    "control_tokens",
    "has_breaks",
    "piecewise_offsets",
    "without_breaks",
]
