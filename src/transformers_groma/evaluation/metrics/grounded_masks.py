"""Metrics of phrases that are tied to masks, as in grounded conversation generation (GCG).

Masks are bool arrays `(H, W)` or COCO's RLE, see `mask_lists.py`. The similarity of phrases is any function of two
lists of texts; see `phrase_words.token_f1`, and `text_encoders.py` for those of models.
"""

import reprlib
from collections.abc import Callable, Sequence

import numpy as np

from ...box_arrays import IOU_THRESHOLD
from ...masks import mask_iou
from .box_lists import check_rows
from .mask_lists import Mask, check_list, check_same_size, decoded
from .phrase_words import token_f1

# From this similarity on two phrases say the same, as in GLaMM's evaluation.
SIMILARITY_THRESHOLD = 0.5
# A phrase and its mask; `None` where the answer does not point at anything.
MaskedPhrase = tuple[str, Mask | None]
# The phrases of pairs, firsts and seconds, to how alike those of each pair are, up to 1.
Similarity = Callable[[Sequence[str], Sequence[str]], np.ndarray]


def grounded_mask_scores(
    predicted: Sequence[Sequence[MaskedPhrase]],
    targets: Sequence[Sequence[MaskedPhrase]],
    similarity: Similarity = token_f1,
) -> dict[str, float]:
    """Score the masks and phrases of answers against true ones.

    Masks of an answer and of the truth are paired one to one: first the two with the highest IoU, then of the others
    the two with the highest, and so on.

    Args:
        predicted (`Sequence`, one entry an answer): its phrases, each with its mask; `None` for a phrase without one.
        targets (`Sequence`, one entry an answer): the true phrases, each with a mask.
        similarity (`Callable`): how alike the phrases of pairs are. By default the F1 of their words, which knows no
            meanings and finds less than an encoder of sentences.

    Returns:
        `dict[str, float]`:

        - `miou`: GLaMM's; the mean IoU of the pairs whose IoU is above 0, 0 without any, then the mean over answers.
          Masks without a partner cost nothing.
        - `target_miou`: the mean over all true masks of the IoU with the partner, 0 without one.
        - `mask_recall`: as GLaMM's paper defines it: the share of true phrases that are found. A pair whose IoU is at
          least 0.5 finds its phrase if the two phrases have a similarity of at least 0.5.
        - `glamm_release_mask_recall`: what GLaMM's released script computes. It goes through the pairs by falling IoU
          and ends the image at the first that fails, also where only its words do. And it takes the phrase of the
          n-th mask for the n-th phrase, so a phrase without a mask gives its words to the next mask.

    Raises:
        ValueError: nothing to score, not one entry of `targets` for each answer, something that is not a phrase, a
            true phrase without a mask, something that is not a mask, or masks of different sizes in a row.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.grounded_masks import grounded_mask_scores
    >>> left, right = np.array([[True, False]]), np.array([[False, True]])
    >>> said = [("a red ball", left), ("a dog", right)]
    >>> scores = grounded_mask_scores([said], [[("a cube", left), ("the dog", right)]])
    >>> scores["miou"], scores["mask_recall"], scores["glamm_release_mask_recall"]
    (1.0, 0.5, 0.0)
    """
    check_rows("targets", targets, len(predicted), of="predicted")
    mean_ious, paired, wanted = [], 0.0, 0
    # Phrases whose masks are a pair, by the paper and by the released script, each with its row.
    by_paper: list[tuple[int, str, str]] = []
    by_release: list[tuple[int, str, str]] = []
    for row, (answer, truth) in enumerate(zip(predicted, targets, strict=True)):
        names = f"predicted[{row}]", f"targets[{row}]"
        _check_phrases(names, answer, truth)
        masked = [(text, mask) for text, mask in answer if mask is not None]
        for number, (_, mask) in enumerate(truth):
            if mask is None:
                raise ValueError(f"`{names[1]}[{number}]` has no mask: there is nothing to compare with.")
        ious = pair_ious(names, [mask for _, mask in masked], [mask for _, mask in truth])
        found = greedy_pairs(ious)
        values = [ious[pair] for pair in found]
        mean_ious.append(np.mean(values) if values else 0.0)
        paired += sum(values)
        wanted += len(truth)
        agree = ious >= IOU_THRESHOLD
        by_paper += [(row, masked[said][0], truth[true][0]) for said, true in found if agree[said, true]]
        # The script has true masks in rows, which decides between equal IoUs.
        by_release += [
            (row, answer[said][0], truth[true][0]) for true, said in greedy_pairs(ious.T) if agree[said, true]
        ]
    alike = _alike([phrases for _, *phrases in by_paper + by_release], similarity)
    hits, release_hits, ended = alike[: len(by_paper)].sum(), 0, set()
    for (row, *_), found_words in zip(by_release, alike[len(by_paper) :], strict=True):
        if not found_words:
            ended.add(row)
        release_hits += row not in ended
    return {
        "miou": float(np.mean(mean_ious)),
        "target_miou": float(paired / max(wanted, 1)),
        "mask_recall": float(hits / max(wanted, 1)),
        "glamm_release_mask_recall": release_hits / max(wanted, 1),
    }


