"""Prompts get the images and proxy tokens that belong to them."""

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import MAX_REGIONS, prompt_ids, tiny_config, tiny_model
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures
from transformers_groma.models.groma.modeling_groma_perception import TurnRegions
from transformers_groma.models.groma.modeling_groma_prompt import prompt_as_it_is, resolve_row_boxes
from transformers_groma.models.modeling_cached_prompt import CachedPrompt
from transformers_groma.models.modeling_checks import check_one_image_per_sample
from transformers_groma.models.modeling_placeholders import fill_placeholders, image_index_of_rows


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


@pytest.fixture(scope="module")
def model():
    return tiny_model().model


@pytest.fixture
def features() -> GromaImageFeatures:
    """Of two images, with two regions and one, in which a user points at two boxes and at one."""
    return GromaImageFeatures(
        region_boxes=torch.rand(2, MAX_REGIONS, 4),
        region_scores=torch.rand(2, MAX_REGIONS),
        region_mask=torch.arange(MAX_REGIONS) < torch.tensor([[2], [1]]),
        refer_slots=torch.tensor([[1, 0], [0, 0]]),
    )


def slots_on(used: int) -> list[int]:
    """The mask of the slots of a prompt."""
    return [1] * 2 * used + [0] * 2 * (MAX_REGIONS - used)


def test_slots_without_a_region_are_off(model, features):
    """With their proxy tokens; the second copies of user boxes, and rows without an image, stay on."""
    ids = torch.tensor([[7] * 24, prompt_ids(model.config, 2), prompt_ids(model.config, 2)])
    expected = torch.ones_like(ids)
    expected[1, 5:17], expected[2, 5:17] = torch.tensor(slots_on(2)), torch.tensor(slots_on(1))
    placeholders = model.get_placeholder_mask(ids, None)
    given = torch.ones_like(ids)
    assert torch.equal(model.mask_unused_regions(given, placeholders, features.region_mask), expected)
    assert given.all()  # not changed
    given[1, 0] = expected[1, 0] = 0
    assert torch.equal(model.mask_unused_regions(given, placeholders, features.region_mask), expected)


def test_a_prompt_is_prepared_from_ids_and_from_embeddings(model, features):
    config = model.config
    first, refer = config.first_proxy_token_id, config.refer_box_token_id
    ids = torch.tensor([[7] * 24, prompt_ids(config, 2), prompt_ids(config, 2)])
    embeddings = model.get_input_embeddings()(ids)
    expected = ids.clone()
    expected[1, 20], expected[1, 22], expected[2, 20], expected[2, 22] = first + 1, first, first, first
    on = torch.ones_like(ids)
    on[1, 5:17], on[2, 5:17] = torch.tensor(slots_on(2)), torch.tensor(slots_on(1))
    by_ids = model.prepare_prompt(ids, None, None, features)
    by_embeddings = model.prepare_prompt(None, embeddings, None, features)
    assert torch.equal(by_ids.input_ids, expected) and by_ids.inputs_embeds is None
    assert torch.equal(by_embeddings.inputs_embeds, model.get_input_embeddings()(expected))
    assert by_embeddings.input_ids is None and (ids == refer).sum() == 4  # not changed
    for prompt in (by_ids, by_embeddings):
        assert torch.equal(prompt.attention_mask, on) and torch.equal(prompt.output_fields["token_mask"], on.bool())
        assert torch.equal(prompt.placeholder_mask, ids == config.image_token_id)
        assert prompt.image_index.tolist() == [0, 0, 1]
        assert prompt.memory.has_image.tolist() == [False, True, True]
        assert torch.equal(prompt.memory.region_boxes, features.region_boxes[[0, 0, 1]])
        assert torch.equal(prompt.memory.region_mask, features.region_mask[[0, 0, 1]])
    # Behind three cached tokens, of which the first is off in a row.
    given = torch.ones(3, 27, dtype=torch.long)
    given[1, 0] = 0
    later = model.prepare_prompt(ids, None, given, features, past_length=3)
    assert torch.equal(later.attention_mask, torch.cat([given[:, :3], on], dim=1))
    assert torch.equal(later.output_fields["token_mask"], on.bool())
    assert model.prepare_prompt(ids, None, None, features, past_length=3).attention_mask[:, :3].all()


def test_a_prompt_has_a_placeholder_for_each_visual_token(model, features):
    ids = torch.tensor([prompt_ids(model.config, 2)] * 2)
    model.prepare_prompt(ids, None, None, features, num_visual_tokens=torch.tensor([12, 12]))
    with pytest.raises(ValueError, match=r"expected \[12, 11\] for the images, found \[12, 12\]"):
        model.prepare_prompt(ids, None, None, features, num_visual_tokens=torch.tensor([12, 11]))
    with pytest.raises(ValueError, match=r"`attention_mask` must have shape \(batch, length\), here \(2, 24\)"):
        model.prepare_prompt(ids, None, torch.ones(2, 23), features)


def test_a_prompt_in_a_cache_is_continued(model, features):
    """The first of three rows has no image; what is off in the cache stays off."""
    config = model.config
    rows = torch.tensor([0, 0, 1])
    cached = CachedPrompt(
        attention_mask=torch.tensor([[1, 1], [0, 1], [1, 0]]).bool(),
        has_image=torch.tensor([False, True, True]),
        image_index=rows,
        region_boxes=features.region_boxes[rows],
        region_scores=features.region_scores[rows],
        region_mask=features.region_mask[rows],
    )
    ids = torch.tensor([[7, 8, 9]] * 3)
    plain = model.continue_prompt(ids, None, None, cached)
    assert torch.equal(plain.input_ids, ids) and not plain.placeholder_mask.any()
    expected = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 0, 1, 1, 1]])
    assert torch.equal(plain.attention_mask, expected)
    assert torch.equal(plain.memory.attention_mask, expected.bool())
    assert plain.output_fields["token_mask"].shape == (3, 3) and plain.output_fields["token_mask"].all()
    assert plain.output_fields["image_index"].tolist() == [0, 0, 1]
    assert torch.equal(plain.output_fields["region_boxes"], features.region_boxes)
    assert plain.output_fields["refer_slots"] is None
    # A box in the last row takes the slot of its row.
    new = TurnRegions(torch.rand(3, 1, 32), torch.tensor([0, 0, 1]), torch.tensor([[0], [0], [4]]))
    ids[2] = torch.tensor([7, config.refer_box_token_id, config.image_token_id])
    turn = model.continue_prompt(ids, None, None, cached, new)
    assert turn.input_ids[2].tolist() == [7, config.first_proxy_token_id + 4, config.image_token_id]
    assert turn.placeholder_mask.nonzero().tolist() == [[2, 2]] and turn.image_index.tolist() == [0, 1, 2]
    assert turn.output_fields["refer_slots"].tolist() == [[0], [4]]
    filled = turn.fill(torch.zeros(3, 3, 32), new.tokens)
    assert torch.equal(filled[2, 2], new.tokens[2, 0]) and not filled[:2].any()
    with pytest.raises(ValueError, match="`refer_boxes` has none"):
        model.continue_prompt(ids, None, None, cached)
    with pytest.raises(ValueError, match="`past_key_values` holds 3 samples, the prompt that continues it has 2"):
        model.continue_prompt(ids[:2], None, None, cached)
