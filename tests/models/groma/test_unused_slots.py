"""Unused region slots are left out where shapes may vary: the same ids and logits, and a smaller cache."""

import copy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StaticCache

from tests.tiny import prompt_ids, tiny_inputs, tiny_model
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.modeling_compact_cache import CompactCache

from ..test_modeling_language import pair as language_pair
from .prompts import EXACT, NEW, NEW_BOX, extended, one, padded_inputs, turn_ids

GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def model(picky_model) -> GromaForConditionalGeneration:
    return picky_model


def answers(model, inputs, **kwargs):
    """The answer as it is, and with fixed slots."""
    settings = {**GREEDY, "return_dict_in_generate": True, "output_logits": True, **kwargs}
    pair = []
    for fixed in (False, True):
        torch.manual_seed(0)
        given = {name: copy.deepcopy(value) for name, value in settings.items()}
        pair.append(model.generate(**inputs, **given, fixed_slots=fixed))
    return pair


def prompt_read(model, inputs, fixed: bool = False):
    """The cache of a prompt."""
    return model(**inputs, logits_to_keep=1, fixed_slots=fixed).past_key_values


def width(cache) -> int:
    """How many columns a cache holds."""
    return cache.layers[0].keys.shape[2]


def check_equal(ours, fixed) -> None:
    assert torch.equal(ours.sequences, fixed.sequences)
    for logits, expected in zip(ours.logits, fixed.logits, strict=True):
        assert_close(logits, expected, **EXACT)


def one_allowed_token(batch, ids):
    """A function for `prefix_allowed_tokens_fn` that counts all tokens of a prompt."""
    return [5 + (len(ids) + int(ids[-1])) % 90]


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2, "top_k": 20},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"prefix_allowed_tokens_fn": one_allowed_token},
        {"max_new_tokens": None, "min_new_tokens": None, "max_length": 36},
        {"cache_implementation": "dynamic"},
        {"prefill_chunk_size": 7},
        {"prefill_chunk_size": 100},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_the_same_answer_from_a_smaller_cache(model, padding, settings):
    """Of a batch in which the fullest image has fewer regions than slots, also where prompts differ in length."""
    inputs = padded_inputs(model, padding)
    counts = model(**inputs).num_regions
    assert len(set(counts.tolist())) > 1 and counts.max() < model.config.max_regions
    ours, fixed = answers(model, inputs, **settings)
    check_equal(ours, fixed)
    assert ours.past_key_values.get_seq_length() == fixed.past_key_values.get_seq_length()
    assert isinstance(ours.past_key_values, CompactCache) and type(fixed.past_key_values) is DynamicCache
    if settings.get("prefill_chunk_size") != 7:
        is_on = fixed.past_key_values.grounded_prompt.attention_mask
        assert width(ours.past_key_values) == is_on.sum(dim=1).max() < width(fixed.past_key_values)


def test_each_row_of_a_batch_is_as_alone(model):
    inputs = padded_inputs(model, 3)
    together, _ = answers(model, inputs)
    for row in range(3):
        _, alone = answers(model, one(inputs, row))
        assert torch.equal(together.sequences[row : row + 1], alone.sequences)


def test_a_text_only_row_beside_images(model):
    inputs = padded_inputs(model)
    inputs["input_ids"][1] = torch.arange(inputs["input_ids"].shape[1]) % 20 + 5
    inputs["pixel_values"] = inputs["pixel_values"][[0, 2]]
    check_equal(*answers(model, inputs))


def test_user_boxes(model):
    inputs = padded_inputs(model)
    inputs["input_ids"] = torch.tensor([prompt_ids(model.config, num_boxes=1)] * 3)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    check_equal(*answers(model, {**inputs, "refer_boxes": NEW_BOX.expand(3, 1, 4)}))


def test_embeddings(model):
    inputs = padded_inputs(model, 2)
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
    check_equal(*answers(model, {**inputs, "inputs_embeds": embeddings}))


