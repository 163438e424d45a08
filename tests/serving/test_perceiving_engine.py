"""The engine whose words a language server writes: the answers of the local one, and what is told when it fails."""

import asyncio
import threading

import pytest
import torch
from transformers import AutoModelForImageTextToText, GenerationConfig

from transformers_groma.language_model_export import export_language_model, plain_language_model
from transformers_groma.perceiver_loading import load_perceiver
from transformers_groma.serving import answering_engine, checked_language_server
from transformers_groma.serving.answers import (
    EngineClosedError,
    LanguageServerError,
    QueueFullError,
)
from transformers_groma.serving.engine import Engine
from transformers_groma.serving.language_server import LanguageServer
from transformers_groma.serving.perceiving_engine import PerceivingEngine
from transformers_groma.serving.sampling import Sampling

from ..tiny import MASK_DECODER, tiny_model
from ..tiny_checkpoint import save_tiny_checkpoint, save_tiny_glamm
from .engines import PATIENCE, ask, conversation, noise, run, tokens, until
from .language_server import StubLanguageServer

SHORT = tokens(6)


@pytest.fixture(scope="module")
def whole(golden_dir, tmp_path_factory):
    """A very small Groma with a mask decoder."""
    decoder = {**MASK_DECODER, "num_multimask_outputs": 3}
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    return save_tiny_checkpoint(folder, golden_dir, mask_decoder_config=decoder)


@pytest.fixture(scope="module")
def exported(whole, tmp_path_factory):
    return export_language_model(whole, tmp_path_factory.mktemp("exported") / "lm")


@pytest.fixture
def stub(exported):
    with StubLanguageServer(exported) as stub:
        yield stub


