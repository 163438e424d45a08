"""Runs the app on a socket: time limits for slow clients, and an end that finishes what runs."""

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from .answering_engine import AnsweringEngine
from .lifecycle import Lifecycle
from .settings import ServerSettings

# Seconds for answers that are complete to reach their clients, at the end of serving.
_LAST_WRITES = 5
# The same after a second signal.
_FORCED_WRITES = 0.5


class HttpServer(uvicorn.Server):
    """Serves an app until it is told to stop; then finishes what runs.

    The first signal (SIGTERM, Ctrl-C) ends serving: new requests are refused, `/health` says so, and running ones may
    finish. A second one ends the process without waiting.

    Args:
        app (`FastAPI`): of `create_app`, with the same `lifecycle`.
        engine (`AnsweringEngine`): it is closed at the end.
        settings (`ServerSettings`): time limits.
        lifecycle (`Lifecycle`): tells the app that serving ends.
        shutdown_timeout (`float`): seconds for what runs to finish; then it is cancelled.
        on_finishing (`Callable[[int], None]`, *optional*): called with the number of requests that are waited for,
            at the first signal, if there are any.
    """

    def __init__(
        self,
        app: FastAPI,
        engine: AnsweringEngine,
        settings: ServerSettings,
        lifecycle: Lifecycle,
        shutdown_timeout: float,
        on_finishing: Callable[[int], None] | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_limited_protocol(settings),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_WRITES,
        )
        super().__init__(config)
        self._engine = engine
        self._lifecycle = lifecycle
        self._shutdown_timeout = shutdown_timeout
        self._on_finishing = on_finishing
        self._finishing: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, at the first signal; stop at once, at the second."""
        # Not uvicorn's way, which closes the socket first, so that nobody could be told.
        if self._lifecycle.draining:
            self.should_exit = self.force_exit = True
        self._lifecycle.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now."""
        if await super().on_tick(counter):
            return True
        if self._lifecycle.draining and self._finishing is None:
            self._finishing = asyncio.create_task(self._finish())
        return self._finishing is not None and self._finishing.done()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close sockets and connections; after a second signal, end what runs first."""
        if self.force_exit:
            await self._engine.aclose(0)
            await self._until_idle(_FORCED_WRITES)
            self._cut_off()
            await self._until_idle(_FORCED_WRITES)
        await super().shutdown(sockets)
        if self.force_exit:
            # Uvicorn leaves it out, and logs a traceback when it is cancelled.
            await self.lifespan.shutdown()

    async def _finish(self) -> None:
        """Wait for running requests, as long as they may take; then cancel them."""
        if self._lifecycle.running and self._on_finishing is not None:
            self._on_finishing(self._lifecycle.running)
        await self._until_idle(self._shutdown_timeout)
        await self._engine.aclose(0)
        await self._until_idle(_LAST_WRITES)
        self._cut_off()
        await self._until_idle(_LAST_WRITES)

    def _cut_off(self) -> None:
        """Close what is left: clients that have not sent their whole question, or do not read their answer.

        Uvicorn would cancel their requests, which ends in a traceback for each and a status 500.
        """
        for connection in list(self.server_state.connections):
            if connection.cycle is not None and not connection.cycle.response_complete:
                connection.transport.abort()

    async def _until_idle(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._lifecycle.running and time.monotonic() < end:
            await asyncio.sleep(0.02)


def bind_socket(host: str, port: int) -> socket.socket:
    """Take an address, without listening yet: clients that come too early are refused instead of waiting.

    Args:
        host (`str`): name or address.
        port (`int`): 0 for a free one.

    Returns:
        `socket.socket`: bound.

    Raises:
        OSError: the host is not one of this machine, or the port is in use.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        # A server that stopped a moment ago leaves its port behind for a minute. On Windows the option means that two
        # may have one port.
        if sys.platform != "win32":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _limited_protocol(settings: ServerSettings) -> type[H11Protocol]:
    """HTTP whose clients must send the head of a request, and take what is sent to them, within some time."""

    class LimitedProtocol(H11Protocol):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.head_timer: asyncio.TimerHandle | None = None
            self.stall_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def _watch_head(self) -> None:
            """Give the client its time while it owes the head of a request."""
            is_waiting = self.cycle is None or self.cycle.response_complete
            if not is_waiting and self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None
            elif is_waiting and self.head_timer is None:
                self.head_timer = self.loop.call_later(settings.read_timeout, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.stall_timer = self.loop.call_later(settings.write_timeout, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.stall_timer is not None:
                self.stall_timer.cancel()

        def on_response_complete(self) -> None:
            cycle = self.cycle
            super().on_response_complete()
            if self.transport.get_write_buffer_size() > 0:
                self.loop.call_later(settings.write_timeout, self._abort_unread, cycle)

        def _abort_unread(self, cycle: Any) -> None:
            """Cut off a client that has not read its answer, unless it has asked again since."""
            if self.cycle is cycle and self.transport.get_write_buffer_size() > 0:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self.head_timer, self.stall_timer):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

    return LimitedProtocol


__all__ = ["HttpServer", "bind_socket"]
