"""Precomputing regions: the copies, resuming after a kill, array jobs, and what is refused."""

import copy
import errno
import json
import os
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Value, load_dataset

from transformers_groma._output_errors import OutputError
from transformers_groma.cli import main as groma
from transformers_groma.data.columns import CONVERSATION_FEATURES
from transformers_groma.data.mixtures import PROPOSAL_COLUMNS, load_mixture
from transformers_groma.training.precompute_regions import precompute_regions
from transformers_groma.training.proposal_files import PROPOSAL_FEATURES
from transformers_groma.training.proposal_notes import NOTES_NAME, check_proposals, detector_sha256

from .precomputed import (
    image_file,
    image_row,
    raw_proposals,
    text_row,
    three_files,
    write_files,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Datasets are cached with the test's own files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_copy_is_the_dataset_with_two_more_columns(tmp_path, model, processor):
    source = three_files(tmp_path / "data")
    (source / "README.md").write_text("about the data")
    target = tmp_path / "regions"
    report = precompute_regions(model, processor.image_processor, source, target, batch_size=2, device="cpu")
    names = sorted(path.name for path in source.glob("*.parquet"))
    assert sorted(path.name for path in target.iterdir() if path.name[0] != ".") == [NOTES_NAME, *names]
    assert (report.rows, report.images, report.finished) == (8, 6, 0)
    assert report.files == [target / name for name in names]
    for name in names:
        before, after = pq.read_table(source / name), pq.read_table(target / name)
        assert after.column_names == [*before.column_names, *PROPOSAL_COLUMNS]
        assert after.select(before.column_names).equals(before)

    # What readers see, with and without the project's own loader.
    dataset = load_mixture([str(target)], "conversation")
    assert dataset.features == Features({**CONVERSATION_FEATURES, **PROPOSAL_FEATURES})
    assert load_dataset(str(target), split="train").features == dataset.features
    rows = dataset.cast_column("image", datasets.Image(decode=False))[:]
    assert rows["image_id"] == ["a", "b", "c", "a2", "d", "e", "f", "g"]
    assert [len(scores) for scores in rows["proposal_scores"]] == [10, 0, 10, 10, 10, 10, 10, 10]
    assert rows["proposal_boxes"][1] == []
    assert rows["proposal_boxes"][3] == rows["proposal_boxes"][0]
    for index in (0, 2, 4, 5, 7):
        one = {"image": rows["image"][index]}
        boxes, scores = raw_proposals(model, processor, [one])
        torch.testing.assert_close(torch.tensor(rows["proposal_boxes"][index]), boxes[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(rows["proposal_scores"][index]), scores[0], atol=1e-6, rtol=0)


def test_only_proposals_that_can_be_chosen_are_kept(tmp_path, model, processor):
    rows = [image_row("0", image_file(0)), image_row("1", image_file(1)), image_row("2", image_file(2))]
    source = write_files(tmp_path / "data", rows)
    boxes, scores = raw_proposals(model, processor, rows)
    # Above the best score of one image: the model falls back on that one, and so does the file.
    best = scores.amax(dim=1)
    threshold = best.median().item()
    model.config.box_score_threshold = threshold
    target = tmp_path / "regions"
    report = precompute_regions(model, processor.image_processor, source, target, batch_size=3, device="cpu")
    assert json.loads((target / NOTES_NAME).read_text())["score_threshold"] == threshold
    kept = pq.read_table(next(target.glob("*.parquet"))).to_pydict()
    counts = []
    for index in range(3):
        used = scores[index] > threshold
        if not used.any():
            used = scores[index] == best[index]
        assert kept["proposal_boxes"][index] == boxes[index][used].tolist()
        assert kept["proposal_scores"][index] == scores[index][used].tolist()
        counts.append(len(kept["proposal_scores"][index]))
    assert sorted(counts)[:2] == [1, 1]
    assert report.proposals == sum(counts)

    # A lower threshold keeps more, for trainings with other settings.
    precompute_regions(
        model, processor.image_processor, source, tmp_path / "all", score_threshold=0, batch_size=3, device="cpu"
    )
    everything = pq.read_table(next((tmp_path / "all").glob("*.parquet"))).to_pydict()
    assert everything["proposal_boxes"] == boxes.tolist()


def test_a_killed_run_resumes_behind_its_last_whole_file(tmp_path, model, processor):
    source, target = three_files(tmp_path / "data"), tmp_path / "regions"
    arguments = (model, processor.image_processor, source, target)
    calls = []

    def kill_at_third_batch(*_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    hook = model.model.region_proposer.register_forward_hook(kill_at_third_batch)
    with pytest.raises(KeyboardInterrupt):
        precompute_regions(*arguments, batch_size=1, device="cpu")
    hook.remove()
    assert [path.name for path in sorted(target.glob("*.parquet"))] == ["train-00000-of-00003.parquet"]
    # What a kill without warning leaves behind.
    stale = target / ".train-00001-of-00003.parquet-01234567.partial"
    stale.write_bytes(b"half a file")
    first = (target / "train-00000-of-00003.parquet").stat().st_mtime_ns
    report = precompute_regions(*arguments, batch_size=1, device="cpu")
    assert (report.finished, report.rows, report.images) == (1, 4, 4)
    assert not stale.exists()
    assert (target / "train-00000-of-00003.parquet").stat().st_mtime_ns == first
    again = precompute_regions(*arguments, batch_size=1, device="cpu")
    assert (again.finished, again.files, again.images) == (3, [], 0)
    precompute_regions(*arguments[:3], tmp_path / "at_once", batch_size=1, device="cpu")
    for path in target.glob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "at_once" / path.name).read_bytes()


def test_shards_share_the_files(tmp_path, model, processor):
    source, target = three_files(tmp_path / "data"), tmp_path / "regions"
    arguments = (model, processor.image_processor, source, target)
    settings = {"num_shards": 2, "batch_size": 1, "device": "cpu"}
    second = precompute_regions(*arguments, shard=1, **settings)
    assert [path.name for path in second.files] == ["train-00001-of-00003.parquet"]
    first = precompute_regions(*arguments, shard=0, **settings)
    assert [path.name[:11] for path in first.files] == ["train-00000", "train-00002"]
    precompute_regions(*arguments[:3], tmp_path / "at_once", batch_size=1, device="cpu")
    for path in target.iterdir():
        assert path.read_bytes() == (tmp_path / "at_once" / path.name).read_bytes()


def test_command_line_and_a_detector_alone(tmp_path, checkpoint, model, processor):
    source = write_files(tmp_path / "data", [image_row("0", image_file(0)), text_row()], split="validation")
    target = tmp_path / "regions"
    arguments = ["--model_name_or_path", str(checkpoint), "--dataset_dir", str(source), "--output_dir", str(target)]
    assert groma(["train", "precompute-regions", *arguments, "--split", "validation", "--device", "cpu"]) == 0
    # The detector of a whole model has the fingerprint of that model, whatever its folder.
    notes = json.loads((target / NOTES_NAME).read_text())
    assert notes.pop("image_processor_sha256")
    assert notes == {"model": "model", "detector_sha256": detector_sha256(model.model), "score_threshold": 0.0}
    check_proposals(model, target)
    precompute_regions(model, processor.image_processor, source, tmp_path / "whole", split="validation", device="cpu")
    name = "validation-00000-of-00001.parquet"
    assert pq.read_table(target / name).equals(pq.read_table(tmp_path / "whole" / name))


def test_wrong_folders_are_errors(tmp_path, model, processor):
    source = write_files(tmp_path / "data", [image_row("0", image_file(0))])

    def run(dataset_dir: Path, output_dir: Path, **settings):
        return precompute_regions(model, processor.image_processor, dataset_dir, output_dir, device="cpu", **settings)

    with pytest.raises(FileNotFoundError, match="is not a folder"):
        run(tmp_path / "nowhere", tmp_path / "regions")
    with pytest.raises(FileNotFoundError, match="no files test.*train-00000-of-00001"):
        run(source, tmp_path / "regions", split="test")
    with pytest.raises(ValueError, match="`output_dir` is the dataset itself"):
        run(source, source)
    other = write_files(tmp_path / "other", [image_row("1", image_file(0))])
    with pytest.raises(ValueError, match=f"other holds files without a {NOTES_NAME}"):
        run(source, other)
    assert not (tmp_path / "regions").exists()
    run(source, tmp_path / "regions")
    with pytest.raises(ValueError, match="copy of other rows"):
        run(other, tmp_path / "regions")
    image_processor = copy.deepcopy(processor.image_processor)
    image_processor.image_mean = [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="regions holds proposals of another image processor"):
        precompute_regions(model, image_processor, source, tmp_path / "regions", device="cpu")
    with pytest.raises(ValueError, match="already has precomputed regions"):
        run(tmp_path / "regions", tmp_path / "twice")
    tables = tmp_path / "tables"
    tables.mkdir()
    Dataset.from_list([{"text": "no image"}], features=Features({"text": Value("string")})).to_parquet(
        tables / "train.parquet"
    )
    with pytest.raises(ValueError, match="train.parquet: A conversation dataset needs the column 'image'"):
        run(tables, tmp_path / "twice")


def test_a_copy_is_of_the_very_same_file(tmp_path, model, processor):
    """Other boxes or other words of the same images, as a corrected command writes them, are other rows."""
    source, target = write_files(tmp_path / "data", [image_row("0", image_file(0))]), tmp_path / "regions"

    def run():
        return precompute_regions(model, processor.image_processor, source, target, device="cpu")

    run()
    path = target / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    # What a copy that ended early or a kill leaves behind is written again.
    for half in (b"", whole[:-5], whole[: len(whole) // 2]):
        path.write_bytes(half)
        assert (run().finished, path.read_bytes()) == (0, whole)
    assert run().finished == 1
    row = image_row("0", image_file(0))
    row["boxes_xyxy"][0][0] += 1
    write_files(tmp_path / "data", [row])
    with pytest.raises(ValueError, match="train-00000-of-00001.parquet is a copy of other rows than"):
        run()
    (target / ".train-00000-of-00001.source.json").unlink()
    with pytest.raises(ValueError, match="does not say what it is a copy of: it was written by an earlier version"):
        run()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("settings", [{}, {"shard": 0, "num_shards": 2}])
def test_files_of_another_dataset_stay_out_of_the_folder(tmp_path, model, processor, settings):
    """Such as one of three files beside those of a dataset of two: a training would read them all."""
    target = tmp_path / "regions"
    three = three_files(tmp_path / "three")
    two = write_files(tmp_path / "two", [image_row("0", image_file(0))], [text_row("1")])
    write_files(tmp_path / "two", [text_row("2")], split="validation")

    def run(source, **more):
        return precompute_regions(model, processor.image_processor, source, target, device="cpu", **more)

    run(three)
    with pytest.raises(
        ValueError, match="holds train-00000-of-00003.parquet, which belongs to another dataset and would be read"
    ):
        run(two, **settings)
    run(two, split="validation")
    assert run(three, **settings).files == []


def test_two_processes_write_no_copy_together(tmp_path, model, processor):
    source, target = three_files(tmp_path / "data"), tmp_path / "regions"

    def run(**settings):
        return precompute_regions(model, processor.image_processor, source, target, device="cpu", **settings)

    for job, hindered, other in (
        ({}, [{}, {"shard": 1, "num_shards": 3}], None),
        ({"shard": 0, "num_shards": 3}, [{}, {"shard": 0, "num_shards": 3}], {"shard": 1, "num_shards": 3}),
    ):

        def meanwhile(*_, hindered=hindered, other=other):
            model.model.region_proposer._forward_hooks.clear()
            for settings in hindered:
                with pytest.raises(OutputError, match=f"^{target} is being written by another process"):
                    run(**settings)
            if other is not None:
                assert len(run(**other).files) == 1

        model.model.region_proposer.register_forward_hook(meanwhile)
        run(**job)
        shutil.rmtree(target)


def test_jobs_that_start_together_agree_whose_proposals_these_are(tmp_path, model, processor):
    """Neither sees notes of the other; the second one's are there when the first one writes."""
    source, target = write_files(tmp_path / "data", [image_row("0", image_file(0))]), tmp_path / "regions"

    def meanwhile(*_):
        notes = json.loads((target / NOTES_NAME).read_text())
        (target / NOTES_NAME).write_text(json.dumps(notes | {"detector_sha256": "other"}))

    model.model.region_proposer.register_forward_hook(meanwhile)
    with pytest.raises(ValueError, match="regions holds proposals of another detector"):
        precompute_regions(model, processor.image_processor, source, target, device="cpu")
    assert not list(target.glob("*.parquet"))


def test_a_full_disk_names_the_copy(tmp_path, monkeypatch, capsys, checkpoint):
    source, target = write_files(tmp_path / "data", [text_row()]), tmp_path / "regions"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("transformers_groma.data.parquet.ParquetWriter.write_table", full)
    arguments = ["--model_name_or_path", str(checkpoint), "--dataset_dir", str(source), "--output_dir", str(target)]
    assert groma(["train", "precompute-regions", *arguments, "--device", "cpu"]) == 2
    path = target / "train-00000-of-00001.parquet"
    assert f"error: {path} cannot be written (No space left on device)" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in target.iterdir()] == [NOTES_NAME]


def test_an_image_that_cannot_be_read_is_named(tmp_path, model, processor):
    rows = [image_row("good", image_file(0)), text_row(), image_row("bad", image_file(1)[:200])]
    source = write_files(tmp_path / "data", rows)
    with pytest.raises(ValueError, match=r"train-00000-of-00001.parquet, row 2 \(image_id 'bad'\).*cannot be read"):
        precompute_regions(model, processor.image_processor, source, tmp_path / "regions", device="cpu")
    assert [path.name for path in (tmp_path / "regions").iterdir()] == [NOTES_NAME]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard": 2, "num_shards": 2}, r"`shard` must be in 0\.\.1"),
        ({"num_shards": 2}, "`shard` is missing"),
        ({"num_shards": 0}, "`num_shards` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"num_workers": 0}, "`num_workers` must be at least 1"),
        ({"score_threshold": -1}, "`score_threshold` must be between 0"),
    ],
)
def test_wrong_arguments(tmp_path, model, processor, settings, message):
    source = write_files(tmp_path / "data", [text_row()])
    with pytest.raises(ValueError, match=message):
        precompute_regions(
            model, processor.image_processor, source, tmp_path / "regions", **{"device": "cpu", **settings}
        )
    assert not (tmp_path / "regions").exists()


def test_a_file_without_images(tmp_path, model, processor):
    source = write_files(tmp_path / "data", [text_row("0"), text_row("1")], [])
    report = precompute_regions(model, processor.image_processor, source, tmp_path / "regions", device="cpu")
    assert (report.rows, report.images) == (2, 0)
    assert load_mixture([str(tmp_path / "regions")], "conversation")["proposal_boxes"] == [[], []]
