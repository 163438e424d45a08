"""`groma annotate` with the tiny models: the same answers as the verbs, from every source, with every task."""

import json
import re
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset

from transformers_groma import GromaForRegionProposal, GromaImageProcessor, _jsonl
from transformers_groma.annotation.annotator import Annotator
from transformers_groma.annotation.prepared_images import prepare_image
from transformers_groma.annotation.sources.source_images import SourceImage
from transformers_groma.annotation.tasks import AnnotationTasks
from transformers_groma.masks import rle_to_mask

from .samples import GLAMM, TINY, files_of, opened, png, rows_of, sample, scene, write_rows, write_tar

SHORT = ("--max-new-tokens", "24")


def boxes_of(row, ids):
    return torch.tensor([region.box_xyxy for region in row.regions_with_ids(ids)]).reshape(-1, 4)


def same_phrases(row, answer):
    """Whether a row has the phrases of a verb's answer, with their boxes."""
    assert (row.text, row.markup) == (answer.text, answer.markup)
    assert [(phrase.text, (phrase.start, phrase.end)) for phrase in row.phrases] == [
        (phrase.text, phrase.span) for phrase in answer.phrases
    ]
    for phrase, expected in zip(row.phrases, answer.phrases, strict=True):
        torch.testing.assert_close(boxes_of(row, phrase.region_ids), expected.boxes, atol=1e-3, rtol=0)


def test_answers_are_those_of_the_verbs(annotate, groma, tmp_path):
    write_rows(tmp_path / "rows.parquet", range(3))
    code, said = annotate(
        *(
            tmp_path / "rows.parquet",
            tmp_path / "out",
            *SHORT,
            "--caption",
            "--locate",
            "circles",
            "--locate",
            "stars",
        ),
        *("--describe", "--regions-column", "objects.bbox", "--labels-column", "objects.name", "--batch-size", "2"),
    )
    assert code == 0, said
    assert "3 images annotated, 3 images in this run" in said
    rows = rows_of(tmp_path / "out")
    assert list(rows) == ["scene 0", "scene 1", "scene 2"]
    for index, row in enumerate(rows.values()):
        image = opened(png(index))
        same_phrases(row, groma.caption(image, max_new_tokens=24))
        for found, expected in zip(row.located, groma.locate_all(image, ["circles", "stars"], max_new_tokens=24)):
            assert found.phrase == expected.text and found.region_ids == expected.region_ids
            torch.testing.assert_close(boxes_of(row, found.region_ids), expected.boxes, atol=1e-3, rtol=0)
        given = [region for region in row.regions if region.origin == "source"]
        boxes = scene(index).boxes_xyxy
        assert [region.box_xyxy for region in given] == [tuple(map(float, box)) for box in boxes]
        assert [region.label for region in given] == [thing.attributes.shape for thing in scene(index).objects]
        described = groma.describe(image, [list(box) for box in boxes], max_new_tokens=24)
        assert [region.description for region in given] == [str(answer) for answer in described]
        assert (row.width, row.height, row.file_name) == (224, 224, f"s{index}.png")
    assert all(region.mask is None for row in rows.values() for region in row.regions)


def test_brief_captions_with_masks(annotate, groma, photos, tmp_path):
    code, said = annotate(photos, tmp_path / "out", "--brief", "--masks", *SHORT, "--max-images", "2")
    assert code == 0, said
    for row in rows_of(tmp_path / "out").values():
        answer = groma.caption(
            opened((photos / row.file_name).read_bytes()), brief=True, masks=True, max_new_tokens=24
        )
        same_phrases(row, answer)
        assert row.phrases
        for phrase, expected in zip(row.phrases, answer.phrases, strict=True):
            masks = [rle_to_mask(region.mask) for region in row.regions_with_ids(phrase.region_ids)]
            assert all((mask == other).all() for mask, other in zip(masks, expected.masks, strict=True))


def test_proposals_and_their_descriptions(annotate, groma, photos, tmp_path):
    options = ("--proposals", "--describe", "--min-score", "0.85", "--max-images", "1", *SHORT)
    code, said = annotate(photos, tmp_path / "out", *options)
    assert code == 0, said
    (row,) = rows_of(tmp_path / "out").values()
    image = opened((photos / row.file_name).read_bytes())
    assert row.text is None and row.regions
    assert all(region.origin == "proposal" and region.score >= 0.85 for region in row.regions)
    described = groma.describe(image, [list(region.box_xyxy) for region in row.regions], max_new_tokens=24)
    assert [region.description for region in row.regions] == [answer.text for answer in described]


