"""How requests end otherwise: given up, refused, failed, or with the engine."""

import asyncio
import gc
import logging
import threading
import time
import weakref

import pytest
import torch

from transformers_groma.serving.engine import Engine, EngineClosedError, ModelFailedError, QueueFullError

from .engines import PATIENCE, ask, noise, run, tokens, until, until_waiting

LONG = tokens(500)  # 5 seconds with slow steps


def start(engine, *conversations, sampling=LONG):
    return [asyncio.create_task(engine.answer(messages, sampling)) for messages in conversations]


async def outcome(task):
    """The error of a task."""
    return (await asyncio.gather(task, return_exceptions=True))[0]


def test_a_batch_ends_when_all_its_rows_are_given_up(make_engine, slow_steps):
    engine = make_engine()

    async def give_up():
        tasks = start(engine, ask("What?", noise()), ask("And?"))
        await until(lambda: slow_steps.number > 3)
        for task in tasks:
            task.cancel()
        assert isinstance(await outcome(tasks[0]), asyncio.CancelledError)
        answer = await engine.answer(ask("Next?"), tokens(2))
        assert answer.completion_tokens == 2

    run(give_up())
    assert slow_steps.number < 400
    status = engine.snapshot()
    assert (status.cancelled, status.answered, status.waiting, status.running) == (2, 1, 0, 0)


def test_one_row_is_given_up_and_the_others_stay(make_engine, make_gate):
    engine = make_engine()
    expected = run(engine.answer(ask("What?", noise()), tokens(8)))

    async def give_up():
        gate = make_gate(engine)
        blocker, *_ = start(engine, ask("Wait"), sampling=tokens(1))
        await gate.is_reached()
        first, second = start(
            engine, ask("A much longer question?", noise(1)), ask("What?", noise()), sampling=tokens(8)
        )
        await until_waiting(engine, 2)
        gate.open()
        await blocker
        first.cancel()
        return await second

    assert run(give_up()).grounded.markup == expected.grounded.markup


def test_a_closed_iterator_frees_its_row(make_engine, slow_steps):
    engine = make_engine()

    async def close():
        reader = engine.stream(ask("What?"), LONG)
        await anext(reader)
        await reader.aclose()
        await until(lambda: engine.snapshot().running == 0)
        await engine.answer(ask("Next?"), tokens(1))

    run(close())
    assert slow_steps.number < 400
    assert engine.snapshot().cancelled == 1


def test_a_request_that_waits_is_dropped_when_given_up(make_engine, make_gate):
    engine = make_engine()

    async def give_up():
        gate = make_gate(engine)
        running, *_ = start(engine, ask("Wait"), sampling=tokens(1))
        await gate.is_reached()
        waiting = start(engine, ask("What?", noise(7)), ask("And?"), sampling=tokens(1))
        await until_waiting(engine, 2)
        waiting[0].cancel()
        await until_waiting(engine, 1)
        gate.open()
        await running
        await waiting[1]
        assert gate.batches == [1, 1]

    run(give_up())
    assert engine.snapshot().cache_misses == 0


def test_a_loop_that_is_gone_frees_its_row(make_engine, slow_steps):
    """An event loop that ends without a word, as that of a crashed thread."""
    engine = make_engine()
    loop = asyncio.new_event_loop()

    async def begin():
        reader = engine.stream(ask("What?"), LONG)
        await anext(reader)
        return reader, asyncio.create_task(anext(reader))

    reader, task = loop.run_until_complete(begin())
    loop.run_until_complete(asyncio.sleep(0.05))  # it waits for the next step
    loop.close()
    run(until(lambda: engine.snapshot().cancelled == 1))
    assert slow_steps.number < 400
    del reader, task


def test_a_full_queue_refuses_and_takes_again_later(make_engine, make_gate):
    engine = make_engine(max_waiting=2)

    async def fill():
        gate = make_gate(engine)
        running, *_ = start(engine, ask("Wait"), sampling=tokens(1))
        await gate.is_reached()
        waiting = start(engine, ask("What?"), ask("And?"), sampling=tokens(1))
        await until_waiting(engine, 2)
        for refused in (engine.answer(ask("More?")), anext(engine.stream(ask("More?"))), engine.propose(noise())):
            with pytest.raises(QueueFullError, match="2 requests wait already"):
                await refused
        gate.open()
        await asyncio.gather(running, *waiting)
        await engine.answer(ask("More?"), tokens(1))

    run(fill())
    status = engine.snapshot()
    assert (status.refused, status.answered) == (3, 4)


