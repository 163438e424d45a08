"""The thread that runs the model: batch after batch of what waits, until the engine closes."""

import logging
import threading
import time

from .answers import EngineClosedError, ModelFailedError
from .request import Request
from .runner import Runner
from .waiting import WaitingRequests

logger = logging.getLogger(__name__)


class ModelThread:
    """Answers what waits, in a thread of its own that starts at once.

    Args:
        waiting (`WaitingRequests`): the queue; the thread ends after it was closed.
        runner (`Runner`): what is done with a batch.

    Attributes:
        batches (`int`), batched_requests (`int`), busy_seconds (`float`): see `EngineStatus`.
    """

    def __init__(self, waiting: WaitingRequests[Request], runner: Runner) -> None:
        self.batches = self.batched_requests = 0
        self.busy_seconds = 0.0
        self._waiting = waiting
        self._runner = runner
        self._thread = threading.Thread(target=self._work, name="groma-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def _work(self) -> None:
        """Run batches; if the thread ends before the engine closes, the requests fail instead of waiting forever."""
        try:
            self._work_on_batches()
        except BaseException:
            logger.exception("The thread of the engine has failed.")
        finally:
            self._waiting.close()
            for request in self._waiting.in_flight():
                if request.is_handed_on:
                    continue  # who writes its words goes on without this thread
                request.fail(EngineClosedError("The thread of the engine has failed. Make a new engine."))

    def _work_on_batches(self) -> None:
        """Batches until the engine closes. Nothing that a batch does ends this."""
        while batch := self._waiting.take():
            start = time.perf_counter()
            self._count_batch(batch)

            def take_more(running: list[Request], batch: list[Request] = batch) -> list[Request]:
                more = self._waiting.take_more(running)
                batch[:] = [*running, *more]  # all that an error would hit, and no more
                self._count_batch(more)
                return more

            try:
                self._runner.run(batch, self._waiting.num_ready, take_more)
            except BaseException as error:
                logger.exception("A batch of %d requests failed.", len(batch))
                reason = _sentence(error, len(batch))
            else:
                reason = "The model ended without an answer to this request. Ask again."
            for request in batch:
                if not request.is_handed_on:
                    # Each its own error, without what the model's frames hold in memory.
                    request.fail(ModelFailedError(reason))
            self.busy_seconds += time.perf_counter() - start
            batch = request = take_more = None

    def _count_batch(self, batch: list[Request]) -> None:
        self.batches += bool(batch)
        self.batched_requests += len(batch)


def _sentence(error: BaseException, batch_size: int) -> str:
    """Why a batch failed, and what to do."""
    lines = str(error).strip().splitlines()
    cause = f"{type(error).__name__}{': ' + lines[0][:200] if lines else ''}"
    remedy = "Ask again"
    if "memory" in str(error).lower() or isinstance(error, MemoryError):
        remedy = "Ask again later, with a shorter answer, or start the engine with a smaller `max_batch_size`"
    requests = "request" if batch_size == 1 else "requests"
    return f"The model failed on a batch of {batch_size} {requests} ({cause}). {remedy}."


__all__ = ["ModelThread"]
