"""The thread in which a language server is asked: many requests at once, in an event loop of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from .request import Request


class WordsThread:
    """An event loop in a thread of its own, with a task for each request.

    Example:
    ```python
    thread = WordsThread()
    thread.start(request, write(request))
    thread.stop(request)  # nothing if it has ended
    thread.close(server.aclose)
    ```"""

    def __init__(self) -> None:
        self._tasks: dict[Request, Future[None]] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="groma-words", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Run anything in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def start(self, request: Request, work: Coroutine[Any, Any, None]) -> None:
        """Begin to write the words of a request. For any thread."""
        with self._lock:
            task = self.submit(work)
            self._tasks[request] = task
        task.add_done_callback(lambda _: self._forget(request))
        if request.is_ended:  # given up meanwhile
            self.stop(request)

    def stop(self, request: Request) -> None:
        """End the work on a request: its connection is closed, and the language server stops. For any thread."""
        with self._lock:
            task = self._tasks.get(request)
        if task is not None:
            task.cancel()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End all work, do something last, and end the thread; a second time does nothing."""
        if self._loop.is_closed():
            return
        self.submit(self._end(last)).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        own = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not own]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await last()
        await asyncio.get_running_loop().shutdown_default_executor()

    def _forget(self, request: Request) -> None:
        with self._lock:
            self._tasks.pop(request, None)


__all__ = ["WordsThread"]