def pair_ious(names: tuple[str, str], first: Sequence[Mask], second: Sequence[Mask]) -> np.ndarray:
    """IoU of each mask with each mask.

    Args:
        names (`tuple[str, str]`): how an error names the two lists.
        first, second (`Sequence` of masks): n and m masks of one image.

    Returns:
        `np.ndarray` of shape `(n, m)`, float64, 0..1; 0 where both masks are empty.

    Raises:
        ValueError: something that is not a mask, or masks of different sizes.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.grounded_masks import pair_ious
    >>> whole, half = np.ones((2, 2), bool), np.array([[True, False], [True, False]])
    >>> pair_ious(("predicted", "targets"), [half], [half, whole]).tolist()
    [[1.0, 0.5]]
    """
    pixels = []
    for name, masks in zip(names, (first, second), strict=True):
        check_list(name, masks)
        for number, mask in enumerate(masks):
            pixels.append(decoded(f"{name}[{number}]", mask))
            check_same_size(f"{name}[{number}]", pixels[-1], "the first mask of the row", pixels[0])
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    return mask_iou(np.stack(pixels[: len(first)]), np.stack(pixels[len(first) :]))


def greedy_pairs(ious: np.ndarray) -> list[tuple[int, int]]:
    """Pair rows with columns one to one, the highest IoU first, as long as it is above 0.

    Args:
        ious (`np.ndarray` of shape `(n, m)`): IoU of each with each.

    Returns:
        `list[tuple[int, int]]`: pairs by falling IoU; of equal ones, the first row and then the first column.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.grounded_masks import greedy_pairs
    >>> greedy_pairs(np.array([[0.6, 0.9], [0.5, 0.8]]))
    [(0, 1), (1, 0)]
    """
    left, pairs = ious.copy(), []
    while left.size and left.max() > 0:
        row, column = (int(index) for index in np.unravel_index(left.argmax(), left.shape))
        pairs.append((row, column))
        left[row], left[:, column] = 0, 0
    return pairs


def _check_phrases(names: tuple[str, str], *lists: Sequence[MaskedPhrase]) -> None:
    """Raise ValueError at the first thing that is not a text with its mask. Masks are checked where they are read."""
    for name, phrases in zip(names, lists, strict=True):
        for number, phrase in enumerate(phrases):
            if not isinstance(phrase, (tuple, list)) or len(phrase) != 2 or not isinstance(phrase[0], str):
                raise ValueError(
                    f"`{name}[{number}]` must be a phrase, (text, mask), got {reprlib.repr(phrase)}. A phrase without "
                    "words has the text ''."
                )


def _alike(pairs: Sequence[Sequence[str]], similarity: Similarity) -> np.ndarray:
    """Which pairs of phrases say the same, bool `(pairs,)`."""
    if not pairs:
        return np.zeros(0, bool)
    first, second = zip(*pairs, strict=True)
    return np.asarray(similarity(first, second)) >= SIMILARITY_THRESHOLD


__all__ = ["MaskedPhrase", "SIMILARITY_THRESHOLD", "Similarity", "greedy_pairs", "grounded_mask_scores", "pair_ious"]
