"""Where a language server is: the base of its URL, checked before anything is loaded."""

from urllib.parse import urlsplit


def checked_url(url: str) -> str:
    """The base of a language server's URL, without a slash at its end.

    Raises:
        ValueError: it is none.

    Example:
    >>> checked_url("http://10.0.0.5:8001/v1/")
    'http://10.0.0.5:8001/v1'
    """
    parts = urlsplit(url)
    try:
        is_base = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        is_base = is_base and (parts.port is None or parts.port > 0)
    except ValueError:
        is_base = False
    if "@" in parts.netloc:
        raise ValueError(
            "The URL of the language server holds a user or a password, which everyone on this machine can read. Put "
            "a key into the environment variable GROMA_LM_API_KEY instead."
        )
    if not is_base:
        raise ValueError(f"{url!r} is not the base URL of a language server: write http://host:8001/v1.")
    return url.rstrip("/")


__all__ = ["checked_url"]
