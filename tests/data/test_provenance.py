"""Digests that distinguish the rows of different commands."""

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from transformers_groma.data.provenance import (
    changed_input,
    digest_of,
    digests_of_options,
    note_input,
    note_inputs,
    noted_inputs,
    relative_states,
)


@dataclass(frozen=True, slots=True)
class Record:
    image: dict
    path: Path


class Pickled:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1], [2]),
        ([1, 2], [2, 1]),
        ([1, 2], [[1, 2]]),
        (["a"], ["b"]),
        ([{"a": 1}], [{"a": 2}]),
        ([{"a": None}], [{"a": 0}]),
        ([{(1, 2): 3}], [{(1, 2): 4}]),
        ([Record({"id": 1}, Path("a"))], [Record({"id": 2}, Path("a"))]),
        ([Record({"id": 1}, Path("a"))], [Record({"id": 1}, Path("b"))]),
        ([{1, 2}], [{1, 3}]),
        ([b"a"], [b"b"]),
        ([array("d", [1, 2])], [array("d", [1, 3])]),
        ([np.arange(5000)], [np.flip(np.arange(5000))]),
        ([torch.arange(3)], [torch.arange(4)]),
        ([Pickled(1)], [Pickled(2)]),
    ],
)
def test_other_records_have_another_digest(first, second):
    assert digest_of(first) == digest_of(first) != digest_of(second)


def test_paths_count_by_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert digest_of([Path("a")]) == digest_of([tmp_path / "a"]) == digest_of([Path("b", "..", "a")])
    assert digest_of([Record({}, Path("a"))]) == digest_of([Record({}, tmp_path / "a")])


def test_options_count_by_name(tmp_path):
    (tmp_path / "list.txt").write_text("1")
    (tmp_path / "same.txt").write_text("1")
    os.symlink(tmp_path / "images", tmp_path / "link")

    def digests(**options):
        return digests_of_options(options, tmp_path / "rows")

    assert list(digests(a=1, b=[2])) == ["a", "b"]
    assert digests(a=1, b=2)["a"] == digests(a=1, b=3)["a"]
    assert digests(a=tmp_path / "list.txt") == digests(a=tmp_path / "same.txt")
    assert digests(a=[tmp_path / "list.txt"]) == digests(a=(tmp_path / "same.txt",))
    assert digests(a=tmp_path / "images") == digests(a=tmp_path / "link") != digests(a=tmp_path / "other")
    (tmp_path / "same.txt").write_text("2")
    assert digests(a=tmp_path / "list.txt") != digests(a=tmp_path / "same.txt")
    # Folders count from the output folder, so that all of it may move.
    assert digests(a=tmp_path / "images") == digests_of_options(
        {"a": tmp_path / "b" / "images"}, tmp_path / "b" / "rows"
    )


def test_files_are_noted_only_where_somebody_wants_to_know(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    note_input(path, b"abc")
    note_inputs({})
    with noted_inputs() as outer:
        with noted_inputs() as inner:
            note_input(path, b"abc")
        assert list(inner) == [str(path)] and outer == {}
        note_inputs(inner)
    assert outer == inner
    size, time, digest = inner[str(path)]
    assert (size, time) == (3, path.stat().st_mtime_ns) and len(digest) == 16
    note_input(path, b"abc")
    assert len(outer) == 1


def test_changes_are_found(tmp_path):
    first, second = tmp_path / "images" / "a", tmp_path / "images" / "b"
    first.parent.mkdir()
    with noted_inputs() as noted:
        for path in (first, second):
            path.write_bytes(b"abc")
            note_input(path, b"abc")
    rows = tmp_path / "rows"
    states = relative_states(noted, rows)
    assert list(states) == ["../images/a", "../images/b"]
    assert changed_input(states, rows) is None
    os.utime(second, ns=(5, 5))
    assert changed_input(states, rows) is None
    for content, time in ((b"abd", 5), (b"abcd", 5), (b"", 5)):
        second.write_bytes(content)
        os.utime(second, ns=(time, time))
        assert changed_input(states, rows) == second
    # The same size and the same time are the same file: no image is read for that.
    second.write_bytes(b"abd")
    os.utime(second, ns=(states["../images/b"][1],) * 2)
    assert changed_input(states, rows) is None
    first.unlink()
    assert changed_input(states, rows) == first
