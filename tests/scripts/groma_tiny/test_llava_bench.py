"""LLaVA-Bench on test scenes: questions with one true answer, and a judge that counts correct words."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from scripts.groma_tiny import llava_bench
from transformers_groma.data.columns import check_row
from transformers_groma.evaluation.benchmarks.llava_bench_files import BenchQuestion, questions_of_rows
from transformers_groma.evaluation.benchmarks.llava_bench_judge import judge_messages, parse_scores, review_answers
from transformers_groma.evaluation.judge import judge_of

HUB_CONFIGS = Path(__file__).parents[3] / "hub_configs"


@pytest.fixture(scope="module")
def rows():
    return list(llava_bench.bench_rows(40))


def test_every_question_is_about_a_scene_of_its_own(rows):
    questions = questions_of_rows(rows)
    assert {question.category for question in questions} == {"conv", "detail", "complex"}
    assert len({question.image_id for question in questions}) == len(rows)
    for row in rows:
        check_row({name: value for name, value in row.items() if name not in ("question_id", "context")}, "evaluation")


def test_the_judge_reads_the_truth(rows):
    """The context has box and words of the object that a row points at, and of all that a description names."""
    pointed = [row for row in rows if row["boxes_xyxy"] and row["category"] == "conv"]
    described = [row for row in rows if row["category"] == "detail"]
    assert pointed and described
    for row in pointed:
        objects = [line.rpartition(": ") for line in row["context"].splitlines()]
        (name,) = (
            name for name, _, box in objects if json.loads(box) == [round(x / 224, 3) for x in row["boxes_xyxy"][0]]
        )
        assert set(row["references"][0].lower().rstrip(".").split()) - {"a", "an"} <= set(name.split())
    for row in described:
        names = {line.rpartition(": ")[0] for line in row["context"].splitlines()}
        phrases = re.split(", | and ", row["references"][0].removeprefix("The image shows ").rstrip("."))
        assert len(phrases) > 1 and {phrase.partition(" ")[2] for phrase in phrases} <= names


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("Yes.", "yes", 10),
        ("No.", "Yes.", 0),
        ("", "Yes.", 0),
        ("The red star.", "A red star.", 10),
        ("A red star and a red star.", "A red star.", 5.71),  # precision 2/5, recall 1
        ("large red star", "small blue star", 3.33),
    ],
)
def test_scores_count_right_words(answer, reference, score):
    assert llava_bench.word_score(answer, reference) == score


def test_the_judge_answers_as_it_is_asked():
    question = BenchQuestion("1", "7", "What is this?", "conv", "A small red star.", "small red star: [0, 0, 1, 1]")
    answer = llava_bench.judge(judge_messages(question, "A small blue star."))
    assert parse_scores(answer) == (10.0, 6.67)
    assert parse_scores(llava_bench.judge(judge_messages(question, ""))) == (10.0, 0.0)


def test_the_judge_is_asked_like_any_other(tmp_path, rows):
    questions = questions_of_rows(rows[:5])
    answers = {question.question_id: question.reference for question in questions}
    with llava_bench.running_judge() as address:
        judge = judge_of(llava_bench.JUDGE, address)
        report = review_answers(questions, answers, judge.endpoint, tmp_path / "reviews.jsonl")
    assert report.answered == len(questions) and report.failed == 0
    reviews = [json.loads(line) for line in (tmp_path / "reviews.jsonl").read_text().splitlines()]
    assert all(review["tuple"] == [10.0, 10.0] and review["judge"] == llava_bench.JUDGE for review in reviews)


def test_the_whole_run_fills_a_card(tmp_path, capsys):
    card = tmp_path / "model"
    card.mkdir()
    words = ["--output", str(tmp_path), "--rows", "6", "--card", str(card)]
    assert llava_bench.main(words) == 0
    first = (card / "README.md").read_bytes()
    metrics = {result.metric_type: result for result in ModelCard.load(card / "README.md").data.eval_results}
    assert 0 < metrics["relative_score"].metric_value <= 100
    assert metrics["relative_score"].dataset_args == {"rows": 6, "judge": llava_bench.JUDGE}
    # Once more: nothing is asked again, though the judge has another address.
    predictions = (tmp_path / "metrics" / "llava-bench" / "predictions.jsonl").stat().st_mtime_ns
    assert llava_bench.main(words) == 0
    assert (card / "README.md").read_bytes() == first
    assert (tmp_path / "metrics" / "llava-bench" / "predictions.jsonl").stat().st_mtime_ns == predictions


def test_bad_arguments_end_before_any_work(tmp_path, capsys):
    for words, message in (
        (["--rows", "0"], "must be a positive integer"),
        (["--card", str(tmp_path / "nowhere")], "is not a folder: pass a model's folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            llava_bench.main(["--output", str(tmp_path / "out"), *words])
        assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
