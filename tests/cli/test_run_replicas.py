"""The run of `groma serve --replicas`, with a few lines in place of Ray: what it says, when it ends, what it stops."""

import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from transformers_groma.cli import build_parser, run_replicas
from transformers_groma.cli.arguments import CommandError
from transformers_groma.cli.run_replicas import serve_until_signal
from transformers_groma.serving import ray_head
from transformers_groma.serving.ray_head import RayStartError


def state(status: str, message: str = "", **replicas: int) -> SimpleNamespace:
    deployment = SimpleNamespace(message=message, replica_states=replicas)
    return SimpleNamespace(status=SimpleNamespace(value=status), message="", deployments={"Groma": deployment})


class FakeRay:
    """A Ray with Ray Serve that goes through given states; after the last one a signal comes.

    Args:
        states: of the application, one for each look; one that is an exception is raised.
        cpus: of the cluster.
        has_serve: whether Ray Serve runs already.
    """

    def __init__(self, *states: Any, cpus: float = 4.0, has_serve: bool = False) -> None:
        self.states, self.cpus, self.has_serve = list(states), cpus, has_serve
        self.did: list[str] = []
        self.options: dict[str, Any] = {}
        self.serve = SimpleNamespace(
            start=self.start,
            run_many=lambda targets, **_: self.did.append("run"),
            RunTarget=lambda **fields: fields,
            status=self.status,
            delete=lambda name: self.did.append(f"delete {name}"),
            shutdown=lambda: self.did.append("serve.shutdown"),
            ingress=lambda: lambda cls: cls,
            deployment=self.deployment,
        )

    def init(self, address: str, **options: Any) -> None:
        if address == "nowhere":
            raise ConnectionError("Failed to connect to Ray cluster at nowhere")
        self.did.append(f"init {address}")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def get_actor(self, name: str, namespace: str) -> object:
        if not self.has_serve:
            raise ValueError(name)
        return object()

    def shutdown(self) -> None:
        self.did.append("shutdown")

    def start(self, http_options: dict[str, Any], **options: Any) -> None:
        self.did.append(f"start {http_options['host']}:{http_options['port']}")

    def deployment(self, cls: type, **options: Any) -> SimpleNamespace:
        self.options = options
        return SimpleNamespace(bind=lambda values: ("application", values))

    def status(self) -> SimpleNamespace:
        found = self.states.pop(0)
        if not self.states:
            os.kill(os.getpid(), signal.SIGTERM)
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(applications={} if found is None else {"groma": found})


