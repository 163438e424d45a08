"""`generate` of GLaMM: masks of every `[SEG]` in every mode, from one look at each image and no second pass."""

import copy

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, LlamaForCausalLM, LogitsProcessor, StaticCache
from transformers.generation.utils import GenerateDecoderOnlyOutput

from tests.tiny import tiny_glamm, tiny_glamm_inputs
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration

EXACT = {"atol": 2e-5, "rtol": 1e-4}
LENGTH = 8


class SegmentsAt(LogitsProcessor):
    """Makes the model say `[SEG]` at some steps, counted from the end of the prompt."""

    def __init__(self, seg_token_id: int, start: int, steps: tuple[int, ...]):
        self.seg_token_id, self.places = seg_token_id, {start + step for step in steps}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] in self.places:
            # One token is left beside it, so that beams have a choice.
            scores = scores.clone()
            scores[:, self.seg_token_id] = scores.max() + 5
        else:
            scores[:, self.seg_token_id] = -torch.inf
        return scores


@pytest.fixture(scope="module")
def model() -> GlammForConditionalGeneration:
    return tiny_glamm()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def inputs(model) -> dict:
    inputs = tiny_glamm_inputs(model.config, 2, num_regions=2)
    # The second prompt is shorter and padded on the left.
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.nn.functional.pad(inputs[name], (2, 0), value=0)
    inputs["input_ids"][0, :2], inputs["attention_mask"][0, :2] = 6, 1
    return inputs


@pytest.fixture
def encoded(model, monkeypatch) -> dict[str, int]:
    """How many images each encoder has looked at."""
    counts = {"vision_tower": 0, "grounding_encoder": 0}
    for name in counts:
        forward = getattr(model.model, name).forward

        def counted(pixel_values, *args, name=name, forward=forward, **kwargs):
            counts[name] += len(pixel_values)
            return forward(pixel_values, *args, **kwargs)

        monkeypatch.setattr(getattr(model.model, name), "forward", counted)
    return counts


