"""The server's HTTP interface: OpenAI's chat completions with regions and grounding, health, and metrics."""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from .. import __version__
from .access import ClientLimit
from .answering_engine import AnsweringEngine
from .api_errors import ApiError
from .chat_answers import AnswerChunks, completion
from .chat_messages import engine_messages, sampling_of
from .chat_request import ChatRequest, read_chat_request
from .client_presence import while_connected
from .engine_errors import check_masks, of_engine
from .event_stream import END, EventStream, event
from .gate import CLIENT_LEFT, Gate
from .held_memory import HeldMemory
from .image_download import ImageDownloader
from .image_sources import ImageSources
from .lifecycle import Lifecycle
from .metrics import CONTENT_TYPE, ServerMetrics
from .request_body import ClientLeftError, read_body
from .segment_request import SegmentRequest
from .segments import Segments
from .settings import ServerSettings

logger = logging.getLogger(__name__)

# Threads that read bodies and decode images, so that the event loop does not. More of them would only take turns, and
# each keeps memory of its own.
_THREADS = 4
_FAILED = "The server failed. Its log says more."


def create_app(
    engine: AnsweringEngine,
    settings: ServerSettings,
    lifecycle: Lifecycle | None = None,
    make_downloader: Callable[[ServerSettings], ImageDownloader] = ImageDownloader,
    metrics_text: Callable[[], Awaitable[bytes]] | None = None,
) -> FastAPI:
    """Make the server's ASGI app.

    Args:
        engine (`AnsweringEngine`): answers; it stays open when the app ends.
        settings (`ServerSettings`): name, keys and limits.
        lifecycle (`Lifecycle`, *optional*): for whoever stops the server: while it is `draining`, new requests get
            503.
        make_downloader (`Callable`): makes what fetches images, where `settings` allow it.
        metrics_text (`Callable`, *optional*): what `/metrics` answers, where this app is one of several. By default
            its own, `app.state.metrics`.

    Returns:
        `FastAPI`: with `/v1/chat/completions`, `/v1/segment`, `/v1/models`, `/health` and `/metrics`.

    Example:

    ```python
    engine = Engine.from_pretrained("hub_configs/groma-tiny")
    uvicorn.run(create_app(engine, ServerSettings("groma-tiny")))
    ```"""
    lifecycle = lifecycle or Lifecycle()
    metrics = ServerMetrics(engine.snapshot)
    downloader = make_downloader(settings) if settings.allow_image_urls else None
    threads = CapacityLimiter(_THREADS)
    sources = ImageSources(settings, downloader, metrics.download, threads)
    memory, clients = HeldMemory(settings.max_held_bytes), ClientLimit(settings.max_requests_per_client)
    chats = _Chats(engine, settings, sources, metrics, threads, memory, clients)
    segments = Segments(engine, settings, sources, threads, memory, clients)
    created = int(time.time())
    model = {"id": settings.model_name, "object": "model", "created": created, "owned_by": "transformers-groma"}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if downloader is not None:
            await downloader.aclose()

    app = FastAPI(
        title="Groma",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host that the client named
    )
    app.state.metrics = metrics

    @app.post("/v1/chat/completions", openapi_extra=_body_of(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await chats.respond(request)

    @app.post("/v1/segment", openapi_extra=_body_of(SegmentRequest))
    async def segment(request: Request) -> Response:
        """Answer with masks of regions, or of what a phrase refers to."""
        return await segments.respond(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the model."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{model_id:path}")
    async def one_model(model_id: str) -> dict[str, Any]:
        """Describe the model."""
        if model_id != settings.model_name:
            message = f"The model {model_id!r} does not exist here: this server has {settings.model_name!r}."
            raise ApiError(404, message, param="model", code="model_not_found")
        return model

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> JSONResponse:
        """Say whether the server takes requests."""
        status = engine.snapshot()
        is_ok = status.is_alive and status.language_server in (None, "ok")
        state = "draining" if lifecycle.draining else "ok" if is_ok else "failed"
        content = {"status": state, "model": settings.model_name, "waiting": status.waiting, "running": status.running}
        if status.language_server is not None:
            content["language_server"] = status.language_server
        return JSONResponse(content, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def prometheus_metrics() -> Response:
        """Tell Prometheus what has happened."""
        text = metrics.text() if metrics_text is None else await metrics_text()
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(ClientLeftError)
    async def client_left(request: Request, error: ClientLeftError) -> Response:
        return Response(status_code=CLIENT_LEFT)  # nobody reads it

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return _routing_error(request, error).response()

    @app.exception_handler(Exception)
    async def unexpected_error(request: Request, error: Exception) -> Response:
        # The server's log has the traceback; strangers are told nothing of it.
        return ApiError(500, _FAILED, code="internal_error").response()

    app.add_middleware(Gate, settings=settings, lifecycle=lifecycle, metrics=metrics)
    if settings.cors_origins:  # last, so that it comes first: browsers ask for leave without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app


class _Chats:
    """Answers chat requests."""

    def __init__(
        self,
        engine: AnsweringEngine,
        settings: ServerSettings,
        sources: ImageSources,
        metrics: ServerMetrics,
        threads: CapacityLimiter,
        memory: HeldMemory,
        clients: ClientLimit,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._sources = sources
        self._metrics = metrics
        self._threads = threads
        self._memory = memory
        self._clients = clients

    async def respond(self, request: Request) -> Response:
        """The response to a request."""
        answers = self._answer(request)
        try:
            # A whole answer, or the first event of a stream, which comes when nothing can go wrong with its request.
            first = await anext(answers)
        except BaseException:
            await answers.aclose()
            raise
        if isinstance(first, Response):
            await answers.aclose()
            return first
        return EventStream(_with_first(first, answers))

    async def _answer(self, request: Request) -> AsyncGenerator[Any, None]:
        """Answer a request with one response, or with events. What it holds is given back when this ends."""
        address = request.client.host if request.client else ""
        with self._clients.request(address), self._memory.share() as share:
            body = await read_body(request, self._settings, share)
            # In a thread, as a body of many megabytes takes its time.
            chat = await to_thread.run_sync(read_chat_request, body, self._settings, limiter=self._threads)
            if chat.masks:
                check_masks(self._engine, "`masks` is true", "masks", "leave it out")
            reading = engine_messages(chat, self._sources, share, self._settings)
            messages, image = await while_connected(reading, request.receive)
            # While it waits for its turn, a request holds the pixels of its image, and no longer the text of its body.
            share.give_back(len(body))
            head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": chat.model}
            sampling, is_stream, options = sampling_of(chat, self._settings), chat.stream, chat.stream_options
            masks = chat.masks
            del body, chat
            if not is_stream:
                answering = of_engine(self._engine.answer(messages, sampling, masks))
                answer = await while_connected(answering, request.receive)
                yield JSONResponse(completion(head, answer, image, masks))
                return
            include_usage = options is not None and options.include_usage
            chunks = AnswerChunks(head, image, include_usage, masks)
            stream = self._engine.stream(messages, sampling, masks)
            try:
                answer = await while_connected(of_engine(anext(stream)), request.receive)
                self._metrics.first_token(time.perf_counter() - request.state.groma_start)
                yield event(chunks.first())
                while not answer.is_final:
                    if (chunk := chunks.partial(answer)) is not None:
                        yield event(chunk)
                    answer = await of_engine(anext(stream))
                for chunk in chunks.last(answer):
                    yield event(chunk)
                yield END
            finally:
                await stream.aclose()


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a request's body, for readers of /openapi.json: the body is read by hand, within limits."""
    schema = {"content": {"application/json": {"schema": model.model_json_schema()}}, "required": True}
    return {"requestBody": schema}


async def _with_first(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events of a stream. An error in its middle, when the status is long sent, becomes the last event."""
    try:
        yield first
        async for part in rest:
            yield part
    except ApiError as error:
        yield event(error.body())
    except Exception:
        logger.exception("A streamed answer failed.")
        yield event(ApiError(500, _FAILED, code="internal_error").body())
    finally:
        await rest.aclose()


def _routing_error(request: Request, error: HTTPException) -> ApiError:
    """A path or method that there is not."""
    where = f"{request.method[:20]} {request.url.path[:100]}"
    messages = {
        404: f"There is no {where} here. Ask POST /v1/chat/completions, POST /v1/segment or GET /v1/models.",
        405: f"{where} is not answered; the path takes {(error.headers or {}).get('Allow', 'another method')}.",
    }
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers)


__all__ = ["create_app"]
