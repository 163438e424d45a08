"""What the trainers on detection rows share: the seed of their rows, one device with one size, parts of the loss."""

import pytest
import torch

from transformers_groma import GromaImageProcessor
from transformers_groma.training.arguments import data_seed
from transformers_groma.training.seeded_rows import check_one_image_size

from .detectors import SIDE, image_processor, make_trainer, training_arguments


def test_rows_have_a_seed_of_their_own_if_it_is_given(tmp_path):
    assert data_seed(training_arguments(tmp_path, seed=3)) == 3
    assert data_seed(training_arguments(tmp_path, seed=3, data_seed=0)) == 0


def test_another_order_of_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'sequential', but rows are drawn by.*Set it to 'random'"):
        make_trainer(tmp_path, train_sampling_strategy="sequential")


def test_a_process_has_one_device_and_one_image_size(tmp_path):
    arguments = training_arguments(tmp_path)
    check_one_image_size(arguments, image_processor(), SIDE)
    for size in ({"height": SIDE, "width": 28}, {"shortest_edge": SIDE}):
        with pytest.raises(ValueError, match="makes .*, but the model takes 56x56 pixels"):
            check_one_image_size(arguments, GromaImageProcessor(size=size), SIDE)
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match="One process sees 2 GPUs"):
        check_one_image_size(arguments, image_processor(), SIDE)


def test_parts_are_averaged_between_two_logs(tmp_path):
    trainer = make_trainer(tmp_path)
    for value in (1.0, 3.0):
        trainer.collect({"part": torch.tensor(value, requires_grad=True)})
    trainer.log({"eval_loss": 1.0})  # of an evaluation
    assert "part" not in trainer.state.log_history[-1]
    trainer.log({"loss": 1.0})
    assert trainer.state.log_history[-1]["part"] == 2.0
    trainer.log({"loss": 1.0})
    assert "part" not in trainer.state.log_history[-1]
