"""Where `groma serve` listens: the URL of an address, and a warning where others may ask without a key."""

from ipaddress import ip_address

from .output import note


def url_of(host: str, port: int) -> str:
    """The URL of an address.

    Example:
    >>> url_of("127.0.0.1", 8000), url_of("::1", 8000)
    ('http://127.0.0.1:8000', 'http://[::1]:8000')
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def warn_without_key(keys: tuple[str, ...], host: str, address: str, port: int) -> None:
    """Warn that other machines may ask where no API key is set.

    Args:
        keys (`tuple[str, ...]`): the accepted API keys.
        host (`str`): what `--host` says, an address or a name.
        address (`str`): the IP address that this is.
        port (`int`): where the server listens.
    """
    if not keys and not ip_address(address).is_loopback:
        note(
            f"--host {host} lets other machines in, and there is no API key: everyone who reaches port {port} may "
            "ask. Pass --api-key-file, or set GROMA_API_KEY."
        )


__all__ = ["url_of", "warn_without_key"]
