"""Runs work in threads, a few items ahead of the caller."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, threads: int = 1
) -> Iterator[Result]:
    """Like `map`, but in other threads, a bounded number of items ahead.

    While the caller works on one result, the next ones are made. They wait in memory, which is why they are few.

    Args:
        function (`Callable`): makes a result of an item; called in several threads at once if there are several.
        items (`Iterable`): read as they are needed, in the caller's thread.
        ahead (`int`): how many items may be under way or done beyond the result that is used.
        threads (`int`): how many threads work.

    Yields:
        The results, in the order of the items. An error of `function` is raised in the place of its result.

    Example:
    >>> list(run_ahead(str.upper, ["a", "b", "c"], ahead=1))
    ['A', 'B', 'C']
    """
    with ThreadPoolExecutor(threads) as executor:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # After an error, here or in the caller, the rest is not needed.
            for future in waiting:
                future.cancel()
