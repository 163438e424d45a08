"""What is remembered with a cache: which tokens are off, regions and slots, selected or cropped rows."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.groma.modeling_groma_turns import assign_slots
from transformers_groma.models.modeling_cached_prompt import (
    CachedPrompt,
    _keys_of,
    _match_rows,
    cached_length,
    cached_rows,
    forget_prompt,
    recall_prompt,
    remember_generated,
    remember_prompt,
)

from .groma.prompts import NEW

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def model(picky_model) -> GromaForConditionalGeneration:
    return picky_model


def cached_prompt(mask: list[list[int]]) -> CachedPrompt:
    """Rows with the slots that `mask` says, each box a hundredth of its slot's number."""
    used = torch.tensor(mask).bool()
    boxes = (torch.arange(used.shape[1]) + 1)[None, :, None] / 100 * used[..., None] * torch.ones(4)
    rows = torch.arange(len(used))
    return CachedPrompt(torch.ones(len(used), 3), rows >= 0, rows, boxes, used * 0.5, used)


def test_assigning_slots():
    prompt = cached_prompt([[1, 1, 0, 0], [1, 0, 0, 0]])
    boxes = torch.zeros(2, 3, 4)
    boxes[0, 0] = 0.02 + 9e-7  # the second region's, but for rounding
    boxes[0, 1] = 0.02 + 3e-6  # another
    boxes[1, 0] = boxes[1, 1] = boxes[1, 2] = 0.4
    boxes[1, 2] += 0.1
    slots, changed = assign_slots(boxes, prompt)
    assert slots.tolist() == [[1, 2, 0], [1, 1, 2]]
    assert changed.region_mask.tolist() == [[True, True, True, False], [True, True, True, False]]
    assert_close(changed.region_boxes[1, 1:3], boxes[1, 1:])
    assert changed.region_scores.tolist() == [[0.5, 0.5, 1.0, 0.0], [0.5, 1.0, 1.0, 0.0]]
    # The prompt that was given is as it was; exactly as many boxes as slots fit, one more does not.
    same = cached_prompt([[1, 1, 0, 0], [1, 0, 0, 0]])
    for name in ("region_boxes", "region_scores", "region_mask"):
        assert torch.equal(getattr(prompt, name), getattr(same, name))
    row = torch.tensor([[[0.3] * 4, [0.4] * 4, [0.5] * 4]])
    assert assign_slots(row[:, :2], cached_prompt([[1, 1, 0, 0]]))[0].tolist() == [[2, 3]]
    with pytest.raises(ValueError, match="row 0, but all 4 region slots"):
        assign_slots(row, cached_prompt([[1, 1, 0, 0]]))
    # The first row without a free slot is named.
    with pytest.raises(ValueError, match="row 1, but all 4 region slots"):
        assign_slots(row.expand(3, -1, -1), cached_prompt([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]))


def layer(value: float = 0.0, length: int = 2, **settings) -> SimpleNamespace:
    return SimpleNamespace(keys=torch.full((3, 2, length, 4), value), **settings)


def test_keys_of_a_layer_that_holds_all_tokens():
    """The last one that does not slide; where all slide, the last of them; none where nothing was read yet."""
    layers = [layer(1), layer(2, is_sliding=False), layer(3, is_sliding=True), layer(4, length=0), layer(5)]
    layers[-1].keys = None
    assert _keys_of(SimpleNamespace(layers=layers)) is layers[1].keys
    assert _keys_of(SimpleNamespace(layers=layers[2:])) is layers[2].keys
    assert _keys_of(SimpleNamespace(layers=[layers[0], layers[2]])) is layers[0].keys
    assert _keys_of(SimpleNamespace(layers=layers[3:])) is None
    assert _keys_of(SimpleNamespace(layers=[SimpleNamespace()])) is None
    assert cached_rows(SimpleNamespace(layers=layers)) == 3
    assert cached_rows(SimpleNamespace(layers=layers[3:])) == 0


def test_rows_of_a_changed_cache():
    """Where rows are equal, each is itself before it is another."""
    old = torch.arange(3.0)[:, None, None, None].expand(3, 2, 5, 4).clone()
    assert _match_rows(old.clone(), old).tolist() == [0, 1, 2]
    assert _match_rows(old[[2, 0, 0, 1]], old).tolist() == [2, 0, 0, 1]
    assert _match_rows(torch.zeros(3, 2, 5, 4), torch.zeros(3, 2, 5, 4)).tolist() == [0, 1, 2]
    assert _match_rows(old[:, :, :3], old).tolist() == [0, 1, 2]
    assert _match_rows(torch.cat([old, old], dim=2), old).tolist() == [0, 1, 2]
    other = old.clone()
    other[1, 1, 4, 3] += 1
    for keys in (other, old[:, :1], None):
        with pytest.raises(ValueError, match="no longer holds the prompt"):
            _match_rows(keys, old)


def test_what_is_remembered_of_a_cache(model):
    empty = DynamicCache(config=model.config.get_text_config())
    prompt = cached_prompt([[1, 0], [1, 1]])
    remember_prompt(empty, prompt)
    assert recall_prompt(empty) is None and recall_prompt(None) is None
    assert cached_length(empty) == cached_length(None) == 0
    forget_prompt(None)
    forget_prompt(empty)
    cache = model(input_ids=NEW[:2]).past_key_values
    assert cached_length(cache) == 4 and recall_prompt(cache) is None
    prompt.attention_mask[0, 1] = False
    remember_prompt(cache, prompt)
    # Of three tokens it is known, the fourth came from elsewhere.
    assert recall_prompt(cache).attention_mask.tolist() == [[True, False, True, True], [True] * 4]
    cache.crop(-2)
    assert recall_prompt(cache).attention_mask.tolist() == [[True, False], [True, True]]
    forget_prompt(cache)
    assert recall_prompt(cache) is None


def test_what_generation_did_to_a_cache_is_remembered(model):
    """Two sequences of each row, one token longer than the prompt."""
    cache = model(input_ids=NEW[[0, 0, 1, 1]]).past_key_values
    prompt = cached_prompt([[1, 0], [1, 1]])
    prompt.attention_mask = torch.tensor([[True, False, True], [True, True, True]])
    remember_generated(cache, prompt)
    found = recall_prompt(cache)
    assert found.attention_mask.tolist() == [[True, False, True, True]] * 2 + [[True] * 4] * 2
    assert found.region_mask.tolist() == [[True, False]] * 2 + [[True, True]] * 2
    assert found.image_index.tolist() == [0, 0, 1, 1] and len(prompt.has_image) == 2
    for nothing in (None, DynamicCache(config=model.config.get_text_config())):
        remember_generated(nothing, prompt)
        assert recall_prompt(nothing) is None
