"""`generate` in all its forms gives the same answer."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoProcessor, GenerationConfig, TextIteratorStreamer

from tests.tiny import prompt_ids, tiny_inputs, tiny_model
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures

from .prompts import GREEDY, new_tokens, one


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    return tiny_model(box_score_threshold=0.5)


@pytest.fixture
def inputs(model) -> dict[str, torch.Tensor]:
    return tiny_inputs(model.config, batch_size=3)


def test_batch_equals_single_calls_and_twice_is_the_same(model, inputs):
    batch = new_tokens(model, inputs)
    assert torch.equal(batch, new_tokens(model, inputs))
    for index in range(3):
        assert torch.equal(batch[index], new_tokens(model, one(inputs, index))[0])


def test_generation_is_repeated_forward(model, inputs):
    """Without a cache and without `generate`: the whole prompt again for every token."""
    ids, expected = inputs["input_ids"], new_tokens(model, inputs)
    for step in range(6):
        mask = torch.ones_like(ids)
        logits = model(input_ids=ids, attention_mask=mask, pixel_values=inputs["pixel_values"]).logits[:, -1]
        logits[:, model.config.text_config.eos_token_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
        assert torch.equal(ids[:, -1], expected[:, step])


def test_without_cache(model, inputs):
    assert torch.equal(new_tokens(model, inputs, use_cache=False), new_tokens(model, inputs))


def test_fixed_slots_equal_a_prompt_of_exactly_n_regions(model, inputs):
    single = one(inputs, 0)
    num_regions = int(model(**single).num_regions[0])
    assert num_regions < model.config.max_regions
    exact = copy.deepcopy(model)
    exact.config.max_regions = exact.model.config.max_regions = num_regions
    ids = torch.tensor([prompt_ids(exact.config)])
    exact_inputs = {"input_ids": ids, "pixel_values": single["pixel_values"]}
    assert torch.equal(new_tokens(exact, exact_inputs), new_tokens(model, single))


def test_left_padding(model, inputs):
    padded = dict(inputs)
    padded["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (4, 0), value=0)
    padded["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (4, 0), value=0)
    assert torch.equal(new_tokens(model, padded), new_tokens(model, inputs))
    # A prompt that comes without its mask: padding is recognised by its id, as in every generate.
    del padded["attention_mask"]
    assert torch.equal(new_tokens(model, padded), new_tokens(model, inputs))


@pytest.mark.parametrize("padding", ["is the end", "is nothing", "is in the call"])
def test_a_prompt_without_a_mask_keeps_its_tokens(model, inputs, padding):
    """Where the id of padding is also the end's, or there is none, no token of the prompt is padding."""
    inputs["input_ids"][:, -2] = end = model.config.text_config.eos_token_id
    config = copy.deepcopy(model.generation_config)
    config.eos_token_id, config.pad_token_id = end, None if padding == "is nothing" else end
    if padding == "is in the call":
        config.pad_token_id = 7  # stands in the prompts; what the call says comes first
    settings = {"generation_config": config, "return_dict_in_generate": True, "output_logits": True}
    if padding == "is in the call":
        settings["pad_token_id"] = end
    expected = model.generate(**inputs, **GREEDY, **settings)
    del inputs["attention_mask"]
    output = model.generate(**inputs, **GREEDY, **settings)
    assert_close(torch.stack(output.logits), torch.stack(expected.logits))
    assert torch.equal(output.sequences, expected.sequences)


def test_samples_of_different_lengths(model, inputs):
    short = one(inputs, 0)
    long_ids = torch.tensor([prompt_ids(model.config, question=(5, 6, 7, 8, 9, 10, 11))])
    long = {**one(inputs, 1), "input_ids": long_ids, "attention_mask": torch.ones_like(long_ids)}
    gap = long_ids.shape[1] - short["input_ids"].shape[1]
    batch = {
        "input_ids": torch.cat([torch.nn.functional.pad(short["input_ids"], (gap, 0)), long_ids]),
        "attention_mask": torch.cat(
            [torch.nn.functional.pad(short["attention_mask"], (gap, 0)), long["attention_mask"]]
        ),
        "pixel_values": inputs["pixel_values"][:2],
    }
    together = new_tokens(model, batch)
    assert torch.equal(together[0], new_tokens(model, short)[0])
    assert torch.equal(together[1], new_tokens(model, long)[0])


