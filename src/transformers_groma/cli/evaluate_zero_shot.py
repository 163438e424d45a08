"""`groma evaluate zero-shot`: prints the table of zero-shot methods for a dataset of labelled images."""

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._output_errors import OutputError
from .._words import counted
from ..loading_options import LoadingOptions
from .arguments import CommandError, CommandParser, checked_folder, errors_of, natural, positive
from .output import note, printable
from .zero_shot_arguments import SCORES, VIEW_COUNT, VIEWS, add_encoder_arguments, load_dual_encoder

if TYPE_CHECKING:
    from ..evaluation.classification.labelled_images import LabelledImages
    from ..evaluation.classification.table_options import TableOptions
    from ..evaluation.classification.table_rows import TextFiles
    from ..zero_shot.region_views import RegionViews

NAME = "zero-shot"
# Names of other modules, repeated so that `--help` need not import them.
METHODS = ("template", "ensemble", "dclip", "waffle", "cupl", "wca")
PUBLISHED = (
    *("imagenet", "cub", "pets", "dtd", "food", "places"),
    *("imagenet-v2", "imagenet-r", "imagenet-sketch", "imagenet-a"),
)
VIEW_KINDS = tuple(name for name in VIEWS if name != "none")
SEEDS, POOL, DRAWS = 3, 100, 20
_RELEASED = "released"
# Options of `"wca"` alone, by the name of the argument.
_OF_WCA = ("views", "view_count", "score", "protocol", "bounds", "image_temperature", "text_temperature")
_NO_PROPOSER = "pass a Groma or its detector, or other --views, as it has no region proposer"


def add_zero_shot_arguments(parser: CommandParser) -> None:
    """Add the arguments of `groma evaluate zero-shot`."""
    parser.set_defaults(run=run_evaluate_zero_shot, benchmark=NAME)
    data = parser.add_argument_group("dataset")
    data.add_argument(
        "--dataset",
        metavar="PATH[@SPLIT]",
        required=True,
        help="a folder with a folder of images for each class, perhaps one for each split; a folder with Parquet "
        "files; one file; or a Hub name",
    )
    data.add_argument("--split", help="split of the dataset, if not given in PATH (default: test)")
    data.add_argument("--label-column", metavar="NAME", help="column with the class (default: found by its type)")
    data.add_argument("--image-column", metavar="NAME", help="column with the image (default: found by its type)")
    data.add_argument(
        "--labels",
        metavar="FILE",
        help="names of the classes in the order of their index, one a line or a JSON list (default: those of folders "
        "or of the column, underscores as spaces)",
    )
    data.add_argument(
        "--only-labels",
        metavar="FILE",
        help="names of some classes, as in ImageNet-A: only these are chosen from, and images of others left out",
    )
    data.add_argument(
        "--limit", metavar="N", type=positive(int), help="N images, evenly spread over the dataset, and not all"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="output folder: results.json, results.md, per_class.json, predictions.jsonl, confusion.png and the "
        "features; an interrupted run resumes there",
    )
    add_encoder_arguments(parser.add_argument_group("encoder"))
    methods = parser.add_argument_group("methods")
    methods.add_argument(
        "--methods",
        metavar="NAMES",
        type=_names_of(METHODS),
        help=f"some of {','.join(METHODS)} (default: all that can run)",
    )
    methods.add_argument(
        "--descriptions", metavar="FILE", help="sentences by class, as CuPL has them; for cupl and wca"
    )
    methods.add_argument("--dclip-descriptions", metavar="FILE", help="phrases by class, as DCLIP has them; for dclip")
    methods.add_argument(
        "--templates",
        metavar="FILE",
        help="a JSON list of texts with {} for the name; for ensemble, and for wca without --descriptions",
    )
    methods.add_argument(
        "--seed", metavar="N", type=natural, help="first seed of random views and random texts (default: 0)"
    )
    methods.add_argument(
        "--seeds",
        metavar="N",
        type=positive(int),
        help=f"how many seeds; each is a repeat of what is random (default: {SEEDS})",
    )
    wca = parser.add_argument_group("wca")
    wca.add_argument(
        "--views",
        metavar="KINDS",
        type=_names_of(VIEW_KINDS),
        help="where an image is looked at, a row of the table for each: random, grid, regions, both, which is random "
        "and regions (default: random)",
    )
    wca.add_argument(
        "--view-count",
        metavar="N",
        type=positive(int),
        help=f"views of an image; of regions at most so many (default: {VIEW_COUNT})",
    )
    wca.add_argument(
        "--bounds",
        metavar="LOW,HIGH",
        type=_bounds,
        help="sides of random views, as shares of the shorter side of the image (default: 0.5,0.9; 0.1,0.9 with "
        "--protocol released)",
    )
    wca.add_argument(
        "--score",
        metavar="NAMES",
        type=_names_of(SCORES),
        help="paper, released or both with a comma, a row of the table for each (default: paper; released with "
        "--protocol released)",
    )
    wca.add_argument("--image-temperature", metavar="X", type=positive(float), help="of views (default: e^4 = 54.6)")
    wca.add_argument("--text-temperature", metavar="X", type=positive(float), help="of texts (default: e^2 = 7.39)")
    wca.add_argument(
        "--protocol",
        choices=(_RELEASED,),
        help="repeats as in the released code: draws, with replacement, from one pool of random views (default: each "
        "seed has views of its own)",
    )
    wca.add_argument(
        "--pool",
        metavar="N",
        type=positive(int),
        help=f"with --protocol released: views to draw from (default: {POOL})",
    )
    wca.add_argument(
        "--draws", metavar="N", type=positive(int), help=f"with --protocol released: repeats (default: {DRAWS})"
    )
    wca.add_argument(
        "--model",
        metavar="DIR_OR_REPO",
        help="for views of regions: the Groma or detector that proposes them (default: groma-tiny, which only knows "
        "drawn shapes)",
    )
    wca.add_argument("--revision", metavar="REV", help="branch, tag or commit of a --model on the Hub")
    report = parser.add_argument_group("report")
    report.add_argument(
        "--gallery", metavar="N", type=positive(int), default=0, help="draw N errors to gallery.html, worst first"
    )
    report.add_argument(
        "--published",
        metavar="DATASET",
        choices=PUBLISHED,
        help=f"print the accuracies that the paper of WCA reports for {', '.join(PUBLISHED)} beside",
    )
    report.add_argument(
        "--feature-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the features on disk; float16 is half as large (default: %(default)s)",
    )


