"""The engine and the server with a GLaMM: rows that join and leave, and masks of their segment tokens."""

import asyncio
import json
from urllib.request import Request, urlopen

import numpy as np
import pytest

from transformers_groma import ImageGroundingPipeline
from transformers_groma.masks import rle_to_box, rle_to_mask
from transformers_groma.serving.engine import Engine, ModelFailedError, Sampling
from transformers_groma.serving.row_masks import MaskSource

from ..scripted import Scripted, grounded_script, plain_script
from ..tiny_checkpoint import tiny_glamm_parts
from .engines import PATIENCE, ask, conversation, noise, run, tokens, until, until_waiting
from .running_server import MODEL, data_url, serving

SIZES = [(40, 60), (90, 50), (64, 64), (30, 80)]
BOX = [10.0, 5.0, 30.0, 20.0]


@pytest.fixture(scope="module")
def parts():
    """A GLaMM that answers `<p> a </p> [SEG] i <p> a …`, and in words whoever shouts."""
    model, processor = tiny_glamm_parts()
    model.generation_config.eos_token_id = None
    (script, first), (words, first_word) = (make(processor, ends=False) for make in (grounded_script, plain_script))
    shout = processor.tokenizer.convert_tokens_to_ids("!")
    Scripted(model, script | words, first, other_start=(shout, first_word))
    return model, processor


@pytest.fixture
def engine(parts):
    engine = Engine(*parts)
    yield engine
    engine.close(PATIENCE)


@pytest.fixture
def groundings(parts, monkeypatch):
    """One entry for each image that the grounding encoder looks at."""
    encoder, seen = parts[0].model.grounding_encoder, []
    forward = encoder.forward

    def counted(pixel_values, *args, **kwargs):
        seen.extend([1] * len(pixel_values))
        return forward(pixel_values, *args, **kwargs)

    monkeypatch.setattr(encoder, "forward", counted)
    return seen


@pytest.fixture(scope="module")
def pipe(parts):
    model, processor = parts
    return ImageGroundingPipeline(model=model, processor=processor, device="cpu", task="image-grounding")


def assert_like_the_pipelines(answer, expected, has_own_masks=False) -> None:
    """An answer of the engine says what one of the pipeline says; masks agree but for pixels on an edge."""
    assert answer.grounded.markup == expected.markup
    assert answer.grounded.user_region_ids == expected.user_region_ids
    assert sorted(answer.masks) == sorted(expected.masks)
    for number, rle in answer.masks.items():
        assert (rle_to_mask(rle) == expected.masks[number]).mean() > 0.99
    segments = [number for phrase in expected.phrases for number in phrase.region_ids]
    assert [number for phrase in answer.grounded.phrases for number in phrase.region_ids] == segments
    for number in segments:
        (region,) = answer.grounded.regions.with_ids([number])
        assert np.allclose(region.box, rle_to_box(answer.masks[number]))
        assert np.isclose(region.score, answer.mask_scores[number])
        assert np.allclose(region.score, expected.regions.with_ids([number]).scores[0], atol=1e-3)


@pytest.mark.parametrize("masks", [False, True])
def test_an_answer_is_that_of_the_pipeline(engine, pipe, masks):
    """With masks of its segment tokens in any case, and of the user's regions where they are asked for."""
    answer = run(engine.answer(ask("What is it? ", noise(), BOX), tokens(11), masks=masks))
    expected = pipe.ask(noise(), "What is it? <region>", boxes=[BOX], masks=masks, max_new_tokens=11)
    assert len(answer.grounded.phrases) == 2 and sorted(answer.masks) == ([0, 1, 2] if masks else [1, 2])
    assert_like_the_pipelines(answer, expected)