def test_proposals_of_a_detector_alone(annotate, groma, photos, tmp_path):
    """A whole Groma is loaded without its language model, and finds the same."""
    GromaForRegionProposal.from_pretrained(TINY).save_pretrained(tmp_path / "detector")
    GromaImageProcessor.from_pretrained(TINY).save_pretrained(tmp_path / "detector")
    for name, model in (("detector", tmp_path / "detector"), ("whole", TINY)):
        options = ("--proposals", "--masks", "--max-images", "2", "--model", model)
        code, said = annotate(photos, tmp_path / name / "out", *options)
        assert code == 0, said
    assert files_of(tmp_path / "detector" / "out") == files_of(tmp_path / "whole" / "out")
    row = next(iter(rows_of(tmp_path / "whole" / "out").values()))
    expected = groma.caption(opened((photos / row.file_name).read_bytes()), max_new_tokens=1).regions
    assert [region.id for region in row.regions] == list(expected.ids)
    torch.testing.assert_close(boxes_of(row, expected.ids), expected.xyxy, atol=1e-2, rtol=0)
    assert all(region.mask is not None for region in row.regions)


def test_masks_of_regions_of_the_source(annotate, groma, tmp_path):
    write_rows(tmp_path / "rows.parquet", range(1))
    options = ("--regions-column", "objects.bbox", "--masks", "--max-images", "1")
    code, said = annotate(tmp_path / "rows.parquet", tmp_path / "out", *options)
    assert code == 0, said
    (row,) = rows_of(tmp_path / "out").values()
    assert row.text is None and len(row.regions) == len(scene(0).objects)
    expected = groma.segment(opened(png(0)), [list(region.box_xyxy) for region in row.regions])
    for region, found in zip(row.regions, expected, strict=True):
        assert (rle_to_mask(region.mask) == found.masks[0]).all()


def test_a_glamm_answers_with_masks(annotate, glamm, tmp_path):
    write_rows(tmp_path / "rows.parquet", [0])
    code, said = annotate(
        *(tmp_path / "rows.parquet", tmp_path / "out", "--model", GLAMM, "--caption", "--locate", "circles"),
        *("--describe", "--regions-column", "objects.bbox", *SHORT),
    )
    assert code == 0, said
    (row,) = rows_of(tmp_path / "out").values()
    image = opened(png(0))
    answer = glamm.caption(image, max_new_tokens=24)
    same_phrases(row, answer)
    found, expected = row.located[0], glamm.locate_all(image, "circles", max_new_tokens=24)
    torch.testing.assert_close(boxes_of(row, found.region_ids), expected.boxes, atol=1e-3, rtol=0)
    ids = [region.id for region in row.regions]
    assert len(set(ids)) == len(ids)
    assert {region.origin for region in row.regions} == {"caption", "located", "source"}
    for region in row.regions:
        assert (region.mask is None) == (region.origin == "source")
        assert (region.description is None) == (region.origin != "source")


def test_a_glamm_has_no_proposals(annotate, glamm, photos, tmp_path):
    code, said = annotate(photos, tmp_path / "out", "--model", GLAMM, "--proposals")
    assert code == 2 and "it has no region proposer" in said
    code, said = annotate(photos, tmp_path / "out", "--model", GLAMM, "--describe")
    assert code == 2 and "--describe without --regions-column needs a model with a region proposer" in said


def test_tars_and_datasets_load_the_result(annotate, tmp_path):
    write_tar(tmp_path / "w-0.tar", {**sample(0), "bad.jpg": b"bad"})
    write_tar(tmp_path / "w-1.tar", sample(1))
    options = ("--describe", "--regions-column", "boxes", "--max-new-tokens", "4", "--gallery", "2")
    code, said = annotate(tmp_path / "w-{0..1}.tar", tmp_path / "out", *options)
    assert code == 0, said
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["image_id"] == ["w-0/00000", "w-1/00001"]
    assert [len(regions) for regions in rows["regions"]] == [len(scene(index).objects) for index in (0, 1)]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["rows"], report["records"], report["skipped"]) == (2, 3, {"not an image": 1})
    assert "1 image left out" in said and "not an image (1), for example w-0/bad" in said


