"""Rows leave a running batch and others join: they go on as if nothing had happened."""

import asyncio

import torch
from transformers import DynamicCache

from transformers_groma.serving.engine import ModelFailedError, Sampling
from transformers_groma.serving.running_rows import RunningRows

from .engines import ask, noise, run, tokens, until, until_waiting


def rows_of(names, *masks):
    """Rows whose keys and values say whose they are, and of which column."""
    mask = torch.tensor(masks)
    cache = DynamicCache()
    length = mask.shape[1] - 1
    keys = (
        torch.tensor([float(ord(name)) for name in names])[:, None, None, None] * 100 + torch.arange(length)[:, None]
    )
    for layer in range(2):
        cache.update(keys + 0.25 * layer, -keys, layer)
    return RunningRows(list(names), torch.arange(mask.numel()).reshape(mask.shape), mask, cache)


def columns(rows, name):
    """The keys of a row's tokens that are on, in both layers."""
    row = rows.requests.index(name)
    on = rows.attention_mask[row, :-1].bool()
    return [layer.keys[row, 0, on, 0].tolist() for layer in rows.cache.layers]


def test_rows_keep_their_keys_when_others_leave_and_join():
    first = rows_of("abc", [0, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1])
    second = rows_of("de", [1, 1], [0, 1])
    before = {name: columns(first, name) for name in "abc"} | {name: columns(second, name) for name in "de"}
    ids = first.input_ids[2, 2:].tolist()

    first.keep([2, 0])
    assert first.requests == ["c", "a"]
    assert first.attention_mask.tolist() == [[0, 1, 1], [1, 1, 1]]  # the column of b alone is gone
    assert first.input_ids[0, 1:].tolist() == ids
    first.join(second)
    second.join(first)  # in both orders: the shorter is padded
    for rows in (first, second):
        lengths = {layer.get_seq_length() for layer in rows.cache.layers}
        assert lengths == {rows.input_ids.shape[1] - 1}
        for name in rows.requests:
            assert columns(rows, name) == before[name]
            assert columns(rows, name)[0] == [-value for value in _values(rows, name)]


def _values(rows, name):
    row = rows.requests.index(name)
    return rows.cache.layers[0].values[row, 0, rows.attention_mask[row, :-1].bool(), 0].tolist()


def test_what_is_kept_is_no_part_of_the_old_keys():
    rows = rows_of("abc", [1, 1, 1], [1, 1, 1], [1, 1, 1])
    rows.keep([1])
    layer = rows.cache.layers[0]
    assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * layer.keys.element_size()


def test_another_kind_of_cache_stays_as_it_is():
    rows = rows_of("ab", [1, 1], [1, 1])
    assert rows.can_change
    rows.cache.layers[1] = object()
    assert not rows.can_change


def test_who_joins_and_who_is_joined_gets_the_same_answer_as_alone(make_engine, slow_steps):
    seeded = Sampling(max_new_tokens=60, temperature=1.5, top_p=0.9, seed=3)
    first = (ask("What is in this image?", noise(0), [3, 3, 20, 30]), seeded)
    others = [
        (ask("A question that is a good deal longer than the first?", noise(1, (80, 50)), [5, 6, 30, 40]), tokens(7)),
        (ask("And?"), tokens(3)),
        (ask("What?", noise(2)), Sampling(max_new_tokens=5, temperature=1.0, seed=4)),
    ]
    engine = make_engine()

    async def both():
        slow_steps.seconds = 0
        alone = [await engine.answer(*request) for request in (first, *others)]
        slow_steps.seconds = 0.01
        tokens_before = engine.snapshot().generated_tokens
        running = asyncio.create_task(engine.answer(*first))
        await until(lambda: engine.snapshot().generated_tokens > tokens_before + 2)
        joined = [asyncio.create_task(engine.answer(*other)) for other in others]
        answers = await asyncio.gather(*joined)
        assert not running.done()
        return alone, [await running, *answers]

    for one, other in zip(*run(both()), strict=True):
        assert one.grounded.markup == other.grounded.markup
        assert one.completion_tokens == other.completion_tokens
        assert one.grounded.user_region_ids == other.grounded.user_region_ids


def test_rows_that_ended_are_not_computed_any_more(make_engine, make_gate, monkeypatch):
    engine = make_engine()
    sizes = []
    hook = engine.model.register_forward_pre_hook(
        lambda module, inputs, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )

    async def ask_all():
        gate = make_gate(engine)
        blocker = asyncio.create_task(engine.answer(ask("Wait"), tokens(1)))
        await gate.is_reached()
        lengths = (30, 4, 4, 4)
        tasks = [asyncio.create_task(engine.answer(ask("What?"), tokens(length))) for length in lengths]
        await until_waiting(engine, 4)
        gate.open()
        await asyncio.gather(blocker, *tasks)

    run(ask_all())
    hook.remove()
    assert sizes == [1, 4, 4, 4, 4, *[1] * 26]


def test_the_oldest_goes_next_where_it_cannot_join(make_engine, slow_steps):
    """Its answer may become too long to run beside a long prompt; younger requests must not overtake it for ever."""
    engine = make_engine()

    async def ask_all():
        ended = []

        async def answer(name, *request):
            await engine.answer(*request)
            ended.append(name)

        running = asyncio.create_task(answer("long prompt", ask("a " * 200), tokens(40)))
        await until(lambda: engine.snapshot().generated_tokens > 1)
        oldest = asyncio.create_task(answer("long answer", ask("What?"), tokens(700)))
        await until_waiting(engine, 1)
        younger = asyncio.create_task(answer("short", ask("And?"), tokens(2)))
        await until_waiting(engine, 2)
        await running
        await younger  # in one batch with the oldest
        assert ended == ["long prompt", "short"]
        assert engine.snapshot().running == 1
        oldest.cancel()

    run(ask_all())


def test_an_error_hits_all_that_run_and_nobody_who_has_ended(make_engine, slow_steps, monkeypatch):
    engine = make_engine()

    async def ask_all():
        running = asyncio.create_task(engine.answer(ask("What?", noise()), tokens(300)))
        await until(lambda: engine.snapshot().generated_tokens > 2)
        short = await engine.answer(ask("And?"), tokens(2))
        joined = asyncio.create_task(engine.answer(ask("Then?"), tokens(300)))
        await until(lambda: engine.snapshot().running == 2)
        await until(lambda: engine.snapshot().batches == 3)
        monkeypatch.setattr(slow_steps, "seconds", -1)  # `sleep` refuses it: the next step fails
        outcomes = await asyncio.gather(running, joined, return_exceptions=True)
        slow_steps.seconds = 0
        return short, outcomes, await engine.answer(ask("Now?"), tokens(2))

    short, outcomes, after = run(ask_all())
    assert (short.completion_tokens, after.completion_tokens) == (2, 2)
    assert [type(error) for error in outcomes] == [ModelFailedError] * 2
