"""Puts the images of an export beside its annotations: links, copies, or the files that the source holds."""

import io
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..data.left_out import SkipRecord
from ..data.write_report import WriteReport
from ..images import ImageTooLargeError, decode_image, image_orientation, open_image_header, upright, upright_size
from .options import Placing
from .records import ImageRecord

MISSING = "image that is not there; pass the folder that file names start in as --image-root"


class ImageFolder:
    """The folder of an export's images.

    Args:
        folder (`Path`): where they go.
        placing (`str`): `"link"` makes symbolic links, `"copy"` copies, `"none"` does nothing. An image that the
            source holds is written in both cases, and so is one that EXIF data turn: upright, as some tools ignore
            them.
        root (`Path`, *optional*): the folder that file names start in; the current one without it.
    """

    def __init__(self, folder: Path, placing: Placing, root: Path | None = None) -> None:
        self.folder, self.placing, self.root = folder, placing, root

    def place(self, record: ImageRecord) -> None:
        """Put the image of a record into the folder, under its file name.

        Args:
            record (`ImageRecord`): of an image.

        Raises:
            SkipRecord: its file is missing, is not an image, or has another size than the record says.
        """
        if self.placing == "none":
            return
        target = self.folder / record.file_name
        source = None if record.content is not None else self._find(record)
        try:
            with open_image_header(io.BytesIO(record.content) if source is None else source) as image:
                size, is_turned = upright_size(image), image_orientation(image) != 1
        except (OSError, SyntaxError, ValueError, ImageTooLargeError) as error:
            raise SkipRecord("image that cannot be read", str(error)) from error
        if size != (record.width, record.height):
            raise SkipRecord(
                "image has another size than its boxes were made for",
                f"{size[0]}x{size[1]}, expected {record.width}x{record.height}",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_turned:
            _write_upright(source.read_bytes() if source is not None else record.content, target)
        elif source is None:
            target.write_bytes(record.content)
        elif self.placing == "link":
            os.symlink(source.resolve(), target)
        else:
            shutil.copyfile(source, target)

    def _find(self, record: ImageRecord) -> Path:
        if record.is_url:
            raise SkipRecord("image at a URL: download it, and pass its folder as --image-root", record.source_name)
        names = (record.source_name, record.file_name)
        places = [Path(record.source_name)] if self.root is None else [self.root / name for name in names]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise SkipRecord(MISSING, str(places[0]))
        return found


def placed_images(
    images: Iterable[ImageRecord], image_folder: ImageFolder, report: WriteReport
) -> Iterator[ImageRecord]:
    """Put the images of records into a folder; those without an image that can be used are left out.

    Args:
        images (`Iterable[ImageRecord]`): of [`checked_images`][transformers_groma.exports.checked_images].
        image_folder (`ImageFolder`): where images go.
        report (`WriteReport`): counts the images, and those that are left out.

    Yields:
        `ImageRecord`: the others, as they are.
    """
    for record in images:
        try:
            image_folder.place(record)
        except SkipRecord as skip:
            report.skip(record.file_name, skip.reason, skip.detail)
            continue
        report.rows += 1
        yield record


def _write_upright(content: bytes, target: Path) -> None:
    """Write an image with its pixels turned as EXIF data say."""
    try:
        image = decode_image(io.BytesIO(content))
        # Phones put several frames into a JPEG file (MPO).
        kind = {"MPO": "JPEG"}.get(image.format, image.format)
        upright(image).save(target, format=kind, **({"quality": 95} if kind == "JPEG" else {}))
    except (OSError, SyntaxError, ValueError) as error:
        raise SkipRecord("image that cannot be read", str(error)) from error


__all__ = ["ImageFolder", "placed_images"]
