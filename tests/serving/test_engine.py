"""The engine's answers: as from `generate`, the same in every batch, streamed or whole."""

import asyncio
import itertools
import time

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.tiny import skip_if_peft_is_too_old
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.serving.engine import Engine, Sampling
from transformers_groma.shapes.scenes import make_scene

from .engines import PATIENCE, ask, noise, run, tokens, until, until_waiting

SHORT = tokens(6)


def questions():
    """Questions of different lengths, about images of different sizes or none, with regions or without."""
    return [
        ask("What is there?", noise(0)),
        ask("What is in this image, and what is beside it? ", noise(1, (80, 50)), [5, 6, 30, 40]),
        ask("Is it here?"),
        ask("Compare ", noise(0), [1, 2, 20, 30], [10, 5, 40, 30]),
        ask("And?", noise(2)),
    ]


def from_generate(parts, messages, max_new_tokens):
    """The answer without an engine, from pixels."""
    model, processor = parts
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True)
    images = [part["image"] for part in messages[0]["content"] if part["type"] == "image"]
    sizes = [(image.height, image.width) for image in images]
    return processor.post_process_grounded_generation(output, inputs, target_sizes=sizes or None)[0]


def assert_same(answer, expected):
    assert answer.markup == expected.markup
    assert answer.text == expected.text
    assert answer.regions.ids == expected.regions.ids
    assert answer.user_region_ids == expected.user_region_ids
    assert [phrase.span for phrase in answer.phrases] == [phrase.span for phrase in expected.phrases]
    # The last digits differ between batch sizes.
    assert answer.regions.xyxy.tolist() == [pytest.approx(box, abs=0.01) for box in expected.regions.xyxy.tolist()]
    assert answer.regions.scores.tolist() == pytest.approx(expected.regions.scores.tolist(), abs=1e-4)


def test_an_answer_fits_behind_a_long_prompt_where_nobody_chose_its_length(make_engine):
    long = ask("a " * 700)

    async def answers(engine):
        length = (await engine.answer(long, tokens(1))).prompt_tokens
        room = engine.model.config.get_text_config().max_position_embeddings - length
        with pytest.raises(ValueError, match=f"up to {room + 1} .* Shorten the question or lower"):
            await engine.answer(long, tokens(room + 1))
        shortened = await engine.answer(long, Sampling(max_new_tokens=room + 1, shorten_to_fit=True))
        return room, shortened, await engine.answer(ask("Hi"), Sampling(max_new_tokens=3, shorten_to_fit=True))

    room, shortened, short = run(answers(make_engine()))
    assert shortened.completion_tokens == room and shortened.finish_reason == "length"
    assert short.completion_tokens == 3


def test_answers_are_those_of_generate_one_by_one_and_in_one_batch(make_engine, make_gate, tiny_parts):
    async def both(engine):
        single = [await engine.answer(messages, SHORT) for messages in questions()]
        gate = make_gate(engine)
        blocker = asyncio.create_task(engine.answer(ask("Wait"), SHORT))
        await gate.is_reached()
        tasks = [asyncio.create_task(engine.answer(messages, SHORT)) for messages in questions()]
        await until_waiting(engine, len(tasks))
        gate.open()
        together = await asyncio.gather(*tasks)
        await blocker
        return single, together, gate.batches

    single, together, batches = run(both(make_engine()))
    assert batches == [1, 5]
    for messages, one, of_batch in zip(questions(), single, together, strict=True):
        expected = from_generate(tiny_parts, messages, SHORT.max_new_tokens)
        for answer in (one, of_batch):
            assert_same(answer.grounded, expected)
            assert (answer.finish_reason, answer.completion_tokens, answer.is_final) == ("length", 6, True)
        assert one.prompt_tokens == of_batch.prompt_tokens


def test_tensors_of_answers_are_the_callers(make_engine):
    async def ask_and_propose(engine):
        answer = await engine.answer(ask("What?", noise(), [1, 2, 30, 30]), tokens(2))
        return answer.grounded.regions, await engine.propose(noise())

    for regions in run(ask_and_propose(make_engine())):
        regions.xyxy.mul_(2)
        regions.scores.mul_(2)