def test_beams(model, inputs):
    beams = {
        **GREEDY,
        "num_beams": 3,
        "num_return_sequences": 2,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    output = model.generate(**inputs, **beams)
    assert output.sequences.shape[0] == 6
    assert output.region_boxes.shape[0] == 3  # one row per image
    for index in range(3):
        single = model.generate(**one(inputs, index), **beams)
        assert torch.equal(output.sequences[2 * index : 2 * index + 2], single.sequences)
        assert_close(output.sequences_scores[2 * index : 2 * index + 2], single.sequences_scores, atol=1e-4, rtol=1e-4)


def test_sampling(model, inputs):
    def sample() -> torch.Tensor:
        torch.manual_seed(0)
        return new_tokens(model, inputs, do_sample=True, num_return_sequences=2)

    assert sample().shape == (6, 6)
    assert torch.equal(sample(), sample())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assistant_early_exit": 1}, "assistant_early_exit"),
        ({"cache_implementation": "paged"}, "paged"),
        ({"generation_config": GenerationConfig(cache_implementation="paged")}, "paged"),
    ],
)
def test_modes_without_images_are_refused(model, inputs, settings, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**one(inputs, 0), **settings)


def test_given_regions(model, inputs):
    """Ground-truth boxes and proposals that were computed before are regions as in the forward."""
    ground = torch.tensor([[[0.3, 0.3, 0.2, 0.2]]]).expand(3, -1, -1)
    found = model.get_image_features(inputs["pixel_values"], return_dict=True)
    proposals = {"proposal_boxes": found.region_boxes[:, :2], "proposal_scores": found.region_scores[:, :2]}
    for given in ({"ground_boxes": ground}, proposals):
        output = model.generate(**inputs, **given, **GREEDY, return_dict_in_generate=True)
        expected = model(**inputs, **given)
        assert torch.equal(output.region_boxes, expected.region_boxes)
        assert output.region_mask.sum(dim=1).tolist() == expected.num_regions.tolist()
        first = expected.logits[:, -1].clone()
        first[:, model.config.text_config.eos_token_id] = -torch.inf
        assert torch.equal(output.sequences[:, inputs["input_ids"].shape[1]], first.argmax(dim=-1))
        assert not torch.equal(output.region_boxes, found.region_boxes)
    marked = {**inputs, "input_ids": inputs["input_ids"].clone()}
    marked["input_ids"][:, -1] = model.config.ground_box_token_id
    slots = model.get_image_features(inputs["pixel_values"], ground_boxes=ground, return_dict=True).ground_slots
    written = {**inputs, "input_ids": inputs["input_ids"].clone()}
    written["input_ids"][:, -1] = model.config.first_proxy_token_id + slots[:, 0]
    given = {"ground_boxes": ground, **GREEDY}
    assert torch.equal(model.generate(**marked, **given)[:, -6:], model.generate(**written, **given)[:, -6:])
    with pytest.raises(ValueError, match="together"):
        model.generate(**inputs, proposal_boxes=ground, **GREEDY)
    for scores in (torch.ones(3, 2), torch.ones(1), torch.ones(1, 1), torch.ones(3)):
        with pytest.raises(ValueError, match=r"`proposal_scores` must have shape \(3, 1\)"):
            model.generate(**inputs, proposal_boxes=ground, proposal_scores=scores, **GREEDY)


def test_no_proposals_at_all(model, inputs):
    """As where all of them are padding."""
    expected = model(**inputs, proposal_boxes=torch.zeros(3, 2, 4), proposal_scores=torch.zeros(3, 2))
    given = model(**inputs, proposal_boxes=torch.zeros(3, 0, 4), proposal_scores=torch.zeros(3, 0))
    assert given.num_regions.tolist() == [0, 0, 0]
    assert torch.equal(given.logits, expected.logits)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_model_that_says_placeholders_and_marks(model, inputs, use_cache):
    """They are words like others then."""
    config = model.config

    def say(batch: int, ids: torch.Tensor) -> list[int]:
        return [(config.image_token_id, config.refer_box_token_id, 7)[ids.shape[0] % 3]]

    text = inputs["input_ids"].clone()
    text[1] = 7
    given = {**inputs, "input_ids": text, "pixel_values": inputs["pixel_values"][:2]}
    for case in (inputs, given):
        said = new_tokens(model, case, prefix_allowed_tokens_fn=say, use_cache=use_cache)
        assert (said == config.image_token_id).any()
        assert torch.equal(said, new_tokens(model, case, prefix_allowed_tokens_fn=say))


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_caches(model, inputs, cache):
    assert torch.equal(
        new_tokens(model, inputs, cache_implementation=cache, disable_compile=True), new_tokens(model, inputs)
    )


def test_chunked_prefill(model, inputs):
    with_boxes = dict(inputs)
    with_boxes["input_ids"] = torch.tensor([prompt_ids(model.config, num_boxes=1)] * 3)
    with_boxes["attention_mask"] = torch.ones_like(with_boxes["input_ids"])
    with_boxes["refer_boxes"] = torch.full((3, 1, 4), 0.4)
    for case in (inputs, with_boxes):
        assert torch.equal(new_tokens(model, case, prefill_chunk_size=5), new_tokens(model, case))


