"""Who may ask: API keys from a file or the environment, and how many requests one address may make at once."""

import hmac
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from .api_errors import ApiError
from .settings import RETRY_AFTER

API_KEY_VARIABLE = "GROMA_API_KEY"


def read_api_keys(path: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Read the API keys of a server.

    Args:
        path (`Path`, *optional*): a file with a key on each line; empty lines and lines that begin with # are left
            out.
        environment (`Mapping`): where `GROMA_API_KEY` may hold one more.

    Returns:
        `tuple[str, ...]`: the keys; empty if neither was given.

    Raises:
        ValueError: a place was given but has no key, or what it has cannot be one; the message does not hold it.
        OSError: the file cannot be read.

    Example:
    >>> read_api_keys(None, {"GROMA_API_KEY": "sk-1234"})
    ('sk-1234',)
    """
    keys: dict[str, None] = {}
    if path is not None:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{str(path)!r} is not a text file. Write one key on each line.") from error
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ValueError(f"{str(path)!r} holds no key. Write one on each line.")
        for key in found:
            keys[_checked(key, repr(str(path)))] = None
    if (key := environment.get(API_KEY_VARIABLE)) is not None:
        if not key.strip():
            raise ValueError(
                f"The environment variable {API_KEY_VARIABLE} is empty. Put a key into it, or unset it for a server "
                "without keys."
            )
        keys[_checked(key.strip(), f"The environment variable {API_KEY_VARIABLE}")] = None
    return tuple(keys)


def _checked(key: str, place: str) -> str:
    """Refuse a key that no header can hold; the message does not repeat it."""
    if not key.isascii() or any(not character.isprintable() or character.isspace() for character in key):
        raise ValueError(f"{place} holds a key with spaces or characters that a key cannot have. Write it again.")
    return key


def check_api_key(authorization: str | None, keys: Sequence[str]) -> None:
    """Let a request in, or not.

    Args:
        authorization (`str`, *optional*): the header of the request.
        keys (`Sequence[str]`): the accepted keys; without any, every request is let in.

    Raises:
        ApiError: no key, or a wrong one (401).

    Example:
    >>> check_api_key("Bearer sk-1234", ["sk-1234"])
    """
    if not keys:
        return
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        message = "This server needs an API key: send the header Authorization: Bearer KEY."
    else:
        # All keys are compared, and digests of one length, so that the time tells nothing about them.
        digest = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        if sum(hmac.compare_digest(digest, sha256(known.encode()).digest()) for known in keys):
            return
        message = "The API key is not one of this server's."
    raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


class ClientLimit:
    """Limits the requests that one address makes at the same time.

    Args:
        limit (`int`, *optional*): how many; any number by default.

    Example:
    >>> limit = ClientLimit(1)
    >>> with limit.request("10.0.0.7"):
    ...     pass
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._running: Counter[str] = Counter()

    @contextmanager
    def request(self, address: str) -> Iterator[None]:
        """Count a request while it runs.

        Raises:
            ApiError: this address has as many as it may (429).
        """
        if self._limit is not None and self._running[address] >= self._limit:
            raise ApiError(
                429,
                "This address already has as many requests running as it may have at once "
                f"({self._running[address]}). Wait for an answer.",
                code="too_many_requests",
                headers={"Retry-After": str(RETRY_AFTER), "Connection": "close"},
            )
        self._running[address] += 1
        try:
            yield
        finally:
            self._running[address] -= 1
            if not self._running[address]:
                del self._running[address]


__all__ = ["API_KEY_VARIABLE", "ClientLimit", "check_api_key", "read_api_keys"]