def answer(model, inputs, steps=(0, 3, 7), **kwargs):
    prompt = inputs.get("input_ids")
    start = 0 if prompt is None else prompt.shape[1]
    return model.generate(
        **inputs,
        **{"max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "do_sample": False, **kwargs},
        # A random model may say a placeholder, and the whole text could not be read at once then.
        suppress_tokens=[model.config.image_token_id, model.config.region_token_id],
        logits_processor=[SegmentsAt(model.config.seg_token_id, start, steps)],
        return_dict_in_generate=True,
    )


def one(inputs: dict, index: int) -> dict:
    return {name: value[index : index + 1] for name, value in inputs.items()}


def taught(model, inputs, sequences: torch.Tensor, images: list[int]) -> list[torch.Tensor]:
    """The masks of answers the hard way: the whole text read at once, and the states picked from all of them."""
    length, masks = inputs["input_ids"].shape[1], []
    for sequence, image in zip(sequences, images, strict=True):
        own = one(inputs, image)
        on = torch.cat([own["attention_mask"], torch.ones(1, len(sequence) - length, dtype=torch.long)], dim=1)
        states = model(**{**own, "input_ids": sequence[None], "attention_mask": on}).last_hidden_state[0]
        places = (sequence[length:] == model.config.seg_token_id).nonzero().flatten() + length - 1
        features = model.get_image_features(
            own["pixel_values"],
            grounding_pixel_values=own["grounding_pixel_values"],
            grounding_sizes=own["grounding_sizes"],
            return_dict=True,
        )
        masks.append(model.decode_segments(features, [states[places]])[0].logits)
    return masks


def check(model, inputs, output, images: list[int], count: int | None = 3) -> None:
    expected = taught(model, inputs, output.sequences, images)
    assert len(output.segment_logits) == len(output.segment_quality) == len(images)
    for masks, quality, truth in zip(output.segment_logits, output.segment_quality, expected, strict=True):
        assert len(masks) == len(quality) == len(truth)
        if count is not None:
            assert len(masks) == count
        assert_close(masks, truth, **EXACT)
        assert not len(masks) or masks.std() > 0.1


@pytest.mark.parametrize(
    ("settings", "images"),
    [
        ({}, [0, 1]),
        ({"num_beams": 3}, [0, 1]),
        ({"num_beams": 3, "num_return_sequences": 2}, [0, 0, 1, 1]),
        ({"num_beams": 4, "num_return_sequences": 2, "do_sample": True, "top_k": 5}, [0, 0, 1, 1]),
        ({"do_sample": True, "num_return_sequences": 3}, [0, 0, 0, 1, 1, 1]),
        ({"cache_implementation": "static"}, [0, 1]),
        ({"use_cache": False}, [0, 1]),
        ({"prefill_chunk_size": 7}, [0, 1]),
        ({"repetition_penalty": 1.3}, [0, 1]),
        ({"logits_to_keep": 0}, [0, 1]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_masks_in_every_mode(model, inputs, settings, images):
    torch.manual_seed(3)
    output = answer(model, inputs, **settings)
    check(model, inputs, output, images, 3 if not {"num_beams", "do_sample"} & set(settings) else None)
    assert sum(map(len, output.segment_logits)) > 0


def test_assisted_decoding(model, inputs):
    own = one(inputs, 0)
    plain = answer(model, own)
    for settings in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": copy.deepcopy(model)}):
        output = answer(model, own, **settings)
        assert torch.equal(output.sequences, plain.sequences)
        check(model, own, output, [0])
    # A model may draft for itself: its drafts are not its answer.
    check(model, own, answer(model, own, assistant_model=model), [0])
    drafting = LlamaForCausalLM(model.config.text_config).eval()
    check(model, own, answer(model, own, assistant_model=drafting), [0])


def test_a_loop_of_the_caller(model, inputs):
    def decode(model, input_ids, *, logits_processor, stopping_criteria, generation_config, **kwargs):
        return model._sample(input_ids, logits_processor, stopping_criteria, generation_config, **kwargs)

    check(model, inputs, answer(model, inputs, custom_generate=decode), [0, 1])

    def invent(model, input_ids, **kwargs):
        new = torch.full((len(input_ids), 2), model.config.seg_token_id)
        return GenerateDecoderOnlyOutput(sequences=torch.cat([input_ids, new], dim=1))

    with pytest.raises(ValueError, match="of 2 tokens those of 0 were seen: `custom_generate` must call"):
        answer(model, inputs, custom_generate=invent)


def test_a_batch_is_its_samples(model, inputs):
    together = answer(model, inputs)
    for index in range(2):
        alone = answer(model, one(inputs, index))
        assert torch.equal(alone.sequences[0], together.sequences[index])
        assert_close(alone.segment_logits[0], together.segment_logits[index], **EXACT)


def test_embeddings_instead_of_ids(model, inputs):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    plain = answer(model, inputs)
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    output = answer(model, {**rest, "inputs_embeds": embeds})
    assert torch.equal(output.sequences, plain.sequences[:, inputs["input_ids"].shape[1] :])
    for masks, truth in zip(output.segment_logits, plain.segment_logits, strict=True):
        assert_close(masks, truth, **EXACT)


def test_a_plain_chat_never_pays_for_masks(model, inputs, encoded):
    output = answer(model, inputs, steps=())
    assert encoded == {"vision_tower": 2, "grounding_encoder": 0}
    assert [len(masks) for masks in output.segment_logits] == [0, 0]


def test_images_are_encoded_once_for_all_beams(model, inputs, encoded):
    answer(model, inputs, num_beams=4, num_return_sequences=3)
    assert encoded == {"vision_tower": 2, "grounding_encoder": 2}


def test_ids_alone_decode_nothing(model, inputs, encoded):
    ids = model.generate(
        **inputs, max_new_tokens=4, do_sample=False, logits_processor=[SegmentsAt(model.config.seg_token_id, 24, (0,))]
    )
    assert isinstance(ids, torch.Tensor) and encoded["grounding_encoder"] == 0
    output = answer(model, inputs, decode_masks=False)
    assert output.segment_logits is None and encoded["grounding_encoder"] == 0
    features = model.get_image_features(
        inputs["pixel_values"],
        grounding_pixel_values=inputs["grounding_pixel_values"],
        grounding_sizes=inputs["grounding_sizes"],
        return_dict=True,
    )
    decoded = model.decode_segments(features, output.segment_states)
    for prediction, truth in zip(decoded, answer(model, inputs).segment_logits, strict=True):
        assert_close(prediction.logits, truth, **EXACT)


def test_without_the_images_for_masks(model, inputs):
    rest = {name: value for name, value in inputs.items() if not name.startswith("grounding")}
    output = answer(model, rest)
    assert output.segment_logits is None and [len(states) for states in output.segment_states] == [3, 3]
    with pytest.raises(ValueError, match="`grounding_pixel_values` and `grounding_sizes`"):
        features = model.get_image_features(rest["pixel_values"], return_dict=True)
        model.decode_segments(features, output.segment_states)


def test_features_that_were_computed_before(model, inputs, encoded):
    features = model.get_image_features(
        inputs["pixel_values"],
        grounding_pixel_values=inputs["grounding_pixel_values"],
        grounding_sizes=inputs["grounding_sizes"],
        return_dict=True,
    )
    features = type(features).stack(features.split())
    text = {name: inputs[name] for name in ("input_ids", "attention_mask", "refer_boxes")}
    first = answer(model, {**text, "mm_encoder_outputs": {"image": features}})
    second = answer(model, {**text, "mm_encoder_outputs": {"image": features}})
    assert encoded == {"vision_tower": 2, "grounding_encoder": 2}
    for output in (first, second):
        for masks, truth in zip(output.segment_logits, answer(model, inputs).segment_logits, strict=True):
            assert_close(masks, truth, **EXACT)


def test_the_prompt_comes_back_as_it_was_given(model, inputs):
    before = copy.deepcopy(inputs)
    output = answer(model, inputs)
    assert torch.equal(output.sequences[:, : inputs["input_ids"].shape[1]], before["input_ids"])
    for name, value in before.items():
        assert torch.equal(inputs[name], value)
    assert torch.equal(output.region_boxes, inputs["refer_boxes"]) and output.region_mask.all()


def test_text_alone_and_beside_images(model, inputs):
    text = torch.tensor([[1, 7, 8, 9]])
    alone = answer(model, {"input_ids": text})
    plain = LlamaForCausalLM(model.config.text_config).eval()
    plain.load_state_dict(
        {
            name.replace("language_model.", ""): value
            for name, value in model.state_dict().items()
            if "language_m" in name
        }
        | {"lm_head.weight": model.lm_head.weight}
    )
    process = [SegmentsAt(model.config.seg_token_id, 4, (0, 3, 7))]
    suppressed = [model.config.image_token_id, model.config.region_token_id]
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "suppress_tokens": suppressed}
    expected = plain.generate(text, **settings, logits_processor=process)
    assert torch.equal(alone.sequences, expected)
    # A row of text in a batch with an image gets no masks, and takes none.
    own = one(inputs, 1)
    length = own["input_ids"].shape[1]
    ids = torch.cat([torch.nn.functional.pad(text, (length - 4, 0)), own["input_ids"]])
    mask = torch.cat([torch.tensor([[0] * (length - 4) + [1] * 4]), own["attention_mask"]])
    mixed = answer(model, {**own, "input_ids": ids, "attention_mask": mask})
    expected = answer(model, own)
    assert torch.equal(mixed.sequences[1, length:], expected.sequences[0, length:])
    assert [len(states) for states in mixed.segment_states] == [3, 3]
    assert [len(masks) for masks in mixed.segment_logits] == [len(row) for row in mixed.segment_quality] == [0, 3]
    assert_close(mixed.segment_logits[1], expected.segment_logits[0], **EXACT)
    # Nor in a later turn, which starts with the last token of the answers: it is not in the cache yet.
    turn = torch.cat([mixed.sequences[:, -1:], torch.tensor([[15, 16]] * 2)], dim=1)
    later = answer(model, {"input_ids": turn, "past_key_values": mixed.past_key_values}, num_beams=2)
    assert [len(masks) for masks in later.segment_logits] == [0, 3]


class TestLaterTurns:
    @pytest.fixture
    def first(self, model, inputs):
        return answer(model, inputs)

    def turn(self, model, num_regions: int) -> torch.Tensor:
        return torch.tensor([[15, 16, *[model.config.region_token_id] * num_regions, 17]] * 2)

    @pytest.mark.parametrize("num_regions", [0, 1])
    @pytest.mark.parametrize("as_whole", [False, True])
    def test_a_second_question(self, model, inputs, first, encoded, num_regions, as_whole):
        new = self.turn(model, num_regions)
        box = torch.tensor([[[0.3, 0.4, 0.2, 0.2]]]).expand(2, -1, -1) if num_regions else None
        whole = torch.cat([first.sequences, new], dim=1)
        # The last token of an answer is not in the cache yet.
        given = whole if as_whole else torch.cat([first.sequences[:, -1:], new], dim=1)
        output = answer(model, {"input_ids": given, "past_key_values": first.past_key_values, "refer_boxes": box})
        assert encoded == {"vision_tower": 0, "grounding_encoder": 0}
        boxes = inputs["refer_boxes"] if box is None else torch.cat([inputs["refer_boxes"], box], dim=1)
        on = torch.nn.functional.pad(
            inputs["attention_mask"], (0, whole.shape[1] - inputs["input_ids"].shape[1]), value=1
        )
        fresh = {**inputs, "input_ids": whole, "attention_mask": on, "refer_boxes": boxes}
        expected = answer(model, fresh)
        assert torch.equal(output.sequences[:, given.shape[1] :], expected.sequences[:, whole.shape[1] :])
        for masks, truth in zip(output.segment_logits, expected.segment_logits, strict=True):
            assert_close(masks, truth, **EXACT)
        assert_close(output.region_boxes, boxes)

    def test_a_cache_filled_by_hand(self, model, inputs):
        expected = model(**inputs).logits[:, -1]
        for cache in (DynamicCache(), StaticCache(config=model.config.text_config, max_cache_len=64)):
            model(
                **{
                    **inputs,
                    "input_ids": inputs["input_ids"][:, :-1],
                    "refer_boxes": inputs["refer_boxes"][:, :1],
                    "attention_mask": inputs["attention_mask"][:, :-1],
                },
                past_key_values=cache,
                use_cache=True,
            )
            step = model(
                input_ids=inputs["input_ids"][:, -1:],
                refer_boxes=inputs["refer_boxes"][:, 1:],
                past_key_values=cache,
                use_cache=True,
            )
            assert_close(step.logits[:, -1], expected, **EXACT)

    def test_regions_of_a_cache(self, model, inputs, first):
        boxes = torch.tensor([[[0.3, 0.4, 0.2, 0.2]], [[0.5, 0.5, 0.1, 0.1]]])
        regions = model.cached_regions(first.past_key_values, boxes)
        assert_close(regions.boxes, torch.cat([inputs["refer_boxes"], boxes], dim=1))
        with pytest.raises(ValueError, match="holds no image"):
            model.cached_regions(DynamicCache())

    def test_what_does_not_fit(self, model, inputs, first):
        new, cache = self.turn(model, 1), first.past_key_values
        with pytest.raises(ValueError, match="one `<bbox>` mark for each"):
            model.generate(new, past_key_values=cache)
        with pytest.raises(ValueError, match="holds a prompt with its images already"):
            model.generate(new, past_key_values=cache, pixel_values=inputs["pixel_values"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("grounding_sizes"), "together: both or none"),
        (lambda i: i.pop("refer_boxes"), "one `<bbox>` mark"),
        (lambda i: i.update(refer_boxes=i["refer_boxes"][:, :1]), "one `<bbox>` mark"),
        (lambda i: i.update(refer_boxes=i["refer_boxes"] * 300), "must be normalized cxcywh"),
        (lambda i: i.update(pixel_values=i["pixel_values"][..., :-1]), "`pixel_values` must have shape"),
        (
            lambda i: i.update(pixel_values=i["pixel_values"][:1]),
            "row for each",
        ),
        (lambda i: i.update(grounding_sizes=i["grounding_sizes"] * 2), "`grounding_sizes` must be 1 to 64"),
        (lambda i: i.pop("pixel_values"), "without `pixel_values`"),
        (
            lambda i: i.update(refer_boxes=i["refer_boxes"].flip(1) * torch.tensor([0.0, 1.0])[:, None]),
            "rows of zeros",
        ),
        (lambda i: i.update(input_ids=i["input_ids"][:, 4:], attention_mask=i["attention_mask"][:, 4:]), "16 image"),
    ],
)
def test_bad_input_is_named_before_any_work(model, inputs, change, message):
    change(inputs)
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs, max_new_tokens=2)


def test_upright_masks_fit_every_image(model):
    logits = torch.randn(3, 32, 32)
    for height, width in ((64, 64), (1, 500), (500, 1), (37, 90)):
        masks = model.upright_masks(logits, height, width)
        assert masks.shape == (3, height, width) and masks.dtype == np.bool_
    assert model.upright_masks(logits[:0], 5, 6).shape == (0, 5, 6)