def test_the_gallery_shows_the_first_images(annotate, photos, tmp_path):
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--gallery", "3")
    assert code == 0, said
    image = opened((tmp_path / "out" / "gallery.png").read_bytes())
    assert image.width == 3 * 448 + 4 * 12
    # Later, when all is finished, without a model.
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--gallery", "1")
    assert code == 0 and "0 images in this run" in said
    assert opened((tmp_path / "out" / "gallery.png").read_bytes()).width == 448 + 2 * 12


def test_sampled_answers_repeat(annotate, photos, tmp_path):
    options = ("--brief", "--temperature", "3", "--max-new-tokens", "12", "--batch-size", "1", "--max-images", "2")
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        code, said = annotate(photos, tmp_path / name, *options, "--seed", seed)
        assert code == 0, said
        texts.append([row.markup for row in rows_of(tmp_path / name).values()])
    assert texts[0] == texts[1] != texts[2]


def test_finished_shards_stay(annotate, photos, tmp_path):
    options = ("--proposals", "--shard-size", "2")
    assert annotate(photos, tmp_path / "out", *options)[0] == 0
    before = files_of(tmp_path / "out")
    assert len(before) == 2
    second = tmp_path / "out" / "train-00001-of-00002.parquet"
    second.unlink()
    times = (tmp_path / "out" / "train-00000-of-00002.parquet").stat().st_mtime_ns
    code, said = annotate(photos, tmp_path / "out", *options)
    assert code == 0 and "4 images annotated, 2 images in this run" in said
    assert files_of(tmp_path / "out") == before
    assert (tmp_path / "out" / "train-00000-of-00002.parquet").stat().st_mtime_ns == times


def test_ids_that_several_shards_have_are_told(annotate, tmp_path):
    (tmp_path / "rows").mkdir()
    for name, ids in (("a", "xy"), ("b", "zy")):
        pq.write_table(pa.table({"image": [png(0)] * 2, "id": list(ids)}), tmp_path / "rows" / f"{name}.parquet")
    code, said = annotate(tmp_path / "rows", tmp_path / "out", "--proposals")
    assert code == 0 and "4 images annotated" in said
    assert "1 image_id in several shards, for example 'y'" in said


def test_several_machines_share_the_shards(annotate, photos, tmp_path):
    options = ("--proposals", "--shard-size", "1")
    code, said = annotate(photos, tmp_path / "out", *options, "--shard", "0/2")
    assert code == 0 and "2 shards not finished yet" in said
    assert sorted(files_of(tmp_path / "out")) == ["train-00000-of-00004.parquet", "train-00002-of-00004.parquet"]
    code, said = annotate(photos, tmp_path / "out", *options, "--shard", "1/2")
    assert code == 0 and "4 images annotated, 2 images in this run" in said
    assert annotate(photos, tmp_path / "whole", *options)[0] == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "differing"),
    [
        (("--proposals", "--min-score", "0.5"), "--min-score was 0.0 and is 0.5"),
        (("--proposals", "--caption"), "--caption was not given and is 'detailed'; --max-new-tokens was not given"),
        (("--proposals", "--max-images", "3"), "--max-images was not given and is 3"),
        (("--proposals", "--shard-size", "3"), "--shard-size was 1000 and is 3"),
        (("--locate", "cups"), r"--locate was \[\] and is \['cups'\]; --proposals was True and is False"),
    ],
)
def test_other_settings_are_refused(annotate, photos, tmp_path, options, differing):
    assert annotate(photos, tmp_path / "out", "--proposals")[0] == 0
    before = files_of(tmp_path / "out")
    code, said = annotate(photos, tmp_path / "out", *options)
    assert code == 2
    assert re.search(differing, said) and "Pass --overwrite to replace them, or another OUT." in said
    assert files_of(tmp_path / "out") == before


def test_another_model_is_refused_and_a_copy_is_not(annotate, photos, tmp_path):
    shutil.copytree(TINY, tmp_path / "copy")
    assert annotate(photos, tmp_path / "out", "--proposals", "--model", TINY)[0] == 0
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--model", tmp_path / "copy")
    assert code == 0, said
    config = tmp_path / "copy" / "config.json"
    config.write_text(config.read_text().replace('"box_score_threshold": 0.', '"box_score_threshold": 0.0'))
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--model", tmp_path / "copy")
    assert code == 2 and "--model was groma-tiny (" in said and "and is copy (" in said


