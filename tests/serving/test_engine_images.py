"""Perceived images: one look for each, one call for all new ones of a batch, a bounded number kept."""

import asyncio

import pytest
import torch

from transformers_groma.serving import perception

from .engines import ask, noise, run, tokens, until_waiting


@pytest.fixture
def looks(monkeypatch):
    """How many images the model looked at in each call."""
    calls = []
    perceive_inputs = perception.perceive_inputs

    def counted(model, inputs, sizes):
        calls.append(len(inputs["pixel_values"]))
        return perceive_inputs(model, inputs, sizes)

    monkeypatch.setattr(perception, "perceive_inputs", counted)
    return calls


async def together(engine, gate, *conversations):
    """Answers of one batch."""
    blocker = asyncio.create_task(engine.answer(ask("Wait"), tokens(1)))
    await gate.is_reached()
    tasks = [asyncio.create_task(engine.answer(messages, tokens(3))) for messages in conversations]
    await until_waiting(engine, len(tasks))
    gate.open()
    await blocker
    return await asyncio.gather(*tasks)


def test_a_batch_looks_at_its_new_images_at_once_and_at_each_once(make_engine, make_gate, looks):
    engine = make_engine()
    same = [noise(0), noise(0).convert("RGBA")]  # two objects that look the same
    conversations = [ask("What?", image) for image in (*same, noise(1), noise(2))]
    answers = run(together(engine, make_gate(engine), *conversations, ask("And?")))
    assert looks == [3]
    assert answers[0].grounded.to_dict() == answers[1].grounded.to_dict()
    status = engine.snapshot()
    assert (status.cached_images, status.cache_misses, status.cache_hits) == (3, 3, 1)


def test_following_turns_and_other_conversations_cost_no_look(make_engine, looks):
    engine, image = make_engine(), noise(0)

    async def converse():
        first = ask("What is there?", image)
        answer = await engine.answer(first, tokens(3))
        history = [*first, {"role": "assistant", "content": answer.grounded.markup}]
        region = {"type": "region", "box": [5, 5, 30, 30]}
        later = {"role": "user", "content": [{"type": "text", "text": "And "}, region, {"type": "text", "text": "?"}]}
        second = await engine.answer([*history, later], tokens(3))
        other = await engine.answer(ask("What is this? ", image, [1, 1, 9, 9]), tokens(3))
        return answer, second, other

    first, second, other = run(converse())
    assert looks == [1]
    assert first.grounded.user_region_ids == ()
    assert second.grounded.regions.xyxy[0].tolist() == pytest.approx([5, 5, 30, 30], abs=1e-3)
    assert other.grounded.regions.xyxy[0].tolist() == pytest.approx([1, 1, 9, 9], abs=1e-3)


def test_the_image_used_longest_ago_is_forgotten(make_engine, looks):
    engine = make_engine(cached_images=2)

    async def ask_about(*seeds):
        for seed in seeds:
            await engine.answer(ask("What?", noise(seed)), tokens(1))

    run(ask_about(0, 1, 0, 2, 0, 1))
    assert looks == [1] * 4  # 0, 1, 2, and 1 again
    assert engine.snapshot().cached_images == 2


def test_an_image_that_is_forgotten_while_its_question_waits_is_looked_at_again(make_engine, make_gate, looks):
    engine = make_engine(cached_images=1, max_batch_size=1)
    expected = run(engine.answer(ask("What?", noise(0)), tokens(3)))

    async def forget():
        gate = make_gate(engine)
        blocker = asyncio.create_task(engine.answer(ask("Wait"), tokens(1)))
        await gate.is_reached()
        other = asyncio.create_task(engine.answer(ask("What?", noise(1)), tokens(1)))
        await until_waiting(engine, 1)
        waiting = asyncio.create_task(engine.answer(ask("What?", noise(0)), tokens(3)))
        await until_waiting(engine, 2)
        gate.open()
        await asyncio.gather(blocker, other)
        return await waiting

    assert run(forget()).grounded.markup == expected.grounded.markup
    assert looks == [1, 1, 1]


def test_no_image_need_be_kept(make_engine, make_gate, looks):
    engine = make_engine(cached_images=0)
    run(together(engine, make_gate(engine), ask("What?", noise(0)), ask("And?", noise(0))))
    run(engine.answer(ask("What?", noise(0)), tokens(1)))
    assert looks == [1, 1]
    assert engine.snapshot().cached_images == 0


def test_proposals_are_those_of_the_model_and_serve_following_questions(make_engine, tiny_parts, looks):
    engine, image = make_engine(), noise(3, (90, 70))
    model, processor = tiny_parts

    async def propose_and_ask():
        regions = await engine.propose(image)
        answer = await engine.answer(ask("What?", image), tokens(1))
        return regions, answer, await engine.propose(image)

    regions, answer, again = run(propose_and_ask())
    pixel_values = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    expected = processor.post_process_region_proposals(
        model.propose_regions(pixel_values), target_sizes=[(image.height, image.width)]
    )[0]
    assert len(regions) > 1
    for found in (regions, again, answer.grounded.regions):
        assert found.ids == expected.ids
        torch.testing.assert_close(found.xyxy, expected.xyxy, atol=0.01, rtol=0)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert looks == [1]
    status = engine.snapshot()
    assert (status.batches, status.answered, status.cache_hits) == (2, 3, 2)


def test_known_proposals_come_while_the_model_works(make_engine, make_gate):
    engine = make_engine()

    async def propose():
        regions = await engine.propose(noise(0))
        gate = make_gate(engine)
        busy = asyncio.create_task(engine.answer(ask("What?"), tokens(1)))
        await gate.is_reached()
        assert (await engine.propose(noise(0))).ids == regions.ids
        assert not busy.done()
        gate.open()
        await busy

    run(propose())


@pytest.mark.parametrize("image", ["photo.jpg", None, noise(size=(1, 9))])
def test_what_is_not_an_image_has_no_proposals(make_engine, image):
    with pytest.raises(ValueError, match="is not a PIL image|too small"):
        run(make_engine().propose(image))


def test_maps_for_regions_are_used_at_once_and_not_kept(make_engine, monkeypatch):
    """They take seven times the memory of what is kept of an image."""
    engine, image, kept = make_engine(), noise(0), []
    encoder, put = engine.model.model.region_encoder, perception.PerceivedImages.put
    fusions, fuse = [], encoder.fuse_feature_maps
    monkeypatch.setattr(encoder, "fuse_feature_maps", lambda maps: fusions.append(1) or fuse(maps))
    monkeypatch.setattr(
        perception.PerceivedImages, "put", lambda images, key, seen: kept.append(seen) or put(images, key, seen)
    )
    first = run(engine.answer(ask("What is this? ", image, [1, 1, 9, 9]), tokens(3)))
    assert len(fusions) == 1 and [one.features.fused_region_maps for one in kept] == [None]
    again = run(engine.answer(ask("What is this? ", image, [1, 1, 9, 9]), tokens(3)))
    assert len(fusions) == 2 and again.grounded.to_dict() == first.grounded.to_dict()