class FakeHead:
    """A Ray that was started here."""

    address, metrics_port, folder = "127.0.0.1:1", 9, "/tmp/groma-ray-x"

    def __init__(self) -> None:
        self.is_running, self.stopped = True, []

    def stop(self, keep_logs: bool = False) -> None:
        self.stopped.append(keep_logs)


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Runs replicas on a Ray."""
    monkeypatch.setattr(run_replicas, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ray_head, "connection_variables", lambda folder: {})
    monkeypatch.delenv("RAY_DEDUP_LOGS", raising=False)

    def run(ray: FakeRay, *words: str, address: str | None = "10.0.0.1:6379") -> FakeHead:
        monkeypatch.setitem(sys.modules, "ray", ray)
        head = FakeHead()
        monkeypatch.setattr(ray_head.RayHead, "start", lambda environment, wait: head)
        arguments = build_parser().parse_args(["serve", "--replicas", "2", "--served-name", "tiny", *words])
        run.head = head
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            serve_until_signal(arguments, {"model": "x"}, address, 8123)
        finally:
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
            monkeypatch.delenv("RAY_DEDUP_LOGS", raising=False)
        return head

    return run


def test_it_serves_until_a_signal_comes(serve, capsys):
    ray = FakeRay(None, state("DEPLOYING", RUNNING=1, STARTING=1), state("RUNNING", RUNNING=2), state("RUNNING"))
    serve(ray, "--shutdown-timeout", "12")
    out, err = capsys.readouterr()
    assert out == "serving tiny at http://127.0.0.1:8123/v1, 2 replicas (Ctrl-C stops them)\n"
    assert err.splitlines()[-2:] == [
        "groma serve: finishing what runs, for 12 s at most (Ctrl-C again stops at once)",
        "groma serve: stopped",
    ]
    assert ray.did == [
        "init 10.0.0.1:6379",
        "start 127.0.0.1:8123",
        "run",
        "delete groma",
        "serve.shutdown",
        "shutdown",
    ]
    assert ray.options["num_replicas"] == 2 and ray.options["graceful_shutdown_timeout_s"] == 12.0


def test_a_ray_of_its_own_is_stopped(serve, capsys):
    ray = FakeRay(state("RUNNING", RUNNING=2), state("RUNNING", RUNNING=2))
    head = serve(ray, address=None)
    assert head.stopped == [False] and "serve.shutdown" not in ray.did  # it ends with Ray
    assert "Ray's own metrics are at http://127.0.0.1:9/metrics" in capsys.readouterr().err


def test_it_tells_when_replicas_come_and_go(serve, capsys):
    failing = "Traceback\nReplicaStartError: This replica cannot start: out of memory."
    ray = FakeRay(
        state("RUNNING", RUNNING=2),
        state("RUNNING", RUNNING=2),
        state("RUNNING", RUNNING=1, STARTING=1),
        state("UNHEALTHY", failing, RUNNING=1, STARTING=1),
        state("UNHEALTHY", failing, RUNNING=1, STARTING=1),
        state("RUNNING", RUNNING=2),
        state("RUNNING", RUNNING=2),
    )
    serve(ray)
    assert capsys.readouterr().err.splitlines()[:3] == [
        "groma serve: 1 replica running, 1 starting",
        "groma serve: a replica does not start: out of memory.",
        "groma serve: 2 replicas running",
    ]


@pytest.mark.parametrize("status", ["DEPLOY_FAILED", "DEPLOYING"])
def test_why_replicas_do_not_start(serve, capsys, status):
    """Also while Ray tries again."""
    failing = state(status, "Traceback\n\x1b[36mReplicaStartError: This replica cannot start: no such model.")
    with pytest.raises(CommandError, match=r"^the replicas did not start: no such model\.$"):
        serve(FakeRay(state("DEPLOYING"), failing, failing), address=None)
    assert serve.head.stopped == [False] and capsys.readouterr().out == ""


def test_a_slow_start_is_reported(serve, monkeypatch, capsys):
    monkeypatch.setattr(run_replicas, "_REPORT_SECONDS", 0.0)
    slow = "Deployment 'Groma' has 1 replica that has taken more than 30s to initialize."
    serve(FakeRay(state("DEPLOYING", slow, RUNNING=1, STARTING=1), state("RUNNING", RUNNING=2), state("RUNNING")))
    assert "groma serve: 1 of 2 replicas run, the others load the model or wait for CPUs" in capsys.readouterr().err


def test_a_signal_during_the_start_ends_it(serve, capsys):
    ray = FakeRay(state("DEPLOYING", STARTING=2))
    head = serve(ray, address=None)
    assert head.stopped == [False] and "delete groma" not in ray.did
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("groma serve: stopped\n")


def test_a_second_signal_ends_it_at_once(serve, capsys):
    ray = FakeRay(state("RUNNING", RUNNING=2), state("RUNNING", RUNNING=2))

    def delete(name: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    ray.serve.delete = delete
    head = serve(ray, address=None)
    assert head.stopped == [False] and capsys.readouterr().err.endswith("groma serve: stopped\n")


def test_replicas_that_take_long_to_end_are_waited_for(serve, monkeypatch):
    """Ray's own call gives up after a minute."""
    ray, late = FakeRay(state("RUNNING", RUNNING=2), state("RUNNING")), []

    def delete(name: str) -> None:
        late.append(name)
        if len(late) < 3:
            raise TimeoutError

    ray.serve.delete = delete
    serve(ray, "--shutdown-timeout", "100")
    assert len(late) == 3


def test_serve_of_somebody_else_is_left_alone(serve):
    ray = FakeRay(has_serve=True)
    with pytest.raises(CommandError, match="Ray Serve runs on 10.0.0.1:6379 already"):
        serve(ray)
    assert ray.did == ["init 10.0.0.1:6379", "shutdown"]


def test_too_little_room(serve):
    ray = FakeRay(cpus=1.0)
    with pytest.raises(CommandError, match="needs 2 CPUs, 1 for each, and the Ray cluster has 1"):
        serve(ray)
    assert ray.did == ["init 10.0.0.1:6379", "shutdown"]


def test_an_address_where_no_ray_is(serve):
    with pytest.raises(CommandError, match="RAY_ADDRESS 'nowhere' is not a Ray that can be used"):
        serve(FakeRay(), address="nowhere")


def test_a_ray_that_does_not_start(serve, monkeypatch):
    def fail(environment, wait):
        raise RayStartError("Ray did not start (no space left).")

    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray_head.RayHead, "start", fail)
    arguments = build_parser().parse_args(["serve", "--replicas", "2"])
    with pytest.raises(CommandError, match="no space left"):
        serve_until_signal(arguments, {}, None, 8123)
    assert ray.did == []


@pytest.mark.parametrize("own", [True, False])
def test_a_ray_that_ends_by_itself(serve, own):
    ray = FakeRay(state("RUNNING", RUNNING=2), ConnectionError("gone"), None)
    if not own:
        with pytest.raises(CommandError, match="the Ray cluster does not answer any more"):
            serve(ray)
        return
    status = ray.status

    def last_look() -> SimpleNamespace:
        serve.head.is_running = False
        return status()

    ray.serve.status = last_look
    with pytest.raises(CommandError, match="Ray has ended by itself. Its logs are in /tmp/groma-ray-x"):
        serve(ray, address=None)
    assert serve.head.stopped == [True]
