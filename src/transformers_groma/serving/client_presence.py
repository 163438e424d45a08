"""Waits for work only as long as the client waits too."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from starlette.types import Receive

from .request_body import ClientLeftError


async def while_connected(work: Coroutine[Any, Any, Any], receive: Receive) -> Any:
    """Do work, and cancel it when the client leaves.

    Args:
        work (`Coroutine`): what to do.
        receive (`Receive`): where the client is heard, after its body was read.

    Returns:
        What the work returns.

    Raises:
        ClientLeftError: the client left first; the work was cancelled, and has ended.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_until_left(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeftError
    finally:
        for waiting in (task, leaving):
            waiting.cancel()
            # The work may still fail while it is cancelled; nobody is there to be told.
            with suppress(asyncio.CancelledError, Exception):
                await waiting


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


__all__ = ["while_connected"]
