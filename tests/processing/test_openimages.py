"""OpenImages boxes to detection rows."""

import pytest

from processing import openimages

from .samples import read_report, read_rows, real_sample, write_jpeg
from .wild import CORNERS, SCRIPTS, run, write_openimages

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)


def write_table(path, *lines):
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def test_corners_labels_and_groups(tmp_path):
    for name, orientation in [("a", None), ("b", None), ("c", 3), ("d", None)]:
        write_jpeg(tmp_path / "images" / f"{name}.jpg", 80, 40, orientation)
    table = write_table(
        tmp_path / "boxes.csv",
        "a,xclick,/m/01g317,1,0.25,0.5,0.125,0.75,0,0,0,0,0",
        "a,xclick,/m/04yx4,1,0.25,0.5,0.125,0.75,0,0,0,0,0",  # the same object, another label
        "a,xclick,/m/04yx4,1,0,1,0,1,0,0,1,0,0",  # a group
        "b,xclick,/m/04yx4,1,0,1,0,1,0,0,1,0,0",
        "c,xclick,/m/04yx4,1,0,1,0,1,0,0,0,0,0",
        "d,xclick,/m/04yx4,1,oops,1,0,1,0,0,0,0,0",
        "e,xclick,/m/04yx4,1,0,1,0,1,0,0,0,0,0",
        "d,xclick",
        "a,activemil,/m/01g317,1,0.5,1.25,0,0.5,0,0,0,0,0",
    )
    output = tmp_path / "rows"
    arguments = ["--images", str(tmp_path / "images"), "--annotations", str(table), "--output", str(output)]
    assert openimages.main(arguments) == 0
    rows = read_rows(output, "detection")
    assert rows["image_id"] == ["a"] and rows["source"] == ["coco"]
    assert rows["boxes_xyxy"] == [[[20.0, 5.0, 40.0, 30.0], [40.0, 0.0, 80.0, 20.0]]]
    assert rows["crowd_boxes_xyxy"] == [[[0.0, 0.0, 80.0, 40.0]]]
    report = read_report(output)
    examples = {}
    for name, reason in report["examples"]:
        examples.setdefault(name, []).append(reason)
    assert examples["b.jpg"] == ["no boxes"] and examples["e.jpg"] == ["missing image"]
    assert "pass `--boxes-of upright` or `--boxes-of stored`" in examples["c.jpg"][0]
    assert "no boxes" in examples["d.jpg"] and report["parts"] == {"box is not four finite numbers": 2}


def test_real_row(tmp_path):
    """The real file's order of columns, XMin,XMax,YMin,YMax; an image of another size stands in for the photo."""
    table = real_sample("openimages") / "oidv6-train-annotations-bbox_one_row.csv"
    write_jpeg(tmp_path / "images" / "0001eeaf4aed83f9.jpg", 1000, 800)
    output = tmp_path / "rows"
    arguments = ["--images", str(tmp_path / "images"), "--annotations", str(table), "--output", str(output)]
    assert openimages.main(arguments) == 0
    rows = read_rows(output, "detection")
    assert rows[0]["boxes_xyxy"] == [pytest.approx([22.673031, 56.8306, 964.2005, 640.437176])]


def test_another_table_is_an_error(tmp_path, capsys):
    (tmp_path / "boxes.csv").write_text("ImageID,Label\na,b\n")
    arguments = [
        "--images",
        str(tmp_path),
        "--annotations",
        str(tmp_path / "boxes.csv"),
        "--output",
        str(tmp_path / "rows"),
    ]
    assert openimages.main(arguments) == 2
    assert "no column IsGroupOf, XMax, XMin, YMax, YMin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("a,0.1,0.2,0.6", [["a", "b"]]),
        ("a,x,0.2,0.6,0.5,0", [["a", "b"]]),
        ("a,nan,0.2,0.6,0.5,0", [["a", "b"]]),
        ("a,4,6,24,15,0", [["a", "b"]]),
        ("a,-1,0.2,0.6,0.5,0", [["a", "b"]]),
        (",0.1,0.2,0.6,0.5,0", [["a", "b"]]),
        ("../a,0.1,0.2,0.6,0.5,0", [["a", "b"]]),
    ],
)
def test_a_wrong_line_of_a_table_is_left_out_alone(images, line, rows):
    arguments = write_openimages(images)
    path = images / "a.csv"
    path.write_text(path.read_text() + line + "\n")
    outcome = run(SCRIPTS["openimages"], images, arguments)
    assert [row["image_id"] for row in outcome.rows] == ["a", "b"] and sum(outcome.reasons.values()) == 1
    assert outcome.boxes == [[pytest.approx(CORNERS)]] * 2


def test_a_table_with_a_nul_is_named(images, capsys):
    arguments = write_openimages(images)
    (images / "a.csv").write_text((images / "a.csv").read_text() + "a\0b,1\n" + "x" * 200_000)
    assert run(SCRIPTS["openimages"], images, arguments).status in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
