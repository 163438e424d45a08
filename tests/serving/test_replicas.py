"""`groma serve --replicas 2` on loopback, with Ray: answers, streams, a killed replica, too much at once, the end.

Needs `ray[serve]`, which the tests' environment does not have: run it with a Python that has both.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub.utils import httpx

from transformers_groma.cli.serve_replicas import missing_packages
from transformers_groma.serving.engine import Engine
from transformers_groma.serving.ray_head import RayHead, connection_variables, session_processes
from transformers_groma.shapes.scenes import make_scene

from .running_server import MODEL, data_url, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_packages()), reason="ray[serve] is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of replicas in /proc"),
]

CHAT = "/v1/chat/completions"
KEY = "sk-replicas-secret"
# Ray on a loaded machine of two cores takes minutes.
START, PATIENCE = 600, 240
# Small, so that few requests are too many: each replica takes 12.
LIMITS = ("--max-batch-size", "4", "--max-waiting", "8", "--cpus-per-replica", "0.5", "--served-name", MODEL)


class Replicas:
    """A running `groma serve --replicas`, or whatever else runs in its place."""

    def __init__(self, process: subprocess.Popen, errors: Path, url: str = "") -> None:
        self.process, self._errors, self.url = process, errors, url
        self.client = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE)

    def stderr(self) -> str:
        return self._errors.read_text()

    def ask(self, body: dict[str, Any]) -> httpx.Response:
        return self.client.post(f"{self.url}{CHAT}", json=body)

    def metrics(self) -> dict[str, dict[str, float]]:
        """By replica, each metric without other labels."""
        text = self.client.get(f"{self.url}/metrics").text
        found: dict[str, dict[str, float]] = {}
        for name, replica, value in re.findall(r'^(\w+){replica="(\w+)"} (\S+)$', text, flags=re.MULTILINE):
            found.setdefault(replica, {})[name] = float(value)
        return found


@contextmanager
def command(folder: Path, *words: object, **environment: str) -> Iterator[Replicas]:
    """Run a command of Python; at the end it is told to stop."""
    errors = folder / "stderr.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "GROMA_KERNELS": "reference", **environment},
        )
    running = Replicas(process, errors)
    try:
        yield running
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        process.stdout.close()
        running.client.close()


@contextmanager
def replicas(folder: Path, *options: object, **environment: str) -> Iterator[Replicas]:
    """Start `groma serve --replicas 2`, and wait until it answers."""
    words = ("transformers_groma.cli", "serve", "--replicas", 2, "--port", 0, "--device", "cpu", *LIMITS, *options)
    with command(folder, *words, **environment) as running:
        line = running.process.stdout.readline()
        assert re.match(rf"serving {MODEL} at http://127\.0\.0\.1:\d+/v1, 2 replicas", line), running.stderr()
        running.url = re.search(r"http://[^/]+", line)[0]
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    start = time.monotonic()
    with replicas(tmp_path_factory.mktemp("server"), "--log-requests", GROMA_API_KEY=KEY) as running:
        print(f"started in {time.monotonic() - start:.0f} s")
        yield running


def until(is_true: Callable[[], Any], seconds: float) -> None:
    """Look now and then, as each look at the metrics asks all replicas."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def ray_session(running: Replicas) -> int:
    """The session of the Ray that it has started."""
    (head,) = (
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and parent_of(entry) == running.process.pid
    )
    return head


