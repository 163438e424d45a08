"""Image files of a dataset: kept inside their folder, decoded to the end, boxes turned as EXIF says.

EXIF data may turn or mirror an image in eight ways. Boxes may have been drawn on the upright image, as a viewer shows
it, or on the stored one, as a program sees it that does not know EXIF. Rows have boxes of the upright image.
"""

import io
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from unicodedata import normalize

from PIL import Image as PilImage

from ..images import SWAPPED_AXES, ImageTooLargeError, image_orientation, open_image_header
from ..images import stored_size as stored_size_of
from ..images import upright_size as upright_size_of
from .left_out import SkipRecord
from .provenance import note_input

# Which image boxes were drawn on; `None` if the recorded size must decide.
BoxesOf = Literal["upright", "stored"]
BOXES_OF = ("upright", "stored")
Size = tuple[int, int]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/")
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


def image_candidates(folder: Path, name: Any) -> list[Path]:
    """Where an image that annotations name may be.

    A backslash may be a separator of Windows or a part of the name: both are tried.

    Args:
        folder (`Path`): the folder of the images.
        name (`str`): path of the image in there.

    Returns:
        `list[Path]`: paths inside the folder, the likeliest first. They may not exist.

    Raises:
        SkipRecord: not a name, or one that would leave the folder.

    Example:
    >>> image_candidates(Path("photos"), "train\\\\a.jpg")[-1].as_posix()
    'photos/train/a.jpg'
    >>> image_candidates(Path("photos"), "../a.jpg")
    Traceback (most recent call last):
    transformers_groma.data.left_out.SkipRecord: the path of the image leaves its folder: '../a.jpg'
    """
    if not isinstance(name, str) or not name.strip() or not PurePosixPath(name).parts:
        raise SkipRecord("image without a file name", f"{name!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SkipRecord("the file name of the image holds half a character (a lone surrogate)", ascii(name)) from None
    if "\0" in name:
        raise SkipRecord("the file name of the image holds a NUL character", f"{name!r}")
    if _URL.match(name):
        raise SkipRecord("the file name of the image is a URL; write the path of the downloaded file", f"{name!r}")
    if _ABSOLUTE.match(name):
        raise SkipRecord(
            "the path of the image is absolute; write it relative to the folder of the images", f"{name!r}"
        )
    names = [name] if "\\" not in name else [name, name.replace("\\", "/")]
    # Some systems write "é" as two characters into file names, whatever the annotations have.
    names = list(dict.fromkeys([*names, *(normalize(form, name) for form in ("NFC", "NFD") for name in names)]))
    if any(".." in PurePosixPath(name).parts for name in names):
        raise SkipRecord("the path of the image leaves its folder", f"{name!r}")
    return [folder / name for name in names]


def image_path(folder: Path, name: Any) -> Path:
    """Find the image that annotations name.

    Args:
        folder (`Path`): the folder of the images.
        name (`str`): path of the image in there.

    Returns:
        `Path`: the file, or where it would be if it is missing.

    Raises:
        SkipRecord: see `image_candidates`; or a link that leads out of the folder.
    """
    candidates = image_candidates(folder, name)
    return inside(folder, next((path for path in candidates if path.exists()), candidates[-1]))


def inside(folder: Path, path: Path) -> Path:
    """Check that a path does not lead out of its folder.

    Args:
        folder (`Path`): a folder, itself a link or not.
        path (`Path`): a path in it, which may be missing.

    Returns:
        `Path`: the path.

    Raises:
        SkipRecord: a link on the way leads out of the folder.
    """
    # Not `Path.resolve`, which raises another error where links lead to each other.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise SkipRecord(
            "the image is a link that leads out of the folder of the images; pass the folder that holds the file",
            path.name,
        )
    return path


def read_image_bytes(path: str | os.PathLike) -> bytes:
    """Read an image file, and check that it decodes to its end.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `bytes`: its content, unchanged.

    Raises:
        SkipRecord: `"missing image"`, `"empty image file"`, `"not an image"`, `"broken image"`, more pixels
            than `images.MAX_IMAGE_PIXELS`, or not a regular file.

    Example:
    >>> len(read_image_bytes("no/such/file.jpg"))
    Traceback (most recent call last):
    transformers_groma.data.left_out.SkipRecord: missing image
    """
    path = Path(path)
    try:
        # Opening a FIFO would wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise SkipRecord("not a regular file: a folder, FIFO, socket or device is not an image", path.name)
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise SkipRecord("missing image") from None
    note_input(path, content)
    if not content:
        raise SkipRecord("empty image file")
    with _open_image(content) as image:
        try:
            # JPEG decodes at an eighth of its size in a fraction of the time, and reads its whole file.
            image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            image.getexif()
        except MemoryError:
            raise
        except Exception:  # Pillow lets through whatever its parsers meet: OSError, SyntaxError, struct.error ...
            raise SkipRecord("broken image") from None
    return content


def stored_size(content: bytes) -> Size:
    """Size of an image as it is stored.

    Args:
        content (`bytes`): an image file.

    Returns:
        `tuple[int, int]`: width and height in pixels.

    Raises:
        SkipRecord: `"not an image"`.
    """
    with _open_image(content) as image:
        return stored_size_of(image)


