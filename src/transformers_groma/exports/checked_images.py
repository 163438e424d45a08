"""Brings the records of a source into the form that every tool takes; what has no place is left out and counted."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..data.annotated_masks import mask_fault
from ..data.left_out import LeftOut, reason_of
from ..data.write_report import WriteReport
from ..labelled_objects import LabelledObject, check_box, check_label
from .labels import Labels
from .records import ImageRecord


@dataclass(frozen=True)
class ObjectOptions:
    """Which objects are exported, and how.

    Args:
        masks (`bool`): whether masks are exported.
        min_score (`float`): objects with a lower score are left out; those without one are not.
        crowds (`bool`): whether the tool has a place for regions around many objects.
    """

    masks: bool = True
    min_score: float = float("-inf")
    crowds: bool = True


def checked_images(
    records: Iterable[ImageRecord], labels: Labels, options: ObjectOptions, report: WriteReport
) -> Iterator[ImageRecord]:
    """Check the records of a source, and give phrases their labels.

    Args:
        records (`Iterable[ImageRecord]`): the records.
        labels (`Labels`): which label a phrase becomes.
        options (`ObjectOptions`): which objects are wanted.
        report (`WriteReport`): counts what is left out, with the reasons.

    Yields:
        `ImageRecord`: all its boxes lie in the image and have an area, all its labels are one line of text, all its
        masks have its size.
    """
    for record in records:
        report.records += 1
        if record.fault is not None:
            report.skip(record.source_name, record.fault.reason, record.fault.detail)
            continue
        for part in record.left_out:
            report.leave_out(record.file_name, part)
        objects = []
        for thing in record.objects:
            checked = _checked(thing, record, labels, options)
            if isinstance(checked, LeftOut):
                report.leave_out(record.file_name, checked)
                continue
            if checked.mask is not None and (fault := mask_fault(checked.mask, None, record.width, record.height)):
                report.leave_out(record.file_name, replace(fault, reason=f"{fault.reason}; its box is exported"))
                checked = checked._replace(mask=None)
            objects.append(checked)
        yield replace(record, objects=tuple(objects))


def _checked(
    thing: LabelledObject, record: ImageRecord, labels: Labels, options: ObjectOptions
) -> LabelledObject | LeftOut:
    if thing.is_crowd and not options.crowds:
        return LeftOut("region around many objects, for which the format has no place")
    if thing.score is not None and not math.isfinite(thing.score):
        return LeftOut("object whose score is not a finite number", f"{thing.label!r} {thing.score}")
    if thing.score is not None and thing.score < options.min_score:
        return LeftOut("object with a score below --min-score", f"{thing.label!r} {thing.score:.3f}")
    try:
        box = check_box(thing.box_xyxy, record.height, record.width)
    except ValueError as error:
        return _reason_of(error)
    try:
        label = labels.of(check_label(thing.label))
    except ValueError as error:
        return _reason_of(error)
    if label is None:
        return LeftOut("phrase without a label in --labels", repr(thing.label))
    phrase = thing.label if thing.label != label else None
    return thing._replace(box_xyxy=box, label=label, phrase=phrase, mask=thing.mask if options.masks else None)


def _reason_of(error: ValueError) -> LeftOut:
    """Why an error leaves an object out: a reason to count by, and its details."""
    left_out = reason_of(error)
    return replace(left_out, reason=left_out.reason.removeprefix("ValueError: "))


__all__ = ["ObjectOptions", "checked_images"]
