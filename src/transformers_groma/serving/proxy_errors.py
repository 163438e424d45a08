"""Errors of Ray Serve's proxy in the words of the API: a replica that died, replicas that are full, none that runs.

Ray Serve's proxies run it when the environment variable `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` of their nodes is
`transformers_groma.serving.proxy_errors:proxy_middleware`, which `groma serve --replicas` sees to for the Ray that it
starts. Without it the proxy's errors are plain text, and a stream whose replica died breaks off.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api_errors import ApiError, busy
from .event_stream import event

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = f"{__name__}:proxy_middleware"


def proxy_middleware() -> list[Middleware]:
    """What Ray Serve's proxies put around themselves."""
    return [Middleware(ProxyErrors)]


class ProxyErrors:
    """Turns the errors of Ray Serve's proxy into those of the API, and leaves all answers of applications alone.

    Args:
        app (`ASGIApp`): the proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # the proxy's own health and routes
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        await self._app(scope, receive, answer.send)
        if answer.error is not None:
            await answer.error.response()(scope, receive, send)
        elif not answer.has_started:
            await _replica_failed().response()(scope, receive, send)
        elif answer.is_stream and not answer.is_complete:
            body = event(_replica_failed().body())
            await send({"type": "http.response.body", "body": body, "more_body": False})


class _Answer:
    """Hands on what the proxy answers, and notes how far it came."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.error: ApiError | None = None
        self.has_started = self.is_complete = self.is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            headers = Headers(raw=[tuple(header) for header in message["headers"]])
            self.is_stream = headers.get("content-type", "").startswith("text/event-stream")
            if _is_of_the_proxy(message["status"], headers):
                self.error = _error_of_status(message["status"])
        elif message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)
        if self.error is None:
            await self._send(message)


def _is_of_the_proxy(status: int, headers: Headers) -> bool:
    """Whether the proxy itself says this: in plain text without a length, as no application does."""
    return (
        status >= 400
        and headers.get("content-type", "").startswith("text/plain")
        and "content-length" not in headers
        and _error_of_status(status) is not None
    )


def _error_of_status(status: int) -> ApiError | None:
    """What a status of the proxy means; `None` for those that it does not send."""
    if status == 404:  # each path belongs to the application, where there is one
        return busy("No replica answers here: the application is starting or ending. Ask again soon.", "no_replica")
    if status in (429, 503):
        return busy("The replicas cannot take more requests now. Ask again in a moment.", "queue_full")
    if status == 408:
        return ApiError(408, "The answer took longer than Ray Serve's request_timeout_s allows.", code="timeout")
    return None


def _replica_failed() -> ApiError:
    return busy("The replica that worked on this request has ended. Ask again.", "replica_failed")


__all__ = ["CALLBACK", "CALLBACK_VARIABLE", "ProxyErrors", "proxy_middleware"]
