"""Whatever a request holds, it is answered or refused with a sentence; nothing is an error of the server."""

import copy
import json
import random

import pytest

from transformers_groma.serving.api_errors import ApiError
from transformers_groma.serving.chat_request import HARMLESS, UNSUPPORTED, ChatRequest, read_chat_request
from transformers_groma.serving.settings import ServerSettings

from .fake_engine import FakeEngine
from .running_server import data_url, question, raw_request, read_all, serving

ODD = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        10**400,
        0.5,
        -0.0,
        1e308,
        "",
        " ",
        "x",
        "\x00",
        "\u202e",
        "\U0010ffff",
    ),
    *([], [[]], [None], {}, {"type": "text"}, {"type": None}, {"type": ["text"]}, {"role": {}}, {"": ""}),
    *("user", "system", "assistant", "text", "region", "phrase", "image_url", "data:", "data:image/png;base64,"),
    *("[grounding]", "<region>", "<image>", "</s>", [1, 2, 3, 4], ["1", 2, 3, 4], [1e400, 0, 0, 0]),
]
SETTINGS = ServerSettings("toy")
ASKS = {"type": "text", "text": "?"}


def places(value, path=()):
    """All places in a value."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def mutated(value, generator: random.Random):
    """A value that is odd in one to three places."""
    value = copy.deepcopy(value)
    for _ in range(generator.randint(1, 3)):
        *path, last = generator.choice([place for place in places(value) if place])
        target = value
        for key in path:
            target = target[key]
        odd = copy.deepcopy(generator.choice(ODD))
        action = generator.randrange(4)
        if action == 0:
            del target[last]
        elif action == 1 and isinstance(target, dict):
            target[generator.choice([*UNSUPPORTED, *HARMLESS, *ChatRequest.model_fields, "type", "box", "x"])] = odd
        elif action == 2 and isinstance(target, list):
            target.insert(last, odd)
        else:
            target[last] = odd
    return value


def valid_body():
    body = question(
        {"type": "region", "box": [1, 2, 30, 40]},
        {"type": "region", "points": [[1, 2], [30, 40]], "labels": [1, 0], "ambiguity": "part"},
        {"type": "region", "mask": {"size": [48, 64], "counts": "0`P1"}},
        {"type": "phrase", "text": "a cup"},
        stream=False,
        max_tokens=5,
    )
    body["messages"][:0] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello.", "grounding": {"phrases": []}},
    ]
    body["stream_options"] = None
    return body


def test_odd_requests_are_read_or_refused():
    generator = random.Random(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(4000):
        body = json.dumps(mutated(valid_body(), generator)).encode()
        try:
            read_chat_request(body, SETTINGS)
            outcomes["read"] += 1
        except ApiError as error:
            assert error.status in (400, 404) and error.message.strip().endswith("."), error.message
            assert len(error.message) < 1000 and "pydantic" not in error.message
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100, outcomes


def test_truncated_and_garbled_bodies_are_refused():
    generator = random.Random(1)
    body = json.dumps(question(text="What? \u00e9\u4e2d")).encode()
    for _ in range(500):
        broken = bytearray(body[: generator.randrange(len(body))])
        for _ in range(generator.randrange(4)):
            if broken:
                broken[generator.randrange(len(broken))] = generator.randrange(256)
        with pytest.raises(ApiError) as raised:
            read_chat_request(bytes(broken), SETTINGS)
        assert raised.value.code == "invalid_json"


def test_odd_requests_over_http_are_never_errors_of_the_server(caplog):
    generator = random.Random(2)
    engine = FakeEngine()
    with serving(engine, read_timeout=2.0) as running:
        for number in range(150):
            body = mutated(question({"type": "region", "box": [1, 2, 30, 40]}), generator)
            if number % 3 == 0:
                body = question() | {"messages": [{"role": "user", "content": [odd_image(generator), ASKS]}]}
            with running.connect() as connection:
                connection.sendall(raw_request(json.dumps(body).encode(), Connection="close"))
                answer = read_all(connection)
            status = int(answer.split()[1])
            assert status in (200, 400, 404), answer
            if status != 200:
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"].endswith(".")
        assert engine.running == 0 and running.lifecycle.running == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def odd_image(generator: random.Random):
    """An image whose bytes are garbled."""
    url = data_url()
    head, _, content = url.partition(",")
    position = generator.randrange(len(content))
    content = content[:position] + generator.choice("ABCxyz019+/=?") * 3 + content[position + 3 :]
    return {"type": "image_url", "image_url": {"url": f"{head},{content}"}}