def test_rows_of_different_lengths_leave_and_join_and_keep_their_masks(parts, pipe, groundings):
    """Ten questions about four images in a batch of three: each gets what it gets alone."""
    lengths = [3, 14, 5, 9, 4, 20, 7, 12, 1, 6]
    asked = [("What!" if number % 4 == 1 else "What?", number % 4, length) for number, length in enumerate(lengths)]
    expected = [
        pipe.ask(noise(image, SIZES[image]), text, max_new_tokens=length, masks=True) for text, image, length in asked
    ]
    groundings.clear()
    engine = Engine(*parts, max_batch_size=3)

    async def all_of_them():
        tasks = [
            engine.answer(ask(text, noise(image, SIZES[image])), tokens(length), masks=True)
            for text, image, length in asked
        ]
        return await asyncio.gather(*tasks)

    try:
        answers = run(all_of_them())
        assert engine.snapshot().batches > 3
    finally:
        engine.close(PATIENCE)
    for answer, whole in zip(answers, expected, strict=True):
        assert_like_the_pipelines(answer, whole)
    # Image 1 was only asked about by those who shout: it has no mask, and was never encoded for one.
    assert len(groundings) == 3 and [bool(answer.masks) for answer in answers][1::4] == [False] * 3


def test_the_grounding_encoder_runs_for_masks_alone_and_once_an_image(engine, groundings):
    async def converse():
        first = await engine.answer(ask("What!", noise(), BOX), tokens(6))
        assert groundings == [] and first.masks == {}
        for number in range(3):
            await engine.answer(ask("What?", noise()), tokens(6 + number))
        await engine.segment(noise(), [{"point": [20, 20]}, BOX])

    run(converse())
    assert len(groundings) == 1


def test_a_row_that_is_given_up_is_decoded_no_more(engine, groundings):
    async def leave():
        stream = engine.stream(ask("What?", noise(3)), tokens(400))
        await anext(stream)
        await stream.aclose()
        await until(lambda: engine.snapshot().running == 0)
        return await engine.answer(ask("What!", noise()), tokens(3))

    assert run(leave()).grounded.text and groundings == []


def test_streams_end_with_the_masks(engine):
    async def stream():
        return [answer async for answer in engine.stream(ask("What?", noise()), tokens(40), masks=True)]

    *partials, last = run(stream())
    assert partials and all(partial.masks == {} for partial in partials)
    for partial in partials:
        assert last.grounded.text.startswith(partial.grounded.text)
        assert all(phrase.region_ids == () for phrase in partial.grounded.phrases)
    assert all(len(phrase.region_ids) == 1 for phrase in last.grounded.phrases) and len(last.masks) > 3


def test_regions_of_all_forms(engine, pipe):
    given = np.zeros((40, 60), bool)
    given[5:20, 10:30] = True
    regions = ({"box": BOX}, {"point": [40, 25]}, {"scribble": [[35, 20], [50, 30]]}, {"mask": given})
    answer = run(engine.answer(conversation(*regions), tokens(8), masks=True))
    assert answer.grounded.user_region_ids == (0, 1, 2, 3) and sorted(answer.masks) == [0, 1, 2, 3, 4]
    assert np.array_equal(rle_to_mask(answer.masks[3]), given)
    found = run(engine.resolve(noise(), [{"point": [40, 25]}, {"box": BOX}]))
    clicked = pipe.segment(noise(), {"point": [40, 25]})
    assert (rle_to_mask(found[0].mask) == clicked.masks[0]).mean() > 0.99 and found[1].mask is None


def test_earlier_answers_are_words_and_questions_need_no_image(engine):
    messages = ask("What?", noise())
    first = run(engine.answer(messages, tokens(6)))
    history = [*messages, {"role": "assistant", "content": first.grounded.markup}, *ask("And now? ", None, BOX)]
    plain = [*messages, {"role": "assistant", "content": first.grounded.text}, *ask("And now? ", None, BOX)]
    later, words = (run(engine.answer(each, tokens(6))) for each in (history, plain))
    assert later.prompt_tokens == words.prompt_tokens and later.grounded.user_region_ids == (0,)
    alone = run(engine.answer(ask("What?"), tokens(6), masks=True))
    assert alone.masks == {} and len(alone.grounded.regions) == 0 and alone.grounded.text


