"""Finds out what a source is, by its files: a folder, Parquet files, WebDataset archives or a dataset of the Hub."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

from ...hub_names import has_owner_and_name
from ...images import IMAGE_SUFFIXES
from .hub_dataset import HubDataset, hub_shards
from .image_folder import files_below, image_folder_shards
from .parquet_files import parquet_shards
from .source_images import FirstImages, SourceColumns, SourceShard
from .webdataset import TAR_SUFFIXES, tar_shards

SourceKind = Literal["images", "parquet", "webdataset", "hub"]
SOURCE_KINDS = IMAGES, PARQUET, WEBDATASET, HUB = ("images", "parquet", "webdataset", "hub")
_SUFFIXES = {IMAGES: IMAGE_SUFFIXES, PARQUET: (".parquet",), WEBDATASET: TAR_SUFFIXES}
_WORDS = {IMAGES: "image files", PARQUET: "Parquet files", WEBDATASET: "tar files"}
_BRACES = re.compile(r"\{([^{}]*)\}")
# More files than this are a mistake in a pattern.
_MOST_FILES = 1_000_000


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Args:
        kind (`str`, *optional*): one of [`SOURCE_KINDS`]; by default its files say it.
        columns (`SourceColumns`): which columns are read.
        shard_size (`int`): images in a shard of a folder of image files.
        config (`str`, *optional*), split (`str`), source_revision (`str`, *optional*): of a dataset of the Hub.
        max_images (`int`, *optional*): how many images are taken, the first ones.
    """

    kind: SourceKind | None = None
    columns: SourceColumns = field(default_factory=SourceColumns)
    shard_size: int = 1000
    config: str | None = None
    split: str = "train"
    source_revision: str | None = None
    max_images: int | None = None


def open_source(
    source: str, options: SourceOptions, leave_out: Sequence[Path] = ()
) -> tuple[SourceKind, list[SourceShard]]:
    """The shards of a source.

    Args:
        source (`str`): a folder, a file, a pattern of files (`shards/{000..015}.tar`, `rows/*.parquet`) or the name of
            a dataset on the Hub.
        options (`SourceOptions`): how it is read.
        leave_out (`Sequence[Path]`): folders in it that are not read, such as that of the output.

    Returns:
        What kind of source it is, and its shards, at least one.

    Raises:
        ValueError: nothing is there to annotate, or it is not clear what; the message says what to do.
    """
    if source.startswith("hf://datasets/"):
        source, options_kind = source.removeprefix("hf://datasets/"), HUB
    else:
        options_kind = options.kind
    path = Path(source).expanduser()
    if options_kind == HUB or (options_kind is None and not _is_here(source, path) and has_owner_and_name(source)):
        _refuse_columns_of_others(options, HUB)
        dataset = HubDataset(source, options.config, options.split, options.source_revision)
        try:
            return HUB, _first(hub_shards(dataset, options.columns), options.max_images)
        except ValueError as error:
            if options_kind == HUB:
                raise
            # A folder with a typing error looks like a name of the Hub.
            raise ValueError(
                f"no file or folder is called {source!r}, and as a dataset of the Hub, {error}"
            ) from error
    for name, default in (("config", None), ("split", "train"), ("source_revision", None)):
        if getattr(options, name) != default:
            option = f"--{name.replace('_', '-')} {getattr(options, name)!r}"
            raise ValueError(
                f"{option} is for a dataset of the Hub, but {source!r} is a file or folder. Leave it out."
            )
    folder, names = _files(source, path, leave_out)
    kind = _kind_of(source, names, options_kind)
    names = [name for name in names if name.lower().endswith(_SUFFIXES[kind])]
    _refuse_columns_of_others(options, kind)
    if kind == IMAGES:
        if not path.is_dir():
            raise ValueError(
                f"{source!r} is an image file. Pass the folder that it is in; `groma caption`, `groma locate` and the "
                "others are for single images."
            )
        return kind, list(image_folder_shards(path, options.shard_size, leave_out, options.max_images))
    shards = (parquet_shards if kind == PARQUET else tar_shards)(folder, names, options.columns)
    return kind, _first(shards, options.max_images)


