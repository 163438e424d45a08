"""An OpenAI-compatible endpoint: address, key and time limit."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, the model, the key, and the time limits.

    Args:
        model (`str`): name of the model.
        base_url (`str`, *optional*): address of an OpenAI-compatible server, usually ending with `/v1`; OpenAI's by
            default.
        api_key (`str`): the key; it is blanked in all that is written, printed or raised. A server of your own
            usually takes any.
        timeout (`float`): seconds that one request may take, from its start to the last byte of its answer.
        max_retries (`int`): how often a request is tried again.
        options (`Mapping`): further fields of the request, such as `temperature`.
        deadline (`float`): seconds that one question may take in all, with its retries and the waits between them.

    Raises:
        ValueError: a setting that no request could be made with; the message does not hold the key.

    Example:
    >>> Endpoint("some-model", base_url="http://localhost:8000/v1", api_key="secret")
    Endpoint(model='some-model', base_url='http://localhost:8000/v1', timeout=120.0, max_retries=5, options={},
    deadline=600.0)
    """

    model: str
    base_url: str | None = None
    api_key: str = field(default="none", repr=False)
    timeout: float = 120.0
    max_retries: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline: float = 600.0

    def __post_init__(self) -> None:
        _check_key(self.api_key, "`api_key`")
        if self.base_url is not None:
            check_base_url(self.base_url)
        for name in ("timeout", "deadline"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` must be a positive number of seconds, got {value}.")
        if self.max_retries < 0:
            raise ValueError(f"`max_retries` must not be negative, got {self.max_retries}.")


def read_api_key(variable: str, base_url: str | None) -> str:
    """Read the key of an endpoint from the environment.

    Args:
        variable (`str`): name of the environment variable.
        base_url (`str`, *optional*): address of the server; with one, the key may be missing.

    Returns:
        `str`: the key, or `"none"` for a server that needs no key.

    Raises:
        ValueError: there is no key, or it cannot be one; the message does not hold it.

    Example:
    >>> read_api_key("NO_SUCH_VARIABLE", "http://localhost:8000/v1")
    'none'
    """
    # Keys that were read from a file or copied end with a line break, which no header can hold.
    key = os.environ.get(variable, "").strip()
    _check_key(key, f"The environment variable {variable}")
    if not key and base_url is None:
        raise ValueError(
            f"The environment variable {variable} holds no key. Set it, name another one with --api-key-env, or give "
            "the --base-url of a server that needs no key."
        )
    return key or "none"


def check_base_url(base_url: str) -> None:
    """Check the address of a server.

    Args:
        base_url (`str`): the address.

    Raises:
        ValueError: it is not an http(s) address, or it holds what belongs elsewhere, such as a password; the message
            does not repeat it.

    Example:
    >>> check_base_url("http://localhost:8000/v1")
    """
    try:
        parts = urlsplit(base_url)
        is_address = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        is_address = False
    if not is_address or any(not character.isprintable() or character.isspace() for character in base_url):
        raise ValueError("--base-url is not an http or https address, as in http://localhost:8000/v1.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "--base-url holds a user name, a password, a query or a fragment. Leave them out; a key belongs in the "
            "environment variable that --api-key-env names."
        )


def _check_key(key: str, name: str) -> None:
    """Refuse a key that no header can hold; the message does not repeat it."""
    if not key.isascii() or any(not character.isprintable() or character.isspace() for character in key):
        raise ValueError(f"{name} holds spaces, line breaks or characters that a key cannot have. Copy the key again.")


__all__ = ["Endpoint", "check_base_url", "read_api_key"]
