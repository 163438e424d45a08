"""Prompts get the images and proxy tokens that belong to them."""

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import tiny_config
from transformers_groma.models.groma.modeling_groma_checks import check_one_image_per_sample
from transformers_groma.models.groma.modeling_groma_prompt import (
    fill_placeholders,
    image_index_of_rows,
    prompt_as_it_is,
    resolve_row_boxes,
)


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


def test_visual_tokens_fill_the_placeholders_of_their_rows_in_order():
    prompt = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[False, True, False, True], [True, False, False, False]])
    tokens = torch.tensor([[[10.0], [11.0], [12.0]], [[20.0], [21.0], [22.0]]])
    filled = fill_placeholders(prompt, mask, tokens, torch.tensor([1, 0]))
    assert filled[..., 0].tolist() == [[0, 20, 2, 21], [10, 5, 6, 7]]
    assert prompt[0, 1] == 1  # not changed
    assert torch.equal(fill_placeholders(prompt, mask & False, tokens, torch.tensor([1, 0])), prompt)


def test_a_prompt_without_images_is_left_as_it_is():
    ids, mask = torch.ones(2, 3, dtype=torch.long), torch.ones(2, 5)
    prompt = prompt_as_it_is(ids, None, mask)
    assert prompt.input_ids is ids and prompt.attention_mask is mask
    assert prompt.memory is None and not prompt.output_fields
    cache = SimpleNamespace(get_seq_length=lambda: 2)
    prepared = {"full_attention": mask}  # for a static cache
    for given in (None, mask, prepared):
        assert prompt_as_it_is(ids, None, given, cache).attention_mask is given
    with pytest.raises(ValueError, match=r"here \(2, 5\), cached tokens included, got \(2, 3\)"):
        prompt_as_it_is(ids, None, mask[:, :3], cache)
    with pytest.raises(ValueError, match=r"here \(2, 3\)"):
        prompt_as_it_is(None, torch.ones(2, 1, 4), torch.ones(2, 4), cache)