def test_each_row_ends_at_its_own_length(make_engine, make_gate):
    async def ask_three(engine):
        gate = make_gate(engine)
        lengths = (3, 12, 1)
        tasks = [asyncio.create_task(engine.answer(ask("What?", noise()), tokens(length))) for length in lengths]
        await gate.is_reached()
        gate.open()
        return await asyncio.gather(*tasks)

    short, long, one = run(ask_three(make_engine()))
    assert [answer.completion_tokens for answer in (short, long, one)] == [3, 12, 1]
    assert long.grounded.markup.startswith(short.grounded.markup)


def test_a_short_answer_comes_before_the_batch_ends(make_engine, make_gate, slow_steps):
    async def ask_two(engine):
        gate = make_gate(engine)
        first = asyncio.create_task(engine.answer(ask("Wait"), tokens(1)))
        await gate.is_reached()
        long = asyncio.create_task(engine.answer(ask("What?"), tokens(150)))
        short = asyncio.create_task(engine.answer(ask("What?"), tokens(2)))
        await until_waiting(engine, 2)
        gate.open()
        await first
        await short
        assert gate.batches == [1, 2]
        assert not long.done()
        assert engine.snapshot().running == 1
        long.cancel()

    run(ask_two(make_engine()))


@pytest.fixture(scope="module")
def groma_tiny():
    folder = "hub_configs/groma-tiny"
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def test_streamed_answers_grow_into_the_answer(groma_tiny):
    scene = make_scene(0, "test", 3, 224)
    messages = ask("[grounding] Please describe the image in detail.", scene.draw())

    parts, number = [], itertools.count(1)

    def wait_for_reader(module, inputs):
        """On a busy machine, too, a partial answer is read before the 10th step, and another before the 20th."""
        step, start = next(number), time.monotonic()
        while step in (10, 20) and len(parts) < step // 10 and time.monotonic() - start < PATIENCE:
            time.sleep(0.005)

    async def both():
        async with Engine(*groma_tiny) as engine:
            whole = await engine.answer(messages)
            hook = groma_tiny[0].register_forward_pre_hook(wait_for_reader)
            try:
                async for part in engine.stream(messages):
                    parts.append(part)
            finally:
                hook.remove()
            return whole

    whole = run(both())
    assert whole.completion_tokens > 20
    *partials, last = parts
    assert len(partials) >= 2 and len(whole.grounded.phrases) >= 2
    assert_same(last.grounded, whole.grounded)
    assert (last.finish_reason, last.is_final, last.completion_tokens) == ("stop", True, whole.completion_tokens)
    for partial, following in zip(partials, parts[1:], strict=True):
        assert not partial.is_final and partial.finish_reason is None
        # The last text can be read just before the answer is declared complete.
        assert partial.completion_tokens < following.completion_tokens + following.is_final
        assert partial.prompt_tokens == whole.prompt_tokens
        assert following.grounded.markup.startswith(partial.grounded.markup)
        # The regions are known from the first text on, and what was tied to them stays.
        assert partial.grounded.regions.ids == whole.grounded.regions.ids
        for early, late in zip(partial.grounded.phrases, following.grounded.phrases, strict=False):
            assert (early.text, early.span) == (late.text, late.span)
            assert late.region_ids[: len(early.region_ids)] == early.region_ids
    assert any(partial.grounded.phrases for partial in partials)


def test_groma_tiny_answers_the_same_in_a_batch_and_ends_by_itself(groma_tiny):
    scenes = [make_scene(0, "test", index, 224) for index in range(3)]
    conversations = [
        ask("[grounding] Please describe the image in detail.", scenes[0].draw()),
        ask("What is ", scenes[1].draw(), list(scenes[1].boxes_xyxy[0])),
        ask("How many circles are there?", scenes[2].draw()),
    ]

    async def both():
        async with Engine(*groma_tiny) as engine:
            single = [await engine.answer(messages) for messages in conversations]
            return single, await asyncio.gather(*[engine.answer(messages) for messages in conversations])

    for one, of_batch in zip(*run(both()), strict=True):
        assert of_batch.finish_reason == "stop"
        assert_same(of_batch.grounded, one.grounded)


