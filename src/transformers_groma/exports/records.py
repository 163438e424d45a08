"""What an export reads about one image, whatever it comes from."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from .._words import is_one_line
from ..data.left_out import LeftOut
from ..labelled_objects import LabelledObject

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")


@dataclass(frozen=True)
class ImageRecord:
    """An image with its objects and texts.

    Args:
        image_id (`str`): its name in the source.
        source_name (`str`): where its file is: a path or a URL, as the source has it.
        height, width (`int`): size of the upright image in pixels.
        objects (`tuple[LabelledObject, ...]`): boxes are `xyxy` in absolute pixels of the upright image; unchecked.
        captions (`tuple[str, ...]`): texts about the whole image.
        content (`bytes`, *optional*): the image file, where the source holds it.
        left_out (`tuple[LeftOut, ...]`): what the source says about the image that has no place in other tools.
        fault (`LeftOut`, *optional*): why the image cannot be exported at all; then nothing else is known about it.
    """

    image_id: str
    source_name: str
    height: int
    width: int
    objects: tuple[LabelledObject, ...]
    captions: tuple[str, ...] = ()
    content: bytes | None = None
    left_out: tuple[LeftOut, ...] = ()
    fault: LeftOut | None = None

    @property
    def is_url(self) -> bool:
        """Whether the image is at a URL."""
        return _URL.match(self.source_name) is not None

    @property
    def file_name(self) -> str:
        """Where the image is below the folder of all images: the name of the source, if it stays in there, else the
        last part of it."""
        name = self.source_name.replace("\\", "/")
        path = PurePosixPath(name)
        if self.is_url:
            return PurePosixPath(re.split(r"[?#]", name)[0]).name or self.image_id
        if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:/", name):
            return path.name
        return path.as_posix()


def one_record_per_image(records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    """Put records of the same image together that follow each other, as those of several questions do.

    Args:
        records (`Iterable[ImageRecord]`): of a source.

    Yields:
        `ImageRecord`: with the objects and captions of all, each once.

    Raises:
        ValueError: an image comes again after another one, or with another size, or two files have one name.
    """
    seen: set[bytes] = set()
    current: ImageRecord | None = None
    for record in records:
        if record.fault is None and (record.file_name in ("", ".", "..") or not is_one_line(record.file_name)):
            fault = LeftOut("image without a file name that can be written", ascii(record.source_name))
            record = replace(record, fault=fault)
        if record.fault is not None:
            yield record
            continue
        if current is not None and _is_one_image(current, record):
            if (record.height, record.width) != (current.height, current.width):
                raise ValueError(
                    f"{record.source_name} is {current.width}x{current.height} pixels large in one record and "
                    f"{record.width}x{record.height} in the next: these are two images with one name."
                )
            current = replace(
                current,
                objects=tuple(_distinct((*current.objects, *record.objects))),
                captions=tuple(dict.fromkeys((*current.captions, *record.captions))),
                left_out=(*current.left_out, *record.left_out),
            )
            continue
        if current is not None:
            yield current
        # Digests, as names of millions of images would fill the memory.
        digest = hashlib.blake2b(record.file_name.encode(errors="surrogatepass"), digest_size=10).digest()
        if digest in seen:
            raise ValueError(
                f"two images have the file name {record.file_name!r}, or one comes again after others, and exported "
                "files would mix them up: give images different names, or sort the source by image."
            )
        seen.add(digest)
        current = record
    if current is not None:
        yield current


def _is_one_image(one: ImageRecord, other: ImageRecord) -> bool:
    # Datasets may call all their images `image.jpg`.
    return one.source_name == other.source_name and one.content == other.content


def _distinct(objects: Iterable[LabelledObject]) -> Iterator[LabelledObject]:
    seen = set()
    for thing in objects:
        # As text: nothing has checked what they are.
        key = (thing.label, repr(thing.box_xyxy), repr(thing.mask), thing.is_crowd)
        if key not in seen:
            seen.add(key)
            yield thing


__all__ = ["ImageRecord", "one_record_per_image"]
