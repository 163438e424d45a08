"""What is trained of the mask decoder: frozen features, its losses, ambiguous clicks, rounds of correction."""

import pytest
import torch

from transformers_groma.exact_boxes import boxes_to_bits
from transformers_groma.models.modeling_mask_decoder import MaskPrompts
from transformers_groma.training.mask_data import MaskCollator, MaskDataset, PromptPlan
from transformers_groma.training.mask_learner import MaskLearner
from transformers_groma.training.mask_losses import best_of_several, mask_losses

from .mask_rows import SIDE, image_processor, mask_detector, mask_rows, whole_model

PLAN = PromptPlan(target_size=SIDE, prompts_per_image=8, token_share=0.5, refinement_rounds=2, refinement_share=0.5)


def batch(count: int = 4, **plan) -> dict[str, torch.Tensor]:
    dataset = MaskDataset(mask_rows(count), image_processor(), PLAN._replace(**plan))
    return MaskCollator(image_processor())([dataset[row] for row in range(count)])


def enlarge(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("build", [whole_model, mask_detector])
def test_masks_are_those_of_segment(build):
    """Training sees images, boxes, points and region tokens as the model does in use."""
    model = build().eval()
    inputs = batch(token_share=1.0 if build is whole_model else 0.0)
    inputs["is_ambiguous"][:] = False
    with torch.no_grad():
        outputs = MaskLearner(model).eval()(**inputs)
        vision = getattr(model, "model", model)
        features = vision.get_image_features(inputs["pixel_values"])
    is_box = inputs["has_token"] if build is whole_model else (inputs["boxes"] != 0).any(dim=1)
    boxes = inputs["boxes"][is_box].unflatten(0, (4, 4))
    masks = vision.segment(features, boxes=boxes)
    torch.testing.assert_close(outputs["logits"][is_box], masks.logits[:, :, 0].flatten(0, 1), atol=1e-4, rtol=1e-4)
    points = inputs["points"][~is_box].unflatten(0, (4, 4))
    labels = inputs["point_labels"][~is_box].unflatten(0, (4, 4))
    masks = vision.segment(features, points=points, point_labels=labels)
    torch.testing.assert_close(outputs["logits"][~is_box], masks.logits[:, :, 0].flatten(0, 1), atol=1e-4, rtol=1e-4)


def test_the_loss_of_boxes_is_the_weighted_sum():
    model = whole_model()
    inputs = batch(refinement_rounds=0)
    inputs["is_ambiguous"][:] = False
    outputs = MaskLearner(model, bce_weight=3.0, dice_weight=2.0, quality_weight=0.5)(**inputs)
    expected = 3 * outputs["loss_bce"] + 2 * outputs["loss_dice"] + 0.5 * outputs["loss_quality"]
    torch.testing.assert_close(outputs["loss"].detach(), expected)
    assert not outputs["logits"].requires_grad


def test_ambiguous_clicks_learn_by_the_best_mask():
    model = whole_model()
    inputs = batch(refinement_rounds=0)
    rows = inputs["is_ambiguous"].nonzero()[:, 0]
    assert 0 < len(rows) < len(inputs["targets"])
    clicks = {name: value if name == "pixel_values" else value[rows] for name, value in inputs.items()}
    prompts = MaskPrompts(clicks["image_index"], points=clicks["points"], point_labels=clicks["point_labels"])
    with torch.no_grad():
        outputs = MaskLearner(model, best_share=0.75)(**clicks)
        embedding = model.model.mask_embedding(model.model.get_image_features(inputs["pixel_values"]))
        logits, quality = model.model.mask_decoder(embedding, prompts, multimask=True)
    losses = mask_losses(enlarge(logits), quality, clicks["targets"])
    expected = best_of_several(10 * losses.bce + losses.dice, 0.75) + losses.quality.mean(dim=1)
    torch.testing.assert_close(outputs["loss"], expected.mean(), atol=1e-4, rtol=1e-4)
    # What goes on, and what is measured, is the mask that users would get.
    best = quality.argmax(dim=1)
    torch.testing.assert_close(outputs["logits"], logits[torch.arange(len(rows)), best], atol=1e-4, rtol=1e-4)
    # Among other prompts they stay in their place.
    whole = MaskLearner(model)(**inputs)["logits"][rows]
    torch.testing.assert_close(whole, outputs["logits"], atol=1e-4, rtol=1e-4)


def test_a_decoder_with_one_mask_has_it_for_every_click():
    model = whole_model(num_multimask_outputs=0)
    inputs = batch()
    assert inputs["is_ambiguous"].any()
    learner = MaskLearner(model)
    outputs = learner(**inputs)
    same = learner(**{**inputs, "is_ambiguous": torch.zeros_like(inputs["is_ambiguous"])})
    assert torch.equal(outputs["loss"], same["loss"])


def test_a_mask_that_goes_on_is_a_prompt_with_a_click_where_it_is_wrong(monkeypatch):
    model = whole_model()
    inputs = batch()
    calls = []
    decode = model.model.mask_decoder.forward

    def watch(embedding, prompts, region_tokens=None, has_token=None, multimask=False):
        predictions = decode(embedding, prompts, region_tokens, has_token, multimask)
        calls.append((prompts, multimask, predictions))
        return predictions

    monkeypatch.setattr(model.model.mask_decoder, "forward", watch)
    outputs = MaskLearner(model)(**inputs)
    rounds = [prompts for prompts, _, _ in calls if prompts.masks is not None]
    assert len(rounds) == 2 and not any(several for prompts, several, _ in calls if prompts.masks is not None)
    first = (inputs["error_draws"][:, 0] >= 0).nonzero()[:, 0]
    second = (inputs["error_draws"][:, 1] >= 0).nonzero()[:, 0]
    assert 0 < len(second) < len(first) < len(inputs["targets"])
    assert torch.equal(rounds[0].image_index, inputs["image_index"][first])
    assert torch.equal(rounds[0].boxes, inputs["boxes"][first])
    torch.testing.assert_close(rounds[0].masks, outputs["logits"][first].clamp(-32, 32))
    assert not rounds[0].masks.requires_grad
    for prompts, chosen, more in ((rounds[0], first, 1), (rounds[1], second, 2)):
        counts = (prompts.point_labels >= 0).sum(dim=1)
        assert torch.equal(counts, (inputs["point_labels"][chosen] >= 0).sum(dim=1) + more)
        # The click is where the mask before is wrong.
        last = torch.arange(len(chosen)), counts - 1
        x, y = (prompts.points[last] * SIDE).long().unbind(dim=1)
        before = enlarge(prompts.masks[:, None])[:, 0] > 0
        truth = inputs["targets"][chosen] >= 0.5
        is_wrong = before[torch.arange(len(chosen)), y, x] != truth[torch.arange(len(chosen)), y, x]
        assert is_wrong.float().mean() > 0.9  # not of specks that cover no half of a pixel
        assert torch.equal(prompts.point_labels[last], truth[torch.arange(len(chosen)), y, x].long())


def test_every_weight_learns_but_not_the_model():
    model = whole_model()
    MaskLearner(model)(**batch(8))["loss"].backward()
    for name, weight in model.named_parameters():
        if ".mask_decoder." in name:
            # Nothing is a prompt without points, boxes and tokens; masks that are prompts come with points.
            assert weight.grad is not None or "not_a_point" in name or "point_embed.3" in name, name
        else:
            assert weight.grad is None, name


def test_boxes_may_come_as_bits():
    inputs = batch()
    learner = MaskLearner(whole_model())
    outputs = learner(**inputs)
    bits = learner(**{**inputs, "boxes": boxes_to_bits(inputs["boxes"])})
    assert torch.equal(outputs["loss"], bits["loss"])


def test_a_batch_without_prompts_has_a_gradient_of_zeros():
    rows = mask_rows(2).map(lambda row: {"masks": [None] * len(row["masks"])}, features=mask_rows(1).features)
    dataset = MaskDataset(rows, image_processor(), PLAN)
    model = mask_detector()
    outputs = MaskLearner(model)(**MaskCollator(image_processor())([dataset[0], dataset[1]]))
    assert outputs["loss"].item() == 0 and outputs["iou"].item() == 0
    outputs["loss"].backward()
    assert model.mask_decoder.neck.projection.weight.grad.abs().max() == 0


def test_the_model_is_not_a_part():
    model = whole_model()
    learner = MaskLearner(model)
    assert learner.model is model
    assert {name for name, _ in learner.named_children()} == {"vision_tower", "region_encoder", "mask_decoder"}
    assert {name for name, _ in MaskLearner(mask_detector()).named_children()} == {"vision_tower", "mask_decoder"}