def test_embeddings_instead_of_ids(model, inputs):
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    generated = model.generate(inputs_embeds=embeddings, **rest, **GREEDY)
    assert torch.equal(generated, new_tokens(model, inputs))


def test_precomputed_features(model, inputs):
    features = model.get_image_features(inputs["pixel_values"], return_dict=True)
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    output = model.generate(mm_encoder_outputs={"image": features}, return_dict_in_generate=True, **rest, **GREEDY)
    assert torch.equal(output.sequences[:, rest["input_ids"].shape[1] :], new_tokens(model, inputs))
    assert torch.equal(output.region_boxes, features.region_boxes)


def test_features_without_visual_tokens(model, inputs):
    features = model.get_image_features(inputs["pixel_values"], return_dict=True)
    features.pooler_output = None
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with pytest.raises(ValueError, match="have no `pooler_output`: pass the whole result of `get_image_features`"):
        model.generate(mm_encoder_outputs={"image": features}, **rest, **GREEDY)
    for call in (
        lambda: model(mm_encoder_outputs={"image": features}, **rest),
        lambda: model.encode_regions(features, torch.full((3, 1, 4), 0.3)),
    ):
        with pytest.raises(ValueError, match="have no `pooler_output`"):
            call()


def test_continuing_from_a_cache(model, inputs):
    first = model.generate(
        **inputs, **{**GREEDY, "max_new_tokens": 3, "min_new_tokens": 3}, return_dict_in_generate=True
    )
    continued = dict(inputs)
    continued["input_ids"] = first.sequences
    continued["attention_mask"] = torch.ones_like(first.sequences)
    cache = copy.deepcopy(first.past_key_values)
    rest = new_tokens(model, continued, past_key_values=first.past_key_values, max_new_tokens=3, min_new_tokens=3)
    assert torch.equal(rest, new_tokens(model, inputs)[:, 3:])
    # The cache holds all but the last token: what is new may come alone.
    last = {"input_ids": first.sequences[:, -1:]}
    rest = new_tokens(model, last, past_key_values=cache, max_new_tokens=3, min_new_tokens=3)
    assert torch.equal(rest, new_tokens(model, inputs)[:, 3:])


def test_user_boxes(model, inputs):
    single = one(inputs, 0)
    ids = torch.tensor([prompt_ids(model.config, num_boxes=2)])
    boxes = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.3, 0.2]]])
    given = {"input_ids": ids.clone(), "pixel_values": single["pixel_values"], "refer_boxes": boxes}
    output = model.generate(**given, **GREEDY, return_dict_in_generate=True)
    # The prompt comes back as it was given; the answer is that to a prompt with the proxy tokens written out.
    assert torch.equal(output.sequences[:, : ids.shape[1]], ids)
    written = ids.clone()
    written[ids == model.config.refer_box_token_id] = torch.tensor([0, 1]) + model.config.first_proxy_token_id
    assert torch.equal(new_tokens(model, {**given, "input_ids": written}), output.sequences[:, ids.shape[1] :])
    assert_close(output.region_boxes[0, :2], boxes[0])
    assert (output.region_scores[0, :2] == 1).all()
    # Two beams see the same boxes.
    beams = model.generate(**given, **GREEDY, num_beams=2, return_dict_in_generate=True)
    assert torch.equal(beams.region_boxes, output.region_boxes)


def test_text_only(model):
    ids = torch.tensor([[1, 7, 8, 9]])
    output = model.generate(input_ids=ids, **GREEDY, return_dict_in_generate=True)
    assert output.sequences.shape == (1, 10)
    assert output.region_boxes is None


def test_no_regions_leave_the_caller_alone(model, inputs):
    copies = {name: value.clone() for name, value in inputs.items()}
    config = GenerationConfig(**GREEDY)
    model.generate(**inputs, generation_config=config)
    assert all(torch.equal(value, copies[name]) for name, value in inputs.items())
    assert config.to_dict() == GenerationConfig(**GREEDY).to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": torch.zeros(1, 3, 56, 56)}, "at most one image"),
        ({"pixel_values": None, "refer_boxes": torch.full((3, 1, 4), 0.3)}, "pixel_values"),
        ({"pixel_values": None, "ground_boxes": torch.full((3, 1, 4), 0.3)}, "`ground_boxes` need `pixel_values`"),
        ({"pixel_values": None, "proposal_boxes": torch.full((3, 1, 4), 0.3)}, "`proposal_boxes` need `pixel_values`"),
        ({"mm_encoder_outputs": {"image": GromaImageFeatures()}}, "not both"),
        ({"pixel_values": None, "mm_encoder_outputs": {"image": GromaImageFeatures()}}, "lack the regions"),
        ({"pixel_values": None}, "no image"),
        ({"input_ids": None}, "prompt"),
    ],
)
def test_inputs_that_do_not_fit(model, inputs, change, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**{**inputs, **change}, **GREEDY)


