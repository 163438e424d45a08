"""Steps as jobs: what is resumed, made again, refused, left out."""

import json
import os
import shutil
from collections import Counter

import pyarrow.parquet as pq
import pytest

from processing.grand import depth, detect, images, job, models, objects, tags

from ...local_ray import local_ray
from ..samples import write_jpeg


@pytest.fixture
def folders(photos, tmp_path) -> list[str]:
    arguments = [str(photos), str(tmp_path / "work")]
    assert images.main([*arguments, "--shards", "2"]) == 0
    return arguments


def run_detect(folders, *more, name="a", labels=("dog", "cat")):
    return detect.main([*folders, "--name", name, "--model", "stub", "--labels", *labels, *more])


def rows(folders, step):
    found = []
    for path in sorted((images.Path(folders[1]) / step).glob("*.parquet")):
        found += pq.read_table(path).to_pylist()
    return {row["image_id"]: row for row in found}


def report(folders, step):
    paths = sorted((images.Path(folders[1]) / step).glob("train-*.report.json"))
    return [json.loads(path.read_text()) for path in paths]


def times(folders, step):
    return [path.stat().st_mtime_ns for path in sorted((images.Path(folders[1]) / step).glob("*.parquet"))]


def test_images_are_in_the_shard_of_their_name(folders):
    found = rows(folders, "images")
    assert sorted(found) == list("012345")
    assert (found["3"]["width"], found["3"]["height"], found["3"]["file_name"]) == (200, 103, "3.jpg")
    assert sum(each["rows"] for each in report(folders, "images")) == 6


def test_a_finished_step_asks_nothing(folders, stubs):
    assert run_detect(folders) == 0
    assert len(stubs.calls) == 6 and stubs.loaded == ["zero-shot-object-detection"]
    before = times(folders, "detect.a")
    assert run_detect(folders) == 0
    assert len(stubs.calls) == 6 and len(stubs.loaded) == 1 and times(folders, "detect.a") == before


def test_an_interrupted_step_keeps_what_it_has(folders, stubs):
    def interrupt():
        if len(stubs.calls) == 4:
            raise KeyboardInterrupt

    stubs.before = interrupt
    assert run_detect(folders) == 130
    assert len(rows(folders, "detect.a")) == 4
    stubs.before = lambda: None
    assert run_detect(folders) == 0
    assert len(rows(folders, "detect.a")) == 6 and len(stubs.calls) == 6


def test_rows_are_saved_on_the_way(folders, stubs, monkeypatch):
    monkeypatch.setattr(job, "SAVE_SECONDS", 0.0)
    counts = []
    stubs.before = lambda: counts.append(len(rows(folders, "detect.a")))
    assert run_detect(folders) == 0
    assert counts == list(range(6))


def test_a_new_image_is_the_only_one_that_is_asked_about(folders, photos, stubs):
    run_detect(folders)
    write_jpeg(photos / "new.jpg", 90, 80)
    assert images.main([*folders, "--shards", "2"]) == 0 and run_detect(folders) == 0
    assert len(stubs.calls) == 7 and "new" in rows(folders, "detect.a")


def test_an_image_that_changed_is_asked_about_again(folders, photos, stubs):
    run_detect(folders)
    write_jpeg(photos / "2.jpg", 50, 80)
    assert images.main([*folders, "--shards", "2"]) == 0 and run_detect(folders) == 0
    assert len(stubs.calls) == 7 and rows(folders, "images")["2"]["width"] == 50


def test_an_image_that_only_looks_newer_is_not(folders, photos, stubs):
    run_detect(folders)
    (photos / "2.jpg").touch()
    assert images.main([*folders, "--shards", "2"]) == 0 and run_detect(folders) == 0
    assert len(stubs.calls) == 6


def test_an_image_that_is_gone_is_dropped_everywhere(folders, photos, stubs):
    run_detect(folders)
    (photos / "2.jpg").unlink()
    assert images.main([*folders, "--shards", "2"]) == 0 and run_detect(folders) == 0
    assert "2" not in rows(folders, "images") and "2" not in rows(folders, "detect.a") and len(stubs.calls) == 6


