"""Precomputed regions: the files, going on after a kill, and a training that comes out the same."""

import copy
import errno
import io
import json
import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Value, load_dataset
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image, ImageDraw
from torch.nn.utils.rnn import pad_sequence

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaProcessor
from transformers_groma._output_errors import OutputError
from transformers_groma.cli import main as groma
from transformers_groma.data.columns import CONVERSATION_FEATURES, image_part, phrase_part, region_part, text_part
from transformers_groma.data.mixtures import PROPOSAL_COLUMNS, load_mixture
from transformers_groma.models.groma.modeling_groma_regions import select_regions
from transformers_groma.training import conversation_stage
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.conversation_stage import ConversationArguments, load_conversations
from transformers_groma.training.precompute_regions import (
    NOTES_NAME,
    PROPOSAL_FEATURES,
    check_proposals,
    detector_sha256,
    precompute_regions,
)
from transformers_groma.training.trainable import eval_frozen_parts, set_trainable_parts
from transformers_groma.training.trainer import GromaSFTTrainer, GromaTrainer

from ..tiny_checkpoint import save_tiny_checkpoint
from .rows import (
    command_line,
    run_alignment,
    run_sft,
    save_training_model,
    training_model,
    training_processor,
    write_conversations,
)

PHOTO = Path(__file__).parents[1] / "fixtures" / "photos" / "cat_and_dog.jpg"


