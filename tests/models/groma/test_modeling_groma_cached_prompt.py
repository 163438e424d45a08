"""Continuing a prompt that a cache holds, by hand and with `generate`: next tokens, later turns, new regions."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, GenerationConfig, StaticCache

from tests.tiny import MAX_REGIONS, prompt_ids, tiny_inputs, tiny_model
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.groma.modeling_groma_cached_prompt import (
    CachedPrompt,
    _keys_of,
    _match_rows,
    assign_slots,
    cached_length,
    cached_rows,
    forget_prompt,
    recall_prompt,
    remember_prompt,
)
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures

EXACT = {"atol": 1e-5, "rtol": 1e-4}
GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
NEW = torch.tensor([[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34]])
NEW_BOX = torch.tensor([0.31, 0.42, 0.23, 0.17])


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    # Some proposals are not good enough, so that images have different numbers of regions.
    return tiny_model(box_score_threshold=0.5)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def padded_inputs(model: GromaForConditionalGeneration, padding: int = 0) -> dict[str, torch.Tensor]:
    """Three images with different numbers of regions; the second prompt is shorter and padded on the left."""
    inputs = tiny_inputs(model.config, batch_size=3, seed=10)
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.nn.functional.pad(inputs[name], (padding, 0), value=0)
    inputs["attention_mask"][[0, 2], :padding] = 1
    inputs["input_ids"][[0, 2], :padding] = 6
    return inputs


def one(inputs: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    return {name: value[index : index + 1] for name, value in inputs.items()}


def extended(inputs: dict[str, torch.Tensor], new_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs with more ids, which are on."""
    return {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], new_ids], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(new_ids)], dim=1),
    }


def logits_of_whole(model, inputs, new_ids, **kwargs) -> torch.Tensor:
    """Logits of the new tokens, without a cache: the whole prompt at once."""
    output = model(**{**extended(inputs, new_ids), **kwargs}, use_cache=False)
    return output.logits[:, -new_ids.shape[1] :]


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
        # Every step tells the regions, too.
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
        mask = torch.cat([output.past_key_values.groma_prompt.attention_mask, torch.ones_like(NEW)], dim=1)
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
        """A row in words alone stands first: labels get the slots of their own row."""
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


def turn_ids(config, num_boxes: int = 1, question: tuple[int, ...] = (15, 16)) -> list[int]:
    """A later turn: question, regions, and a last token that is neither."""
    return [*question, *[config.refer_box_token_id, config.image_token_id] * num_boxes, 17]


def logits_with_region(model, inputs, ids: list[int], boxes: list[torch.Tensor], slots: list[int]) -> torch.Tensor:
    """Logits of a later turn of one sample, the hard way: one prompt in which its regions are written out."""
    config = model.config
    features = model.get_image_features(inputs["pixel_values"], return_dict=True)
    alone = [
        model.get_image_features(inputs["pixel_values"], box.view(1, 1, 4), return_dict=True).pooler_output[0][-1:]
        for box in boxes
    ]
    written = torch.tensor([ids])
    written[written == config.refer_box_token_id] = torch.tensor(slots, dtype=torch.long) + config.first_proxy_token_id
    mask = recall_prompt(model(**inputs).past_key_values).attention_mask.long()
    whole = extended({**inputs, "attention_mask": mask}, written)
    visual = GromaImageFeatures(pooler_output=[torch.cat([features.pooler_output[0], *alone])])
    output = model(
        input_ids=whole["input_ids"],
        attention_mask=whole["attention_mask"],
        mm_encoder_outputs={"image": visual},
        use_cache=False,
    )
    return output.logits[:, -len(ids) :]


@pytest.fixture
def looks(model, monkeypatch) -> list[int]:
    """Grows with every image that the vision encoder looks at."""
    seen, forward = [], model.model.vision_tower.forward

    def counted(pixel_values, *args, **kwargs):
        seen.extend([1] * len(pixel_values))
        return forward(pixel_values, *args, **kwargs)

    monkeypatch.setattr(model.model.vision_tower, "forward", counted)
    return seen


