"""CIDEr and METEOR of captions, as coco-caption computes them (with `pycocoevalcap`).

Both are on coco-caption's own scale. The paper multiplies them by 100: its METEOR of 16.8 and CIDEr of 107.3 are 0.168
and 1.073 here. No model is needed.
"""

import logging
from collections.abc import Callable, Sequence

from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor

from .ptb_tokenizer import JavaMissingError, ptb_tokenize, require_java

logger = logging.getLogger(__name__)

# Texts to texts of words with a space between them.
Tokenizer = Callable[[Sequence[str]], Sequence[str]]


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]], tokenize: Tokenizer = ptb_tokenize) -> float:
    """CIDEr of captions (CIDEr-D, to be exact, as coco-caption computes it).

    How much a word counts depends on how many captions contain it, so the score is that of the whole set and not the
    mean over parts of it. That of a single caption is 0.

    Args:
        candidates (`Sequence[str]`): one caption per image or region.
        references (`Sequence[Sequence[str]]`): the true captions of each, at least one.
        tokenize (`Callable`): cuts texts into words; by default as coco-caption does, without its Java program.
            `ptb_tokenizer.java_ptb_tokenize` runs that program; `list` takes texts that are cut already.

    Returns:
        `float`: 0..10, on coco-caption's scale.

    Raises:
        ValueError: nothing to score, not as many lists of references as candidates, or an empty one.

    Example:
    >>> round(cider(["a red cat", "two dogs"], [["a red cat"], ["two big dogs", "dogs"]]), 3)
    4.689
    """
    true, answers = _tokenized(candidates, references, tokenize)
    return float(Cider().compute_score(true, answers)[0])


def meteor(
    candidates: Sequence[str], references: Sequence[Sequence[str]], tokenize: Tokenizer = ptb_tokenize
) -> float:
    """METEOR 1.5 of captions, by its authors' own Java program. NLTK's function of that name gives other scores.

    Args:
        candidates (`Sequence[str]`): one caption per image or region.
        references (`Sequence[Sequence[str]]`): the true captions of each, at least one.
        tokenize (`Callable`): cuts texts into words; see `cider`.

    Returns:
        `float`: 0..1.

    Raises:
        JavaMissingError: Java is not installed; says how to install it.
        ValueError: see `cider`.
        RuntimeError: the program failed, perhaps because it needs 2 GB of memory; says what it wrote.
    """
    true, answers = _tokenized(candidates, references, tokenize)
    require_java()
    # METEOR's program reads lines whose parts are separated by such bars.
    true = {index: [text.replace("|||", " ") for text in texts] for index, texts in true.items()}
    program = Meteor()
    try:
        return float(program.compute_score(true, answers)[0])
    except (OSError, ValueError) as error:
        program.meteor_p.kill()
        message = program.meteor_p.communicate()[1].decode(errors="replace").strip()
        raise RuntimeError(f"The Java program of METEOR failed: {message or 'it wrote nothing'}.") from error
    finally:
        # After an error or Ctrl-C the lock is still held, and the destructor of `Meteor` would wait for it for ever.
        if program.lock.locked():
            program.lock.release()


def caption_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr, and METEOR if Java is installed; otherwise a warning says how to install it.

    Args:
        candidates (`Sequence[str]`): one caption per image or region.
        references (`Sequence[Sequence[str]]`): the true captions of each, at least one.

    Returns:
        `dict[str, float]`: `cider`, and `meteor` if Java is installed.

    Raises:
        ValueError: see `cider`.
        RuntimeError: see `meteor`.
    """
    scores = {"cider": cider(candidates, references)}
    try:
        scores["meteor"] = meteor(candidates, references)
    except JavaMissingError as error:
        logger.warning("METEOR is left out: %s", error)
    return scores


def _tokenized(
    candidates: Sequence[str], references: Sequence[Sequence[str]], tokenize: Tokenizer
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and candidates in the form that `pycocoevalcap` takes."""
    if len(candidates) == 0:
        raise ValueError("`candidates` is empty: there is nothing to score.")
    if len(references) != len(candidates):
        raise ValueError(
            f"`references` must have one list for each of the {len(candidates)} `candidates`, got {len(references)}."
        )
    for index, texts in enumerate(references):
        if isinstance(texts, str) or len(texts) == 0:
            raise ValueError(f"`references[{index}]` must be a list of one or more captions, got {texts!r}.")
    words = iter(tokenize([text for texts in (candidates, *references) for text in texts]))
    answers = {index: [next(words)] for index in range(len(candidates))}
    return {index: [next(words) for _ in texts] for index, texts in enumerate(references)}, answers


__all__ = ["JavaMissingError", "caption_scores", "cider", "meteor"]
