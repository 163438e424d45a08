"""What zero-shot commands share: the arguments of their encoder, of the views of an image, and of the score."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..loading_options import DTYPES, LoadingOptions
from .arguments import CommandError, errors_of, natural, positive
from .models import checked_device, load_proposing

if TYPE_CHECKING:
    from ..zero_shot.dual_encoder import DualEncoder
    from ..zero_shot.region_views import RegionViews

# The one of the paper that is quickest. It is downloaded when it is first used.
ENCODER = "openai/clip-vit-base-patch32"
VIEWS = ("random", "grid", "regions", "both", "none")
SCORES = ("paper", "released")
VIEW_COUNT = 60
VIEW_BATCH = 256
_NO_PROPOSER = "pass a Groma or its detector, or `--views random`, as it has no region proposer"


def add_encoder_arguments(parser: "argparse._ActionsContainer") -> None:
    """Add the arguments that say which dual encoder compares images and texts, and how it is loaded."""
    parser.add_argument(
        "--encoder",
        metavar="DIR_OR_REPO",
        default=ENCODER,
        help="folder or Hub name of a model that encodes images and texts: a CLIP, SigLIP, ALIGN, … (default: "
        "%(default)s, which is downloaded when it is first used)",
    )
    parser.add_argument(
        "--encoder-revision", metavar="REV", help="branch, tag or commit of an encoder on the Hub (default: main)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, …; the best one available by default")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="dtype of the encoder's weights (default: as saved)"
    )
    parser.add_argument(
        "--view-batch",
        metavar="N",
        type=positive(int),
        default=VIEW_BATCH,
        help="views, or texts, that go through the encoder together; it bounds memory (default: %(default)s)",
    )


def add_view_arguments(parser: "argparse._ActionsContainer") -> None:
    """Add the arguments that say where an image is looked at, and how the score follows."""
    parser.add_argument(
        "--views",
        choices=VIEWS,
        help="random: squares as in the paper; grid: squares side by side; regions: where a Groma proposes something; "
        "both: random and regions; none: the whole image alone (default: random)",
    )
    parser.add_argument(
        "--view-count",
        metavar="N",
        type=positive(int),
        help=f"views of an image; of regions at most this many, with `both` this many of each (default: {VIEW_COUNT})",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=natural,
        help="of the random squares, and of the texts of waffle; squares depend on the image alone (default: 0)",
    )
    parser.add_argument(
        "--model",
        metavar="DIR_OR_REPO",
        help="with --views regions or both: folder or Hub name of the Groma, or of its detector, that proposes them "
        "(default: groma-tiny, which comes with this package and only knows drawn shapes)",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a --model on the Hub")
    parser.add_argument(
        "--score",
        choices=SCORES,
        help="of wca. paper: the weighted sum of all similarities; released: the cosine of the weighted sums, as the "
        f"published code has it (default: {SCORES[0]})",
    )


def check_encoder_and_views(arguments: argparse.Namespace) -> None:
    """Refuse options that would change nothing; nothing is loaded.

    Raises:
        CommandError: `--model` or `--revision` with views that ask no model, or a revision of an encoder in a folder.
    """
    if arguments.encoder_revision is not None and Path(arguments.encoder).is_dir():
        raise CommandError(
            f"--encoder-revision is of encoders on the Hub, and --encoder {arguments.encoder!r} is a folder: leave it "
            "out."
        )
    views = arguments.views or "random"
    if views not in ("regions", "both"):
        for option in ("model", "revision"):
            if getattr(arguments, option) is not None:
                raise CommandError(
                    f"--{option} is of the model that proposes regions, and --views {views} asks none: "
                    "leave it out, or pass --views regions or --views both. The encoder is --encoder."
                )


def load_dual_encoder(arguments: argparse.Namespace) -> "DualEncoder":
    """Load the encoder of [`add_encoder_arguments`].

    Raises:
        CommandError: there is no such model, it is not a dual encoder, or the device cannot be used.
    """
    device = checked_device(arguments.device, LoadingOptions(dtype=arguments.dtype))
    from transformers.utils import logging

    from ..zero_shot.dual_encoder import DualEncoder

    logging.disable_progress_bar()
    with errors_of(f"--encoder {arguments.encoder!r}"):
        return DualEncoder.from_pretrained(
            arguments.encoder,
            device,
            arguments.dtype,
            arguments.encoder_revision,
            batch_size=arguments.view_batch,
        )


def load_region_views(arguments: argparse.Namespace) -> "RegionViews | None":
    """Load what proposes regions, by the arguments of [`add_view_arguments`]; `None` where none are looked at.

    Raises:
        CommandError: the model proposes no regions, or cannot be loaded.
    """
    if arguments.views not in ("regions", "both"):
        return None
    options = LoadingOptions(revision=arguments.revision)
    loaded = load_proposing(arguments.model, arguments.device, options, _NO_PROPOSER)
    from ..zero_shot.region_views import RegionViews

    return RegionViews(*loaded, region_count=arguments.view_count)


__all__ = [
    "ENCODER",
    "SCORES",
    "VIEWS",
    "VIEW_COUNT",
    "add_encoder_arguments",
    "add_view_arguments",
    "check_encoder_and_views",
    "load_dual_encoder",
    "load_region_views",
]
