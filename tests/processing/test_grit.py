"""GRIT: nested expressions, boxes as fractions."""

import json

import pytest

from processing import grit
from transformers_groma.data.columns import phrase_part, text_part

from . import wild
from .samples import read_report, read_rows, real_sample, write_jpeg, write_json
from .wild import SCRIPTS, write_grit

CAPTION = "a red hanger with a paper cover"


def record(**changes) -> dict:
    whole, cover = [0.1, 0.2, 0.9, 1.0, 0.8], [0.5, 0.5, 0.7, 0.6, 0.7]
    record = {
        "filename": "a.jpg",
        "caption": CAPTION,
        "ref_exps": [[18, 31, *cover], [0, 31, *whole]],
        "noun_chunks": [[18, 31, *cover], [0, 12, *whole]],
    }
    return record | changes


def run(folder, *records, name: str = "grit.json") -> int:
    write_jpeg(folder / "images" / "a.jpg", 40, 20)
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in records) + "\n")
    else:
        write_json(path, list(records))
    return grit.main(
        ["--images", str(folder / "images"), "--annotations", str(path), "--output", str(folder / "rows")]
    )


def test_expressions_that_hold_others_give_way_to_their_noun_chunks(tmp_path):
    assert run(tmp_path, record()) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["messages"][1]["content"] == [
        phrase_part("A red hanger", [0]),
        text_part(" with "),
        phrase_part("a paper cover", [1]),
    ]
    assert row["boxes_xyxy"] == [pytest.approx([4, 4, 36, 20]), pytest.approx([20, 10, 28, 12])]
    assert (row["image_id"], row["source"]) == ("a", "grit")


def test_expressions_that_hold_no_other_stay_whole(tmp_path):
    whole = record(ref_exps=[[0.0, 31.0, 0.1, 0.2, 0.9, 1.0]])
    unknown = record(noun_chunks=[])
    two = record(ref_exps=[[2, 12, 0, 0, 0.5, 0.5], [2, 12, 0.5, 0.5, 1, 1]])
    assert run(tmp_path, whole, unknown, two) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    answers = [row["messages"][1]["content"] for row in rows]
    assert answers[0] == [phrase_part(CAPTION.capitalize(), [0])]
    assert answers[1] == [phrase_part(CAPTION.capitalize(), [0])]  # the longest stands
    assert rows[1]["boxes_xyxy"] == [pytest.approx([4, 4, 36, 20])]
    assert answers[2] == [text_part("A "), phrase_part("red hanger", [0, 1]), text_part(" with a paper cover")]


def test_one_bad_line_never_stops_the_job(tmp_path):
    lines = [
        "{half",
        record(),
        record(filename="b.jpg"),
        record(ref_exps=[]),
        record(ref_exps=[[0, 99, 0, 0, 1, 1]]),
        record(ref_exps=[[0, 9, 0, 0, 30, 20]]),
        record(ref_exps=[[0, 9, 0, 0]]),
        record(ref_exps=[[0, 9, 0.5, 0, 0.5, 1]]),
        record(caption="an <image>"),
        {"filename": "a.jpg"},
        "[1, 2]",
        "5",
        "",
    ]
    assert run(tmp_path, *lines, name="grit.jsonl") == 0
    assert len(read_rows(tmp_path / "rows", "conversation")) == 1
    report = read_report(tmp_path / "rows")
    assert report["records"] == 12
    assert report["skipped"] == {
        "not a JSON object": 3,
        "missing image": 1,
        "no expression with a box": 5,
        "text holds a token of the model": 1,
        "no text": 1,
    }
    assert report["parts"] == {
        "expression is not inside its caption": 1,
        "the box of the expression is not in fractions of the image": 1,
        "expression is not [start, end, x1, y1, x2, y2]": 1,
        "box is empty: its width or height is zero or negative": 1,
    }


def test_a_file_of_lines_must_be_named_so(tmp_path, capsys):
    path = write_json(tmp_path / "a.json", {"filename": "a.jpg"})
    assert grit.main(["--images", str(tmp_path), "--annotations", str(path), "--output", str(tmp_path / "rows")]) == 2
    assert "is not a list of records" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["00037", "."])
def test_real_record(tmp_path, folder):
    annotations = real_sample("grit") / "grit_coyo_sample.jsonl"
    arguments = ["--images", str(tmp_path), "--annotations", str(annotations)]
    assert grit.main([*arguments, "--output", str(tmp_path / "none")]) == 1
    assert read_report(tmp_path / "none")["skipped"] == {"missing image": 1}

    write_jpeg(tmp_path / folder / "000373938.jpg", 1024, 693)
    assert grit.main([*arguments, "--output", str(tmp_path / "rows")]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["messages"][1]["content"] == [
        phrase_part("A wire hanger", [0]),
        text_part(" with "),
        phrase_part("a paper cover", [1]),
        text_part(" that reads we heart our customers"),
    ]
    assert row["boxes_xyxy"][0] == pytest.approx([19.888, 19.150, 982.354, 671.841], abs=1e-3)
    assert row["boxes_xyxy"][1] == pytest.approx([20.116, 215.204, 985.307, 665.519], abs=1e-3)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (None, "expression is not [start, end"),
        ([0, 5, 0.1], "expression is not [start, end"),
        (["a", 5, 0, 0, 1, 1], "expression is not [start, end"),
        ([0.5, 5, 0, 0, 1, 1], "expression is not [start, end"),
        ([0, 5, 0, 0, 1, None], "expression is not [start, end"),
        ([0, 5, 0, 0, 1, float("nan")], "expression is not [start, end"),
        ([0, 99, 0, 0, 1, 1], "expression is not inside its caption"),
        ([3, 3, 0, 0, 1, 1], "expression is not inside its caption"),
        ([0, 5, 0, 0, 20, 1], "the box of the expression is not in fractions"),
        ([0, 5, -0.2, 0, 1, 1], "the box of the expression is not in fractions"),
        ([0, 5, 0.5, 0, 0.5, 1], "box is empty"),
    ],
)
def test_a_wrong_expression_is_left_out_alone(images, expression, reason):
    arguments = write_grit(images)
    lines = [json.loads(line) for line in (images / "a.jsonl").read_text().splitlines()]
    lines[0]["ref_exps"].append(expression)
    (images / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    outcome = wild.run(SCRIPTS["grit"], images, arguments)
    assert len(outcome.rows) == 2
    [(found, count)] = outcome.reasons.items()
    assert found.startswith(reason) and count == 1 and found in outcome.report["parts"]


@pytest.mark.parametrize("line", ["[" * 100_000, "3", "null", '{"caption": 1, "caption": 2}', '"text"', "{"])
def test_a_wrong_line_is_left_out_alone(images, line):
    arguments = write_grit(images)
    (images / "a.jsonl").write_text(f"{line}\n" + (images / "a.jsonl").read_text())
    outcome = wild.run(SCRIPTS["grit"], images, arguments)
    assert len(outcome.rows) == 2 and sum(outcome.report["skipped"].values()) == 1
