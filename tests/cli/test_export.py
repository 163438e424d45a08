"""`groma export`: from what other commands wrote to files of other tools."""

import json
import sys

import pytest

from ..exports.samples import annotated, answer, write_annotations, write_json, write_rows
from ..exports.test_sources import row
from .samples import PHOTO, TINY


@pytest.fixture
def annotations(tmp_path):
    return write_annotations(tmp_path / "annotations" / "train-00000-of-00001.parquet", [annotated()])


def test_from_a_question_to_files_of_tools(run, scene_png, tmp_path):
    assert run("caption", scene_png, "--model", TINY, "--output", tmp_path / "answer")[0] == 0
    for format, files in [
        ("coco", ["annotations/instances_default.json", "annotations/captions_default.json"]),
        ("label-studio", ["tasks.json", "config.xml"]),
        ("yolo", ["data.yaml"]),
    ]:
        captions = [] if format == "yolo" else ["--captions"]
        code, out, err = run("export", tmp_path / "answer", tmp_path / format, "--format", format, *captions)
        assert code == 0, err
        assert out.splitlines() == [str(tmp_path / format / name) for name in files]
        assert err.startswith("1 image, 6 objects, 6 labels") and ("1 caption" in err) == bool(captions)
        assert ("--image-url" in err) == (format == "label-studio")
    instances = json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())
    assert {category["name"] for category in instances["categories"]} >= {"a large red star"}
    assert (tmp_path / "yolo" / "images" / "scene.png").resolve() == scene_png.resolve()


def test_answers_of_standard_output(run, tmp_path):
    content = answer()
    del content["image"]
    path = write_json(tmp_path / "answer.json", content)
    code, _, err = run("export", path, tmp_path / "out", "--format", "coco")
    assert code == 2 and "--image" in err and not (tmp_path / "out").exists()
    code, _, err = run("export", path, tmp_path / "out", "--format", "coco", "--image", PHOTO, "--masks", "none")
    assert code == 0, err
    content = json.loads((tmp_path / "out" / "annotations" / "instances_default.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": PHOTO.name, "width": 800, "height": 601}]


def test_what_is_left_out_is_said(run, annotations, tmp_path):
    code, _, err = run("export", annotations, tmp_path / "out", "--format", "coco")
    assert code == 0 and err.splitlines() == [
        "1 image, 4 objects, 3 labels",
        "left out: phrase without a region (1), for example a.jpg: 'a cat'",
        "left out: phrase that was to be located and was not found (1), for example a.jpg: 'a bird'",
        "left out: region that nothing names; --all-regions exports it as 'object' (1), for example a.jpg: region 3",
    ]
    code, _, err = run("export", annotations, tmp_path / "all", "--format", "coco", "--all-regions", "--normalize")
    assert code == 0 and err.startswith("1 image, 5 objects, 4 labels\n") and "nothing names" not in err


def test_masks_that_nothing_has_are_told(run, annotations, tmp_path):
    path = write_annotations(tmp_path / "boxes.parquet", [annotated(masks=False)])
    for source, is_told in ((path, True), (annotations, False)):
        code, _, err = run("export", source, tmp_path / "out", "--format", "coco", "--masks", "polygon", "--overwrite")
        assert code == 0 and ("--masks polygon wrote boxes alone: no object of SOURCE has a mask." in err) == is_told


def test_labels_of_a_file(run, annotations, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("dog\nball\n")
    arguments = ["export", annotations, tmp_path / "out", "--format", "coco", "--labels", labels]
    code, _, err = run(*arguments)
    assert code == 2 and "no object could be exported: phrase without a label in --labels (4)" in err
    code, _, err = run(*arguments, "--normalize")
    assert code == 0 and err.startswith("1 image, 2 objects, 2 labels\n")
    code, _, err = run(*arguments[:-1], tmp_path / "missing.txt")
    assert code == 2 and "--labels" in err and "missing.txt" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "yolo", "--captions"], "--captions is for --format coco and label-studio, not for yolo"),
        (["--format", "yolo", "--results"], "--results is for --format coco, not for yolo"),
        (["--format", "label-studio", "--keep-image-ids"], "--keep-image-ids is for --format coco"),
        (["--format", "coco", "--image-url", "x"], "--image-url is for --format label-studio, not for coco"),
        (["--format", "coco", "--model-version", "x"], "--model-version is for --format label-studio"),
        (["--format", "yolo", "--masks", "pixels"], "YOLO has masks as polygons only"),
        (["--format", "label-studio", "--normalize"], "--normalize with label-studio needs --labels"),
        (["--format", "coco", "--min-score", "nan"], "--min-score nan is not a number"),
        (["--format", "coco", "--image-root", "missing"], "--image-root 'missing' is not a folder"),
        (["--format", "coco", "--image-root", "."], "--image-root is for --images link or copy"),
        (["--format", "coco", "--image", "missing.jpg"], "'missing.jpg' is not a file"),
        (["--format", "coco", "--image", str(PHOTO)], "--image is for answers"),
        (["--format", "coco", "--split", "test"], "--split is for datasets"),
        (["--format", "coco", "--keep-image-ids"], "--keep-image-ids needs ids that are whole numbers"),
        (["--format", "voc"], "invalid choice: 'voc'"),
        ([], "--format"),
    ],
)
def test_mistakes_are_one_sentence(run, annotations, tmp_path, options, message):
    code, out, err = run("export", annotations, tmp_path / "out", *options)
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named_with_its_extra(run, annotations, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("transformers_groma.exports.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("export", annotations, tmp_path / "out", "--format", "coco")
    assert code == 2 and 'pip install "transformers-groma[data]"' in err and len(err.splitlines()) == 1


def test_datasets(run, tmp_path):
    path = write_rows(tmp_path / "data" / "train-00000-of-00001.parquet", [row(source="coco")], "detection")
    code, _, err = run("export", path.parent, tmp_path / "out", "--format", "yolo")
    assert code == 0 and err.startswith("1 image, 4 objects, 1 label\n")
    assert (tmp_path / "out" / "images" / "a.png").is_file()
    for options, message in [
        (["--results"], "--results needs scores"),
        (["--min-score", "0.5"], "--min-score needs scores"),
        (["--captions"], "has detection rows"),
        (["--all-regions"], "has detection rows"),
    ]:
        code, _, err = run("export", path, tmp_path / "other", "--format", "coco", *options)
        assert code == 2 and message in err


def test_outputs_are_replaced_when_that_is_wanted(run, annotations, tmp_path):
    arguments = ["export", annotations, tmp_path / "out", "--format", "coco"]
    assert run(*arguments)[0] == 0
    code, _, err = run(*arguments)
    assert code == 2 and "exists and is not empty" in err and len(err.splitlines()) == 1
    assert run(*arguments, "--overwrite")[0] == 0
    code, _, err = run("export", tmp_path / "missing", tmp_path / "out", "--format", "coco")
    assert code == 2 and "missing does not exist" in err
