"""Stage 2: what learns, that the loss is the model's, and that an interruption changes nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaProcessor
from transformers_groma.data.columns import CONVERSATION_FEATURES, image_part, phrase_part
from transformers_groma.models.groma.convert_names import rename_legacy_key
from transformers_groma.models.groma.tokenization_groma import groma_tokens
from transformers_groma.training import alignment
from transformers_groma.training.alignment import ALIGNMENT_PARTS
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.trainable import set_trainable_parts
from transformers_groma.training.trainer import GromaTrainer

from ..golden import expand_batch, golden_pixels, load_case, pad_boxes
from ..tiny import MAX_REGIONS, spread_proposals, tiny_detector_config
from .rows import (
    command_line,
    conversation,
    conversations,
    history,
    keep_slot_order,
    losses,
    run_alignment,
    same_weights,
    save_training_model,
    training_arguments,
    training_model,
    training_processor,
    turn,
    write_conversations,
)

# An epoch has 4 steps, and the interruption is within it.
STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_training_model(tmp_path_factory.mktemp("stage2") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage2") / "data"
    write_conversations(folder, 4, "validation")
    return write_conversations(folder, 16)


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory) -> GromaTrainer:
    """Six steps at once, with all that a run writes."""
    output = tmp_path_factory.mktemp("stage2") / "whole"
    settings = {"eval_datasets": data, "eval_strategy": "steps", "eval_steps": 3, "report_to": "tensorboard"}
    return run_alignment(command_line(base, data, output, **STEPS, **settings))


def test_what_learns(whole, base):
    """Region encoder, projector and the rows of new tokens; everything else is as before, to the bit."""
    before = GromaForConditionalGeneration.from_pretrained(base).state_dict()
    after = whole.model.state_dict()
    new = training_processor().tokenizer.convert_tokens_to_ids(groma_tokens(MAX_REGIONS))
    old = torch.ones(len(training_processor().tokenizer), dtype=torch.bool)
    old[new] = False
    for name, weight in after.items():
        if name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(weight[old], before[name][old]), name
            assert not torch.equal(weight[new], before[name][new]), name
        else:
            learned = name.startswith(("model.region_encoder.", "model.multi_modal_projector."))
            assert torch.equal(weight, before[name]) is not learned, name


def test_what_is_written(whole):
    output = Path(whole.args.output_dir)
    saved = GromaForConditionalGeneration.from_pretrained(output)
    assert same_weights(saved, whole.model)
    assert GromaProcessor.from_pretrained(output).max_regions == MAX_REGIONS
    (events,) = (output / "runs").rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events)).Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert_close([event.value for event in accumulator.Scalars("train/loss")], losses(whole), atol=1e-4, rtol=0)
    assert [event.step for event in accumulator.Scalars("eval/loss")] == [3, 6]


def test_card(whole, base, data):
    text = (Path(whole.args.output_dir) / "README.md").read_text()
    assert "| trained parts | region_encoder, projector, new_tokens |" in text
    assert "| `data` |  |" in text
    assert "| `source boxes` | 13 |" in text
    assert "| `source chat` | 3 |" in text
    evaluated = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert f"| eval_loss | {evaluated[-1]:.4g} |" in text
    for path in (base, data, whole.args.output_dir):
        assert str(Path(path).parent) not in text
    assert ModelCard(text).data.library_name == "transformers"


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_is_exact(whole, base, data, tmp_path, workers):
    """Losses, gradients, rates and weights, though the model shuffles its slots; with more workers, too."""
    resumed = run_alignment(
        command_line(
            base,
            data,
            tmp_path,
            **STEPS,
            eval_datasets=data,
            eval_strategy="steps",
            eval_steps=3,
            dataloader_num_workers=workers,
            resume_from_checkpoint=Path(whole.args.output_dir) / "checkpoint-3",
        )
    )
    assert history(resumed) == history(whole)
    assert len(history(whole)) == 6
    assert same_weights(resumed.model, whole.model)


def test_the_slots_are_shuffled(whole, base, data, tmp_path, monkeypatch):
    """Or else the exact resume would not say much: without shuffling the losses are others."""
    keep_slot_order(monkeypatch)
    other = run_alignment(command_line(base, data, tmp_path, max_steps=2, lr_scheduler_type="constant"))
    assert losses(other)[0] != losses(whole)[0]


KILLED = """
import os, signal, sys
from transformers import Trainer
from transformers_groma.training import alignment

write = Trainer._save_optimizer_and_scheduler

