"""The command line that the scripts share: options, error messages, exit status."""

import io
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers_groma._files import write_file
from transformers_groma.data.columns import Schema
from transformers_groma.data.image_files import BOXES_OF
from transformers_groma.data.provenance import named_as_options
from transformers_groma.data.rows_preview import preview_files
from transformers_groma.data.shards import WriteReport, write_dataset

Record = TypeVar("Record")

# Options that do not change the rows of a record.
FILE_OPTIONS = ("output", "shards", "shard", "engine", "workers", "overwrite", "limit", "preview")
# A file that lacks a category was cut or merged wrongly: unlike other faults of single records, this one ends in an
# error.
UNKNOWN_CATEGORY = "annotation of a category that the file does not list"


def positive_int(text: str) -> int:
    """The type of an option that counts something: a positive integer."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)


def files_below(folder: Path, pattern: str, what: str) -> list[str]:
    """Find files in a folder and below.

    Args:
        folder (`Path`): the folder.
        pattern (`str`): a regular expression for whole names, in any case; names that begin with a dot are hidden.
        what (`str`): what the files are, for the error.

    Returns:
        `list[str]`: their paths, sorted; as text, because there may be millions.

    Raises:
        FileNotFoundError: there are no such files.
    """
    matches = re.compile(pattern, re.IGNORECASE).fullmatch
    paths = [
        os.path.join(below, name)
        for below, _, names in os.walk(folder)
        for name in names
        if matches(name) and not name.startswith(".")
    ]
    if not paths:
        raise FileNotFoundError(f"There is no {what} in {folder} or below.")
    return sorted(paths)


def script_parser(
    description: str, *, images: bool = True, annotations: bool = True, boxes: bool = True
) -> ArgumentParser:
    """A parser with the options that all scripts have.

    Args:
        description (`str`): the script's docstring, shown by `--help`.
        images (`bool`): whether the script reads a folder of images (`--images`).
        annotations (`bool`): whether it reads annotation files (`--annotations`).
        boxes (`bool`): whether the annotations of its images are boxes (`--boxes-of`).

    Returns:
        `ArgumentParser`: a script may add its own options.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    if images:
        parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    if annotations:
        parser.add_argument(
            "--annotations",
            type=Path,
            required=True,
            nargs="+",
            metavar="FILE",
            help="annotation files, in this order",
        )
    if images and boxes:
        parser.add_argument(
            "--boxes-of",
            choices=BOXES_OF,
            help="which pixels boxes were drawn on, where EXIF data turn or mirror an image: those that a viewer "
            "shows, or those that are stored; by default the annotated size tells, and images where it can't are left "
            "out",
        )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the dataset, made if needed"
    )
    parser.add_argument("--split", default="train", help="name of the split (default: %(default)s)")
    parser.add_argument(
        "--shards", type=positive_int, default=1, metavar="N", help="number of Parquet files (default: 1)"
    )
    parser.add_argument("--shard", type=int, metavar="K", help="write this one of 0..N-1 only, as one job of an array")
    parser.add_argument(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help='plain: one shard after the other; ray: a Ray cluster, needs `pip install "transformers-groma[data]"`',
    )
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="with ray: the most shards at a time (default: all CPUs)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write finished shards again")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="take the first N records only, to try it out")
    add_preview_option(parser)
    return parser


def add_preview_option(parser: ArgumentParser) -> None:
    """Add `--preview N`, for `write_preview`."""
    parser.add_argument(
        "--preview",
        type=positive_int,
        metavar="N",
        help="also draw the first N rows, with their boxes and texts, to DIR/preview-SPLIT.png; a single shard K gets "
        "DIR/preview-SPLIT-0000K.png",
    )


def run_script(
    args: Namespace,
    load_records: Callable[[], Sequence[Record]],
    convert: Callable[[Record], Iterable[dict[str, Any]]],
    *,
    schema: Schema,
    record_name: Callable[[Record], str] = str,
    rows_version: int = 1,
    masks: bool = False,
) -> int:
    """Load records, convert them and write shards, as the options say.

    Args:
        args (`Namespace`): options of a `script_parser`.
        load_records (`Callable`): reads the annotations; the order must be the same in every run.
        convert (`Callable`): rows of one record, see `write_dataset`.
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`.
        record_name (`Callable`): names a record in the report.
        rows_version (`int`): of the script. Raise it where the same records become other rows, so that files of the
            version before are not taken for finished.
        masks (`bool`): whether rows have masks; files that the script wrote before it had masks do not count as
            finished either.

    With `--preview N`, the first rows of the files are drawn on a contact sheet, also where the files were there
    before.

    Returns:
        `int`: exit status. 1: no row at all could be written. 2: options or files are wrong; the message says which.
            Of a file with annotations of a category that it does not list, the others are written all the same.
    """
    try:
        records = load_records()[: args.limit]
        report = write_dataset(
            records,
            convert,
            schema=schema,
            output_dir=args.output,
            split=args.split,
            num_shards=args.shards,
            shard=args.shard,
            engine=args.engine,
            num_workers=args.workers,
            overwrite=args.overwrite,
            record_name=record_name,
            options=_row_options(args, convert, rows_version) | ({"masks": masks} if masks else {}),
        )
    except (OSError, ValueError, ImportError) as error:
        is_of_file = isinstance(error, OSError) and error.filename is not None
        print(f"error: {error.strerror}: {error.filename!r}" if is_of_file else f"error: {error}", file=sys.stderr)
        return 2
    if report.rows == 0 and args.shard is None:
        print(
            f"error: no row was written; see the reasons above and in {args.output}/.{args.split}-*.report.json",
            file=sys.stderr,
        )
        return 1
    try:
        write_preview(args, report)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _contradictions(report)


def _contradictions(report: WriteReport) -> int:
    """Exit status of a dataset that was written: 2 where the annotations contradict themselves."""
    count = report.parts.get(UNKNOWN_CATEGORY, 0)
    if not count:
        return 0
    example = next((text for _, text in report.examples if text.startswith(UNKNOWN_CATEGORY)), UNKNOWN_CATEGORY)
    print(
        f"error: {example} ({count} such annotations). The others are written; add the category to `categories`.",
        file=sys.stderr,
    )
    return 2


def write_preview(args: Namespace, report: WriteReport) -> None:
    """Draw the first rows of what was written, or was there before, if `--preview` asks for it.

    Args:
        args (`Namespace`): `preview`, `split`, `shard` and `output`, the folder of the dataset.
        report (`WriteReport`): which files.
    """
    files = [path for path in report.files if path.is_file()]  # a shard without rows may have no file
    if args.preview is None or report.rows == 0 or not files:
        return
    shard = "" if args.shard is None else f"-{args.shard:05d}"
    path = args.output / f"preview-{args.split}{shard}.png"
    buffer = io.BytesIO()
    preview_files(files, args.preview).save(buffer, format="PNG")
    write_file(path, buffer.getvalue())
    print(path)


def _row_options(args: Namespace, convert: Callable, rows_version: int) -> dict[str, Any]:
    """All that rows depend on besides the records: the script, its version and its options."""
    function = getattr(convert, "func", convert)  # of a `functools.partial`
    options = {name: value for name, value in vars(args).items() if name not in FILE_OPTIONS}
    script = Path(function.__code__.co_filename).stem
    return {"script": script, "version of the script": rows_version, **named_as_options(options)}