def test_an_image_that_changed_behind_the_index_is_left_out(folders, photos, stubs, capsys):
    write_jpeg(photos / "2.jpg", 50, 80)
    assert run_detect(folders) == 0
    assert sorted(rows(folders, "detect.a")) == list("01345")
    assert "run the step `images` again (1)" in capsys.readouterr().err


def test_another_setting_is_an_error_and_changes_nothing(folders, stubs, capsys):
    run_detect(folders)
    before = times(folders, "detect.a")
    assert run_detect(folders, labels=["dog"]) == 2
    message = capsys.readouterr().err
    assert "what differs: --labels" in message and "--overwrite" in message
    assert times(folders, "detect.a") == before and len(stubs.calls) == 6
    # What rows do not depend on is no such setting.
    assert run_detect(folders, "--batch-size", "2", "--device", "cpu") == 0


def test_overwrite_replaces_rows_of_other_settings(folders, stubs):
    run_detect(folders)
    assert run_detect(folders, "--overwrite", labels=["dog"]) == 0
    found = rows(folders, "detect.a")
    assert all([each["label"] for each in row["detections"]] == ["dog"] for row in found.values())


def test_a_model_that_does_not_load_costs_no_rows(folders, stubs, monkeypatch):
    run_detect(folders)
    before = rows(folders, "detect.a")

    def fail(args):
        raise OSError("no such model")

    monkeypatch.setattr(models, "load_pipeline", fail)
    assert run_detect(folders, "--overwrite", labels=["dog"]) == 2
    assert rows(folders, "detect.a") == before


def test_rows_follow_what_they_are_made_from(folders, stubs):
    run_detect(folders)
    assert objects.main(folders) == 0
    assert len(rows(folders, "objects")["0"]["objects"]) == 2
    run_detect(folders, "--overwrite", labels=["dog"])
    assert objects.main(folders) == 0
    assert len(rows(folders, "objects")["0"]["objects"]) == 1


def test_a_model_that_fails_on_an_image_leaves_it_out_until_it_does_not(folders, stubs, capsys):
    def fail():
        if len(stubs.calls) == 3 and not failed:
            failed.append(True)
            raise ValueError("the image has 0 patches, got [1, 2]")

    failed = []
    stubs.before = fail
    assert run_detect(folders) == 0
    assert len(rows(folders, "detect.a")) == 5
    assert "ValueError: the image has … patches, got […] (1)" in capsys.readouterr().err
    assert run_detect(folders) == 0
    assert len(rows(folders, "detect.a")) == 6 and len(stubs.calls) == 6


def test_a_mistake_of_the_program_stops_the_step(folders, stubs):
    def fail():
        if len(stubs.calls) == 2:
            raise AttributeError("a typo")

    stubs.before = fail
    with pytest.raises(AttributeError):
        run_detect(folders)
    assert len(rows(folders, "detect.a")) == 2


def test_jobs_of_single_shards_make_the_same_rows(folders, stubs, tmp_path):
    run_detect(folders)
    for shard in ("0", "1"):
        assert run_detect(folders, "--shard", shard, name="b") == 0
    whole, parts = rows(folders, "detect.a"), rows(folders, "detect.b")
    assert whole == parts
    assert run_detect(folders, "--shard", "2", name="c") == 2


def test_a_bad_image_is_counted_and_comes_in_when_it_is_whole(folders, photos, stubs):
    (photos / "bad.jpg").write_bytes(b"no image")
    assert images.main([*folders, "--shards", "2"]) == 0
    assert [each["skipped"] for each in report(folders, "images") if each["skipped"]] == [{"not an image": 1}]
    write_jpeg(photos / "bad.jpg", 30, 30)
    assert images.main([*folders, "--shards", "2"]) == 0
    assert "bad" in rows(folders, "images")


