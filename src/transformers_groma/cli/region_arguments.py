"""Regions on the command line: boxes, points, scribbles and mask files, in the order in which they come."""

import argparse
import math
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

from ..point_labels import AMBIGUITIES
from .arguments import CommandError, box_xyxy

# What an option makes of the regions before it and of its value.
Changed = Callable[[list[Any], Any], list[Any]]
_POINT_REMEDY = "write x,y in pixels, as in 90,300"
_OPTION_OF_KEY = {"points": "--point", "scribble": "--scribble", "mask": "--mask"}


def add_region_arguments(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the options that point at regions: `regions` has them as [`read_region`] takes them.

    Args:
        parser (`argparse.ArgumentParser`): a `CommandParser`, which keeps the points after an option together.
        text (`str`): what the regions are for, without a full stop.
    """
    group = parser.add_argument_group(
        "regions",
        textwrap.fill(
            f"{text}. Each option is a region, in the order in which they come. Pixels are of the upright image.", 78
        ),
    )

    def add(option: str, metavar: str, kind: Callable[[str], Any], changed: Changed, about: str) -> None:
        group.add_argument(
            option, dest="regions", default=[], metavar=metavar, type=kind, action=_Region, changed=changed, help=about
        )

    add("--box", "X1,Y1,X2,Y2", box_region, _with_region, "its corners")
    points = "a point on it, or several of one region: --point 90,300 120,310"
    add("--point", "X,Y", points_region, _with_region, points)
    others = "a point that is not on the region of the --point before, or several"
    add("--not-point", "X,Y", points_xy, partial(with_negative_points, before="--point"), others)
    line = "the points of a line drawn over it: --scribble 90,300 120,310 150,290"
    add("--scribble", "X,Y", scribble_region, _with_region, line)
    mask = "an image file of its pixels: black, and another colour where the region is"
    add("--mask", "FILE", mask_region, _with_region, mask)
    group.add_argument(
        "--ambiguity",
        dest="regions",
        default=[],
        choices=AMBIGUITIES,
        action=_Region,
        changed=partial(with_ambiguity, before="a --point or a --scribble"),
        help="what the --point or --scribble before means, where it may mean several things (default: what the model "
        "is most sure of)",
    )


def option_of(region: Any) -> str:
    """The option that a region came by, for errors: `--box`, `--point`, `--scribble` or `--mask`.

    Args:
        region: as [`add_region_arguments`] reads it.
    """
    if not isinstance(region, dict):
        return "--box"
    return next(option for key, option in _OPTION_OF_KEY.items() if key in region)


def with_negative_points(regions: list[Any], points: list[list[float]], before: str) -> list[Any]:
    """Add points that are not on it to the last region, which must be given by points; the list is not changed.

    Args:
        regions (`list`): as [`add_region_arguments`] reads them.
        points (`list[list[float]]`): `[x, y]` each, in absolute pixels.
        before (`str`): what gives a region by points, for the error.

    Raises:
        argparse.ArgumentTypeError: the last region is not given by points, or there is none.
    """
    last = regions[-1] if regions else None
    if not isinstance(last, dict) or "points" not in last:
        raise argparse.ArgumentTypeError(f"it belongs to the region of a {before}: write it after that one")
    points, labels = [*last["points"], *points], [*last["labels"], *[0] * len(points)]
    return [*regions[:-1], {**last, "points": points, "labels": labels}]


def with_ambiguity(regions: list[Any], ambiguity: str, before: str) -> list[Any]:
    """Regions whose last one, which is given by points or a scribble, says what these mean; the list is not changed.

    Args:
        regions (`list`): as [`add_region_arguments`] reads them.
        ambiguity (`str`): one of `AMBIGUITIES`.
        before (`str`): what gives a region by points or a scribble, for the error.

    Raises:
        argparse.ArgumentTypeError: the last region is given in another way, or there is none.
    """
    last = regions[-1] if regions else None
    if not isinstance(last, dict) or "mask" in last:
        raise argparse.ArgumentTypeError(f"it belongs to {before}: write it after that one")
    return [*regions[:-1], {**last, "ambiguity": ambiguity}]


def check_region_given(arguments: argparse.Namespace, what: str = "region") -> None:
    """Refuse a command line without a region.

    Args:
        arguments (`argparse.Namespace`): of a command with [`add_region_arguments`].
        what (`str`): what is missing, for the error.

    Raises:
        CommandError: there is none.
    """
    if not arguments.regions:
        raise CommandError(
            f"no {what} was given: pass --box x1,y1,x2,y2, --point x,y, --scribble x,y x,y or --mask file.png."
        )


def ambiguity_word(text: str) -> str:
    """What points or a scribble mean, one of `AMBIGUITIES`."""
    word = text.strip().lower()
    if word not in AMBIGUITIES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(AMBIGUITIES)}: write one of them")
    return word


def points_xy(text: str) -> list[list[float]]:
    """Points, `x,y` in absolute pixels, with spaces between them."""
    points = []
    for word in text.split() or [text]:
        try:
            point = [float(number) for number in word.split(",")]
        except ValueError:
            point = []
        if len(point) != 2:
            raise argparse.ArgumentTypeError(f"{word!r} is not a point: {_POINT_REMEDY}")
        if not all(map(math.isfinite, point)):
            raise argparse.ArgumentTypeError(f"{word!r} is not a point of finite numbers: {_POINT_REMEDY}")
        points.append(point)
    values = [value for point in points for value in point]
    if all(0 <= value <= 1 for value in values) and not all(value in (0, 1) for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} looks like fractions of the image: {_POINT_REMEDY}")
    return points


def box_region(text: str) -> list[float]:
    """A region given by its box, `xyxy` in absolute pixels."""
    return list(box_xyxy(text))


def points_region(text: str) -> dict[str, Any]:
    """A region given by points on it."""
    points = points_xy(text)
    return {"points": points, "labels": [1] * len(points)}


def scribble_region(text: str) -> dict[str, Any]:
    """A region given by a scribble."""
    return {"scribble": points_xy(text)}


def mask_region(text: str) -> dict[str, Any]:
    """A region given by its mask, an image file."""
    from ..mask_files import read_mask_file

    try:
        return {"mask": read_mask_file(text, text)}
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class _Region(argparse.Action):
    """Changes the list of regions that the options before have made."""

    def __init__(self, *args: Any, changed: Changed, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.changed = changed

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            regions = self.changed(getattr(namespace, self.dest), values)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        setattr(namespace, self.dest, regions)


def _with_region(regions: list[Any], region: Any) -> list[Any]:
    """One region more; the list is not changed."""
    return [*regions, region]


__all__ = [
    "add_region_arguments",
    "ambiguity_word",
    "box_region",
    "check_region_given",
    "mask_region",
    "option_of",
    "points_region",
    "points_xy",
    "scribble_region",
    "with_ambiguity",
    "with_negative_points",
]
