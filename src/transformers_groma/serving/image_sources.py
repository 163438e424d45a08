"""Images of requests: data URLs, http(s) URLs where they are allowed, and never a file of this machine."""

import base64
import io
import re
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter, to_thread
from PIL import Image

from ..image_inputs import image_size, to_rgb
from ..images import ImageTooLargeError, load_image, open_image_header
from .api_errors import ApiError, bad_request
from .held_memory import MemoryShare
from .image_download import DownloadError, ImageDownloader
from .settings import ServerSettings

_DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[\w-]+=[^;,]*)*;base64,", re.IGNORECASE)


class ImageSources:
    """Reads the images of requests.

    Args:
        settings (`ServerSettings`): limits, and whether images are fetched.
        downloader (`ImageDownloader`, *optional*): fetches them; only where URLs are allowed.
        on_download (`Callable`): called after each download with `"ok"` or `"error"`.
        threads (`CapacityLimiter`): how many images are decoded at the same time, each in a thread.
    """

    def __init__(
        self,
        settings: ServerSettings,
        downloader: ImageDownloader | None,
        on_download: Callable[[str], None],
        threads: CapacityLimiter,
    ) -> None:
        self._settings = settings
        self._downloader = downloader
        self._on_download = on_download
        self._threads = threads

    async def read(self, url: str, param: str, share: MemoryShare) -> Image.Image:
        """Read one image.

        Args:
            url (`str`): a data URL, or an http(s) URL.
            param (`str`): how an error names the field.
            share (`MemoryShare`): counts what the request holds.

        Returns:
            `PIL.Image.Image`: the image, upright, mode `RGB`.

        Raises:
            ApiError: it is refused or cannot be read (400), or there is too much in memory (503).
        """
        held = share.held
        content = await self._content(url, param, share)
        downloaded = share.held - held  # a data URL is part of the body, which is counted already
        try:
            image = await self.in_thread(lambda: open_image_header(io.BytesIO(content)))
            width, height = image.size
            if width * height > self._settings.max_pixels:
                raise ImageTooLargeError(
                    f"{width}x{height} (width x height) pixels are more than the {self._settings.max_pixels} that "
                    "this server reads. Make the image smaller"
                )
            share.add(4 * width * height)
            upright = await self.in_thread(lambda: decoded_upright(image))
            share.give_back(downloaded)
            return upright
        except ApiError:
            raise
        # Pillow lets through what its parsers meet.
        except Exception as error:
            raise bad_request(
                f"`{param}` cannot be read as an image: {_sentence(error)}", param, "invalid_image"
            ) from error

    async def _content(self, url: str, param: str, share: MemoryShare) -> bytes:
        """The bytes of an image, not yet decoded."""
        if url[:5].lower() == "data:":
            return await self.in_thread(lambda: data_url_content(url, param))
        if url[:8].lower().startswith(("http://", "https://")):
            if self._downloader is None:
                raise bad_request(
                    f"`{param}` is a URL, but this server fetches no images: send the image itself as a data URL "
                    "(data:image/jpeg;base64,…), or start the server with --allow-image-urls.",
                    param,
                    "image_urls_not_allowed",
                )
            try:
                content = await self._downloader.download(url, share.add)
            except DownloadError as error:
                self._on_download("error")
                raise bad_request(
                    f"`{param}` cannot be fetched: {_sentence(error)}", param, "invalid_image_url"
                ) from error
            self._on_download("ok")
            return content
        raise bad_request(
            f"`{param}` is neither a data URL (data:image/jpeg;base64,…) nor an http(s) URL: {url[:40]!r}. Files of "
            "the server are never read.",
            param,
            "invalid_image_url",
        )

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Do what takes its time in one of the threads that decode images."""
        return await to_thread.run_sync(work, limiter=self._threads)


def data_url_content(url: str, param: str) -> bytes:
    """The bytes in a data URL.

    Args:
        url (`str`): `data:image/…;base64,…`.
        param (`str`): how an error names the field.

    Returns:
        `bytes`: its content.

    Raises:
        ApiError: it is not an image in base64 (400).

    Example:
    >>> data_url_content("data:image/png;base64,AAEC", "url")
    b'\\x00\\x01\\x02'
    """
    head = _DATA_URL.match(url)
    if head is None:
        raise bad_request(
            f"`{param}` is not a data URL of an image in base64: {url[:40]!r}. It begins with data:image/jpeg;base64, "
            "or the like.",
            param,
            "invalid_image_url",
        )
    try:
        return base64.b64decode(url[head.end() :].strip(), validate=True)
    except ValueError as error:
        raise bad_request(f"`{param}` holds text that is not base64 ({error}).", param, "invalid_image_url") from error


def decoded_upright(image: Image.Image) -> Image.Image:
    """Decode an image whose header was read, turned upright, as RGB. The result holds nothing but its pixels."""
    # Phones put previews and depths into their photos (MPO).
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ValueError("it has several frames. Send one of them")
    load_image(image)
    upright = to_rgb(image)
    image_size(upright, "it")
    # PNG, TIFF and WebP keep their file, which nobody counts while the request waits for its turn.
    if upright is image:
        upright = image.copy()
    upright.info.clear()
    return upright


def _sentence(error: Exception) -> str:
    """What an error says, as a sentence, without the parts of other sentences."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."


__all__ = ["ImageSources", "data_url_content", "decoded_upright"]
