"""Asking a local server: what is retried, the budget, when a run ends."""

import json
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler

import pytest

from processing.groma_instruct import files
from processing.groma_instruct.__main__ import main
from processing.groma_instruct.answers import current_answers
from transformers_groma._jsonl import read_jsonl, write_jsonl
from transformers_groma.endpoints import asking

from ...chat_server import failure, raw
from .samples import answer, answered, options


def test_query_asks_once_for_each_image(work, stub, capsys):
    prices = ["--price-in", "2.5", "--price-out", "10"]
    assert main(["query", *options(work, stub, *prices, "--limit", "4")]) == 0
    assert sorted(stub.asked()) == ["0", "1", "2", "3"]
    assert stub.bodies[0]["path"] == "/v1/chat/completions"
    assert (stub.bodies[0]["model"], stub.bodies[0]["max_completion_tokens"]) == ("stub", 4096)
    assert stub.headers[0]["authorization"] == "Bearer secret-of-the-test"
    assert "4 new answers, 4 of 4 images answered; 0 failed, 0 requests tried again" in capsys.readouterr().err

    # The same again asks nothing; without the limit the rest is asked.
    assert main(["query", *options(work, stub, *prices, "--limit", "4")]) == 0
    assert len(stub.requests) == 4
    assert main(["query", *options(work, stub, *prices, "--options", '{"temperature": 0.5}')]) == 0
    assert sorted(stub.asked()) == ["0", "1", "2", "3", "4", "5"]
    assert stub.bodies[-1]["temperature"] == 0.5 and "max_completion_tokens" not in stub.bodies[-1]

    costs = read_jsonl(work / files.COSTS)
    assert [cost["cost"] for cost in costs] == pytest.approx([0.0035] * 6)
    assert (costs[0]["model"], costs[0]["prompt_tokens"], costs[0]["completion_tokens"]) == ("stub-2", 1000, 100)
    summary = json.loads((work / files.COST_SUMMARY).read_text())
    assert summary == {
        "answers": 6,
        "prompt_tokens": 6000,
        "completion_tokens": 600,
        "cost": pytest.approx(sum(cost["cost"] for cost in costs)),
    }
    assert "cost of all runs 0.0210" in capsys.readouterr().err
    assert not any("secret" in path.read_text() for path in work.iterdir())


def test_query_tries_again_where_it_helps(work, stub, capsys):
    stub.replies = {
        "0": [failure(500), failure(503), answer()],
        "2": [raw(200, "<html>busy</html>", Content_Type="text/html"), answer()],
        "3": [raw(200, '{"error": {"message": "overloaded"}}'), answer()],
        "4": [failure(400, message="your image is bad")],
        "5": [failure(500, message="down")],
    }
    assert main(["query", *options(work, stub, "--max-retries", "2")]) == 1
    assert Counter(stub.asked()) == {"0": 3, "1": 1, "2": 2, "3": 2, "4": 1, "5": 3}
    assert answered(work) == ["0", "1", "2", "3"]
    failures = {entry["image_id"]: entry["error"] for entry in read_jsonl(work / files.FAILURES)}
    assert set(failures) == {"4", "5"}
    assert failures["4"] == "status 400: your image is bad"
    assert failures["5"] == "status 500: down (tried 3 times)"
    error = capsys.readouterr().err
    assert "4 new answers, 4 of 6 images answered; 2 failed, 6 requests tried again" in error
    assert "failures.jsonl; run again" in error

    # The next run asks only for what is missing.
    stub.requests.clear()
    stub.replies = {}
    assert main(["query", *options(work, stub)]) == 0
    assert sorted(stub.asked()) == ["4", "5"]


def test_query_tries_again_after_a_time_out(work, stub):
    stub.replies = {"0": [answer(delay=3), answer()]}
    assert main(["query", *options(work, stub, "--timeout", "1.5", "--limit", "1")]) == 0
    assert stub.asked() == ["0", "0"] and answered(work) == ["0"]


