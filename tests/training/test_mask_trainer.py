"""The trainer of the mask decoder: what learns, resuming, evaluation, saving the whole model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaImageProcessor
from transformers_groma.training.mask_trainer import GromaMaskTrainer, read_mask_decoder

from ..tiny import tiny_model
from .detectors import losses
from .mask_rows import image_processor, make_trainer, mask_detector, mask_rows, training_arguments, weights_but_masks
from .mask_rows import whole_model as whole_groma
from .two_processes import run_two_processes


@pytest.mark.parametrize(
    ("build", "kind"), [(whole_groma, GromaForConditionalGeneration), (mask_detector, GromaForRegionProposal)]
)
def test_only_the_mask_decoder_learns_and_the_whole_model_is_saved(tmp_path, build, kind):
    model = build()
    before = weights_but_masks(model)
    decoder = {name: value.clone() for name, value in model.state_dict().items() if name not in before}
    trainer = make_trainer(tmp_path, model=model, max_steps=40)
    trainer.train()
    history = losses(trainer)
    assert np.mean(history[-4:]) < 0.6 * np.mean(history[:4])
    trainer.save_and_push()
    saved = kind.from_pretrained(tmp_path).state_dict()
    for name, value in before.items():
        assert torch.equal(value, saved[name]), name
    changed = [name for name, value in decoder.items() if not torch.equal(value, saved[name])]
    assert len(changed) > 0.8 * len(decoder)
    assert "positional_embedding" not in "".join(changed)  # the code of positions is fixed
    assert (tmp_path / "preprocessor_config.json").exists()
    assert "mask_decoder" in (tmp_path / "README.md").read_text()


def test_the_parts_of_the_loss_are_logged(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert 0 < entry["loss_dice"] < 1
    assert 0 < entry["loss_bce"] < entry["loss"]
    assert 0 <= entry["iou"] <= 1
    assert 0 < entry["loss_quality"] < 1


def test_mixed_precision_learns_as_well(tmp_path):
    """The frozen parts compute in float32, as they do in use, and so do the losses."""
    model = whole_groma()
    dtypes = []
    model.model.vision_tower.register_forward_hook(lambda *call: dtypes.append(call[-1].last_hidden_state.dtype))
    trainer = make_trainer(tmp_path, model=model, max_steps=40, bf16=True)
    trainer.train()
    history = losses(trainer)
    assert np.mean(history[-4:]) < 0.7 * np.mean(history[:4])
    assert set(dtypes) == {torch.float32}
    assert {weight.dtype for weight in trainer.model.mask_decoder.parameters()} == {torch.float32}


def test_frozen_parts_stay_in_evaluation_mode(tmp_path):
    model = whole_groma()
    modes = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            modes.append((model.mask_decoder.training, model.vision_tower.training, model.region_encoder.training))

    make_trainer(tmp_path, model=model, max_steps=2, callbacks=[Watch()]).train()
    assert modes == [(True, False, False)] * 2


def test_the_language_model_and_the_proposer_never_run(tmp_path):
    model = whole_groma()

    def fail(*args, **kwargs):
        raise AssertionError("ran")

    for part in (model.model.language_model, model.model.region_proposer, model.lm_head):
        part.register_forward_pre_hook(fail)
    trainer = make_trainer(tmp_path, model=model, max_steps=2, eval_dataset=mask_rows(3, seed=1))
    trainer.train()
    trainer.evaluate()
    moved = {id(weight) for weight in trainer.model.parameters()}
    assert not moved & {id(weight) for weight in model.model.language_model.parameters()}


def test_workers_change_nothing(tmp_path):
    def batches(**overrides) -> list[dict]:
        loader = make_trainer(tmp_path, augmentation="recipe", **overrides).get_train_dataloader()
        loader.set_epoch(1)
        return list(loader)

    alone, with_workers = batches(), batches(dataloader_num_workers=2)
    assert len(alone) == len(with_workers) == 5
    for one, other in zip(alone, with_workers, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


class StopAt(TrainerCallback):
    """Interrupts a training after a step, as a power cut does: right after a checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step
        return control


