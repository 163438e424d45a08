"""Later turns of a cached prompt, by hand and with `generate`: new text and new regions."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, GenerationConfig, StaticCache

from tests.tiny import MAX_REGIONS, prompt_ids
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures
from transformers_groma.models.modeling_cached_prompt import recall_prompt

from .prompts import EXACT, NEW, NEW_BOX, extended, logits_of_whole, one, padded_inputs, turn_ids

GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def model(picky_model) -> GromaForConditionalGeneration:
    return picky_model


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
        # A region that has a slot already is not a new one.
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
