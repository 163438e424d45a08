"""The protocols of GLaMM's paper and of its script for region captions.

`--protocol glamm-release` asks about one box of each image, the first in the order of the rows, as the annotation
files of the script have one caption entry an image. Descriptions of other boxes of the image are not asked for, so its
metrics on Visual Genome do not compare with those of others, who take all boxes. `--protocol glamm-paper` asks about
all boxes. Both ask in the standard question of the model, let it write up to 512 tokens, and score METEOR and CIDEr.
"""

from collections.abc import Sequence
from dataclasses import replace

from datasets import Dataset

from ..benchmark import BenchmarkRows, PublishedMetric, Row
from ..predictions import Prediction
from .glamm_protocols import GLAMM_PAPER, GLAMM_RELEASE, rows_by_image
from .region_caption import BENCHMARK, CAPTION_METRICS, region_caption_rows, score_region_captions

MAX_NEW_TOKENS = 512
METRICS = tuple(metric for metric in CAPTION_METRICS if metric.name in ("meteor", "cider"))
# The tables of GLaMM's paper: METEOR and CIDEr.
PUBLISHED = tuple(
    PublishedMetric(dataset, split, name, value, model)
    for dataset, split, model, values in (
        ("refcocog", "val", "GLaMM, fine-tuned", (0.162, 1.060)),
        ("refcocog", "val", "GLaMM, zero-shot", (0.157, 1.040)),
        ("visual_genome", "test", "GLaMM, fine-tuned", (0.197, 1.805)),
        ("visual_genome", "test", "GLaMM, zero-shot", (0.170, 1.270)),
    )
    for name, value in zip(("meteor", "cider"), values, strict=True)
)


def one_box_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask about one box of each image: the first in the order of the rows.

    Args:
        dataset (`Dataset`): evaluation columns.

    Returns:
        `BenchmarkRows`: the first row of each image.

    Raises:
        ValueError: a row has no `references`.
    """
    rows = region_caption_rows(dataset).rows
    firsts = [indices[0] for indices in rows_by_image(rows).values()]
    return BenchmarkRows(dataset.select(firsts), [rows[index] for index in firsts])


def score_meteor_cider(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute the two metrics of GLaMM's script.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_region_captions`].

    Returns:
        `dict[str, float]`: `cider`, and `meteor` where Java is installed.
    """
    scores = score_region_captions(predictions, rows)
    return {metric.name: scores[metric.name] for metric in METRICS if metric.name in scores}


_ASKING = BENCHMARK.asking._replace(max_new_tokens=MAX_NEW_TOKENS, kind="region_caption")
RELEASE_BENCHMARK = replace(
    BENCHMARK,
    title="Region captioning, as GLaMM's released script measures it",
    protocol=GLAMM_RELEASE,
    prepare=one_box_rows,
    score=score_meteor_cider,
    metrics=METRICS,
    published=PUBLISHED,
    asking=_ASKING,
)
PAPER_BENCHMARK = replace(
    BENCHMARK,
    title="Region captioning, as GLaMM's paper describes it",
    protocol=GLAMM_PAPER,
    score=score_meteor_cider,
    metrics=METRICS,
    published=(),
    asking=_ASKING,
)

__all__ = ["PAPER_BENCHMARK", "RELEASE_BENCHMARK", "one_box_rows", "score_meteor_cider"]
