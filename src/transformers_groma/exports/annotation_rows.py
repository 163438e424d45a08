"""Reads what `groma annotate` has written as records of images."""

from collections.abc import Iterator
from pathlib import Path

from ..data.annotation_columns import AnnotatedImage, AnnotatedRegion, read_annotations
from ..data.left_out import LeftOut
from ..labelled_objects import UNLABELLED, LabelledObject
from .records import ImageRecord

NO_REGION = LeftOut("phrase without a region")
NOT_FOUND = LeftOut("phrase that was to be located and was not found")
UNNAMED = LeftOut("region that nothing names; --all-regions exports it as 'object'")


def annotation_records(source: Path, all_regions: bool) -> Iterator[ImageRecord]:
    """The images of a folder or file of `groma annotate`.

    Args:
        source (`Path`): the folder, or one Parquet file.
        all_regions (`bool`): whether regions that nothing names are objects, too.

    Returns:
        `Iterator[ImageRecord]`: in the order of the source.

    Raises:
        ValueError: see `data.annotation_columns.read_annotations`.
    """
    return (_record(image, all_regions) for image in read_annotations(source))


def _record(image: AnnotatedImage, all_regions: bool) -> ImageRecord:
    named = [(" ".join(name.split()), region) for name, region in image.named_regions()]
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
        source_name=image.file_name or image.image_id,
        height=image.height,
        width=image.width,
        objects=tuple(_object(name, region) for name, region in named),
        captions=(image.text,) if image.text else (),
        left_out=tuple(left_out),
    )


def _object(name: str, region: AnnotatedRegion) -> LabelledObject:
    return LabelledObject(
        region.box_xyxy, name or UNLABELLED, region.score, region.mask, description=region.description
    )


__all__ = ["NO_REGION", "NOT_FOUND", "UNNAMED", "annotation_records"]
