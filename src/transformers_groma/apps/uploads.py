"""Images that people upload to the app: checked against its limits, turned upright, and deleted afterwards."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..image_inputs import ImageSize, image_size, to_rgb
from ..images import ImageTooLargeError, load_image, open_image_header
from .app_settings import SHOWN_SIDE, AppSettings


@dataclass(frozen=True)
class UploadedImage:
    """An image that one user has chosen. Files, not pixels: many users may have one open.

    Args:
        path (`Path`): the file as it was uploaded, in a folder of its own.
        shown (`Path`): a copy for the browser, upright and at most `SHOWN_SIDE` pixels wide and high.
        size (`ImageSize`): of the upright image.
        name (`str`): of the file, without its folder.
    """

    path: Path
    shown: Path
    size: ImageSize
    name: str

    def read(self) -> Image.Image:
        """The upright image, RGB, in its full size.

        Raises:
            ValueError: the file was deleted meanwhile.
        """
        try:
            return _read(self.path)
        except FileNotFoundError as error:
            raise ValueError("The image is no longer kept on the server: choose it again.") from error

    @property
    def files(self) -> tuple[Path, Path]:
        """Its files."""
        return self.path, self.shown


def open_upload(path: str | Path, settings: AppSettings, folder: Path) -> UploadedImage:
    """Take an uploaded file, check it, and write the copy that the browser shows.

    The file is moved into a folder of its own: Gradio gives equal files of equal names one path, and whoever gives up
    their image deletes it for nobody else. Browsers show neither TIFF nor HEIF nor 16 bits, and the copy has no
    metadata such as places.

    Args:
        path (`str` or `Path`): the uploaded file; it is not there afterwards.
        settings (`AppSettings`): the limits.
        folder (`Path`): of files that the app may serve. File and copy each get a folder with a random name in it.

    Returns:
        `UploadedImage`: with the size of the upright image.

    Raises:
        ValueError: it is not an image that can be read, is larger than allowed, or too small to show anything. The
            message is a sentence for the user.
    """
    path = _taken(Path(path), folder)
    try:
        return _opened(path, settings, folder)
    except ValueError:
        delete(path)
        raise


def _taken(path: Path, folder: Path) -> Path:
    """The new path of a file that is moved to where nobody else has it."""
    taken = new_path(folder, path.name)
    try:
        os.replace(path, taken)
    except FileNotFoundError as error:
        delete(taken)
        raise ValueError(f"{path.name} is no longer on the server: choose it again.") from error
    delete(path)  # its folder, if it is empty now
    return taken


def _opened(path: Path, settings: AppSettings, folder: Path) -> UploadedImage:
    megabytes = path.stat().st_size / 1e6
    if megabytes > settings.max_upload_mb:
        raise ValueError(
            f"{path.name} has {megabytes:.1f} MB, more than the {settings.max_upload_mb} MB allowed: choose a smaller "
            "file."
        )
    too_large = None
    try:
        with open_image_header(path) as header:
            width, height = header.size
        if width * height > settings.max_pixels:
            too_large = f"{width}x{height} pixels ({width * height / 1e6:.1f} megapixels)"
        else:
            image = _read(path)
    except ImageTooLargeError:
        too_large = "too many pixels"
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read as an image: choose a JPEG, PNG or WebP file.") from error
    if too_large is not None:
        raise ValueError(
            f"{path.name} has {too_large}, more than the {settings.max_pixels / 1e6:g} megapixels allowed: make it "
            "smaller."
        )
    size = ImageSize(*image_size(image, name=path.name))
    shown = new_path(folder, "image.webp")
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    image.save(shown, quality=90, method=2)
    return UploadedImage(path, shown, size, path.name)


def new_path(folder: Path, name: str) -> Path:
    """A path that nobody can guess, in a new folder of its own.

    Args:
        folder (`Path`): of files that the app may serve.
        name (`str`): of the file.

    Returns:
        `Path`: of a file that does not exist yet.
    """
    path = folder / secrets.token_hex(16) / name
    path.parent.mkdir(parents=True)
    return path


def delete(path: Path) -> None:
    """Delete a file, and its folder if nothing else is in it."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


def _read(path: Path) -> Image.Image:
    with open_image_header(path) as image:
        load_image(image)
        return to_rgb(image)


__all__ = ["UploadedImage", "delete", "new_path", "open_upload"]
