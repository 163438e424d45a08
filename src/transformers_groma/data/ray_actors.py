"""Spreads work over actors of Ray: each makes its worker once, and what a dead actor had begun is done again.

Nothing is read through Ray Data, whose reading tasks need CPUs of their own and would wait for ever where the actors
hold all of them: an actor gets an item and reads itself what belongs to it.
"""

import pickle
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# How often an item may lose its actor before it is given up: a worker that is killed for its memory will be again.
MAX_ATTEMPTS = 3
# Seconds between looks for actors that were started; their number never delays those that work.
_PATIENCE = 1.0

# Errors of workers that keep their words and their type; all others are mistakes of the program or of the machine.
EXPECTED_ERRORS = (OSError, ValueError, ImportError)

# With these ports Ray does not wait for its agents to say which ones they took, which on a slow machine fails.
_START = (
    "ray start --head --dashboard-agent-grpc-port 52366 --dashboard-agent-listen-port 52365 --runtime-env-agent-port "
    "52367 --metrics-export-port 52368"
)

# What spreads work over a machine or a cluster: one item after the other in this process, or actors of Ray. (The
# `Engine` of `serving` is another thing: it answers requests.)
EngineName = Literal["plain", "ray"]
# Gives the outcomes of an item, one after the other.
Worker = Callable[[Any], Iterator[Any]]


@dataclass(frozen=True)
class ActorOptions:
    """How many actors there are, and what each of them has.

    Args:
        count (`int`, *optional*): how many; by default as many as there is room for.
        cpus (`float`): CPUs of each; 1 or less leaves its number of threads at 1.
        gpus (`float`, *optional*): GPUs of each; a part of one lets several actors share it. By default one where
            there are any: without it Ray hides them.
    """

    count: int | None = None
    cpus: float = 1.0
    gpus: float | None = None


class ActorError(OSError):
    """The actors cannot work; the message says why, and what to do."""


def run_on_actors(
    make_worker: Callable[[], Worker], items: Sequence[Any], options: ActorOptions, extra: str = "scale"
) -> Iterator[tuple[int, Any]]:
    """Let actors work on items, as they have time.

    Args:
        make_worker (`Callable`): makes the worker of an actor, on its machine; pickled.
        items (`Sequence`): what there is to do; each is pickled.
        options (`ActorOptions`): how many actors, and what they have.
        extra (`str`): the extra that installs Ray, for the error.

    Yields:
        `tuple[int, Any]`: the position of an item, and an outcome of it. An item whose actor died begins again.

    Raises:
        ImportError: Ray is not installed.
        ActorError: Ray does not start, there is no room for a single actor, or an item has killed its actor
            several times.
        OSError, ValueError, ImportError: what a worker raised, as it raised it. Other errors of it become an
            `ActorError`.
    """
    if not items:
        return
    ray = _started_ray(extra)
    options = _with_room(ray, options, len(items))
    pool = _Pool(ray, make_worker, items, options)
    try:
        yield from pool.outcomes()
    finally:
        pool.stop()