@pytest.fixture
def make_engine(whole, stub):
    """Makes engines that ask the stub, and closes them in the end."""
    engines = []

    def make(timeout=PATIENCE, key=None, model=None, **settings) -> PerceivingEngine:
        server = LanguageServer(stub.url, key, model, timeout)
        engines.append(PerceivingEngine.from_pretrained(whole, server, device="cpu", **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close(PATIENCE)


def questions():
    return [
        ask("What is there?", noise(0)),
        ask("What is in this image, and what is beside it? ", noise(1, (80, 50)), [5, 6, 30, 40]),
        ask("Is it here?"),
        conversation({"point": [20, 10]}, {"box": [1, 2, 20, 30]}, {"scribble": [[2, 2], [9, 30]]}),
        ask("[grounding]And?", noise(2)),
    ]


async def local_answers(whole, conversations, sampling=SHORT, masks=False):
    async with Engine.from_pretrained(whole, device="cpu", max_batch_size=1) as engine:
        return [
            await engine.answer(messages, sampling, masks and "image" in str(messages)) for messages in conversations
        ]


def assert_same(answer, expected):
    for name in ("finish_reason", "prompt_tokens", "completion_tokens", "is_final", "masks"):
        assert getattr(answer, name) == getattr(expected, name), name
    assert answer.mask_scores == pytest.approx(expected.mask_scores)
    assert answer.grounded.markup == expected.grounded.markup
    assert answer.grounded.regions.ids == expected.grounded.regions.ids
    assert answer.grounded.user_region_ids == expected.grounded.user_region_ids
    torch.testing.assert_close(answer.grounded.regions.xyxy, expected.grounded.regions.xyxy)


def test_answers_are_those_of_the_local_engine(whole, stub, make_engine):
    async def both():
        expected = await local_answers(whole, questions(), masks=True)
        engine = make_engine()
        answers = [await engine.answer(each, SHORT, "image" in str(each)) for each in questions()]
        return expected, answers, engine.snapshot()

    expected, answers, status = run(both())
    for answer, one in zip(answers, expected, strict=True):
        assert_same(answer, one)
    assert answers[3].masks and len(answers[3].grounded.user_region_ids) == 3
    assert status.language_server == "ok" and status.answered == len(answers)
    assert status.prompt_tokens == sum(answer.prompt_tokens for answer in answers)
    assert status.generated_tokens == sum(answer.completion_tokens for answer in answers)
    # Unused slots are not sent.
    assert all(
        len(stub.embeddings(body)) <= one.prompt_tokens for body, one in zip(stub.answers(), answers, strict=True)
    )
    assert len(stub.embeddings(stub.answers()[2])) == answers[2].prompt_tokens


def test_an_end_token_ends_an_answer(whole, stub):
    """Also one that is the last that fits."""
    model, processor, settings = load_perceiver(whole, "cpu")

    def answers(end, *numbers):
        settings.eos_token_id = end
        engine = PerceivingEngine(model, processor, LanguageServer(stub.url), generation_config=settings)

        async def asked():
            async with engine:
                return [await engine.answer(questions()[0], tokens(number)) for number in numbers]

        return run(asked())

    (long,) = answers([2], 4)
    assert (long.finish_reason, long.completion_tokens) == ("length", 4)
    ids = [token for token, _ in stub.tokens(stub.embeddings(stub.answers()[-1]), stub.answers()[-1])]
    ended = answers([2, ids[1]], 4, 2, 1)
    assert [one.finish_reason for one in ended] == ["stop", "stop", "length"]
    assert [one.completion_tokens for one in ended] == [2, 2, 1]


def test_streams_grow_into_the_answer(whole, stub, make_engine, monkeypatch):
    monkeypatch.setattr(answering_engine, "_PARTIAL_COSTS", 0)  # on a busy machine there would be few partial answers
    stub.pause = 0.05

    async def streamed():
        engine = make_engine()
        return [answer async for answer in engine.stream(questions()[4], tokens(12))]

    (expected,) = run(local_answers(whole, [questions()[4]], tokens(12)))
    *partials, last = run(streamed())
    assert_same(last, expected)
    assert len(partials) >= 2
    for answer in partials:
        assert not answer.is_final and last.grounded.markup.startswith(answer.grounded.markup.rstrip("\ufffd"))


def test_sixteen_users_at_once(whole, stub, make_engine):
    stub.pause = 0.01
    conversations = [ask(f"[grounding]What is {number}?", noise(number)) for number in range(16)]
    expected = run(local_answers(whole, conversations, tokens(8)))

    async def together():
        engine = make_engine()
        return await asyncio.gather(*(engine.answer(messages, tokens(8)) for messages in conversations))

    for answer, one in zip(run(together()), expected, strict=True):
        assert_same(answer, one)
    assert stub.most_running > 4  # nobody waits for another's words


def test_images_are_looked_at_once_and_regions_need_no_words(whole, stub, make_engine):
    async def asked():
        engine = make_engine()
        regions = await engine.propose(noise(0))
        clicked = await engine.resolve(noise(0), [{"point": [20, 10]}])
        masks = await engine.segment(noise(0), [{"box": [1, 2, 20, 30]}])
        assert not stub.answers()
        await engine.answer(ask("What?", noise(0)), SHORT)
        async with Engine.from_pretrained(whole, device="cpu") as local:
            expected = await local.propose(noise(0)), await local.resolve(noise(0), [{"point": [20, 10]}])
            expected_masks = await local.segment(noise(0), [{"box": [1, 2, 20, 30]}])
        assert regions.xyxy.tolist() == expected[0].xyxy.tolist()
        assert clicked[0].box == expected[1][0].box and masks[0].mask == expected_masks[0].mask
        return engine.snapshot()

    status = run(asked())
    assert (status.cache_misses, status.cache_hits) == (1, 3)


def test_only_what_perceives_is_loaded(make_engine, whole):
    names = {name for name, _ in make_engine().model.named_parameters()}
    assert {name for name in names if "language_model" in name} == {"language_model.embed_tokens.weight"}
    whole_names = {name for name, _ in AutoModelForImageTextToText.from_pretrained(whole).named_parameters()}
    assert not any("lm_head" in name for name in names)
    assert {f"model.{name}" for name in names} == {
        name for name in whole_names if "language_model" not in name and "lm_head" not in name
    } | {"model.language_model.embed_tokens.weight"}


def test_whoever_leaves_stops_the_language_server(stub, make_engine):
    stub.pause = 0.02

    async def leave():
        engine = make_engine()
        asking = asyncio.create_task(engine.answer(questions()[0], tokens(200)))
        stream = engine.stream(questions()[1], tokens(200))
        await anext(stream)
        await until(lambda: stub.running == 2)
        asking.cancel()
        await stream.aclose()
        await until(lambda: stub.running == 0)
        status = engine.snapshot()
        assert (status.cancelled, status.running, status.failed) == (2, 0, 0)
        await engine.answer(questions()[0], tokens(2))

    run(leave())
    assert stub.written < 200


def test_a_server_that_dies_and_comes_back(stub, make_engine, monkeypatch):
    monkeypatch.setattr(checked_language_server, "WATCH_SECONDS", 0.05)
    died = threading.Event()

    def die(number):
        if number == 2 and not died.is_set():
            died.set()
            stub.stop()

    async def story():
        engine = make_engine()
        before = await engine.answer(questions()[0], SHORT)
        stub.before_piece = die
        with pytest.raises(LanguageServerError, match="in the middle of an answer") as caught:
            await engine.answer(questions()[0], SHORT)
        assert caught.value.status == 502
        with pytest.raises(LanguageServerError, match="cannot be reached") as caught:
            await engine.answer(questions()[0], SHORT)
        assert caught.value.status == 503 and stub.url not in str(caught.value)
        assert "cannot be reached" in engine.snapshot().language_server
        await engine.propose(noise(3))  # needs no words
        stub.start_again()
        await until(lambda: engine.snapshot().language_server == "ok")  # without a request
        after = await engine.answer(questions()[0], SHORT)
        assert_same(after, before)
        stub.stop()
        await until(lambda: engine.snapshot().language_server != "ok")
        stub.start_again()
        assert_same(await engine.answer(questions()[0], SHORT), before)
        assert engine.snapshot().failed == 2

    run(story())


def test_a_server_that_comes_later(stub, make_engine):
    stub.stop()

    async def story():
        engine = make_engine()
        with pytest.raises(LanguageServerError, match="cannot be reached"):
            await asyncio.to_thread(engine.connect)
        stub.start_again()
        return await engine.answer(questions()[0], SHORT)

    assert run(story()).completion_tokens == 6


def test_a_server_that_is_silent(stub, make_engine):
    async def asked():
        engine = make_engine(timeout=0.5)
        await asyncio.to_thread(engine.connect)
        stub.pause = 2.0
        with pytest.raises(LanguageServerError, match=r"silent for 0\.5 s") as caught:
            await engine.answer(questions()[0], SHORT)
        assert caught.value.status == 504
        assert engine.snapshot().language_server == "ok"  # it is there, and still the same
        probes = len(stub.bodies) - len(stub.answers())
        stub.pause = 0.0
        await engine.answer(questions()[0], SHORT)
        assert len(stub.bodies) - len(stub.answers()) == probes  # nothing is checked under load

    run(asked())


@pytest.mark.parametrize(
    ("fields", "options", "words", "detail"),
    [
        ({"takes_embeddings": False}, {}, "takes no prompt embeddings", "vllm serve OUT --enable-prompt-embeds"),
        ({"key": "sk-right-key"}, {"key": "sk-wrong-key"}, "does not let this server in", "GROMA_LM_API_KEY"),
        ({"names": ["a", "b"]}, {}, "no model of the expected name", "has 'a', 'b': name one of them with --lm-model"),
        ({"names": ["a"]}, {"model": "b"}, "no model of the expected name", "should have 'b', and has 'a'"),
        ({"status": 500}, {}, "failed on this request", "answers 500: no luck"),
        ({"status": 404}, {}, "does not know", "does the URL end with /v1"),
    ],
)
def test_a_server_of_the_wrong_kind(stub, make_engine, fields, options, words, detail):
    for name, value in fields.items():
        setattr(stub, name, value)
    engine = make_engine(**options)
    with pytest.raises(LanguageServerError, match=words) as caught:
        engine.connect()
    assert caught.value.status == 502
    assert detail in caught.value.detail and "sk-" not in f"{caught.value} {caught.value.detail}"
    assert words in engine.snapshot().language_server
    with pytest.raises(LanguageServerError, match=words):
        run(engine.answer(questions()[0], SHORT))


def test_a_server_with_a_key_and_one_of_several_models(stub, make_engine):
    stub.key, stub.names = "sk-right-key", ["other", "lm"]
    answer = run(make_engine(key="sk-right-key", model="lm").answer(questions()[0], SHORT))
    assert answer.completion_tokens == 6


def test_a_busy_server(stub, make_engine):
    engine = make_engine()
    engine.connect()
    stub.status = 429
    with pytest.raises(LanguageServerError, match="busy") as caught:
        run(engine.answer(questions()[0], SHORT))
    assert caught.value.status == 503


@pytest.mark.parametrize("text_config", [{"hidden_size": 64}, {}, {"vocab_size": 500}])
def test_another_language_model(golden_dir, whole, tmp_path, text_config):
    """Another width, other weights of the same shape, another vocabulary."""
    exported = export_language_model(whole, tmp_path / "lm")
    other = tiny_model(seed=7, text_config={"vocab_size": 434, "max_position_embeddings": 1024, **text_config})
    plain_language_model(other).save_pretrained(exported)
    stub = StubLanguageServer(exported)
    engine = PerceivingEngine.from_pretrained(whole, LanguageServer(stub.url), device="cpu")
    try:
        words = "another (language model|vocabulary)|refuses the prompt"
        with pytest.raises(LanguageServerError, match=words) as caught:
            engine.connect()
        assert caught.value.status == 502
    finally:
        engine.close(PATIENCE)
        stub.stop()


def test_a_prompt_that_does_not_fit(stub, make_engine):
    stub.limit = 300
    engine = make_engine()
    engine.connect()
    with pytest.raises(ValueError, match="the model reads 300 in all"):
        run(engine.answer(ask("a " * 40, noise(0)), tokens(200)))
    shortened = run(engine.answer(ask("Hi", noise(0)), Sampling(max_new_tokens=500, shorten_to_fit=True)))
    assert shortened.prompt_tokens + shortened.completion_tokens <= 300


def test_all_that_changes_words_is_said(stub, make_engine, monkeypatch):
    """And what the server could not do is refused."""
    engine = make_engine()
    fives = [(5, None)] * 7 + [(5, "length")]
    monkeypatch.setattr(stub, "tokens", lambda embeds, body: iter(fives[-body["max_tokens"] :]))
    run(engine.answer(questions()[0], Sampling(max_new_tokens=1, temperature=0.7, top_p=0.9, seed=-3)))
    body = {name: value for name, value in stub.bodies[-1].items() if name != "prompt_embeds"}
    assert body == {
        "model": "lm",
        "max_tokens": 1,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": -3,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,
        "stop_token_ids": [2],
        "skip_special_tokens": False,
        "return_token_ids": True,
        "stream": True,
    }
    run(engine.answer(questions()[0], tokens(1)))
    assert "seed" not in stub.bodies[-1] and stub.bodies[-1]["temperature"] == 0
    with pytest.raises(ValueError, match=r"`seed` must be below 2\*\*63"):
        run(engine.answer(questions()[0], Sampling(temperature=1.0, seed=2**63)))
    settings = GenerationConfig(eos_token_id=2, repetition_penalty=1.3, suppress_tokens=[7])
    with pytest.raises(ValueError, match=r"repetition_penalty=1\.3, suppress_tokens=\[7\], which a language"):
        PerceivingEngine(engine.model, engine.processor, LanguageServer(stub.url), generation_config=settings)


def test_more_than_may_run_are_refused(stub, make_engine):
    stub.pause = 0.05

    async def crowd():
        engine = make_engine(max_running=2)
        running = [asyncio.create_task(engine.answer(each, tokens(20))) for each in questions()[:2]]
        await until(lambda: engine.snapshot().running == 2)
        with pytest.raises(QueueFullError, match=r"2 requests are being answered already \(`max_running`\)"):
            await engine.answer(questions()[2], SHORT)
        assert engine.snapshot().refused == 1
        return await asyncio.gather(*running)

    assert [answer.completion_tokens for answer in run(crowd())] == [20, 20]


def test_an_engine_that_closes(stub, make_engine):
    stub.pause = 0.02

    async def story():
        engine = make_engine()
        short = asyncio.create_task(engine.answer(questions()[0], tokens(5)))
        await until(lambda: stub.running)
        await engine.aclose(PATIENCE)  # waits
        assert (await short).completion_tokens == 5
        engine = make_engine()
        long = asyncio.create_task(engine.answer(questions()[0], tokens(500)))
        await until(lambda: stub.running)
        await engine.aclose(0)
        with pytest.raises(EngineClosedError):
            await long
        with pytest.raises(EngineClosedError):
            await engine.answer(questions()[0], SHORT)
        await until(lambda: stub.running == 0)

    run(story())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("groma-words")]


def test_models_that_cannot_be_split(stub, whole, tmp_path):
    server = LanguageServer(stub.url)
    glamm = save_tiny_glamm(tmp_path / "glamm")
    with pytest.raises(ValueError, match="is a GLaMM, which makes its masks from states of its language model"):
        PerceivingEngine.from_pretrained(glamm, server)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{whole}"}}')
    with pytest.raises(ValueError, match="is an adapter, which may change what is seen"):
        PerceivingEngine.from_pretrained(tmp_path / "adapter", server)


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8001", "ftp://host/v1", "http://", "http://host:x/v1", "http://host/v1?a=b", "", "http://host:0"),
        *(
            "http://[::1/v1",
            "http://a b/v1",
            "http://host/v1\n",
            "http://höst/v1",
            "http://host\\v1",
            "http://h:99999",
        ),
    ],
)
def test_urls_that_are_none(url):
    with pytest.raises(ValueError, match="is not the base URL of a language server: write http://host:8001/v1"):
        LanguageServer(url)


def test_a_password_in_the_url_is_not_repeated():
    with pytest.raises(ValueError, match="GROMA_LM_API_KEY") as caught:
        LanguageServer("http://me:secret@host/v1")
    assert "secret" not in str(caught.value)
