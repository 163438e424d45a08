"""The whole pipeline on two photos with stub models; `test_docs.py` has it with groma-tiny."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageOps

from processing import grand_dataset
from processing.grand.__main__ import STEPS, main, plan
from transformers_groma.masks import rle_to_mask

from .stub_writer import stub_writer
from .test_masks import filling  # noqa: F401

REPOSITORY = Path(__file__).parents[3]
REAL = REPOSITORY.parent / "shared" / "realdata" / "grand"
STUB = {"model": "stub"}


@pytest.fixture
def two_photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    shutil.copy(REPOSITORY / "tests" / "fixtures" / "photos" / "cat_and_dog.jpg", tmp_path / "photos")
    with Image.open(tmp_path / "photos" / "cat_and_dog.jpg") as image:
        ImageOps.mirror(image).save(tmp_path / "photos" / "sa_2.jpg")
    return tmp_path / "photos"


def run(photos, tmp_path, steps, *more):
    config = tmp_path / "grand.yaml"
    config.write_text(yaml.safe_dump({"steps": steps}))
    return main([str(photos), str(tmp_path / "work"), "--config", str(config), *more])


def annotations(tmp_path):
    return {path.name: json.loads(path.read_text()) for path in (tmp_path / "work" / "annotations").iterdir()}


def all_steps(server):
    endpoint = {"task": "endpoint", "model": "stub", "base-url": server.url}
    return {
        "images": {"shards": 2},
        "landmark": STUB,
        "depth": STUB,
        "tags": endpoint,
        "detect": {"first": {**STUB, "labels": ["rug"]}, "second": STUB},
        "objects": {"detectors": ["first", "second"], "lone-score": 1},
        "attributes": STUB,
        "captions": {"short": STUB},
        "ground_phrases": STUB,
        "dense_caption": endpoint,
        "extra_context": endpoint,
        "masks": {"model": "org/sam"},
    }


def test_all_steps_with_stub_models(two_photos, tmp_path, stubs, filling):  # noqa: F811
    with stub_writer() as server:
        assert run(two_photos, tmp_path, all_steps(server)) == 0
        written, asked, calls = annotations(tmp_path), len(server.requests), len(stubs.calls)
        assert sorted(written) == ["cat_and_dog.json", "sa_2.json"]
        (annotation,) = written["sa_2.json"].values()
        assert list(written["sa_2.json"]) == ["sa_2.jpg"]

        # Both detectors look for the tags, "star" and "heart"; the first one was told of rugs, too. The phrase of the
        # caption, "a thing", is where no object is.
        by_label = {each["label"]: each for each in annotation["objects"]}
        assert sorted(by_label) == ["heart", "star"]
        assert [each["label"] for each in annotation["floating_objects"]] == ["rug", "thing"]
        thing = annotation["floating_objects"][1]["id"]
        assert annotation["relationships"] == {
            "object_ids": [],
            "floating_object_ids": [thing],
            "grounding": [{"phrase": "a thing", "object_ids": [thing]}],
        }
        heart = by_label["heart"]
        assert heart["bbox"] == [0.0, 10.0, 18.0, 60.0] and heart["segmentation_source"] == "sam"
        mask = rle_to_mask(heart["segmentation"])
        assert mask.shape == (601, 800) and mask.sum() == 18 * 50
        # The map is the row of the pixel; its median in the box, at half the resolution of the photo.
        assert heart["depth"] == pytest.approx(34.5, abs=2)
        assert heart["attributes"] == ["a thing"]
        assert annotation["landmark"] == {"category": "Indoor scene", "fine_category": "Living space"}
        (caption,) = annotation["short_captions"]
        box = annotation["floating_objects"][1]["bbox"]
        detail = {"phrase": "a thing", "tokens_positive": [0, 7], "id": thing, "bbox": box}
        assert caption == {"caption": "a thing", "details": [detail]}
        assert annotation["additional_context"].startswith("Much is known about")
        dense = annotation["dense_caption"]
        assert "unicorn" not in dense["caption"] and dense["details"]
        for detail in dense["details"]:
            start, end = detail["tokens_positive"]
            assert dense["caption"][start:end] == detail["phrase"]
            assert len(detail["ids"]) == len(detail["bbox"]) > 0

        # Nothing is left to do.
        assert run(two_photos, tmp_path, all_steps(server)) == 0
        assert (len(server.requests), len(stubs.calls), annotations(tmp_path)) == (asked, calls, written)


def test_the_layout_is_that_of_the_released_files(two_photos, tmp_path, stubs, filling):  # noqa: F811
    if not REAL.is_dir():
        pytest.skip("the real files of GranD are not beside the checkout")
    with stub_writer() as server:
        assert run(two_photos, tmp_path, all_steps(server)) == 0
    (ours,) = annotations(tmp_path)["sa_2.json"].values()
    (theirs,) = json.loads((REAL / "sa_310343.json").read_text()).values()
    # Level 2 of GranD; its captions became `short_captions` later. What is not here: GranD's affordances, and
    # attributes without an object.
    assert set(theirs) - set(ours) == {"affordances", "floating_attributes", "captions"}
    for name in ("relationships", "landmark"):
        assert set(ours[name]) == set(theirs[name])
    assert set(ours["objects"][0]) >= set(theirs["objects"][0]) - {"median_depth"}
    assert [type(value) for value in ours["objects"][0]["bbox"]] == [float] * 4


def test_what_was_written_can_be_read(two_photos, tmp_path, stubs, filling):  # noqa: F811
    with stub_writer() as server:
        assert run(two_photos, tmp_path, all_steps(server)) == 0
    folders = ["--images", str(two_photos), "--annotations", str(tmp_path / "work" / "annotations")]
    for task in ("dense-caption", "grounded-caption", "referring-segmentation", "context", "detection"):
        arguments = [*folders, "--task", task, "--output", str(tmp_path / task)]
        assert grand_dataset.main(arguments) == 0, task
        (path,) = (tmp_path / task).glob("*.parquet")
        (text,) = (tmp_path / task).glob("*.report.json")
        report = json.loads(text.read_text())
        # Nothing that was written is left out on reading.
        assert pq.read_metadata(path).num_rows == 2 and not report["skipped"] and "parts" not in report, task


def test_some_levels_alone(two_photos, tmp_path, stubs):
    assert run(two_photos, tmp_path, {"detect": {"a": {**STUB, "labels": ["dog"]}}}) == 0
    folders = {path.name for path in (tmp_path / "work").iterdir() if path.is_dir()}
    assert folders == {"images", "detect.a", "objects"}


def test_changed_settings_end_the_run(two_photos, tmp_path, stubs, capsys):
    assert run(two_photos, tmp_path, {"detect": {"a": {**STUB, "labels": ["dog"]}}}) == 0
    changed = {"detect": {"a": {**STUB, "labels": ["cat"]}}}
    assert run(two_photos, tmp_path, changed) == 2
    assert "what differs: --labels" in capsys.readouterr().err
    assert run(two_photos, tmp_path, changed, "--overwrite") == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("steps: [images]", "must have one key, `steps`"),
        ("images: {}", "must have one key, `steps`"),
        ("steps: {paint: {}}", "names the step `paint`. The steps are images, landmark"),
        ("steps: {depth: }", "the step `depth` needs options"),
        ("steps: {depth: 3}", "`depth` must be options with their values, got 3"),
        ("steps: {detect: {model: x}}", "below `detect` there must be names"),
        ("steps: {depth: {modell: x}}", "step `depth`: "),
        ("steps: {depth: {model: x, values: blue}}", "step `depth`: argument --values: invalid choice: 'blue'"),
        ("steps: {detect: {../a: {model: x}}}", "step `detect`: argument --name: must be a name of letters"),
        ("steps: {a: b: c}", "is not YAML"),
    ],
)
def test_wrong_configurations_are_refused_before_anything_runs(two_photos, tmp_path, capsys, config, message):
    path = tmp_path / "grand.yaml"
    path.write_text(config)
    assert main([str(two_photos), str(tmp_path / "work"), "--config", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_values_of_options():
    steps = {"masks": {"model": "m", "objects_only": True, "device": None, "call": {"a": 1}}}
    assert plan({"steps": steps}, Path("x"))[-1] == ("masks", ["--model", "m", "--objects-only", "--call", '{"a": 1}'])
    assert plan({"steps": {"masks": {"objects_only": False}}}, Path("x"))[-1] == ("masks", [])


def test_help_lists_the_steps_in_their_order(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    lines = capsys.readouterr().out.split("The steps, in their order:")[1].split("positional")[0].split("\n")
    assert end.value.code == 0 and [line.split()[0] for line in lines if line.strip()] == list(STEPS)
