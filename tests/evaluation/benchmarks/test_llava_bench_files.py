"""LLaVA-Bench: published files, rows, and the metrics of reviews."""

import json
from pathlib import Path

import pytest

from transformers_groma._jsonl import write_jsonl
from transformers_groma.data.columns import check_dataset
from transformers_groma.evaluation.benchmarks.llava_bench_files import (
    BenchQuestion,
    Review,
    answers_of_predictions,
    questions_dataset,
    questions_of_rows,
    read_answers,
    read_questions,
    read_reviews,
    review_scores,
    write_answers,
)
from transformers_groma.evaluation.predictions import Prediction

from ...processing.samples import real_sample, write_jpeg

QUESTIONS = [
    {"question_id": 3, "image": "000000000007.jpg", "text": "What color is the dog?", "category": "conv"},
    {"question_id": 4, "image": "000000000007.jpg", "text": "Describe the image.", "category": "detail"},
]
REFERENCES = [
    {"question_id": 4, "text": "A dog runs over grass.", "category": "detail"},
    {"question_id": 3, "text": "Brown.", "category": "conv"},
]
CONTEXTS = [
    {
        "id": "000000000007",
        "image": "000000000007.jpg",
        "captions": ["A dog runs.", "A brown dog."],
        "instances": [{"category": "dog", "bbox": [0.1, 0.25, 0.5, 1.0]}, {"category": "cat", "bbox": [0, 0.5, 1, 1]}],
    }
]


def write_published(folder: Path, **changes) -> list[Path]:
    files = {"questions": QUESTIONS, "references": REFERENCES, "contexts": CONTEXTS} | changes
    for name, records in files.items():
        write_jsonl(folder / f"{name}.jsonl", records)
    return [folder / f"{name}.jsonl" for name in ("questions", "references", "contexts")]


def test_read_questions(tmp_path):
    first, second = read_questions(*write_published(tmp_path))
    assert first == BenchQuestion(
        question_id="3",
        image_id="000000000007",
        text="What color is the dog?",
        category="conv",
        reference="Brown.",
        context="A dog runs.\nA brown dog.\n\ndog: [0.1, 0.25, 0.5, 1.0]\ncat: [0, 0.5, 1, 1]",
    )
    assert (second.reference, second.context) == ("A dog runs over grass.", first.context)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": REFERENCES[:1]}, "references.jsonl has no answer to question 3"),
        ({"contexts": []}, "contexts.jsonl has no captions of 000000000007.jpg, which question 3"),
        ({"contexts": [{"image": "000000000007.jpg"}]}, "contexts.jsonl has another layout .*'instances'"),
        ({"questions": [{"id": 1}]}, "questions.jsonl has another layout .*'question_id'"),
        ({"references": [[1, 2]]}, "references.jsonl, line 1 is not a JSON object"),
        ({"references": [{"question_id": 3}]}, "references.jsonl is not a file of answers"),
        ({"questions": QUESTIONS[:1] * 2}, "two questions with the `question_id` '3'"),
    ],
)
def test_files_of_another_layout(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_questions(*write_published(tmp_path, **changes))


def test_missing_files(tmp_path):
    paths = write_published(tmp_path)
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"references\.jsonl is missing. The files of LLaVA-Bench"):
        read_questions(*paths)


@pytest.mark.parametrize("name", ["000000000007.jpg", "COCO_val2014_000000000007.jpg"])
def test_rows_and_back(tmp_path, name):
    questions = read_questions(*write_published(tmp_path))
    with pytest.raises(FileNotFoundError, match="neither 000000000007.jpg nor COCO_val2014_000000000007.jpg"):
        questions_dataset(questions, tmp_path / "photos")
    write_jpeg(tmp_path / "photos" / name, 40, 30)
    dataset = questions_dataset(questions, tmp_path / "photos")
    assert check_dataset(dataset, "evaluation") == 2
    assert dataset[0]["image"].size == (40, 30)
    assert dataset[0]["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "image", "text": "", "boxes": []},
                {"type": "text", "text": "What color is the dog?", "boxes": []},
            ],
        }
    ]
    assert questions_of_rows(dataset.remove_columns("image")) == questions
    # Parquet keeps what the judge needs.
    dataset.to_parquet(str(tmp_path / "rows.parquet"))
    assert questions_of_rows(type(dataset).from_parquet(str(tmp_path / "rows.parquet"))) == questions


def test_rows_that_cannot_be_judged():
    row = {"image_id": "7", "messages": [], "references": ["a", "b"], "category": "conv"}
    with pytest.raises(ValueError, match="need the columns 'question_id', 'context'"):
        questions_of_rows([row])
    with pytest.raises(ValueError, match="Row 0 has 2 references; a judge compares with one"):
        questions_of_rows([row | {"question_id": "1", "context": ""}])