def test_query_waits_as_long_as_the_server_asks(work, stub):
    """A limit that one request meets holds all of them."""
    stub.replies = {"0": [failure(429, Retry_After="0.6"), answer()]}
    assert main(["query", *options(work, stub, "--concurrency", "1")]) == 0
    times = [moment for _, moment in stub.requests]
    assert stub.asked()[:3] == ["0", "0", "1"]
    assert times[1] - times[0] >= 0.6


def test_query_keeps_the_rate(work, stub):
    start = time.monotonic()
    assert main(["query", *options(work, stub, "--requests-per-minute", "600", "--concurrency", "6")]) == 0
    assert len(stub.requests) == 6 and time.monotonic() - start >= 0.5  # a tenth of a second between two


def test_query_asks_several_at_a_time(work, stub):
    """No request is answered before three are there; more than three there never are."""
    meeting = threading.Barrier(3, timeout=60)

    def reply(handler: BaseHTTPRequestHandler) -> None:
        meeting.wait()
        answer()(handler)

    stub.replies = {str(number): [reply] for number in range(6)}
    assert main(["query", *options(work, stub, "--concurrency", "3")]) == 0
    assert stub.most_busy == 3


def test_query_stops_at_the_largest_cost(work, stub, capsys):
    """The first request tells what they cost; the run ends before one would exceed the limit, over all runs."""
    stub.replies = {str(number): [answer(delay=0.05)] for number in range(6)}
    money = ["--price-in", "1000", "--price-out", "0", "--max-cost", "3.5"]  # a cost of 1 each
    assert main(["query", *options(work, stub, *money)]) == 0
    assert len(stub.requests) == 3
    assert stub.requests[1][1] - stub.requests[0][1] >= 0.05, "the first goes alone"
    assert "3 of 6 images answered" in (error := capsys.readouterr().err) and "could exceed --max-cost" in error
    assert main(["query", *options(work, stub, *money)]) == 0
    assert len(stub.requests) == 3
    assert main(["query", *options(work, stub, *money[:-1], "4")]) == 0
    assert len(stub.requests) == 4

    assert main(["query", *options(work, stub, "--max-cost", "1")]) == 2
    assert "--max-cost needs --price-in" in capsys.readouterr().err


def test_query_needs_counts_to_keep_a_cost(work, stub, capsys):
    stub.replies = {str(number): [answer(tokens=None)] for number in range(6)}
    assert main(["query", *options(work, stub, "--price-in", "1", "--max-cost", "3")]) == 1
    assert len(stub.requests) == 1 and answered(work) == ["0"]
    assert "does not count tokens" in capsys.readouterr().err
    assert main(["query", *options(work, stub)]) == 0
    assert json.loads((work / files.COST_SUMMARY).read_text())["prompt_tokens"] == 0


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (failure(401, message="bad key"), "refused the key (status 401: bad key)"),
        (failure(404, message="no such model"), "/v1/ knows no such address or model"),
        (failure(429, code="insufficient_quota"), "has no credit left"),
    ],
)
def test_query_gives_up_where_nothing_helps(work, stub, capsys, reply, message):
    stub.replies = {str(number): [reply] for number in range(1, 6)}
    assert main(["query", *options(work, stub, "--concurrency", "1")]) == 2
    error = capsys.readouterr().err
    assert f"error: {stub.url}" in error and message in error and "secret" not in error
    assert stub.asked() == ["0", "1"] and answered(work) == ["0"]


def test_query_without_a_server(work, stub, capsys, monkeypatch):
    """Nobody listens: every image is tried, and after some of them the run ends."""
    stub.server.shutdown()
    stub.server.server_close()
    assert main(["query", *options(work, stub, "--max-retries", "1")]) == 1
    error = capsys.readouterr().err
    assert "0 new answers, 0 of 6 images answered; 6 failed, 6 requests tried again" in error
    failures = read_jsonl(work / files.FAILURES)
    assert len(failures) == 6 and "Connection error" in failures[0]["error"]
    assert "(tried 2 times)" in failures[0]["error"]

    monkeypatch.setattr(asking, "MAX_FAILURES_IN_A_ROW", 2)
    assert main(["query", *options(work, stub, "--max-retries", "0", "--concurrency", "1")]) == 1
    assert "; stopped: 2 in a row failed, the last with: Connection error" in capsys.readouterr().err
    assert len(read_jsonl(work / files.FAILURES)) == 8


