"""Features of the images of a dataset and of their views: encoded once, kept on disk, shared by all methods.

A folder belongs to one set of views of one dataset, seen by one encoder: its name has a fingerprint of all three, so
that other settings never find it. Files are written whole and hold 64 images each: a run that is killed resumes there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..._files import write_file
from ...zero_shot.dual_encoder import DualEncoder
from .labelled_images import LabelledImages, UnreadableImage

# Images in a file. More of them lose more work when a run is killed.
IMAGES_PER_FILE = 64
# Images that are decoded together, for a proposer of regions.
_GROUP = 8
# Of the layout of the files and of all that decides their content beside the settings.
_VERSION = 1
STORED_DTYPES = {"float32": torch.float32, "float16": torch.float16}
WHOLE = "whole"


@dataclass(frozen=True)
class ViewSet:
    """Which views of each image are encoded.

    Args:
        name (`str`): names its folder, such as `"random-0"`.
        settings (`Mapping`): all that decides where the views are; ready for JSON.
        squares (`Callable`): gives for upright images the views of each, `(n, 4)` int64 `xyxy` in absolute pixels,
            right and bottom exclusive. n may differ from image to image.
    """

    name: str
    settings: Mapping[str, Any]
    squares: Callable[[Sequence[Image.Image]], Sequence[Tensor]]


def whole_image() -> ViewSet:
    """The whole image as the only view."""
    return ViewSet(
        WHOLE, {"kind": WHOLE}, lambda images: [torch.tensor([[0, 0, image.width, image.height]]) for image in images]
    )


@dataclass(frozen=True)
class EncodedViews:
    """The views of some images, filled up to the same number for each.

    Args:
        features (`Tensor` of shape `(B, V, D)`): float32, of length 1; 0 where there is no view.
        xyxy (`Tensor` of shape `(B, V, 4)`): int64, absolute pixels of the upright image, right and bottom exclusive.
        is_padding (`Tensor` of shape `(B, V)`): where there is no view.
    """

    features: Tensor
    xyxy: Tensor
    is_padding: Tensor


@dataclass(frozen=True)
class EncodedImages:
    """Some images of a dataset with all of their views.

    Args:
        numbers (`list[int]`): the images, those that can be decoded.
        views (`dict[str, EncodedViews]`): by the name of the set.
        unreadable (`dict[int, str]`): the other images, and why.
    """

    numbers: list[int]
    views: dict[str, EncodedViews]
    unreadable: dict[int, str]


class FeatureFolder:
    """The features of a dataset on disk.

    Args:
        folder (`str` or `Path`): where to keep them.
        images (`LabelledImages`): the dataset.
        encoder (`DualEncoder`): sees the views that are not there yet.
        sets (`Sequence[ViewSet]`): which views.
        identity (`Mapping`): what says which dataset and encoder these are: their fingerprints. Ready for JSON.
        stored_dtype (`str`): `"float32"`, or `"float16"` for half the size and cosines that are off by some 0.0003.
        advance (`Callable[[int], Any]`): told how many more images are done, for a progress bar.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        images: LabelledImages,
        encoder: DualEncoder,
        sets: Sequence[ViewSet],
        identity: Mapping[str, Any],
        stored_dtype: str = "float32",
        advance: Callable[[int], Any] = lambda count: None,
    ) -> None:
        self._advance = advance
        self._images, self._encoder, self._sets = images, encoder, list(sets)
        self._dtype = STORED_DTYPES[stored_dtype]
        self._folders: dict[str, Path] = {}
        self._digests: dict[str, str] = {}
        self.encoded = 0
        for one in sets:
            described = {
                "version": _VERSION,
                "views": dict(one.settings),
                "stored_dtype": stored_dtype,
                "images": len(images),
                "images_per_file": IMAGES_PER_FILE,
                **identity,
            }
            text = json.dumps(described, sort_keys=True)
            digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            self._digests[one.name] = digest
            self._folders[one.name] = Path(folder) / f"{one.name}-{digest[:16]}"
            write_file(self._folders[one.name] / "settings.json", (json.dumps(described, indent=2) + "\n").encode())

    def batches(self) -> Iterator[EncodedImages]:
        """All images in their order, some at a time; what is not on disk yet is encoded and written.

        Yields:
            [`EncodedImages`]

        Raises:
            ValueError: features that are not finite; the message names the image.
            OutputError: a file cannot be written.
        """
        for start in range(0, len(self._images), IMAGES_PER_FILE):
            numbers = range(start, min(start + IMAGES_PER_FILE, len(self._images)))
            found = {one.name: self._read(one, numbers) for one in self._sets}
            missing = [one for one in self._sets if found[one.name] is None]
            if missing:
                self._encode(missing, numbers)
                found |= {one.name: self._read(one, numbers) for one in missing}
            else:
                self._advance(len(numbers))
            yield _joined(numbers, found)

    def batch_with(self, number: int) -> EncodedImages:
        """The batch that has an image, from disk; [`FeatureFolder.batches`] has written it."""
        start = number // IMAGES_PER_FILE * IMAGES_PER_FILE
        numbers = range(start, min(start + IMAGES_PER_FILE, len(self._images)))
        return _joined(numbers, {one.name: self._read(one, numbers) for one in self._sets})

    def check_space(self, width: int) -> None:
        """Refuse to start where the disk has no room for the features.

        Args:
            width (`int`): how many numbers a feature has.

        Raises:
            ValueError: there is less space than the features need, with what is on disk already.
        """
        needed = 0
        for one in self._sets:
            missing = len(self._images) - IMAGES_PER_FILE * len(list(self._folders[one.name].glob("*.safetensors")))
            needed += max(missing, 0) * one.settings.get("count", 1) * (width * self._dtype.itemsize + 33)
        folder = next(iter(self._folders.values()))
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(
                f"the features need some {needed / 1e9:.1f} GB, and {folder.parent} has {free / 1e9:.1f} GB free. "
                "Take fewer views, float16 on disk, or another output folder."
            )

    def _path(self, one: ViewSet, numbers: range) -> Path:
        return self._folders[one.name] / f"{numbers.start:08d}.safetensors"

    def _read(self, one: ViewSet, numbers: range) -> "_File | None":
        """A file; `None` if it is not there, damaged, or of something else."""
        path = self._path(one, numbers)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
                if notes.get("digest") != self._digests[one.name] or notes.get("images") != str(len(numbers)):
                    return None
                tensors = {name: file.get_tensor(name) for name in ("features", "xyxy", "is_padding")}
        except (OSError, SafetensorError):
            return None
        unreadable = {int(number): reason for number, reason in json.loads(notes["unreadable"]).items()}
        return _File(EncodedViews(tensors["features"].float(), tensors["xyxy"], tensors["is_padding"]), unreadable)

    @torch.no_grad()
    def _encode(self, sets: Sequence[ViewSet], numbers: range) -> None:
        squares: dict[str, list[Tensor]] = {one.name: [] for one in sets}
        unreadable: dict[int, str] = {}
        seen: list[str] = []

        def views() -> Iterator[Image.Image]:
            for first in range(numbers.start, numbers.stop, _GROUP):
                images = {}
                group = range(first, min(first + _GROUP, numbers.stop))
                for number in group:
                    try:
                        images[number] = self._images.image(number)
                    except UnreadableImage as error:
                        unreadable[number] = str(error)
                drawn = {one.name: one.squares(list(images.values())) if images else [] for one in sets}
                for index, (number, image) in enumerate(images.items()):
                    for name, of_images in drawn.items():
                        squares[name].append(of_images[index])
                        for place, box in enumerate(of_images[index].tolist()):
                            seen.append(f"{self._images.image_ids[number]}, view {place} of {name!r}")
                            is_whole = box == [0, 0, image.width, image.height]
                            yield image if is_whole else image.crop(tuple(box))
                self._advance(len(group))

        features = self._encoder.encode_images(views(), name=lambda index: seen[index])
        self.encoded += len(features)
        # They come image by image, the views of one set after those of another.
        counts = torch.tensor([[len(boxes) for boxes in squares[one.name]] for one in sets])
        parts = features.split(counts.T.flatten().tolist()) if len(features) else []
        for index, one in enumerate(sets):
            filled = _filled(parts[index :: len(sets)], squares[one.name])
            content = {
                "features": filled.features.to(self._dtype),
                "xyxy": filled.xyxy,
                "is_padding": filled.is_padding,
            }
            notes = {
                "digest": self._digests[one.name],
                "images": str(len(numbers)),
                "unreadable": json.dumps(unreadable),
            }
            write_file(self._path(one, numbers), save(content, notes))


