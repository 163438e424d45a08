"""Load test: many users on loopback against one `groma serve`, and clients that behave badly.

    python -m benchmarks.load_test [--users 32] [--seconds 60] [--rounds 3] [--crowd 400] [--max-batch-size 16]

Every user has two scenes of shapes, of an own size, and asks in turn what is in the one and where a shape of the other
is; the true boxes and phrases are known. The scenes are those that the model answers right alone (a description: at
least four shapes in full), so that a wrong answer under load is an answer to somebody else, or a broken one.

- "one_by_one": requests per second of one user, who waits for each answer and asks about the scenes of all, before
  and after; the baseline, of the same process.
- "together": requests per second of all users at once, and how long they wait; "ratio": how many times as many.
- "new_images": the same three, for a quarter of the time, with a server that keeps so few images that each request is
  looked at anew; otherwise it has seen them all before, as in a conversation.
- "rough": rounds of clients that read slowly, send half a body, leave midway, and 400 that come at once, while one
  user goes on asking; after each round the memory of the server.

The last line is JSON.
"""

import argparse
import asyncio
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import httpx

from tests.serving.running_server import data_url, raw_request
from tests.serving.served_process import ServedProcess, served
from transformers_groma.boxes import box_iou
from transformers_groma.shapes.demo import scene_questions
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.shapes.wording import with_article, words
from transformers_groma.shapes.world import Phrase

CHAT = "/v1/chat/completions"
# Seconds that the server waits for slow clients; those here stay a little longer.
PATIENCE = 4
# Seconds after which a user must have been forgotten.
LONGEST_WAIT = 180.0


@dataclass(frozen=True)
class Question:
    """A question about a scene, as a request, and its truth.

    Args:
        body: of the request.
        size: of the image, width and height.
        boxes: of what the answer should point at, `xyxy` in pixels of the image.
        phrases: what is in these boxes, where the answer has to say it.
        least: how many of them an answer must have right.
    """

    body: bytes
    size: int
    boxes: list[list[float]]
    phrases: list[str] | None
    least: int = 1

    def num_right(self, answer: dict[str, Any]) -> int:
        """How many shapes of the scene a completion points at and, where it has to, names in full."""
        grounding = answer["choices"][0]["message"]["grounding"]
        found = [(box, phrase["text"]) for phrase in grounding["phrases"] for box in phrase["boxes_xyxy"]]
        if grounding["image"] != {"width": self.size, "height": self.size} or not found:
            return 0
        best = box_iou(torch.tensor([box for box, _ in found]), torch.tensor(self.boxes)).max(dim=1)
        matches = zip(found, best.indices.tolist(), best.values.tolist(), strict=True)
        return len(
            {
                index
                for (_, text), index, iou in matches
                if iou > 0.5 and (self.phrases is None or self.phrases[index] == text)
            }
        )