def test_query_resumes_after_a_kill(work, stub):
    """A truncated line is not an answer, and does not spoil the file."""
    assert main(["query", *options(work, stub, "--limit", "3")]) == 0
    content = (work / files.ANSWERS).read_bytes()
    (work / files.ANSWERS).write_bytes(content[:-10])
    lost = json.loads(content.splitlines()[-1])["image_id"]
    stub.requests.clear()
    assert main(["query", *options(work, stub, "--limit", "3")]) == 0
    assert stub.asked() == [lost]
    assert answered(work) == ["0", "1", "2"]


def test_query_interrupted(work, stub, capsys, request):
    """Ctrl-C: the request under way is paid for, so its answer is kept; what waits to be tried again gives up."""
    waiting = threading.Event()

    def interrupt(handler: BaseHTTPRequestHandler) -> None:
        waiting.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        answer(delay=0.3)(handler)

    def later(handler: BaseHTTPRequestHandler) -> None:
        failure(503, Retry_After="600")(handler)
        waiting.set()

    stub.replies = {"0": [interrupt], "1": [later]}
    # A shell starts jobs in the background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    start = time.monotonic()
    assert main(["query", *options(work, stub, "--concurrency", "2")]) == 130
    assert time.monotonic() - start < 300
    assert "interrupted: what is done is kept" in capsys.readouterr().err
    assert sorted(stub.asked()) == ["0", "1"] and answered(work) == ["0"]
    assert json.loads((work / files.COST_SUMMARY).read_text())["answers"] == 1


def test_query_with_a_missing_image(work, stub, capsys):
    (work.parent / "images" / "2.jpg").unlink()
    assert main(["query", *options(work, stub)]) == 1
    assert sorted(stub.asked()) == ["0", "1", "3", "4", "5"]
    (entry,) = read_jsonl(work / files.FAILURES)
    assert entry["error"] == "2.jpg: missing image"


def test_query_asks_again_about_other_regions(work, stub):
    """Numbers of an answer mean the regions that were asked about."""
    assert main(["query", *options(work, stub)]) == 0
    selection = read_jsonl(work / files.SELECTION)
    selection[2]["boxes_xyxy"][0] = [0, 0, 50, 50]
    write_jsonl(work / files.SELECTION, selection)
    assert set(current_answers(read_jsonl(work / files.ANSWERS), selection)) == {"0", "1", "3", "4", "5"}
    stub.requests.clear()
    assert main(["query", *options(work, stub)]) == 0
    assert stub.asked() == ["2"]
    assert len(current_answers(read_jsonl(work / files.ANSWERS), selection)) == 6


def test_query_mistakes(work, stub, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folders = options(work, None)
    assert main(["query", *folders, "--model", "m"]) == 2
    assert "The environment variable OPENAI_API_KEY holds no key" in capsys.readouterr().err
    assert main(["query", *options(work, stub, "--output", str(work / "other"))]) == 2
    assert "selection.jsonl is missing. Run the step `select` first." in capsys.readouterr().err
    for wrong, message in [
        (["--base-url", "localhost:1/v1"], "must start with http:// or https://, got localhost:1/v1"),
        (["--concurrency", "0"], "must be a whole number of at least 1, got '0'"),
        (["--timeout", "nan"], "must be a number of at least 0.001, got 'nan'"),
        (["--limit", "x"], "must be a whole number of at least 1, got 'x'"),
        (["--options", "[1]"], "must be a JSON object, got [1]"),
        (["--options", "{"], "is not JSON"),
    ]:
        with pytest.raises(SystemExit) as error:
            main(["query", *options(work, stub), *wrong])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    (work / files.ANSWERS).write_text('{"image_id": "0"\n{}\n')
    assert main(["query", *options(work, stub)]) == 2
    assert "answers.jsonl, line 1 is not JSON" in capsys.readouterr().err
    assert not stub.requests
