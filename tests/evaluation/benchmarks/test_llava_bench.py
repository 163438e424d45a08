"""LLaVA-Bench in the runner: answers with and without a judge, on a local server."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from transformers_groma._jsonl import read_jsonl
from transformers_groma.data.columns import text_part
from transformers_groma.endpoints import client as endpoint
from transformers_groma.evaluation.benchmark import NOT_JUDGED, Asking
from transformers_groma.evaluation.benchmarks import llava_bench, rec
from transformers_groma.evaluation.benchmarks.llava_bench import llava_bench_rows
from transformers_groma.evaluation.benchmarks.llava_bench_files import LLAVA_BENCH_FEATURES, Review
from transformers_groma.evaluation.judge import judge_of
from transformers_groma.evaluation.loading import load_benchmark_rows, load_published_rows
from transformers_groma.evaluation.runner import evaluate

from ...chat_server import ChatServer, completion, failure
from ...training.rows import training_model, training_processor
from ..samples import png, question


def rows(count: int = 3) -> Dataset:
    asked = [
        question(
            index,
            [text_part(f"What is it, {index}?")],
            source="llava_bench",
            references=["A square."],
            category=("conv", "detail", "complex")[index % 3],
        )
        | {"question_id": str(index), "context": "A red square."}
        for index in range(count)
    ]
    return Dataset.from_list(asked, features=LLAVA_BENCH_FEATURES)


@pytest.fixture(scope="module")
def model():
    return training_model(), training_processor()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)

    def number_of(body):
        return body["messages"][-1]["content"].split("What is it, ")[1].split("?")[0]

    with ChatServer(number_of, completion("8 6\nThe second one is wrong.")).running() as server:
        yield server


def run(model, folder: Path, judge=None, gallery: int = 0):
    return evaluate(
        llava_bench.BENCHMARK, *model, rows(), folder, max_new_tokens=4, progress=False, gallery=gallery, judge=judge
    )


def test_answers_come_first_and_reviews_when_there_is_a_judge(model, server, tmp_path):
    results = run(model, tmp_path)
    assert results.metrics == {} and results.complete
    answers = read_jsonl(tmp_path / "answers.jsonl")
    assert [answer["question_id"] for answer in answers] == ["0", "1", "2"]
    assert "not computed" in (tmp_path / "results.md").read_text()

    judged = run(model, tmp_path, judge_of("judge", server.url), gallery=1)
    assert judged.metrics["relative_score"] == 75.0 and judged.metrics["relative_score_detail"] == 75.0
    assert judged.asked == results.asked
    assert judged.settings["judge"] == "judge" and "judge" not in results.settings
    assert len(read_jsonl(tmp_path / "reviews.jsonl")) == 3
    assert "0.6" in (tmp_path / "gallery.html").read_text()
    run(model, tmp_path, judge_of("judge", server.url))
    assert len(read_jsonl(tmp_path / "reviews.jsonl")) == 3  # nothing is paid for twice


def test_a_judge_that_fails_leaves_no_metrics(model, server, tmp_path):
    server.replies = {str(index): [failure(500)] for index in range(3)}
    with pytest.raises(ValueError, match="judge has not finished: .*3 failed.*Start again to resume"):
        run(model, tmp_path, judge_of("judge", server.url))
    assert not json.loads((tmp_path / "results.json").read_text())["complete"]


def test_rows_need_what_a_judge_reads():
    assert len(llava_bench_rows(rows()).rows) == 3
    with pytest.raises(ValueError, match="'context'"):
        llava_bench_rows(rows().remove_columns("context"))


def test_published_files(tmp_path):
    (tmp_path / "qa90_questions.jsonl").write_text(
        json.dumps({"question_id": 0, "image": "000000000007.jpg", "text": "What is it?", "category": "conv"}) + "\n"
    )
    (tmp_path / "qa90_gpt4_answer.jsonl").write_text(json.dumps({"question_id": 0, "text": "A square."}) + "\n")
    context = {"image": "000000000007.jpg", "captions": ["A red square."], "instances": []}
    (tmp_path / "caps_boxes_coco2014_val_80.jsonl").write_text(json.dumps(context) + "\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "COCO_val2014_000000000007.jpg").write_bytes(png()["bytes"])
    found = load_published_rows(llava_bench.BENCHMARK, tmp_path, tmp_path / "photos")
    assert (found.name, found.split, found.dataset["question_id"][:]) == (str(tmp_path), "", ["0"])
    with pytest.raises(ValueError, match="has the published files of LLaVA-Bench .*Use llava-bench, and `--images`"):
        load_benchmark_rows(tmp_path)
    with pytest.raises(ValueError, match="no splits"):
        load_published_rows(llava_bench.BENCHMARK, tmp_path, tmp_path / "photos", "test")


def test_other_benchmarks_have_no_judge_and_no_published_files(model, tmp_path):
    with pytest.raises(ValueError, match="rec is scored without a judge model"):
        evaluate(rec.BENCHMARK, *model, rows(), tmp_path, judge=judge_of("judge", "http://localhost/v1"))
    with pytest.raises(ValueError, match="rec has no published files"):
        load_published_rows(rec.BENCHMARK, tmp_path, tmp_path)


def test_a_judge_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        judge_of("judge")
    with pytest.raises(ValueError, match="--max-cost needs"):
        judge_of("judge", "http://localhost/v1", max_cost=1.0)


def test_the_paper_s_metrics_and_how_questions_are_asked():
    benchmark = llava_bench.BENCHMARK
    assert {entry.metric: entry.value for entry in benchmark.published} == {
        "relative_score": 85.2,
        "relative_score_conv": 82.6,
        "relative_score_detail": 84.0,
        "relative_score_complex": 88.8,
    }
    assert benchmark.asking == Asking(task=None, max_new_tokens=1024)
    # Scores run from 0 to 10 and ratios to 100: nothing is a share that reports print times 100.
    assert not any(metric.is_share for metric in benchmark.metrics)
    assert benchmark.verdict(1.0, None, None) == NOT_JUDGED


def test_an_answer_scores_what_the_judge_gave_it():
    """The second number of a review is the model's."""
    reviewed = [{"review": Review("0", "conv", (8.0, 6.0), "")}, {"review": Review("1", "conv", None, "")}, {}]
    assert llava_bench.score_llava_bench_rows([], reviewed) == [0.6, 0.0, 0.0]
    metrics = llava_bench.score_llava_bench([], reviewed)
    assert (metrics["model_score"], metrics["reference_score"], metrics["unscored"]) == (6.0, 8.0, 1)
    assert llava_bench.score_llava_bench([], [{}]) == {}
