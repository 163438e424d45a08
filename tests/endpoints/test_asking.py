"""Asking many questions: what is recorded, and when a run ends.

Interrupted and killed runs: `processing/groma_instruct/test_query.py`.
"""

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from transformers_groma._jsonl import read_jsonl
from transformers_groma.endpoints import asking
from transformers_groma.endpoints import client as endpoint
from transformers_groma.endpoints.asking import AskingFiles, AskingReport, Budget, ask_all, write_cost_summary
from transformers_groma.endpoints.client import EndpointError, RequestError
from transformers_groma.endpoints.endpoint import Endpoint
from transformers_groma.endpoints.replies import Reply

from ..chat_server import ChatServer, completion, echo_of_headers, failure, raw_bytes


@pytest.fixture
def server(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with ChatServer(lambda body: body["messages"][0]["content"], completion("hi")).running() as server:
        yield server


def question(name: str) -> list[dict]:
    if name == "broken":
        raise RequestError("broken.jpg: missing image")
    return [{"role": "user", "content": name}]


def ask(
    server: ChatServer, folder: Path, *names: str, key: str = "none", **how
) -> tuple[AskingReport, dict[str, Reply]]:
    kept: dict[str, Reply] = {}
    report = ask_all(
        {name: partial(question, name) for name in names},
        Endpoint("stub", base_url=server.url, api_key=key, max_retries=1),
        kept.__setitem__,
        AskingFiles.in_folder(folder, prefix="x_", name="id"),
        **how,
    )
    return report, kept


def test_costs_and_failures_are_written_down(server, tmp_path):
    server.replies["b"] = [failure(500, message="down")]
    report, kept = ask(server, tmp_path, "a", "b", "c", "broken", budget=Budget(price_in=1.0, price_out=10.0))
    assert set(kept) == {"a", "c"} and kept["a"].text == "hi"
    assert report == AskingReport(total=4, answered=2, new=2, failed=2, retries=1, cost=pytest.approx(0.004))
    assert {cost["id"]: cost["cost"] for cost in read_jsonl(tmp_path / "x_costs.jsonl")} == {"a": 0.002, "c": 0.002}
    failures = {entry["id"]: entry["error"] for entry in read_jsonl(tmp_path / "x_failures.jsonl")}
    assert failures == {"b": "status 500: down (tried 2 times)", "broken": "broken.jpg: missing image"}
    assert json.loads((tmp_path / "x_cost_summary.json").read_text())["prompt_tokens"] == 2000

    report, kept = ask(server, tmp_path, answered=2, budget=Budget(1.0, 10.0))
    assert report == AskingReport(total=2, answered=2, cost=pytest.approx(0.004)) and not kept


def test_the_largest_cost_holds_over_all_runs(server, tmp_path):
    budget = Budget(price_in=1000.0, max_cost=2.5)  # a cost of 1 each
    report, kept = ask(server, tmp_path, *"abcd", budget=budget)
    assert set(kept) == {"a", "b"} and report.over_budget and report.cost == 2.0
    assert "could exceed --max-cost" in report.summary("things")
    report, kept = ask(server, tmp_path, *"cd", answered=2, budget=budget)
    assert not kept and report.over_budget
    with pytest.raises(ValueError, match="--max-cost needs --price-in"):
        Budget(max_cost=1.0)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_prices_are_not_negative(value):
    for name, option in (("price_in", "--price-in"), ("price_out", "--price-out"), ("max_cost", "--max-cost")):
        with pytest.raises(ValueError, match=f"{option} must not be negative"):
            Budget(**{"price_in": 1.0, name: value})
    assert Budget(1.0, 0.0, 0.0).max_cost == 0


def test_odd_replies_cost_their_question_alone(server, tmp_path):
    """The run continues, the cost does not fall, and no file holds the key."""
    odd = {
        "deep": raw_bytes(b"[" * 200_000),
        "negative": completion("a", tokens=(-1_000_000_000, 5)),
        "echo": echo_of_headers(400),
        "cut": raw_bytes(b'{"choices": ['),
    }
    server.replies.update({name: [reply] for name, reply in odd.items()})
    server.replies["said"] = [echo_of_headers()]
    report, kept = ask(
        server, tmp_path, *odd, "said", "good", budget=Budget(1.0, 1.0), concurrency=1, key="sk-secret-123"
    )
    assert set(kept) == {"said", "good"} and kept["said"].text == "You said [key]."
    assert (report.failed, report.stopped) == (4, "") and report.cost == pytest.approx(0.0022)
    for path in tmp_path.iterdir():
        assert "sk-secret-123" not in path.read_text()


def test_an_end_where_all_fails(server, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "MAX_FAILURES_IN_A_ROW", 2)
    for name in "abcd":
        server.replies[name] = [failure(400, message="bad")]
    report, _ = ask(server, tmp_path, *"abcd", concurrency=1)
    assert report.failed == 2 and report.stopped == "2 in a row failed, the last with: status 400: bad"

    server.replies["a"] = [failure(401)]
    with pytest.raises(EndpointError, match="refused the key"):
        ask(server, tmp_path, "a")
    with pytest.raises(ValueError, match="`concurrency` must be at least 1, got 0"):
        ask(server, tmp_path, "a", concurrency=0)


def test_costs():
    assert Budget(2.0, 5.0).cost(1_000_000, 100_000) == 2.5
    assert Budget(2.0, 5.0).cost(None, 100_000) == 0.5 and Budget(2.0, 5.0).cost(1_000_000, None) == 2.0
    assert Budget().cost(7, 7) == 0
    # One price is enough.
    assert Budget(price_out=1.0, max_cost=1.0).max_cost == Budget(price_in=1.0, max_cost=1.0).max_cost == 1


@pytest.mark.parametrize(("max_cost", "answered"), [(2.0, 2), (1.99, 1), (0.5, 1), (0.0, 1)])
def test_the_largest_cost_may_be_reached_and_the_first_request_goes_alone(server, tmp_path, max_cost, answered):
    """Each costs 1, which is unknown before the first answer."""
    budget = Budget(price_in=1000.0, max_cost=max_cost)
    report, kept = ask(server, tmp_path, *"abcd", concurrency=4, budget=budget)
    assert len(kept) == report.new == report.answered == len(server.requests) == answered
    assert report.over_budget and report.cost == answered and report.total == 4


def test_a_request_is_assumed_to_cost_as_much_as_the_most_expensive(server, tmp_path):
    server.replies["a"] = [completion("hi", tokens=(3000, 0))]
    budget = Budget(price_in=1000.0, max_cost=6.5)
    report, kept = ask(server, tmp_path, *"abcd", concurrency=1, budget=budget)
    assert list(kept) == ["a", "b"] and report.cost == 4.0 and report.over_budget
    # Of the runs before, too: 4 + 3 are affordable here, and no more than one at a time.
    report, kept = ask(server, tmp_path, *"cd", answered=2, concurrency=2, budget=Budget(1000.0, max_cost=7.5))
    assert list(kept) == ["c"] and server.most_busy == 1
    # Small costs are not rounded up.
    cheap = Budget(price_in=1.0, max_cost=0.0035)
    report, kept = ask(server, tmp_path / "cheap", *"bcde", concurrency=1, budget=cheap)
    assert list(kept) == ["b", "c", "d"]
    # Without a largest cost nothing is held back.
    report, kept = ask(server, tmp_path, *"ef", answered=3, concurrency=2, budget=Budget(1000.0))
    assert set(kept) == {"e", "f"} and not report.over_budget and report.cost == 7.0


def test_no_more_requests_at_a_time_than_allowed(server, tmp_path):
    together = threading.Barrier(2, timeout=20)  # each waits for another one that is under way

    def reply(handler):
        together.wait()
        completion("hi")(handler)

    server.replies |= {name: [reply] for name in "abcdef"}
    report, _ = ask(server, tmp_path, *"abcdef", concurrency=2)
    assert report.new == 6 and server.most_busy == 2


def test_an_endpoint_that_does_not_count_tokens(server, tmp_path):
    server.replies["a"] = [completion("hi", tokens=None)]
    report, kept = ask(server, tmp_path, *"ab", concurrency=1, budget=Budget(1.0, 1.0))
    assert set(kept) == {"a", "b"} and report.stopped == ""
    report, kept = ask(server, tmp_path, *"ab", concurrency=1, budget=Budget(1.0, 1.0, max_cost=1.0))
    assert set(kept) == {"a"} and "does not count tokens, so --max-cost cannot be kept" in report.stopped
    assert report.new == 1 and "; stopped: the endpoint does not count" in report.summary("images")
    summary = {"answers": 3, "prompt_tokens": 1000, "completion_tokens": 100, "cost": pytest.approx(0.0011)}
    files = AskingFiles.in_folder(tmp_path, prefix="x_")
    assert write_cost_summary(files) == summary == json.loads(files.summary.read_text())
    assert files.summary.read_text().startswith('{\n  "answers": 3,\n')


def test_failures_are_counted_in_a_row(server, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "MAX_FAILURES_IN_A_ROW", 2)
    for name in "ace":
        server.replies[name] = [failure(400, message="bad")]
    report, kept = ask(server, tmp_path, *"abcde", concurrency=1)
    assert (report.failed, report.new, report.stopped) == (3, 2, "") and list(kept) == ["b", "d"]
    assert [entry["id"] for entry in read_jsonl(tmp_path / "x_failures.jsonl")] == ["a", "c", "e"]


def test_what_an_answer_says_is_written_down_before_it_is_kept(server, tmp_path):
    def keep(name, reply):
        (cost,) = read_jsonl(tmp_path / "costs.jsonl")
        kept.append((name, reply.model, cost | {"time": ""}))

    kept: list = []
    target = Endpoint("stub", base_url=server.url, api_key="none")
    report = ask_all({"a": partial(question, "a")}, target, keep, AskingFiles.in_folder(tmp_path))
    cost = {"name": "a", "model": "stub-2", "prompt_tokens": 1000, "completion_tokens": 100, "cost": 0.0, "time": ""}
    assert kept == [("a", "stub-2", cost)]
    assert report == AskingReport(total=1, answered=1, new=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost_summary.json", "costs.jsonl", "failures.jsonl"]
    assert report.summary("images") == (
        "1 new answers, 1 of 1 images answered; 0 failed, 0 requests tried again; cost of all runs 0.0000"
    )


def test_the_bar_counts_answers_of_all_runs(server, tmp_path, monkeypatch):
    bars = []

    class Bar(asking.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(asking, "tqdm", Bar)
    report, _ = ask(server, tmp_path, "a", "broken", answered=3)
    (bar,) = bars
    assert (bar.total, bar.initial, bar.n) == (5, 3, 4) and (report.total, report.answered) == (5, 4)


def test_answers_under_way_are_written_down_when_a_run_ends(server, tmp_path):
    """They are paid for."""
    under_way = threading.Event()

    def late(handler):
        under_way.set()
        time.sleep(0.2)
        completion("late")(handler)

    def refuse(handler):
        assert under_way.wait(20)
        failure(401)(handler)

    server.replies |= {"a": [refuse], "b": [late]}
    kept: dict[str, Reply] = {}
    files = AskingFiles.in_folder(tmp_path)
    questions = {name: partial(question, name) for name in "ab"}
    with pytest.raises(EndpointError, match="refused the key"):
        ask_all(questions, Endpoint("stub", base_url=server.url), kept.__setitem__, files, concurrency=2)
    assert {name: reply.text for name, reply in kept.items()} == {"b": "late"}
    assert [cost["name"] for cost in read_jsonl(files.costs)] == ["b"]
    assert json.loads(files.summary.read_text())["answers"] == 1
    assert AskingReport() == AskingReport(0, 0, 0, 0, 0, over_budget=False, stopped="", cost=0.0)
