"""The `openai` client against the server, unchanged: answers, streams, errors."""

import numpy as np
import openai
import pytest
from huggingface_hub.utils import httpx

from transformers_groma.masks import mask_to_rle
from transformers_groma.serving.answers import EngineClosedError, ModelFailedError, QueueFullError

from . import running_server
from .fake_engine import MASKS, TEXT, FakeEngine
from .running_server import MODEL, data_url, question, serving

GROUNDING = {
    "image": {"width": 64, "height": 48},
    "phrases": [
        {
            "text": "a red cup",
            "span": [9, 18],
            "boxes_xyxy": [[10.0, 20.0, 30.0, 40.0]],
            "scores": [1.0],
            "region_ids": [0],
        },
        {
            "text": "a table",
            "span": [22, 29],
            "boxes_xyxy": [[0.0, 0.0, 64.0, 48.0], [1.0, 2.0, 3.0, 4.0]],
            "scores": [1.0, 1.0],
            "region_ids": [1, 2],
        },
    ],
    "user_regions": [],
    "unknown_region_ids": [],
}
PIECES = (
    "There",
    " is",
    " <p>",
    "a red cup",
    "</p>",
    "<roi>",
    "<r0>",
    "</roi> on",
    " <p>a table</p><roi><r1>",
    "<r2></roi>.",
)


def client(server, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20, **options)


@pytest.fixture(scope="module")
def server():
    with serving(FakeEngine()) as running:
        yield running


def ask(engine, **fields):
    with serving(engine) as running, client(running) as openai_client:
        return openai_client.chat.completions.create(**question(**fields))


def test_an_answer_and_its_grounding(server):
    completion = client(server).chat.completions.create(
        **question({"type": "region", "box": [10, 20, 30, 40]}, {"type": "phrase", "text": "a cup"}, max_tokens=7),
        extra_body={"grounding": True},
    )
    (choice,) = completion.choices
    assert choice.message.content == TEXT and choice.message.role == "assistant" and choice.finish_reason == "stop"
    own = [{"box_xyxy": [10.0, 20.0, 30.0, 40.0], "region_id": 0}]
    assert choice.message.grounding == {**GROUNDING, "user_regions": own}
    for phrase in GROUNDING["phrases"]:
        assert choice.message.content[slice(*phrase["span"])] == phrase["text"]
    assert (
        completion.model == MODEL and completion.object == "chat.completion" and completion.id.startswith("chatcmpl-")
    )
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (
        12,
        1,
        13,
    )
    messages, sampling = server.engine.asked[-1]
    (message,) = messages
    assert message["content"][0] == {"type": "text", "text": "[grounding]"}
    assert message["content"][1]["image"].size == (64, 48)
    assert message["content"][2:] == [
        {"type": "region", "box": [10, 20, 30, 40]},
        {"type": "phrase", "text": "a cup"},
        {"type": "text", "text": "What is there?"},
    ]
    assert sampling.max_new_tokens == 7 and sampling.temperature == 0


REGIONS = (
    {"type": "region", "point": [10, 20]},
    {"type": "region", "points": [[10, 20], [30, 5]], "labels": [1, 0], "ambiguity": "part"},
    {"type": "region", "scribble": [[10, 20], [30, 40], [20, 10]]},
    {"type": "region", "mask": mask_to_rle(np.ones((48, 64), bool))},
)


@pytest.fixture(scope="module")
def mask_server():
    with serving(FakeEngine(PIECES, has_masks=True)) as running:
        yield running


def test_regions_in_every_form_reach_the_engine(mask_server):
    client(mask_server).chat.completions.create(**question(*REGIONS))
    content = mask_server.engine.asked[-1][0][0]["content"]
    assert content[1:-1] == list(REGIONS)


