"""Losses of masks: against the library's, by hand, and of several masks for one prompt."""

import pytest
import torch
from transformers.models.mask2former.modeling_mask2former import dice_loss, sigmoid_cross_entropy_loss

from transformers_groma.training.mask_losses import best_of_several, covered_pixels, mask_ious, mask_losses


def test_losses_are_those_of_mask2former():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 1, 8, 9, generator=generator)
    targets = (torch.rand(5, 8, 9, generator=generator) > 0.6).float()
    losses = mask_losses(logits, torch.rand(5, 1, generator=generator), targets)
    flat, labels = logits.flatten(1), targets.flatten(1)
    torch.testing.assert_close(losses.bce.mean(), sigmoid_cross_entropy_loss(flat, labels, num_masks=5))
    torch.testing.assert_close(losses.dice.mean(), dice_loss(flat, labels, num_masks=5))


def test_every_mask_has_its_own_losses():
    generator = torch.Generator().manual_seed(1)
    logits, quality = torch.randn(4, 3, 6, 6, generator=generator), torch.rand(4, 3, generator=generator)
    targets = torch.rand(4, 6, 6, generator=generator)
    losses = mask_losses(logits, quality, targets)
    for name in losses._fields:
        assert getattr(losses, name).shape == (4, 3)
    for row in range(4):
        for mask in range(3):
            one = mask_losses(logits[row, mask][None, None], quality[row, mask][None, None], targets[row][None])
            for name in losses._fields:
                torch.testing.assert_close(getattr(losses, name)[row, mask], getattr(one, name)[0, 0])


def test_quality_learns_the_true_iou_without_moving_masks():
    target = torch.zeros(1, 4, 4)
    target[0, :2] = 1
    logits = torch.full((1, 1, 4, 4), -5.0)
    logits[0, 0, 1:3] = 5.0
    logits.requires_grad_()
    quality = torch.tensor([[0.75]], requires_grad=True)
    losses = mask_losses(logits, quality, target)
    assert losses.iou.item() == pytest.approx(4 / 12)
    assert losses.quality.item() == pytest.approx(0.75 - 4 / 12)
    losses.quality.sum().backward()
    assert quality.grad.item() == 1.0  # too high: it has to go down
    assert logits.grad is None


def test_halves_belong_to_the_object_and_small_objects_keep_a_pixel():
    targets = torch.tensor([[[1.0, 0.5, 0.49]], [[0.2, 0.3, 0.3]], [[0.0, 0.0, 0.0]]])
    assert covered_pixels(targets).tolist() == [[[True, True, False]], [[False, True, True]], [[False, False, False]]]


def test_iou_of_masks():
    masks = torch.tensor([[True, True, False, False], [False, False, False, False]])
    targets = torch.tensor([[True, False, True, False], [False, False, False, False]])
    torch.testing.assert_close(mask_ious(masks, targets), torch.tensor([1 / 3, 0.0]))


def test_the_best_of_several_masks_learns_most():
    loss = torch.tensor([[0.2, 0.6, 1.0], [3.0, 2.0, 1.0]], requires_grad=True)
    several = best_of_several(loss, best_share=0.7)
    torch.testing.assert_close(several.detach(), torch.tensor([0.7 * 0.2 + 0.3 * 0.6, 0.7 + 0.3 * 2.0]))
    several.sum().backward()
    torch.testing.assert_close(loss.grad, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]))
    assert torch.equal(best_of_several(loss, 1.0), loss.amin(dim=1))


def test_half_precision_is_computed_in_float32():
    logits = torch.full((1, 1, 300, 300), -0.5, dtype=torch.bfloat16)
    losses = mask_losses(logits, torch.zeros(1, 1, dtype=torch.bfloat16), torch.zeros(1, 300, 300))
    assert losses.bce.dtype == torch.float32
    assert losses.bce.item() == pytest.approx(torch.nn.functional.softplus(torch.tensor(-0.5)).item(), rel=1e-5)
