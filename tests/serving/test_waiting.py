"""The queue: oldest first, when a batch starts, limits, and closing."""

import threading
import time

import pytest

from transformers_groma.serving import waiting
from transformers_groma.serving.answers import EngineClosedError, QueueFullError
from transformers_groma.serving.waiting import WaitingRequests

LONG = 30.0  # seconds: nothing here may take so long


def queue_of(*requests, max_batch_size=4, max_wait_seconds=LONG, max_waiting=100, **settings):
    requests_waiting = WaitingRequests(max_batch_size, max_wait_seconds, max_waiting, **settings)
    for request in requests:
        requests_waiting.admit(request)
        requests_waiting.put(request)
    return requests_waiting


def release(requests_waiting, *requests):
    for request in requests:
        requests_waiting.release(request)


class Taking(threading.Thread):
    """Takes one batch in another thread."""

    def __init__(self, requests_waiting):
        super().__init__(daemon=True)
        self.requests_waiting = requests_waiting
        self.batch = None
        self.start()

    def run(self):
        self.batch = self.requests_waiting.take()

    def result(self):
        self.join(LONG / 2)
        return self.batch

    def has_none_after(self, seconds):
        self.join(seconds)
        return self.batch is None


def test_a_request_that_is_alone_does_not_wait():
    requests_waiting = queue_of("a")
    assert Taking(requests_waiting).result() == ["a"]
    release(requests_waiting, "a")
    requests_waiting.admit("b")
    requests_waiting.put("b")
    assert Taking(requests_waiting).result() == ["b"]


def test_the_oldest_go_first_and_a_full_batch_starts_at_once():
    requests_waiting = queue_of(*"abcdef")
    assert Taking(requests_waiting).result() == list("abcd")


def test_where_others_came_lately_the_first_waits_for_as_many(monkeypatch):
    monkeypatch.setattr(waiting, "RECENT_SECONDS", 1000.0)
    requests_waiting = queue_of(*"ab")
    assert Taking(requests_waiting).result() == ["a", "b"]
    release(requests_waiting, "a", "b")
    requests_waiting.admit("c")
    requests_waiting.put("c")
    taking = Taking(requests_waiting)
    assert taking.has_none_after(0.2)
    requests_waiting.admit("d")
    assert taking.has_none_after(0.1)  # its prompt is still being prepared
    requests_waiting.put("d")
    assert taking.result() == ["c", "d"]


def test_the_first_waits_no_longer_than_the_limit(monkeypatch):
    monkeypatch.setattr(waiting, "RECENT_SECONDS", 1000.0)
    requests_waiting = queue_of(*"ab", max_wait_seconds=0.2)
    assert Taking(requests_waiting).result() == ["a", "b"]
    release(requests_waiting, "a", "b")
    requests_waiting.admit("c")
    requests_waiting.put("c")
    start = time.monotonic()
    assert Taking(requests_waiting).result() == ["c"]
    assert 0.15 < time.monotonic() - start < LONG / 2


def test_others_are_forgotten_after_a_while(monkeypatch):
    monkeypatch.setattr(waiting, "RECENT_SECONDS", 0.05)
    requests_waiting = queue_of(*"ab")
    assert Taking(requests_waiting).result() == ["a", "b"]
    release(requests_waiting, "a", "b")
    time.sleep(0.1)
    requests_waiting.admit("c")
    requests_waiting.put("c")
    assert Taking(requests_waiting).result() == ["c"]


def test_time_in_the_queue_counts_while_the_model_is_busy(monkeypatch):
    monkeypatch.setattr(waiting, "RECENT_SECONDS", 1000.0)
    requests_waiting = queue_of(*"abc", max_batch_size=2, max_wait_seconds=0.1)
    assert Taking(requests_waiting).result() == ["a", "b"]
    time.sleep(0.15)
    start = time.monotonic()
    assert Taking(requests_waiting).result() == ["c"]
    assert time.monotonic() - start < 0.09


def test_who_does_not_fit_goes_with_the_next_batch_and_is_the_first_of_it():
    numbers = {"a": 1, "b": 9, "c": 2, "d": 3}
    requests_waiting = queue_of(
        *numbers,
        can_join=lambda batch, request: sum(numbers[entry] for entry in batch) + numbers[request] < 9,
    )
    assert Taking(requests_waiting).result() == ["a", "c", "d"]
    requests_waiting.admit("e")
    numbers["e"] = 0
    requests_waiting.put("e")
    requests_waiting.close()
    assert Taking(requests_waiting).result() == ["b"]  # e does not fit either: 9 is not below 9
    assert Taking(requests_waiting).result() == ["e"]


def test_the_limit_counts_who_waits_and_who_is_prepared_but_not_who_runs():
    requests_waiting = queue_of("a", max_waiting=2, max_wait_seconds=0)
    requests_waiting.admit("b")
    with pytest.raises(QueueFullError, match=r"2 requests wait already \(`max_waiting`\)\. Ask again"):
        requests_waiting.admit("c")
    assert Taking(requests_waiting).result() == ["a"]
    requests_waiting.admit("c")
    assert requests_waiting.counts() == {"waiting": 2, "preparing": 2, "running": 1, "refused": 1}
    requests_waiting.release("b")
    requests_waiting.admit("d")


def test_a_request_that_was_given_up_is_not_taken():
    requests_waiting = queue_of(*"abc")
    requests_waiting.admit("d")
    release(requests_waiting, "b", "d", "b")
    assert not requests_waiting.put("d")
    requests_waiting.close()
    assert Taking(requests_waiting).result() == ["a", "c"]


def test_closing_refuses_new_requests_and_finishes_the_others():
    requests_waiting = queue_of("a")
    requests_waiting.admit("b")
    requests_waiting.close()
    with pytest.raises(EngineClosedError, match="takes no more requests"):
        requests_waiting.admit("c")
    assert Taking(requests_waiting).result() == ["a"]
    last = Taking(requests_waiting)
    assert last.has_none_after(0.1)  # b is being prepared
    requests_waiting.put("b")
    assert last.result() == ["b"]
    assert Taking(requests_waiting).result() == []
    assert not requests_waiting.wait_until_empty(0.01)
    assert sorted(requests_waiting.in_flight()) == ["a", "b"]
    release(requests_waiting, "a", "b")
    assert requests_waiting.wait_until_empty(0)


def test_closing_wakes_who_waits_for_a_batch():
    requests_waiting = queue_of()
    taking = Taking(requests_waiting)
    requests_waiting.close()
    assert taking.result() == []


def test_closing_ends_the_wait_for_a_prompt_that_was_given_up():
    requests_waiting = queue_of()
    requests_waiting.admit("a")
    requests_waiting.close()
    taking = Taking(requests_waiting)
    assert taking.has_none_after(0.1)
    requests_waiting.release("a")
    assert taking.result() == []