def test_a_changed_source_is_noticed(annotate, photos, tmp_path):
    assert annotate(photos, tmp_path / "out", "--proposals")[0] == 0
    (photos / "s1.png").write_bytes(png(9))
    code, said = annotate(photos, tmp_path / "out", "--proposals")
    assert code == 2 and "the source has changed" in said and "(4 images) is not as it was" in said
    (photos / "s9.png").write_bytes(png(9))
    code, said = annotate(photos, tmp_path / "out", "--proposals")
    assert code == 2 and "(4 images) is now more/s2.png … s9.png (5 images)" in said
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--overwrite")
    assert code == 0 and "5 images annotated, 5 images in this run" in said


def test_damaged_settings_and_an_output_that_is_a_file(annotate, photos, tmp_path):
    settings = tmp_path / "out" / ".annotate" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text("{}")
    code, said = annotate(photos, tmp_path / "out", "--proposals")
    assert code == 2 and "settings.json is damaged: it has no settings. Pass --overwrite" in said
    for options in ((), ("--overwrite",)):
        code, said = annotate(photos, settings, "--proposals", *options)
        assert code == 2 and "settings.json' is a file. Pass a folder." in said


def test_files_of_others_are_not_touched(annotate, photos, tmp_path):
    write_rows(tmp_path / "out" / "train-00000-of-00001.parquet", [0])
    code, said = annotate(photos, tmp_path / "out", "--proposals")
    assert code == 2 and "holds files that this command has not written (train-00000-of-00001.parquet)" in said
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert annotate(photos, tmp_path / "other", "--proposals", "--overwrite")[0] == 0
    assert annotate(photos, tmp_path / "other", "--proposals", "--overwrite")[0] == 0
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_run_that_ends_before_its_first_batch_binds_nothing(annotate, glamm, photos, tmp_path):
    code, said = annotate(photos, tmp_path / "out", "--model", GLAMM, "--describe")
    assert code == 2 and "needs a model with a region proposer" in said
    assert annotate(photos, tmp_path / "out", "--proposals")[0] == 0
    before = files_of(tmp_path / "out")
    # Nor does it cost what is there.
    code, said = annotate(photos, tmp_path / "out", "--model", GLAMM, "--describe", "--overwrite")
    assert code == 2 and "needs a model with a region proposer" in said
    assert files_of(tmp_path / "out") == before


def test_each_image_is_looked_at_once(groma, tmp_path, monkeypatch):
    """Four questions about each of three images, and masks; batches of two."""
    seen = []
    look = type(groma.model).get_image_features

    def counting(self, pixel_values, **kwargs):
        seen.append(len(pixel_values))
        return look(self, pixel_values, **kwargs)

    monkeypatch.setattr(type(groma.model), "get_image_features", counting)
    wanted = {"describe": True, "masks": True, "source_regions": True}
    tasks = AnnotationTasks(caption="brief", phrases=("stars", "circles"), **wanted)
    annotator = Annotator(groma.model, groma.processor, tasks, 2, {"max_new_tokens": 4})
    sources = [SourceImage(str(index), None, png(index), [[20, 30, 90, 80]], [None]) for index in range(3)]
    images = [prepare_image(source, annotator.image_processor, tasks) for source in sources]
    rows = annotator.annotate(images[:2]) + annotator.annotate(images[2:])
    assert seen == [2, 1]
    assert all(row.regions[-1].mask is not None and row.regions[-1].description is not None for row in rows)


def test_too_many_broken_images_end_with_an_error(annotate, photos, tmp_path):
    for index in range(5):
        (photos / f"bad{index}.jpg").write_bytes(b"bad")
    code, said = annotate(photos, tmp_path / "out", "--proposals")
    assert code == 2 and "5 of 9 images were left out, which is more than --max-left-out 0.5" in said
    assert len(rows_of(tmp_path / "out")) == 4
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--max-left-out", "0.6")
    assert code == 0, said


