"""A folder of image files as a source: all that are in it and below, in shards of so many images."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...data.provenance import digest_of
from ...images import IMAGE_SUFFIXES
from .source_images import SourceImage, readable_name


@dataclass(frozen=True)
class ImageFolderShard:
    """Some of the images of a folder.

    Args:
        folder (`Path`): the folder.
        names (`tuple[str, ...]`): their paths in it.
        state (`str`): a digest of names, sizes and times of change.
    """

    folder: Path
    names: tuple[str, ...]
    state: str

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"{readable_name(self.names[0])} … {readable_name(self.names[-1])}"

    @property
    def count(self) -> int:
        """How many images it has."""
        return len(self.names)

    def images(self, start: int = 0) -> Iterator[SourceImage]:
        """Its images, in the order of their paths."""
        for name in self.names[start:]:
            readable = readable_name(name)
            yield SourceImage(readable, readable, self.folder / name)


def image_folder_shards(
    folder: Path, size: int, leave_out: Sequence[Path] = (), limit: int | None = None
) -> list[ImageFolderShard]:
    """The shards of a folder of images.

    Args:
        folder (`Path`): the folder. What is hidden, by a dot at the head of its name, is not read; nor are links to
            folders followed.
        size (`int`): images in a shard.
        leave_out (`Sequence[Path]`): folders in it that are not read, such as that of the output.
        limit (`int`, *optional*): how many images are taken, the first ones by their paths.

    Returns:
        `list[ImageFolderShard]`: none where there are no images.
    """
    names = files_below(folder, IMAGE_SUFFIXES, leave_out)[:limit]
    shards = []
    for start in range(0, len(names), size):
        part = tuple(names[start : start + size])
        states = []
        for name in part:
            try:
                found = (folder / name).stat()
                states.append([name, found.st_size, found.st_mtime_ns])
            except OSError:  # a link that leads nowhere: it is left out when it is read
                states.append([name, None, None])
        shards.append(ImageFolderShard(folder.absolute(), part, digest_of(states)))
    return shards


def files_below(folder: Path, suffixes: Sequence[str], leave_out: Sequence[Path] = ()) -> list[str]:
    """Files in a folder and below, by the ends of their names.

    Args:
        folder (`Path`): the folder.
        suffixes (`Sequence[str]`): ends of names, in small letters; files may have them in capitals.
        leave_out (`Sequence[Path]`): folders in it that are not read.

    Returns:
        `list[str]`: paths in the folder, with slashes, sorted; as text, because there may be millions.

    Raises:
        ValueError: a folder cannot be read: what is in it would be missing.
    """
    barred = {os.path.realpath(path) for path in leave_out}
    found = []
    for below, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(below, name)) not in barred
        ]
        relative = os.path.relpath(below, folder)
        for name in names:
            if not name.startswith(".") and name.lower().endswith(tuple(suffixes)):
                found.append(PurePosixPath(Path(relative, name).as_posix()).as_posix())
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise ValueError(
        f"the folder {readable_name(str(error.filename))!r} cannot be read ({error.strerror}). Make it readable, or "
        "move it out of the source."
    ) from error


__all__ = ["ImageFolderShard", "files_below", "image_folder_shards"]
