"""WebDataset archives as a source: each tar is a shard, and files of one key in it are a sample."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...data.left_out import LeftOut
from ...data.provenance import sampled_digest
from ...images import IMAGE_SUFFIXES
from .source_images import SourceColumns, SourceImage, readable_name, regions_of_row

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class TarShard:
    """The images of a tar.

    Args:
        path (`Path`): the file.
        name (`str`): its path in the source.
        columns (`SourceColumns`): `image` is the end of names of images, such as `jpg`, where a sample has several;
            `regions` and `labels` are fields of the sample's JSON.
        count (`int`, *optional*): how many images it has.
        state (`str`): a digest of parts of it.
    """

    path: Path
    name: str
    columns: SourceColumns
    count: int | None
    state: str

    def images(self, start: int = 0) -> Iterator[SourceImage]:
        """Its images, in the order of the tar."""
        for index, sample in enumerate(_samples(self.path)):
            if index >= start:
                yield self._image(sample)

    def _image(self, sample: "_Sample") -> SourceImage:
        key = f"{self.name.removesuffix('.gz').removesuffix('.tgz').removesuffix('.tar')}/{sample.key}"
        ends = [end for end in sample.files if _is_image(end)]
        if self.columns.image is not None:
            ends = [end for end in ends if end == self.columns.image.lstrip(".").lower()]
        file_name, content = None, LeftOut("no image in its sample", ", ".join(sample.files))
        if len(ends) > 1:
            content = LeftOut("several images in a sample: name one with --image-column", ", ".join(ends))
        elif sample.fault is not None:
            content = sample.fault
        elif ends:
            file_name = readable_name(f"{self.name}/{sample.key}.{ends[0]}")
            content = sample.files[ends[0]]
        regions, labels, left_out = [], [], ()
        if self.columns.regions is not None:
            try:
                row = json.loads(sample.files.get("json", b"{}"))
                row = row if isinstance(row, dict) else {}
                regions, labels, left_out = regions_of_row(row, self.columns)
            except ValueError:
                left_out = (LeftOut("the JSON of a sample cannot be read"),)
        return SourceImage(readable_name(key), file_name, content, regions, labels, left_out)


@dataclass
class _Sample:
    """Files of a key, by the ends of their names."""

    key: str
    files: dict[str, bytes]
    fault: LeftOut | None = None


def tar_shards(folder: Path, names: list[str], columns: SourceColumns) -> list[TarShard]:
    """The shards of WebDataset archives.

    Args:
        folder (`Path`): that the names are in.
        names (`list[str]`): paths of the tars.
        columns (`SourceColumns`): the columns to read.

    Returns:
        `list[TarShard]`: one for each tar, in the same order.

    Raises:
        ValueError: not a tar.
    """
    shards = []
    for name in names:
        path = (folder / name).absolute()
        shards.append(TarShard(path, name, columns, _number_of_samples(path), sampled_digest(path)))
    return shards


def _number_of_samples(path: Path) -> int | None:
    """How many samples a tar has; only the heads of its files are read. `None` where that would mean to unpack it."""
    try:
        with tarfile.open(path) as tar:
            if not path.name.lower().endswith(".tar"):
                return None
            keys, last = 0, None
            try:
                for member in tar:
                    key = _key_of(member)
                    keys += key is not None and key != last
                    last = last if key is None else key
            except (tarfile.TarError, OSError, EOFError):
                pass  # it is cut; what is whole is read
            return keys
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a tar that can be read ({error}). Copy it again, or leave it out.") from error


def _samples(path: Path) -> Iterator[_Sample]:
    sample: _Sample | None = None
    # As a stream: nothing is read twice, and a compressed tar is unpacked once.
    with tarfile.open(path, "r|*") as tar:
        members = iter(tar)
        while True:
            try:
                member = next(members, None)
            except (tarfile.TarError, OSError, EOFError):
                member = None
                if sample is not None:
                    yield sample
                sample = _Sample("(end)", {}, LeftOut("the tar is cut after the sample before", path.name))
            if member is None:
                break
            key = _key_of(member)
            if key is None:
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key, {})
            end = member.name.removeprefix("./")[len(key) + 1 :].lower()
            # Sound and video of a sample may be large, and are not needed.
            if _is_image(end) or end == "json":
                try:
                    sample.files[end] = tar.extractfile(member).read()
                except (tarfile.TarError, OSError, EOFError):
                    sample.fault = LeftOut("the tar is cut in the sample", path.name)
    if sample is not None:
        yield sample


def _key_of(member: tarfile.TarInfo) -> str | None:
    """The key of a file: its path up to the first dot of its name; `None` for what is no part of a sample."""
    folder, slash, name = member.name.removeprefix("./").rpartition("/")
    stem, dot, _ = name.partition(".")
    return f"{folder}{slash}{stem}" if member.isfile() and stem and dot else None


def _is_image(end: str) -> bool:
    return f".{end}".endswith(IMAGE_SUFFIXES)


__all__ = ["TAR_SUFFIXES", "TarShard", "tar_shards"]