def _started_ray(extra: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f'The engine "ray" needs Ray. Install it with `pip install "transformers-groma[{extra}]"`, or use the '
            'engine "plain".'
        ) from error
    if ray.is_initialized():
        return ray
    try:
        # The cluster of `ray start` or RAY_ADDRESS if there is one; else one of this machine, for this process.
        ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (RuntimeError, OSError, ValueError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ActorError(
            f"Ray does not start ({type(error).__name__}: {reason}). On a slow machine start it before, and it is "
            f"found: `{_START}`; or leave out --engine ray."
        ) from error
    return ray


def _with_room(ray: Any, options: ActorOptions, num_items: int) -> ActorOptions:
    """The options with the GPUs of an actor, if there is room for one at least."""
    total = ray.cluster_resources()
    gpus = options.gpus if options.gpus is not None else min(1.0, total.get("GPU", 0.0))
    wanted = num_items if options.count is None else min(options.count, num_items)
    room = wanted
    for name, each in (("CPU", options.cpus), ("GPU", gpus)):
        there = total.get(name, 0.0)
        if each > there:
            raise ActorError(
                f"an actor wants {each:g} {name}s, but Ray has {there:g} in all. Ask for fewer, with "
                f"--{name.lower()}s-per-actor, or start Ray on more machines."
            )
        room = min(room, int(there / each)) if each else room
    if options.count is None:
        wanted = room
    elif room < wanted:
        print(
            f"{room} of {wanted} actors have room now: Ray has {total.get('CPU', 0):g} CPUs and "
            f"{total.get('GPU', 0):g} GPUs, and each wants {options.cpus:g} and {gpus:g}",
            file=sys.stderr,
        )
    return ActorOptions(wanted, options.cpus, gpus)


class _Actor:
    """What runs in a process of Ray."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker, self._worker = make_worker, None

    def ready(self) -> bool:
        """Answers as soon as the process is there."""
        return True

    def run(self, item: Any) -> Iterator[bytes]:
        """The outcomes of an item, or the error; Ray would hide its message in a trace of its own."""
        try:
            if self._worker is None:
                self._worker = self._make_worker()
            for outcome in self._worker(item):
                yield pickle.dumps((outcome, None))
        except Exception as error:
            yield pickle.dumps((None, _plain_error(error)))


def _plain_error(error: Exception) -> Exception:
    """An error that another process can read; that of a mistake has its place, as its trace stays behind."""
    if isinstance(error, EXPECTED_ERRORS):
        try:
            pickle.loads(pickle.dumps(error))
            return error
        except Exception:
            return ActorError(str(error))
    place = traceback.extract_tb(error.__traceback__)[-1]
    return ActorError(
        f"an actor failed: {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
    )


class _Pool:
    """Actors and what each of them works on."""

    def __init__(
        self, ray: Any, make_worker: Callable[[], Worker], items: Sequence[Any], options: ActorOptions
    ) -> None:
        self._ray, self._items = ray, items
        self._waiting = deque(range(len(items)))
        self._attempts = [0] * len(items)
        self._failed_starts = 0
        self._class = ray.remote(_Actor).options(num_cpus=options.cpus, num_gpus=options.gpus)
        self._make_worker = ray.put(make_worker)
        # By what Ray waits for: the actor, and the position of its item; `None` while the actor starts.
        self._running: dict[Any, tuple[Any, int | None]] = {}
        for _ in range(options.count):
            self._start()

    def outcomes(self) -> Iterator[tuple[int, Any]]:
        """The outcomes of all items."""
        while self._waiting or any(index is not None for _, index in self._running.values()):
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_PATIENCE)
            for waited in done:
                actor, index = self._running[waited]
                try:
                    if index is None:
                        self._ray.get(waited)
                        self._give(waited, actor)
                        continue
                    outcome, error = pickle.loads(self._ray.get(next(waited)))
                except StopIteration:
                    self._give(waited, actor)
                    continue
                except self._ray.exceptions.RayError as failure:
                    self._lost(waited, failure)
                    continue
                if error is not None:
                    raise error
                yield index, outcome

    def stop(self) -> None:
        """End all actors."""
        for actor, _ in self._running.values():
            self._ray.kill(actor)
        self._running = {}

    def _start(self) -> None:
        actor = self._class.remote(self._make_worker)
        self._running[actor.ready.remote()] = (actor, None)

    def _give(self, waited: Any, actor: Any) -> None:
        """Give an idle actor the next item, or end it."""
        del self._running[waited]
        if not self._waiting:
            self._ray.kill(actor)
            return
        index = self._waiting.popleft()
        self._attempts[index] += 1
        self._running[actor.run.options(num_returns="streaming").remote(self._items[index])] = (actor, index)

    def _lost(self, waited: Any, failure: Exception) -> None:
        """An actor died: another one does its item again."""
        _, index = self._running.pop(waited)
        reason = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
        if index is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_ATTEMPTS:
                raise ActorError(f"actors of Ray do not start: {reason}") from failure
            self._start()
            return
        if self._attempts[index] >= MAX_ATTEMPTS:
            raise ActorError(
                f"the actor of item {index} died {MAX_ATTEMPTS} times ({reason}). It may need more memory than there "
                "is: use fewer actors or smaller batches."
            ) from failure
        self._waiting.appendleft(index)
        self._start()


__all__ = ["ActorError", "ActorOptions", "EngineName", "Worker", "run_on_actors"]
