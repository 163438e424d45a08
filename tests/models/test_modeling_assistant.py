"""Assisted decoding about images: the greedy answer, whatever the assistant drafts."""

import copy

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.tiny import MAX_REGIONS, prompt_ids, tiny_inputs, tiny_model
from transformers_groma import GromaForConditionalGeneration

from .groma.prompts import GREEDY, new_tokens, one


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    return tiny_model(box_score_threshold=0.5)


@pytest.fixture
def inputs(model) -> dict[str, torch.Tensor]:
    return tiny_inputs(model.config, batch_size=3)


def text_only_assistant(model) -> LlamaForCausalLM:
    """A language model with the vocabulary of the main one."""
    torch.manual_seed(1)
    return LlamaForCausalLM(model.config.text_config).eval()


def other_groma(model) -> GromaForConditionalGeneration:
    """A narrower Groma that reads the same prompts."""
    return tiny_model(seed=1, text_config={"hidden_size": 16}, box_score_threshold=0.2)


ASSISTANTS = {
    "itself": lambda model: {"assistant_model": model},
    "a copy": lambda model: {"assistant_model": copy.deepcopy(model)},
    "another Groma": lambda model: {"assistant_model": other_groma(model)},
    "a text-only model": lambda model: {"assistant_model": text_only_assistant(model)},
    "prompt lookup": lambda model: {"prompt_lookup_num_tokens": 2},
}


@pytest.mark.parametrize("assistant", ASSISTANTS)
@pytest.mark.parametrize("num_boxes", [0, 2])
def test_assisted_decoding(model, inputs, assistant, num_boxes):
    """The greedy answer, whatever the assistant drafts."""
    single = one(inputs, 0)
    single["input_ids"] = torch.tensor([[*prompt_ids(model.config, num_boxes=num_boxes), 9]])
    single["attention_mask"] = torch.ones_like(single["input_ids"])
    if num_boxes:
        single["refer_boxes"] = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.3, 0.2]]])
    settings = ASSISTANTS[assistant](model)
    assert torch.equal(new_tokens(model, single, **settings), new_tokens(model, single))


@pytest.mark.parametrize("num_tokens", [1, 2, 6])
@pytest.mark.parametrize("assistant", ["another Groma", "a text-only model"])
def test_assisted_decoding_where_every_slot_is_used(model, inputs, assistant, num_tokens):
    """The library hands an assistant no mask where nothing is off."""
    given = {
        **one(inputs, 0),
        "ground_boxes": torch.rand(1, MAX_REGIONS, 4, generator=torch.manual_seed(0)) * 0.2 + 0.2,
    }
    assert model(**given).num_regions == MAX_REGIONS
    amount = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
    assert torch.equal(
        new_tokens(model, given, **ASSISTANTS[assistant](model), **amount), new_tokens(model, given, **amount)
    )


@pytest.mark.parametrize("assistant", ["a text-only model", "another Groma", "prompt lookup"])
def test_assisted_decoding_of_embeddings_is_refused(model, inputs, assistant):
    single = one(inputs, 0)
    single["inputs_embeds"] = model.get_input_embeddings()(single.pop("input_ids"))
    with pytest.raises(ValueError, match="pass `input_ids` instead of `inputs_embeds`"):
        model.generate(**single, **GREEDY, **ASSISTANTS[assistant](model))
    text = {"inputs_embeds": model.get_input_embeddings()(torch.tensor([[1, 7, 8]]))}
    with pytest.raises(ValueError, match="pass `input_ids` instead of `inputs_embeds`"):
        model.generate(**text, **GREEDY, **ASSISTANTS[assistant](model))


def test_an_assistant_sees_the_image(model, inputs):
    """A copy of the model drafts what the model says: its drafts are accepted as a whole."""
    single = one(inputs, 0)
    calls, forward = [], model.model.language_model.forward
    draft = copy.deepcopy(model)
    draft.generation_config.num_assistant_tokens = 4
    draft.generation_config.assistant_confidence_threshold = 0.0

    def counted(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.model.language_model, "forward", counted)
        new_tokens(model, single, assistant_model=draft)
    assert len(calls) == 2  # 5 tokens, then the last


@pytest.mark.parametrize(
    ("change", "message"),
    [({"max_regions": MAX_REGIONS + 1}, "`max_regions` 7, this model's 6"), ({"image_token_id": 3}, "image_token_id")],
)
def test_an_assistant_of_other_prompts(model, inputs, change, message):
    with pytest.raises(ValueError, match=f"assistant_model.*{message}"):
        new_tokens(model, one(inputs, 0), assistant_model=tiny_model(**change))


def test_an_assistant_that_cannot_look(model, inputs):
    single = one(inputs, 0)
    features = model.get_image_features(single.pop("pixel_values"), return_dict=True)
    given = {"mm_encoder_outputs": {"image": features}, **single, **GREEDY}
    with pytest.raises(ValueError, match="assistant_model.*looks at the image itself"):
        model.generate(**given, assistant_model=copy.deepcopy(model))
    assisted = model.generate(**given, assistant_model=text_only_assistant(model))
    assert torch.equal(assisted, model.generate(**given))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_lookup_num_tokens": 2}, "Assisted decoding reads a whole prompt"),
        ({"assistant_model": "a text-only model"}, "Assisted decoding reads a whole prompt"),
        ({"use_cache": False}, "`use_cache` is false"),
    ],
)
def test_modes_that_cannot_continue_a_cache(model, inputs, settings, message):
    first = model.generate(**one(inputs, 0), **GREEDY, return_dict_in_generate=True)
    if "assistant_model" in settings:
        settings = {"assistant_model": text_only_assistant(model)}
    with pytest.raises(ValueError, match=message):
        model.generate(first.sequences, past_key_values=first.past_key_values, **settings)


def test_assisted_decoding_of_text(model):
    given = {"input_ids": torch.tensor([[1, 7, 8, 9]])}
    for settings in ASSISTANTS.values():
        assert torch.equal(new_tokens(model, given, **settings(model)), new_tokens(model, given))