def test_without_a_cache(model):
    inputs = padded_inputs(model, 2)
    ours, fixed = answers(model, inputs, use_cache=False)
    check_equal(ours, fixed)
    assert torch.equal(ours.sequences, answers(model, inputs)[0].sequences)


@pytest.mark.parametrize("drafts", ["prompt lookup", "groma", "text"])
def test_assisted(model, drafts):
    inputs = one(padded_inputs(model), 1)
    settings = {"prompt_lookup_num_tokens": 3}
    if drafts != "prompt lookup":
        assistant = tiny_model(seed=3, box_score_threshold=0.5)
        assistant = assistant if drafts == "groma" else _text_only(assistant)
        settings = {"assistant_model": assistant}
    # Copying an assistant would take long.
    pair = [
        model.generate(**inputs, **GREEDY, **settings, fixed_slots=fixed, return_dict_in_generate=True)
        for fixed in (False, True)
    ]
    assert torch.equal(pair[0].sequences, pair[1].sequences)
    assert width(pair[0].past_key_values) < width(pair[1].past_key_values)
    check_equal(*answers(model, inputs))


def _text_only(model):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(model.config.text_config).eval()


def test_processors_and_stopping_criteria_see_the_whole_prompt(model):
    inputs = padded_inputs(model)
    seen: list[Tensor] = []

    def look(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids)
        return scores

    def stop(ids: Tensor, scores, **kwargs) -> Tensor:
        seen.append(ids)
        return torch.zeros(len(ids), dtype=torch.bool)

    processors = LogitsProcessorList([look])
    output = model.generate(**inputs, **GREEDY, logits_processor=processors, stopping_criteria=[stop])
    assert all(torch.equal(ids[:, 1:], output[:, 1 : ids.shape[1]]) for ids in seen)
    assert torch.equal(output[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])


@pytest.mark.parametrize(
    "settings",
    [
        {"output_hidden_states": True},
        {"cache_implementation": "static", "disable_compile": True},
        {"past_key_values": DynamicCache()},
    ],
    ids=["states", "static", "the caller's cache"],
)
def test_slots_are_fixed_where_shapes_must_not_vary(model, settings):
    """Whoever asks for states finds a token in them by its place, and columns of plain caches are tokens."""
    inputs = padded_inputs(model)
    ours, fixed = answers(model, inputs, **settings)
    check_equal(ours, fixed)
    assert width(ours.past_key_values) == width(fixed.past_key_values) >= inputs["input_ids"].shape[1]
    if "output_hidden_states" in settings:
        assert ours.hidden_states[0][0].shape == fixed.hidden_states[0][0].shape


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mistral", {"sliding_window": 8}),
        ("gemma3_text", {"sliding_window": 8}),
        ("gpt_neo", {"window_size": 8}),
        ("mistral", {"sliding_window": None}),
        ("gemma3_text", {"sliding_window": 8, "layer_types": ["full_attention"] * 2}),
    ],
    ids=str,
)
def test_language_models_that_see_a_window(kind, settings):
    """Which tokens are in it depends on how many there are: none is left out. Without a window some are."""
    _, model = language_pair(kind, **settings)
    inputs = padded_inputs(model, 2)
    ours, fixed = answers(model, inputs)
    check_equal(ours, fixed)
    assert_close(ours.logits[0], model(**inputs).logits[:, -1], **EXACT)
    has_window = "layer_types" not in settings and settings.get("sliding_window", 8) is not None
    lengths = [output.past_key_values.layers[0].get_seq_length() for output in (ours, fixed)]
    assert (lengths[0] == lengths[1]) == has_window


def test_nothing_is_left_out_in_training(model):
    inputs = padded_inputs(model)
    trained = copy.deepcopy(model).train()
    torch.manual_seed(0)
    cache = trained(**inputs, logits_to_keep=1, use_cache=True).past_key_values
    assert width(cache) == inputs["input_ids"].shape[1]


