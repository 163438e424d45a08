"""Loading a model with its processor: device, dtype, and errors."""

import pytest
import torch

from transformers_groma.loading import best_device, load_model
from transformers_groma.loading_options import LoadingOptions

TINY = "hub_configs/groma-tiny"


def test_weights_come_as_they_are_saved_or_as_asked():
    model, processor = load_model(TINY, "cpu")
    half, _ = load_model(TINY, torch.device("cpu"), LoadingOptions(dtype="bfloat16"))
    assert (model.lm_head.weight.dtype, half.lm_head.weight.dtype) == (torch.float32, torch.bfloat16)
    assert not model.training and processor.image_token_id == model.config.image_token_id


def test_the_device_is_that_of_the_machine_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("meta"))
    assert best_device() == torch.device("meta")
    assert load_model(TINY)[0].device.type == "meta"
    assert load_model(TINY, "cpu")[0].device.type == "cpu"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert best_device() == torch.device("cpu")


def test_no_such_model(tmp_path):
    with pytest.raises(OSError):
        load_model(tmp_path / "nothing")
