"""What every request passes on its way in: metrics, the end of serving, and API keys."""

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import check_api_key
from .api_errors import ApiError, busy
from .lifecycle import Lifecycle
from .metrics import ServerMetrics
from .settings import ServerSettings

# A line for each request, for whoever gives it a handler.
request_log = logging.getLogger(f"{__name__}.requests")

# Answered also while the server stops, and not counted as work to finish.
_ABOUT_THE_SERVER = ("/health", "/metrics")
_ENDPOINTS = ("/v1/chat/completions", "/v1/segment", "/v1/models", *_ABOUT_THE_SERVER)
# As nginx logs it; it is never sent.
CLIENT_LEFT = 499


class Gate:
    """Counts requests, and refuses those without a key or at the end of serving.

    Args:
        app (`ASGIApp`): what answers the others.
        settings (`ServerSettings`): keys.
        lifecycle (`Lifecycle`): whether the server stops.
        metrics (`ServerMetrics`): where requests are counted.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, lifecycle: Lifecycle, metrics: ServerMetrics) -> None:
        self._app = app
        self._settings = settings
        self._lifecycle = lifecycle
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        scope.setdefault("state", {})["groma_start"] = start
        status = CLIENT_LEFT

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        is_work = scope["path"] not in _ABOUT_THE_SERVER
        self._lifecycle.running += is_work
        try:
            self._check(scope)
            await self._app(scope, receive, note_status)
        except ApiError as error:
            await error.response()(scope, receive, note_status)
        except Exception:
            status = 500  # answered outside
            raise
        finally:
            self._lifecycle.running -= is_work
            seconds = time.perf_counter() - start
            self._metrics.request(endpoint_of(scope["path"]), status, seconds)
            # Without the query. A proxy's client may call itself anything.
            address, path = _printable(scope["client"][0] if scope.get("client") else "-"), _printable(scope["path"])
            request_log.info("%s %s %s %d %.3f s", address, _printable(scope["method"]), path, status, seconds)

    def _check(self, scope: Scope) -> None:
        if scope["path"] == "/health":
            return
        check_api_key(Headers(scope=scope).get("authorization"), self._settings.api_keys)
        if self._lifecycle.draining and scope["path"] not in _ABOUT_THE_SERVER:
            error = busy("The server is shutting down. Ask again in a moment.", "shutting_down")
            error.headers["Connection"] = "close"
            raise error


def _printable(text: str) -> str:
    """A stranger's text for a line of a log: no line breaks, and nothing that a terminal would obey."""
    return repr(text[:200])[1:-1]


def endpoint_of(path: str) -> str:
    """The endpoint of a path as metrics name it: few names, whatever paths strangers try.

    Example:
    >>> endpoint_of("/v1/models/groma-tiny"), endpoint_of("/wp-login.php")
    ('/v1/models/{id}', 'other')
    """
    if path in _ENDPOINTS:
        return path
    return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"


__all__ = ["CLIENT_LEFT", "Gate", "endpoint_of", "request_log"]