@pytest.fixture(scope="module")
def checkpoint(golden_dir, tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", golden_dir)


@pytest.fixture(scope="module")
def loaded_model(checkpoint) -> GromaForConditionalGeneration:
    return GromaForConditionalGeneration.from_pretrained(checkpoint)


@pytest.fixture
def model(loaded_model) -> GromaForConditionalGeneration:
    """Ten proposals an image, all of them wanted."""
    return copy.deepcopy(loaded_model)


@pytest.fixture(scope="module")
def processor(checkpoint) -> GromaProcessor:
    return GromaProcessor.from_pretrained(checkpoint)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Datasets are cached with the test's own files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(seed: int, file_format: str = "PNG", **options) -> bytes:
    """A file with bright rectangles, of a size that follows from the seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (60 + 7 * seed, 50 + 3 * seed))
    for _ in range(5):
        x, y = rng.integers(0, 40, 2)
        color = tuple(int(value) for value in rng.integers(60, 256, 3))
        ImageDraw.Draw(image).rectangle((x, y, x + 18, y + 14), fill=color)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def turned_picture(seed: int) -> bytes:
    """A photo as cameras store it: on its side, with a note how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(seed, "JPEG", exif=exif)


def picture_row(image_id: str, content: bytes) -> dict:
    """A question about one box and an answer that points at three."""
    question = [image_part(), text_part("What is "), region_part(0), text_part("?")]
    answer = [phrase_part("the thing", [0]), text_part(" beside "), phrase_part("two others", [1, 2])]
    return {
        "image": {"bytes": content, "path": None},
        "image_id": image_id,
        "boxes_xyxy": [[2, 3, 25, 30], [20, 5, 48, 24], [3, 30, 30, 48]],
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "source": "test",
    }


def text_row(image_id: str = "") -> dict:
    messages = [
        {"role": "user", "content": [text_part("Hello")]},
        {"role": "assistant", "content": [text_part("Hello, user")]},
    ]
    return {"image": None, "image_id": image_id, "boxes_xyxy": [], "messages": messages, "source": "chat"}


def write_files(folder: Path, *files: list[dict], split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(files):
        path = folder / f"{split}-{number:05d}-of-{len(files):05d}.parquet"
        columns = {name: [row[name] for row in rows] for name in CONVERSATION_FEATURES}
        Dataset.from_dict(columns, features=CONVERSATION_FEATURES).to_parquet(path)
    return folder


def three_files(folder: Path) -> Path:
    """Six pictures, one of them twice in the first file and once more in the last, and a row without one."""
    first = [picture_row("a", picture(0)), text_row("b"), picture_row("c", picture(1)), picture_row("a2", picture(0))]
    second = [picture_row("d", turned_picture(2)), picture_row("e", PHOTO.read_bytes())]
    return write_files(folder, first, second, [picture_row("f", picture(0)), picture_row("g", picture(4))])


def raw_proposals(model: GromaForConditionalGeneration, processor: GromaProcessor, rows: list[dict]):
    """Boxes and scores of pictures, by the parts of the model itself."""
    images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
    pixel_values = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    parts = model.model.eval()
    with torch.no_grad():
        output = parts.detect(pixel_values).proposals
    return output.pred_boxes, output.scores


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
    rows = [picture_row("0", picture(0)), picture_row("1", picture(1)), picture_row("2", picture(2))]
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


def training_step(model: GromaForConditionalGeneration, batch: dict[str, torch.Tensor]):
    """Output and gradients of a step as the trainers make it."""
    set_trainable_parts(model, ["region_encoder", "projector", "language_model"])
    model.train()
    eval_frozen_parts(model)
    model.zero_grad()
    torch.manual_seed(0)
    output = model(**batch)
    output.loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return output, gradients


@pytest.mark.parametrize("precompute_batch", [3, 1])
@pytest.mark.parametrize("quantile", [None, 0.5, 1.0])
def test_training_comes_out_the_same(tmp_path, model, processor, quantile, precompute_batch):
    rows = [
        picture_row("0", picture(0)),
        text_row(),
        picture_row("1", turned_picture(1)),
        picture_row("2", picture(3)),
    ]
    source = write_files(tmp_path / "data", rows)
    if quantile is not None:
        _, scores = raw_proposals(model, processor, [row for row in rows if row["image"] is not None])
        # All images have some proposals above it, or none has any. Between two scores: batches of another size round
        # the last bit of a score differently on some processors, and a threshold at a score would tell them apart.
        ordered = torch.cat([scores.flatten().sort().values, scores.max()[None] + 1e-3])
        index = round(quantile * (scores.numel() - 1))
        model.config.box_score_threshold = ordered[index : index + 2].mean().item()
    model.train()  # as a model in the middle of a training
    precompute_regions(
        model, processor.image_processor, source, tmp_path / "regions", batch_size=precompute_batch, device="cpu"
    )
    collator = ConversationCollator(processor)
    batches = {
        name: collator(list(load_mixture([str(folder)], "conversation")))
        for name, folder in (("fly", source), ("stored", tmp_path / "regions"))
    }
    assert set(batches["stored"]) - set(batches["fly"]) == set(PROPOSAL_COLUMNS)
    assert all(torch.equal(value, batches["stored"][name]) for name, value in batches["fly"].items())
    calls = []
    model.model.region_proposer.register_forward_hook(lambda *_: calls.append(1))
    on_the_fly, gradients = training_step(model, batches["fly"])
    assert len(calls) == 1
    stored, stored_gradients = training_step(model, batches["stored"])
    assert len(calls) == 1

    assert on_the_fly.loss > 0
    assert torch.equal(stored.num_regions, on_the_fly.num_regions)
    assert stored_gradients.keys() == gradients.keys()
    if precompute_batch == 3:  # the images of the training's batch together: every bit is the same
        tolerance = {"atol": 0, "rtol": 0}
    else:
        tolerance = {"atol": 1e-6, "rtol": 1e-5}
    for name in ("region_boxes", "region_scores", "logits", "loss"):
        torch.testing.assert_close(stored[name], on_the_fly[name], **tolerance, msg=name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(stored_gradients[name], gradient, **tolerance, msg=name)


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.97, 2.0])
def test_stored_proposals_are_selected_as_all_of_them_are(threshold, permute):
    """With NMS and more candidates than slots, boxes of questions and answers, and ties between scores."""
    generator = torch.Generator().manual_seed(0)
    settings = {"max_regions": 12, "nms_threshold": 0.4, "score_threshold": threshold, "permute": permute}
    for _ in range(20):
        boxes = torch.cat(
            [torch.rand(4, 60, 2, generator=generator), 0.3 * torch.rand(4, 60, 2, generator=generator)], dim=-1
        )
        scores = (torch.rand(4, 60, generator=generator) * 50).round() / 50
        refer, ground = boxes[:, 3:5] + 0.004, boxes[:, 7:10] - 0.003
        refer[0, 1:], ground[1, 2:] = 0, 0
        stored = []
        for image_boxes, image_scores in zip(boxes, scores, strict=True):
            kept = image_scores > threshold if threshold else torch.ones_like(image_scores, dtype=torch.bool)
            kept[image_scores.argmax()] = True
            stored.append((image_boxes[kept], image_scores[kept]))
        padded = [pad_sequence(values, batch_first=True) for values in zip(*stored, strict=True)]
        for given in ((None, None), (refer, None), (None, ground), (refer, ground)):
            torch.manual_seed(1)
            expected = select_regions(boxes, scores, *given, **settings)
            state = torch.get_rng_state()
            torch.manual_seed(1)
            selection = select_regions(*padded, *given, **settings)
            assert torch.equal(torch.get_rng_state(), state)
            for name in expected._fields:
                assert torch.equal(getattr(selection, name), getattr(expected, name)), name


def test_a_killed_run_goes_on_behind_its_last_whole_file(tmp_path, model, processor):
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
    source = write_files(tmp_path / "data", [picture_row("0", picture(0)), text_row()], split="validation")
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


def test_proposals_belong_to_one_detector(tmp_path, model, processor):
    source, target = write_files(tmp_path / "data", [picture_row("0", picture(0))]), tmp_path / "regions"
    precompute_regions(model, processor.image_processor, source, target, device="cpu")
    other = GromaForRegionProposal.from_pretrained(model.name_or_path)
    check_proposals(other, target)
    settings = other.config.proposer_config
    settings.coco_score_weight = 0.5
    with pytest.raises(ValueError, match="another detector .*other weights or settings"):
        check_proposals(other, target)
    settings.coco_score_weight = 0.4
    with torch.no_grad():
        other.region_proposer.enc_output.bias[0] += 1e-3
    with pytest.raises(ValueError, match="regions holds proposals of another detector"):
        precompute_regions(other, processor.image_processor, source, target, device="cpu")
    with pytest.raises(FileNotFoundError, match="says whose proposals"):
        check_proposals(model, source)
    # The language model has no say.
    with torch.no_grad():
        model.lm_head.weight[0] += 1
    check_proposals(model, target)


def test_a_model_must_find_all_that_it_could_choose(tmp_path, model, processor):
    source, target = write_files(tmp_path / "data", [picture_row("0", picture(0))]), tmp_path / "regions"
    arguments = (model, processor.image_processor, source, target)
    model.config.box_score_threshold = 0.2
    with pytest.raises(ValueError, match=r"`score_threshold` .*0\.2, got 0\.3"):
        precompute_regions(*arguments, score_threshold=0.3, device="cpu")
    precompute_regions(*arguments, score_threshold=0.1, device="cpu")
    with pytest.raises(ValueError, match=r"above 0\.1, but `score_threshold` is 0\.2.*Pass 0\.1"):
        precompute_regions(*arguments, device="cpu")
    check_proposals(model, target)
    model.config.box_score_threshold = 0.05
    with pytest.raises(ValueError, match=r"`box_score_threshold` is 0\.05"):
        check_proposals(model, target)


def test_wrong_folders_are_errors(tmp_path, model, processor):
    source = write_files(tmp_path / "data", [picture_row("0", picture(0))])

    def run(dataset_dir: Path, output_dir: Path, **settings):
        return precompute_regions(model, processor.image_processor, dataset_dir, output_dir, device="cpu", **settings)

    with pytest.raises(FileNotFoundError, match="is not a folder"):
        run(tmp_path / "nowhere", tmp_path / "regions")
    with pytest.raises(FileNotFoundError, match="no files test.*train-00000-of-00001"):
        run(source, tmp_path / "regions", split="test")
    with pytest.raises(ValueError, match="`output_dir` is the dataset itself"):
        run(source, source)
    other = write_files(tmp_path / "other", [picture_row("1", picture(0))])
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
    with pytest.raises(ValueError, match="has precomputed regions already"):
        run(tmp_path / "regions", tmp_path / "twice")
    tables = tmp_path / "tables"
    tables.mkdir()
    Dataset.from_list([{"text": "no picture"}], features=Features({"text": Value("string")})).to_parquet(
        tables / "train.parquet"
    )
    with pytest.raises(ValueError, match="train.parquet: A conversation dataset needs the column 'image'"):
        run(tables, tmp_path / "twice")


def test_a_copy_is_of_the_very_same_file(tmp_path, model, processor):
    """Other boxes or other words of the same images, as a corrected command writes them, are other rows."""
    source, target = write_files(tmp_path / "data", [picture_row("0", picture(0))]), tmp_path / "regions"

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
    row = picture_row("0", picture(0))
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
    two = write_files(tmp_path / "two", [picture_row("0", picture(0))], [text_row("1")])
    write_files(tmp_path / "two", [text_row("2")], split="validation")

    def run(source, **more):
        return precompute_regions(model, processor.image_processor, source, target, device="cpu", **more)

    run(three)
    with pytest.raises(
        ValueError, match="holds train-00000-of-00003.parquet, which is of another dataset and would be read"
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
    source, target = write_files(tmp_path / "data", [picture_row("0", picture(0))]), tmp_path / "regions"

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

    monkeypatch.setattr("transformers_groma.training.precompute_regions.ParquetWriter.write_table", full)
    arguments = ["--model_name_or_path", str(checkpoint), "--dataset_dir", str(source), "--output_dir", str(target)]
    assert groma(["train", "precompute-regions", *arguments, "--device", "cpu"]) == 2
    path = target / "train-00000-of-00001.parquet"
    assert f"error: {path} cannot be written (No space left on device)" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in target.iterdir()] == [NOTES_NAME]


def test_a_picture_that_cannot_be_read_is_named(tmp_path, model, processor):
    rows = [picture_row("good", picture(0)), text_row(), picture_row("bad", picture(1)[:200])]
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


def test_a_file_without_pictures(tmp_path, model, processor):
    source = write_files(tmp_path / "data", [text_row("0"), text_row("1")], [])
    report = precompute_regions(model, processor.image_processor, source, tmp_path / "regions", device="cpu")
    assert (report.rows, report.images) == (2, 0)
    assert load_mixture([str(tmp_path / "regions")], "conversation")["proposal_boxes"] == [[], []]


def test_a_mixture_has_precomputed_regions_everywhere_or_nowhere(tmp_path, model, processor):
    source, target = write_files(tmp_path / "data", [picture_row("0", picture(0))]), tmp_path / "regions"
    precompute_regions(model, processor.image_processor, source, target, device="cpu")
    with pytest.raises(ValueError, match="precompute-regions` on all of them or on none"):
        load_mixture([str(source), str(target)], "conversation")
    assert len(load_mixture([str(target), f"{target}:1"], "conversation")) == 2


def test_stages_check_whose_regions_they_train_on(tmp_path, monkeypatch):
    """Also in bfloat16, in which the detector stays float32; of another model only with the detector that was used."""
    base = save_training_model(tmp_path / "base")
    other = save_training_model(tmp_path / "other", seed=1)
    data, regions = write_conversations(tmp_path / "data", 4), tmp_path / "regions"
    write_conversations(data, 2, "validation")
    detector = GromaForRegionProposal.from_pretrained(base)
    for split in ("train", "validation"):
        precompute_regions(
            detector, training_processor().image_processor, data, regions, split=split, num_workers=1, device="cpu"
        )
    output = tmp_path / "output"
    trainer = run_sft(command_line(base, regions, output, max_steps=1, use_peft=True, dtype="bfloat16"))
    assert trainer.state.global_step == 1

    class Started(Exception):
        pass

    def start(*_, **__):
        raise Started

    monkeypatch.setattr(GromaTrainer, "train", start)
    monkeypatch.setattr(GromaSFTTrainer, "train", start)
    with pytest.raises(Started):
        run_alignment(command_line(base, regions, output, eval_datasets=regions))
    with pytest.raises(Started):
        run_alignment(command_line(other, regions, output, detector=base))
    for run in (run_alignment, run_sft):
        with pytest.raises(ValueError, match="regions holds proposals of another detector"):
            run(command_line(other, regions, output))
    with pytest.raises(ValueError, match="regions holds proposals of another detector"):
        run_alignment(command_line(other, data, output, eval_datasets=regions))
    monkeypatch.setenv("LOCAL_RANK", "1")  # may have no weights to compare
    load_conversations(ConversationArguments(train_datasets=[str(regions)]), training_model(seed=1))
    monkeypatch.delenv("LOCAL_RANK")
    (regions / NOTES_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="says whose proposals the folder holds"):
        run_alignment(command_line(base, regions / "train.parquet", output))


@pytest.mark.parametrize("part", ["vision_tower", "region_proposer"])
def test_precomputed_regions_are_not_for_a_detector_that_learns(tmp_path, monkeypatch, model, processor, part):
    """Neither for training nor for evaluation, and every process says so."""
    data, regions = write_files(tmp_path / "data", [picture_row("0", picture(0))]), tmp_path / "regions"
    precompute_regions(model, processor.image_processor, data, regions, device="cpu")
    parts = ["region_encoder", part]
    load_conversations(ConversationArguments(train_datasets=[str(data)], trainable_parts=parts), model)
    for rank, mixtures in (
        ("0", {"train_datasets": [str(regions)]}),
        ("1", {"train_datasets": [str(data)], "eval_datasets": [f"{regions}@train"]}),
    ):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(ValueError, match=f"`trainable_parts` has '{part}', but .*regions.* holds precomputed"):
            load_conversations(ConversationArguments(**mixtures, trainable_parts=parts), model)


def test_the_hub_says_whose_regions_it_holds(tmp_path, monkeypatch):
    notes = tmp_path / "snapshot" / NOTES_NAME
    monkeypatch.setattr(conversation_stage, "hf_hub_download", lambda *_, **__: str(notes))
    assert conversation_stage._folder_of_notes("org/vg-regions") == notes.parent

    def missing(*_, **__):
        raise LocalEntryNotFoundError("nothing there")

    monkeypatch.setattr(conversation_stage, "hf_hub_download", missing)
    with pytest.raises(FileNotFoundError, match=f"org/vg-regions on the Hub .* no {NOTES_NAME}.*Upload the one"):
        conversation_stage._folder_of_notes("org/vg-regions")
