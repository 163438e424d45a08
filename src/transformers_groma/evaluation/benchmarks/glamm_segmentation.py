"""The protocols of GLaMM's paper and of its script for referring segmentation.

`--protocol glamm-paper` asks for every expression and scores the masks of generated answers by their cIoU, the metric
that the paper reports. It is the usual protocol of `referring_segmentation.py` with one metric.

`--protocol glamm-release` follows the script that GLaMM was released with. It takes at most three expressions of an
image, drawn at random, in one conversation whose questions and answers are drawn from lists. **Nothing is generated**:
the true answers, such as "Sure, it is [SEG].", are part of the text, and masks are read from the states that predict
each [SEG]. So no answer can lack a mask, and a later expression is read after the true answers to earlier ones. The
draws come from a seed, while those of the script have none. Rows are one a drawn expression.

A Groma cannot be given its answer, as that is the name of the region to find. It is asked about the same drawn
expressions, each in a conversation of its own and in wordings that are drawn, and its answers are generated.
"""

from collections.abc import Sequence
from dataclasses import replace

from datasets import Dataset

from ..benchmark import BenchmarkRows, PublishedMetric, Row
from ..forced_answers import ForcedSegmentationRespondent
from ..predictions import Prediction
from ..questions import asked_phrase
from ..respondents import ChatRespondent, by_family
from .glamm_protocols import GLAMM_PAPER, GLAMM_RELEASE, RELEASE_SEED, draw_expressions
from .referring_segmentation import BENCHMARK, CIOU, GIOU, rows_with_masks, score_referring_segmentation

# The table of GLaMM's paper.
PUBLISHED = tuple(
    PublishedMetric(dataset, split, "ciou", value, "GLaMM")
    for dataset, values in (
        ("refcoco", {"val": 0.795, "testA": 0.832, "testB": 0.769}),
        ("refcoco+", {"val": 0.726, "testA": 0.787, "testB": 0.646}),
        ("refcocog", {"val": 0.742, "test": 0.749}),
    )
    for split, value in values.items()
)


def glamm_release_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask at most three expressions of each image, drawn at random from a fixed seed.

    Args:
        dataset (`Dataset`): evaluation columns and `target_masks`.

    Returns:
        `BenchmarkRows`: the rows that are drawn, in their order. The asked rows have two more columns: `expressions`,
            all that were drawn for their image in the order of the conversation, and `turn`, the place of their own.

    Raises:
        ValueError: see [`referring_segmentation_rows`], or a row does not ask for a phrase.
    """
    rows = rows_with_masks(dataset)
    conversations: dict[int, tuple[list[str], int]] = {}
    for indices in draw_expressions(rows):
        expressions = [asked_phrase(index, rows[index]) for index in indices]
        conversations.update((index, (expressions, turn)) for turn, index in enumerate(indices))
    drawn = sorted(conversations)
    expressions, turns = ([conversations[index][part] for index in drawn] for part in (0, 1))
    asked = dataset.select(drawn).add_column("expressions", expressions).add_column("turn", turns)
    return BenchmarkRows(
        asked,
        [
            {**rows[index], "expressions": of_image, "turn": turn}
            for index, of_image, turn in zip(drawn, expressions, turns, strict=True)
        ],
    )


def score_ciou_giou(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute the two metrics of GLaMM's script.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_referring_segmentation`].

    Returns:
        `dict[str, float]`: `ciou` and `giou`.
    """
    scores = score_referring_segmentation(predictions, rows)
    return {metric.name: scores[metric.name] for metric in (CIOU, GIOU)}


def score_ciou(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute the metric of GLaMM's paper.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_referring_segmentation`].

    Returns:
        `dict[str, float]`: `ciou`.
    """
    return {CIOU.name: score_referring_segmentation(predictions, rows)[CIOU.name]}


RELEASE_BENCHMARK = replace(
    BENCHMARK,
    title="Referring segmentation, as GLaMM's released script measures it",
    protocol=GLAMM_RELEASE,
    prepare=glamm_release_rows,
    respondent=by_family(groma=ChatRespondent, glamm=ForcedSegmentationRespondent),
    score=score_ciou_giou,
    metrics=(CIOU, GIOU),
    published=PUBLISHED,
    asking=BENCHMARK.asking._replace(prompt_seed=RELEASE_SEED),
)
PAPER_BENCHMARK = replace(
    BENCHMARK,
    title="Referring segmentation, as GLaMM's paper describes it",
    protocol=GLAMM_PAPER,
    score=score_ciou,
    metrics=(CIOU,),
    asking=BENCHMARK.asking._replace(max_new_tokens=512, kind="rec"),
)

__all__ = ["PAPER_BENCHMARK", "RELEASE_BENCHMARK", "glamm_release_rows", "score_ciou", "score_ciou_giou"]