def test_bad_input_fails_alone_and_before_a_batch(make_engine, make_gate):
    engine = make_engine()

    async def ask_good_and_bad():
        gate = make_gate(engine)
        gate.open()
        bad = ask("What is ", noise(), [10, 10, 5, 5])
        return await asyncio.gather(
            *start(engine, ask("What?", noise()), bad, [], ask("a " * 2000), sampling=tokens(2)),
            return_exceptions=True,
        )

    good, *bad = run(ask_good_and_bad())
    assert good.completion_tokens == 2
    assert [type(error) for error in bad] == [ValueError] * 3
    status = engine.snapshot()
    assert (status.invalid, status.answered, status.batched_requests) == (3, 1, 1)


def test_an_answer_longer_than_the_model_reads_is_refused(make_engine):
    with pytest.raises(ValueError, match="lower `max_new_tokens`"):
        run(make_engine().answer(ask("What?"), tokens(2000)))
    with pytest.raises(ValueError, match="`sampling` must be a `Sampling`, got None"):
        run(make_engine().answer(ask("What?"), None))


def test_no_row_runs_over_the_models_last_position(make_engine, make_gate):
    """A long prompt does not share a batch with a long answer: its row would go on, after its end, up to there."""
    engine = make_engine()

    async def ask_both():
        gate = make_gate(engine)
        blocker, *_ = start(engine, ask("Wait"), sampling=tokens(1))
        await gate.is_reached()
        tasks = [
            *start(engine, ask("a " * 200), sampling=tokens(5)),
            *start(engine, ask("What?"), sampling=tokens(700)),
            *start(engine, ask("And?"), sampling=tokens(5)),
        ]
        await until_waiting(engine, 3)
        gate.open()
        await asyncio.gather(blocker, tasks[0], tasks[2])
        assert gate.batches[:2] == [1, 2]
        tasks[1].cancel()

    run(ask_both())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "smaller `max_batch_size`"),
        (
            RuntimeError("a kernel failed\nwith details"),
            r"of 2 requests \(RuntimeError: a kernel failed\)\. Ask again\.$",
        ),
        (SystemExit(), r"\(SystemExit\)"),
    ],
)
def test_a_batch_that_fails_takes_nobody_else_with_it(make_engine, make_gate, monkeypatch, caplog, error, message):
    engine = make_engine()
    generate = engine.model.generate

    def fail_once(**inputs):
        if len(inputs["input_ids"]) == 2:
            raise error
        return generate(**inputs)

    async def ask_all():
        monkeypatch.setattr(engine.model, "generate", fail_once)
        gate = make_gate(engine)
        first, *_ = start(engine, ask("Wait"), sampling=tokens(1))
        await gate.is_reached()
        failing = start(engine, ask("What?", noise()), ask("And?"), sampling=tokens(1))
        await until_waiting(engine, 2)
        gate.open()
        await first
        errors = [await outcome(task) for task in failing]
        return errors, await engine.answer(ask("And now?"), tokens(2))

    with caplog.at_level(logging.CRITICAL, "transformers_groma"):
        errors, answer = run(ask_all())
    for failed in errors:
        assert isinstance(failed, ModelFailedError)
        assert failed.__cause__ is None and failed.__context__ is None  # nothing holds the model's frames
    with pytest.raises(ModelFailedError, match=message):
        raise errors[0]
    assert errors[0] is not errors[1]
    assert answer.completion_tokens == 2
    status = engine.snapshot()
    assert (status.failed, status.answered, status.is_alive) == (2, 2, True)


def test_nobody_waits_for_a_thread_that_has_failed(tiny_parts, make_gate, monkeypatch, caplog):
    """A mistake in the engine itself, outside of what the model does for a batch."""

    def fail(batch):
        raise SystemError("a mistake")

    async def ask_all():
        engine = Engine(*tiny_parts, max_batch_size=1)
        gate = make_gate(engine)
        first = start(engine, ask("Wait"), sampling=tokens(1))
        await gate.is_reached()
        tasks = [*first, *start(engine, ask("What?", noise()), sampling=tokens(1))]
        reader = asyncio.create_task(_read(engine.stream(ask("Then?"), tokens(2))))
        await until_waiting(engine, 2)
        monkeypatch.setattr(engine._model_thread, "_count_batch", fail)
        gate.open()
        outcomes = [await outcome(task) for task in (*tasks, reader)]
        with pytest.raises(EngineClosedError):
            await engine.answer(ask("More?"))
        await until(lambda: not engine.snapshot().is_alive)
        status = engine.snapshot()
        await engine.aclose()
        return outcomes, status

    with caplog.at_level(logging.CRITICAL, "transformers_groma"):
        outcomes, status = run(ask_all())
    assert outcomes[0].completion_tokens == 1
    assert [str(error) for error in outcomes[1:]] == ["The thread of the engine has failed. Make a new engine."] * 2
    assert status.waiting == status.running == 0


