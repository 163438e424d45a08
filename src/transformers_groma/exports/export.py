"""Exports what is known about images to a folder of another tool, from the source to the report."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from .._folders import complete_folder
from ..data.write_report import WriteReport
from .checked_images import ObjectOptions, checked_images
from .coco import CAPTIONS, INSTANCES, RESULTS, CocoOptions, write_coco
from .image_files import ImageFolder, placed_images
from .label_studio import CONFIG, TASKS, write_label_studio
from .labels import Labels
from .options import ExportOptions
from .records import ImageRecord
from .sources import Source
from .yolo import DATA, write_yolo


@dataclass
class ExportReport:
    """What was exported.

    Args:
        files (`list[Path]`): what tools are given.
        objects (`int`): how many objects were written.
        masks (`int`): how many of them have masks.
        captions (`int`): how many captions.
        labels (`int`): how many labels there are.
        counts (`WriteReport`): images, and what was left out.
    """

    files: list[Path] = field(default_factory=list)
    objects: int = 0
    masks: int = 0
    captions: int = 0
    labels: int = 0
    counts: WriteReport = field(default_factory=WriteReport)


def export(
    source: Source, path: Path, output: Path, labels: Labels, options: ExportOptions, overwrite: bool = False
) -> ExportReport:
    """Export a source to a folder, which appears when it is complete.

    Args:
        source (`Source`): what is exported; its records are read once, a few at a time.
        path (`Path`): where the source is, which the output must not replace.
        output (`Path`): folder to write.
        labels (`Labels`): which label a phrase becomes.
        options (`ExportOptions`): what is written.
        overwrite (`bool`): whether the folder may exist and hold files.

    Returns:
        `ExportReport`: what was written, and what was left out and why.

    Raises:
        FileExistsError: the folder holds files, or lies in the source.
        OutputError: it cannot be written.
        ValueError: a record is damaged, or nothing could be exported.
    """
    report = ExportReport([output / name for name in _files(options)])
    wanted = ObjectOptions(options.masks != "none", options.min_score, crowds=options.format == "coco")
    if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
        raise FileExistsError(
            f"{output} lies in {path}, and the next export would read its files: pass a folder outside of it."
        )
    sources = [path]
    # An export may lie in the folder of the images, but must not take its place.
    if options.image_root is not None and not output.resolve().is_relative_to(options.image_root.resolve()):
        sources.append(options.image_root)
    with complete_folder(output, overwrite, sources) as folder:
        image_folder = ImageFolder(folder / "images", options.images, options.image_root)
        records = checked_images(_with_progress(source), labels, wanted, report.counts)
        images = placed_images(records, image_folder, report.counts)
        _write(_counted(images, report), folder, labels, options)
        report.labels = len(labels.numbers)
        if not report.objects and not (options.captions and report.captions):
            raise ValueError(_nothing(report.counts))
    return report


def _write(images: Iterator[ImageRecord], folder: Path, labels: Labels, options: ExportOptions) -> None:
    """Write the files of a format."""
    if options.format == "coco":
        files = CocoOptions(options.masks == "polygon", options.captions, options.results, options.keep_image_ids)
        write_coco(images, folder, labels, files)
    elif options.format == "yolo":
        write_yolo(images, folder, labels)
    else:
        masks = {"pixels": "brush", "polygon": "polygon", "none": None}[options.masks]
        texts = {"image_url": options.image_url, "model_version": options.model_version}
        write_label_studio(images, folder, labels, masks, captions=options.captions, **texts)


def _files(options: ExportOptions) -> list[str]:
    """The files that tools are given."""
    if options.format == "coco":
        return [INSTANCES, *([CAPTIONS] if options.captions else []), *([RESULTS] if options.results else [])]
    return [TASKS, CONFIG] if options.format == "label-studio" else [DATA]


def _with_progress(source: Source) -> Iterator[ImageRecord]:
    """The records, with a bar on a terminal."""
    # Several rows may be of one image: the bar may end early.
    yield from tqdm(source.records, total=source.total, unit="image", file=sys.stderr, disable=None, leave=False)


def _counted(images: Iterator[ImageRecord], report: ExportReport) -> Iterator[ImageRecord]:
    """The images; what is written of each is counted."""
    for image in images:
        report.objects += len(image.objects)
        report.masks += sum(thing.mask is not None for thing in image.objects)
        report.captions += len(image.captions)
        yield image


def _nothing(counts: WriteReport) -> str:
    reasons = "; ".join(counts.told())
    if not counts.records:
        return "there are no images: nothing was exported"
    return f"no object could be exported{f': {reasons}' if reasons else ''}"


__all__ = ["ExportReport", "export"]
