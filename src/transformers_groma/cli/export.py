"""`groma export`: writes annotated images, answers and datasets as files of other tools: COCO, Label Studio, YOLO."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .._words import counted
from .arguments import CommandError, add_command, errors_of, importing_data_packages
from .models import open_upright
from .output import note, printable

if TYPE_CHECKING:
    from ..exports.answer_files import KnownImage
    from ..exports.export import ExportReport
    from ..exports.labels import Labels
    from ..exports.options import ExportOptions

FORMATS = ("coco", "label-studio", "yolo")
# Tools list all labels beside each image.
_MANY_LABELS = 500
# Options of some formats only, by their names in the arguments.
_ONLY_FOR = {
    "captions": ("coco", "label-studio"),
    "results": ("coco",),
    "keep_image_ids": ("coco",),
    "image_url": ("label-studio",),
    "model_version": ("label-studio",),
}


def add_export(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    export = add_command(
        commands,
        "export",
        run_export,
        "write annotated images, answers or a dataset as files of COCO, Label Studio or YOLO",
        "groma export annotations coco --format coco --captions\n"
        "         groma export answer/answer.json tasks --format label-studio --image-url http://localhost:8000/\n"
        "         groma export annotations yolo --format yolo --labels labels.txt --normalize --image-root photos",
    )
    export.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help="what `groma annotate` wrote; JSON that other commands wrote with --output or --json, a file or a "
        "folder; or a dataset: Parquet with boxes",
    )
    export.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    export.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="coco opens in CVAT, FiftyOne, Roboflow, pycocotools and supervision",
    )
    export.add_argument("--overwrite", action="store_true", help="replace OUT if it holds files")
    _add_object_arguments(export)
    _add_image_arguments(export)
    coco = export.add_argument_group("--format coco")
    coco.add_argument(
        "--captions",
        action="store_true",
        help="captions, too: COCO's captions, or with label-studio a text of the task",
    )
    coco.add_argument(
        "--results", action="store_true", help="also write a list of results with scores, for loadRes of pycocotools"
    )
    coco.add_argument(
        "--keep-image-ids", action="store_true", help="keep the ids of images, which have to be whole numbers"
    )
    studio = export.add_argument_group("--format label-studio")
    studio.add_argument(
        "--image-url",
        metavar="PREFIX",
        help="what Label Studio finds images by, before their file names, as in /data/local-files/?d=photos/",
    )
    studio.add_argument(
        "--model-version", metavar="NAME", help="what Label Studio groups predictions by (default: groma)"
    )


def _add_object_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("objects and labels")
    group.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="the labels that there are: a line each; or JSON: a list, an object with the label of each phrase, or a "
        "COCO file. Other phrases are left out and counted. Without it every phrase is a label (with label-studio the "
        "text of a region)",
    )
    group.add_argument(
        "--normalize", action="store_true", help="take phrases that differ in case, articles or punctuation for one"
    )
    group.add_argument(
        "--all-regions", action="store_true", help="regions that no phrase names, too, with the label 'object'"
    )
    group.add_argument(
        "--min-score", metavar="S", type=float, default=float("-inf"), help="leave out objects with a lower score"
    )
    group.add_argument(
        "--masks",
        choices=("pixels", "polygon", "none"),
        help="how masks are written: pixel by pixel (COCO's RLE, Label Studio's brush) or as polygons (default: "
        "pixels, for yolo polygon)",
    )


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    group.add_argument(
        "--images",
        choices=("none", "link", "copy"),
        help="what goes into OUT/images: nothing, symbolic links or copies (default: none, for yolo link). Images "
        "that a dataset holds are written, and those that EXIF data turn are written upright",
    )
    group.add_argument(
        "--image-root", metavar="DIR", type=Path, help="folder that file names start in (default: the current one)"
    )
    group.add_argument(
        "--image", metavar="FILE", help="the image of answers that do not say it, such as those of --json"
    )
    group.add_argument("--split", metavar="NAME", help="split of a dataset that has several")


def run_export(arguments: argparse.Namespace) -> None:
    """`groma export`: files of another tool."""
    options = _options(arguments)
    with importing_data_packages():
        from ..exports.export import export
        from ..exports.sources import open_source
    labels = _labels(arguments)
    with errors_of("SOURCE"):
        source = open_source(arguments.source, arguments.all_regions, arguments.split, _known_image(arguments.image))
    for option, is_given in [("--results", arguments.results), ("--min-score", arguments.min_score > float("-inf"))]:
        if is_given and not source.has_scores:
            raise CommandError(f"{option} needs scores, which a model's regions have and annotated boxes have not.")
    if arguments.all_regions and source.kind in ("detection", "evaluation"):
        raise CommandError(f"--all-regions is for phrases and regions, but SOURCE has {source.kind} rows.")
    if arguments.captions and source.kind in ("detection", "conversation"):
        raise CommandError(f"--captions needs captions, but {str(arguments.source)!r} has {source.kind} rows.")
    with errors_of(f"SOURCE {str(arguments.source)!r}"):
        report = export(source, arguments.source, arguments.output, labels, options, arguments.overwrite)
    _tell(report, arguments, labels)


def _options(arguments: argparse.Namespace) -> "ExportOptions":
    """The options of a format, checked."""
    for name, formats in _ONLY_FOR.items():
        if getattr(arguments, name) and arguments.format not in formats:
            raise CommandError(
                f"--{name.replace('_', '-')} is for --format {' and '.join(formats)}, not for {arguments.format}."
            )
    if arguments.format == "yolo" and arguments.masks == "pixels":
        raise CommandError("--masks pixels: YOLO has masks as polygons only; use --masks polygon or none.")
    if arguments.normalize and arguments.format == "label-studio" and arguments.labels is None:
        raise CommandError("--normalize with label-studio needs --labels: without it, phrases are texts and stay.")
    if arguments.min_score != arguments.min_score:
        raise CommandError("--min-score nan is not a number: pass one such as 0.5.")
    if arguments.image_root is not None and not arguments.image_root.is_dir():
        raise CommandError(f"--image-root {str(arguments.image_root)!r} is not a folder.")
    from ..exports.options import ExportOptions

    is_yolo = arguments.format == "yolo"
    images = arguments.images or ("link" if is_yolo else "none")
    if images == "none" and arguments.image_root is not None:
        raise CommandError("--image-root is for --images link or copy: without them no image is read.")
    return ExportOptions(
        format=arguments.format,
        masks=arguments.masks or ("polygon" if is_yolo else "pixels"),
        min_score=arguments.min_score,
        images=images,
        image_root=arguments.image_root,
        captions=arguments.captions,
        results=arguments.results,
        keep_image_ids=arguments.keep_image_ids,
        image_url=arguments.image_url or "",
        model_version=arguments.model_version or "groma",
    )


def _labels(arguments: argparse.Namespace) -> "Labels":
    from ..exports.labels import Labels, read_labels

    if arguments.labels is None:
        return Labels(arguments.normalize)
    with errors_of(f"--labels {str(arguments.labels)!r}"):
        return read_labels(arguments.labels, arguments.normalize)


def _known_image(path: str | None) -> "KnownImage | None":
    if path is None:
        return None
    from ..exports.answer_files import KnownImage

    image = open_upright(path)
    return KnownImage(path, image.height, image.width)


def _tell(report: "ExportReport", arguments: argparse.Namespace, labels: "Labels") -> None:
    """Print what was written and note what was left out."""
    for path in report.files:
        print(printable(str(path)))
    captions = f", {counted(report.captions, 'caption')}" if arguments.captions else ""
    note(
        f"{counted(report.counts.rows, 'image')}, {counted(report.objects, 'object')}, "
        f"{counted(report.labels, 'label')}{captions}"
    )
    if arguments.masks in ("pixels", "polygon") and not report.masks:
        note(f"--masks {arguments.masks} wrote boxes alone: no object of SOURCE has a mask.")
    for line in report.counts.told():
        note(f"left out: {line}")
    if arguments.format == "label-studio" and not arguments.image_url:
        note("Label Studio loads images from URLs: --image-url says what comes before their file names.")
    if report.labels > _MANY_LABELS and not labels.is_closed and arguments.format != "label-studio":
        note(f"{report.labels} labels are many for a tool: --normalize joins some, and --labels has a closed set.")
