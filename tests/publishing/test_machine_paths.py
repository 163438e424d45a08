"""Nothing that names a folder of this machine goes up."""

import json
import re
import struct
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_groma.publishing.contents import Contents, left_out_of
from transformers_groma.publishing.machine_paths import check_no_machine_paths


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Of somebody whose folder for temporary files is elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "zaphod"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home" / "zaphod"


def check(files: dict[str, bytes | Path], folder: Path = Path("pushed")) -> None:
    check_no_machine_paths(Contents("model", files), folder)


@pytest.mark.parametrize(
    "below", ["home/zaphod/data", "scratch/x.json", "work/pushed/config.json", "home/zaphod", "work"]
)
def test_a_path_of_this_machine_is_named(home, tmp_path, below):
    content = json.dumps({"_name_or_path": str(tmp_path / below)}).encode()
    with pytest.raises(ValueError, match=f"config.json names a folder of this machine, '{tmp_path / below}'. Remove"):
        check({"README.md": b"# fine", "config.json": content})


def test_relative_paths_and_those_of_programs_stay(home, tmp_path):
    check({"README.md": f"see /usr/bin/env, hub_configs/x, {tmp_path}, ~/x, {home}-x and {home.parent}".encode()})
    check({"README.md": b"a Space runs in /home/user/app; https://example.org/home/arthur/x, /home/ and /Users"})


@pytest.mark.parametrize(
    "path",
    [
        "/home/arthur/data",
        "/Users/arthur/data",
        "/root/groma",
        "C:\\Users\\arthur\\data",
        "C:\\\\Users\\\\arthur",
        "c:/Users/arthur",
        "file:///data/x",
    ],
)
@pytest.mark.parametrize("name", ["README.md", ".eval_results/rec.yaml", "config.json", "LICENSE", "modeling.py"])
def test_the_home_of_somebody_on_another_machine_is_named(home, path, name):
    with pytest.raises(ValueError, match=f"{re.escape(name)} names a folder of some machine, '.*'. Remove it"):
        check({name: f"trained with --data {path} and more".encode()})


def test_vocabularies_may_hold_what_looks_like_a_home(home, tmp_path):
    check({"tokenizer.json": b'{"vocab": {"/home/arthur": 1}}', "pixels.bin": b"/home/arthur"})
    with pytest.raises(ValueError, match="model.safetensors names a folder of some machine, '/home/arthur/x'"):
        check({"model.safetensors": safetensors(tmp_path / "b", {"from": "/home/arthur/x"}, b"")})


def test_binary_files_are_searched_too(home, tmp_path):
    path = tmp_path / "kernel.so"
    # Across the border of two pieces.
    path.write_bytes(b"\0" * ((1 << 24) - 5) + bytes(home) + b"/kernel.cpp\0\0")
    with pytest.raises(ValueError, match=r"kernel\.so names a folder .*/zaphod/kernel\.cpp'"):
        check({"build/kernel.so": path})


def safetensors(path: Path, metadata: dict, data: bytes) -> Path:
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_of_weights_only_the_header_is_searched(home, tmp_path):
    check({"model.safetensors": safetensors(tmp_path / "a", {}, bytes(home) + b"/x")})
    with pytest.raises(ValueError, match="model.safetensors names"):
        check({"model.safetensors": safetensors(tmp_path / "b", {"from": f"{home}/x"}, b"")})


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ({"image": [{"bytes": b"1", "path": "/data/a.png"}]}, "image"),
        ({"image": [None, {"bytes": None, "path": "C:\\data\\a.png"}]}, "image"),
        ({"image_id": ["1", "/data/a.png"]}, "image_id"),
        ({"files": [[{"file_name": "file:///a.png"}]]}, "files"),
        ({"image_path": ["/data/a.png"]}, "image_path"),
        ({"fileName": ["/data/a.png"]}, "fileName"),
        ({"image_paths": [["a.png", "/data/a.png"]]}, "image_paths"),
        ({"imageFile": ["a.png", "file:///a.png"]}, "imageFile"),
        ({"meta": [{"file": "a.png", "path": "/data/a.png"}]}, "meta"),
    ],
)
def test_columns_of_a_dataset_that_name_files(home, tmp_path, rows, column):
    pq.write_table(pa.table(rows), tmp_path / "rows")
    with pytest.raises(ValueError, match=f"train.parquet has a path of a machine in its column '{column}'"):
        check({"train.parquet": tmp_path / "rows"})


def test_a_damaged_file_is_named(home, tmp_path):
    pq.write_table(pa.table({"path": ["a" * 200, "b"]}), tmp_path / "rows", compression="none")
    content = bytearray((tmp_path / "rows").read_bytes())
    content[4:60] = bytes(56)
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.parquet is damaged and cannot be read \(.*\)\. Write it again"):
        check({"train.parquet": tmp_path / "rows"})


def test_what_people_say_may_look_like_a_path(home, tmp_path):
    rows = {
        "image": [{"bytes": b"1", "path": "train/a.png"}, None],
        "image_id": ["a.png", None],
        "text": [f"Open {home}/x", "/etc/hosts"],
        "xpath": ["/html/body", None],
    }
    pq.write_table(pa.table(rows), tmp_path / "rows")
    check({"train.parquet": tmp_path / "rows"})


def test_what_is_left_out_is_listed(tmp_path):
    for name in ("README.md", "config.json", ".env", "logs/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    files = {"README.md": b"new", "config.json": tmp_path / "config.json"}
    assert left_out_of(tmp_path, files) == (".env", "logs")
