"""Continuing a cached prompt token by token, also after the cache was changed."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import StaticCache

from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.modeling_cached_prompt import recall_prompt

from .prompts import EXACT, NEW, NEW_BOX, extended, logits_of_whole, one, padded_inputs, turn_ids

GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def model(picky_model) -> GromaForConditionalGeneration:
    return picky_model


class TestSteps:
    @pytest.mark.parametrize("padding", [0, 3])
    @pytest.mark.parametrize("mask", ["extended", "bool", "new tokens", "omitted"])
    @pytest.mark.parametrize("step", [1, 2, 4])
    def test_by_hand(self, model, padding, mask, step):
        """The caller's mask knows nothing of unused region slots; the model does."""
        inputs = padded_inputs(model, padding)
        output = model(**inputs, use_cache=True)
        assert len(set(output.num_regions.tolist())) > 1
        logits = []
        for start in range(0, 4, step):
            new_ids = NEW[:, start : start + step]
            whole = extended(inputs, NEW[:, : start + step])["attention_mask"]
            given = {"extended": whole, "bool": whole.bool(), "new tokens": torch.ones_like(new_ids), "omitted": None}
            output = model(input_ids=new_ids, attention_mask=given[mask], past_key_values=output.past_key_values)
            logits.append(output.logits)
        assert_close(torch.cat(logits, dim=1), logits_of_whole(model, inputs, NEW), **EXACT)

    def test_greedy_by_hand_is_generate(self, model):
        inputs = padded_inputs(model, 2)
        expected = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
        output, mask, found = model(**inputs), inputs["attention_mask"], []
        for _ in range(5):
            logits = output.logits[:, -1].clone()
            logits[:, model.config.text_config.eos_token_id] = -torch.inf
            found.append(logits.argmax(dim=-1, keepdim=True))
            mask = torch.cat([mask, mask.new_ones(3, 1)], dim=1)
            output = model(input_ids=found[-1], attention_mask=mask, past_key_values=output.past_key_values)
        assert torch.equal(torch.cat(found, dim=1), expected)
        # Every step also returns the regions.
        assert torch.equal(output.region_boxes, model(**inputs).region_boxes)
        assert torch.equal(output.num_regions, model(**inputs).num_regions)

    def test_padding_among_new_tokens(self, model):
        inputs = padded_inputs(model)
        cache = model(**inputs).past_key_values
        mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]])
        output = model(input_ids=NEW, attention_mask=mask, past_key_values=cache)
        for row, start in enumerate((0, 1, 2)):
            expected = logits_of_whole(model, one(inputs, row), NEW[row : row + 1, start:])
            assert_close(output.logits[row : row + 1, start:], expected, **EXACT)

    def test_embeddings(self, model):
        inputs = padded_inputs(model)
        cache = model(**inputs).past_key_values
        output = model(inputs_embeds=model.get_input_embeddings()(NEW), past_key_values=cache)
        assert_close(output.logits, logits_of_whole(model, inputs, NEW), **EXACT)

    @pytest.mark.parametrize("full", [True, False])
    def test_positions_of_the_caller(self, model, full):
        """Right ones are taken; those that count unused slots would be another answer than that of `generate`."""
        inputs = padded_inputs(model)
        output = model(**inputs)
        mask = torch.cat([output.past_key_values.grounded_prompt.attention_mask, torch.ones_like(NEW)], dim=1)
        positions = (mask.long().cumsum(dim=1) - 1)[:, -4:]
        given = {"attention_mask": extended(inputs, NEW)["attention_mask"]} if full else {}
        cache = copy.deepcopy(output.past_key_values)
        right = model(input_ids=NEW, position_ids=positions, past_key_values=cache, **given)
        assert_close(right.logits, logits_of_whole(model, inputs, NEW), **EXACT)
        length = inputs["input_ids"].shape[1]
        wrong = torch.arange(length, length + 4)[None]
        with pytest.raises(ValueError, match="position_ids"):
            model(input_ids=NEW, position_ids=wrong, past_key_values=output.past_key_values, **given)

    def test_positions_of_a_prompt(self, model):
        inputs = padded_inputs(model, 2)
        mask = recall_prompt(model(**inputs).past_key_values).attention_mask
        # Where nothing is read, any position will do.
        positions = (mask.long().cumsum(dim=1) - 1).masked_fill(~mask, 1)
        assert_close(model(position_ids=positions, **inputs).logits[mask], model(**inputs).logits[mask])
        generated = model.generate(position_ids=positions, **inputs, **GREEDY)
        assert torch.equal(generated, model.generate(**inputs, **GREEDY))
        places = torch.arange(mask.shape[1]).expand(3, -1)
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="position_ids"):
                call(position_ids=places, **inputs)

    def test_static_cache(self, model):
        inputs = padded_inputs(model, 2)
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
        model(**inputs, past_key_values=cache)
        logits = [
            model(
                input_ids=NEW[:, step : step + 2],
                attention_mask=extended(inputs, NEW[:, : step + 2])["attention_mask"],
                past_key_values=cache,
            ).logits
            for step in (0, 2)
        ]
        assert_close(torch.cat(logits, dim=1), logits_of_whole(model, inputs, NEW), **EXACT)

    def test_text_only_rows(self, model):
        inputs = padded_inputs(model)
        inputs["input_ids"][1] = torch.arange(len(inputs["input_ids"][1])) % 20 + 5
        inputs["pixel_values"] = inputs["pixel_values"][[0, 2]]
        output = model(**inputs)
        output = model(input_ids=NEW, past_key_values=output.past_key_values)
        assert_close(output.logits, logits_of_whole(model, inputs, NEW), **EXACT)
        assert len(output.region_boxes) == 2

    def test_loss_of_a_continuation(self, model):
        inputs = padded_inputs(model)
        whole = extended(inputs, NEW)
        labels = torch.where(torch.arange(whole["input_ids"].shape[1]) < inputs["input_ids"].shape[1] + 1, -100, 7)
        expected = model(labels=labels.expand(3, -1), **whole).loss
        loss = model(
            input_ids=NEW, labels=labels[-4:].expand(3, -1), past_key_values=model(**inputs).past_key_values
        ).loss
        assert_close(loss, expected)

    def test_loss_of_a_turn_that_points_at_regions_beside_text_alone(self, model):
        """A text-only row comes first: labels get the slots of their own row."""
        config = model.config
        inputs = one(padded_inputs(model), 1)
        text = torch.arange(inputs["input_ids"].shape[1])[None] % 20 + 5
        batch = {
            "input_ids": torch.cat([text, inputs["input_ids"]]),
            "attention_mask": torch.ones_like(inputs["input_ids"]).expand(2, -1),
            "pixel_values": inputs["pixel_values"],
        }
        ids = torch.tensor([turn_ids(config, 0, question=(15, 16, 18, 19)), turn_ids(config)])
        boxes = NEW_BOX.view(1, 1, 4)
        output = model(**batch)
        slot = int(output.num_regions[0])
        assert slot > 0
        labels = torch.full_like(ids, -100)
        labels[1] = ids[1]
        written = labels.masked_fill(labels == config.refer_box_token_id, config.first_proxy_token_id + slot)
        losses = [
            model(
                input_ids=ids,
                labels=given,
                refer_boxes=boxes,
                past_key_values=copy.deepcopy(output.past_key_values),
            ).loss
            for given in (labels, written)
        ]
        assert_close(*losses)