class TestWithProcessor:
    """The way that a user goes, with the embedded tiny model."""

    @pytest.fixture(scope="class")
    def tiny(self, tiny_dir):
        return GromaForConditionalGeneration.from_pretrained(tiny_dir).eval(), AutoProcessor.from_pretrained(tiny_dir)

    def test_batch_with_different_boxes_equals_single_calls(self, tiny, image):
        model, processor = tiny
        other = image.rotate(90, expand=True)
        questions = ["What is <region>?", "Which of <region> and <region> is red?", "What is there?"]
        boxes = [[[20, 30, 200, 180]], [[10, 10, 100, 200], [5, 300, 400, 600]], None]
        images = [image, other, image]
        sizes = [(photo.height, photo.width) for photo in images]

        def answers(images, questions, boxes, sizes):
            inputs = processor(images=images, text=questions, boxes=boxes, return_tensors="pt", padding=True)
            output = model.generate(**inputs, max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
            return processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=sizes)

        batch = answers(images, questions, boxes, sizes)
        for index in range(3):
            (single,) = answers(images[index], questions[index], boxes[index], sizes[index : index + 1])
            assert batch[index].to_dict() == single.to_dict()
            for region, box in zip(batch[index].regions, boxes[index] or [], strict=False):
                assert_close(region.box, torch.tensor(box, dtype=torch.float32), atol=0.05, rtol=0)

    def test_streaming(self, tiny, image):
        model, processor = tiny
        inputs = processor(images=image, text="What is <region>?", boxes=[[20, 30, 200, 180]], return_tensors="pt")
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        output = model.generate(**inputs, max_new_tokens=8, do_sample=False, streamer=streamer)
        text = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert "".join(streamer).strip() == text.strip()


def test_prompts_that_are_too_long_are_refused_before_any_work(monkeypatch):
    model = tiny_model()
    limit = model.config.text_config.max_position_embeddings
    monkeypatch.setattr(model.model, "get_image_features", lambda *_, **__: pytest.fail("an image was looked at"))
    pixel_values = torch.zeros(1, 3, 8, 8)
    for given in (
        {"input_ids": torch.ones(1, limit + 1, dtype=torch.long)},
        {"inputs": torch.ones(2, limit + 1).long()},
    ):
        with pytest.raises(ValueError, match=rf"has {limit + 1} tokens, but the language model reads {limit} "):
            model.generate(**given, pixel_values=pixel_values)
        with pytest.raises(ValueError, match=f"has {limit + 1} tokens"):
            model.generate(**given, attention_mask=torch.ones(1, limit + 1), pixel_values=pixel_values)
    ids, mask = torch.ones(1, limit + 3, dtype=torch.long), torch.ones(1, limit + 3, dtype=torch.long)
    mask[:, :3] = 0  # padding
    assert model.check_prompt_length(ids, mask) is None
    mask[:, 2] = 1
    with pytest.raises(ValueError, match=f"has {limit + 1} tokens"):
        model.check_prompt_length(ids, mask)
    assert model.check_prompt_length(ids[:, :limit], None) is None and model.check_prompt_length(None, None) is None


def test_answers_beyond_the_positions_of_the_language_model_are_warned_of(monkeypatch):
    """By the library's own warning, which looks for them in the outer configuration only."""
    model = tiny_model(box_score_threshold=0.5)
    inputs = tiny_inputs(model.config, batch_size=1)
    warnings = []
    monkeypatch.setattr("transformers.generation.stopping_criteria.logger.warning_once", warnings.append)
    longest = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, fixed_slots=True).shape[1]
    model.config.text_config.max_position_embeddings = longest - 1
    model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, fixed_slots=True)
    assert not warnings  # the last token is not read any more
    model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, fixed_slots=True)
    assert len(warnings) == 1 and f"maximum length ({longest - 1})" in warnings[0]


def test_a_later_turn_that_is_too_long_is_refused():
    """With its new tokens alone, too: those in the cache count, but not what is off."""
    model = tiny_model(box_score_threshold=0.5)
    limit = model.config.text_config.max_position_embeddings
    first = model.generate(**tiny_inputs(model.config, batch_size=1), max_new_tokens=1, return_dict_in_generate=True)
    cache = first.past_key_values
    used = int(cache.grounded_prompt.attention_mask.sum())
    assert used < cache.get_seq_length()
    new = torch.full((1, limit - used + 1), 7)
    with pytest.raises(ValueError, match=f"has {limit + 1} tokens, but the language model reads {limit}"):
        model.generate(new, past_key_values=cache, max_new_tokens=1)
    output = model.generate(new[:, 1:], past_key_values=cache, max_new_tokens=1)
    assert output.shape == (1, limit - used + 1)