def test_phrases_of_a_file(annotate, photos, tmp_path):
    (tmp_path / "phrases.txt").write_text("circles\n\n  stars \n", encoding="utf-8")
    options = ("--locate-file", tmp_path / "phrases.txt", "--max-images", "1", *SHORT)
    code, said = annotate(photos, tmp_path / "out", *options)
    assert code == 0, said
    (row,) = rows_of(tmp_path / "out").values()
    assert [found.phrase for found in row.located] == ["circles", "stars"] and row.text is None
    (tmp_path / "empty.txt").write_text("\n")
    assert "has no phrases" in annotate(photos, tmp_path / "o", "--locate-file", tmp_path / "empty.txt")[1]
    assert "cannot be read" in annotate(photos, tmp_path / "o", "--locate-file", tmp_path / "none.txt")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-score", "0.5"), "--min-score is for proposals"),
        (("--locate", " "), "`--locate, phrase 1` is empty"),
        (("--locate", "cups", "--locate", "cups"), "--locate 'cups' is given twice"),
        (("--box-format", "xywh"), "--box-format and --normalized are for the regions of --regions-column"),
        (("--actors", "2"), "--actors is for --engine ray"),
        (("--gpus-per-actor", "1"), "--gpus-per-actor is for --engine ray"),
        (("--engine", "ray", "--shard", "0/2"), "--shard does not go with --engine ray"),
        (("--proposals", "--max-new-tokens", "8"), "--max-new-tokens is for answers, but nothing is asked"),
        (("--overwrite", "--shard", "0/2"), "--overwrite does not go with --shard"),
        (("--shard", "2/2"), "must be I/N with I from 0 to N-1"),
        (("--gpus-per-actor", "1.5"), "must be a whole number, or a part of one"),
        (("--max-new-tokens", "100000"), "100000"),
        (("--model", "no/such/model"), "--model 'no/such/model' is not a folder"),
        (("--device", "nowhere"), "--device 'nowhere' cannot be used"),
    ],
)
def test_wrong_options_end_in_one_sentence(annotate, photos, tmp_path, options, message):
    code, said = annotate(photos, tmp_path / "out", *options)
    assert code == 2 and message in said, said
    assert said.strip().splitlines()[-1].startswith("groma annotate: error: ")
    assert not files_of(tmp_path / "out")


def test_ray_is_an_extra(annotate, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--engine", "ray", "--actors", "2")
    assert code == 2 and 'pip install "transformers-groma[scale]"' in said


def test_regions_without_a_question_are_refused(annotate, tmp_path):
    write_rows(tmp_path / "rows.parquet", [0])
    code, said = annotate(tmp_path / "rows.parquet", tmp_path / "out", "--regions-column", "objects.bbox")
    assert code == 2 and "nothing is asked about them. Pass --describe or --masks" in said


def test_the_output_is_not_the_source(annotate, photos):
    code, said = annotate(photos, photos, "--proposals")
    assert code == 2 and "is SOURCE" in said


def test_an_output_inside_the_source_is_not_read(annotate, photos):
    for _ in range(2):
        code, said = annotate(photos, photos / "annotations", "--proposals", "--gallery", "2")
        assert code == 0 and "4 images annotated" in said, said


def test_a_full_disk_ends_in_one_sentence_and_loses_nothing(annotate, photos, tmp_path, monkeypatch):
    append = _jsonl.JsonlLog._append
    lines = []

    def full(self, line):
        lines.append(line)
        if len(lines) > 2:
            raise OSError(28, "No space left on device")
        append(self, line)

    monkeypatch.setattr(_jsonl.JsonlLog, "_append", full)
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--batch-size", "1")
    assert code == 2 and "cannot be written (No space left on device). Free some space" in said
    monkeypatch.setattr(_jsonl.JsonlLog, "_append", append)
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--batch-size", "1")
    assert code == 0 and "4 images annotated, 2 images in this run" in said


def test_ctrl_c_says_how_to_resume(annotate, photos, tmp_path, monkeypatch):
    look = Annotator.annotate
    calls = []

    def interrupted(self, images):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look(self, images)

    monkeypatch.setattr(Annotator, "annotate", interrupted)
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--batch-size", "1")
    assert code == 130 and "run the same command again to resume" in said
    code, said = annotate(photos, tmp_path / "out", "--proposals", "--batch-size", "2")
    assert code == 0 and "4 images annotated, 2 images in this run" in said


@pytest.mark.parametrize("package", ["pyarrow", "datasets"])
def test_a_missing_package_is_named_with_its_extra(photos, tmp_path, package):
    code = f"import sys; sys.modules[{package!r}] = None; from transformers_groma.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "annotate", str(photos), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert 'pip install "transformers-groma[data]"' in done.stderr and not (tmp_path / "out").exists()
