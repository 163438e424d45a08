"""A non-finite loss stops training."""

import pytest
import torch

from transformers_groma.training.callbacks import NonFiniteLossError, check_loss
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.trainer import GromaTrainer

from .rows import conversations, losses, same_weights, training_arguments, training_model, training_processor


@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_numbers_pass(value, tmp_path):
    check_loss(torch.tensor(value), {}, tmp_path / "new", step=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_a_number_stops_and_saves_the_batch(value, tmp_path):
    inputs = {"input_ids": torch.tensor([[1, 2]]), "names": ["a"]}
    path = tmp_path / "new" / "non_finite_batch-7-1.pt"
    with pytest.raises(NonFiniteLossError, match=f"step 7 is {value}") as error:
        check_loss(torch.tensor(float(value), requires_grad=True), inputs, tmp_path / "new", step=7, rank=1)
    assert str(path) in str(error.value)
    saved = torch.load(path)
    assert saved["step"] == 7
    assert not torch.isfinite(saved["loss"])
    assert torch.equal(saved["inputs"]["input_ids"], inputs["input_ids"])
    assert saved["inputs"]["names"] == ["a"]


def test_a_full_disk_does_not_hide_the_loss(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        NonFiniteLossError, match="step 7 is nan.*The batch could not be written to .*StreamWriter failed"
    ):
        check_loss(torch.tensor(float("nan")), {}, tmp_path, step=7)


def test_a_training_stops_with_the_weights_before_the_step(tmp_path):
    """The second step meets an image of NaN."""

    class DamagingCollator(ConversationCollator):
        calls = 0

        def __call__(self, rows):
            batch = super().__call__(rows)
            self.calls += 1
            if self.calls == 2:
                batch["pixel_values"][0] = torch.nan
            return batch

    def trainer(collator, **settings):
        return GromaTrainer(
            model=training_model(),
            args=training_arguments(tmp_path, **settings),
            data_collator=collator,
            train_dataset=conversations(8, text_only_every=None),
        )

    whole = trainer(ConversationCollator(training_processor()), max_steps=1, lr_scheduler_type="constant")
    whole.train()
    stopped = trainer(DamagingCollator(training_processor()), max_steps=2, lr_scheduler_type="constant")
    with pytest.raises(NonFiniteLossError, match="The loss of step 1 is nan") as error:
        stopped.train()
    saved = torch.load(tmp_path / "non_finite_batch-1-0.pt")
    assert str(tmp_path / "non_finite_batch-1-0.pt") in str(error.value)
    assert saved["inputs"]["pixel_values"].isnan().any()
    assert saved["inputs"]["labels"].shape == saved["inputs"]["input_ids"].shape
    assert losses(stopped) == losses(whole)
    assert same_weights(stopped.model, whole.model)