class TestChangedCaches:
    """What callers do with caches between calls."""

    @pytest.mark.parametrize("keep", [1, 3])
    def test_cropped(self, model, keep):
        inputs = padded_inputs(model)
        cache = model(**inputs).past_key_values
        model(input_ids=NEW, past_key_values=cache)
        cache.crop(keep - 4)
        other = NEW.flip(1)
        kept = extended(inputs, NEW[:, :keep])
        output = model(input_ids=other, attention_mask=extended(kept, other)["attention_mask"], past_key_values=cache)
        assert_close(output.logits, logits_of_whole(model, kept, other), **EXACT)

    @pytest.mark.parametrize("rows", [[2, 0, 1], [1], [0, 0, 2, 2], [2, 1]])
    def test_other_rows(self, model, rows):
        inputs = padded_inputs(model, 2)
        cache = model(**inputs).past_key_values
        index = torch.tensor(rows)
        cache.reorder_cache(index) if len(rows) == 3 else cache.batch_select_indices(index)
        new_ids = NEW[index]
        output = model(input_ids=new_ids, past_key_values=cache)
        assert_close(output.logits, logits_of_whole(model, inputs, NEW)[index], **EXACT)

    def test_repeated(self, model):
        inputs = padded_inputs(model)
        cache = model(**inputs).past_key_values
        cache.batch_repeat_interleave(2)
        index = torch.tensor([0, 0, 1, 1, 2, 2])
        output = model(input_ids=NEW[index], past_key_values=cache)
        assert_close(output.logits, logits_of_whole(model, inputs, NEW)[index], **EXACT)

    def test_one_prompt_many_questions(self, model):
        """A copy of the cache for each question, as the library's documents have it."""
        inputs = padded_inputs(model)
        cache = model(**inputs).past_key_values
        for question in (NEW, NEW.flip(1)):
            output = model(input_ids=question, past_key_values=copy.deepcopy(cache))
            assert_close(output.logits, logits_of_whole(model, inputs, question), **EXACT)

    def test_reset(self, model):
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
        inputs = padded_inputs(model)
        model(**inputs, past_key_values=cache)
        cache.reset()
        ids = torch.tensor([[1, 7, 8, 9]] * 3)
        assert_close(model(input_ids=ids, past_key_values=cache).logits, model(input_ids=ids).logits, **EXACT)

    def test_another_prompt(self, model):
        inputs = padded_inputs(model)
        cache = model(**inputs).past_key_values
        for layer in cache.layers:
            layer.keys = layer.keys + 1
        with pytest.raises(ValueError, match="no longer holds the prompt"):
            model(input_ids=NEW, past_key_values=cache)

    def test_another_number_of_rows(self, model):
        cache = model(**padded_inputs(model)).past_key_values
        with pytest.raises(ValueError, match="holds 3 samples, the prompt that continues it has 2"):
            model(input_ids=NEW[:2], past_key_values=cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": torch.ones(3, 7)}, r"attention_mask.*cached tokens included, got \(3, 7\)"),
        ({"attention_mask": torch.ones(3, 1, 4, 24)}, "attention_mask"),
        ({"attention_mask": {"full_attention": None}}, "attention_mask.*dict"),
        ({"pixel_values": torch.zeros(3, 3, 56, 56)}, "holds a prompt with its images already"),
        ({"ground_boxes": torch.full((3, 1, 4), 0.3)}, "`ground_boxes` need `pixel_values`"),
        ({"refer_boxes": torch.full((3, 1, 4), 0.3)}, "one `<refer_box>` mark and one placeholder for each"),
        ({"refer_boxes": torch.full((2, 1, 4), 0.3)}, "each of the 3 images"),
    ],
)
def test_inputs_that_do_not_continue_the_cache(model, change, message):
    cache = model(**padded_inputs(model)).past_key_values
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": NEW, "past_key_values": cache, **change})


def test_the_whole_prompt_again_is_refused(model):
    inputs = padded_inputs(model)
    cache = model(**inputs).past_key_values
    rest = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="placeholders of an image"):
        model(**rest, past_key_values=cache)
    with pytest.raises(ValueError, match="placeholders of an image"):
        model(**rest)
    with pytest.raises(ValueError, match="at least one new token"):
        model.generate(**rest, past_key_values=cache)


def test_text_only_continuation_needs_the_whole_mask(model):
    ids = torch.tensor([[0, 0, 1, 7], [1, 7, 8, 9]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    cache = model(input_ids=ids, attention_mask=mask).past_key_values
    with pytest.raises(ValueError, match="cached tokens included"):
        model(input_ids=NEW[:2], attention_mask=torch.ones(2, 4), past_key_values=cache)
    whole = torch.cat([mask, torch.ones(2, 4, dtype=torch.long)], dim=1)
    logits = model(input_ids=NEW[:2], attention_mask=whole, past_key_values=cache).logits
    expected = model(input_ids=torch.cat([ids, NEW[:2]], dim=1), attention_mask=whole).logits[:, 4:]
    assert_close(logits, expected, **EXACT)
