"""Running ahead: results come in order, a bounded number of items ahead, and an error starts nothing more."""

import threading

import pytest

from transformers_groma._run_ahead import run_ahead


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [0, 1, 5, 20])
def test_results_are_in_the_order_of_the_items(threads, ahead):
    assert list(run_ahead(lambda item: item**2, range(10), ahead, threads)) == [item**2 for item in range(10)]
    assert list(run_ahead(abs, [], ahead, threads)) == []


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_items_are_taken_than_may_wait(ahead):
    taken = []

    def items():
        for item in range(8):
            taken.append(item)
            yield item

    for number, item in enumerate(run_ahead(abs, items(), ahead)):
        assert item == number
        assert len(taken) == min(number + 1 + ahead, 8)


def test_the_next_result_is_made_while_one_is_used():
    made = {item: threading.Event() for item in range(3)}
    for item in run_ahead(lambda item: made[item].set() or item, range(3), ahead=1):
        assert made[min(item + 1, 2)].wait(timeout=10)


def test_an_error_comes_in_its_place_and_ends_the_work():
    begun = []

    def fail_at_two(item):
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        return item

    results = run_ahead(fail_at_two, range(100), ahead=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(begun) <= 6


def test_a_caller_that_stops_ends_the_work():
    begun = []
    go_on = threading.Event()

    def wait(item):
        begun.append(item)
        assert item == 0 or go_on.wait(timeout=10)

    results = run_ahead(wait, range(100), ahead=3)
    next(results)
    threading.Timer(0.05, go_on.set).start()
    results.close()
    assert begun in ([0], [0, 1])  # what had begun comes to its end, the rest never begins