@pytest.mark.parametrize("stream", [False, True])
def test_masks_of_what_the_answer_names_and_of_the_users_regions(mask_server, stream):
    asked = client(mask_server).chat.completions.create(
        **question(REGIONS[0]), extra_body={"masks": True}, stream=stream
    )
    if stream:
        deltas = [chunk.choices[0].delta for chunk in asked]
        earlier = [delta.grounding for delta in deltas[:-1] if getattr(delta, "grounding", None)]
        assert earlier and all("masks" not in phrase for grounding in earlier for phrase in grounding["phrases"])
        grounding = deltas[-1].grounding  # the last event has all of it
    else:
        grounding = asked.choices[0].message.grounding
    assert [phrase["masks"] for phrase in grounding["phrases"]] == [[MASKS[0]], [MASKS[1], MASKS[2]]]
    assert grounding["user_regions"] == [{"box_xyxy": [10.0, 20.0, 30.0, 40.0], "region_id": 0, "mask": MASKS[0]}]


def test_masks_of_a_model_without_a_mask_decoder(server):
    with pytest.raises(openai.BadRequestError) as raised:
        client(server).chat.completions.create(**question(), extra_body={"masks": True})
    assert raised.value.param == "masks" and raised.value.code == "masks_not_supported"
    assert raised.value.body["message"] == (
        "`masks` is true, but this server's model has no mask decoder and points with boxes only: leave it out."
    )
    # Clicks need none: they stand for a proposal.
    assert client(server).chat.completions.create(**question(REGIONS[0])).choices[0].message.content == TEXT


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"point": [65, 3]}, "`messages[0].content[1].point` = [65.0, 3.0] is outside of the 64x48"),
        ({"points": [[5, 5]], "labels": [0]}, "`messages[0].content[1].labels` has no 1"),
        ({"points": [[5, 5]], "labels": [1, 1]}, "`messages[0].content[1].labels` has 2 entries for 1 point"),
        ({"mask": mask_to_rle(np.zeros((48, 64), bool))}, "`messages[0].content[1].mask` is empty"),
        ({"mask": mask_to_rle(np.ones((64, 48), bool))}, "`messages[0].content[1].mask` has 48x64"),
        ({"mask": {"size": [48, 64], "counts": "!"}}, "`messages[0].content[1].mask` is not COCO's RLE"),
        ({"mask": {"size": [4800, 6400], "counts": "x"}}, "`messages[0].content[1].mask.size` is [4800, 6400], more"),
    ],
)
def test_regions_that_are_not_of_the_image(server, region, message):
    with pytest.raises(openai.BadRequestError) as raised:
        client(server).chat.completions.create(**question({"type": "region", **region}))
    assert raised.value.body["message"].startswith(message) and raised.value.code == "invalid_region"
    assert raised.value.param.startswith("messages[0].content[1]")


def test_an_answer_can_be_part_of_the_next_question(server):
    """With all fields that the client keeps of it."""
    completions = client(server).chat.completions
    body = question()
    answer = completions.create(**body).choices[0].message
    body["messages"] += [answer, {"role": "user", "content": "And behind it?"}]
    assert completions.create(**body).choices[0].message.content == TEXT
    messages, _ = server.engine.asked[-1]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == [{"type": "text", "text": TEXT}]


def test_sampling_reaches_the_engine(server):
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "max_completion_tokens": 9}
    client(server).chat.completions.create(**question(**fields))
    sampling = server.engine.asked[-1][1]
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_new_tokens) == (0.5, 0.9, 3, 9)


def test_a_question_without_an_image(server):
    completion = client(server).chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert completion.choices[0].message.grounding["image"] is None


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_holds_each_word_and_phrase_once(include_usage):
    engine = FakeEngine(PIECES, delay=0.001)
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    with serving(engine) as running, client(running) as openai_client:
        chunks = list(openai_client.chat.completions.create(**question(stream=True, **options)))
    usage = chunks.pop() if include_usage else None
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    phrases = [
        phrase
        for delta in deltas[:-1]
        for phrase in (delta.model_extra.get("grounding") or {"phrases": []})["phrases"]
    ]
    # The last phrase came with one region, then with two.
    assert [(phrase["text"], phrase["region_ids"]) for phrase in phrases] == [
        ("a red cup", [0]),
        ("a table", [1]),
        ("a table", [1, 2]),
    ]
    assert deltas[-1].grounding == GROUNDING
    if include_usage:
        assert usage.choices == [] and usage.usage.completion_tokens == len(PIECES)
    assert engine.finished == 1 and engine.running == 0


