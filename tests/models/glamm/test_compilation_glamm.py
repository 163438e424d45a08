"""GLaMM compiled: one graph for a step, the same numbers, and masks from states that a compiled step returned."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_glamm, tiny_glamm_inputs

EXACT = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model():
    return tiny_glamm()


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_step_is_one_graph(model):
    inputs = tiny_glamm_inputs(model.config)
    with torch.no_grad():
        first = model(**inputs, use_cache=True)
        step = {"input_ids": torch.tensor([[11], [12]]), "use_cache": True}
        expected = model(**step, past_key_values=first.past_key_values).logits
        again = model(**inputs, use_cache=True)
        compiled = torch.compile(model.model.language_model, backend="eager", fullgraph=True)
        embeds = model.get_input_embeddings()(step["input_ids"])
        states = compiled(inputs_embeds=embeds, past_key_values=again.past_key_values).last_hidden_state
        assert_close(model.lm_head(states), expected, **EXACT)


def test_compiled_generation(model, monkeypatch):
    inputs = tiny_glamm_inputs(model.config, num_regions=1)
    bias = [([model.config.seg_token_id], 2.0)]
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "sequence_bias": bias}
    expected = model.generate(**inputs, **settings, return_dict_in_generate=True)
    assert sum(map(len, expected.segment_logits)) > 0
    monkeypatch.setattr(model, "forward", torch.compile(model.forward, backend="eager"))
    output = model.generate(**inputs, **settings, cache_implementation="static", return_dict_in_generate=True)
    assert torch.equal(output.sequences, expected.sequences)
    for masks, truth in zip(output.segment_logits, expected.segment_logits, strict=True):
        assert_close(masks, truth, **EXACT)
