"""LLaVA-Bench (COCO): long answers, compared with reference answers by a judge model.

Without a judge there are answers and no metrics: `answers.jsonl`, as LLaVA's scripts read them. With one,
`reviews.jsonl` has its reviews, each written when it comes, so that none is paid for twice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from ...model_files import ANSWERING_MODELS
from ..benchmark import (
    NOT_JUDGED,
    Asking,
    Benchmark,
    BenchmarkRows,
    Metric,
    PublishedMetric,
    Row,
    rows_without_image,
)
from ..predictions import Prediction
from ..respondents import ChatRespondent
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

if TYPE_CHECKING:
    from ..judge import Judge

MAX_NEW_TOKENS = 1024
ANSWERS_NAME, REVIEWS_NAME = "answers.jsonl", "reviews.jsonl"
PUBLISHED_FILES = ("qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl")

# The paper's names of the categories.
CATEGORIES = {"conv": "conversation", "detail": "description", "complex": "reasoning"}
METRICS = (
    Metric("relative_score", "the judge's scores of the answers over those of the references, x 100", is_share=False),
    *(
        Metric(f"relative_score_{key}", f"the same of questions for a {name}", is_share=False)
        for key, name in CATEGORIES.items()
    ),
    Metric("model_score", "mean score of the answers, 0 to 10", is_share=False),
    Metric("reference_score", "mean score of the references, 0 to 10", is_share=False),
    Metric("reviews", "reviews with scores", is_share=False),
    Metric("unscored", "reviews without scores", is_share=False),
)
PUBLISHED = tuple(
    PublishedMetric(SOURCE, "", name, value)
    for name, value in (
        ("relative_score", 85.2),
        ("relative_score_conv", 82.6),
        ("relative_score_detail", 84.0),
        ("relative_score_complex", 88.8),
    )
)


def llava_bench_rows(dataset: Dataset) -> BenchmarkRows:
    """Ask all rows, and check that each has a reference answer and what the judge model reads.

    Args:
        dataset (`Dataset`): evaluation columns, `question_id` and `context`.

    Returns:
        `BenchmarkRows`: the rows as they are.

    Raises:
        ValueError: a column is missing, or a row has no reference or several.
    """
    rows = rows_without_image(dataset)
    questions_of_rows(rows)
    return BenchmarkRows(dataset, rows)


def read_published(files: Sequence[Path], images: Path) -> Dataset:
    """Make rows of the published files.

    Args:
        files (`Sequence[Path]`): the files named in `PUBLISHED_FILES`, in that order.
        images (`Path`): folder of the photos of COCO val2014.

    Returns:
        `Dataset`: evaluation columns, `question_id` and `context`.

    Raises:
        FileNotFoundError, ValueError: see [`read_questions`] and [`questions_dataset`].
    """
    return questions_dataset(read_questions(*files), images)


def review(
    predictions: Sequence[Prediction], rows: Sequence[Row], output_dir: Path, judge: "Judge | None"
) -> list[Row]:
    """Write the answers down and have the judge model compare them with the references.

    Args:
        predictions (`Sequence[Prediction]`): the answers.
        rows (`Sequence[Mapping]`): rows of [`llava_bench_rows`], one for each answer.
        output_dir (`Path`): folder of the run, for `answers.jsonl` and `reviews.jsonl`.
        judge (`Judge`, *optional*): the judge model; without one answers are only written down.

    Returns:
        `list[Mapping]`: the rows, with a `Review` in `review` if there is a judge.

    Raises:
        ValueError: not all answers got a review; the reviews so far are kept.
        EndpointError: see `llava_bench_judge.review_answers`.
    """
    questions = questions_of_rows(rows)
    answers = answers_of_predictions(questions, predictions)
    write_answers(output_dir / ANSWERS_NAME, questions, answers)
    if judge is None:
        return list(rows)
    # Only here, because asking a judge needs the `openai` package and writing answers does not.
    from .llava_bench_judge import review_answers

    report = review_answers(
        questions,
        answers,
        judge.endpoint,
        output_dir / REVIEWS_NAME,
        concurrency=judge.concurrency,
        requests_per_minute=judge.requests_per_minute,
        budget=judge.budget,
    )
    if report.answered < report.total:
        raise ValueError(f"The judge has not finished: {report.summary('answers')}. Start again to resume.")
    reviews = {found.question_id: found for found in read_reviews(output_dir / REVIEWS_NAME)}
    return [{**row, "review": reviews[row["question_id"]]} for row in rows]


def score_llava_bench(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics from the reviews of answers.

    Args:
        predictions (`Sequence[Prediction]`): not used, as the reviews tell all.
        rows (`Sequence[Mapping]`): rows of [`review`].

    Returns:
        `dict[str, float]`: those of `llava_bench_files.review_scores`; none if there was no judge.
    """
    reviews = [row["review"] for row in rows if "review" in row]
    return review_scores(reviews) if reviews else {}


def score_llava_bench_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each answer by the share of the best score that the judge gave it.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_llava_bench`].

    Returns:
        `list[float]`: one an answer; 0 if it has no score.
    """
    scores = [row["review"].scores if "review" in row else None for row in rows]
    return [0.0 if pair is None else pair[1] / MAX_SCORE for pair in scores]


BENCHMARK = Benchmark(
    name="llava-bench",
    title="LLaVA-Bench (COCO)",
    schemas=("evaluation",),
    prepare=llava_bench_rows,
    respondent=ChatRespondent,
    model_types=ANSWERING_MODELS,
    score=score_llava_bench,
    score_rows=score_llava_bench_rows,
    metrics=METRICS,
    published=PUBLISHED,
    asking=Asking(max_new_tokens=MAX_NEW_TOKENS),
    more_columns=("question_id", "context"),
    published_files=PUBLISHED_FILES,
    read_published=read_published,
    review=review,
    verdict=lambda *_: NOT_JUDGED,  # a judge's score of 0 to 10 is neither right nor wrong
)

__all__ = [
    "BENCHMARK",
    "llava_bench_rows",
    "read_published",
    "review",
    "score_llava_bench",
    "score_llava_bench_rows",
]
