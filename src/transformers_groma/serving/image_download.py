"""Downloads images from strangers' URLs: public addresses only, within limits of time, size and redirects."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy

from huggingface_hub.utils import httpx

from .public_addresses import is_public_address
from .settings import ServerSettings

_REDIRECTS = (301, 302, 303, 307, 308)
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Downloads at the same time; others wait, within their time.
MAX_DOWNLOADS = 8
# Seconds for an address to be reached, where there is another one.
_NEXT_ADDRESS_AFTER = 2.0

Resolver = Callable[[str, int], Awaitable[list[str]]]


class DownloadError(ValueError):
    """An image could not be downloaded; the message, without a full stop, says why."""


class ImageDownloader:
    """Downloads images.

    A host is resolved once, all its addresses are checked, and the connection goes to an address that was checked, so
    that a name which resolves differently a moment later gains nothing. The same holds for each redirect.

    Args:
        settings (`ServerSettings`): ports, limits and time.
        resolve (`Callable`): finds the addresses of a host and port.
        is_allowed (`Callable`): tells which addresses may be connected to.
        tls (`ssl.SSLContext`, *optional*): whom to trust; the usual authorities by default.
    """

    def __init__(
        self,
        settings: ServerSettings,
        resolve: Resolver | None = None,
        is_allowed: Callable[[str], bool] = is_public_address,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._resolve = resolve or resolve_host
        self._is_allowed = is_allowed
        self._slots = asyncio.Semaphore(MAX_DOWNLOADS)
        # No proxy of the environment: it would resolve the host itself. No connection is kept, as the next host with
        # the same address would get it without a check of its certificate.
        self._client = httpx.AsyncClient(
            verify=True if tls is None else tls,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            # No cookies: they would go from one user's image to the next.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=None,
        )

    async def download(self, url: str, hold: Callable[[int], None]) -> bytes:
        """Download an image.

        Args:
            url (`str`): its http(s) URL.
            hold (`Callable`): called with the number of bytes that came, before they are kept.

        Returns:
            `bytes`: the content, not yet decoded.

        Raises:
            DownloadError: the URL is refused, or it did not arrive within the limits.
        """
        try:
            async with asyncio.timeout(self._settings.image_url_timeout), self._slots:
                return await self._follow(url, hold)
        except TimeoutError as error:
            raise DownloadError(f"its download takes more than {self._settings.image_url_timeout:g} s") from error
        except httpx.InvalidURL as error:
            raise DownloadError("it is not a URL, or redirects to something that is not") from error
        except (httpx.HTTPError, OSError) as error:
            raise DownloadError(f"it cannot be fetched ({type(error).__name__})") from error

    async def aclose(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def _follow(self, text: str, hold: Callable[[int], None]) -> bytes:
        """Download a URL or what it redirects to."""
        url = httpx.URL(text)
        for _ in range(self._settings.max_redirects + 1):
            response = await self._connect(url)
            try:
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    url = url.join(response.headers["location"])
                    continue
                return await self._content(response, hold)
            finally:
                await response.aclose()
        raise DownloadError(f"it redirects more than {self._settings.max_redirects} times")

    async def _connect(self, url: httpx.URL) -> httpx.Response:
        """Ask the first address of a URL that answers; all were checked."""
        addresses = await self._addresses(url)
        for number, address in enumerate(addresses):
            is_last = number == len(addresses) - 1
            extensions = {"sni_hostname": url.host, "timeout": {"connect": None if is_last else _NEXT_ADDRESS_AFTER}}
            headers = {
                "Host": url.netloc.decode("ascii"),
                "Accept": "image/*",
                # Compressed content could grow without limit.
                "Accept-Encoding": "identity",
                "User-Agent": "transformers-groma",
            }
            target = url.copy_with(host=address, fragment=None)
            try:
                request = httpx.Request("GET", target, headers=headers, extensions=extensions)
                return await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if is_last:
                    raise
        raise DownloadError("its host has no address")

    async def _addresses(self, url: httpx.URL) -> list[str]:
        """The addresses of a URL that may be fetched, all of them public."""
        if url.scheme not in _DEFAULT_PORTS or not url.host:
            raise DownloadError("it is not an http or https URL with a host, or redirects to one that is not")
        if url.userinfo:
            raise DownloadError("it holds a user name or password; leave them out")
        port = url.port or _DEFAULT_PORTS[url.scheme]
        if port not in self._settings.image_url_ports:
            ports = " and ".join(map(str, self._settings.image_url_ports))
            raise DownloadError(f"it names the port {port}; images are fetched from {ports} only")
        addresses = await self._resolve(url.raw_host.decode("ascii"), port)
        if not all(map(self._is_allowed, addresses)):
            raise DownloadError("its host has an address that is not public")
        return addresses

    async def _content(self, response: httpx.Response, hold: Callable[[int], None]) -> bytes:
        """The body of a response, within the limit."""
        if response.status_code != 200:
            raise DownloadError(f"its server answers with status {response.status_code}")
        if (encoding := response.headers.get("content-encoding", "identity").lower()) != "identity":
            raise DownloadError(f"its server sends it compressed ({encoding[:20]}), though it was asked not to")
        limit = self._settings.max_body_bytes
        content = bytearray()
        async for chunk in response.aiter_raw():
            if len(content) + len(chunk) > limit:
                raise DownloadError(f"it has more than {limit} bytes")
            hold(len(chunk))
            content += chunk
        return bytes(content)


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order of the system, each once."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise DownloadError("its host is not known") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


__all__ = ["DownloadError", "ImageDownloader", "resolve_host"]
