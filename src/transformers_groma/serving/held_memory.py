"""Memory that requests hold: bodies and images of all of them together stay within one limit."""

from collections.abc import Iterator
from contextlib import contextmanager

from .api_errors import busy


class HeldMemory:
    """Counts the bytes that requests hold, and refuses more than fit.

    Args:
        limit (`int`): bytes of all requests together.

    Example:
    >>> memory = HeldMemory(100)
    >>> with memory.share() as share:
    ...     share.add(60)
    ...     memory.held
    60
    >>> memory.held
    0
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def share(self) -> Iterator["MemoryShare"]:
        """What one request holds; given back at the end."""
        share = MemoryShare(self)
        try:
            yield share
        finally:
            self.held -= share.held


class MemoryShare:
    """What one request holds of a [`HeldMemory`]."""

    def __init__(self, memory: HeldMemory) -> None:
        self._memory = memory
        self.held = 0

    def add(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            ApiError: all requests together would hold too much (503).
        """
        if self._memory.held + count > self._memory.limit:
            raise busy(
                "The server's memory for images and bodies is in use. Ask again in a moment.",
                "out_of_memory",
            )
        self._memory.held += count
        self.held += count

    def give_back(self, count: int) -> None:
        """Hold fewer bytes."""
        self._memory.held -= count
        self.held -= count


__all__ = ["HeldMemory", "MemoryShare"]
