"""Orders of rows: batches of similar lengths, or about few images; the same whatever ran before."""

import pytest
import torch
from torch.utils.data import BatchSampler

from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.row_order import SeededOrder, estimate_lengths, order_by_length
from transformers_groma.training.trainer import GromaTrainer

from .rows import (
    command_line,
    conversations,
    history,
    run_alignment,
    run_sft,
    same_weights,
    save_training_model,
    training_arguments,
    training_model,
    training_processor,
    write_conversations,
)

LENGTHS = [(37 * row) % 101 for row in range(512)]
BY_LENGTH = {"train_sampling_strategy": "group_by_length"}


def test_every_row_once_and_similar_lengths_in_a_step():
    rows = list(SeededOrder(order_by_length(LENGTHS, 8), len(LENGTHS)))
    assert sorted(rows) == list(range(512))

    def spread(order) -> int:
        lengths = [[LENGTHS[row] for row in batch] for batch in BatchSampler(order, 8, drop_last=False)]
        return sum(max(batch) - min(batch) for batch in lengths)

    assert spread(rows) < spread(range(512)) / 3


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler = SeededOrder(order_by_length(LENGTHS, 8), len(LENGTHS), seed=3)
    first = list(sampler)
    torch.manual_seed(99)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    other = SeededOrder(order_by_length(LENGTHS, 8), len(LENGTHS), seed=4)
    assert list(other) != first
    again = SeededOrder(order_by_length(LENGTHS, 8), len(LENGTHS), seed=3)
    again.set_epoch(1)
    assert list(again) == second and len(again) == 512


def test_lengths_are_those_of_the_collator_but_for_the_template():
    rows = conversations(10)
    batch = ConversationCollator(training_processor())(list(rows))
    exact = batch["attention_mask"].sum(dim=1).tolist()
    estimated = estimate_lengths(rows, training_processor())
    template = [whole - part for whole, part in zip(exact, estimated, strict=True)]
    for kind in (True, False):  # with one turn and with two
        differences = [d for d, row in zip(template, rows) if (row["image"] is None) is kind]
        assert max(differences) - min(differences) <= 2
    images = [length for length, row in zip(estimated, rows) if row["image"] is not None]
    assert min(images) > max(length for length, row in zip(estimated, rows) if row["image"] is None)
    split = estimate_lengths(rows, training_processor(), num_proc=2)
    assert split == estimated


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    save_training_model(folder / "model")
    write_conversations(folder / "data", 12, text_only_every=3)
    return folder


@pytest.mark.parametrize("run", [run_alignment, run_sft])
def test_a_resume_is_exact(folder, tmp_path, run):
    """In the middle of the second epoch, whose order is another one."""
    settings = {**BY_LENGTH, "max_steps": 5, "save_strategy": "steps", "save_steps": 4}
    whole = run(command_line(folder / "model", folder / "data", tmp_path / "whole", **settings))
    resumed = run(
        command_line(
            folder / "model",
            folder / "data",
            tmp_path / "resumed",
            **settings,
            resume_from_checkpoint=tmp_path / "whole" / "checkpoint-4",
        )
    )
    assert history(resumed) == history(whole)
    assert same_weights(resumed.model, whole.model)


def test_batches_of_a_training_have_similar_lengths(tmp_path):
    """Rows with and without an image; evaluation keeps its batches, whose mean is the loss."""
    rows = conversations(24, text_only_every=2)
    trainer = GromaTrainer(
        model=training_model(),
        args=training_arguments(tmp_path, **BY_LENGTH, gradient_accumulation_steps=2, per_device_train_batch_size=2),
        data_collator=ConversationCollator(training_processor()),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=training_processor(),
    )
    images = [len(batch.get("pixel_values", ())) for batch in trainer.get_train_dataloader()]
    assert len(images) == 12 and sum(images) == 12
    mixed = [count for count in images if count == 1]
    assert len(mixed) <= 2
    first = next(iter(trainer.get_eval_dataloader()))
    expected = trainer.data_collator([rows[index] for index in range(8)])
    assert torch.equal(first["input_ids"], expected["input_ids"])


def test_what_needs_token_ids_in_rows_is_refused(tmp_path, folder):
    arguments = command_line(folder / "model", folder / "data", tmp_path, train_sampling_strategy="batch_rebalance")
    with pytest.raises(ValueError, match="'batch_rebalance', which needs.*Set it to 'group_by_length'"):
        run_alignment(arguments)
