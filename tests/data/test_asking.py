"""Asking about many things: what is written down, and when it ends. Kills and interrupts: `processing/test_groma_instruct.py`."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from transformers_groma.data import asking, endpoint
from transformers_groma.data.asking import AskingFiles, AskingReport, Budget, ask_all
from transformers_groma.data.endpoint import Endpoint, EndpointError, Reply, RequestError
from transformers_groma.data.jsonl import read_jsonl

from ..chat_server import ChatServer, completion, echo_of_headers, failure, raw_bytes


@pytest.fixture
def server(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with ChatServer(lambda body: body["messages"][0]["content"], completion("hi")).running() as server:
        yield server


def question(name: str) -> list[dict]:
    if name == "broken":
        raise RequestError("broken.jpg: missing picture")
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
    assert failures == {"b": "status 500: down (tried 2 times)", "broken": "broken.jpg: missing picture"}
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
    """The run goes on, the cost does not fall, and no file holds the key."""
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