def test_an_image_that_cannot_be_opened_is_counted(folders, photos, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    shutil.copy(photos / "0.jpg", photos / "locked.jpg")
    monkeypatch.setattr(images, "read_image_bytes", refused)
    assert images.main([*folders, "--shards", "2"]) == 0
    assert {reason for each in report(folders, "images") for reason in each["skipped"]} == {
        "PermissionError: Permission denied"
    }
    assert "locked" not in rows(folders, "images") and "0" in rows(folders, "images")


def test_names_that_no_column_can_hold_and_links_that_lead_out(folders, photos, tmp_path):
    write_jpeg(tmp_path / "elsewhere.jpg", 30, 30)
    (photos / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    try:
        shutil.copy(photos / "0.jpg", photos / os.fsdecode(b"half-\xff.jpg"))
    except OSError:
        pytest.skip("the file system has no such names")
    assert images.main([*folders, "--shards", "2"]) == 0
    assert sorted(rows(folders, "images")) == list("012345")
    reasons = Counter()
    for each in report(folders, "images"):
        reasons.update(each["skipped"])
    assert reasons["missing image"] == 1 and sum("leads out" in reason for reason in reasons) == 1


def test_images_that_share_a_name_are_left_out(folders, photos):
    write_jpeg(photos / "below" / "2.jpeg", 30, 30)
    assert images.main([*folders, "--shards", "2"]) == 0
    assert "2" not in rows(folders, "images")
    reasons = [reason for each in report(folders, "images") for reason in each["skipped"]]
    assert reasons == ["images with the same name but for folder and suffix"]


def test_the_number_of_shards_is_one_for_all(folders, capsys):
    assert images.main([*folders, "--shards", "3"]) == 2
    assert "has 2 shards" in capsys.readouterr().err


def test_a_step_says_what_must_run_before_it(photos, tmp_path, stubs, capsys):
    arguments = [str(photos), str(tmp_path / "work")]
    assert run_detect(arguments) == 2
    assert "Run the step `images` first" in capsys.readouterr().err
    assert images.main(arguments) == 0 and objects.main(arguments) == 2
    assert "no rows of the step `detect`. Run it before `objects`" in capsys.readouterr().err
    assert depth.main(["no/such/folder", arguments[1], "--model", "stub"]) == 2
    assert "no/such/folder, is not a folder" in capsys.readouterr().err


def test_an_image_lacks_what_one_detector_has_not_seen(folders, stubs, capsys):
    run_detect(folders)
    assert run_detect(folders, "--shard", "0", name="b") == 0
    assert objects.main(folders) == 0
    assert set(rows(folders, "objects")) == set(rows(folders, "detect.b"))
    assert "no row of the step `detect.b`" in capsys.readouterr().err


def test_a_detector_that_did_not_run_is_refused(folders, stubs, capsys):
    run_detect(folders)
    assert objects.main([*folders, "--detectors", "a", "x"]) == 2
    assert "--detectors names 'x', but the step `detect` ran as a." in capsys.readouterr().err


def test_a_file_that_was_cut_is_made_again(folders, stubs):
    run_detect(folders)
    path = next((images.Path(folders[1]) / "detect.a").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    assert run_detect(folders) == 0
    assert len(rows(folders, "detect.a")) == 6 and 6 < len(stubs.calls) < 12


def test_names_of_runs_stay_in_the_work_folder(folders, stubs):
    with pytest.raises(SystemExit):
        run_detect(folders, name="../a")


def test_a_work_folder_without_images_has_no_row(tmp_path):
    (tmp_path / "photos").mkdir()
    assert images.main([str(tmp_path / "photos"), str(tmp_path / "work")]) == 1


@pytest.mark.slow  # Ray takes long to start, and gives up on a busy machine
def test_ray_makes_the_same_rows(folders, stubs, capsys):
    pytest.importorskip("ray")
    assert run_detect(folders) == 0
    assert objects.main(folders) == 0
    plain, reports = rows(folders, "objects"), report(folders, "objects")
    for path in (images.Path(folders[1]) / "objects").iterdir():
        path.unlink()
    with local_ray():
        # As many workers as CPUs, so that none is left for anything else.
        assert objects.main([*folders, "--engine", "ray", "--workers", "2"]) == 0
        assert rows(folders, "objects") == plain and report(folders, "objects") == reports
        assert objects.main([*folders, "--engine", "ray", "--overwrite", "--detectors", "x"]) == 2
        assert "--detectors names 'x'" in capsys.readouterr().err


def test_ray_and_an_endpoint_do_not_go_together(folders, capsys):
    arguments = [*folders, "--engine", "ray", "--task", "endpoint", "--model", "stub"]
    assert tags.main(arguments) == 2
    assert "--engine ray does not go with --task endpoint" in capsys.readouterr().err
