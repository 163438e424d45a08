"""Sends events to a client as they come (server-sent events), and ends their source when the client leaves."""

import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .client_presence import while_connected
from .request_body import ClientLeftError

END = b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    """An event as it is sent.

    Example:
    >>> event({"text": "Hi"})
    b'data: {"text":"Hi"}\\n\\n'
    """
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """A response of events.

    Args:
        events (`AsyncGenerator[bytes]`): what to send. It is closed at the end, whatever happens, so that what it
            holds is free at once.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        # Proxies keep parts back unless they are told not to.
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events."""
        try:
            with suppress(ClientLeftError):
                await while_connected(self._send(send), receive)
        finally:
            await self._events.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


__all__ = ["END", "EventStream", "event"]
