"""The protocols of GLaMM's paper and of its script for grounded conversation generation (GCG).

`--protocol glamm-release` is what the released script does: every image is asked in the standard question of the
model, an answer has up to 512 tokens, all masks have a score of 1 in the AP, masks without a partner cost no mIoU, and
the mask recall of an image ends at the first pair that fails. `--protocol glamm-paper` asks the same and scores what
the paper describes: the mask recall counts every pair. Metrics have the names that the paper gives them.

The usual protocol, `grounded_conversation.py`, lets rows keep their own question, and has both kinds of metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath

from ..benchmark import Benchmark, Metric, PublishedMetric, Row
from ..metrics.grounded_masks import Similarity
from ..metrics.phrase_words import token_f1
from ..predictions import Prediction
from . import grounded_conversation
from .glamm_protocols import GLAMM_PAPER, GLAMM_RELEASE
from .grounded_conversation import RELEASE_PREFIX, TOKEN_F1, score_grounded_conversations

# The metrics of a protocol, and what the usual one calls them. The paper names no scores for the AP, so masks have
# those of the script.
SOURCES: Mapping[str, Mapping[str, str]] = {
    GLAMM_RELEASE: {
        "meteor": "meteor",
        "cider": "cider",
        "ap@0.5": f"{RELEASE_PREFIX}ap@0.5",
        "miou": "miou",
        "mask_recall": f"{RELEASE_PREFIX}mask_recall",
    },
    GLAMM_PAPER: {
        "meteor": "meteor",
        "cider": "cider",
        "ap@0.5": f"{RELEASE_PREFIX}ap@0.5",
        "miou": "miou",
        "mask_recall": "mask_recall",
    },
}
TITLES = {
    GLAMM_RELEASE: "Grounded conversation generation, as GLaMM's released script measures it",
    GLAMM_PAPER: "Grounded conversation generation, as GLaMM's paper describes it",
}
# What says how alike phrases are in the script.
PUBLISHED_ENCODER = "bert-base-uncased"
# Values of the table that GLaMM's paper has for val and test.
PUBLISHED_VALUES = {
    "GLaMM": {
        "meteor": (0.162, 0.158),
        "cider": (0.472, 0.435),
        "ap@0.5": (0.308, 0.292),
        "miou": (0.663, 0.656),
        "mask_recall": (0.418, 0.408),
    },
    "GLaMM without the 1K human captions": {
        "meteor": (0.152, 0.146),
        "cider": (0.431, 0.379),
        "ap@0.5": (0.289, 0.272),
        "miou": (0.658, 0.646),
        "mask_recall": (0.396, 0.380),
    },
}


def published_by(protocol: str, similarity: str) -> tuple[PublishedMetric, ...]:
    """GLaMM's published metrics, as far as a protocol computes them as the authors did.

    Args:
        protocol (`str`): `"glamm-release"` or `"glamm-paper"`; the mask recall of the second is another one than that
            of the script.
        similarity (`str`): name of the similarity of phrases; the published mask recall is by that of
            `bert-base-uncased` alone.

    Returns:
        `tuple[PublishedMetric, ...]`
    """
    is_alike = PurePath(similarity).name == PUBLISHED_ENCODER
    return tuple(
        PublishedMetric("gcg", split, name, value, model)
        for model, values in PUBLISHED_VALUES.items()
        for name, of_splits in values.items()
        if SOURCES[protocol][name] == SOURCES[GLAMM_RELEASE][name] and (is_alike or name != "mask_recall")
        for split, value in zip(("val", "test"), of_splits, strict=True)
    )


def score_by_protocol(
    predictions: Sequence[Prediction], rows: Sequence[Row], protocol: str, similarity: Similarity = token_f1
) -> dict[str, float]:
    """Compute the metrics of a protocol.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_grounded_conversations`].
        protocol (`str`): `"glamm-release"` or `"glamm-paper"`.
        similarity (`Callable`): how alike the phrases of pairs are.

    Returns:
        `dict[str, float]`: `meteor` (where Java is installed), `cider`, `ap@0.5`, `miou`, `mask_recall`.
    """
    scores = score_grounded_conversations(predictions, rows, similarity)
    return {name: scores[usual] for name, usual in SOURCES[protocol].items() if usual in scores}


def benchmark_with(similarity: Similarity, name: str, protocol: str) -> Benchmark:
    """The benchmark of a protocol with a similarity of phrases of your own.

    Args:
        similarity (`Callable`), name (`str`): see [`grounded_conversation.benchmark_with`].
        protocol (`str`): `"glamm-release"` or `"glamm-paper"`.

    Returns:
        `Benchmark`
    """
    usual = grounded_conversation.benchmark_with(similarity, name)
    meanings = {metric.name: metric.meaning for metric in usual.metrics}
    return replace(
        usual,
        protocol=protocol,
        title=TITLES[protocol],
        score=partial(score_by_protocol, protocol=protocol, similarity=similarity),
        metrics=tuple(Metric(name, meanings[source]) for name, source in SOURCES[protocol].items()),
        published=published_by(protocol, name),
        asking=usual.asking._replace(kind="grounded_description"),
        with_similarity=partial(benchmark_with, protocol=protocol),
    )


RELEASE_BENCHMARK, PAPER_BENCHMARK = (
    benchmark_with(token_f1, TOKEN_F1, protocol) for protocol in (GLAMM_RELEASE, GLAMM_PAPER)
)

__all__ = ["PAPER_BENCHMARK", "RELEASE_BENCHMARK", "benchmark_with", "published_by", "score_by_protocol"]
