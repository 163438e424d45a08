"""Stage 1: the trainer, its data, and the script."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, TrainerCallback

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaImageProcessor
from transformers_groma.boxes import box_cxcywh_to_xyxy
from transformers_groma.data.columns import DETECTION_FEATURES, features_of
from transformers_groma.evaluation.metrics.detection import detect, evaluate_proposals, unpack_detections
from transformers_groma.training import detection
from transformers_groma.training.detection import (
    DetectionCollator,
    DetectionDataset,
    DetectionTrainingArguments,
    GromaDetectionTrainer,
    parameter_groups,
)

from ..tiny import spread_proposals, tiny_config, tiny_detector_config

SIDE = 56


def detection_rows(count: int, seed: int = 0, boxes_per_image: int | None = None) -> Dataset:
    """Pictures of bright rectangles on black, in two shapes, from both sources."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        width, height = (72, 48) if number % 2 else (SIDE, SIDE)
        image = Image.new("RGB", (width, height))
        boxes = []
        for _ in range(boxes_per_image or rng.integers(1, 4)):
            w, h = rng.integers(12, 28, 2)
            x, y = rng.integers(0, width - w), rng.integers(0, height - h)
            boxes.append([x, y, x + w, y + h])
            color = tuple(int(value) for value in rng.integers(120, 256, 3))
            ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=color)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        rows.append(
            {
                "image": {"bytes": buffer.getvalue(), "path": None},
                "image_id": str(number),
                "boxes_xyxy": boxes,
                "source": "sa1b" if number % 3 == 0 else "coco",
            }
        )
    return Dataset.from_list(rows, features=DETECTION_FEATURES)


def image_processor() -> GromaImageProcessor:
    return GromaImageProcessor(size={"height": SIDE, "width": SIDE})


def detector(seed: int = 0, **proposer) -> GromaForRegionProposal:
    torch.manual_seed(seed)
    return GromaForRegionProposal(tiny_detector_config(**proposer))


def training_arguments(folder: Path, **overrides) -> DetectionTrainingArguments:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-3,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "freeze_vision_tower": False,
        "vision_lr_scale": 1.0,
        "augmentation": "flip",
        "dataloader_pin_memory": False,
        **overrides,
    }
    return DetectionTrainingArguments(**settings)


def make_trainer(folder: Path, model=None, rows=None, callbacks=None, eval_dataset=None, **overrides):
    return GromaDetectionTrainer(
        model=model if model is not None else detector(),
        args=training_arguments(folder, **overrides),
        image_processor=image_processor(),
        train_dataset=rows if rows is not None else detection_rows(20),
        eval_dataset=eval_dataset,
        callbacks=callbacks,
    )


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_training_reduces_the_loss_and_logs_its_parts(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=40)
    trainer.train()
    history = losses(trainer)
    assert np.mean(history[-4:]) < 0.8 * np.mean(history[:4])
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert 0 < entry["loss_bbox"] < entry["loss"]
    assert 0 < entry["loss_giou"] < 2
    assert entry["loss_ce"] > 0


def test_parts_add_up_to_the_loss(tmp_path):
    """What is logged are the parts of the last layer; those of all layers with their weights are the loss."""
    model = detector()
    dataset = DetectionDataset(detection_rows(4), image_processor())
    batch = DetectionCollator(image_processor())([dataset[row] for row in range(4)])
    outputs = model(**batch)
    weights = {"loss_ce": 2, "loss_bbox": 5, "loss_giou": 2}
    total = sum(
        weight * value
        for name, value in outputs.loss_dict.items()
        for prefix, weight in weights.items()
        if name.startswith(prefix)
    )
    torch.testing.assert_close(outputs.loss, total)
    trainer = make_trainer(tmp_path, model=model)
    model.train()
    trainer.compute_loss(model, batch)
    trainer.log({"loss": outputs.loss.item()})
    for name in weights:
        assert trainer.state.log_history[-1][name] == pytest.approx(outputs.loss_dict[name].item(), rel=1e-5)
    # Once logged they start anew.
    trainer.log({"loss": 1.0})
    assert "loss_ce" not in trainer.state.log_history[-1]


