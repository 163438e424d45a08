"""The trainer of stage 1: loss, learning rates, batches, resuming, evaluation."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from transformers_groma import GromaImageProcessor
from transformers_groma.data.columns import DETECTION_FEATURES, features_of
from transformers_groma.evaluation.proposals import detect, evaluate_proposals
from transformers_groma.training.detection_data import DetectionCollator, DetectionDataset
from transformers_groma.training.detection_trainer import GromaDetectionTrainer, parameter_groups

from ..tiny import spread_proposals
from .detectors import (
    detection_rows,
    detector,
    image_processor,
    losses,
    make_trainer,
    rows_that_a_model_finds,
    training_arguments,
)
from .two_processes import run_two_processes


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
    """The loss of a batch is a sum divided by its boxes, so halves with equally many boxes average to the whole."""
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


def test_evaluation_knows_crowd_regions(tmp_path):
    """Each image's best region is a crowd and another one is true, for the trainer and for `evaluate_proposals`."""
    model = detector().eval()
    spread_proposals(model.region_proposer)
    rows = detection_rows(5)
    pixel_values = image_processor()(images=list(rows["image"]), return_tensors="pt")["pixel_values"]
    sizes = torch.tensor([(image.height, image.width) for image in rows["image"]])
    found, _ = detect(model, pixel_values, sizes)
    rows = rows.map(lambda _, index: {"boxes_xyxy": found[index].xyxy[1:2].tolist()}, with_indices=True)
    crowds = [[image[0].box.tolist()] for image in found[:4]] + [None]
    rows = rows.cast(DETECTION_FEATURES)
    with_crowds = rows.add_column("crowd_boxes_xyxy", crowds).cast(features_of(["crowd_boxes_xyxy"], "detection"))
    trainer = make_trainer(tmp_path, model=model, eval_dataset=with_crowds, per_device_eval_batch_size=2)
    metrics = trainer.evaluate()
    expected = evaluate_proposals(model, with_crowds, image_processor(), progress=False)
    for name in ("ap", "ap@0.5", "ar@10", "queries_ap"):
        assert metrics[f"eval_{name}"] == pytest.approx(expected[name], abs=1e-3)
    assert expected["ap"] > evaluate_proposals(model, rows, image_processor(), progress=False)["ap"]


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
from tests.tiny import spread_proposals
from tests.training.detectors import detection_rows, detector, losses, make_trainer, rows_that_a_model_finds

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
report = {"whole": losses(whole), "resumed": losses(resumed), "sources": sources}
report |= {"metrics": before, "weights": weights}
(folder / f"report-{rank}.json").write_text(json.dumps(report))
whole.end()
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both learn from one source at a time, evaluation counts every row once, and resuming changes nothing."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    reports = run_two_processes([str(script)], tmp_path)
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