class TestForward:
    @pytest.mark.parametrize("padding", [0, 3])
    def test_the_last_logits(self, model, padding):
        inputs = padded_inputs(model, padding)
        whole = model(**inputs)
        for keep in (1, 3):
            ours = model(**inputs, logits_to_keep=keep)
            assert_close(ours.logits, whole.logits[:, -keep:], **EXACT)
            assert width(ours.past_key_values) < width(whole.past_key_values)
            fixed = model(**inputs, logits_to_keep=keep, fixed_slots=True)
            assert_close(fixed.logits, whole.logits[:, -keep:], **EXACT)
            assert width(fixed.past_key_values) == width(whole.past_key_values) == inputs["input_ids"].shape[1]

    @pytest.mark.parametrize("keep", [0, 4, torch.tensor([2, 9])], ids=["all", "a slot", "chosen"])
    def test_logits_of_tokens_that_are_off(self, model, keep):
        """Whoever asks for them gets them: the question has three tokens, before it is a slot."""
        inputs = padded_inputs(model, 3)
        ours, fixed = (model(**inputs, logits_to_keep=keep, fixed_slots=fixed) for fixed in (False, True))
        assert torch.equal(ours.logits, fixed.logits)

    def test_right_padding(self, model):
        inputs = padded_inputs(model)
        for name in ("input_ids", "attention_mask"):
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, 3), value=0)
        ours, fixed = (model(**inputs, logits_to_keep=4, fixed_slots=fixed).logits for fixed in (False, True))
        assert torch.equal(ours, fixed)

    def test_gradients(self, model):
        inputs = padded_inputs(model, 2)
        found = []
        for fixed in (False, True):
            with torch.enable_grad():
                model(**inputs, logits_to_keep=3, fixed_slots=fixed).logits.square().sum().backward()
            found.append(model.model.language_model.layers[0].self_attn.q_proj.weight.grad.clone())
            model.zero_grad()
        assert found[0].abs().max() > 0
        assert_close(*found, atol=1e-4, rtol=1e-4)

    def test_no_state_at_all(self, model):
        """For whoever only fills a cache: also of a prompt that ends with a slot."""
        inputs = padded_inputs(model)
        for name in ("input_ids", "attention_mask"):
            inputs[name] = inputs[name][:, :-3]
        cache = model.new_cache()
        model.model(**inputs, past_key_values=cache, states_to_keep=0)
        expected = model(input_ids=NEW, past_key_values=model(**inputs).past_key_values).logits
        assert width(cache) < inputs["input_ids"].shape[1]
        assert_close(model(input_ids=NEW, past_key_values=cache).logits, expected, **EXACT)


