"""What every engine does: prepares requests, waits for their words, streams them, adds masks, counts, and closes."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ..answer_masks import check_mask_decoder, has_mask_decoder
from ..masks import RLE, rle_to_box
from ..pointed_regions import check_region_proposer, has_region_proposer
from ..questions import QuestionWording
from ..regions import Regions
from .answers import (
    EngineAnswer,
    EngineClosedError,
    EngineRegion,
    EngineStatus,
    ModelFailedError,
    engine_region,
)
from .mask_threads import MaskThreads
from .model_thread import ModelThread
from .preparing import RequestPreparer
from .processor_threads import ProcessorThreads
from .request import Request
from .row_answers import partial_answer, with_boxes
from .runner import Runner
from .sampling import Sampling
from .waiting import WaitingRequests

_GREEDY = Sampling()
# Threads that check images and render prompts. Partial answers and masks have their own, so that no large image stops
# the text of others, and no large mask their questions.
_PREPARING_THREADS = 2
_MASK_THREADS = 2
# A partial answer is decoded as a whole. Between two of them passes at least this time, and this many times the time
# that decoding took, so that decoding takes a small share of the time however long the answer.
_PARTIAL_SECONDS = 0.03
_PARTIAL_COSTS = 20


class AnsweringEngine:
    """Answers questions about images. Its runner, in a thread of its own, looks at them; who writes the words differs.

    Requests may come from any event loop, also from several.

    Args:
        model (`PreTrainedModel`): on its device; put into evaluation mode. From now on it is the engine's.
        processor (`ProcessorMixin`): of the model; copied.
        runner (`Runner`): what is done with a batch.
        max_batch_size (`int`), max_wait_ms (`float`), max_waiting (`int`): as for `Engine`.
        max_running (`int`, *optional*): requests that may be answered at a time, where batches do not bound them.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        runner: Runner,
        max_batch_size: int,
        max_wait_ms: float,
        max_waiting: int,
        max_running: int | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self._runner = runner
        self._waiting: WaitingRequests[Request] = WaitingRequests(
            max_batch_size, max_wait_ms / 1000, max_waiting, runner.can_join, max_running
        )
        self._preparing = ProcessorThreads(processor, _PREPARING_THREADS, "groma-prepare")
        self._decoding = ProcessorThreads(processor, 1, "groma-decode")
        self._masking = MaskThreads(_MASK_THREADS)
        self._counting = threading.Lock()
        self._counts = dict.fromkeys(("answered", "failed", "invalid", "cancelled"), 0)
        self._prepare_for = RequestPreparer(runner)
        self._model_thread = ModelThread(self._waiting, runner)

    @property
    def has_masks(self) -> bool:
        """Whether the model has a mask decoder."""
        return has_mask_decoder(self.model)

    @property
    def has_proposals(self) -> bool:
        """Whether the model finds regions in an image by itself."""
        return has_region_proposer(self.model)

    @property
    def question_wording(self) -> QuestionWording:
        """How its model is asked what it learned."""
        return self.processor.question_wording

    async def answer(
        self, messages: Sequence[Mapping[str, Any]], sampling: Sampling = _GREEDY, masks: bool = False
    ) -> EngineAnswer:
        """Answer a question. A task that is cancelled frees its place in the batch.

        Args:
            messages (`list`): the conversation, see [`prepare_prompt`]; boxes of region parts are `xyxy`, points `xy`,
                in absolute pixels of the upright image.
            sampling (`Sampling`): how the answer is generated.
            masks (`bool`): whether the regions that the answer names, and the user's, get masks. Those that a GLaMM
                names have them in any case.

        Returns:
            `EngineAnswer`: boxes `xyxy` in absolute pixels of the upright image.

        Raises:
            ValueError: messages that are not a conversation, a bad image or region, a prompt that is too long, or
                masks of a model without a mask decoder.
            QueueFullError: too many requests wait.
            EngineClosedError: the engine is closing, or closed before the answer was complete.
            ModelFailedError: the model failed, out of memory for instance.
        """
        request = self._admit(self._question(sampling, masks))
        try:
            await self._prepare(self._prepare_for.question, request, messages)
            await request.wait_for_end()
            return await self._whole(request)
        finally:
            request.cancel()

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], sampling: Sampling = _GREEDY, masks: bool = False
    ) -> AsyncIterator[EngineAnswer]:
        """Answer a question while the answer is written.

        The model never waits for whoever reads: slow readers get fewer partial answers. Closing the iterator, or
        cancelling the task that reads it, frees the place in the batch.

        Args:
            messages, sampling, masks: as for [`answer`]. Only the last answer has masks.

        Yields:
            `EngineAnswer`: partial answers (`is_final` is false), each longer than the one before, then the answer as
            [`answer`] returns it.

        Raises:
            As [`answer`], with the first step of the iterator or later.
        """
        request = self._admit(self._question(sampling, masks))
        try:
            await self._prepare(self._prepare_for.question, request, messages)
            markup, num_seen = "", 0
            while await request.wait_for_step(num_seen):
                start = time.perf_counter()
                try:
                    partial = await self._decoding.run(_partial, request)
                except EngineClosedError:
                    break  # the last answers were complete before
                if partial is None:
                    break
                seconds, num_seen = time.perf_counter() - start, partial.completion_tokens
                if partial.grounded.markup != markup:
                    markup = partial.grounded.markup
                    yield partial
                await request.wait_for_end(max(_PARTIAL_SECONDS, _PARTIAL_COSTS * seconds))
            await request.wait_for_end()
            yield await self._whole(request)
        finally:
            request.cancel()

    async def segment(self, image: Any, regions: Sequence[Any]) -> list[EngineRegion]:
        """The masks of regions of an image; it is looked at once, as for questions.

        Args:
            image (`PIL.Image.Image`): any mode; turned upright.
            regions (`Sequence`): each a box, points, a scribble or a mask, see `read_region`, in absolute pixels of
                the upright image. Region parts of messages may come, too.

        Returns:
            `list[EngineRegion]`: for each region its mask and the box around it. A given mask stays as it is.

        Raises:
            ValueError: a bad image or region, or a model without a mask decoder.
            QueueFullError, EngineClosedError, ModelFailedError: as [`answer`].
        """
        check_mask_decoder(self.model, "`segment`")
        return await self._point(image, regions, wants_masks=True)

    async def resolve(self, image: Any, regions: Sequence[Any]) -> list[EngineRegion]:
        """Find the regions that a question would be about if it pointed at these; [`segment`] gives all of them masks.

        Args:
            image, regions: as for [`segment`].

        Returns:
            `list[EngineRegion]`: for points and scribbles their mask and its box; without a mask decoder the smallest
            proposal that holds them. Boxes stay as they are.

        Raises:
            As [`answer`]; also for an image in which the model found no region that a point could mean.
        """
        return await self._point(image, regions, wants_masks=False)

    async def _point(self, image: Any, regions: Sequence[Any], wants_masks: bool) -> list[EngineRegion]:
        request = self._admit(Request(None, self._on_end, wants_masks))
        try:
            await self._prepare(self._prepare_for.regions, request, image, regions)
            await request.wait_for_end()
            boxes, rles, quality = await self._with_masks(request)
            return [engine_region(box, rles.get(place), quality.get(place)) for place, box in enumerate(boxes)]
        finally:
            request.cancel()

    async def propose(self, image: Any) -> Regions:
        """All regions that the model finds in an image, best first; questions about the image then need no look.

        Args:
            image (`PIL.Image.Image`): any mode; turned upright.

        Returns:
            `Regions`: boxes `xyxy` in absolute pixels of the upright image, with scores.

        Raises:
            ValueError: it is not an image, or too small or too large, or the model has no region proposer.
            QueueFullError, EngineClosedError, ModelFailedError: as [`answer`].
        """
        check_region_proposer(self.model, "`propose`")
        request = self._admit(Request(None, self._on_end))
        try:
            await self._prepare(self._prepare_for.proposals, request, image)
            await request.wait_for_end()
            return request.outcome()
        finally:
            request.cancel()

    def snapshot(self) -> EngineStatus:
        """What the engine is doing, and has done since its start."""
        with self._counting:
            counts = dict(self._counts)
        runner, thread = self._runner, self._model_thread
        return EngineStatus(
            **self._waiting.counts(),
            is_closing=self._waiting.is_closing,
            is_alive=thread.is_alive,
            batches=thread.batches,
            batched_requests=thread.batched_requests,
            cached_images=len(runner.perception.images),
            cache_hits=runner.perception.cache_hits,
            cache_misses=runner.perception.cache_misses,
            prompt_tokens=runner.prompt_tokens,
            generated_tokens=runner.generated_tokens,
            busy_seconds=thread.busy_seconds,
            language_server=self._language_server_state(),
            **counts,
        )

    async def aclose(self, timeout: float | None = None) -> None:
        """Refuse new requests, finish what runs and waits, and end the engine's threads; a second time does nothing.

        Args:
            timeout (`float`, *optional*): seconds, after which what is not finished gets an `EngineClosedError`. A
                step of the model that has begun is waited for in any case.
        """
        # Not in the loop's own threads, which may all be taken.
        closer = ThreadPoolExecutor(1, thread_name_prefix="groma-close")
        closing = closer.submit(self._close, timeout)
        closer.shutdown(wait=False)
        await asyncio.wrap_future(closing)
        closer.shutdown()

    def close(self, timeout: float | None = None) -> None:
        """As [`aclose`], for code outside of event loops: it blocks.

        Raises:
            RuntimeError: called in an event loop, which it would stop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._close(timeout)
        else:
            raise RuntimeError("`close` would stop the event loop that it is called in. Use `await engine.aclose()`.")

    def _close(self, timeout: float | None) -> None:
        self._waiting.close()
        if not self._waiting.wait_until_empty(timeout):
            for request in self._waiting.in_flight():
                request.fail(EngineClosedError(f"The engine was closed before the answer was complete ({timeout} s)."))
        self._model_thread.join()
        self._preparing.shutdown()
        self._decoding.shutdown()
        self._masking.shutdown()

    async def __aenter__(self) -> "AnsweringEngine":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def _language_server_state(self) -> str | None:
        """What is known of the language server that writes the words; `None` where they are written here."""
        return None

    def _question(self, sampling: Sampling, masks: bool) -> Request:
        if masks:
            check_mask_decoder(self.model, "`masks=True`")
        if not isinstance(sampling, Sampling):
            raise ValueError(f"`sampling` must be a `Sampling`, got {sampling!r}.")
        return Request(sampling, self._on_end, masks)

    def _admit(self, request: Request) -> Request:
        self._waiting.admit(request)
        return request

    async def _prepare(self, prepare: Callable[..., bool], request: Request, *asked: Any) -> None:
        """Check what is asked, and put the request into the queue if the model is to see it."""

        def prepare_and_queue(processor: Any) -> None:
            if prepare(processor, request, *asked):
                self._waiting.put(request)

        await self._preparing.run(prepare_and_queue)

    async def _whole(self, request: Request) -> EngineAnswer:
        """The answer of a request that ended, with its masks and the boxes that follow from them."""
        answer, rles, quality = await self._with_masks(request)
        segments = () if request.masks is None else request.masks.segments
        boxes = {number: rle_to_box(rles[number]).tolist() for number in segments}
        return replace(answer, grounded=with_boxes(answer.grounded, boxes), masks=rles, mask_scores=quality)

    async def _with_masks(self, request: Request) -> tuple[Any, dict[int, RLE], Mapping[int, float]]:
        """The result of a request that ended, with the masks of its regions and their quality."""
        result, masks = request.outcome(), request.masks
        if masks is None:
            return result, {}, {}
        try:
            return result, await self._masking.rles(masks), masks.quality
        except ValueError as error:  # NaN in the logits
            raise ModelFailedError(f"The model's masks cannot be read: {error}") from error

    def _on_end(self, request: Request, result: Any, error: Exception | None) -> None:
        self._waiting.release(request)
        if error is not None:
            kind = "invalid" if isinstance(error, ValueError) else "failed"
        else:
            kind = "cancelled" if result is None else "answered"
        with self._counting:
            self._counts[kind] += 1


def _partial(processor: Any, request: Request) -> EngineAnswer | None:
    """The answer so far; `None` if it has ended meanwhile."""
    regions, ids = request.regions, list(request.ids)
    return None if regions is None else partial_answer(processor, ids, regions, request.prompt_tokens)


def check_engine_settings(max_batch_size: int, max_wait_ms: float, max_waiting: int, cached_images: int) -> None:
    """Check the settings that all engines have.

    Raises:
        ValueError: one is out of range.
    """
    for name, value, least in (
        ("max_batch_size", max_batch_size, 1),
        ("max_wait_ms", max_wait_ms, 0),
        ("max_waiting", max_waiting, 1),
        ("cached_images", cached_images, 0),
    ):
        is_number = isinstance(value, (int, float) if name == "max_wait_ms" else int)
        if not is_number or isinstance(value, bool) or not least <= value < float("inf"):
            raise ValueError(f"`{name}` must be a number from {least}, got {value!r}.")


__all__ = ["AnsweringEngine", "check_engine_settings"]
