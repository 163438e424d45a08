"""Threads that make RLE of decoded masks, so that no other request waits for those of a large photo."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from .answers import RLE
from .row_masks import DecodedMasks


class MaskThreads:
    """A few threads, awaited from any event loop. Requests take turns, mask by mask.

    Args:
        number (`int`): how many threads.
    """

    def __init__(self, number: int) -> None:
        self._threads = ThreadPoolExecutor(number, thread_name_prefix="groma-masks")

    async def rles(self, masks: DecodedMasks) -> dict[int, RLE]:
        """The masks of a request by the numbers of their regions, of the upright image.

        Whoever is cancelled gets no further mask made. After [`shutdown`] other threads make them: an answer that was
        complete before is not lost.

        Raises:
            ValueError: the model's numbers are not numbers.
        """
        return {number: await self._rle(masks, number) for number in masks.numbers()}

    async def _rle(self, masks: DecodedMasks, number: int) -> RLE:
        try:
            future = self._threads.submit(masks.rle, number)
        except RuntimeError:  # they have ended
            return await asyncio.to_thread(masks.rle, number)
        return await asyncio.wrap_future(future)

    def shutdown(self) -> None:
        """Finish what was begun and end the threads."""
        self._threads.shutdown()


__all__ = ["MaskThreads"]
