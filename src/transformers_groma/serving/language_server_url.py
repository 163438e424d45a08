"""Where a language server is, and how it is reached: its URL, its key, and a proxy on the way."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def checked_url(url: str) -> str:
    """The base of a language server's URL, without a slash at its end.

    Raises:
        ValueError: it is none.

    Example:
    >>> checked_url("http://10.0.0.5:8001/v1/")
    'http://10.0.0.5:8001/v1'
    """
    try:
        parts = urlsplit(url)
        is_base = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        is_base = is_base and (parts.port is None or parts.port > 0)
        is_base = is_base and url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    except ValueError:
        is_base = False
    if "@" in url:
        raise ValueError(
            "The URL of the language server holds a user or a password, which everyone on this machine can read. Put "
            "a key into the environment variable GROMA_LM_API_KEY instead."
        )
    if not is_base:
        raise ValueError(f"{url!r} is not the base URL of a language server: write http://host:8001/v1.")
    return url.rstrip("/")


def checked_key(key: str) -> str:
    """An API key that may travel in a header, without space around it.

    Raises:
        ValueError: it cannot be a key; the message does not hold it.
    """
    key = key.strip()
    if not key or not key.isascii() or any(not sign.isprintable() or sign.isspace() for sign in key):
        raise ValueError("The key of the language server is empty or holds signs that a key cannot have.")
    return key


def proxy_detail(url: str) -> str:
    """What an error says besides, where the environment sends requests to a URL through a proxy; else nothing.

    The proxy's own address is not told, as it may hold a password.

    Example:
    >>> proxy_detail("http://127.0.0.1:8001/v1")
    ''
    """
    parts, proxies = urlsplit(url), getproxies()
    names = [name for name in (parts.scheme, "all") if proxies.get(name)]
    if not names or proxy_bypass(parts.netloc):
        return ""
    return f"; asked through the proxy of {names[0].upper()}_PROXY, which NO_PROXY={parts.hostname} would avoid"


__all__ = ["checked_key", "checked_url", "proxy_detail"]
