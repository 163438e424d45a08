"""The judge: its prompt, its scores, one request per answer, against a local server."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from transformers_groma._jsonl import read_jsonl
from transformers_groma.endpoints import client as endpoint
from transformers_groma.endpoints.asking import Budget
from transformers_groma.endpoints.client import EndpointError
from transformers_groma.endpoints.endpoint import Endpoint
from transformers_groma.evaluation.benchmarks.llava_bench_files import BenchQuestion, read_reviews, review_scores
from transformers_groma.evaluation.benchmarks.llava_bench_judge import (
    JUDGE_PROMPT,
    JUDGE_SYSTEM_PROMPT,
    judge_messages,
    parse_scores,
    review_answers,
)
from transformers_groma.evaluation.judge import JUDGE_OPTIONS

from ...chat_server import ChatServer, completion, failure
from ...processing.samples import real_sample

CATEGORIES = ("conv", "detail", "complex")
QUESTIONS = [
    BenchQuestion(
        str(index), f"{index // 3:012}", f"Question {index}?", CATEGORIES[index % 3], f"Yes {index}.", "A dog."
    )
    for index in range(6)
]
ANSWERS = {question.question_id: f"No {question.question_id}." for question in QUESTIONS}


def number_of(body: Mapping[str, Any]) -> str:
    return body["messages"][-1]["content"].split("[Question]\nQuestion ")[1].split("?")[0]


@pytest.fixture
def server(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with ChatServer(number_of, completion("8 6\nThe second one is wrong.")).running() as server:
        yield server


def judge(server: ChatServer, **changes) -> Endpoint:
    return Endpoint(**{"model": "judge", "base_url": server.url, "max_retries": 1, "options": JUDGE_OPTIONS} | changes)


def test_prompt():
    question = BenchQuestion(
        "1", "7", "What is it?", "conv", "A dog.", "Cap one.\nCap two.\n\ndog: [0.1, 0.2, 0.3, 0.4]"
    )
    system, user = judge_messages(question, "A cat.")
    assert system == {"role": "system", "content": JUDGE_SYSTEM_PROMPT}
    assert user["role"] == "user"
    assert user["content"] == (
        "[Context]\nCap one.\nCap two.\n\ndog: [0.1, 0.2, 0.3, 0.4]\n\n[Question]\nWhat is it?\n\n"
        "[Assistant 1]\nA dog.\n\n[End of Assistant 1]\n\n[Assistant 2]\nA cat.\n\n[End of Assistant 2]\n\n"
        f"[System]\n{JUDGE_PROMPT}\n\n"
    )


def test_words_of_the_protocol():
    folder = real_sample("gpt_review_vicuna80")
    rules = json.loads((folder / "rule.json").read_text())
    assert {(rules[category]["role"], rules[category]["prompt"]) for category in CATEGORIES} == {
        ("Assistant", JUDGE_PROMPT)
    }
    systems = {prompt["system_prompt"] for prompt in read_jsonl(folder / "prompt.jsonl")}
    assert systems == {JUDGE_SYSTEM_PROMPT}
    assert all(reviewer["metadata"] == JUDGE_OPTIONS for reviewer in read_jsonl(folder / "reviewer.jsonl"))


@pytest.mark.parametrize(
    "text",
    [
        "8 9.5",
        "8 9.5\nBoth are good.",
        "\n  8, 9.5  \r\nBoth are good.",
        "8,9.5",
        "8/10 9.5/10",
        "8 out of 10, 9.5 out of 10",
        "(8, 9.5)",
        "[8.0, 9.50].",
        "8 and 9.5",
        "**8 9.5**",
        "Scores: 8 9.5",
        "Final score: (8, 9.5)",
        "Assistant 1: 8, Assistant 2: 9.5",
        "Assistant 1: 8/10\nAssistant 2: 9.5/10\n\nThe first is 3 words long.",
        "### Assistant 1: 8 (short)\n### Assistant 2: 9.5 (long)",
        "- **Assistant 1's score**: 8\n- **Assistant 2's score**: 9.5",
        "Score for Assistant 1: 8\nScore for Assistant 2: 9.5",
        "Sure, here is my feedback:\n\n8 9.5\n\nBoth are good.",
        "<think>First I thought\n5 5\nbut no.</think>\n\n8 9.5",
    ],
)
def test_scores(text):
    assert parse_scores(text) == (8.0, 9.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "8 9 10",
        "-1 8",
        "80 95",
        "8 11",
        "I rate them 8 and 9.",
        "I cannot rate these 2 answers, as 1 is empty.",
        "Assistant 1: 8",
        "Assistant 1: 100\nAssistant 2: 9",
        "dog: [0.1, 0.2, 0.3, 0.4]",
        "1. 2. 3.",
    ],
)
def test_no_scores(text):
    assert parse_scores(text) is None


@pytest.mark.parametrize("name", ["llama-13b", "alpaca-13b", "bard", "gpt35"])
def test_scores_of_published_reviews(name):
    """Question 70, of geometry, is left out: its pair was corrected by hand, or is inside a sentence."""
    path = real_sample("gpt_review_vicuna80") / "review" / f"review_{name}_vicuna-13b.jsonl"
    reviews = [review for review in read_reviews(path) if review.question_id != "70"]
    assert len(reviews) == 79
    assert [parse_scores(review.text) for review in reviews] == [review.scores for review in reviews]


def test_reviews(server, tmp_path):
    server.replies = {"1": [completion("10 9\nGood.")], "2": [completion("Sorry, no.")]}
    path = tmp_path / "run" / "reviews.jsonl"
    report = review_answers(QUESTIONS, ANSWERS, judge(server), path, budget=Budget(2.5, 10.0))
    assert (report.total, report.answered, report.new, report.failed) == (6, 6, 6, 0)
    assert report.cost == pytest.approx(6 * 0.0035)
    assert sorted(server.asked()) == ["0", "1", "2", "3", "4", "5"]
    asked = {number_of(body): body for body in server.bodies}["4"]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("judge", 0.2, 1024)
    assert asked["messages"] == judge_messages(QUESTIONS[4], "No 4.")

    line = {entry["question_id"]: entry for entry in read_jsonl(path)}["1"]
    assert line.pop("request")
    assert line == {
        "question_id": "1",
        "category": "detail",
        "tuple": [10.0, 9.0],
        "content": "10 9\nGood.",
        "judge": "stub-2",
    }
    metrics = review_scores(read_reviews(path))
    assert metrics["relative_score"] == pytest.approx(100 * (4 * 6 + 9) / (4 * 8 + 10))
    assert metrics["relative_score_detail"] == pytest.approx(100 * 15 / 18)
    assert (metrics["reviews"], metrics["unscored"]) == (5, 1)
    assert json.loads((tmp_path / "run" / "reviews_cost_summary.json").read_text())["answers"] == 6

    # All is there: nobody is asked again, not even about the review without scores.
    report = review_answers(QUESTIONS, ANSWERS, judge(server), path, budget=Budget(2.5, 10.0))
    assert (report.answered, report.new, len(server.requests)) == (6, 0, 6)
    assert review_scores(read_reviews(path)) == metrics


def test_resumes_after_an_interruption_or_a_failure(server, tmp_path):
    path = tmp_path / "reviews.jsonl"
    assert review_answers(QUESTIONS[:3], ANSWERS, judge(server), path).new == 3
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    lost = json.loads(content.splitlines()[-1])["question_id"]
    server.requests.clear()
    server.replies = {"4": [failure(500)], "5": [failure(503), completion("9 9")]}
    report = review_answers(QUESTIONS, ANSWERS, judge(server), path)
    assert sorted(server.asked()) == sorted([lost, "3", "4", "4", "5", "5"])
    assert (report.answered, report.new, report.failed, report.retries) == (5, 3, 1, 2)
    assert [entry["question_id"] for entry in read_jsonl(tmp_path / "reviews_failures.jsonl")] == ["4"]

    server.requests.clear()
    server.replies = {}
    assert review_answers(QUESTIONS, ANSWERS, judge(server), path).answered == 6
    assert server.asked() == ["4"]
    assert sorted(review.question_id for review in read_reviews(path)) == ["0", "1", "2", "3", "4", "5"]
    # However often it was interrupted: file and metrics are those of one run.
    server.replies = {"5": [completion("9 9")]}
    whole = tmp_path / "whole.jsonl"
    review_answers(QUESTIONS, ANSWERS, judge(server, max_retries=0), whole, concurrency=1)
    assert sorted(path.read_text().splitlines()) == sorted(whole.read_text().splitlines())
    assert review_scores(read_reviews(path)) == review_scores(read_reviews(whole))


def test_reviews_of_something_else_do_not_mix(server, tmp_path):
    path = tmp_path / "reviews.jsonl"
    review_answers(QUESTIONS[:2], ANSWERS, judge(server), path)
    server.requests.clear()
    for answers, other in (
        (ANSWERS | {"1": "Maybe."}, judge(server)),
        (ANSWERS, judge(server, model="another")),
        (ANSWERS, judge(server, options={"temperature": 0})),
    ):
        with pytest.raises(ValueError, match=r"reviews\.jsonl holds a review of another answer to question [01]"):
            review_answers(QUESTIONS, answers, other, path)
    with pytest.raises(ValueError, match=r"`answers` has none for 1 questions, the first is '5'"):
        review_answers(QUESTIONS, {name: text for name, text in ANSWERS.items() if name != "5"}, judge(server), path)
    assert not server.requests
    # The address may change: a proxy, a mirror.
    assert review_answers(QUESTIONS[:2], ANSWERS, judge(server, base_url=server.url + "/"), path).new == 0


def test_a_judge_that_cannot_be_asked(server, tmp_path):
    server.replies = {"1": [failure(401, message="bad key")]}
    with pytest.raises(EndpointError, match="refused the key"):
        review_answers(QUESTIONS, ANSWERS, judge(server), tmp_path / "reviews.jsonl", concurrency=1)
    assert [review.question_id for review in read_reviews(tmp_path / "reviews.jsonl")] == ["0"]
