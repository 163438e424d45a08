"""Training on precomputed regions gives the same result as finding them on the fly."""

import datasets
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from transformers_groma import GromaForConditionalGeneration
from transformers_groma.data.mixtures import PROPOSAL_COLUMNS, load_mixture
from transformers_groma.models.groma.modeling_groma_regions import select_regions
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.precompute_regions import precompute_regions
from transformers_groma.training.trainable import eval_frozen_parts, set_trainable_parts

from .precomputed import image_file, image_row, raw_proposals, text_row, turned_image_file, write_files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Datasets are cached with the test's own files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


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
        image_row("0", image_file(0)),
        text_row(),
        image_row("1", turned_image_file(1)),
        image_row("2", image_file(3)),
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
