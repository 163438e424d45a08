"""`groma data`: makes datasets from synthetic scenes or from your own boxes."""

import argparse
import ast
from pathlib import Path

from .arguments import (
    BOX_FORMATS,
    CommandError,
    CommandParser,
    add_command,
    checked_folder,
    errors_of,
    importing_data_packages,
    natural,
    positive,
    share,
)
from .models import source_checkout
from .output import note, write_png

SHAPES_HELP = "draw scenes of coloured shapes, with true questions and answers"
SHAPES_TASKS = ("detection", "rec", "grounding", "region-caption", "grounded-caption", "chat")
FOLDER_HELP = "read your own images and boxes: an image folder with a metadata.jsonl"
FOLDER_TASKS = ("conversation", "region-caption", "rec", "grounding", "detection")
BOXES_OF = ("upright", "stored")


def add_data(commands: "argparse._SubParsersAction") -> None:
    """Add the command with its sources."""
    data = add_command(
        commands,
        "data",
        run_data,
        "make a dataset to train or evaluate on; without a source, list the sources",
        "groma data shapes --task chat --rows 1000 --seed 0 --output shapes-chat",
    )
    data.is_intermixing = True  # intermixed parsing cannot go on to the parser of a source
    sources = data.add_subparsers(title="sources", dest="data_source", metavar="SOURCE", parser_class=CommandParser)
    _add_shapes_arguments(
        sources.add_parser(
            "shapes",
            help=SHAPES_HELP,
            description=f"{SHAPES_HELP[0].upper()}{SHAPES_HELP[1:]}. The same arguments make the same rows on any "
            "machine; splits share no scene, whatever the seeds.",
            epilog="example: groma data shapes --task chat --rows 1000 --seed 0 --output shapes-chat\n"
            "         groma data shapes --task rec --rows 200 --seed 1 --output shapes-rec --split test --evaluation "
            "--preview 12",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_folder_arguments(
        sources.add_parser(
            "folder",
            help=FOLDER_HELP,
            description=f"{FOLDER_HELP[0].upper()}{FOLDER_HELP[1:]}, in the layout of Hugging Face's imagefolder with "
            "a text for each box, one line per image:\n\n"
            '{"file_name": "a.jpg", "objects": {"bbox": [[30, 212, 342, 373]], "text": ["a cat"]}}\n\n'
            "Masks are optional: PNG files named in objects.mask or beside the images (a.mask-0.png), COCO RLE or "
            "polygons. docs/finetune.md has all forms.",
            epilog="example: groma data folder photos/train --output data/photos --preview 8\n"
            "         groma data folder photos/validation --output data/photos --split validation",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )


def _add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all sources share: which rows, and which files they go to."""
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the Parquet files")
    parser.add_argument(
        "--questions", metavar="K", type=positive(int), default=8, help="most questions in a row (default: 8)"
    )
    parser.add_argument(
        "--evaluation", action="store_true", help="evaluation columns: one question per row, without its answer"
    )
    parser.add_argument("--shards", metavar="N", type=positive(int), default=1, help="number of files (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of this split in DIR")


def _add_shapes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_data_shapes)
    _add_file_arguments(parser)
    parser.add_argument("--task", required=True, choices=SHAPES_TASKS, help="what the rows teach or test")
    parser.add_argument(
        "--rows", metavar="N", type=positive(int), required=True, help="number of rows, one scene each"
    )
    parser.add_argument("--seed", metavar="N", type=natural, required=True, help="seed of the scenes")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="train", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--image-size", metavar="N", type=positive(int), default=224, help="side in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--max-regions",
        metavar="N",
        type=positive(int),
        default=30,
        help="region slots of the model that will learn from the rows (default: %(default)s)",
    )
    parser.add_argument(
        "--position-share",
        metavar="P",
        type=share,
        default=0.15,
        help="share of rec questions that distinguish objects by position (default: %(default)s)",
    )
    parser.add_argument(
        "--wording",
        choices=("groma", "glamm"),
        default="groma",
        help="whose words questions and answers have (default: %(default)s)",
    )
    parser.add_argument(
        "--preview", metavar="N", type=positive(int), help="also draw the first N rows to preview-TASK.png in DIR"
    )


def _add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_data_folder)
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder of the images and metadata.jsonl")
    _add_file_arguments(parser)
    parser.add_argument(
        "--task",
        choices=FOLDER_TASKS,
        default="conversation",
        help="what the rows teach or test; conversation: everything but detection (default: %(default)s)",
    )
    parser.add_argument("--split", default="train", help="name of the split (default: %(default)s)")
    parser.add_argument(
        "--box-format",
        choices=BOX_FORMATS,
        default="xywh",
        help="format of bbox, in pixels (default: %(default)s, as in COCO)",
    )
    parser.add_argument("--normalized", action="store_true", help="bbox holds fractions of the image size, not pixels")
    parser.add_argument(
        "--boxes-of",
        choices=BOXES_OF,
        help="which image the boxes were drawn on, if EXIF data rotate or mirror it: the upright one that a viewer "
        "shows, or the stored one; by default the line's width and height, the boxes or the masks decide, and "
        "undecided images are left out",
    )
    parser.add_argument(
        "--max-regions",
        metavar="N",
        type=positive(int),
        default=100,
        help="region slots of the model that will learn from the rows: one names half as many boxes at most (default: "
        "100)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=natural, default=0, help="seed of the wording of questions (default: 0)"
    )
    parser.add_argument(
        "--wording",
        choices=("groma", "glamm"),
        default="groma",
        help="whose words questions and answers have: the family that will learn from them (default: %(default)s)",
    )
    parser.add_argument(
        "--preview",
        metavar="N",
        type=positive(int),
        help="also draw the boxes of the first N images, to DIR/preview",
    )


def run_data(arguments: argparse.Namespace) -> None:
    """`groma data` without a source: list the sources."""
    print(f"groma data folder\n    {FOLDER_HELP}")
    print(f"groma data shapes\n    {SHAPES_HELP}")
    checkout = source_checkout()
    if checkout is None:
        print("\nThe scripts of other sources are in processing/ of the source repository.")
        return
    print("\nIn the source checkout, one script per raw dataset; --help says where to download it:\n")
    for path in sorted((checkout / "processing").glob("**/*.py")):
        name = ".".join(path.relative_to(checkout).with_suffix("").parts)
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if f"python -m {name} " in text:
            print(f"python -m {name}\n    {text.splitlines()[0]}")


def run_data_shapes(arguments: argparse.Namespace) -> None:
    """`groma data shapes`: synthetic scenes as Parquet files."""
    folder = checked_folder(arguments.output)
    with importing_data_packages():
        from ..shapes.preview import contact_sheet
        from ..shapes.rows import ShapesOptions, write_shapes
    with errors_of("shapes"):
        options = ShapesOptions(
            task=arguments.task,
            seed=arguments.seed,
            split=arguments.split,
            questions=arguments.questions,
            evaluation=arguments.evaluation,
            image_size=arguments.image_size,
            max_regions=arguments.max_regions,
            position_share=arguments.position_share,
            wording=arguments.wording,
        )
        report = write_shapes(options, arguments.rows, folder, arguments.shards, arguments.overwrite)
    for path in report.files:
        print(path)
    if arguments.preview is not None:
        preview = folder / f"preview-{arguments.task}.png"
        write_png(preview, contact_sheet(options, min(arguments.preview, arguments.rows)))
        print(preview)


def run_data_folder(arguments: argparse.Namespace) -> None:
    """`groma data folder`: an image folder as Parquet files."""
    output = checked_folder(arguments.output)
    with importing_data_packages():
        from ..data.image_folder import FolderOptions, draw_image_folder, write_image_folder
    with errors_of(f"IMAGES {str(arguments.images)!r}"):
        options = FolderOptions(
            task=arguments.task,
            box_format=arguments.box_format,
            normalized=arguments.normalized,
            evaluation=arguments.evaluation,
            questions=arguments.questions,
            max_regions=arguments.max_regions,
            seed=arguments.seed,
            boxes_of=arguments.boxes_of,
            wording=arguments.wording,
        )
        report = write_image_folder(
            arguments.images, output, options, arguments.split, arguments.shards, arguments.overwrite
        )
        for path in report.files:
            print(path)
        for name, image in draw_image_folder(arguments.images, options, arguments.preview or 0):
            preview = output / "preview" / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}.png"
            write_png(preview, image)
            print(preview)
    for name, reason in report.examples:
        note(f"left out {name}: {reason}")
    if report.rows == 0:
        raise CommandError(f"IMAGES {str(arguments.images)!r} gave no rows; the reasons are above.")
