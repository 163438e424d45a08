"""Threads that each work with a processor of their own, awaited from any event loop."""

import asyncio
import copy
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .answers import EngineClosedError


class ProcessorThreads:
    """A few threads with a copy of the processor each, because a tokenizer serves one thread at a time.

    Args:
        processor (`ProcessorMixin`): copied here, as long as no other thread uses it.
        number (`int`): how many threads.
        name (`str`): of the threads.
    """

    def __init__(self, processor: Any, number: int, name: str) -> None:
        self._processors: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(number):
            self._processors.put(copy.deepcopy(processor))
        self._threads = ThreadPoolExecutor(number, thread_name_prefix=name)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Await `function(processor, *arguments)` in one of the threads.

        Raises:
            EngineClosedError: after [`shutdown`].
        """
        try:
            future = self._threads.submit(self._call, function, *arguments)
        except RuntimeError as error:
            raise EngineClosedError("The engine is closed. Create a new one.") from error
        return await asyncio.wrap_future(future)

    def shutdown(self) -> None:
        """Finish what was begun and end the threads."""
        self._threads.shutdown()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        # There are as many processors as threads.
        processor = self._processors.get()
        try:
            return function(processor, *arguments)
        finally:
            self._processors.put(processor)


__all__ = ["ProcessorThreads"]
