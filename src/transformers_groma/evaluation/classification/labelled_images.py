"""Images with a class each, from a folder of class folders, Parquet files or the Hub; read one at a time."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PilImage

from ..._words import counted
from ...image_inputs import image_size, read_upright, to_rgb
from ...images import decode_image
from .class_names import ClassNames, only


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message says why, without its name."""


class ImageFiles(Protocol):
    """The encoded images of a dataset."""

    def content(self, index: int) -> bytes:
        """The file of an image.

        Raises:
            UnreadableImage: there is none.
        """


class FolderFiles:
    """Images that are files.

    Args:
        paths (`Sequence[Path]`): the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def content(self, index: int) -> bytes:
        """The file of an image."""
        try:
            return self._paths[index].read_bytes()
        except OSError as error:
            raise UnreadableImage(f"the file cannot be read ({error.strerror})") from error


class ColumnFiles:
    """Images in a column of a dataset.

    Args:
        dataset (`Dataset`): any.
        column (`str`): of images, or of their bytes.
    """

    def __init__(self, dataset: Dataset, column: str) -> None:
        self._column = column
        self._dataset = dataset.select_columns([column]).cast_column(column, Image(decode=False))

    def content(self, index: int) -> bytes:
        """The file of an image."""
        image = self._dataset[index][self._column]
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise UnreadableImage("the row has no image")
        if image["bytes"] is not None:
            return image["bytes"]
        return FolderFiles([Path(image["path"])]).content(0)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The images of a dataset, each with the index of its class.

    Args:
        name (`str`): folder, file or Hub name.
        split (`str`): which split; empty where there is none.
        classes (`ClassNames`): the classes, by index.
        image_ids (`Sequence[str]`): the name of each image.
        labels (`np.ndarray` of shape `(N,)`): the class of each image.
        rows (`np.ndarray` of shape `(N,)`): where each image is in `files`.
        files (`ImageFiles`): the images.
        left_out (`Mapping[str, Sequence[str]]`): by reason, what is not among the images.
    """

    name: str
    split: str
    classes: ClassNames
    image_ids: Sequence[str]
    labels: np.ndarray
    rows: np.ndarray
    files: ImageFiles
    left_out: Mapping[str, Sequence[str]]

    def __len__(self) -> int:
        return len(self.image_ids)

    def content(self, index: int) -> bytes:
        """The file of an image.

        Raises:
            UnreadableImage: there is none.
        """
        return self.files.content(int(self.rows[index]))

    def image(self, index: int) -> PilImage.Image:
        """An image, upright and RGB.

        Args:
            index (`int`): its number among the images.

        Returns:
            `PIL.Image.Image`

        Raises:
            UnreadableImage: it cannot be decoded, has too many pixels or hardly any.
        """
        content = self.content(index)
        try:
            image = to_rgb(read_upright(decode_image(io.BytesIO(content)), name="it"))
            image_size(image, name="it")
        except MemoryError:
            raise
        except Exception as error:  # Pillow lets through whatever its parsers meet: OSError, struct.error …
            raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error
        return image

    def fingerprint(self, advance: Callable[[int], Any] = lambda count: None) -> str:
        """Fingerprint of the content of all images in their order; neither their names nor their labels count.

        Args:
            advance (`Callable[[int], Any]`): told how many more images are read, for a progress bar.

        Returns:
            `str`: 32 hexadecimal digits.
        """
        digest = hashlib.blake2b(digest_size=16)
        for index in range(len(self)):
            try:
                content = self.content(index)
            except UnreadableImage:
                content = b""
            digest.update(len(content).to_bytes(8, "little") + content)
            advance(1)
        return digest.hexdigest()

    def spread(self, count: int) -> "LabelledImages":
        """So many of the images, evenly spread: datasets are often sorted by class.

        Args:
            count (`int`): how many, at most.

        Returns:
            `LabelledImages`
        """
        if count >= len(self):
            return self
        return self._selected(np.arange(count) * len(self) // count)

    def with_classes(self, names: Sequence[str]) -> "LabelledImages":
        """The images of some classes, which are then the only ones to choose from.

        Args:
            names (`Sequence[str]`): names of classes, as the dataset has them or as they are shown.

        Returns:
            `LabelledImages`: the others are in `left_out`.

        Raises:
            ValueError: a name that no class has, fewer than two classes, or no image of them.
        """
        chosen = only(self.classes, names)
        new = np.full(len(self.classes), -1)
        new[chosen] = np.arange(len(chosen))
        stays = new[self.labels] >= 0
        if not stays.any():
            raise ValueError(f"no image is of one of the {len(chosen)} classes.")
        kept = self._selected(np.flatnonzero(stays))
        left_out = dict(self.left_out)
        if others := [self.image_ids[index] for index in np.flatnonzero(~stays)]:
            left_out["image of a class that was not chosen"] = others
        given, shown = self.classes.given, self.classes.shown
        classes = ClassNames(tuple(given[index] for index in chosen), tuple(shown[index] for index in chosen))
        return replace(kept, classes=classes, labels=new[kept.labels], left_out=left_out)

    def _selected(self, numbers: np.ndarray) -> "LabelledImages":
        image_ids = [self.image_ids[index] for index in numbers]
        return replace(self, image_ids=image_ids, labels=self.labels[numbers], rows=self.rows[numbers])


def said_of_left_out(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """What is left out, a line for each reason.

    Args:
        left_out (`Mapping[str, Sequence[str]]`): names by reason.

    Returns:
        `list[str]`

    Example:
    >>> said_of_left_out({"row without a label": ["row 3", "row 9"], "the row has no image": ["row 4"]})
    ['2 left out, row without a label: row 3, row 9', '1 left out, the row has no image: row 4']
    """
    lines = []
    for reason, names in left_out.items():
        more = f" and {counted(len(names) - 3, 'other')}" if len(names) > 3 else ""
        lines.append(f"{len(names)} left out, {reason}: {', '.join(names[:3])}{more}")
    return lines


__all__ = ["ColumnFiles", "FolderFiles", "ImageFiles", "LabelledImages", "UnreadableImage", "said_of_left_out"]
