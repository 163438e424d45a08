"""Images given to a command by paths, folders and URLs: listed, named in outputs, and read one after the other."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from .._run_ahead import run_ahead
from .arguments import CommandError, errors_of, one_line
from .models import open_upright

if TYPE_CHECKING:
    from PIL import Image

# Images that are read while the model works on others.
_AHEAD = 4
# A file system takes names of 255 bytes; an ending is added, and that of a file that is still being written.
_LONGEST_NAME = 200


class OpenedImage(NamedTuple):
    """An image with where it comes from.

    Args:
        source (`str`): path or URL.
        image (`PIL.Image.Image`): upright.
    """

    source: str
    image: "Image.Image"


def image_sources(given: Sequence[str]) -> list[str]:
    """The images that paths, folders and URLs name; a folder stands for all images in it and below, by their paths.

    Args:
        given (`Sequence[str]`): at least one.

    Returns:
        `list[str]`: paths and URLs, each once. A path may be missing: the command says so when its turn comes.

    Raises:
        CommandError: a folder without images, or none of the files exists.
    """
    sources: list[str] = []
    for one in given:
        if is_url(one) or not Path(one).is_dir():
            sources.append(one)
            continue
        from ..annotation.sources.image_folder import files_below
        from ..images import IMAGE_SUFFIXES

        with errors_of(f"IMAGE {one!r}"):
            names = files_below(Path(one), IMAGE_SUFFIXES)
        if not names:
            raise CommandError(f"IMAGE {one!r} has no images in it or below: pass a folder with images, or a file.")
        sources += [str(Path(one) / name) for name in names]
    sources = list(dict.fromkeys(sources))
    if not any(is_url(source) or Path(source).is_file() for source in sources):
        open_upright(sources[0])  # says what is wrong
    return sources


def is_url(source: str) -> bool:
    """Whether an image is on the web."""
    return source.startswith(("http://", "https://"))


def output_names(sources: Sequence[str], only: str) -> dict[str, str]:
    """Names of output files, without their endings.

    Args:
        sources (`Sequence[str]`): paths and URLs, each once.
        only (`str`): the name where there is a single image.

    Returns:
        `dict[str, str]`: by source: of several images the names of their files; where two have one name, with numbers.

    Example:
    >>> list(output_names(["a/dog.jpg", "b/dog.png", "https://example.org/cat.png?size=2"], only="answer").values())
    ['dog', 'dog_2', 'cat']
    """
    if len(sources) == 1:
        return {sources[0]: only}
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        path = unquote(urlsplit(source).path) if is_url(source) else source
        stem = _cut(Path(path).stem.replace("\0", "")) or "image"
        name, number = stem, 1
        # Some file systems take capitals for small letters.
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names[source] = name
    return names


def _cut(name: str) -> str:
    """The beginning of a name, as many whole letters as a file system takes."""
    content = name.encode("utf-8", "surrogateescape")
    return name if len(content) <= _LONGEST_NAME else content[:_LONGEST_NAME].decode("utf-8", "ignore")


def check_kept(names: Mapping[str, str], folder: Path, endings: Sequence[str]) -> None:
    """Refuse to write over an image that is read.

    Args:
        names (`Mapping[str, str]`): of [`output_names`].
        folder (`Path`): where the outputs go.
        endings (`Sequence[str]`): of the files that each image gives.

    Raises:
        CommandError: one of them would replace an image.
    """
    images = {_identity(Path(source)) for source in names if not is_url(source)} - {None}
    for name in names.values():
        for path in (folder / f"{name}{ending}" for ending in endings):
            if _identity(path) in images:
                raise CommandError(
                    f"--output {str(folder)!r}: {path} is one of the images, and would be replaced: pass another "
                    "folder."
                )


def check_image_kept(source: str, folder: Path | None, name: str) -> None:
    """Refuse to write over the one image that a command reads, such as a drawing of an earlier command.

    Args:
        source (`str`): path or URL of the image.
        folder (`Path`, *optional*): where the outputs go; without it there are none.
        name (`str`): of the outputs, before their numbers and endings.

    Raises:
        CommandError: the image is in the folder, under a name that the command may write.
    """
    if folder is None or is_url(source) or not os.path.isfile(source):
        return
    image = Path(source).resolve()
    is_ours = re.fullmatch(rf"{re.escape(name)}(_\d+)?(_mask_\d+)?\.png", image.name, re.IGNORECASE)
    if is_ours and image.parent == folder.resolve():
        raise CommandError(
            f"--output {str(folder)!r}: IMAGE {source!r} is there under a name that this command writes, and would be "
            "replaced: pass another folder."
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to; `None` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_each(sources: Sequence[str], on_error: Callable[[str, str], None]) -> Iterator[OpenedImage]:
    """Read images one after the other, a few ahead of the caller; one that cannot be read is left out.

    Args:
        sources (`Sequence[str]`): paths and URLs.
        on_error (`Callable[[str, str], None]`): is told the source of an image that cannot be read, and why.

    Yields:
        `OpenedImage`
    """
    for source, image, error in run_ahead(_opened, sources, ahead=_AHEAD):
        if error is not None:
            on_error(source, error)
        else:
            yield OpenedImage(source, image)


def _opened(source: str) -> tuple[str, "Image.Image | None", str | None]:
    try:
        return source, open_upright(source), None
    except CommandError as error:
        return source, None, one_line(error)


__all__ = ["OpenedImage", "check_kept", "image_sources", "is_url", "open_each", "output_names"]
