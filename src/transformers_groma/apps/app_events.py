"""What the app does when someone chooses an image, asks, stops or saves, without any part of the page.

Everything happens for one session; sessions share the engine and nothing else.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..image_inputs import shortened
from ..masks import RLE, rle_to_mask
from ..regions import Regions
from ..serving.engine import Engine, EngineAnswer, EngineClosedError, ModelFailedError, QueueFullError, Sampling
from .answer_places import OUTLINE_SIDE
from .app_examples import EXAMPLES, Example
from .app_questions import Content, Request, question_contents
from .app_session import Exchange, Session, about_its_question, answer_json, messages
from .app_settings import AppSettings
from .drawn_regions import drawn_regions
from .outline_path import outline_path
from .uploads import new_path, open_upload

# Seconds between two updates of the page while an answer is being written.
UPDATE_SECONDS = 0.08


@dataclass(frozen=True)
class Screen:
    """What the page should show.

    Args:
        session (`Session`): whose image and conversation.
        status (`str`, *optional*): a sentence about what went wrong, empty for none; `None` leaves the last one.
        is_new (`bool`): whether another image was chosen, or none: what was drawn and typed belongs to the old one.
        asked (`tuple[Exchange, ...]`): questions whose answers have begun: their regions need not stay. Said until the
            end: of screens that come at once, a browser may miss all but the last.
        has_begun (`bool`): whether this is the first part of an answer: what was typed need not stay.
        previews (`list[dict]`): the regions that the model finds for what was drawn, see [`AppEvents.preview`].
    """

    session: Session
    status: str | None = None
    is_new: bool = False
    asked: tuple[Exchange, ...] = ()
    has_begun: bool = False
    previews: list[dict[str, Any]] = field(default_factory=list)


class AppEvents:
    """The events of the app.

    Args:
        engine (`Engine`): answers the questions.
        settings (`AppSettings`): the limits.
        folder (`Path`): of files that the app may serve.
    """

    def __init__(self, engine: Engine, settings: AppSettings, folder: Path) -> None:
        self.engine = engine
        self.settings = settings
        self.folder = folder

    async def open_image(self, session: Session, path: str | Path) -> Screen:
        """Start a conversation about an uploaded file."""
        try:
            image = await asyncio.to_thread(open_upload, path, self.settings, self.folder)
        except ValueError as error:
            return Screen(session, str(error))
        session.reset(image)
        session.proposes = self.engine.has_proposals
        return Screen(session, "", is_new=True)

    async def start_example(self, session: Session, number: Any) -> AsyncIterator[Screen]:
        """Start a conversation about the scene of an example, and ask its question."""
        if not isinstance(number, int) or not 0 <= number < len(EXAMPLES):
            yield Screen(session, "There is no such example: choose one of those on the page.")
            return
        path = await asyncio.to_thread(_draw, EXAMPLES[number], self.folder)
        yield await self.open_image(session, path)
        content = EXAMPLES[number].content(self.engine.question_wording)
        async with aclosing(self._answers(session, [content], remembers=False)) as screens:
            async for screen in screens:
                yield screen

    async def propose(self, session: Session) -> Screen:
        """Find all regions of the image, for the switch beside it."""
        image = session.image
        if image is None:
            return Screen(session)
        if not session.proposes:  # the page says so, and what to do instead
            session.proposals = Regions([])
            return Screen(session)
        try:
            proposals = await self.engine.propose(await asyncio.to_thread(image.read))
        except (ValueError, RuntimeError) as error:
            return Screen(session, f"The regions cannot be shown right now. {_sentence(error)}")
        if session.image is image:  # and not another one meanwhile
            session.proposals = proposals
        return Screen(session)

    async def preview(self, session: Session, wanted: Any) -> Screen:
        """Show the regions that points and scribbles stand for, before anything is asked: their masks, or boxes.

        Args:
            session (`Session`): of the user.
            wanted: a list of `{"key": …, "region": …}` with drawings, as the browser sends it; anything may come.

        Returns:
            `Screen`: with `previews`, for each the `key`, its `outline` as an SVG path (`None` for a model without a
            mask decoder) and its `box`, `xyxy` in absolute pixels of the upright image.
        """
        image = session.image
        if image is None:
            return Screen(session)
        try:
            keys, drawings = _keys_and_drawings(wanted)
            regions = drawn_regions(drawings, image.size)
            found = await self.engine.resolve(await asyncio.to_thread(image.read), regions)
            outlines = await asyncio.to_thread(lambda: [_outline(region.mask) for region in found])
        except (ValueError, RuntimeError) as error:
            return Screen(session, f"What you pointed at cannot be shown right now. {_sentence(error)}")
        return Screen(
            session,
            "",
            previews=[
                {"key": key, "outline": outline, "box": list(region.box)}
                for key, outline, region in zip(keys, outlines, found, strict=True)
            ],
        )

    async def ask(self, session: Session, request: Request) -> AsyncIterator[Screen]:
        """Answer a question, word by word."""
        if session.image is None:
            yield Screen(session, "Choose an image first.")
            return
        try:
            wording = self.engine.question_wording
            contents = question_contents(request, session.image.size, self.settings.max_question_length, wording)
        except ValueError as error:
            yield Screen(session, str(error))
            return
        async with aclosing(self._answers(session, contents, request.remembers)) as screens:
            async for screen in screens:
                yield screen

    async def stop(self, session: Session) -> None:
        """End the answer that is being written; its text so far stays."""
        if session.stop is not None:
            session.stop.set()

    async def close_image(self, session: Session) -> Screen:
        """Forget the image and the conversation."""
        session.reset()
        return Screen(session, "", is_new=True)

    async def save(self, session: Session, kind: str) -> Path | None:
        """Write the last answer for a download, drawn ("png") or as JSON ("json"); `None` if there is none."""
        exchange, image = session.last_answered, session.image
        if exchange is None or image is None:
            return None
        path = new_path(self.folder, f"{Path(image.name).stem}-answer.{kind}")
        session.files.append(path)
        if kind == "json":
            path.write_text(answer_json(exchange, image, self.settings.model_name), encoding="utf-8")
        else:
            drawn = await asyncio.to_thread(_draw_answer, exchange, image)
            await asyncio.to_thread(drawn.save, path)
        return path

    async def _answers(self, session: Session, contents: list[Content], remembers: bool) -> AsyncIterator[Screen]:
        """Ask one question after the other, until all are answered, one fails or the user stops them."""
        if session.stop is not None:
            yield Screen(session, "An answer is still being written: wait for its end, or stop it.")
            return
        stop = session.stop = asyncio.Event()
        status = ""
        exchange = None
        begun: list[Exchange] = []
        try:
            image = await asyncio.to_thread(session.image.read)
            for content in contents:
                earlier = list(session.exchanges) if remembers else []
                exchange = Exchange(content)
                session.exchanges.append(exchange)
                yield Screen(session, "", asked=tuple(begun))
                sampling = Sampling(max_new_tokens=self.settings.max_new_tokens, shorten_to_fit=True)
                asked = messages(image, earlier, content)
                answers = _until(stop, self.engine.stream(asked, sampling, masks=self.engine.has_masks))
                async with aclosing(answers):
                    async for screen in self._shown(session, exchange, answers, begun):
                        yield screen
                if stop.is_set():
                    break
        except (ValueError, RuntimeError) as error:
            status = _sentence(error)
        finally:
            # Also when the browser has gone, which closes this generator.
            session.stop = None
            if exchange is not None:
                _finish(session, exchange, status)
        yield Screen(session, status, asked=tuple(begun))

    async def _shown(
        self, session: Session, exchange: Exchange, answers: AsyncIterator[EngineAnswer], begun: list[Exchange]
    ) -> AsyncIterator[Screen]:
        """Keep each part of an answer, and show it if the last update is long enough ago."""
        last = 0.0
        async for answer in answers:
            is_first = exchange.answer is None
            outlines = await asyncio.to_thread(_outlines, answer.masks) if answer.masks else {}
            exchange.answer = about_its_question(answer.grounded, len(exchange.regions))
            exchange.masks, exchange.outlines = answer.masks, outlines
            exchange.is_partial = not answer.is_final
            if answer.is_final and answer.finish_reason == "length":
                exchange.notice = f"The answer was cut off after {answer.completion_tokens} tokens."
            if is_first or answer.is_final or time.monotonic() - last >= UPDATE_SECONDS:
                last = time.monotonic()
                if is_first:
                    begun.append(exchange)
                yield Screen(session, asked=tuple(begun), has_begun=is_first)


async def _until(stop: asyncio.Event, answers: AsyncIterator[EngineAnswer]) -> AsyncIterator[EngineAnswer]:
    """The answers until `stop` is set; then the engine is told to let go of the question."""
    stopping = asyncio.ensure_future(stop.wait())
    async with aclosing(answers):
        try:
            while not stop.is_set():
                step = asyncio.ensure_future(anext(answers))
                try:
                    await asyncio.wait({step, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not step.done():
                        step.cancel()
                        with suppress(asyncio.CancelledError, StopAsyncIteration):
                            await step
                if step.cancelled():
                    return
                try:
                    answer = step.result()
                except StopAsyncIteration:
                    return
                yield answer
        finally:
            stopping.cancel()


def _sentence(error: Exception) -> str:
    """What went wrong, for the user of the page: the engine speaks to whoever runs it."""
    match error:
        case QueueFullError():
            return "Too many people are asking right now: wait a moment, then ask again."
        case EngineClosedError():
            return "The app is shutting down: ask again later."
        case ModelFailedError():
            return "The model failed on this question. The app's log has the reason."
    return str(error)


def _finish(session: Session, exchange: Exchange, status: str) -> None:
    """Keep or drop a question that has ended, however it ended."""
    if exchange.answer is None:
        session.exchanges = [kept for kept in session.exchanges if kept is not exchange]
    elif exchange.is_partial:
        exchange.is_partial, exchange.notice = False, status or "Stopped."


def _draw(example: Example, folder: Path) -> Path:
    path = new_path(folder, f"scene-{example.number}.png")
    example.scene.draw().save(path)
    return path


def _draw_answer(exchange: Exchange, image: Any) -> Any:
    answer = exchange.answer
    if exchange.masks:
        answer = answer.with_masks({number: rle_to_mask(rle) for number, rle in exchange.masks.items()})
    return answer.draw(image.read(), question=exchange.text)


def _keys_and_drawings(wanted: Any) -> tuple[list[str], list[Any]]:
    """What the browser wants previews of."""
    if not isinstance(wanted, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("key"), str) for entry in wanted
    ):
        raise ValueError(f"The page must send a list of regions with their keys, got {shortened(wanted)}. Reload it.")
    return [entry["key"] for entry in wanted], [entry.get("region") for entry in wanted]


def _outlines(masks: Mapping[int, RLE]) -> dict[int, str]:
    """Outlines of masks, for the page."""
    return {number: _outline(rle) for number, rle in masks.items()}


def _outline(rle: RLE | None) -> str | None:
    return None if rle is None else outline_path(rle_to_mask(rle), OUTLINE_SIDE)


__all__ = ["AppEvents", "Screen"]
