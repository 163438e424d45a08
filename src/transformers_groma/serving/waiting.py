"""Requests on their way to the model: who waits, which of them share a batch, and when it starts."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from .answers import EngineClosedError, QueueFullError

# How long the engine remembers that several requests came at the same time.
RECENT_SECONDS = 1.0

Request = TypeVar("Request")


class WaitingRequests(Generic[Request]):
    """The queue between those who ask, in any thread, and the one thread that answers.

    A request is admitted (it counts as waiting while its prompt is prepared), put into the queue, taken with others as
    a batch, and released. The oldest go first, whatever their settings.

    A batch that runs takes more as its rows end, see [`take_more`]. When a new one starts: at once if full, or if the
    model was busy for longer than `max_wait_seconds` since the oldest request came, and at once for a user who is
    alone. Only where several requests were in flight together within the last second does the first of a batch wait
    for as many, at most `max_wait_seconds`: without that, the first of eight users who ask in turn would get a batch
    of its own each time.

    Args:
        max_batch_size (`int`): requests in a batch.
        max_wait_seconds (`float`): longest wait for others.
        max_waiting (`int`): requests that may wait; those that are being answered are not counted.
        can_join (`Callable`): whether a request fits into a batch of the requests before it. One that does not goes
            with a later batch; the oldest always goes with the next.
        max_running (`int`, *optional*): requests that may be answered at a time; only batches bound them by default.
    """

    def __init__(
        self,
        max_batch_size: int,
        max_wait_seconds: float,
        max_waiting: int,
        can_join: Callable[[Sequence[Request], Request], bool] = lambda batch, request: True,
        max_running: int | None = None,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.max_wait_seconds = max_wait_seconds
        self.max_waiting = max_waiting
        self.can_join = can_join
        self.max_running = max_running
        self._changed = threading.Condition()
        self._preparing: set[Request] = set()
        self._queue: dict[Request, float] = {}  # when each came, oldest first
        self._running: set[Request] = set()
        self._together, self._together_at = 0, 0.0  # how many were in flight at once lately, and when
        self._is_closing = False
        self._refused = 0

    def admit(self, request: Request) -> None:
        """Count a request as waiting, before its prompt is prepared.

        Raises:
            EngineClosedError: after [`close`].
            QueueFullError: `max_waiting` wait already, or `max_running` are being answered.
        """
        with self._changed:
            if self._is_closing:
                raise EngineClosedError("The engine is closing and takes no more requests. Create a new one.")
            if len(self._preparing) + len(self._queue) >= self.max_waiting:
                self._refused += 1
                raise QueueFullError(
                    f"{self.max_waiting} requests wait already (`max_waiting`). Ask again in a few seconds."
                )
            if self.max_running is not None and len(self._running) >= self.max_running:
                self._refused += 1
                raise QueueFullError(
                    f"{self.max_running} requests are being answered already (`max_running`). Ask again in a few "
                    "seconds."
                )
            self._preparing.add(request)
            self._note_together()

    def put(self, request: Request) -> bool:
        """Queue an admitted request; `False` if it was released meanwhile."""
        with self._changed:
            if request not in self._preparing:
                return False
            self._preparing.remove(request)
            self._queue[request] = time.monotonic()
            self._changed.notify_all()
            return True

    def take(self) -> list[Request]:
        """Wait for the next batch; empty when the queue is closed and nothing more comes."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._queue:
                    seconds = self._seconds_until_due(now)
                    if seconds <= 0:
                        break
                elif self._is_closing and not self._preparing:
                    return []
                else:
                    seconds = None
                self._changed.wait(seconds)
            batch: list[Request] = []
            for request in self._queue:
                if len(batch) < self.max_batch_size and (not batch or self.can_join(batch, request)):
                    batch.append(request)
            for request in batch:
                del self._queue[request]
            self._running.update(batch)
            self._changed.notify_all()
            return batch

    def take_more(self, running: Sequence[Request]) -> list[Request]:
        """Take the oldest that fit beside running ones, without waiting; the first that does not fit ends it."""
        with self._changed:
            more: list[Request] = []
            for request in self._queue:
                if len(running) + len(more) >= self.max_batch_size or not self.can_join([*running, *more], request):
                    break
                more.append(request)
            for request in more:
                del self._queue[request]
            self._running.update(more)
            return more

    def num_ready(self) -> int:
        """How many requests are ready to be taken."""
        return len(self._queue)

    def release(self, request: Request) -> None:
        """Forget a request that was answered, failed or was given up; releasing it again does nothing."""
        with self._changed:
            self._note_together()
            self._preparing.discard(request)
            self._running.discard(request)
            self._queue.pop(request, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Admit no more requests. Those that were admitted are still taken, without waiting for others."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def wait_until_empty(self, timeout: float | None) -> bool:
        """Wait until no request is waiting or running; `False` if the time is up before."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._preparing or self._queue or self._running), timeout)

    def in_flight(self) -> list[Request]:
        """All requests that wait or run."""
        with self._changed:
            return [*self._preparing, *self._queue, *self._running]

    def counts(self) -> dict[str, int]:
        """How many requests are `waiting`, how many of these are `preparing`, how many are `running`, and how many
        were `refused` so far."""
        with self._changed:
            return {
                "waiting": len(self._preparing) + len(self._queue),
                "preparing": len(self._preparing),
                "running": len(self._running),
                "refused": self._refused,
            }

    @property
    def is_closing(self) -> bool:
        """Whether no more requests are admitted."""
        return self._is_closing

    def _seconds_until_due(self, now: float) -> float:
        """How long the oldest request should still wait for others."""
        if self._is_closing or len(self._queue) >= min(self.max_batch_size, self._expected(now)):
            return 0.0
        return next(iter(self._queue.values())) + self.max_wait_seconds - now

    def _expected(self, now: float) -> int:
        """How many requests are likely to come together."""
        return self._together if now - self._together_at <= RECENT_SECONDS else 1

    def _note_together(self) -> None:
        now = time.monotonic()
        number = len(self._preparing) + len(self._queue) + len(self._running)
        if number >= self._expected(now):
            self._together, self._together_at = number, now


__all__ = ["RECENT_SECONDS", "WaitingRequests"]
