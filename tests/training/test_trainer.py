"""The trainers pass boxes to a model in a form that no wrapper casts."""

from types import SimpleNamespace

import pytest
import torch

from transformers_groma.boxes import exact_boxes
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.detection_trainer import GromaDetectionTrainer
from transformers_groma.training.packing import packed_tokens
from transformers_groma.training.trainer import GromaTrainer, boxes_as_bits

from .rows import conversations, training_arguments, training_model, training_processor

BOXES = torch.tensor([[[0.123456789, 0.3, 0.2, 0.1]]])


class TestBoxesAsBits:
    def test_boxes_wherever_they_are(self):
        batch = {
            "pixel_values": torch.ones(2),
            "refer_boxes": BOXES,
            "labels": [{"boxes": BOXES[0], "size": torch.tensor([3.0, 4.0])}, {"boxes": BOXES[0]}],
            "more": ({"proposal_scores": BOXES[..., 0]},),
            "names": ["boxes"],
        }
        given = boxes_as_bits(batch)
        assert given["refer_boxes"].dtype == torch.int32 and batch["refer_boxes"].dtype == torch.float32
        assert torch.equal(exact_boxes(given["refer_boxes"]), BOXES)
        assert [torch.equal(exact_boxes(label["boxes"]), BOXES[0]) for label in given["labels"]] == [True, True]
        assert given["more"][0]["proposal_scores"].dtype == torch.int32 and isinstance(given["more"], tuple)
        assert given["labels"][0]["size"].dtype == given["pixel_values"].dtype == torch.float32
        assert given["names"] == ["boxes"]

    def test_what_is_not_a_tensor_stays(self):
        assert boxes_as_bits({"boxes": [[1, 2, 3, 4]], "refer_boxes": None}) == {
            "boxes": [[1, 2, 3, 4]],
            "refer_boxes": None,
        }

    def test_the_kind_of_mapping_stays(self):
        inputs = training_processor()(text="Hello", return_tensors="pt")
        assert type(boxes_as_bits(inputs)) is type(inputs)


@pytest.fixture
def trainer(tmp_path) -> GromaTrainer:
    return GromaTrainer(
        model=training_model(),
        args=training_arguments(tmp_path),
        data_collator=ConversationCollator(training_processor()),
        train_dataset=conversations(4),
        processing_class=training_processor(),
    )


def test_what_deepspeed_casts(trainer, monkeypatch):
    """`Trainer` casts its inputs itself."""
    batch = next(iter(trainer.get_train_dataloader()))
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", plugin)
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    given = trainer._prepare_inputs({**batch, "proposal_boxes": BOXES, "proposal_scores": BOXES[..., 0]})
    assert given["pixel_values"].dtype == torch.bfloat16
    names = [name for name in given if "boxes" in name or "scores" in name]
    assert {"ground_boxes", "proposal_boxes", "proposal_scores"} <= set(names)
    assert {given[name].dtype for name in names} == {torch.int32}
    assert torch.equal(exact_boxes(given["ground_boxes"]), batch["ground_boxes"])


def test_the_loss_is_that_of_the_boxes(trainer):
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    assert "ground_boxes" in batch
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(dict(batch)))
        # The trainer leaves tokens out, which sums in another order: in float32, as the library's loss does.
        torch.testing.assert_close(loss, trainer.model(**batch).loss, rtol=1e-6, atol=0)
        with packed_tokens(trainer.model.get_decoder()):
            assert torch.equal(loss, trainer.model(**batch, use_cache=False, loss_only=True).loss)


def test_the_detectors_trainer_does_it_too():
    assert GromaDetectionTrainer._prepare_inputs is GromaTrainer._prepare_inputs