def test_a_stream_ends_as_openai_ends_it(server):
    response = httpx.post(f"{server.url}/v1/chat/completions", json=question(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ValueError("`messages` are too long."), openai.BadRequestError, "invalid_messages"),
        (QueueFullError("full"), openai.InternalServerError, "queue_full"),
        (EngineClosedError("closed"), openai.InternalServerError, "shutting_down"),
        (ModelFailedError("failed"), openai.InternalServerError, "model_failed"),
    ],
)
def test_errors_of_the_engine_are_the_clients_exceptions(error, kind, code, stream):
    with pytest.raises(kind) as raised:
        ask(FakeEngine(error=error), stream=stream)
    assert raised.value.code == code
    assert raised.value.status_code == {"invalid_messages": 400, "model_failed": 500}.get(code, 503)
    if raised.value.status_code == 503:
        assert raised.value.response.headers["retry-after"] == "1"


def test_what_nobody_foresaw_is_500_without_its_words(caplog):
    with pytest.raises(openai.InternalServerError) as raised:
        ask(FakeEngine(error=RuntimeError("secret of the house")))
    assert raised.value.code == "internal_error" and "secret" not in str(raised.value.body)


@pytest.mark.parametrize(
    ("error", "code"), [(ModelFailedError("failed"), "model_failed"), (RuntimeError("secret"), "internal_error")]
)
def test_an_error_in_the_middle_of_a_stream_is_raised(error, code, caplog):
    engine = FakeEngine(PIECES, error=error, error_after=3, delay=0.001)
    with serving(engine) as running, client(running) as openai_client:
        seen = []
        with pytest.raises(openai.APIError) as raised:
            for chunk in openai_client.chat.completions.create(**question(stream=True)):
                seen.append(chunk)
        assert seen and raised.value.code == code and "secret" not in str(raised.value.body)
        assert running.engine.running == 0


def test_models(server):
    openai_client = client(server)
    assert [model.id for model in openai_client.models.list()] == [MODEL]
    assert openai_client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as raised:
        openai_client.models.retrieve("gpt-5")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as raised:
        openai_client.chat.completions.create(**question() | {"model": "gpt-5"})
    assert raised.value.code == "model_not_found" and "'toy'" in raised.value.message


def test_a_model_of_the_hub_has_a_slash_in_its_name(monkeypatch):
    monkeypatch.setattr(running_server, "MODEL", "org/toy")
    with serving(FakeEngine()) as running, client(running) as openai_client:
        assert openai_client.models.retrieve("org/toy").id == "org/toy"
        completion = openai_client.chat.completions.create(**question())
    assert completion.model == "org/toy"


def test_a_path_or_method_that_there_is_not(server):
    with pytest.raises(openai.NotFoundError) as raised:
        client(server).embeddings.create(model=MODEL, input="Hi")
    assert "POST /v1/embeddings" in raised.value.message
    response = httpx.get(f"{server.url}/v1/chat/completions")
    assert response.status_code == 405 and "POST" in response.json()["error"]["message"]
    assert httpx.get(f"{server.url}/docs").status_code == 404
    # No redirect: it would lead to whatever host the client names.
    response = httpx.get(f"{server.url}/health/", headers={"Host": "evil.example"})
    assert response.status_code == 404 and "location" not in response.headers
    response = httpx.request("A" * 3000, f"{server.url}/health")
    assert response.status_code == 405 and len(response.text) < 300


def test_asynchronous_clients_share_the_server():
    import asyncio

    async def ask_all(url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as asynchronous:
            return await asyncio.gather(*(asynchronous.chat.completions.create(**question()) for _ in range(20)))

    with serving(FakeEngine(delay=0.05)) as running:
        answers = asyncio.run(ask_all(running.url))
    assert {answer.choices[0].message.content for answer in answers} == {TEXT}
    assert len({answer.id for answer in answers}) == 20


def test_data_urls_of_several_formats(server):
    from PIL import Image

    for kind in ("PNG", "JPEG", "WEBP"):
        part = {
            "type": "image_url",
            "image_url": {"url": data_url(Image.new("RGB", (30, 20)), kind), "detail": "high"},
        }
        body = {"model": MODEL, "messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]}
        grounding = client(server).chat.completions.create(**body).choices[0].message.grounding
        assert grounding["image"] == {"width": 30, "height": 20}