class TestTurns:
    """Several turns about one image, which is looked at once. Float32 answers are equal to 1e-5."""

    def test_new_text_by_hand(self, model, looks):
        inputs = padded_inputs(model, 2)
        output = model(**inputs)
        for turn in (NEW, NEW.flip(1)):
            output = model(input_ids=turn, past_key_values=output.past_key_values)
        assert len(looks) == 3
        expected = logits_of_whole(model, extended(inputs, NEW), NEW.flip(1))
        assert_close(output.logits, expected, **EXACT)

    @pytest.mark.parametrize("mask", [True, False])
    @pytest.mark.parametrize("ids", ["whole", "new"])
    @pytest.mark.parametrize(
        "settings", [{}, {"num_beams": 2}, {"num_beams": 2, "repeated": 2}, {"prefill_chunk_size": 3}]
    )
    def test_new_text_with_generate(self, model, looks, mask, ids, settings):
        settings = dict(settings)
        inputs = padded_inputs(model, 2)
        first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        conversation = extended(inputs, torch.cat([first.sequences[:, -5:], NEW], dim=1))
        length = first.past_key_values.get_seq_length()
        given = {"input_ids": conversation["input_ids"][:, 0 if ids == "whole" else length :]}
        if mask:
            given["attention_mask"] = conversation["attention_mask"]
        cache = first.past_key_values
        if settings.get("repeated"):
            cache.batch_repeat_interleave(settings.pop("repeated"))
        second = model.generate(**given, past_key_values=cache, **GREEDY, **settings, return_dict_in_generate=True)
        assert len(looks) == 3
        assert torch.equal(second.sequences[:, :-5], given["input_ids"])
        fresh = model.generate(**conversation, **GREEDY, **settings, return_dict_in_generate=True)
        assert torch.equal(second.sequences[:, -5:], fresh.sequences[:, -5:])
        for name in ("region_boxes", "region_scores", "region_mask"):
            assert torch.equal(second[name], fresh[name])

    @pytest.mark.parametrize("step", [1, 3, 100])
    def test_new_regions_by_hand(self, model, looks, step):
        """All of a turn at once: its boxes come with it. What follows may come in steps."""
        config = model.config
        inputs = one(padded_inputs(model), 1)
        output = model(**inputs)
        slot = int(output.num_regions[0])
        assert 0 < slot < MAX_REGIONS
        ids = turn_ids(config)
        output = model(
            input_ids=torch.tensor([ids]), refer_boxes=NEW_BOX.view(1, 1, 4), past_key_values=output.past_key_values
        )
        assert len(looks) == 1
        assert_close(output.logits, logits_with_region(model, inputs, ids, [NEW_BOX], [slot]), **EXACT)
        assert_close(output.region_boxes[0, slot], NEW_BOX)
        assert output.region_scores[0, slot] == 1
        assert output.num_regions.tolist() == [slot + 1]
        logits = []
        for start in range(0, 4, step):
            output = model(input_ids=NEW[:1, start : start + step], past_key_values=output.past_key_values)
            logits.append(output.logits)
            assert output.num_regions.tolist() == [slot + 1]
        expected = logits_with_region(model, inputs, [*ids, *NEW[0].tolist()], [NEW_BOX], [slot])[:, -4:]
        assert_close(torch.cat(logits, dim=1), expected, **EXACT)

    def test_new_regions_turn_after_turn(self, model, looks):
        """A second new region takes the next slot; a region that the model knows keeps its own."""
        inputs = one(padded_inputs(model), 1)
        output = model(**inputs)
        slot, known = int(output.num_regions[0]), output.region_boxes[0, 1]
        other = torch.tensor([0.7, 0.6, 0.2, 0.3])
        assert slot + 2 <= MAX_REGIONS
        boxes, slots, ids, logits = [], [], [], []
        for turn in ([NEW_BOX], [other, known], [NEW_BOX, NEW_BOX]):
            turn_slots = {id(NEW_BOX): slot, id(other): slot + 1, id(known): 1}
            slots += [turn_slots[id(box)] for box in turn]
            boxes += turn
            new_ids = turn_ids(model.config, len(turn))
            output = model(
                input_ids=torch.tensor([new_ids]),
                refer_boxes=torch.stack(turn)[None],
                past_key_values=output.past_key_values,
            )
            ids += new_ids
            logits.append(output.logits)
        assert output.num_regions.tolist() == [slot + 2]
        assert_close(torch.cat(logits, dim=1), logits_with_region(model, inputs, ids, boxes, slots), **EXACT)
        # Only the reference looks again.
        assert len(looks) - 1 == 2 + len(boxes)

    def test_a_batch_with_different_numbers_of_boxes(self, model):
        """Padded on the left, a text-only row, a row without a box: every row as alone."""
        config = model.config
        inputs = padded_inputs(model, 2)
        text = torch.arange(inputs["input_ids"].shape[1]) % 20 + 5
        inputs = {name: torch.cat([value[:1], value]) for name, value in inputs.items()}
        inputs["input_ids"][1] = text
        inputs["pixel_values"] = inputs["pixel_values"][1:]
        output = model(**inputs)
        counts = output.num_regions.tolist()
        other = torch.tensor([0.7, 0.6, 0.2, 0.3])
        turns = [turn_ids(config), turn_ids(config, 0), turn_ids(config, 0), turn_ids(config, 2)]
        length = max(map(len, turns))
        ids = torch.tensor([[0] * (length - len(turn)) + turn for turn in turns])
        mask = torch.tensor([[0] * (length - len(turn)) + [1] * len(turn) for turn in turns])
        boxes = torch.zeros(3, 2, 4)
        boxes[0, 0], boxes[2, 0], boxes[2, 1] = NEW_BOX, other, NEW_BOX
        output = model(input_ids=ids, attention_mask=mask, refer_boxes=boxes, past_key_values=output.past_key_values)
        assert output.num_regions.tolist() == [counts[0] + 1, counts[1], counts[2] + 2]
        singles = padded_inputs(model, 2)
        for row, image, given in ((0, 0, [NEW_BOX]), (2, 1, []), (3, 2, [other, NEW_BOX])):
            slots = [counts[image] + index for index in range(len(given))]
            expected = logits_with_region(model, one(singles, image), turns[row], given, slots)
            assert_close(output.logits[row : row + 1, -len(turns[row]) :], expected, **EXACT)
        alone = logits_of_whole(
            model, {"input_ids": text[None], "attention_mask": torch.ones_like(text)[None]}, ids[1:2, -3:]
        )
        assert_close(output.logits[1:2, -3:], alone, **EXACT)

    @pytest.mark.parametrize("ids", ["whole", "new"])
    @pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"prefill_chunk_size": 3}, {"cache": "static"}])
    def test_new_regions_with_generate(self, model, looks, ids, settings):
        """As by hand: the turn in one call, then token after token."""
        settings = dict(settings)
        config = model.config
        inputs = one(padded_inputs(model), 1)
        cache = None
        if settings.pop("cache", None):
            cache = StaticCache(config=config.get_text_config(), max_cache_len=64)
        begin = {"past_key_values": cache} if cache is not None else {}
        first = model.generate(**inputs, **begin, **GREEDY, disable_compile=True, return_dict_in_generate=True)
        hand = model(**{**inputs, "input_ids": first.sequences[:, :-1], "attention_mask": None}).past_key_values
        turn = torch.tensor([[*first.sequences[0, -1:].tolist(), *turn_ids(config)]])
        boxes = NEW_BOX.view(1, 1, 4)
        given = torch.cat([first.sequences[:, :-1], turn], dim=1) if ids == "whole" else turn
        copies = {"past_key_values": first.past_key_values}
        looks.clear()
        second = model.generate(
            given,
            refer_boxes=boxes,
            **copies,
            **GREEDY,
            **settings,
            disable_compile=True,
            return_dict_in_generate=True,
        )
        assert not looks
        assert torch.equal(second.sequences[:, :-5], given)
        slot = int(first.region_mask.sum())
        assert_close(second.region_boxes[0, slot], NEW_BOX)
        assert second.region_mask.sum() == slot + 1
        if settings.get("num_beams"):
            return
        output = model(input_ids=turn, refer_boxes=boxes, past_key_values=hand)
        for token in second.sequences[0, -5:]:
            logits = output.logits[0, -1].clone()
            logits[config.text_config.eos_token_id] = -torch.inf
            assert logits.argmax() == token
            output = model(input_ids=token.view(1, 1), past_key_values=output.past_key_values)
        # A third turn, which points at the same region and at nothing else.
        third = torch.cat([second.sequences[:, -1:], turn[:, 1:]], dim=1)
        answer = model.generate(
            third,
            refer_boxes=boxes,
            past_key_values=second.past_key_values,
            **GREEDY,
            disable_compile=True,
            return_dict_in_generate=True,
        )
        assert answer.region_mask.sum() == slot + 1
        assert not looks

    def test_features_for_another_prompt(self, model, looks):
        """Also without a cache an image is looked at once: the same features, other boxes."""
        inputs = padded_inputs(model)
        boxes = torch.stack([NEW_BOX, NEW_BOX, NEW_BOX.flip(0)])[:, None]
        first = model.get_image_features(inputs["pixel_values"], boxes[[2, 0, 1]] * 0.9, return_dict=True)
        assert len(looks) == 3
        again = model.encode_regions(first, boxes)
        plain = model.encode_regions(again)
        inputs["input_ids"] = torch.tensor([prompt_ids(model.config, num_boxes=1)] * 3)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
        with_boxes = model(mm_encoder_outputs={"image": first}, refer_boxes=boxes, **rest)
        generated = model.generate(mm_encoder_outputs={"image": first}, refer_boxes=boxes, **rest, **GREEDY)
        assert len(looks) == 3
        expected = model.get_image_features(inputs["pixel_values"], boxes, return_dict=True)
        for actual, wanted in (
            (again, expected),
            (plain, model.get_image_features(inputs["pixel_values"], return_dict=True)),
        ):
            for name in ("region_boxes", "region_scores", "region_mask"):
                assert torch.equal(actual[name], wanted[name])
            assert len(actual.pooler_output) == len(wanted.pooler_output)
            for one_image, wanted_image in zip(actual.pooler_output, wanted.pooler_output, strict=True):
                assert_close(one_image, wanted_image, **EXACT)
        assert torch.equal(again.refer_slots, expected.refer_slots)
        assert_close(with_boxes.logits, model(**inputs, refer_boxes=boxes).logits, **EXACT)
        assert torch.equal(generated, model.generate(**inputs, refer_boxes=boxes, **GREEDY))

    def test_no_free_slot(self, model):
        inputs = one(padded_inputs(model), 0)
        full = copy.deepcopy(model)
        full.config.box_score_threshold = full.model.config.box_score_threshold = 0.0
        full.config.nms_threshold = full.model.config.nms_threshold = 1.0
        output = full(**inputs)
        assert output.num_regions.tolist() == [MAX_REGIONS]
        ids = torch.tensor([turn_ids(model.config)])
        with pytest.raises(ValueError, match=f"all {MAX_REGIONS} region slots.*encode_regions"):
            full(input_ids=ids, refer_boxes=NEW_BOX.view(1, 1, 4), past_key_values=output.past_key_values)
        # A region that has a slot is no new one.
        known = output.region_boxes[:, 2:3]
        output = full(input_ids=ids, refer_boxes=known, past_key_values=output.past_key_values)
        expected = logits_with_region(full, inputs, ids[0].tolist(), [known[0, 0]], [2])
        assert_close(output.logits, expected, **EXACT)

    def test_pixels_given_again(self, model):
        """Whoever passes all inputs again gets the same, or hears that they are others."""
        inputs = one(padded_inputs(model), 1)
        first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        whole = extended(
            {**inputs, "input_ids": first.sequences, "attention_mask": torch.ones_like(first.sequences)}, NEW[:1]
        )
        expected = model.generate(**whole, **GREEDY)
        again = model.generate(**whole, past_key_values=copy.deepcopy(first.past_key_values), **GREEDY)
        assert torch.equal(again, expected)
        other = {**whole, "pixel_values": whole["pixel_values"].flip(-1)}
        with pytest.raises(ValueError, match="other images or regions"):
            model.generate(**other, past_key_values=first.past_key_values, **GREEDY)
        with pytest.raises(ValueError, match="other images or regions"):
            model.generate(**whole, refer_boxes=NEW_BOX.view(1, 1, 4), past_key_values=first.past_key_values, **GREEDY)

    def test_more_answers_to_a_later_turn(self, model):
        """As many as the configuration of generation says; the cache gets a row for each."""
        inputs = padded_inputs(model, 2)
        first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        cache = first.past_key_values
        settings = GenerationConfig(max_new_tokens=5, min_new_tokens=5, num_beams=3, num_return_sequences=2)
        tail = torch.cat([first.sequences[:, -1:], NEW], dim=1)
        output = model.generate(tail, past_key_values=cache, generation_config=settings, return_dict_in_generate=True)
        conversation = extended(inputs, torch.cat([first.sequences[:, -5:], NEW], dim=1))
        fresh = model.generate(**conversation, generation_config=settings)
        assert output.sequences.shape[0] == 6
        assert torch.equal(output.sequences[:, -5:], fresh[:, -5:])

    def test_an_error_leaves_the_cache_usable(self, model):
        inputs = one(padded_inputs(model), 1)
        cache = model(**inputs).past_key_values
        with pytest.raises(ValueError, match="not used by the model"):
            model.generate(NEW[:1], past_key_values=cache, no_such_argument=1)
        output = model(input_ids=NEW[:1], past_key_values=cache)
        assert_close(output.logits, logits_of_whole(model, inputs, NEW[:1]), **EXACT)

    def test_a_cache_of_the_callers(self, model):
        """Filled in place by `generate`, which returns bare ids."""
        inputs = one(padded_inputs(model), 1)
        cache = DynamicCache(config=model.config.get_text_config())
        ids = model.generate(**inputs, past_key_values=cache, **GREEDY)
        output = model(input_ids=torch.cat([ids[:, -1:], NEW[:1]], dim=1), past_key_values=cache)
        expected = logits_of_whole(
            model, {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}, NEW[:1]
        )
        assert_close(output.logits[:, 1:], expected, **EXACT)

    def test_features_without_maps(self, model):
        inputs = one(padded_inputs(model), 1)
        features = model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
        features.region_feature_maps = None
        output = model(mm_encoder_outputs={"image": features}, **inputs)
        with pytest.raises(ValueError, match="what regions are encoded from"):
            model(
                input_ids=torch.tensor([turn_ids(model.config)]),
                refer_boxes=NEW_BOX.view(1, 1, 4),
                past_key_values=output.past_key_values,
            )
        with pytest.raises(ValueError, match="region_feature_maps"):
            model.encode_regions(features, NEW_BOX.view(1, 1, 4))


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
    assert prompt.region_mask.sum() == 3
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
