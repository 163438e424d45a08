"""LLaVA-Bench (COCO) as a benchmark of the runner: long answers, which a judge compares with reference answers.

Without a judge there are answers and no figures: `answers.jsonl`, as LLaVA's scripts read them. With one,
`reviews.jsonl` has its reviews, each written when it comes, so that none is paid for twice.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from ..benchmark import NOT_JUDGED, Benchmark, BenchmarkRows, Figure, PublishedFigure, Row, rows_without_image
from ..loading import NamedRows, load_benchmark_rows
from ..predictions import Prediction
from .llava_bench_files import (
    MAX_SCORE,
    SOURCE,
    answers_of_predictions,
    questions_dataset,
    questions_of_rows,
    read_questions,
    read_reviews,
    review_scores,
    write_answers,
)
from .region_caption import plot_nothing

# Answers are written down without the package that asks a judge.
if TYPE_CHECKING:
    from .llava_bench_judge import Judge

MAX_NEW_TOKENS = 1024
ANSWERS_NAME, REVIEWS_NAME = "answers.jsonl", "reviews.jsonl"
PUBLISHED_FILES = ("qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl")
MORE_COLUMNS = ("question_id", "context")

# The paper's names of the categories.
CATEGORIES = {"conv": "conversation", "detail": "description", "complex": "reasoning"}
FIGURES = (
    Figure("relative_score", "the judge's scores of the answers over those of the references, x 100", is_share=False),
    *(
        Figure(f"relative_score_{key}", f"the same of questions for a {name}", is_share=False)
        for key, name in CATEGORIES.items()
    ),
    Figure("model_score", "mean score of the answers, 0 to 10", is_share=False),
    Figure("reference_score", "mean score of the references, 0 to 10", is_share=False),
    Figure("reviews", "reviews with scores", is_share=False),
    Figure("unscored", "reviews without scores", is_share=False),
)
PUBLISHED = tuple(
    PublishedFigure(SOURCE, "", name, value)
    for name, value in (
        ("relative_score", 85.2),
        ("relative_score_conv", 82.6),
        ("relative_score_detail", 84.0),
        ("relative_score_complex", 88.8),
    )
)


def judged_benchmark(output_dir: Path, judge: "Judge | None" = None) -> Benchmark:
    """The benchmark; its scores come from files in the folder of the run.

    Args:
        output_dir (`Path`): folder of the run.
        judge (`Judge`, *optional*): without it answers are written down and not scored.

    Returns:
        `Benchmark`
    """
    return Benchmark(
        name="llava-bench",
        title="LLaVA-Bench (COCO)",
        schemas=("evaluation",),
        prepare=judged_rows,
        score=partial(_score, output_dir=output_dir, judge=judge),
        score_rows=partial(_score_rows, output_dir=output_dir),
        plot=plot_nothing,
        figures=FIGURES,
        published=PUBLISHED,
        max_new_tokens=MAX_NEW_TOKENS,
        more_columns=MORE_COLUMNS,
        verdict=lambda *_: NOT_JUDGED,  # a judge's score of 0 to 10 is neither right nor wrong
    )


def load_judged_rows(
    path: str | os.PathLike, images: str | os.PathLike | None = None, split: str | None = None
) -> NamedRows:
    """Questions to be judged, by the name of their dataset.

    Args:
        path (`str` or `Path`): folder of `qa90_questions.jsonl`, `qa90_gpt4_answer.jsonl` and
            `caps_boxes_coco2014_val_80.jsonl`; or without `images` a dataset of evaluation columns, `question_id` and
            `context`.
        images (`str` or `Path`, *optional*): folder of the photos of COCO val2014.
        split (`str`, *optional*): of a dataset.

    Returns:
        `NamedRows`

    Raises:
        FileNotFoundError, ValueError: see `llava_bench.read_questions`, `llava_bench.questions_dataset` and
            `loading.load_benchmark_rows`.
    """
    if images is None:
        return load_benchmark_rows(path, split)
    if split is not None:
        raise ValueError(f"The published files have no splits, got {split!r}. Leave `split` out.")
    questions = read_questions(*(Path(path) / name for name in PUBLISHED_FILES))
    return NamedRows(questions_dataset(questions, images), str(path), "")


def judged_rows(dataset: Dataset) -> BenchmarkRows:
    """All rows, each with a reference answer and what the judge reads.

    Args:
        dataset (`Dataset`): evaluation columns, `question_id` and `context`.

    Returns:
        `BenchmarkRows`

    Raises:
        ValueError: a column is missing, or a row has not one reference.
    """
    rows = rows_without_image(dataset)
    questions_of_rows(rows)
    return BenchmarkRows(dataset, rows)


def _score(
    predictions: Sequence[Prediction], rows: Sequence[Row], output_dir: Path, judge: "Judge | None"
) -> dict[str, float]:
    questions = questions_of_rows(rows)
    answers = answers_of_predictions(questions, predictions)
    write_answers(output_dir / ANSWERS_NAME, questions, answers)
    if judge is None:
        return {}
    report = judge.review(questions, answers, output_dir / REVIEWS_NAME)
    if report.answered < report.total:
        raise ValueError(f"The judge is not done: {report.summary('answers')}. Start again to go on.")
    asked = {question.question_id for question in questions}
    reviews = [review for review in read_reviews(output_dir / REVIEWS_NAME) if review.question_id in asked]
    return review_scores(reviews)


def _score_rows(predictions: Sequence[Prediction], rows: Sequence[Mapping], output_dir: Path) -> list[float]:
    """The judge's scores as shares of the best one; 0 where there is none."""
    path = output_dir / REVIEWS_NAME
    scores = {review.question_id: review.scores for review in (read_reviews(path) if path.exists() else [])}
    found = [scores.get(row["question_id"]) for row in rows]
    return [0.0 if pair is None else pair[1] / MAX_SCORE for pair in found]


__all__ = ["judged_benchmark", "judged_rows", "load_judged_rows"]
