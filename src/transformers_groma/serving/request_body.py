"""Reads the body of a request within limits of size and time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from .api_errors import ApiError
from .held_memory import MemoryShare
from .settings import ServerSettings

# A client that sends too much is listened to for this many seconds, without keeping what it sends, as many read the
# answer only after they have sent everything.
_PATIENCE = 5.0
_CLOSE = {"Connection": "close"}


class ClientLeftError(Exception):
    """The client has closed its connection; nobody waits for an answer."""


async def read_body(request: Request, settings: ServerSettings, share: MemoryShare) -> bytes:
    """Read the body of a request.

    Args:
        request (`Request`): a request whose body was not read yet.
        settings (`ServerSettings`): limits.
        share (`MemoryShare`): counts what the request holds.

    Returns:
        `bytes`: the body.

    Raises:
        ApiError: it is not plain JSON (415), too large (413) or too slow (408), or there is too much in memory (503).
        ClientLeftError: the client left before the end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Web pages of strangers may send other types to a server on this machine without asking the browser.
    if kind != "application/json":
        raise ApiError(
            415,
            f"The content type is {kind[:40]!r}: send JSON, with the header Content-Type: application/json.",
            headers=_CLOSE,
        )
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise ApiError(415, f"The body is compressed ({encoding[:20]!r}): send it as it is.", headers=_CLOSE)
    too_large = ApiError(
        413,
        f"The body has more than {settings.max_body_bytes} bytes. Send a smaller image, or start the server with a "
        "larger --max-body-mb.",
        code="body_too_large",
        headers=_CLOSE,
    )
    announced = request.headers.get("content-length", "")
    is_too_large = announced.isdecimal() and int(announced) > settings.max_body_bytes
    if is_too_large and request.headers.get("expect", "").lower() == "100-continue":
        raise too_large
    body, chunks = bytearray(), request.stream()
    try:
        async with asyncio.timeout(settings.read_timeout) as limit:
            async for chunk in chunks:
                is_too_large = is_too_large or len(body) + len(chunk) > settings.max_body_bytes
                if is_too_large:
                    break
                share.add(len(chunk))
                body += chunk
            if is_too_large:
                body.clear()
                limit.reschedule(min(asyncio.get_running_loop().time() + _PATIENCE, limit.when()))
                async for _ in chunks:
                    pass
    except TimeoutError as error:
        if is_too_large:
            raise too_large from error
        raise ApiError(
            408,
            f"The body did not arrive within {settings.read_timeout:g} s. Send it faster, or start the server with a "
            "larger --read-timeout.",
            code="body_too_slow",
            headers=_CLOSE,
        ) from error
    except ClientDisconnect as error:
        raise ClientLeftError from error
    except ApiError as error:  # too much in memory; the rest of the body is not read
        error.headers |= _CLOSE
        raise
    if is_too_large:
        raise too_large
    return bytes(body)


__all__ = ["ClientLeftError", "read_body"]
