"""`groma serve` as an application of Ray Serve, without Ray: its arguments, and what a replica runs."""

import asyncio
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import httpx

from transformers_groma.cli import build_parser
from transformers_groma.cli.ray_serve import (
    Replica,
    ReplicaStartError,
    build,
    failure_in,
    read_values,
    reason_of,
    values_of,
)
from transformers_groma.shapes.scenes import make_scene

from ..serving.running_server import data_url

HUB_CONFIGS = Path(__file__).parents[2] / "hub_configs"


def command(*words: object):
    return build_parser().parse_args(["serve", *map(str, words)])


def test_arguments_survive_the_way_to_a_replica(tmp_path, monkeypatch):
    """All that the command line says of the app is what a replica reads; of the address it says nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    arguments = command(
        *("--model", "model", "--device", "cpu", "--max-batch-size", 3, "--max-held-mb", 99.5, "--allow-image-urls"),
        *("--cors-origin", "https://a.org", "--cors-origin", "https://b.org", "--api-key-file", "keys.txt"),
        *("--port", 1234, "--host", "0.0.0.0", "--shutdown-timeout", 3),
    )
    values = values_of(arguments)
    assert values == {
        "model": str(tmp_path / "model"),
        "device": "cpu",
        "max_batch_size": 3,
        "max_held_mb": 99.5,
        "allow_image_urls": True,
        "cors_origin": ["https://a.org", "https://b.org"],
        "api_key_file": str(tmp_path / "keys.txt"),
    }
    read = vars(read_values(values))
    changed = {"model": values["model"], "api_key_file": tmp_path / "keys.txt", "needs_api_key": False}
    assert read == {name: vars(arguments).get(name) for name in read} | changed


def test_defaults_are_those_of_the_command():
    read = vars(read_values({}))
    assert read.pop("needs_api_key") is False
    assert read == {name: getattr(command(), name) for name in read}
    assert values_of(command()) == {}


def test_text_is_read_as_from_the_command_line():
    """`serve run …:build max_batch_size=16` hands on text."""
    read = read_values({"max_batch_size": "16", "allow_image_urls": "true", "log_requests": "False", "device": None})
    assert (read.max_batch_size, read.allow_image_urls, read.log_requests, read.device) == (16, True, False, None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_batch": 3}, "'max_batch' is not an argument of the application: pass "),
        ({"max-batch-size": 3}, "is not an argument"),
        ({"port": 80}, "'port' is not an argument"),
        ({"api_key": "sk-secret"}, "'api_key' is not an argument"),
        ({"max_batch_size": 0}, "--max-batch-size: '0' must be a positive integer"),
        ({"max_batch_size": 1.5}, "must be a positive integer"),
        ({"allow_image_urls": "maybe"}, "'allow_image_urls' must be true or false, got 'maybe'"),
        ({"cors_origin": ["nowhere"]}, "is not an origin"),
        ({"dtype": "int3"}, "--dtype"),
        ({"lm_model": "lm"}, "--lm-model is about a language server"),
        ({"lm_url": "http://user:secret@lm/v1"}, "GROMA_LM_API_KEY"),
        ({"lm_api_key": "sk-secret"}, "'lm_api_key' is not an argument"),
    ],
)
def test_arguments_that_are_wrong(values, words):
    with pytest.raises(ValueError, match=words) as raised:
        read_values(values)
    assert "secret" not in str(raised.value)


def test_why_replicas_do_not_start_is_one_line():
    message = 'The deployment failed to start 2 times.\nTraceback:\n  File "x.py"\n    raise\nValueError: no\n'
    assert reason_of(message) == "ValueError: no"
    told = f"{message}transformers_groma.cli.ray_serve.ReplicaStartError: This replica cannot start: no key.\n\x1b[0m"
    assert reason_of(told) == failure_in(told) == "no key." and failure_in(message) is None
    assert reason_of("") == "Ray gives no reason"


@pytest.mark.parametrize(("device", "has_gpus", "gpus"), [(None, True, 1.0), (None, False, 0.0), ("cpu", True, 0.0)])
def test_the_builder_of_serve_run(monkeypatch, device, has_gpus, gpus):
    """One replica, with a GPU where there are any; wrong arguments end before anything is deployed."""
    options: dict = {}

    def deployment(cls: type, **given: object) -> SimpleNamespace:
        options.update(given)
        return SimpleNamespace(bind=lambda values: values)

    fake = SimpleNamespace(deployment=deployment, ingress=lambda: lambda cls: cls)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=fake))
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpus)
    args = {"model": "groma-7b", "max_batch_size": "16", **({} if device is None else {"device": device})}
    assert build(args) == args
    assert options["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": gpus} and options["num_replicas"] == 1
    assert options["max_ongoing_requests"] > 16 + 64
    with pytest.raises(ValueError, match="'modle' is not an argument"):
        build({"modle": "groma-7b"})


class FakeServe:
    """What a replica asks of Ray Serve: who it is, and all replicas."""

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self.is_late = self.one_is_dead = False

    def get_replica_context(self) -> SimpleNamespace:
        name = f"r{len(self.replicas)}"
        return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), deployment="Groma", app_name="groma")

    def get_deployment_handle(self, deployment: str, application: str) -> SimpleNamespace:
        assert (deployment, application) == ("Groma", "groma")
        return SimpleNamespace(broadcast=self.broadcast)

    def broadcast(self, method: str) -> SimpleNamespace:
        async def results_async(timeout_s: float, return_exceptions: bool) -> list:
            assert return_exceptions
            if self.is_late:
                raise TimeoutError
            told = [await getattr(replica, method)() for replica in self.replicas]
            return [*told[:-1], RuntimeError("it died")] if self.one_is_dead else told

        return SimpleNamespace(results_async=results_async)


@pytest.fixture
def serve(monkeypatch):
    fake = FakeServe()
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=fake))
    return fake


@pytest.fixture
def start(serve, tiny_dir):
    """Makes replicas, each with its app; in the end their engines are closed."""

    def make(**values: object) -> Replica:
        replica = Replica({"model": str(tiny_dir), "device": "cpu", **values})
        serve.replicas.append(replica)
        replica.__serve_build_asgi_app__()
        return replica

    yield make
    for replica in serve.replicas:
        replica._engine.close(0)


def ask(replica: Replica, path: str, body: dict | None = None, **headers: str) -> httpx.Response:
    async def send():
        transport = httpx.ASGITransport(app=replica._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=120) as client:
            return await client.request("GET" if body is None else "POST", path, json=body, headers=headers)

    return asyncio.run(send())


def test_replicas_tell_the_metrics_of_all(serve, start):
    first, second = start(served_name="tiny"), start(served_name="tiny")
    assert ask(first, "/v1/models").json()["data"][0]["id"] == "tiny"
    text = ask(second, "/metrics").text
    assert 'groma_http_requests_total{endpoint="/v1/models",replica="r0",status="200"} 1.0' in text
    assert 'groma_requests_waiting{replica="r0"} 0.0' in text and 'groma_requests_waiting{replica="r1"} 0.0' in text
    serve.one_is_dead = True
    text = ask(first, "/metrics").text
    assert 'replica="r0"' in text and 'replica="r1"' not in text
    serve.is_late = True
    late = ask(first, "/metrics")
    assert late.status_code == 503 and late.json()["error"]["code"] == "metrics_late"


@pytest.mark.parametrize("family", ["groma-tiny", "glamm-tiny"])
def test_replicas_of_both_families_answer(start, family):
    """Here: what is there, with masks."""
    replica = start(model=str(HUB_CONFIGS / family))
    scene = make_scene(seed=5, split="test", index=0)
    image = {"type": "image_url", "image_url": {"url": data_url(scene.draw())}}
    text = {"type": "text", "text": "Please describe the image in detail."}
    messages = [{"role": "user", "content": [image, text]}]
    body = {"model": family, "messages": messages, "grounding": True, "masks": True, "max_tokens": 64}
    answer = ask(replica, "/v1/chat/completions", body).json()["choices"][0]["message"]
    assert answer["content"] and all(phrase["masks"] for phrase in answer["grounding"]["phrases"])


def test_a_replica_with_a_dead_engine_is_unhealthy(start):
    replica = start()
    replica.check_health()
    replica._engine.close(0)
    with pytest.raises(RuntimeError, match="has ended"):
        replica.check_health()
    assert ask(replica, "/health").status_code == 503


def test_keys_come_from_a_file_or_the_environment_of_the_replica(start, tmp_path, monkeypatch):
    (tmp_path / "keys.txt").write_text("sk-one\n")
    monkeypatch.setenv("GROMA_API_KEY", "sk-two")
    replica = start(api_key_file=str(tmp_path / "keys.txt"), needs_api_key=True)
    assert ask(replica, "/v1/models").status_code == 401
    assert all(
        ask(replica, "/v1/models", Authorization=f"Bearer {key}").status_code == 200 for key in ("sk-one", "sk-two")
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "/no/such/model"}, "--model '/no/such/model' is not a folder"),
        ({"device": "warp"}, "--device 'warp' cannot be used"),
        ({"needs_api_key": True}, "it has no API key, though the server was set up with one"),
        ({"api_key_file": "/no/keys.txt"}, "No such file"),
        ({"max_held_mb": 1}, "one request may hold"),
    ],
)
def test_a_replica_says_why_it_cannot_start(serve, tiny_dir, monkeypatch, values, words):
    monkeypatch.delenv("GROMA_API_KEY", raising=False)
    with pytest.raises(ReplicaStartError) as raised:
        Replica({"model": str(tiny_dir), "device": "cpu", **values})
    assert words in reason_of(f"Traceback\n{type(raised.value).__name__}: {raised.value}")


def test_weights_that_cannot_be_read(serve, tiny_dir, tmp_path):
    """Whatever is raised, the replica names the model."""
    model = tmp_path / "broken"
    shutil.copytree(tiny_dir, model)
    (model / "model.safetensors").write_bytes((tiny_dir / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ReplicaStartError) as raised:
        Replica({"model": str(model), "device": "cpu"})
    assert str(model) in failure_in(str(raised.value))