def test_closing_finishes_what_runs_and_waits_and_refuses_more(tiny_parts, make_gate):
    async def close():
        engine = Engine(*tiny_parts, max_batch_size=1)
        gate = make_gate(engine)
        tasks = start(engine, ask("What?", noise()), ask("And?"), sampling=tokens(2))
        reader = asyncio.create_task(_read(engine.stream(ask("Then?"), tokens(2))))
        await gate.is_reached()
        await until_waiting(engine, 2)
        closing = asyncio.create_task(engine.aclose(None))
        await until(lambda: engine.snapshot().is_closing)
        for refused in (engine.answer(ask("More?")), anext(engine.stream(ask("More?"))), engine.propose(noise())):
            with pytest.raises(EngineClosedError, match="takes no more requests"):
                await refused
        assert not closing.done()
        gate.open()
        await closing
        answers = [*await asyncio.gather(*tasks), await reader]
        await engine.aclose(None)  # a second time does nothing
        return engine, answers

    before = set(threading.enumerate())
    engine, answers = run(close())
    assert [answer.completion_tokens for answer in answers] == [2, 2, 2]
    assert not engine.snapshot().is_alive
    assert not [thread for thread in set(threading.enumerate()) - before if "groma" in thread.name]


async def _read(answers):
    return [answer async for answer in answers][-1]


def test_closing_cancels_what_is_not_finished_in_time(tiny_parts, slow_steps):
    async def close():
        engine = Engine(*tiny_parts, max_batch_size=1)
        tasks = start(engine, ask("What?", noise()), ask("And?"))
        reader = asyncio.create_task(_read(engine.stream(ask("Then?"), LONG)))
        await until(lambda: slow_steps.number > 2)
        await engine.aclose(0.1)
        return [await outcome(task) for task in (*tasks, reader)], engine

    errors, engine = run(close())
    assert [type(error) for error in errors] == [EngineClosedError] * 3
    assert "closed before the answer was complete" in str(errors[0])
    assert slow_steps.number < 400 and not engine.snapshot().is_alive


def test_close_is_for_code_outside_of_event_loops(tiny_parts):
    async def close():
        engine = Engine(*tiny_parts)
        try:
            with pytest.raises(RuntimeError, match="await engine.aclose"):
                engine.close()
        finally:
            await engine.aclose()

    run(close())


def test_requests_of_several_event_loops_share_batches(make_engine, make_gate):
    engine = make_engine()
    gate = make_gate(engine)
    results = []

    def ask_in_own_loop(number):
        async def both():
            partials = engine.stream(ask("What?", noise(number)), tokens(4))
            return await asyncio.gather(engine.answer(ask("What?", noise(number)), tokens(4)), _read(partials))

        results.append(run(both()))

    threads = [threading.Thread(target=ask_in_own_loop, args=(number,), daemon=True) for number in range(3)]
    blocker = threading.Thread(target=lambda: run(engine.answer(ask("Wait"), tokens(1))), daemon=True)
    blocker.start()
    run(gate.is_reached())
    for thread in threads:
        thread.start()
    run(until_waiting(engine, 6))
    gate.open()
    for thread in (*threads, blocker):
        thread.join(PATIENCE)
    assert gate.batches == [1, 6]
    assert len(results) == 3
    for whole, last in results:
        assert whole.grounded.to_dict() == last.grounded.to_dict()


def test_nothing_of_a_request_stays_in_memory(make_engine):
    engine = make_engine(cached_images=1)

    async def ask_about(seed):
        image = noise(seed, (200, 300))
        left = weakref.ref(image)
        await engine.answer(ask("What is ", image, [1, 2, 30, 40]), tokens(3))
        answers = [answer async for answer in engine.stream(ask("What?", image), tokens(3))]
        reader = engine.stream(ask("What?", image), tokens(300))
        await anext(reader)
        await reader.aclose()
        with pytest.raises(ValueError):
            await engine.answer(ask("What is ", image, [9, 9, 3, 4]), tokens(3))
        del image
        return left, answers[-1].completion_tokens

    def tensors():
        gc.collect()
        found = [entry for entry in gc.get_objects() if type(entry) is torch.Tensor]
        return len(found), sum(entry.numel() for entry in found)

    for seed in range(3):
        run(ask_about(seed))
    run(until(lambda: engine.snapshot().running == 0))
    time.sleep(0.2)  # the same moment: `before` should not count what is about to go
    before = tensors()
    images = [run(ask_about(seed))[0] for seed in range(3, 9)]
    run(engine.answer(ask("What?", noise(8, (200, 300))), tokens(1)))
    assert [image() for image in images] == [None] * 6

    def is_as_before():
        number, size = tensors()
        return number <= before[0] + 5 and size <= before[1] + 2000

    # The model's thread lets go of a batch a moment after its last answer is there.
    run(until(is_as_before))
    assert engine.snapshot().cached_images == 1
