"""Many users of one `groma serve`, and clients that behave badly; `benchmarks/load_test.py` measures."""

import sys

import pytest

from benchmarks.load_test import parse, run


def check(result, capsys) -> None:
    """No error, no answer to somebody else, and a server that is as before."""
    with capsys.disabled():
        print(f"\n{result}")
    for measured in (result, result["new_images"]):
        for part in (*measured["one_by_one"], measured["together"]):
            assert set(part["outcomes"]) == {"right"}
    for round in result["rough"]:
        # Whoever finds the queue full is told so, and when to come again.
        assert set(round["steady"]) <= {"right", "503"} and set(round["crowd"]) <= {"right", "503"}
        assert round["steady"].get("right", 0) >= 1 and round["crowd"]["right"] >= 16
        assert round["health"] == {"status": "ok", "model": "groma-tiny", "waiting": 0, "running": 0}
        assert round["after"] == "right"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_a_few_users(tmp_path, capsys):
    options = ["--users", "4", "--seconds", "3", "--rounds", "1", "--crowd", "24"]
    check(run(parse(options), tmp_path), capsys)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_32_users_for_a_minute_and_400_at_once(tmp_path, capsys):
    result = run(parse([]), tmp_path)
    check(result, capsys)
    assert result["together"]["users"] == 32 and result["together"]["seconds"] >= 60
    assert result["ratio"] >= 2.5 and result["new_images"]["ratio"] >= 1.5
    assert sum(result["rough"][0]["crowd"].values()) == 400
    _, first, *_, last = result["mb"]
    assert last < 1.15 * first
