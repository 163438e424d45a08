"""Work on actors of Ray: all of it is done, also that of actors that die; errors keep their words."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from transformers_groma.data.ray_actors import ActorError, ActorOptions, run_on_actors

from ..local_ray import local_ray

slow = pytest.mark.slow  # Ray takes long to start, and gives up on a busy machine


def make_worker(folder, deaths):
    """Counts up to its item; one below 0 is an error, a text is a mistake; of item 3 so many actors die."""

    def work(item):
        if item < 0:
            raise ValueError(f"{item} is below 0. Pass another number.")
        yield os.getpid()
        for number in range(item):
            if item == 3 and number == 1 and len(list(Path(folder).iterdir())) < deaths:
                Path(folder, str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield number

    return work


@pytest.fixture(scope="module")
def cluster():
    with local_ray() as ray:
        yield ray


@slow
def test_what_a_dead_actor_had_begun_is_done_again(cluster, tmp_path):
    outcomes: dict[int, list[int]] = {}
    begun = []
    for index, outcome in run_on_actors(partial(make_worker, tmp_path, 1), [2, 3, 0, 4], ActorOptions(2, 0.5)):
        if outcome > 100:  # a process begins the item
            begun.append((index, outcome))
            outcomes[index] = []
        else:
            outcomes[index].append(outcome)
    assert outcomes == {0: [0, 1], 1: [0, 1, 2], 2: [], 3: [0, 1, 2, 3]}
    assert sorted(index for index, _ in begun) == [0, 1, 1, 2, 3]
    (dead,) = (int(path.name) for path in tmp_path.iterdir())
    assert [process == dead for index, process in begun if index == 1] == [True, False]


@slow
def test_an_item_that_kills_its_actor_again_and_again_is_given_up(cluster, tmp_path):
    with pytest.raises(ActorError, match=r"the actor of item 0 died 3 times .*use fewer actors or smaller batches"):
        list(run_on_actors(partial(make_worker, tmp_path, 9), [3], ActorOptions(1)))


@slow
def test_the_error_of_a_worker_keeps_its_words(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"^-1 is below 0\. Pass another number\.$"):
        list(run_on_actors(partial(make_worker, tmp_path, 0), [1, -1], ActorOptions()))


@slow
def test_a_mistake_of_the_program_is_named_with_its_place(cluster, tmp_path):
    with pytest.raises(ActorError, match=r"an actor failed: TypeError: .* \(test_ray_actors\.py, line \d+\)"):
        list(run_on_actors(partial(make_worker, tmp_path, 0), ["one"], ActorOptions()))


@slow
def test_more_actors_than_room_do_the_work_with_those_that_start(cluster, tmp_path, capfd):
    outcomes = list(run_on_actors(partial(make_worker, tmp_path, 0), [1, 1, 1, 1], ActorOptions(4, 1.0)))
    assert sorted(index for index, outcome in outcomes if outcome == 0) == [0, 1, 2, 3]
    assert "2 of 4 actors have room now" in capfd.readouterr().err


@slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ActorOptions(1, 64.0), "an actor wants 64 CPUs, but Ray has 2 in all.*--cpus-per-actor"),
        (ActorOptions(1, 1.0, 1.0), "an actor wants 1 GPUs, but Ray has 0 in all.*--gpus-per-actor"),
    ],
)
def test_room_that_is_not_there_is_an_error_at_once(cluster, tmp_path, options, message):
    with pytest.raises(ActorError, match=message):
        list(run_on_actors(partial(make_worker, tmp_path, 0), [1], options))


def test_ray_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "transformers-groma\[scale\]"'):
        list(run_on_actors(partial(make_worker, ".", 0), [1], ActorOptions()))


def test_nothing_to_do_needs_no_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(run_on_actors(partial(make_worker, ".", 0), [], ActorOptions())) == []