def upright_size(content: bytes) -> Size:
    """Size of an image as a viewer shows it, its EXIF orientation applied.

    Args:
        content (`bytes`): an image file.

    Returns:
        `tuple[int, int]`: width and height in pixels.

    Raises:
        SkipRecord: `"not an image"`.

    Example:
    >>> upright_size(read_image_bytes("tests/fixtures/photos/cat_and_dog.jpg"))
    (800, 601)
    """
    with _open_image(content) as image:
        return upright_size_of(image)


def exif_orientation(content: bytes) -> int:
    """How a viewer turns or mirrors an image, by its EXIF data.

    Args:
        content (`bytes`): an image file.

    Returns:
        `int`: 1 to 8; 1 is upright, and so is what is none of them.

    Raises:
        SkipRecord: `"not an image"`.

    Example:
    >>> exif_orientation(read_image_bytes("tests/fixtures/photos/cat_and_dog.jpg"))
    1
    """
    with _open_image(content) as image:
        return image_orientation(image)


def check_size(content: bytes, width: int, height: int) -> None:
    """Check that an upright image has the size its annotations were made for; otherwise the boxes would not fit.

    Args:
        content (`bytes`): an image file.
        width, height (`int`): what the annotations say, in pixels of the upright image.

    Raises:
        SkipRecord: it has another size.

    Example:
    >>> check_size(read_image_bytes("tests/fixtures/photos/cat_and_dog.jpg"), 640, 480)
    Traceback (most recent call last):
    transformers_groma.data.left_out.SkipRecord: image has another size than annotated: 800x601, annotated 640x480
    """
    size = upright_size(content)
    if size != (int(width), int(height)):
        raise _other_size(size, (int(width), int(height)))


def orientation_of_boxes(content: bytes, annotated: Size | None = None, boxes_of: BoxesOf | None = None) -> int:
    """How the boxes of an image must be turned to fit the upright image.

    Without `boxes_of`, the annotated size tells where it is that of one of the two images alone. Where it is that of
    both (a square image, one that is mirrored or upside down) or is not known, nothing does.

    Args:
        content (`bytes`): an image file.
        annotated (`tuple[int, int]`, *optional*): width and height that the boxes were made for.
        boxes_of (`str`, *optional*): `"upright"` or `"stored"`: which image the boxes were drawn on.

    Returns:
        `int`: 1 if they are right as they are, otherwise the EXIF orientation, for `turned_boxes`.

    Raises:
        SkipRecord: the image has another size than annotated, or it is unclear which image the boxes were drawn on.

    Example:
    >>> photo = read_image_bytes("tests/fixtures/photos/cat_and_dog.jpg")
    >>> orientation_of_boxes(photo, (800, 601))
    1
    """
    orientation = exif_orientation(content)
    stored, upright = stored_size(content), upright_size(content)
    allowed = {"upright": (upright,), "stored": (stored,), None: (upright, stored)}[boxes_of]
    if annotated is not None and annotated not in allowed:
        if annotated in (upright, stored):
            other = "stored" if annotated == stored else "upright"
            raise SkipRecord(
                f"the annotated size is that of the {other} image; pass `--boxes-of {other}` if its boxes are, too",
                f"{annotated[0]}x{annotated[1]}",
            )
        raise _other_size(upright, annotated)
    if orientation == 1 or boxes_of == "upright":
        return 1
    if boxes_of == "stored":
        return orientation
    if annotated is None or stored == upright:
        raise SkipRecord(
            "EXIF data rotate or mirror the image, and it is unclear whether its boxes are those of the upright or of "
            "the stored image: pass `--boxes-of upright` or `--boxes-of stored`",
            f"EXIF orientation {orientation}",
        )
    return 1 if annotated == upright else orientation


def turned_boxes(boxes: Sequence[Sequence[float]], orientation: int, width: float, height: float) -> list[list[float]]:
    """Turn boxes of a stored image into boxes of the upright one.

    Args:
        boxes (`Sequence` of 4 numbers): `xyxy` in the units of `width` and `height`.
        orientation (`int`): EXIF orientation, 1 to 8.
        width, height (`float`): size of the stored image.

    Returns:
        `list`: `xyxy` of the upright image.

    Example:
    >>> turned_boxes([[0, 0, 10, 5]], orientation=6, width=40, height=30)
    [[25, 0, 30, 10]]
    """
    turned = []
    for x1, y1, x2, y2 in boxes:
        # Orientations 5 to 8 swap the axes. The number encodes which ends of the stored axes come first.
        if orientation in (2, 3, 7, 8):
            x1, x2 = width - x2, width - x1
        if orientation in (3, 4, 6, 7):
            y1, y2 = height - y2, height - y1
        turned.append([y1, x1, y2, x2] if orientation in SWAPPED_AXES else [x1, y1, x2, y2])
    return turned


def _other_size(size: Size, annotated: Size) -> SkipRecord:
    return SkipRecord(
        "image has another size than annotated", f"{size[0]}x{size[1]}, annotated {annotated[0]}x{annotated[1]}"
    )


def _open_image(content: bytes) -> PilImage.Image:
    try:
        return open_image_header(io.BytesIO(content))
    except ImageTooLargeError as error:
        raise SkipRecord("image has too many pixels", str(error)) from None
    except (OSError, ValueError, SyntaxError):
        raise SkipRecord("not an image") from None


__all__ = [
    "BOXES_OF",
    "BoxesOf",
    "SkipRecord",
    "check_size",
    "exif_orientation",
    "image_candidates",
    "image_path",
    "inside",
    "orientation_of_boxes",
    "read_image_bytes",
    "stored_size",
    "turned_boxes",
    "upright_size",
]