def test_answers(tmp_path):
    questions = read_questions(*write_published(tmp_path))
    predictions = [
        Prediction(1, "000000000007", "A dog.", [], "<p>A dog</p> <roi><r1></roi>."),
        Prediction(0, "000000000007", "Brown.", [], "Brown."),
    ]
    answers = answers_of_predictions(questions, predictions)
    assert answers == {"4": "A dog.", "3": "Brown."}
    write_answers(tmp_path / "answers.jsonl", questions, answers)
    assert read_answers(tmp_path / "answers.jsonl") == answers
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0]) == {
        "question_id": "3",
        "text": "Brown.",
        "category": "conv",
    }
    for wrong in (Prediction(0, "8", "", [], ""), Prediction(2, "000000000007", "", [], "")):
        with pytest.raises(ValueError, match=f"Prediction {wrong.index} is about image '{wrong.image_id}'"):
            answers_of_predictions(questions, [wrong])


def test_relative_scores():
    """The ratio of sums, not the mean of ratios."""
    pairs = {"conv": [(8, 4), (2, 4)], "detail": [(10, 10)], "complex": [(5, 9), None]}
    reviews = [
        Review(f"{category}{index}", category, pair, "")
        for category, group in pairs.items()
        for index, pair in enumerate(group)
    ]
    assert review_scores(reviews) == {
        "relative_score": pytest.approx(100 * 27 / 25),
        "relative_score_conv": pytest.approx(80.0),
        "relative_score_detail": pytest.approx(100.0),
        "relative_score_complex": pytest.approx(180.0),
        "model_score": pytest.approx(6.75),
        "reference_score": pytest.approx(6.25),
        "model_score_sum": 27.0,
        "reference_score_sum": 25.0,
        "reviews": 4.0,
        "unscored": 1.0,
    }
    with pytest.raises(ValueError, match="Of 1 reviews 0 have scores"):
        review_scores([Review("1", "conv", None, "no")])
    with pytest.raises(ValueError, match="Of 1 reviews 1 have scores, and those of the reference add up to 0"):
        review_scores([Review("1", "conv", (0.0, 5.0), "0 5")])


def test_review_files(tmp_path):
    """LLaVA's layout, Vicuna's, pairs of -1, and a second review of a question."""
    path = tmp_path / "reviews.jsonl"
    path.write_text(
        '{"question_id": 0, "category": "conv", "content": "8 7", "tuple": [8.0, 7.0]}\n'
        '{"question_id": 1, "category": "detail", "content": "no", "tuple": [-1, -1]}\n'
        '{"question_id": 2, "text": "9 6.5", "score": [9, 6.5]}\n'
        '{"question_id": 0, "category": "conv", "content": "5 7", "tuple": [5.0, 7.0]}'
    )
    assert read_reviews(path, {"2": "generic", "1": "other"}) == [
        Review("0", "conv", (5.0, 7.0), "5 7"),
        Review("1", "detail", None, "no"),
        Review("2", "generic", (9.0, 6.5), "9 6.5"),
    ]
    assert read_reviews(path)[2].category == ""
    assert "relative_score_" not in review_scores(read_reviews(path)[2:])
    for line in ('{"question_id": 1}', '{"question_id": 1, "content": "8", "tuple": [8]}'):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"reviews\.jsonl is not a file of reviews"):
            read_reviews(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"reviews\.jsonl, line 1 is not a JSON object"):
        read_reviews(path)


@pytest.mark.parametrize(
    ("name", "sums", "relative"),
    [
        ("llama-13b", (513.0, 694.0), 135.3),
        ("alpaca-13b", (583.0, 704.0), 120.8),
        ("bard", (664.0, 655.5), 98.7),
        ("gpt35", (693.0, 638.0), 92.1),
    ],
)
def test_published_reviews(name, sums, relative):
    """80 public reviews by GPT-4 each; the metrics are in the manifest of the samples."""
    folder = real_sample("gpt_review_vicuna80")
    categories = {
        str(question["question_id"]): question["category"]
        for question in map(json.loads, (folder / "question.jsonl").read_text().splitlines())
    }
    reviews = read_reviews(folder / "review" / f"review_{name}_vicuna-13b.jsonl", categories)
    metrics = review_scores(reviews)
    assert (metrics["reference_score_sum"], metrics["model_score_sum"]) == sums
    assert (metrics["reference_score"], metrics["model_score"]) == (sums[0] / 80, sums[1] / 80)
    assert round(metrics["relative_score"], 1) == relative
    assert (metrics["reviews"], metrics["unscored"]) == (80, 0)
    assert {key for key in metrics if key.startswith("relative_score_")} == {
        f"relative_score_{category}" for category in set(categories.values())
    }


def test_published_questions():
    folder = real_sample("llava_bench_coco")
    questions = read_questions(
        folder / "qa90_questions.jsonl",
        folder / "qa90_gpt4_answer.jsonl",
        folder / "caps_boxes_coco2014_val_80.jsonl",
    )
    assert [question.question_id for question in questions] == [str(number) for number in range(90)]
    assert [question.category for question in questions] == ["conv", "detail", "complex"] * 30
    assert len({question.image_id for question in questions}) == 30
    assert questions[0].context.endswith(
        "suitcase: [0.167, 0.025, 0.989, 0.445]\nsuitcase: [0.002, 0.31, 0.994, 0.996]"
    )
    assert questions[0].reference.startswith("The colors of the two suitcases")