def make_question(index: int, size: int) -> Question | None:
    """A question about a test scene; `None` where it has no shape that words tell from all others."""
    scene = make_scene(seed=7, split="test", index=index, image_size=size)
    is_description = size % 2 == 0
    exchange = scene_questions(scene).get("description" if is_description else "expression")
    if exchange is None:
        return None
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(scene.draw())}}]
    for part in exchange.question:
        kind = "phrase" if isinstance(part, Phrase) else "text"
        parts.append({"type": kind, "text": part.text if isinstance(part, Phrase) else part})
    body = {"model": "groma-tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 140}
    shown = scene.objects if is_description else [scene.objects[exchange.targets[0]]]
    boxes = [list(map(float, item.box_xyxy)) for item in shown]
    phrases = [with_article(words(item.attributes)) for item in shown] if is_description else None
    return Question(json.dumps(body).encode(), size, boxes, phrases, least=4 if is_description else 1)


class Users:
    """Users of one server: they ask, and check what they are answered."""

    def __init__(self, server: ServedProcess) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._client = httpx.AsyncClient(base_url=server.url, timeout=LONGEST_WAIT, limits=limits, trust_env=False)
        self.statuses: Counter[str] = Counter()

    async def ask(self, question: Question) -> str:
        """Ask once; returns "right", "wrong", or what came instead of an answer."""
        headers = {"Content-Type": "application/json"}
        try:
            response = await self._client.post(CHAT, content=question.body, headers=headers)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        else:
            outcome = f"{response.status_code}{'' if 'retry-after' in response.headers else ' without Retry-After'}"
            if response.status_code == 200:
                outcome = "right" if question.num_right(response.json()) >= question.least else "wrong"
        self.statuses[outcome] += 1
        return outcome

    async def ask_on(self, questions: Sequence[Question], end: float) -> list[float]:
        """Ask one question after the other until `end` and a right answer; returns the seconds of each."""
        seconds: list[float] = []
        while time.monotonic() < end or (not self.statuses["right"] and time.monotonic() < end + LONGEST_WAIT):
            start = time.monotonic()
            await self.ask(questions[len(seconds) % len(questions)])
            seconds.append(time.monotonic() - start)
        return seconds

    async def json(self, path: str) -> dict[str, Any]:
        """What a path answers."""
        return (await self._client.get(path)).json()

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        lines = (await self._client.get("/metrics")).text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


async def right_questions(users: Users, number: int) -> list[Question]:
    """Questions that the model answers right when it is asked alone."""
    found: list[Question] = []
    index = 0
    while len(found) < number:
        question = make_question(index, 300 + len(found))
        if question is not None and await users.ask(question) == "right":
            found.append(question)
        index += 1
        if index > 4 * number + 20:
            raise RuntimeError(f"Only {len(found)} of {index} questions are answered right; the server is broken.")
    users.statuses.clear()
    return found


async def throughput(users: Users, questions: Sequence[Sequence[Question]], seconds: float) -> dict[str, Any]:
    """Let each user ask their questions for some time."""
    users.statuses.clear()
    batches, requests = await users.metric("groma_batches_total"), await users.metric("groma_batched_requests_total")
    start = time.monotonic()
    times = await asyncio.gather(*(users.ask_on(own, start + seconds) for own in questions))
    elapsed = time.monotonic() - start
    batches = await users.metric("groma_batches_total") - batches
    requests = await users.metric("groma_batched_requests_total") - requests
    flat = sorted(value for own in times for value in own)
    return {
        "users": len(questions),
        "seconds": round(elapsed, 1),
        "requests": len(flat),
        "per_second": round(len(flat) / elapsed, 2),
        "p50_seconds": round(statistics.median(flat), 3),
        "p95_seconds": round(flat[math.ceil(0.95 * len(flat)) - 1], 3),
        "prompts_at_once": round(requests / max(batches, 1), 2),
        "outcomes": dict(users.statuses),
    }


async def rough_round(
    server: ServedProcess, users: Users, questions: Sequence[Question], crowd: int
) -> dict[str, Any]:
    """Clients that behave badly and a crowd, beside one user who goes on asking."""
    users.statuses.clear()
    steady, many = Users(server), Users(server)
    end = time.monotonic() + PATIENCE + 2
    asking = asyncio.create_task(steady.ask_on(questions, end))
    others = [
        *(_slow_reader(server, questions[number % len(questions)], end) for number in range(16)),
        *(_half_sender(server, questions[number % len(questions)]) for number in range(64)),
        *(
            _leaver(server, questions[number % len(questions)], 0.03 * number, stream=number % 2 == 1)
            for number in range(32)
        ),
    ]
    await asyncio.gather(*others, *(many.ask(questions[number % len(questions)]) for number in range(crowd)))
    await asking
    outcomes = dict(steady.statuses), dict(many.statuses)
    await steady.aclose()
    await many.aclose()
    start = time.monotonic()
    while (health := await users.json("/health"))["waiting"] or health["running"]:
        if time.monotonic() - start > LONGEST_WAIT:
            break
        await asyncio.sleep(0.1)
    after = await users.ask(questions[0])
    return {"steady": outcomes[0], "crowd": outcomes[1], "health": health, "after": after, "mb": memory_mb(server)}


async def _slow_reader(server: ServedProcess, question: Question, end: float) -> None:
    """Asks for a stream and reads ten bytes of it."""
    body = json.loads(question.body) | {"stream": True}
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(raw_request(json.dumps(body).encode()))
    await reader.read(10)
    await asyncio.sleep(max(0.0, end - time.monotonic()))
    writer.transport.abort()


async def _half_sender(server: ServedProcess, question: Question) -> None:
    """Sends half a body, and waits until the server has enough of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    request = raw_request(question.body)
    writer.write(request[: len(request) // 2])
    answer = await asyncio.wait_for(reader.read(), LONGEST_WAIT)
    assert answer.startswith(b"HTTP/1.1 408 "), answer[:100]
    writer.close()


async def _leaver(server: ServedProcess, question: Question, seconds: float, stream: bool) -> None:
    """Asks for an answer or a stream, and leaves after some seconds without reading it."""
    body = json.loads(question.body) | {"stream": stream}
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(raw_request(json.dumps(body).encode()))
    await asyncio.sleep(seconds)
    writer.transport.abort()


def memory_mb(server: ServedProcess) -> float:
    """Memory of the server that is in RAM, on Linux."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024, 1)


async def measure(server: ServedProcess, options: argparse.Namespace, seconds: float, rounds: int) -> dict[str, Any]:
    """What one server does: throughput, then clients that behave badly."""
    users = Users(server)
    try:
        questions = await right_questions(users, 2 * options.users)
        # One of each kind. One user alone asks all of them in turn.
        own = [questions[2 * user : 2 * user + 2] for user in range(options.users)]
        # Before and after, because other work on the machine comes and goes.
        before = await throughput(users, [questions], seconds / 8)
        together = await throughput(users, own, seconds)
        after = await throughput(users, [questions], seconds / 8)
        memory = [memory_mb(server)]
        result: dict[str, Any] = {"one_by_one": [before, after], "together": together}
        alone = sum(one["requests"] for one in (before, after)) / sum(one["seconds"] for one in (before, after))
        result["ratio"] = round(together["per_second"] / alone, 2)
        result["rough"] = [await rough_round(server, users, questions, options.crowd) for _ in range(rounds)]
        result["mb"] = [*memory, *(one["mb"] for one in result["rough"])]
        return result
    finally:
        await users.aclose()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0, help="of all users; one alone has an eighth, twice")
    parser.add_argument("--rounds", type=int, default=3, help="of clients that behave badly")
    parser.add_argument("--crowd", type=int, default=400, help="users who come at once in each round")
    parser.add_argument("--max-batch-size", type=int, default=16)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start a server that keeps all images, then one that keeps few, and measure both."""

    def measured(cached_images: int, seconds: float, rounds: int) -> dict[str, Any]:
        limits = ("--read-timeout", PATIENCE, "--write-timeout", PATIENCE, "--cached-images", cached_images)
        with served(folder, "--max-batch-size", options.max_batch_size, *limits) as server:
            return asyncio.run(measure(server, options, seconds, rounds))

    result = measured(2 * options.users, options.seconds, options.rounds)
    # Scenes are asked about in turn: of the last quarter none comes again before it is forgotten.
    few = measured(max(options.users // 2, 1), options.seconds / 4, 0)
    return {**result, "new_images": {name: few[name] for name in ("one_by_one", "together", "ratio")}}


def main() -> None:
    """Measure, and print for people and for programs."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, Path(folder))
    together = result["together"]
    print(f"one by one: {' and '.join(str(one['per_second']) for one in result['one_by_one'])} requests/s")
    print(
        f"{together['users']} users: {together['per_second']} requests/s, {result['ratio']} times as many; "
        f"p50 {together['p50_seconds']} s, p95 {together['p95_seconds']} s, "
        f"{together['prompts_at_once']} prompts at once"
    )
    print(f"images that are looked at anew: {result['new_images']['ratio']} times as many")
    print(f"outcomes: {together['outcomes']}; memory of the server after each part: {result['mb']} MB")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