def parent_of(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def replica_processes(session: int) -> list[int]:
    found = []
    for number in session_processes(session):
        try:
            if Path(f"/proc/{number}/cmdline").read_bytes().startswith(b"ray::ServeReplica:groma:Groma"):
                found.append(number)
        except OSError:
            pass
    return found


def description(index: int, **fields: Any) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": data_url(make_scene(seed=5, split="test", index=index).draw())}}
    text = {"type": "text", "text": "Please describe the image in detail."}
    return {"model": MODEL, "messages": [{"role": "user", "content": [image, text]}], "grounding": True, **fields}


def pointing(index: int, **fields: Any) -> dict[str, Any]:
    scene = make_scene(seed=5, split="test", index=index)
    image = {"type": "image_url", "image_url": {"url": data_url(scene.draw())}}
    region = {"type": "region", "box": [float(value) for value in scene.boxes_xyxy[0]]}
    content = [image, {"type": "text", "text": "What is "}, region, {"type": "text", "text": "?"}]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


QUESTIONS = [*(description(index) for index in range(6)), *(pointing(index, masks=True) for index in range(6, 10))]


@pytest.fixture(scope="module")
def expected(tiny_dir):
    """What one process answers."""
    with serving(Engine.from_pretrained(tiny_dir, device="cpu")) as local:
        return [httpx.post(f"{local.url}{CHAT}", json=body, timeout=PATIENCE).json() for body in QUESTIONS]


def at_once(work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(items)) as threads:
        return list(threads.map(work, items))


def close(found: Any, wanted: Any) -> bool:
    """Equal, but for the last digits of numbers."""
    if isinstance(wanted, dict):
        return set(found) == set(wanted) and all(close(found[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return found == (pytest.approx(wanted, abs=0.1) if isinstance(wanted, float) else wanted)


def without_masks(message: dict[str, Any]) -> dict[str, Any]:
    grounding = {**message["grounding"]}
    grounding["user_regions"] = [{**region, "mask": None} for region in grounding["user_regions"]]
    grounding["phrases"] = [{**phrase, "masks": None} for phrase in grounding["phrases"]]
    return {**message, "grounding": grounding}


def test_answers_are_those_of_one_process(server, expected):
    """And both replicas give them."""
    before = server.metrics()
    start = time.monotonic()
    answers = [response.json() for response in at_once(server.ask, QUESTIONS)]
    print(f"{len(answers)} answers in {time.monotonic() - start:.1f} s")
    for answer, wanted in zip(answers, expected, strict=True):
        found, message = answer["choices"][0], wanted["choices"][0]["message"]
        assert found["message"]["content"] == message["content"]
        assert close(without_masks(found["message"]), without_masks(message))
        assert answer["usage"] == wanted["usage"]
    assert all("mask" in answer["choices"][0]["message"]["grounding"]["user_regions"][0] for answer in answers[6:])
    after = server.metrics()
    assert len(after) == 2
    name = "groma_requests_answered_total"
    assert all(values[name] > before.get(replica, {}).get(name, 0) for replica, values in after.items()), after


def test_streams_and_masks_without_a_question(server, expected):
    with server.client.stream("POST", f"{server.url}{CHAT}", json={**QUESTIONS[0], "stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream") and lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    message = expected[0]["choices"][0]["message"]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    assert len(lines) > 4 and len(deltas[-1]["grounding"]["phrases"]) == len(message["grounding"]["phrases"])

    scene = make_scene(seed=5, split="test", index=0)
    body = {"model": MODEL, "image_url": {"url": data_url(scene.draw())}, "regions": [{"box": [10, 10, 60, 60]}]}
    response = server.client.post(f"{server.url}/v1/segment", json=body)
    assert response.status_code == 200 and "mask" in response.json()["regions"][0]


def test_errors_are_those_of_one_process(server):
    """Keys, fields, paths, and bodies of another type."""
    url = server.url
    assert httpx.get(f"{url}/health").json()["status"] == "ok"
    refused = httpx.get(f"{url}/v1/models")
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    wrong = server.ask(description(0, n=2))
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "n"
    assert server.client.get(f"{url}/nothing").json()["error"]["message"].startswith("There is no GET /nothing here.")
    assert server.client.post(f"{url}{CHAT}", content=b"{}").status_code == 415
    until(lambda: re.search(r"127\.0\.0\.1 GET /nothing 404 \d\.\d{3} s", server.stderr()), PATIENCE)


def test_no_key_is_anywhere_in_rays_files(server):
    (folder,) = {
        Path(word).parts[2]
        for number in session_processes(ray_session(server))
        for word in Path(f"/proc/{number}/cmdline").read_text().split("\0")
        if word.startswith("/tmp/groma-ray-")
    }
    found = [path for path in Path("/tmp", folder).rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert found == [] and KEY not in server.stderr()


def outcome(server: Replicas, index: int) -> str:
    """How a request ends: `whole`, or the code of its error. Even ones are streams."""
    body = description(index % 6)
    if index % 2:
        response = server.ask(body)
        if response.status_code == 200:
            return "whole"
        assert response.status_code == 503 and response.headers["retry-after"] == "1", response.text
        return response.json()["error"]["code"]
    with server.client.stream("POST", f"{server.url}{CHAT}", json={**body, "stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    if response.status_code != 200:
        return json.loads("".join(lines))["error"]["code"]
    return "whole" if lines[-1] == "[DONE]" else f"stream: {json.loads(lines[-1])['error']['code']}"


def test_a_killed_replica_loses_what_it_worked_on_and_is_replaced(server):
    session = ray_session(server)
    old, victims = set(server.metrics()), replica_processes(session)
    assert len(victims) == 2
    with ThreadPoolExecutor(20) as threads:
        running = [threads.submit(outcome, server, index) for index in range(20)]
        until(lambda: sum(each["groma_requests_running"] for each in server.metrics().values()) >= 2, PATIENCE)
        os.kill(victims[0], signal.SIGKILL)
        killed = time.monotonic()
        outcomes = Counter(each.result() for each in running)
    print(f"outcomes of 20 requests: {dict(outcomes)}")
    assert outcomes["whole"] > 0 and 0 < outcomes["replica_failed"] + outcomes["stream: replica_failed"] < 20
    assert set(outcomes) <= {"whole", "replica_failed", "stream: replica_failed"}
    # The other one goes on alone.
    assert [server.ask(description(index)).status_code for index in range(4)] == [200] * 4
    until(lambda: len(replica_processes(session)) == 2 and len(server.metrics()) == 2, PATIENCE)
    print(f"two replicas again after {time.monotonic() - killed:.0f} s")
    assert len(set(server.metrics()) & old) == 1
    until(lambda: "groma serve: 2 replicas running" in server.stderr(), PATIENCE)
    assert Counter(at_once(lambda index: outcome(server, index), list(range(8)))) == {"whole": 8}


def test_too_much_at_once_is_refused_in_the_words_of_the_api(server):
    start = time.monotonic()
    outcomes = Counter(at_once(lambda index: outcome(server, index), list(range(80))))
    print(f"outcomes of 80 requests at once: {dict(outcomes)} in {time.monotonic() - start:.1f} s")
    assert set(outcomes) == {"whole", "queue_full"} and outcomes["whole"] >= 12
    assert server.ask(description(0)).status_code == 200


def test_a_signal_finishes_what_runs_and_leaves_nothing(server):
    session = ray_session(server)
    results = []
    thread = threading.Thread(target=lambda: results.append(outcome(server, 0)))
    thread.start()
    until(lambda: sum(each["groma_requests_running"] for each in server.metrics().values()) >= 1, PATIENCE)
    start = time.monotonic()
    server.process.terminate()
    until(lambda: "finishing what runs" in server.stderr(), PATIENCE)
    thread.join(PATIENCE)
    assert server.process.wait(PATIENCE) == 0
    print(f"ended in {time.monotonic() - start:.1f} s")
    assert results == ["whole"]
    assert server.stderr().endswith("groma serve: stopped\n") and "Traceback" not in server.stderr()
    assert session_processes(session) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


# A Ray that runs already, for what needs no replicas of its own for long.


@pytest.fixture(scope="module")
def cluster():
    head = RayHead.start(os.environ, timeout=START)
    yield {"RAY_ADDRESS": head.address, **connection_variables(head.folder)}
    assert head.is_running  # nobody has stopped it
    head.stop()


def error_of(tmp_path: Path, cluster: dict[str, str], *options: object) -> str:
    words = ("transformers_groma.cli", "serve", "--port", 0, "--device", "cpu", *options)
    with command(tmp_path, *words, **cluster) as running:
        assert running.process.wait(PATIENCE) == 2
        lines = [line for line in running.stderr().splitlines() if line.startswith("groma serve: error: ")]
        assert len(lines) == 1 and "Traceback" not in running.stderr(), running.stderr()
        return lines[0]


def test_more_replicas_than_there_is_room_for(tmp_path, cluster):
    cpus = os.cpu_count()
    assert error_of(tmp_path, cluster, "--replicas", cpus + 1) == (
        f"groma serve: error: --replicas {cpus + 1} needs {cpus + 1} CPUs, 1 for each, and the Ray cluster has "
        f"{cpus}: pass fewer replicas, or a smaller --cpus-per-replica."
    )


def test_why_a_replica_cannot_load_its_model(tmp_path, cluster, tiny_dir):
    """The configuration is right, so that only the replica finds out."""
    model = tmp_path / "broken"
    shutil.copytree(tiny_dir, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = error_of(tmp_path, cluster, "--replicas", 1, "--model", model)
    print(message)
    assert "the replicas did not start: " in message and str(model) in message


def test_a_file_for_serve_run_and_replicas_that_come_when_needed(tmp_path, cluster):
    """Ray's own command reads the file; under load a second replica comes."""
    path = tmp_path / "serve.yaml"
    options = ("--replicas", "1-2", "--device", "cpu", "--write-config", path, *LIMITS)
    words = [sys.executable, "-m", "transformers_groma.cli", "serve", *map(str, options)]
    subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE)
    content = yaml.safe_load(path.read_text())
    (application,) = content["applications"]
    application["deployments"][0]["autoscaling_config"] |= {"upscale_delay_s": 1.0, "look_back_period_s": 5.0}
    content["http_options"]["port"] = port = random.randrange(20_000, 30_000)
    path.write_text(yaml.safe_dump(content))

    with command(tmp_path, "ray.serve.scripts", "run", path, **cluster) as running:
        running.url = f"http://127.0.0.1:{port}"

        def is_up() -> bool:
            assert running.process.poll() is None, running.stderr()
            try:
                return running.client.get(f"{running.url}/health").status_code == 200
            except httpx.HTTPError:
                return False

        until(is_up, START)
        assert len(running.metrics()) == 1
        start, done = time.monotonic(), threading.Event()

        def keep_asking(index: int) -> None:
            while not done.is_set():
                assert running.ask(description(index)).status_code in (200, 503)

        with ThreadPoolExecutor(10) as threads:
            asking = [threads.submit(keep_asking, index) for index in range(10)]
            try:
                until(lambda: len(running.metrics()) == 2, START)
            finally:
                done.set()
            print(f"a second replica after {time.monotonic() - start:.0f} s")
            for each in asking:
                each.result()
        running.process.send_signal(signal.SIGINT)
        running.process.wait(PATIENCE)
