"""Files of LLaVA-Bench (COCO): 90 questions about 30 photos, answers, reviews, and metrics of reviews.

https://github.com/haotian-liu/LLaVA has the published files: `qa90_questions.jsonl`, `qa90_gpt4_answer.jsonl` (the
answers that ours are compared with) and `caps_boxes_coco2014_val_80.jsonl` (what the judge reads instead of the
photo). The photos are from COCO val2014. `llava_bench_judge.py` asks the judge.

A review has two scores, one for the reference answer and one for the model's. The metric of the papers, the relative
score, is the sum of the model's scores over the sum of the reference's, x 100.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from ..._jsonl import read_jsonl, write_jsonl
from ...data.columns import EVALUATION_FEATURES, check_row, image_part, text_part
from ..predictions import Prediction
from ..questions import question_text

SOURCE = "llava_bench"
# The evaluation columns, and what the judge needs beside them.
LLAVA_BENCH_FEATURES = Features({**EVALUATION_FEATURES, "question_id": Value("string"), "context": Value("string")})
# How the published reviews write that no scores were found in the judge's answer.
NO_SCORES = (-1.0, -1.0)
# The best score that a judge may give.
MAX_SCORE = 10.0


@dataclass(frozen=True)
class BenchQuestion:
    """A question and what an answer is compared with.

    Args:
        question_id (`str`): name of the question, unique.
        image_id (`str`): the photo's file name without its ending.
        text (`str`): the question.
        category (`str`): `"conv"`, `"detail"` or `"complex"`; the paper calls them conversation, description and
            reasoning.
        reference (`str`): the answer that the model's is compared with.
        context (`str`): what the judge reads instead of the photo: captions, and objects with their boxes.
    """

    question_id: str
    image_id: str
    text: str
    category: str
    reference: str
    context: str


@dataclass(frozen=True)
class Review:
    """What the judge said about a pair of answers.

    Args:
        question_id (`str`): name of the question.
        category (`str`): category of the question; empty in review files that do not tell it.
        scores (`tuple[float, float]`, *optional*): scores of the reference and of the model's answer; `None` if the
            judge gave none.
        text (`str`): the judge's words.
    """

    question_id: str
    category: str
    scores: tuple[float, float] | None
    text: str


def read_questions(
    questions: str | os.PathLike, references: str | os.PathLike, contexts: str | os.PathLike
) -> list[BenchQuestion]:
    """Read the published files.

    Args:
        questions (`str` or `Path`): `qa90_questions.jsonl`.
        references (`str` or `Path`): `qa90_gpt4_answer.jsonl`.
        contexts (`str` or `Path`): `caps_boxes_coco2014_val_80.jsonl`; boxes in it are fractions (0..1), `xyxy`.

    Returns:
        `list[BenchQuestion]`: in the order of the questions.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: another layout, or a question without a reference answer or a context.
    """
    answers = read_answers(references)
    try:
        context_of = {entry["image"]: _context(entry) for entry in _read_published(contexts)}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{contexts} has another layout than caps_boxes_coco2014_val_80.jsonl: {error!r}.") from error
    read = []
    for entry in _read_published(questions):
        try:
            name, image = str(entry["question_id"]), entry["image"]
            if name not in answers:
                raise ValueError(f"{references} has no answer to question {name} of {questions}.")
            if image not in context_of:
                raise ValueError(f"{contexts} has no captions of {image}, which question {name} of {questions} shows.")
            read.append(
                BenchQuestion(
                    question_id=name,
                    image_id=Path(image).stem,
                    text=entry["text"],
                    category=entry["category"],
                    reference=answers[name],
                    context=context_of[image],
                )
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{questions} has another layout than qa90_questions.jsonl: {error!r}.") from error
    _check_names(read)
    return read


def questions_dataset(questions: Sequence[BenchQuestion], images: str | os.PathLike) -> Dataset:
    """Make rows of questions, which a model can answer.

    Args:
        questions (`Sequence[BenchQuestion]`): the questions.
        images (`str` or `Path`): folder of the photos, `000000441147.jpg` or, as in COCO 2014,
            `COCO_val2014_000000441147.jpg`.

    Returns:
        `Dataset`: the evaluation columns, `question_id` and `context`; the reference answer is in `references`.

    Raises:
        FileNotFoundError: a photo is missing.
        ValueError: a photo cannot be read.
    """
    rows = []
    for question in questions:
        row = {
            "image": {"bytes": _find_photo(Path(images), question.image_id).read_bytes(), "path": None},
            "image_id": question.image_id,
            "boxes_xyxy": [],
            "messages": [{"role": "user", "content": [image_part(), text_part(question.text)]}],
            "source": SOURCE,
            "references": [question.reference],
            "target_boxes_xyxy": [],
            "category": question.category,
            "question_id": question.question_id,
            "context": question.context,
        }
        check_row(row, "evaluation")
        rows.append(row)
    return Dataset.from_list(rows, features=LLAVA_BENCH_FEATURES)


def questions_of_rows(rows: Iterable[Mapping[str, Any]]) -> list[BenchQuestion]:
    """Read the questions of rows.

    Args:
        rows (`Iterable[Mapping]`): rows with `LLAVA_BENCH_FEATURES`; `image` may be left out. Any row with one
            reference answer and a context can be judged, not only those of LLaVA-Bench.

    Returns:
        `list[BenchQuestion]`: one for each row.

    Raises:
        ValueError: a column is missing, a row has no reference or several, or two rows have the same `question_id`.

    Example:
    >>> row = {
    ...     "image_id": "7", "question_id": "1", "context": "A dog runs.", "category": "conv",
    ...     "references": ["Brown."],
    ...     "messages": [{"role": "user", "content": [image_part(), text_part("What color is the dog?")]}],
    ... }
    >>> questions_of_rows([row])[0].text
    'What color is the dog?'
    """
    questions = []
    for index, row in enumerate(rows):
        missing = [name for name in ("question_id", "context", "references", "category") if name not in row]
        if missing:
            raise ValueError(
                f"Rows to be judged need the columns {', '.join(map(repr, missing))}; "
                "make them with `questions_dataset`."
            )
        if len(row["references"]) != 1:
            raise ValueError(f"Row {index} has {len(row['references'])} references; a judge compares with one.")
        questions.append(
            BenchQuestion(
                question_id=row["question_id"],
                image_id=row["image_id"],
                text=question_text(row),
                category=row["category"],
                reference=row["references"][0],
                context=row["context"],
            )
        )
    _check_names(questions)
    return questions


def read_answers(path: str | os.PathLike) -> dict[str, str]:
    """Read a file of answers: the published ones, those of `write_answers`, or those of another model.

    Args:
        path (`str` or `Path`): JSON lines with `question_id` and `text`.

    Returns:
        `dict[str, str]`: answers by the name of their question.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another layout.
    """
    try:
        return {str(entry["question_id"]): entry["text"] for entry in _read_published(path)}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of answers with `question_id` and `text`: {error!r}.") from error


def write_answers(path: str | os.PathLike, questions: Sequence[BenchQuestion], answers: Mapping[str, str]) -> None:
    """Write answers as LLaVA's scripts read them.

    Args:
        path (`str` or `Path`): the file, replaced in one step.
        questions (`Sequence[BenchQuestion]`): give the order and the categories.
        answers (`Mapping[str, str]`): answers by the name of their question.
    """
    write_jsonl(
        path,
        [
            {
                "question_id": question.question_id,
                "text": answers[question.question_id],
                "category": question.category,
            }
            for question in questions
        ],
    )


def answers_of_predictions(questions: Sequence[BenchQuestion], predictions: Iterable[Prediction]) -> dict[str, str]:
    """Get the plain text of predictions, by the names of their questions.

    Args:
        questions (`Sequence[BenchQuestion]`): the questions of the rows that were answered, in the order of the rows.
        predictions (`Iterable[Prediction]`): the answers; their `index` is the number of the row.

    Returns:
        `dict[str, str]`: answers without markup.

    Raises:
        ValueError: a prediction belongs to another dataset.

    Example:
    >>> question = BenchQuestion("1", "7", "What color is the dog?", "conv", "Brown.", "A dog runs.")
    >>> answers_of_predictions([question], [Prediction(0, "7", "It is brown.", [], "It is brown.")])
    {'1': 'It is brown.'}
    """
    answers = {}
    for prediction in predictions:
        if prediction.index >= len(questions) or questions[prediction.index].image_id != prediction.image_id:
            raise ValueError(
                f"Prediction {prediction.index} is about image {prediction.image_id!r}, which is not that of row "
                f"{prediction.index} of the questions. Pass the dataset that the predictions belong to."
            )
        answers[questions[prediction.index].question_id] = prediction.text
    return answers


def read_reviews(path: str | os.PathLike, categories: Mapping[str, str] | None = None) -> list[Review]:
    """Read a file of reviews: those of `review_answers`, of LLaVA's script, or the published ones of Vicuna.

    Args:
        path (`str` or `Path`): JSON lines with `question_id`, the pair of scores (`tuple` or `score`; negative where
            the judge gave none) and the judge's words (`content` or `text`).
        categories (`Mapping[str, str]`, *optional*): categories by the name of their question, for files without them.

    Returns:
        `list[Review]`: the last one of each question, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another layout.
    """
    reviews: dict[str, Review] = {}
    for entry in _read_published(path):
        try:
            name = str(entry["question_id"])
            first, second = entry["tuple"] if "tuple" in entry else entry["score"]
            scores = (float(first), float(second))
            text = entry["content"] if "content" in entry else entry["text"]
            category = entry.get("category") or (categories or {}).get(name, "")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a file of reviews with `question_id`, `tuple` and `content`: {error!r}."
            ) from error
        reviews[name] = Review(name, category, scores if min(scores) >= 0 else None, text)
    return list(reviews.values())


def review_scores(reviews: Iterable[Review]) -> dict[str, float]:
    """Compute the metrics of reviews.

    Reviews without scores are left out of all metrics but their own count; LLaVA's script adds them up as -1.

    Args:
        reviews (`Iterable[Review]`): reviews by one judge.

    Returns:
        `dict[str, float]`: `relative_score`, the sum of the model's scores over the sum of the reference's, x 100,
        over all reviews (the "average" or "all" of the papers), and `relative_score_<category>` over those of each
        category, where there are any; `model_score` and `reference_score`, the means; `model_score_sum` and
        `reference_score_sum`; `reviews`, how many have scores, and `unscored`, how many have none.

    Raises:
        ValueError: no review has scores, or the reference's are all 0.

    Example:
    >>> reviews = [Review("1", "conv", (8.0, 6.0), ""), Review("2", "detail", (8.0, 10.0), "")]
    >>> reviews.append(Review("3", "conv", None, ""))
    >>> scores = review_scores(reviews)
    >>> scores["relative_score"], scores["relative_score_conv"], scores["relative_score_detail"], scores["unscored"]
    (100.0, 75.0, 125.0, 1.0)
    """
    reviews = list(reviews)
    pairs: dict[str, list[tuple[float, float]]] = {}
    for review in reviews:
        if review.scores is not None:
            pairs.setdefault(review.category, []).append(review.scores)
    everything = [pair for group in pairs.values() for pair in group]
    reference, model = _sums(everything)
    if reference == 0:
        raise ValueError(
            f"Of {len(reviews)} reviews {len(everything)} have scores, and those of the reference add up to "
            f"{reference:g}: there is no relative score. See what the judge answered in the file of reviews."
        )
    metrics = {"relative_score": model / reference * 100}
    for category in sorted(pairs):
        category_reference, category_model = _sums(pairs[category])
        if category and category_reference > 0:
            metrics[f"relative_score_{category}"] = category_model / category_reference * 100
    return {
        **metrics,
        "model_score": model / len(everything),
        "reference_score": reference / len(everything),
        "model_score_sum": model,
        "reference_score_sum": reference,
        "reviews": float(len(everything)),
        "unscored": float(len(reviews) - len(everything)),
    }


def _sums(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return math.fsum(first for first, _ in pairs), math.fsum(second for _, second in pairs)


def _context(entry: Mapping[str, Any]) -> str:
    """What the judge reads instead of a photo: its captions, and its objects with their boxes."""
    objects = [f"{instance['category']}: {instance['bbox']}" for instance in entry["instances"]]
    return "\n".join(entry["captions"]) + "\n\n" + "\n".join(objects)


def _find_photo(images: Path, image_id: str) -> Path:
    names = (f"{image_id}.jpg", f"COCO_val2014_{image_id}.jpg")
    for name in names:
        if (images / name).is_file():
            return images / name
    raise FileNotFoundError(
        f"{images} holds neither {names[0]} nor {names[1]}. Pass the folder of the photos of COCO val2014 "
        "(http://images.cocodataset.org/zips/val2014.zip)."
    )


def _read_published(path: str | os.PathLike) -> list[dict[str, Any]]:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} is missing. The files of LLaVA-Bench (COCO) are in https://github.com/haotian-liu/LLaVA."
        )
    return read_jsonl(path)


def _check_names(questions: Sequence[BenchQuestion]) -> None:
    names = [question.question_id for question in questions]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"There are two questions with the `question_id` {twice!r}; each needs its own.")


__all__ = [
    "BenchQuestion",
    "LLAVA_BENCH_FEATURES",
    "Review",
    "answers_of_predictions",
    "questions_dataset",
    "questions_of_rows",
    "read_answers",
    "read_questions",
    "read_reviews",
    "review_scores",
    "write_answers",
]
