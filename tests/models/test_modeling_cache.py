"""The cache is accepted and returned under both names that transformers uses."""

import pytest
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from tests.tiny import tiny_model
from transformers_groma.models.modeling_cache import CACHE_NAME, cache_kwargs, cache_of, given_cache

PROMPT = torch.tensor([[1, 7, 8, 9]])


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval()


def test_the_name_is_that_of_the_installed_transformers():
    cache = DynamicCache()
    output = BaseModelOutputWithPast(**cache_kwargs(cache))
    assert output[CACHE_NAME] is cache and cache_of(output) is cache
    assert cache_of(BaseModelOutputWithPast()) is None


def test_given_cache():
    cache = DynamicCache()
    assert given_cache(None, None) is None
    assert given_cache(cache, None) is cache
    assert given_cache(None, cache) is cache
    assert given_cache(cache, cache) is cache
    with pytest.raises(ValueError, match="`cache` or `past_key_values`, not both"):
        given_cache(cache, DynamicCache())


@pytest.mark.parametrize("part", ["model", "model.model"])
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_forward_fills_and_returns_the_cache_under_either_name(model, name, part):
    module = model if part == "model" else model.model
    cache = DynamicCache()
    with torch.no_grad():
        output = module(input_ids=PROMPT[:, :2], use_cache=True, **{name: cache})
        assert cache_of(output) is cache and cache.get_seq_length() == 2
        output = module(input_ids=PROMPT[:, 2:], use_cache=True, **{name: cache})
        whole = module(input_ids=PROMPT)
    assert cache.get_seq_length() == 4
    torch.testing.assert_close(output[0][:, -1], whole[0][:, -1])


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_generate_continues_from_a_cache_under_either_name(model, name):
    arguments = {"do_sample": False, "min_new_tokens": 3, "max_new_tokens": 3}
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=PROMPT[:, :3], use_cache=True, cache=cache)
    continued = model.generate(PROMPT, **{name: cache}, **arguments)
    assert torch.equal(continued, model.generate(PROMPT, **arguments))
    assert cache.get_seq_length() == PROMPT.shape[1] + 2  # the cache itself was used, not a new one


def test_two_different_caches_are_refused(model):
    with pytest.raises(ValueError, match="not both"):
        model(input_ids=PROMPT, cache=DynamicCache(), past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="not both"):
        model.generate(PROMPT, cache=DynamicCache(), past_key_values=DynamicCache(), max_new_tokens=1)
