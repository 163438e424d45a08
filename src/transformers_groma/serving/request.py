"""One request between the event loop that asked and the thread that answers."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import Generator, Tensor
from transformers import LogitsProcessorList

from .conversations import Prompt, UprightImage
from .pointing import Pointing
from .row_answers import RowRegions
from .row_masks import DecodedMasks, MaskSource
from .sampling import Sampling, row_generator


class Request:
    """A request: what is asked, the answer so far, and how it ended.

    The event loop that makes it waits for it; the model's thread adds ids and ends it, without ever waiting for the
    loop. Whoever is slow reads the newest state when they come back, and nothing piles up.

    Args:
        sampling (`Sampling`, *optional*): for an answer; `None` for regions of an image.
        on_end (`Callable`): called once, in any thread, when it ends: with the request, its result and its error.
        wants_masks (`bool`): whether masks of its regions are decoded.

    Attributes:
        image (`UprightImage`, *optional*), asked (`Prompt` or `Pointing`, *optional*): what is asked, until the
            request ends: a prompt, regions to be found, or, without either, the proposals of the image.
        ids (`list[int]`): what the model has written.
        regions (`RowRegions`, *optional*): regions that the answer can name, known before its first id.
        mask_source (`MaskSource`, *optional*): what masks of these regions, and of segment tokens, are decoded from.
        segment_states (`list[Tensor]`): the state that predicted each segment token of the answer, `(hidden_size,)`.
        masks (`DecodedMasks`, *optional*): the masks, when it has ended.
        is_handed_on (`bool`): whether its words are written elsewhere: not in the model's thread.
        random (`torch.Generator`, *optional*): random numbers of its row; none for a greedy one.
        processors (`LogitsProcessorList`, *optional*): what the model's settings do to the scores of its row.
        is_ended (`bool`): whether it has a result or an error, or was given up.
        result (`Any`), error (`Exception`): one of them for a request that was not given up.
    """

    def __init__(
        self,
        sampling: Sampling | None,
        on_end: Callable[["Request", Any, Exception | None], None],
        wants_masks: bool = False,
    ) -> None:
        self.sampling = sampling
        self.wants_masks = wants_masks
        self.image: UprightImage | None = None
        self.asked: Prompt | Pointing | None = None  # `None` too for the proposals of an image
        self.prompt_tokens = 0
        self.ids: list[int] = []
        self.regions: RowRegions | None = None
        self.mask_source: MaskSource | None = None
        self.segment_states: list[Tensor] = []
        self.masks: DecodedMasks | None = None
        self.random: Generator | None = None if sampling is None else row_generator(sampling)
        self.processors: LogitsProcessorList | None = None
        self.is_handed_on = False
        self.is_ended = False
        self.result: Any = None
        self.error: Exception | None = None
        self._on_end = on_end
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._step, self._end_event = asyncio.Event(), asyncio.Event()
        self._is_step_wanted = False

    def ask(self, image: UprightImage | None, asked: Prompt | Pointing | None) -> None:
        """Set what is asked: a prompt, perhaps about an image, regions to be found in it, or its proposals."""
        with self._lock:
            if not self.is_ended:
                self.image, self.asked = image, asked
                self.prompt_tokens = len(asked.input_ids) if isinstance(asked, Prompt) else 0

    # The model's thread.

    def use(self, processors: LogitsProcessorList) -> None:
        """Set what the model's settings do to the scores of its row."""
        with self._lock:
            if not self.is_ended:
                self.processors = processors

    def add(self, token_id: int) -> None:
        """Add an id that the model wrote."""
        if self._loop.is_closed():  # nobody waits any more
            self.cancel()
        self.ids.append(token_id)
        if self._is_step_wanted:
            self._is_step_wanted = False
            self._wake(self._step)

    def succeed(self, result: Any) -> None:
        """End with a result."""
        self._end(result, None)

    def fail(self, error: Exception) -> None:
        """End with an error, which is raised where the request is awaited. It must be this request's own."""
        self._end(None, error)

    # Whoever asked.

    def cancel(self) -> None:
        """Give the request up; nothing if it has ended. Its row ends with the model's next step."""
        self._end(None, None)

    async def wait_for_step(self, num_seen: int) -> bool:
        """Wait until there are more than `num_seen` ids; `False` if the request ended."""
        while not self.is_ended and len(self.ids) <= num_seen:
            self._step.clear()
            # First the wish, then another look: the model's thread does it the other way round.
            self._is_step_wanted = True
            if not self.is_ended and len(self.ids) <= num_seen:
                await self._step.wait()
        return not self.is_ended

    async def wait_for_end(self, timeout: float | None = None) -> None:
        """Wait until the request ends or the time is up."""
        if not self.is_ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end_event.wait(), timeout)

    def outcome(self) -> Any:
        """The result of a request that ended.

        Raises:
            Exception: its error.
        """
        if self.error is not None:
            # The traceback leads back to here, so the request lets go of the error.
            error, self.error = self.error, None
            try:
                raise error
            finally:
                del error
        return self.result

    def _end(self, result: Any, error: Exception | None) -> None:
        with self._lock:
            if self.is_ended:
                return
            self.result, self.error, self.is_ended = result, error, True
            self.image = self.asked = self.regions = self.processors = self.mask_source = None
            self.segment_states = []
        self._on_end(self, result, error)
        self._wake(self._step, self._end_event)

    def _wake(self, *events: asyncio.Event) -> None:
        try:
            self._loop.call_soon_threadsafe(_set_all, events)
        except RuntimeError:  # the loop is closed
            self.cancel()


def _set_all(events: tuple[asyncio.Event, ...]) -> None:
    for event in events:
        event.set()


__all__ = ["Request"]
