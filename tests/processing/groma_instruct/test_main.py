"""Building Groma Instruct: rows from answers, and all steps against a local server."""

import json
from collections import Counter

from PIL import Image

from processing import groma_instruct_dataset
from processing.groma_instruct import files
from processing.groma_instruct.__main__ import main
from transformers_groma._jsonl import read_jsonl

from ...chat_server import failure
from ..samples import read_rows
from .samples import GOOD, answer, as_text, options, write_source


def test_parse(work, stub, capsys):
    stub.replies = {
        "1": [answer("I'm sorry, but I can't help with that.")],
        "2": [answer(as_text(("What?", "<p>It</p> [9].")))],
        "3": [answer("", finish_reason="stop")],
        "4": [answer(json.dumps(GOOD)[:-5], finish_reason="length")],
        "5": [answer(None, message={"role": "assistant", "content": None, "refusal": "It is a person."})],
    }
    assert main(["query", *options(work, stub)]) == 0
    assert main(["parse", *options(work, None, "--preview", "4")]) == 0
    with Image.open(work / files.DATASET / "preview-train.png") as preview:
        assert preview.width == 448 + 2 * 12
    assert "parse: 1 conversations from 6 answers; rejected 5: " in capsys.readouterr().err
    report = json.loads((work / files.PARSE_REPORT).read_text())
    assert (report["answers"], report["conversations"], report["outdated_answers"]) == (6, 1, 0)
    assert report["rejected"] == {
        "refusal": 2,
        "unknown region number": 1,
        "empty answer": 1,
        "cut off at the token limit": 1,
    }
    assert report["examples"][0] == ["1", "refusal"]
    assert [entry["image_id"] for entry in read_jsonl(work / files.REJECTED)] == ["1", "2", "3", "4", "5"]

    assert json.loads((work / files.RELEASED).read_text()) == [
        {
            "file_name": "0.jpg",
            "width": 200,
            "height": 160,
            "boxes": [[0, 0, 60, 60], [100, 0, 60, 60], [10, 100, 30, 30]],
            "conversation": [
                {"value": "What is there?", "box_inds": []},
                {
                    "value": "<p>A cat</p> <roi><ground_box></roi> and <p>two dogs</p> "
                    "<roi><ground_box><ground_box></roi> rest.",
                    "box_inds": [0, 1, 2],
                },
                {"value": "What does <roi><refer_box></roi> wear?", "box_inds": [2]},
                {"value": "<p>It</p> <roi><ground_box></roi> wears a collar.", "box_inds": [2]},
            ],
        }
    ]
    (row,) = read_rows(work / files.DATASET, "conversation")
    assert row["image"].size == (200, 160)
    assert (row["image_id"], row["source"]) == ("0", "groma_instruct")
    assert row["boxes_xyxy"] == [[0, 0, 60, 60], [100, 0, 160, 60], [10, 100, 40, 130]]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    parts = [
        [(part["type"], part["text"], part["boxes"]) for part in message["content"]] for message in row["messages"]
    ]
    assert parts[0] == [("image", "", []), ("text", "[grounding]What is there?", [])]
    assert parts[1] == [
        ("phrase", "A cat", [0]),
        ("text", " and ", []),
        ("phrase", "two dogs", [1, 2]),
        ("text", " rest.", []),
    ]
    assert parts[2] == [("text", "[grounding]What does ", []), ("region", "", [2]), ("text", " wear?", [])]


def test_parse_keeps_shards_of_the_same_answers_only(work, stub):
    assert main(["query", *options(work, stub, "--limit", "4")]) == 0
    assert main(["parse", *options(work, None, "--shards", "2")]) == 0
    shards = sorted((work / files.DATASET).glob("*.parquet"))
    times = [shard.stat().st_mtime_ns for shard in shards]
    assert len(read_rows(work / files.DATASET, "conversation")) == 4
    shards[1].unlink()  # a kill between the shards
    assert main(["parse", *options(work, None, "--shards", "2")]) == 0
    assert shards[0].stat().st_mtime_ns == times[0]
    assert sorted((work / files.DATASET).glob("*.parquet")) == shards

    assert main(["query", *options(work, stub)]) == 0
    assert main(["parse", *options(work, None, "--shards", "3")]) == 0
    assert len(read_rows(work / files.DATASET, "conversation")) == 6
    assert len(list((work / files.DATASET).glob("*.parquet"))) == 3


def test_parse_without_answers(work, stub, capsys):
    assert main(["parse", *options(work, None)]) == 1
    assert "holds no answers; run the step `query`" in capsys.readouterr().err
    stub.replies = {str(number): [answer("Nice.")] for number in range(6)}
    assert main(["query", *options(work, stub)]) == 0
    assert main(["parse", *options(work, None)]) == 1
    assert "rejected 6: no JSON (6)" in (error := capsys.readouterr().err) and "no answer is usable" in error


def test_all_steps(tmp_path, stub, capsys):
    """From the files of Visual Genome to rows; a second run resumes where the first one failed."""
    source = write_source(tmp_path, range(3))
    service = ["--base-url", stub.url, "--api-key-env", "STUB_KEY", "--model", "stub", "--max-retries", "1"]
    stub.replies = {"1": [failure(500), failure(500), answer()]}
    assert main(["all", *source, *service]) == 1
    work = tmp_path / "work"
    assert "query: 2 new answers, 2 of 3 images answered; 1 failed" in capsys.readouterr().err
    assert read_rows(work / files.DATASET, "conversation")["image_id"] == ["0", "2"]

    assert main(["all", *source, *service]) == 0
    assert Counter(stub.asked()) == {"0": 1, "1": 3, "2": 1}
    rows = read_rows(work / files.DATASET, "conversation")
    assert rows["image_id"] == ["0", "1", "2"]

    # The JSON is read by the script for the released one, with the same rows.
    arguments = ["--images", str(tmp_path / "images"), "--annotations", str(work / files.RELEASED)]
    assert groma_instruct_dataset.main([*arguments, "--output", str(tmp_path / "again")]) == 0
    again = read_rows(tmp_path / "again", "conversation")
    assert again.remove_columns("image").to_list() == rows.remove_columns("image").to_list()


def test_all_steps_without_a_server(tmp_path, stub, capsys):
    source = write_source(tmp_path, range(1))
    stub.server.shutdown()
    stub.server.server_close()
    service = ["--base-url", stub.url, "--model", "stub", "--max-retries", "0"]
    assert main(["all", *source, *service]) == 1
    error = capsys.readouterr().err
    assert "1 failed" in error and "holds no answers" in error