def test_a_slow_reader_holds_nobody_up_and_gets_the_newest(make_engine, slow_steps):
    async def read(engine):
        reader = engine.stream(ask("What?", noise()), tokens(60))
        first = await anext(reader)
        other = await engine.answer(ask("And?"), tokens(3))
        assert other.completion_tokens == 3
        await until(lambda: engine.snapshot().running == 0)
        rest = [answer async for answer in reader]
        return first, rest

    first, rest = run(read(make_engine()))
    assert first.completion_tokens < 60
    assert [answer.is_final for answer in rest] == [True]
    assert rest[0].completion_tokens == 60


def test_few_partial_answers_are_decoded(make_engine, slow_steps, monkeypatch):
    """At most one in 30 ms, however many tokens come."""
    decoded = []
    monkeypatch.setattr(
        "transformers_groma.serving.row_answers.partial_text",
        lambda tokenizer, ids: decoded.append(len(ids)) or tokenizer.decode(ids),
    )
    slow_steps.seconds = 0.003

    async def read(engine):
        return [answer async for answer in engine.stream(ask("What?"), tokens(100))]

    answers = run(read(make_engine()))
    assert 1 <= len(answers) - 1 <= len(decoded) < 60


def test_sampled_and_greedy_requests_share_a_batch(make_engine, make_gate):
    seeded = Sampling(max_new_tokens=8, temperature=1.5, top_p=0.9, seed=5)
    messages = ask("What?", noise())

    async def ask_all(engine):
        alone = await engine.answer(messages, seeded)
        greedy = await engine.answer(messages, tokens(8))
        gate = make_gate(engine)
        blocker = asyncio.create_task(engine.answer(ask("Wait"), tokens(1)))
        await gate.is_reached()
        settings = (tokens(8), seeded, Sampling(max_new_tokens=8, temperature=1.0))
        tasks = [asyncio.create_task(engine.answer(messages, sampling)) for sampling in settings]
        await until_waiting(engine, 3)
        gate.open()
        together = await asyncio.gather(*tasks)
        await blocker
        return alone, greedy, together, gate.batches

    alone, greedy, together, batches = run(ask_all(make_engine()))
    assert batches == [1, 3]
    assert together[0].grounded.markup == greedy.grounded.markup
    assert together[1].grounded.markup == alone.grounded.markup
    assert alone.grounded.markup != greedy.grounded.markup


def test_from_pretrained_loads_an_engine(tiny_folder):
    async def load_and_ask():
        async with Engine.from_pretrained(
            tiny_folder, device="cpu", options=LoadingOptions(dtype="float32"), max_batch_size=3
        ) as engine:
            return await engine.answer(ask("What?", noise()), tokens(2))

    assert run(load_and_ask()).completion_tokens <= 2


def test_from_pretrained_loads_an_adapter(tiny_folder, tiny_parts, tmp_path):
    peft = pytest.importorskip("peft")
    skip_if_peft_is_too_old()
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    tiny_parts[1].save_pretrained(tmp_path)

    async def load_and_ask(folder):
        async with Engine.from_pretrained(folder, device="cpu") as engine:
            return (await engine.answer(ask("What?", noise()), tokens(12))).grounded.markup

    assert run(load_and_ask(tmp_path)) != run(load_and_ask(tiny_folder))


def test_from_pretrained_refuses_other_models():
    with pytest.raises(
        ValueError, match=r"is of type 'groma_region_proposal'\. Pass a model of type 'groma' or 'glamm'\."
    ):
        Engine.from_pretrained("hub_configs/groma-det-pretrain")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_size": 0}, "`max_batch_size` must be a number from 1, got 0"),
        ({"max_batch_size": 2.5}, "`max_batch_size` must be a number from 1, got 2.5"),
        ({"max_wait_ms": -1}, "`max_wait_ms` must be a number from 0, got -1"),
        ({"max_wait_ms": float("inf")}, "`max_wait_ms` must be a number from 0"),
        ({"max_waiting": 0}, "`max_waiting` must be a number from 1"),
        ({"cached_images": -1}, "`cached_images` must be a number from 0"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_parts, settings, message):
    with pytest.raises(ValueError, match=message):
        Engine(*tiny_parts, **settings)