def run_evaluate_zero_shot(arguments: argparse.Namespace) -> None:
    """`groma evaluate zero-shot`: classify a dataset into a folder, and print the table."""
    _check(arguments)
    folder = checked_folder(arguments.output)
    try:
        from ..evaluation.classification.labelled_images import said_of_left_out
        from ..evaluation.classification.report import table
        from ..evaluation.classification.run import classify_dataset
        from ..evaluation.reports.report import REPORT_NAME, RESULTS_NAME
    except ImportError as error:
        raise CommandError(
            f'{error}. Install what evaluation needs: pip install "transformers-groma[eval]".'
        ) from error
    files = _text_files(arguments)
    images = _images(arguments)
    if arguments.published is not None:
        from ..evaluation.classification.published_accuracy import check_comparable

        with errors_of(f"--published {arguments.published}"):
            check_comparable(arguments.published, len(images.classes))
    options = _options(arguments)
    note(f"{counted(len(images), 'image')} of {counted(len(images.classes), 'class', 'classes')}")
    encoder = load_dual_encoder(arguments)
    proposer = _proposer(arguments)
    notes = {} if arguments.encoder_revision is None else {"revision": arguments.encoder_revision}
    if arguments.limit is not None:
        notes["limit"] = arguments.limit
    try:
        done = classify_dataset(
            images, encoder, folder, options, files, proposer=proposer, model_name=arguments.encoder, notes=notes
        )
    except OutputError:
        raise  # it names the output
    except (ValueError, OSError) as error:
        text = str(error).replace("`descriptions`", "--descriptions").replace("`phrases`", "--dclip-descriptions")
        raise CommandError(f"{NAME}: {text}") from error
    for text in done.notes:
        note(text)
    for text in said_of_left_out(done.left_out):
        note(text)
    _print_table(table(done.rows, options.published))
    note(f"wrote {folder / RESULTS_NAME} and {folder / REPORT_NAME}")


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that would change nothing; nothing is loaded."""
    methods = METHODS if arguments.methods is None else arguments.methods
    views = arguments.views or ("random",)
    is_released = arguments.protocol == _RELEASED
    if "wca" not in methods:
        _refuse(arguments, _OF_WCA, "is of wca, which is not among the --methods")
        views = ()
    if not {"regions", "both"} & set(views):
        _refuse(arguments, ("model", "revision"), "is of the model that proposes regions, and no --views ask it")
    if not {"random", "both"} & set(views):
        _refuse(arguments, ("protocol", "pool", "draws"), "is of random views, and there are none")
    if not {"random", "both", "grid"} & set(views):
        _refuse(arguments, ("bounds",), "is of squares that are random or a grid, and there are none")
    if not is_released:
        _refuse(arguments, ("pool", "draws"), "is of --protocol released")
    if "waffle" not in methods:
        if not {"random", "both"} & set(views):
            _refuse(arguments, ("seed", "seeds"), "is of random views and texts, and there are none")
        elif is_released:
            _refuse(arguments, ("seeds",), "is not of --protocol released, whose repeats are --draws")
    for option, users in (("descriptions", ("cupl", "wca")), ("dclip_descriptions", ("dclip",))):
        if not set(users) & set(methods):
            _refuse(arguments, (option,), f"is of {' and '.join(users)}, and not of the --methods")
    uses_templates = "ensemble" in methods or ("wca" in methods and arguments.descriptions is None)
    if not uses_templates:
        _refuse(arguments, ("templates",), "is of ensemble, and of wca without --descriptions")
    if arguments.published is not None and arguments.limit is not None:
        raise CommandError("--published is for runs on all images: leave it or --limit out.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CommandError(f"{NAME} runs in one process: start it without accelerate launch or torchrun.")
    if arguments.encoder_revision is not None and Path(arguments.encoder).is_dir():
        raise CommandError(
            f"--encoder-revision is of encoders on the Hub, and --encoder {arguments.encoder!r} is a folder: leave it "
            "out."
        )


def _refuse(arguments: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(arguments, name) is not None:
            raise CommandError(f"--{name.replace('_', '-')} {why}: leave it out.")


def _options(arguments: argparse.Namespace) -> "TableOptions":
    from ..evaluation.classification.table_options import TableOptions

    is_released = arguments.protocol == _RELEASED
    return TableOptions(
        methods=arguments.methods,
        views=arguments.views or ("random",),
        scores=arguments.score or (_RELEASED if is_released else "paper",),
        view_count=arguments.view_count or VIEW_COUNT,
        seed=arguments.seed or 0,
        seeds=arguments.seeds or SEEDS,
        released=is_released,
        pool=arguments.pool or POOL,
        draws=arguments.draws or DRAWS,
        bounds=arguments.bounds,
        image_temperature=arguments.image_temperature,
        text_temperature=arguments.text_temperature,
        stored_dtype=arguments.feature_dtype,
        gallery=arguments.gallery,
        published=arguments.published,
    )


def _text_files(arguments: argparse.Namespace) -> "TextFiles":
    from ..evaluation.classification.table_rows import TextFiles
    from ..zero_shot.label_texts import read_descriptions, read_templates

    read: dict[str, Any] = {}
    for option, name, reader in (
        ("--descriptions", "descriptions", read_descriptions),
        ("--dclip-descriptions", "dclip_descriptions", read_descriptions),
        ("--templates", "templates", read_templates),
    ):
        path = getattr(arguments, name)
        with errors_of(option):
            read[name] = None if path is None else reader(path)
    return TextFiles(read["descriptions"], read["dclip_descriptions"], read["templates"])


def _images(arguments: argparse.Namespace) -> "LabelledImages":
    from ..evaluation.classification.dataset_reading import read_labelled_images
    from ..zero_shot.label_lists import read_labels

    names: dict[str, list[str] | None] = {}
    for option in ("labels", "only_labels"):
        path = getattr(arguments, option)
        with errors_of(f"--{option.replace('_', '-')}"):
            names[option] = None if path is None else read_labels(path, may_repeat=True)
    with errors_of(f"--dataset {arguments.dataset!r}"), _names_of_options():
        images = read_labelled_images(
            arguments.dataset,
            arguments.split,
            label_column=arguments.label_column,
            image_column=arguments.image_column,
            label_names=names["labels"],
        )
    if names["only_labels"] is not None:
        with errors_of(f"--only-labels {arguments.only_labels}"):
            images = images.with_classes(names["only_labels"])
    return images if arguments.limit is None else images.spread(arguments.limit)


@contextmanager
def _names_of_options() -> Iterator[None]:
    """Turn names of arguments in an error into options."""
    try:
        yield
    except ValueError as error:
        text = re.sub(
            r"`(label_column|image_column|split)`", lambda match: f"--{match[1].replace('_', '-')}", str(error)
        )
        raise ValueError(text) from error


def _proposer(arguments: argparse.Namespace) -> "RegionViews | None":
    if not {"regions", "both"} & set(arguments.views or ()):
        return None
    from ..zero_shot.region_views import RegionViews
    from .models import load_proposing

    options = LoadingOptions(revision=arguments.revision)
    loaded = load_proposing(arguments.model, arguments.device, options, _NO_PROPOSER)
    return RegionViews(*loaded, region_count=arguments.view_count or VIEW_COUNT)


def _print_table(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines)]
    for cells in lines:
        first, *others = (
            cell.ljust(widths[0]) if not index else cell.rjust(widths[index]) for index, cell in enumerate(cells)
        )
        print(printable("  ".join([first, *others]).rstrip()))


def _names_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """The type of a list of names with commas between."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} must be one or several of {','.join(known)}")
        if len(set(names)) < len(names):
            raise argparse.ArgumentTypeError(f"{text!r} names one twice")
        return names

    return parse


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low <= high <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be two shares above 0 and up to 1, as in 0.5,0.9")
    return low, high


__all__ = ["NAME", "add_zero_shot_arguments", "run_evaluate_zero_shot"]