@dataclass(frozen=True)
class _File:
    views: EncodedViews
    unreadable: dict[int, str]


def _filled(features: Sequence[Tensor], squares: Sequence[Tensor]) -> EncodedViews:
    """The views of each image, filled up to the largest number."""
    most = max([len(boxes) for boxes in squares], default=0)
    width = features[0].shape[-1] if features else 0
    filled = EncodedViews(
        torch.zeros(len(squares), most, width),
        torch.zeros(len(squares), most, 4, dtype=torch.int64),
        torch.ones(len(squares), most, dtype=torch.bool),
    )
    for index, (vectors, boxes) in enumerate(zip(features, squares, strict=True)):
        filled.features[index, : len(boxes)] = vectors
        filled.xyxy[index, : len(boxes)] = boxes
        filled.is_padding[index, : len(boxes)] = False
    return filled


def _joined(numbers: range, found: Mapping[str, _File]) -> EncodedImages:
    unreadable = next(iter(found.values())).unreadable
    readable = [number for number in numbers if number not in unreadable]
    return EncodedImages(readable, {name: file.views for name, file in found.items()}, unreadable)


__all__ = [
    "IMAGES_PER_FILE",
    "STORED_DTYPES",
    "WHOLE",
    "EncodedImages",
    "EncodedViews",
    "FeatureFolder",
    "ViewSet",
    "whole_image",
]