class TestLaterTurns:
    @pytest.mark.parametrize("ids", ["whole", "new"])
    @pytest.mark.parametrize("mask", ["whole", "new", "none"])
    @pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=str)
    def test_a_turn_of_words(self, model, ids, mask, settings):
        inputs = padded_inputs(model, 2)
        ours, fixed = answers(model, inputs)
        turns = []
        for first in (ours, fixed):
            cache = first.past_key_values
            conversation = extended(inputs, torch.cat([first.sequences[:, -6:], NEW], dim=1))
            start = 0 if ids == "whole" else cache.get_seq_length()
            given = {"input_ids": conversation["input_ids"][:, start:]}
            if mask != "none":
                given["attention_mask"] = conversation["attention_mask"][:, 0 if mask == "whole" else start :]
            turns.append(
                model.generate(
                    **given,
                    **GREEDY,
                    **settings,
                    past_key_values=cache,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            )
        check_equal(*turns)
        assert isinstance(turns[0].past_key_values, CompactCache)
        assert width(turns[0].past_key_values) < width(turns[1].past_key_values)

    def test_a_turn_with_a_new_region(self, model):
        inputs = one(padded_inputs(model), 1)
        turns = []
        for first in answers(model, inputs):
            turn = torch.tensor([[*first.sequences[0, -1:].tolist(), *turn_ids(model.config)]])
            turns.append(
                model.generate(
                    turn,
                    refer_boxes=NEW_BOX.view(1, 1, 4),
                    past_key_values=first.past_key_values,
                    **GREEDY,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            )
        check_equal(*turns)
        assert torch.equal(turns[0].region_mask, turns[1].region_mask)

    def test_tokens_that_a_caller_switches_off_later(self, model):
        """By their places in the conversation, which are not those of the cache's columns."""
        inputs = padded_inputs(model, 2)
        mask = extended(inputs, NEW)["attention_mask"]
        mask[:, [3, 4, -6]] = 0
        found = []
        for fixed in (False, True):
            cache = prompt_read(model, inputs, fixed)
            found.append(model(input_ids=NEW, attention_mask=mask, past_key_values=cache).logits)
        assert_close(*found, **EXACT)
        everything = extended(inputs, NEW)["attention_mask"]
        cache = prompt_read(model, inputs)
        other = model(input_ids=NEW, attention_mask=everything, past_key_values=cache).logits
        assert not torch.allclose(other, found[0], atol=1e-3)

    @pytest.mark.parametrize("rows", [[2, 0, 1], [1], [0, 0, 2, 2]])
    def test_rows_chosen_layer_by_layer(self, model, rows):
        """Not by the cache's own methods: the model finds out which rows they are."""
        inputs = padded_inputs(model, 2)
        index = torch.tensor(rows)
        found = []
        for fixed in (False, True):
            cache = prompt_read(model, inputs, fixed)
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[index], layer.values[index]
            found.append(model(input_ids=NEW[index], past_key_values=cache).logits)
        assert_close(*found, **EXACT)

    def test_a_cache_that_was_cropped(self, model):
        inputs = padded_inputs(model)
        found = []
        for fixed in (False, True):
            cache = prompt_read(model, inputs, fixed)
            model(input_ids=NEW, past_key_values=cache)
            cache.crop(-3)
            found.append(model(input_ids=NEW.flip(1), past_key_values=cache).logits)
        assert_close(*found, **EXACT)

    def test_a_cache_of_the_models_own_kind(self, model):
        """For whoever needs it before the first call: a conversation, for instance."""
        inputs = one(padded_inputs(model), 1)
        cache = model.new_cache()
        ids = model.generate(**inputs, past_key_values=cache, **GREEDY)
        assert torch.equal(ids, model.generate(**inputs, **GREEDY, fixed_slots=True))
        assert width(cache) < ids.shape[1] - 1 == cache.get_seq_length()

    def test_a_plain_cache_that_was_filled_before(self, model):
        inputs = one(padded_inputs(model), 1)
        for cache in (DynamicCache(), StaticCache(config=model.config.get_text_config(), max_cache_len=64)):
            model(**inputs, past_key_values=cache)
            expected = model(input_ids=NEW[:1], past_key_values=model(**inputs).past_key_values).logits
            assert_close(model(input_ids=NEW[:1], past_key_values=cache).logits, expected, **EXACT)


def test_settings_of_a_configuration(model):
    inputs = tiny_inputs(model.config, batch_size=2)
    config = GenerationConfig(**GREEDY, cache_implementation="static", disable_compile=True)
    ours = model.generate(**inputs, generation_config=config)
    assert torch.equal(ours, model.generate(**inputs, **GREEDY))


def test_images_with_all_slots_used():
    model = tiny_model()
    inputs = tiny_inputs(model.config, batch_size=2)
    assert model(**inputs).num_regions.tolist() == [model.config.max_regions] * 2
    ours, fixed = answers(model, inputs)
    check_equal(ours, fixed)
    assert width(ours.past_key_values) == width(fixed.past_key_values)
