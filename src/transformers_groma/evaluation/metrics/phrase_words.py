"""The words of phrases without articles and punctuation, and the F1 of the words that two phrases share."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from .ptb_tokenizer import ptb_tokenize

ARTICLES = frozenset({"a", "an", "the"})


def phrase_words(phrases: Sequence[str]) -> list[list[str]]:
    """The words of phrases in lower case, without articles and punctuation.

    Args:
        phrases (`Sequence[str]`): the phrases.

    Returns:
        `list[list[str]]`: the words of each.

    Example:
    >>> from transformers_groma.evaluation.metrics.phrase_words import phrase_words
    >>> phrase_words(["The red cup,"])
    [['red', 'cup']]
    """
    return [[word for word in text.split() if word not in ARTICLES] for text in ptb_tokenize(list(phrases))]


def token_f1(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """How many words the phrases of each pair share: F1 of their words, without articles and punctuation.

    It knows no meanings: "a puppy" and "a dog" share nothing.

    Args:
        first, second (`Sequence[str]` of one length): the phrases of the pairs.

    Returns:
        `np.ndarray` of shape `(pairs,)`: 0..1; 1 where neither phrase has a word.

    Raises:
        ValueError: not as many phrases in both.

    Example:
    >>> from transformers_groma.evaluation.metrics.phrase_words import token_f1
    >>> token_f1(["the red cup", "a dog"], ["a cup", "a cat"]).round(2).tolist()
    [0.67, 0.0]
    """
    if len(first) != len(second):
        raise ValueError(f"`second` must have one phrase for each of the {len(first)} in `first`, got {len(second)}.")
    unique = list(dict.fromkeys([*first, *second]))
    words = dict(zip(unique, map(Counter, phrase_words(unique)), strict=True))
    values = np.ones(len(first))
    for pair, (one, other) in enumerate(zip(first, second, strict=True)):
        if total := words[one].total() + words[other].total():
            values[pair] = 2 * (words[one] & words[other]).total() / total
    return values


__all__ = ["phrase_words", "token_f1"]