def test_learning_rate_groups():
    model = detector()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        group["group"]: (group["lr"], {names[id(parameter)] for parameter in group["params"]})
        for group in parameter_groups(model, 2e-4, vision_lr_scale=0.1, offset_lr_scale=0.5)
    }
    assert {name: rate for name, (rate, _) in groups.items()} == pytest.approx(
        {"proposer": 2e-4, "offsets": 1e-4, "vision": 2e-5}
    )
    assert groups["offsets"][1] == {
        f"region_proposer.{kind}_layers.{layer}.{attention}.sampling_offsets.{part}"
        for kind, attention in (("encoder", "self_attn"), ("decoder", "encoder_attn"))
        for layer in range(2)
        for part in ("weight", "bias")
    }
    assert groups["vision"][1] == {name for name in names.values() if name.startswith("vision_tower.")}
    assert groups["proposer"][1] == set(names.values()) - groups["offsets"][1] - groups["vision"][1]
    assert len(groups["proposer"][1]) > 50


def test_optimizer_follows_the_recipe(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=2e-4, vision_lr_scale=0.1, freeze_vision_tower=True)
    optimizer = trainer.create_optimizer()
    assert [(group["group"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ("proposer", 2e-4, 1e-4),
        ("offsets", pytest.approx(2e-5), 1e-4),
    ]
    trained = sum(len(group["params"]) for group in optimizer.param_groups)
    assert trained == len(list(trainer.model.region_proposer.parameters()))


def test_a_frozen_vision_encoder_stays_as_it_is(tmp_path):
    model = detector()
    model.vision_tower.config.hidden_dropout_prob = 0.5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            modes.append((model.training, model.vision_tower.training))

    trainer = make_trainer(tmp_path, model=model, freeze_vision_tower=True, max_steps=3, callbacks=[Watch()])
    trainer.train()
    assert modes == [(True, False)] * 3
    changed = {
        name for name, value in trainer.model.state_dict().items() if not torch.equal(value.cpu(), before[name])
    }
    assert changed
    assert all(name.startswith("region_proposer.") for name in changed)


def test_batches_have_one_source(tmp_path):
    rows = detection_rows(23)
    trainer = make_trainer(tmp_path, rows=rows)
    loader = trainer.get_train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)
        sources = [[label["source"] for label in batch["labels"]] for batch in loader]
        assert all(len(set(batch)) == 1 for batch in sources)
        assert sorted(source for batch in sources for source in batch) == sorted(rows["source"])


def test_workers_change_nothing(tmp_path):
    def batches(**overrides) -> list[dict]:
        loader = make_trainer(tmp_path, augmentation="recipe", **overrides).get_train_dataloader()
        loader.set_epoch(1)
        return list(loader)

    alone, with_workers = batches(), batches(dataloader_num_workers=2)
    assert len(alone) == len(with_workers) == 6
    for one, other in zip(alone, with_workers, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        for label, same in zip(one["labels"], other["labels"], strict=True):
            assert torch.equal(label["boxes"], same["boxes"])


def test_batch_is_what_the_image_processor_makes():
    rows = detection_rows(6)
    dataset = DetectionDataset(rows, image_processor())
    batch = DetectionCollator(image_processor())([dataset[row] for row in range(6)])
    expected = image_processor()(images=list(rows["image"]), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected, atol=1e-5, rtol=0)
    for row, label in zip(rows, batch["labels"], strict=True):
        width, height = row["image"].size
        assert label["source"] == row["source"]
        assert label["size"].tolist() == [height, width]
        pixels = box_cxcywh_to_xyxy(label["boxes"]) * torch.tensor([width, height, width, height])
        torch.testing.assert_close(pixels, torch.tensor(row["boxes_xyxy"]), atol=1e-4, rtol=0)


class StopAt(TrainerCallback):
    """Interrupts a training after a step, as a power cut does: right after a checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step
        return control


# With 20 rows of two sources an epoch has 2 + 4 batches: an interruption within an epoch, and one between two.
@pytest.mark.parametrize(("stop", "accumulation"), [(4, 1), (6, 1), (3, 2)])
def test_resumed_training_is_the_uninterrupted_one(tmp_path, stop, accumulation):
    settings = {
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": stop,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "augmentation": "recipe",
        "gradient_accumulation_steps": accumulation,
    }
    whole = make_trainer(tmp_path / "whole", model=detector(dropout=0.1), **settings)
    whole.train()
    interrupted = make_trainer(tmp_path / "parts", model=detector(dropout=0.1), callbacks=[StopAt(stop)], **settings)
    interrupted.train()
    assert interrupted.state.global_step == stop
    # A new process has other weights and another state of random numbers.
    resumed = make_trainer(tmp_path / "parts", model=detector(seed=7, dropout=0.1), **settings)
    torch.rand(5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"))
    assert losses(resumed) == losses(whole)
    assert len(losses(whole)) == 8
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_accumulated_batches_with_equally_many_boxes_are_one_large_batch(tmp_path):
    """The loss of a batch is a sum divided by its boxes: means of halves are the whole where both halves have equally many."""
    rows = detection_rows(8, boxes_per_image=2).remove_columns("source").add_column("source", ["coco"] * 8)
    rows = rows.cast(DETECTION_FEATURES)
    trainers = [
        make_trainer(
            tmp_path, rows=rows, max_steps=3, per_device_train_batch_size=size, gradient_accumulation_steps=steps
        )
        for size, steps in ((8, 1), (4, 2))
    ]
    for trainer in trainers:
        trainer.train()
    np.testing.assert_allclose(losses(trainers[0]), losses(trainers[1]), rtol=1e-4)
    # Otherwise they are not: the denominators differ.
    rows = rows.map(lambda row, index: {"boxes_xyxy": row["boxes_xyxy"][: 1 + (index < 4)]}, with_indices=True)
    batches = [
        DetectionCollator(image_processor())([DetectionDataset(rows, image_processor())[row] for row in part])
        for part in (range(8), range(4), range(4, 8))
    ]
    with torch.no_grad():
        whole, left, right = (detector().eval()(**batch).loss.item() for batch in batches)
    assert (2 * left + right) / 3 == pytest.approx(whole, rel=1e-4)
    assert (left + right) / 2 != pytest.approx(whole, rel=1e-3)


def rows_that_a_model_finds(model: GromaForRegionProposal, count: int) -> Dataset:
    """Pictures whose true boxes are near the model's first proposals, so that its figures are not all zero."""
    rows = list(detection_rows(count, seed=3).cast_column("image", DETECTION_FEATURES["image"]))
    shift = np.random.default_rng(0)
    for row in rows:
        pixel_values = image_processor()(images=row["image"], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            boxes = box_cxcywh_to_xyxy(model(pixel_values).pred_boxes[0, : shift.integers(1, 5)]).clamp(0, 1).numpy()
        boxes = (boxes + shift.uniform(0, 0.004, boxes.shape)).clip(0, 1) * np.tile(row["image"].size, 2)
        row["boxes_xyxy"] = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)].tolist()
    return Dataset.from_list(rows, features=DETECTION_FEATURES)


def test_evaluation_knows_crowd_regions(tmp_path):
    """The best region of each image is called a crowd, another one is true: rows of the trainer and of `evaluate_proposals`."""
    model = detector().eval()
    spread_proposals(model.region_proposer)
    rows = detection_rows(5)
    pixel_values = image_processor()(images=list(rows["image"]), return_tensors="pt")["pixel_values"]
    sizes = torch.tensor([(image.height, image.width) for image in rows["image"]])
    found = unpack_detections(detect(model, pixel_values, sizes).regions.numpy())
    rows = rows.map(lambda _, index: {"boxes_xyxy": found[index].boxes[1:2].tolist()}, with_indices=True)
    crowds = [[image.boxes[0].tolist()] for image in found[:4]] + [None]
    rows = rows.cast(DETECTION_FEATURES)
    with_crowds = rows.add_column("crowd_boxes_xyxy", crowds).cast(features_of(["crowd_boxes_xyxy"], "detection"))
    trainer = make_trainer(tmp_path, model=model, eval_dataset=with_crowds, per_device_eval_batch_size=2)
    metrics = trainer.evaluate()
    expected = evaluate_proposals(model, with_crowds, image_processor(), progress=False)
    for name in ("ap", "ap@0.5", "ar@10", "queries_ap"):
        assert metrics[f"eval_{name}"] == pytest.approx(expected[name], abs=1e-3)
    assert expected["ap"] > evaluate_proposals(model, rows, image_processor(), progress=False)["ap"]


def test_crowds_are_not_learned():
    rows = detection_rows(2).add_column("crowd_boxes_xyxy", [[[1.0, 2.0, 30.0, 40.0]], []])
    rows = rows.cast(features_of(["crowd_boxes_xyxy"], "detection"))
    for augmentation in ("recipe", "flip"):
        assert "crowd_boxes" not in DetectionDataset(rows, image_processor(), augmentation)[0]
    items = [DetectionDataset(rows, image_processor())[index] for index in range(2)]
    labels = DetectionCollator(image_processor())(items)["labels"]
    pixels = box_cxcywh_to_xyxy(labels[0]["crowd_boxes"]) * torch.tensor([SIDE] * 4)
    assert pixels[0].tolist() == pytest.approx([1, 2, 30, 40], abs=1e-4)
    assert "crowd_boxes" not in labels[1] and len(labels[0]["boxes"]) == len(rows[0]["boxes_xyxy"])


def test_evaluation_reports_what_evaluate_proposals_finds(tmp_path):
    model = detector().eval()
    spread_proposals(model.region_proposer)
    rows = rows_that_a_model_finds(model, 7)
    trainer = make_trainer(tmp_path, model=model, eval_dataset=rows, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    expected = evaluate_proposals(model, rows, image_processor(), batch_size=4, progress=False)
    assert {f"eval_{name}" for name in expected} < set(metrics)
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, abs=1e-6), name
    assert metrics["eval_queries_recall@0.5"] > 0.9
    assert 0 < metrics["eval_ar@100"] < metrics["eval_queries_ar@100"] < 1
    assert metrics["eval_loss"] > 0
    # Another dataset can be given, or several by name.
    few = rows.select(range(2))
    assert trainer.evaluate(few)["eval_queries_ar@100"] != metrics["eval_queries_ar@100"]
    both = make_trainer(tmp_path, model=model, eval_dataset={"few": few, "all": rows}).evaluate()
    assert both["eval_all_ap"] == pytest.approx(metrics["eval_ap"])
    assert "eval_few_ap" in both


def test_rows_without_boxes(tmp_path):
    rows = [dict(row, boxes_xyxy=[]) for row in detection_rows(4).cast_column("image", DETECTION_FEATURES["image"])]
    rows = Dataset.from_list(rows, features=DETECTION_FEATURES)
    trainer = make_trainer(tmp_path, rows=rows, eval_dataset=rows, max_steps=1, augmentation="recipe")
    trainer.train()
    assert np.isfinite(losses(trainer)[0])
    assert trainer.evaluate()["eval_ar@100"] == -1


def parquet(folder: Path, count: int, split: str = "train", **kwargs) -> Path:
    folder.mkdir(exist_ok=True)
    detection_rows(count, **kwargs).to_parquet(folder / f"{split}-00000.parquet")
    return folder


def script_arguments(tmp_path: Path) -> list[str]:
    """A YAML recipe and what comes behind it."""
    data = parquet(tmp_path / "data", 12)
    parquet(tmp_path / "data", 5, "validation", seed=1)
    tiny_detector_config().save_pretrained(tmp_path / "config")
    (tmp_path / "recipe.yaml").write_text(
        "per_device_train_batch_size: 4\nlearning_rate: 0.002\nmax_steps: 100\nfreeze_vision_tower: false\n"
        f"augmentation: flip\nreport_to: none\nuse_cpu: true\ntrain_datasets: [{data}]\nmax_eval_rows: 4\n"
    )
    return [
        "--config", f"{tmp_path}/recipe.yaml", "--config_name", f"{tmp_path}/config", "--max_steps", "2",
        "--eval_datasets", str(data), "--output_dir", f"{tmp_path}/out", "--save_steps", "1", "--disable_tqdm", "true",
        "--eval_strategy", "steps", "--eval_steps", "1", "--load_best_model_at_end", "true",
        "--metric_for_best_model", "queries_ar@100",
    ]  # fmt: skip


def test_script(tmp_path, capsys):
    arguments = script_arguments(tmp_path)
    detection.main([*arguments, "--check_data", "true"])
    model = GromaForRegionProposal.from_pretrained(tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert dict(processor.size) == {"height": SIDE, "width": SIDE}
    assert (tmp_path / "out" / "eval_results.json").is_file()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| trained parts | region_proposer, vision_tower |" in card
    assert "| `data` |  |" in card and "| `source coco` | 8 |" in card
    assert "| configuration, random weights | config |" in card and "| eval_queries_ar@100 |" in card
    assert 'AutoModelForObjectDetection.from_pretrained("out")' in card
    assert str(tmp_path) not in card
    regions = model.propose_regions(processor(images=Image.new("RGB", (64, 48)), return_tensors="pt")["pixel_values"])
    assert regions.boxes.shape == (1, 6, 4)
    # Going on from the last checkpoint: two more steps.
    detection.main([*arguments, "--max_steps", "4", "--resume_from_checkpoint", "true"])
    assert (tmp_path / "out" / "checkpoint-4").is_dir()
    # A trained detector is where another training may start.
    start = arguments.index("--config_name")
    arguments[start : start + 2] = ["--model_name_or_path", f"{tmp_path}/out"]
    detection.main([*arguments, "--max_steps", "1", "--output_dir", f"{tmp_path}/second", "--save_strategy", "best"])
    assert (tmp_path / "second" / "model.safetensors").is_file()


def test_detector_of_a_whole_groma(tmp_path):
    torch.manual_seed(0)
    whole = GromaForConditionalGeneration(tiny_config())
    whole.save_pretrained(tmp_path / "whole")
    image_processor().save_pretrained(tmp_path / "whole")
    arguments = detection.DetectionArguments(model_name_or_path=str(tmp_path / "whole"))
    model, processor = detection.load_detector(arguments, training_arguments(tmp_path))
    assert dict(processor.size)["height"] == SIDE
    for name, value in model.region_proposer.state_dict().items():
        assert torch.equal(value, whole.model.region_proposer.state_dict()[name])
    for name, value in model.vision_tower.state_dict().items():
        assert torch.equal(value, whole.model.vision_tower.state_dict()[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--train_datasets": None}, "No dataset was given"),
        ({"--train_datasets": "{tmp_path}/nothing/here"}, "does not exist"),
        ({"--train_datasets": "{tmp_path}/columns"}, "needs the column 'boxes_xyxy'"),
        ({"--train_datasets": "{tmp_path}/source"}, "coco or sa1b; found 'flickr'"),
        ({"--train_datasets": "{tmp_path}/outside", "--check_data": "true"}, "Row 2 .*lies outside"),
        ({"--config_name": None}, "Give one of `model_name_or_path`"),
        ({"--model_name_or_path": "x"}, "Give one of `model_name_or_path`"),
        ({"--freeze_vision_tower": "true"}, "a frozen vision encoder would keep"),
        ({"--augmentation": "mosaic"}, "must be one of recipe, flip, none, got 'mosaic'"),
        ({"--vision_lr_scale": "0"}, "`vision_lr_scale` must be above 0, got 0"),
        ({"--config": "{tmp_path}/missing.yaml"}, "missing.yaml is not a file"),
    ],
)
def test_bad_arguments(tmp_path, changes, message, monkeypatch):
    rows = detection_rows(4)
    for name in ("columns", "source", "outside"):
        (tmp_path / name).mkdir()
    rows.remove_columns("boxes_xyxy").to_parquet(tmp_path / "columns" / "train.parquet")
    flickr = [dict(row, source="flickr") for row in rows]
    Dataset.from_list(flickr, features=DETECTION_FEATURES).to_parquet(tmp_path / "source" / "train.parquet")
    outside = [dict(row, boxes_xyxy=[[0, 0, 80, 10]] if number == 2 else []) for number, row in enumerate(rows)]
    Dataset.from_list(outside, features=DETECTION_FEATURES).to_parquet(tmp_path / "outside" / "train.parquet")
    arguments = script_arguments(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    for name, value in changes.items():
        if value is None and name in arguments:
            position = arguments.index(name)
            del arguments[position : position + 2]
        elif value is None:
            lines = [line for line in recipe.read_text().splitlines() if not line.startswith(name[2:])]
            recipe.write_text("\n".join(lines))
        elif name in arguments:
            arguments[arguments.index(name) + 1] = value.format(tmp_path=tmp_path)
        else:
            arguments += [name, value.format(tmp_path=tmp_path)]
    monkeypatch.setattr(GromaDetectionTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        detection.main(arguments)


def test_bad_trainers(tmp_path):
    with pytest.raises(ValueError, match="makes .*28.*, but the model takes 56x56 pixels"):
        GromaDetectionTrainer(
            detector(),
            training_arguments(tmp_path),
            GromaImageProcessor(size={"height": 28, "width": 28}),
            detection_rows(2),
        )
    arguments = training_arguments(tmp_path)
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match="One process sees 2 GPUs"):
        GromaDetectionTrainer(detector(), arguments, image_processor(), detection_rows(2))
    trainer = GromaDetectionTrainer(detector(), training_arguments(tmp_path), image_processor())
    with pytest.raises(ValueError, match="needs a `train_dataset`"):
        trainer.train()


TWO_PROCESSES = """
import json, sys
from pathlib import Path
from tests.training.test_detection import *

folder = Path(sys.argv[1])
settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "augmentation": "recipe", "ddp_backend": "gloo"}
model = detector(dropout=0.1)
spread_proposals(model.region_proposer)
rows = rows_that_a_model_finds(model.eval(), 7)
whole = make_trainer(folder, model=model, rows=detection_rows(40), eval_dataset=rows, **settings)
before = whole.evaluate()
sources = [sorted({label["source"] for label in batch["labels"]}) for batch in whole.get_train_dataloader()]
whole.train()
resumed = make_trainer(folder, model=detector(seed=7, dropout=0.1), rows=detection_rows(40), **settings)
resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
rank = whole.args.process_index
weights = sum(value.double().sum().item() for value in whole.model.state_dict().values())
report = {"whole": losses(whole), "resumed": losses(resumed), "sources": sources, "metrics": before, "weights": weights}
(folder / f"report-{rank}.json").write_text(json.dumps(report))
whole.end()
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both learn from one source at a time, evaluation counts every row once, and a resume goes on exactly."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    repository = Path(__file__).parents[2]
    result = subprocess.run(
        [*command, str(script), str(tmp_path)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    reports = [json.loads((tmp_path / f"report-{rank}.json").read_text()) for rank in range(2)]
    assert reports[0]["sources"] == reports[1]["sources"]
    assert {tuple(batch) for batch in reports[0]["sources"]} == {("coco",), ("sa1b",)}
    # An evaluation before the training does not keep the processes from learning together.
    assert reports[0]["weights"] == reports[1]["weights"]
    # An epoch of 40 rows in 2 x 4 has 4 + 2 steps: the interruption is within it.
    assert reports[0]["resumed"] == reports[0]["whole"]
    model = detector(dropout=0.1)
    spread_proposals(model.region_proposer)
    rows = rows_that_a_model_finds(model.eval(), 7)
    expected = evaluate_proposals(model, rows, image_processor(), progress=False)
    for name, value in expected.items():
        assert reports[1]["metrics"][f"eval_{name}"] == pytest.approx(value, abs=1e-6), name
