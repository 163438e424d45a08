"""Benchmark: groma-tiny answers many users at a time, against one after the other.

    python benchmarks/bench_serving.py [--users 32] [--batch-size 8] [--repeats 3] [--threads 1]

Every user has a synthetic scene of 224x224 pixels of their own and asks the demo's questions about it one by one,
each as soon as the one before is answered: regions, an expression and a group to locate, a grounded description. No
HTTP: this is the engine alone, with the queue, threads and cache that the server uses.

Two ratios, both of answers per second from this run on this machine, an engine with batches against the same engine
with `max_batch_size=1`:

- following turns: each scene was looked at before, as in a conversation after its first question;
- new images: the engine keeps no image, so that each question costs a look.

The two take turns, so that a slow moment of the machine hits both, and the fastest turn of each counts. On a machine
with other work, the seconds of CPU for each answer tell more; their ratio is printed too (it is smaller than the first
where batches use more threads). All answers are compared: a batch must not change them. And the latency of a user who
is alone, who should not pay for batching.
"""

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import print_result

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.grounding import GroundedText
from transformers_groma.serving.engine import Engine
from transformers_groma.serving.waiting import RECENT_SECONDS
from transformers_groma.shapes.demo import scene_questions
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.shapes.world import Phrase, Region

MODEL = Path(__file__).parents[1] / "hub_configs" / "groma-tiny"
IMAGE_SIZE = 224


class Turn(NamedTuple):
    """What one turn of all users measured.

    Attributes:
        seconds (`float`): from the first question to the last answer.
        cpu_seconds (`float`): of all threads of this process meanwhile.
        latencies (`list[float]`): seconds of each request.
        answers (`list[GroundedText]`): user by user.
        batch (`float`): mean number of requests in a batch.
    """

    seconds: float
    cpu_seconds: float
    latencies: list[float]
    answers: list[GroundedText]
    batch: float


def conversations_about(index: int) -> list[list[dict[str, Any]]]:
    """One conversation for each of the demo's questions about a scene."""
    scene = make_scene(0, "test", index, IMAGE_SIZE)
    image = {"type": "image", "image": scene.draw()}

    def part(piece: Any) -> dict[str, Any]:
        if isinstance(piece, Region):
            return {"type": "region", "box": list(scene.boxes_xyxy[piece.index])}
        if isinstance(piece, Phrase):
            return {"type": "phrase", "text": piece.text}
        return {"type": "text", "text": piece}

    return [
        [{"role": "user", "content": [image, *map(part, exchange.question)]}]
        for exchange in scene_questions(scene).values()
    ]


async def answer_all(engine: Engine, users: list[list[list[dict[str, Any]]]]) -> Turn:
    """Let all users ask all their questions."""
    latencies: list[float] = []

    async def ask(questions: list[list[dict[str, Any]]]) -> list[GroundedText]:
        answers = []
        for question in questions:
            start = time.perf_counter()
            answers.append((await engine.answer(question)).grounded)
            latencies.append(time.perf_counter() - start)
        return answers

    before, start, cpu_start = engine.snapshot(), time.perf_counter(), time.process_time()
    answers = await asyncio.gather(*map(ask, users))
    seconds, after = time.perf_counter() - start, engine.snapshot()
    cpu_seconds = time.process_time() - cpu_start
    batch = (after.batched_requests - before.batched_requests) / (after.batches - before.batches)
    return Turn(seconds, cpu_seconds, latencies, [answer for row in answers for answer in row], batch)


async def take_turns(
    engines: dict[str, Engine], users: list[list[list[dict[str, Any]]]], repeats: int
) -> dict[str, Turn]:
    """The fastest turn of each engine. The first of each warms up, and looks at the images."""
    fastest: dict[str, Turn] = {}
    for number in range(repeats + 1):
        for name, engine in engines.items():
            turn = await answer_all(engine, users)
            print(f"  {name:24s} {len(turn.answers) / turn.seconds:7.2f} answers/s, batches of {turn.batch:.1f}")
            if number and (name not in fastest or turn.seconds < fastest[name].seconds):
                fastest[name] = turn
    return fastest


async def lone_latency(engine: Engine, questions: list[list[dict[str, Any]]], repeats: int) -> float:
    """Median seconds of a short answer to somebody who is alone, once the engine has forgotten the crowd."""
    await asyncio.sleep(1.1 * RECENT_SECONDS)
    return statistics.median(
        [latency for _ in range(4 * repeats) for latency in (await answer_all(engine, [questions[:1]])).latencies]
    )


def percentile(values: list[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[max(0, round(share * len(values)) - 1)]


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers of the benchmark."""
    users = [conversations_about(index) for index in range(arguments.users)]
    single, batched = "one by one", f"batches of {arguments.batch_size}"
    ratios, rates, seconds, differing = {}, {}, {}, 0
    for case, cached in (("following_turns", 4 * arguments.users), ("new_images", 0)):
        print(case.replace("_", " "))
        engines = {
            name: Engine(
                GromaForConditionalGeneration.from_pretrained(MODEL),
                GromaProcessor.from_pretrained(MODEL),
                max_batch_size=size,
                max_waiting=2 * arguments.users,
                cached_images=cached,
            )
            for name, size in ((single, 1), (batched, arguments.batch_size))
        }
        turns = await take_turns(engines, users, arguments.repeats)
        ratios[case] = turns[single].seconds / turns[batched].seconds
        ratios[f"{case}_cpu"] = turns[single].cpu_seconds / turns[batched].cpu_seconds
        differing += sum(
            one.markup != other.markup
            for one, other in zip(turns[single].answers, turns[batched].answers, strict=True)
        )
        for kind, name in (("single", single), ("batched", batched)):
            turn = turns[name]
            rates[f"{case}_{kind}"] = len(turn.answers) / turn.seconds
            seconds[f"{case}_{kind}_cpu"] = turn.cpu_seconds / len(turn.answers)
            seconds[f"{case}_{kind}_p95"] = percentile(turn.latencies, 0.95)
        if cached:
            for kind, name in (("single", single), ("batched", batched)):
                seconds[f"alone_{kind}"] = await lone_latency(engines[name], users[0], arguments.repeats)
        for engine in engines.values():
            await engine.aclose()
    return {"ratios": ratios, "seconds": seconds, "answers_per_second": rates, "answers_that_differ": differing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = asyncio.run(measure(arguments))
    for name, ratio in result["ratios"].items():
        print(f"  {name:40s} {ratio:5.2f}x")
    print(f"  answers that differ: {result['answers_that_differ']}")
    print_result("serving", **result)


if __name__ == "__main__":
    main()