def test_samples_are_repeatable_whoever_shares_the_batch(make_gate):
    """Without a script, whose tokens are nearly certain."""
    model, processor = tiny_glamm_parts()
    model.generation_config.eos_token_id = None
    engine = Engine(model, processor)

    def question(image: int, seed: int):
        return engine.answer(ask("What?", noise(image)), Sampling(max_new_tokens=9, temperature=1.5, seed=seed))

    alone, other_seed = run(question(0, seed=3)), run(question(0, seed=4))
    gate = make_gate(engine)

    async def together():
        blocker = asyncio.create_task(engine.answer(ask("Wait!"), tokens(1)))
        await gate.is_reached()
        tasks = [asyncio.create_task(question(image, seed=3)) for image in (0, 1, 0)]
        await until_waiting(engine, len(tasks))
        gate.open()
        await blocker
        return await asyncio.gather(*tasks)

    try:
        first, _, third = run(together())
        assert gate.batches == [1, 3]
    finally:
        engine.close(PATIENCE)
    assert first.grounded.markup == third.grounded.markup == alone.grounded.markup != other_seed.grounded.markup


def test_a_glamm_proposes_nothing(engine):
    assert engine.has_masks and not engine.has_proposals
    with pytest.raises(ValueError, match="`propose` needs a model with a region proposer, but this GlammFor"):
        run(engine.propose(noise()))


def test_masks_that_are_no_numbers_fail_their_request_alone(engine, monkeypatch):
    decode = MaskSource.decode_segments

    def damaged(self, *args):
        masks = decode(self, *args)
        for logits in masks.logits.values():
            logits.fill_(float("nan"))
        return masks

    monkeypatch.setattr(MaskSource, "decode_segments", damaged)
    with pytest.raises(ModelFailedError, match="masks cannot be read"):
        run(engine.answer(ask("What?", noise()), tokens(6)))
    monkeypatch.undo()
    assert run(engine.answer(ask("What?", noise()), tokens(6))).masks


def test_a_batch_that_waits_is_answered_together(parts, make_gate, pipe):
    """Prompts with and without regions and images, read in one call."""
    engine = Engine(*parts)
    gate = make_gate(engine)

    async def together():
        blocker = asyncio.create_task(engine.answer(ask("Wait!"), tokens(1)))
        await gate.is_reached()
        asked = [ask("What? ", noise(), BOX), ask("What is this thing?", noise(1, SIZES[1])), ask("Hm?")]
        tasks = [asyncio.create_task(engine.answer(each, tokens(7), masks=True)) for each in asked]
        await until_waiting(engine, len(tasks))
        gate.open()
        await blocker
        return await asyncio.gather(*tasks)

    try:
        first, second, third = run(together())
        assert gate.batches == [1, 3]
    finally:
        engine.close(PATIENCE)
    how = {"max_new_tokens": 7, "masks": True}
    assert_like_the_pipelines(first, pipe.ask(noise(), "What? <region>", boxes=[BOX], **how))
    assert_like_the_pipelines(second, pipe.ask(noise(1, SIZES[1]), "What is this thing?", **how))
    assert third.masks == {}


def post(server, path, **body):
    data = json.dumps({"model": MODEL, **body}).encode()
    request = Request(f"{server.url}{path}", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as response:
        return response.read().decode()


def test_http_answers_with_phrases_boxes_and_masks(engine):
    image = {"type": "image_url", "image_url": {"url": data_url(noise())}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}]
    with serving(engine) as server:
        for masks in (False, True):
            answer = json.loads(post(server, "/v1/chat/completions", messages=messages, masks=masks, max_tokens=9))
            (first, second) = answer["choices"][0]["message"]["grounding"]["phrases"]
            assert first["text"] == "a" and len(second["boxes_xyxy"]) == 1 and ("masks" in first) == masks
        events = post(server, "/v1/chat/completions", messages=messages, masks=True, max_tokens=9, stream=True).split(
            "\n\n"
        )
        chunks = [json.loads(event.removeprefix("data: ")) for event in events if "{" in event]
        said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        assert said == answer["choices"][0]["message"]["content"]
        assert chunks[-1]["choices"][0]["delta"]["grounding"] == answer["choices"][0]["message"]["grounding"]
        found = json.loads(post(server, "/v1/segment", image_url={"url": data_url(noise())}, phrase="the red cup"))
        assert found["regions"] and found["regions"][0]["mask"]["size"] == [40, 60]
        pointed = json.loads(
            post(server, "/v1/segment", image_url={"url": data_url(noise())}, regions=[{"point": [20, 20]}])
        )
        assert pointed["regions"][0]["score"] is not None