# An epoch has 5 batches: an interruption within an epoch, and one between two.
@pytest.mark.parametrize(("stop", "accumulation"), [(3, 1), (5, 1), (3, 2)])
def test_resumed_training_is_the_uninterrupted_one(tmp_path, stop, accumulation):
    settings = {
        "max_steps": 7,
        "save_strategy": "steps",
        "save_steps": stop,
        "lr_scheduler_type": "linear",
        "warmup_steps": 2,
        "augmentation": "recipe",
        "gradient_accumulation_steps": accumulation,
    }
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    interrupted = make_trainer(tmp_path / "parts", callbacks=[StopAt(stop)], **settings)
    interrupted.train()
    assert interrupted.state.global_step == stop
    # A new process has another fresh decoder and another state of random numbers.
    other = whole_groma()
    fresh = mask_detector(seed=7).mask_decoder.state_dict()
    other.model.mask_decoder.load_state_dict(fresh, strict=False)
    resumed = make_trainer(tmp_path / "parts", model=other, **settings)
    torch.rand(5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"))
    assert losses(resumed) == losses(whole)
    assert len(losses(whole)) == 7
    for name, value in whole.whole_model.state_dict().items():
        assert torch.equal(value, resumed.whole_model.state_dict()[name]), name


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path):
    trainer = make_trainer(
        tmp_path,
        max_steps=4,
        eval_dataset=mask_rows(3, seed=1),
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # the first one, before it learned
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    trainer.train()
    best = read_mask_decoder(Path(trainer.state.best_model_checkpoint))
    for name, value in trainer.model.mask_decoder.state_dict().items():
        assert torch.equal(value, best[name]), name


def test_evaluation_measures_every_object_once(tmp_path):
    rows = mask_rows(7, seed=1)
    objects = sum(len(masks) for masks in rows["masks"])
    trainer = make_trainer(tmp_path, eval_dataset=rows, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    assert metrics["eval_objects"] == objects
    assert 0.6 < metrics["eval_iou_filled_box"] < 0.9  # an ellipse fills pi / 4 of its box
    assert metrics["eval_iou_box_large"] == -1
    assert 0 <= metrics["eval_right_object"] <= 1
    assert metrics["eval_loss"] > 0
    # The same whatever the batches are.
    again = make_trainer(tmp_path, eval_dataset={"a": rows}, per_device_eval_batch_size=2).evaluate()
    assert again["eval_a_iou_box"] == pytest.approx(metrics["eval_iou_box"], abs=1e-6)
    assert again["eval_a_iou_click"] == pytest.approx(metrics["eval_iou_click"], abs=1e-6)
    assert trainer.evaluate(rows.select(range(2)))["eval_objects"] == sum(len(masks) for masks in rows["masks"][:2])


def test_rows_without_masks_are_left_out(tmp_path, caplog):
    rows = mask_rows(6).map(lambda row, index: {"masks": row["masks"] if index % 2 else None}, with_indices=True)
    trainer = make_trainer(tmp_path, rows=rows.cast(mask_rows(1).features), max_steps=1)
    assert len(trainer.train_dataset) == 3
    trainer.train()
    with pytest.raises(ValueError, match="has no column `masks`"):
        make_trainer(tmp_path, rows=rows.remove_columns("masks"))


def test_bad_trainers(tmp_path):
    with pytest.raises(ValueError, match="has no mask decoder"):
        make_trainer(tmp_path, model=tiny_model())
    with pytest.raises(ValueError, match="makes .*28.*, but the model takes 56x56 pixels"):
        GromaMaskTrainer(
            whole_groma(),
            training_arguments(tmp_path),
            GromaImageProcessor(size={"height": 28, "width": 28}),
            mask_rows(2),
        )
    arguments = training_arguments(tmp_path)
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match="One process sees 2 GPUs"):
        GromaMaskTrainer(whole_groma(), arguments, image_processor(), mask_rows(2))
    for name, value, message in (
        ("augmentation", "none of these", "`augmentation` must be one of"),
        ("prompts_per_image", 0, "`prompts_per_image` must be at least 1"),
        ("refinement_rounds", -1, "`refinement_rounds` must be at least 0"),
        ("token_share", 1.5, "`token_share` must be from 0 to 1"),
        ("quality_weight", -1.0, "`quality_weight` must be at least 0"),
        ("label_smoothing_factor", 0.1, "masks have no labels"),
        ("activation_checkpointing", True, "does nothing for a mask decoder"),
    ):
        with pytest.raises(ValueError, match=message):
            training_arguments(tmp_path, **{name: value})
    with pytest.raises(ValueError, match="masks would learn nothing"):
        training_arguments(tmp_path, bce_weight=0.0, dice_weight=0.0)
    (tmp_path / "empty").mkdir()
    tiny_model().save_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match="no weights of a mask decoder"):
        read_mask_decoder(tmp_path / "empty")


TWO_PROCESSES = """
import json, sys
from pathlib import Path
from tests.training.detectors import losses
from tests.training.mask_rows import make_trainer, mask_rows, whole_model

folder = Path(sys.argv[1])
settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "augmentation": "recipe", "ddp_backend": "gloo"}
rows = mask_rows(7, seed=1)
whole = make_trainer(folder, rows=mask_rows(40), eval_dataset=rows, **settings)
before = whole.evaluate()
whole.train()
resumed = make_trainer(folder, rows=mask_rows(40), **settings)
resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
rank = whole.args.process_index
weights = sum(value.double().sum().item() for value in whole.whole_model.state_dict().values())
report = {"whole": losses(whole), "resumed": losses(resumed), "metrics": before, "weights": weights}
(folder / f"report-{rank}.json").write_text(json.dumps(report))
whole.end()
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both learn the same decoder, evaluation counts every object once, and resuming changes nothing."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    reports = run_two_processes([str(script)], tmp_path)
    assert reports[0]["weights"] == reports[1]["weights"]
    assert reports[0]["resumed"] == reports[0]["whole"]
    alone = make_trainer(tmp_path / "alone", eval_dataset=mask_rows(7, seed=1)).evaluate()
    for name in ("eval_objects", "eval_iou_box", "eval_iou_click"):
        assert reports[0]["metrics"][name] == pytest.approx(alone[name], abs=1e-5)
