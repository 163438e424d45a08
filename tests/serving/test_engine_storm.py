"""Many users of two event loops at once, who read to the end, leave early, ask badly or find the queue full."""

import asyncio
import collections
import random
import threading
import time

import pytest

from transformers_groma.serving.engine import QueueFullError

from .engines import PATIENCE, ask, noise, run, tokens, until

SECONDS, USERS, IMAGES = 1.5, 10, 4


def question(number: int) -> list[dict]:
    """What is asked about an image; images are of different sizes."""
    return ask("What?", noise(number, (40 + number, 60)))


async def one_request(engine, chance, truth, outcomes):
    """One random request; every answer is the one to its own question."""
    number, length = chance.randrange(IMAGES), chance.choice([1, 5, 15])
    messages, expected = question(number), truth[number]
    kind = chance.choice(["whole", "whole", "streamed", "times out", "closes", "invalid", "proposes"])
    if kind == "whole":
        answer = await engine.answer(messages, tokens(length))
        assert answer.completion_tokens == length
        assert expected.startswith(answer.grounded.markup)
    elif kind == "streamed":
        markup, answer = "", None
        async for answer in engine.stream(messages, tokens(length)):
            assert answer.grounded.markup.startswith(markup)
            markup = answer.grounded.markup
        assert answer.is_final and expected.startswith(markup)
    elif kind == "times out":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.answer(messages, tokens(400)), 0.05 * chance.random())
    elif kind == "closes":
        answers = engine.stream(messages, tokens(400))
        assert not (await anext(answers)).is_final
        await answers.aclose()
    elif kind == "invalid":
        with pytest.raises(ValueError, match="has no area"):
            await engine.answer(ask("What is ", noise(number), [5, 5, 5, 9]), tokens(length))
    else:
        assert len(await engine.propose(noise(number, (40 + number, 60)))) > 0
    outcomes[kind] += 1


def test_every_user_gets_their_own_answer_and_nothing_stays(make_engine):
    engine = make_engine(max_waiting=6, cached_images=3)
    truth = [run(engine.answer(question(number), tokens(15))).grounded.markup for number in range(IMAGES)]
    outcomes = collections.Counter()
    errors = []

    async def user(seed, end):
        chance = random.Random(seed)
        while time.monotonic() < end:
            try:
                await one_request(engine, chance, truth, outcomes)
            except QueueFullError:
                outcomes["full"] += 1
                await asyncio.sleep(0.02)

    def users_of_a_loop(first, end):
        async def all_users():
            await asyncio.gather(*[user(first + number, end) for number in range(USERS)])

        try:
            run(all_users())
        except BaseException as error:
            errors.append(error)

    end = time.monotonic() + SECONDS
    loops = [threading.Thread(target=users_of_a_loop, args=(100 * index, end), daemon=True) for index in range(2)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join(PATIENCE)
    assert not errors and not any(loop.is_alive() for loop in loops)
    run(until(lambda: engine.snapshot().running == 0))
    status = engine.snapshot()
    assert (status.waiting, status.failed, status.is_alive) == (0, 0, True)
    assert status.cached_images <= 3
    assert outcomes["full"] == status.refused > 0
    assert outcomes["whole"] > 0 and outcomes["streamed"] > 0 and status.cancelled > 0
    assert status.answered + status.invalid + status.cancelled >= sum(outcomes.values()) - outcomes["full"]
