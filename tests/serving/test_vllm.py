"""With the real vLLM on loopback: equal answers, streams, many users, death and return, prefixes that are kept."""

import asyncio
import time

import pytest

from transformers_groma.language_model_export import export_language_model
from transformers_groma.serving.answers import LanguageServerError
from transformers_groma.serving.engine import Engine
from transformers_groma.serving.language_server import LanguageServer
from transformers_groma.serving.perceiving_engine import PerceivingEngine
from transformers_groma.serving.sampling import Sampling
from transformers_groma.shapes.scenes import make_scene

from .vllm_process import VllmProcess

pytestmark = pytest.mark.slow

SCENES = 100
DESCRIBE = "[grounding]Please describe the image in detail."


@pytest.fixture(scope="module")
def vllm(tiny_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    process = VllmProcess(export_language_model(tiny_dir, folder / "lm"), folder / "vllm.log")
    yield process
    if process.process.poll() is None:
        process.kill()


@pytest.fixture
def engine(vllm, tiny_dir):
    engine = PerceivingEngine.from_pretrained(tiny_dir, LanguageServer(vllm.url), device="cpu")
    yield engine
    engine.close(60)


@pytest.fixture(scope="module")
def expected(tiny_dir):
    """What the local engine says of the scenes."""

    async def answers():
        async with Engine.from_pretrained(tiny_dir, device="cpu", max_waiting=SCENES) as engine:
            return await asyncio.gather(*(engine.answer(about(number)) for number in range(SCENES)))

    return asyncio.run(answers())


def about(number: int, text: str = DESCRIBE, *regions: dict) -> list[dict]:
    image = make_scene(seed=0, split="test", index=number, image_size=448).draw()
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}, *regions]}]


def assert_same(answer, one):
    assert answer.grounded.markup == one.grounded.markup
    assert answer.grounded.regions.xyxy.tolist() == [
        pytest.approx(box, abs=0.01) for box in one.grounded.regions.xyxy.tolist()
    ]
    for name in ("finish_reason", "prompt_tokens", "completion_tokens"):
        assert getattr(answer, name) == getattr(one, name)


def test_equal_answers_about_a_hundred_scenes_for_sixteen_users(engine, expected, vllm):
    async def asked():
        users = asyncio.Semaphore(16)

        async def ask(number):
            async with users:
                return await engine.answer(about(number))

        return await asyncio.gather(*(ask(number) for number in range(SCENES)))

    engine.connect()
    start = time.perf_counter()
    answers = asyncio.run(asked())
    seconds = time.perf_counter() - start
    for answer, one in zip(answers, expected, strict=True):
        assert_same(answer, one)
    words = sum(answer.completion_tokens for answer in answers)
    print(f"\n{SCENES} scenes, 16 users: {SCENES / seconds:.2f} answers/s, {words / seconds:.0f} tokens/s")


def test_masks_regions_and_a_limit(engine, tiny_dir):
    conversations = [
        (about(3, "What is ", {"type": "region", "point": [311, 371]}), Sampling(), engine.has_masks),
        (about(3), Sampling(max_new_tokens=7), False),
        ([{"role": "user", "content": "Who are you?"}], Sampling(max_new_tokens=20), False),
    ]

    async def both():
        async with Engine.from_pretrained(tiny_dir, device="cpu") as local:
            return [(await engine.answer(*each), await local.answer(*each)) for each in conversations]

    for answer, one in asyncio.run(both()):
        assert_same(answer, one)
        assert answer.masks == one.masks


def test_streams(engine, expected, monkeypatch):
    """The words come one by one. How many partial answers are made of them depends on how busy the machine is."""
    events = []
    read = LanguageServer._piece

    def noted(self, data):
        events.append(read(self, data))
        return events[-1]

    async def streamed():
        return [answer async for answer in engine.stream(about(0))]

    engine.connect()
    monkeypatch.setattr(LanguageServer, "_piece", noted)
    *partials, last = asyncio.run(streamed())
    assert_same(last, expected[0])
    assert all(last.grounded.markup.startswith(answer.grounded.markup) for answer in partials)
    assert len(events) > last.completion_tokens / 2 and events[-1][1] == "stop"
    assert sum(len(ids) for ids, _ in events) == last.completion_tokens


def test_a_seed_repeats_a_sample(engine):
    async def sampled(seed):
        sampling = Sampling(temperature=2.0, top_p=0.9, seed=seed, max_new_tokens=40)
        return (await engine.answer(about(1), sampling)).grounded.markup

    async def all_of_them():
        return [await sampled(seed) for seed in (5, 5, 6)]

    first, again, other = asyncio.run(all_of_them())
    assert first == again != other


def test_whoever_leaves_frees_it(engine, vllm):
    async def leave():
        stream = engine.stream(about(2))
        await anext(stream)
        await stream.aclose()
        end = time.monotonic() + 30
        while vllm.metric("vllm:num_requests_running") > 0:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)

    asyncio.run(leave())


def test_another_model_is_noticed(vllm, tmp_path, golden_dir):
    from ..tiny_checkpoint import save_tiny_checkpoint

    other = save_tiny_checkpoint(tmp_path / "other", golden_dir)
    engine = PerceivingEngine.from_pretrained(other, LanguageServer(vllm.url), device="cpu")
    try:
        with pytest.raises(LanguageServerError, match="refuses the prompt|another language model"):
            engine.connect()
    finally:
        engine.close(30)


def test_prefixes_are_reused(engine, vllm):
    """A later turn begins as the one before; vLLM keeps what it read in whole blocks."""
    name = "vllm:prefix_cache_hits_total"

    async def turns():
        first = about(57)
        answer = await engine.answer(first)
        hits = vllm.metric(name)
        turn = {"role": "assistant", "content": answer.grounded.text}
        await engine.answer([*first, turn, {"role": "user", "content": "Is there a red circle?"}])
        return answer, vllm.metric(name) - hits

    answer, hits = asyncio.run(turns())
    print(f"\nprefix: {hits:.0f} tokens of {answer.prompt_tokens} (with unused slots) were read before")
    assert hits > 0


def test_it_dies_and_comes_back(engine, vllm, expected):
    async def die():
        stream = engine.stream(about(0))
        await anext(stream)
        vllm.kill()
        with pytest.raises(LanguageServerError) as caught:
            async for _ in stream:
                pass
        assert caught.value.status == 502
        with pytest.raises(LanguageServerError) as caught:
            await engine.answer(about(0))
        assert caught.value.status == 503
        assert engine.snapshot().language_server != "ok"
        await asyncio.to_thread(vllm.start)
        assert_same(await engine.answer(about(0)), expected[0])
        assert engine.snapshot().language_server == "ok"

    asyncio.run(die())
