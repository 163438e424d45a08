"""Prompts are checked and made final before the language model reads them."""

import pytest
import torch

from tests.tiny import tiny_config
from transformers_groma.models.groma.modeling_groma_checks import boxes_of_images, check_one_image_per_sample
from transformers_groma.models.groma.modeling_groma_positions import (
    check_mask,
    check_positions,
    is_mask_of_tokens,
    shift_labels_over_gaps,
    token_positions,
)
from transformers_groma.models.groma.modeling_groma_prompt import image_index_of_rows, resolve_row_boxes


def test_positions():
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1]])
    right = torch.tensor([[7, 0, 1, 9, 2], [0, 1, 2, 3, 4]])
    for given in (None, right, right[:, -2:], right.masked_fill(mask == 0, 0)):
        check_positions(given, mask)
    check_positions(torch.arange(5)[None], torch.ones(2, 5, dtype=torch.long))
    wrong = right.clone()
    wrong[0, 4] = 3
    for given in (
        wrong,
        right + 1,
        right[0],
        right[None],
        right[:, :2],
        torch.cat([right, right]),
        torch.cat([right] * 2, dim=1),
    ):
        with pytest.raises(ValueError, match="`position_ids` must count the tokens that are on"):
            check_positions(given, mask)


def test_pixels_that_were_read_as_fractions():
    """Whole numbers as bits of floats are next to 0; a padding row is 0, and so may one side be."""
    box = torch.tensor([[[0.5, 0.5, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]]])
    assert torch.equal(boxes_of_images("boxes", box, 1), box)
    assert boxes_of_images("boxes", None, 1) is None
    box[0, 0, 1] = 2e-12
    assert torch.equal(boxes_of_images("boxes", box, 1), box)
    for tiny in (5e-13, -5e-13, 1e-40):
        box[0, 0, 1] = tiny
        with pytest.raises(ValueError, match="`boxes` must be normalized cxcywh"):
            boxes_of_images("boxes", box, 1)
    with pytest.raises(ValueError, match="`boxes` must be normalized cxcywh"):
        boxes_of_images("boxes", torch.tensor([[[100, 120, 50, 60]]], dtype=torch.int32), 1)
    for shape in ((1, 2, 3), (2, 2, 4), (2, 4), (1, 1, 2, 4)):
        with pytest.raises(ValueError, match="`boxes`"):
            boxes_of_images("boxes", torch.full(shape, 0.5), 1)


def test_labels_skip_unused_slots():
    labels = torch.tensor([[10, 11, 12, 13, 14, 15]])
    mask = torch.tensor([[True, True, False, False, True, True]])
    assert shift_labels_over_gaps(labels, mask).tolist() == [[11, 14, -100, -100, 15, -100]]
    everything = torch.ones_like(mask)
    expected = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    assert torch.equal(shift_labels_over_gaps(labels, everything), expected)


def test_only_masks_of_tokens_have_two_dimensions():
    assert is_mask_of_tokens(torch.ones(2, 3))
    for other in (None, {"full_attention": torch.ones(2, 3)}, torch.ones(3), torch.ones(2, 1, 3, 3)):
        assert not is_mask_of_tokens(other)


def test_masks_of_another_shape():
    check_mask(torch.ones(2, 5), 2, 5)
    for mask in (torch.ones(2, 4), torch.ones(2, 6), torch.ones(1, 5), torch.ones(3, 5), torch.ones(2, 1, 5, 5)):
        with pytest.raises(ValueError, match=r"`attention_mask` must have shape \(batch, length\), here \(2, 5\)"):
            check_mask(mask, 2, 5)
    with pytest.raises(ValueError, match="got dict"):
        check_mask({"full_attention": torch.ones(2, 5)}, 2, 5)


def test_positions_count_tokens_that_are_on():
    mask = torch.tensor([[0, 0, 1, 0, 1], [1, 1, 0, 1, 1]])
    assert token_positions(mask).tolist() == [[0, 0, 0, 0, 1], [0, 1, 1, 2, 3]]


def test_rows_take_images_in_order():
    placeholders = torch.tensor([[0, 0], [0, 1], [0, 0], [1, 1]]).bool()
    assert image_index_of_rows(placeholders).tolist() == [0, 0, 0, 1]
    check_one_image_per_sample(placeholders, 2)
    for num_images in (0, 1, 3):
        with pytest.raises(ValueError, match=f"got {num_images} images for 2 samples"):
            check_one_image_per_sample(placeholders, num_images)


def test_boxes_become_the_proxy_tokens_of_their_rows_slots():
    config = tiny_config()
    refer, ground, first = config.refer_box_token_id, config.ground_box_token_id, config.first_proxy_token_id
    ids = torch.tensor([[7, refer, refer], [ground, 7, refer]])
    refer_slots, ground_slots = torch.tensor([[4, 2], [5, 0]]), torch.tensor([[1], [3]])
    # The rows may belong to images in any order.
    resolved = resolve_row_boxes(ids, refer_slots, ground_slots, torch.tensor([1, 0]), config)
    assert resolved.tolist() == [[7, first + 5, first], [first + 1, 7, first + 4]]
    assert resolve_row_boxes(ids, refer_slots, None, torch.tensor([0, 1]), config)[1, 0] == ground
    assert ids[0, 1] == refer  # not changed