def expand_braces(pattern: str) -> list[str]:
    """The names of a pattern with braces, as shells and WebDataset write them.

    Args:
        pattern (`str`): with ranges, `{000..015}`, or lists, `{a,b}`.

    Returns:
        `list[str]`: the names, in the order of the pattern.

    Raises:
        ValueError: a range that is not one of numbers, or far too many names.

    Example:
    >>> expand_braces("train-{08..10}.tar")
    ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    pieces = _BRACES.split(pattern)
    choices = [_choices(piece) if index % 2 else [piece] for index, piece in enumerate(pieces)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > _MOST_FILES:
        raise ValueError(f"{pattern!r} names {count} files. Write a smaller range.")
    return ["".join(names) for names in product(*choices)]


def _choices(text: str) -> list[str]:
    if ".." not in text:
        return text.split(",")
    first, _, last = text.partition("..")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError(f"{{{text}}} is not a range of numbers. Write it as in {{000..015}}.")
    if int(last) - int(first) > _MOST_FILES:
        raise ValueError(f"{{{text}}} names more than {_MOST_FILES} files. Write a smaller range.")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _is_here(source: str, path: Path) -> bool:
    return path.exists() or any(mark in source for mark in "{*?[") or path.is_absolute()


def _files(source: str, path: Path, leave_out: Sequence[Path]) -> tuple[Path, list[str]]:
    """The files of a source: the folder that they are in, and their paths in it."""
    if path.is_dir():
        suffixes = tuple(suffix for each in _SUFFIXES.values() for suffix in each)
        return path, files_below(path, suffixes, leave_out)
    if path.is_file():
        return path.parent, [path.name]
    paths: list[str] = []
    for name in expand_braces(str(path)):
        found = sorted(glob.glob(name)) if any(mark in name for mark in "*?[") else [name]
        paths += found
    if missing := [name for name in paths if not os.path.isfile(name)]:
        if paths == [str(path)]:
            raise ValueError(
                f"{source!r} is not a file, a folder or the name of a dataset on the Hub. Pass a folder of images, a "
                "Parquet file, a tar, a pattern such as 'shards/{000..015}.tar', or a name such as org/dataset."
            )
        raise ValueError(f"{missing[0]!r}, one of the files of {source!r}, is not there. Write another pattern.")
    if not paths:
        raise ValueError(f"No file is called as {source!r} says. Write another pattern.")
    folder = Path(os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in paths]))
    return folder, [Path(os.path.relpath(os.path.abspath(name), folder)).as_posix() for name in dict.fromkeys(paths)]


def _kind_of(source: str, names: Sequence[str], wanted: SourceKind | None) -> SourceKind:
    kinds = {kind: sum(name.lower().endswith(ends) for name in names) for kind, ends in _SUFFIXES.items()}
    found = [kind for kind, count in kinds.items() if count]
    if wanted is not None:
        if wanted not in found:
            raise ValueError(f"{source!r} has no {_WORDS[wanted]}. Pass another source, or another --source-type.")
        return wanted
    if not found and any(Path(source).rglob("*.arrow")):
        raise ValueError(
            f"{source!r} has Arrow files, as `save_to_disk` of `datasets` writes them. Write them as Parquet with "
            "`load_from_disk(…).to_parquet(…)`, and pass that."
        )
    if not found:
        raise ValueError(
            f"{source!r} has no image files, Parquet files or tars. Pass the folder that they are in or above."
        )
    if len(found) > 1:
        held = " and ".join(f"{kinds[kind]} {_WORDS[kind]}" for kind in found)
        raise ValueError(f"{source!r} holds {held}: say which to annotate with --source-type {' or '.join(found)}.")
    return found[0]


def _refuse_columns_of_others(options: SourceOptions, kind: SourceKind) -> None:
    """Refuse options that a source of this kind would ignore."""
    columns = options.columns
    if columns.labels is not None and columns.regions is None:
        raise ValueError("--labels-column has the labels of regions: name their column with --regions-column, too.")
    given = {
        "--image-column": columns.image,
        "--id-column": columns.image_id,
        "--regions-column": columns.regions,
        "--labels-column": columns.labels,
    }
    without = {IMAGES: tuple(given), WEBDATASET: ("--id-column",)}.get(kind, ())
    for option in without:
        if given[option] is not None:
            what = "images in a tar are named by their keys. Leave it out."
            if kind == IMAGES:
                what = "a folder of image files has no columns. Pass Parquet files; `groma data folder` makes some."
            raise ValueError(f"{option} {given[option]!r} cannot be read: {what}")


def _first(shards: Sequence[SourceShard], max_images: int | None) -> list[SourceShard]:
    """The shards of the first images. Where it is not known how many a shard has, it is taken to have enough."""
    if max_images is None:
        return list(shards)
    taken: list[SourceShard] = []
    left = max_images
    for shard in shards:
        if left <= 0:
            break
        if shard.count is not None and shard.count <= left:
            taken.append(shard)
        else:
            taken.append(FirstImages(shard, left))
        left -= left if shard.count is None else min(left, shard.count)
    return taken


__all__ = [
    "HUB",
    "IMAGES",
    "PARQUET",
    "SOURCE_KINDS",
    "WEBDATASET",
    "SourceKind",
    "SourceOptions",
    "expand_braces",
    "open_source",
]
