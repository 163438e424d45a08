"""Reads what `groma annotate` has written as records of images."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..data.annotation_columns import (
    AnnotatedImage,
    AnnotatedRegion,
    annotation_files,
    read_annotations,
    repeated_values,
)
from ..data.left_out import LeftOut
from ..labelled_objects import UNLABELLED, LabelledObject
from .records import ImageRecord

NO_REGION = LeftOut("phrase without a region")
NOT_FOUND = LeftOut("phrase that was to be located and was not found")
CAME_BEFORE = LeftOut("an image of the same image_id came before")
UNNAMED = LeftOut("region that nothing names; --all-regions exports it as 'object'")


def annotation_records(source: Path, all_regions: bool) -> Iterator[ImageRecord]:
    """The images of a folder or file of `groma annotate`.

    Args:
        source (`Path`): the folder, or one Parquet file.
        all_regions (`bool`): whether regions that nothing names are objects, too.

    Returns:
        `Iterator[ImageRecord]`: in the order of the source; later images of an id give a record with this fault.

    Raises:
        ValueError: see `data.annotation_columns.read_annotations`.
    """
    # Not a generator itself: wrong folders are noticed where it is called.
    images = read_annotations(source)
    # Rows of a dataset may all say `image.jpg`: then their ids name them.
    paths = annotation_files(source)
    by_id = bool(repeated_values(paths, "file_name"))
    return _records(images, all_regions, by_id, set(repeated_values(paths, "image_id")))


def _records(
    images: Iterator[AnnotatedImage], all_regions: bool, by_id: bool, repeated: set[str]
) -> Iterator[ImageRecord]:
    seen = set()
    for image in images:
        name = _name_by_id(image) if by_id else image.file_name or image.image_id
        if image.image_id in seen:
            yield ImageRecord(image.image_id, name, 0, 0, (), fault=CAME_BEFORE)
            continue
        if image.image_id in repeated:
            seen.add(image.image_id)
        yield _record(image, name, all_regions)


def _name_by_id(image: AnnotatedImage) -> str:
    ending = PurePosixPath(image.file_name or "").suffix
    return image.image_id if image.image_id.endswith(ending) else f"{image.image_id}{ending}"


def _record(image: AnnotatedImage, name: str, all_regions: bool) -> ImageRecord:
    named = [(" ".join(label.split()), region) for label, region in image.named_regions()]
    pointed = [number for phrase in image.phrases if not phrase.text.strip() for number in phrase.region_ids]
    known = {region.id for _, region in named}
    # What the caption points at without words is an object without a label, as in an answer.
    named += [(UNLABELLED, region) for region in image.regions_with_ids(list(dict.fromkeys(pointed)))]
    known |= set(pointed)
    others = [region for region in image.regions if region.id not in known]
    left_out = [LeftOut(NO_REGION.reason, repr(phrase.text)) for phrase in image.phrases if not phrase.region_ids]
    left_out += [LeftOut(NOT_FOUND.reason, repr(found.phrase)) for found in image.located if not found.region_ids]
    if all_regions:
        named += [(UNLABELLED, region) for region in others]
    else:
        left_out += [LeftOut(UNNAMED.reason, f"region {region.id}") for region in others]
    return ImageRecord(
        image_id=image.image_id,
        source_name=name,
        height=image.height,
        width=image.width,
        objects=tuple(_object(label, region) for label, region in named),
        captions=(image.text,) if image.text else (),
        left_out=tuple(left_out),
    )


def _object(label: str, region: AnnotatedRegion) -> LabelledObject:
    return LabelledObject(
        region.box_xyxy, label or UNLABELLED, region.score, region.mask, description=region.description
    )


__all__ = ["CAME_BEFORE", "NO_REGION", "NOT_FOUND", "UNNAMED", "annotation_records"]