def write_half(self, folder):
    if self.state.global_step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, folder)

Trainer._save_optimizer_and_scheduler = write_half
alignment.main(sys.argv[1:])
"""


def test_killed_while_it_writes_a_checkpoint(base, data, tmp_path):
    """`--resume_from_checkpoint true` takes the last complete one; the losses equal a run without the kill."""
    arguments = command_line(base, data, tmp_path / "output", max_steps=6, save_strategy="steps", save_steps=2)
    command = [sys.executable, "-c", KILLED, *arguments]
    result = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr[-3000:]
    folders = {folder.name for folder in (tmp_path / "output").glob("checkpoint-*")}
    assert folders == {"checkpoint-2", "checkpoint-4"}
    assert not (tmp_path / "output" / "checkpoint-4" / "trainer_state.json").exists()
    resumed = run_alignment([*arguments, "--resume_from_checkpoint", "true"])
    assert resumed.state.global_step == 6
    arguments[arguments.index(str(tmp_path / "output"))] = str(tmp_path / "whole")
    whole = run_alignment(arguments)
    assert history(resumed) == history(whole)
    assert same_weights(resumed.model, whole.model)


def test_accumulated_batches_are_one_batch(base, data, tmp_path, monkeypatch):
    """2 x 2 rows give what 4 rows give, though answers differ in length: the loss is a mean over tokens.

    The slots are not shuffled: two batches draw their random numbers in another order than one.
    """
    keep_slot_order(monkeypatch)
    settings = {"max_steps": 4, "learning_rate": 0.1, "optim": "sgd"}
    once = run_alignment(command_line(base, data, tmp_path / "1", **settings))
    settings |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    twice = run_alignment(command_line(base, data, tmp_path / "2", **settings))
    assert_close(losses(twice), losses(once), atol=1e-5, rtol=1e-5)
    for name, weight in once.model.state_dict().items():
        assert_close(twice.model.state_dict()[name], weight, atol=1e-5, rtol=1e-5, msg=name)
    means = [entry["grad_norm"] for entry in history(once)]
    assert_close([entry["grad_norm"] for entry in history(twice)], means, atol=1e-4, rtol=1e-3)


def test_golden_loss_and_gradients(shared_golden, converted_golden, golden_dir, tmp_path, monkeypatch):
    """A step of the trainer is that of the original, with frozen parts, labels over boxes and the mean over tokens.

    The slots are not shuffled: the golden values come from an order by score.
    """
    keep_slot_order(monkeypatch)
    model = GromaForConditionalGeneration.from_pretrained(converted_golden)
    notes, golden = load_case(shared_golden, "groma_ground")
    batch = expand_batch(golden["input_ids"], golden["labels"])
    for kind in ("refer", "ground"):
        boxes = [golden[key] for key in sorted(golden) if key.startswith(f"{kind}_boxes_")]
        if boxes:
            batch[f"{kind}_boxes"] = pad_boxes(boxes)
    batch["pixel_values"] = golden_pixels(golden_dir)[: len(golden["input_ids"])]
    set_trainable_parts(model, ALIGNMENT_PARTS, list(range(320, 434)))
    trainer = GromaTrainer(model=model, args=training_arguments(tmp_path), train_dataset=[0])
    loss = trainer.training_step(model, dict(batch), (batch["labels"][:, 1:] != -100).sum())
    assert loss.item() == pytest.approx(notes["loss"], abs=1e-4)
    with torch.no_grad():
        assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(notes["loss"], abs=1e-4)
        evaluated, _, _ = trainer.prediction_step(model.eval(), dict(batch), prediction_loss_only=True)
        assert evaluated.item() == pytest.approx(notes["loss"], abs=1e-4)
    parameters = dict(model.named_parameters())
    compared = []
    for key, expected in notes["grad_norm_and_grad_dot_param"].items():
        name = rename_legacy_key(key)
        gradient, parameter = parameters[name].grad, parameters[name]
        if key in ("llm.model.embed_tokens.weight", "llm.lm_head.weight"):
            assert not gradient[:-114].any()
            continue
        if key in ("new_input_embs.weight", "extra_lm_head.weight"):
            gradient, parameter = gradient[-114:], parameter[-114:]
        if not parameters[name].requires_grad or expected is None:
            assert gradient is None, key
            continue
        norm, dot = expected
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-2, abs=1e-4), key
        assert (gradient * parameter).sum().item() == pytest.approx(dot, rel=2e-2, abs=2e-3), key
        compared.append(name)
    assert len(compared) > 20
    assert {"model.language_model.embed_tokens.weight", "lm_head.weight"} < set(compared)


def test_detector(base, data, tmp_path):
    """Its vision encoder and proposer take the place of the model's."""
    torch.manual_seed(7)
    detector = GromaForRegionProposal(tiny_detector_config())
    spread_proposals(detector.region_proposer)
    detector.save_pretrained(tmp_path / "detector")
    trainer = run_alignment(command_line(base, data, tmp_path / "output", max_steps=1, detector=tmp_path / "detector"))
    assert same_weights(trainer.model.model.region_proposer, detector.region_proposer)
    assert same_weights(trainer.model.model.vision_tower, detector.vision_tower)
    assert "| detector | detector |" in (tmp_path / "output" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 32}, "The region_proposer of .*other does not fit the model: "),
        (
            {"decoder_attention_heads": 4},
            r"`proposer_config.decoder_attention_heads` of the detector .*other is 4, that of .* 2",
        ),
        (
            {"refine_reference_points": False},
            "`proposer_config.refine_reference_points` .*other is False, that of .* True: its",
        ),
    ],
)
def test_a_detector_that_does_not_fit(base, data, tmp_path, changes, message):
    """Also where all shapes are equal."""
    GromaForRegionProposal(tiny_detector_config(**changes)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        run_alignment(command_line(base, data, tmp_path / "output", max_steps=1, detector=tmp_path / "other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name_or_path": None}, "`model_name_or_path` is missing: give the folder"),
        ({"train_datasets": None}, "No dataset was given"),
        ({"train_datasets": "{data}@test"}, "has no files test-.*splits found: train, validation"),
        ({"weight_decay": 0.1}, "`weight_decay` is 0.1, but would decay the old rows"),
        ({"trainable_parts": "eyes"}, "Unknown part 'eyes'"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is 0.1, but .* Set it to 0"),
        ({"config": "missing.yaml"}, "--config missing.yaml is not a file"),
    ],
)
def test_bad_arguments(base, data, tmp_path, changes, message, monkeypatch):
    monkeypatch.setattr(GromaTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    changes = {name: value.format(data=data) if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        alignment.main(command_line(**{"model": base, "data": data, "output": tmp_path}, **changes))


def test_data_is_checked_before_training(base, tmp_path, monkeypatch):
    """`check_data` finds a row with more boxes than the model has slots; without it training stops at the row."""
    row = conversation(1)
    row["messages"] = turn([image_part()], [phrase_part("all", [0, 1] * 4)])
    rows = [conversation(0), row, conversation(2), conversation(3)]
    Dataset.from_list(rows, features=CONVERSATION_FEATURES).to_parquet(tmp_path / "many.parquet")
    arguments = command_line(base, tmp_path / "many.parquet", tmp_path / "output", max_steps=1)
    with pytest.raises(
        ValueError, match="image '1' of source 'boxes' names 8 boxes, but the model has 6 region slots"
    ):
        alignment.main(arguments)
    monkeypatch.setattr(GromaTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    with pytest.raises(
        ValueError, match="image '1' of source 'boxes' names 8 boxes, but the model has 6 region slots"
    ):
        alignment.main([*arguments, "--check_data"])


def test_several_gpus_in_one_process(tmp_path):
    arguments = training_arguments(tmp_path)
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match="One process sees 2 GPUs, and images cannot be split"):
        GromaTrainer(model=training_model(), args=arguments, train_dataset=conversations(2))


def test_what_distributed_training_needs_is_set(tmp_path, monkeypatch):
    """DDP looks for unused parameters, also with checkpointing; sharded processes get an image in every batch."""
    collator = ConversationCollator(training_processor())
    settings = {"data_collator": collator, "train_dataset": conversations(2)}
    arguments = training_arguments(tmp_path, activation_checkpointing=True)
    GromaTrainer(model=training_model(), args=arguments, **settings)
    assert arguments.ddp_find_unused_parameters is True
    assert not collator.always_image
    arguments = training_arguments(tmp_path, ddp_find_unused_parameters=False)
    trainer = GromaTrainer(model=training_model(), args=arguments, **settings)
    assert arguments.ddp_find_unused_parameters is False
    create = GromaTrainer.create_accelerator_and_postprocess

    def create_sharded(self):
        create(self)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(GromaTrainer, "create_accelerator_and_postprocess", create_sharded)
    trainer = GromaTrainer(model=training_model(), args=training_arguments(tmp_path), **settings)
    assert trainer.data_collator.always_image
