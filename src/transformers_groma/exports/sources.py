"""Recognizes what an export reads, by its files and columns, and opens it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from .annotation_rows import annotation_records
from .answer_files import KnownImage, answer_paths, answer_records
from .dataset_rows import dataset_records, kind_of_columns, number_of_rows, parquet_files
from .records import ImageRecord, one_record_per_image

SourceKind = Literal["annotations", "answers", "detection", "conversation", "evaluation"]


class Source(NamedTuple):
    """What an export reads.

    Args:
        kind (`str`): what its records are.
        total (`int`): how many rows or files there are, for the progress.
        records (`Iterator[ImageRecord]`): one for each image.
    """

    kind: SourceKind
    total: int
    records: Iterator[ImageRecord]

    @property
    def has_scores(self) -> bool:
        """Whether its objects are a model's."""
        return self.kind in ("annotations", "answers")


def open_source(
    path: Path, all_regions: bool = False, split: str | None = None, image: KnownImage | None = None
) -> Source:
    """Open what `groma annotate` or another command has written, or a dataset.

    Args:
        path (`Path`): a Parquet, JSON or JSON-lines file, or a folder with such files.
        all_regions (`bool`): whether regions that nothing names are exported, too, as "object".
        split (`str`, *optional*): of a dataset with several.
        image (`KnownImage`, *optional*): the image of answers that do not say it.

    Returns:
        `Source`: its records are read as they are asked for.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it has nothing to export, or files of another kind.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: pass what `groma annotate` or another command has written.")
    is_parquet = path.suffix == ".parquet" if path.is_file() else any(path.glob("*.parquet"))
    if is_parquet:
        kind = kind_of_columns(path if path.is_file() else min(path.glob("*.parquet")))
        if image is not None:
            raise ValueError(f"--image is for answers that do not say their image, but {path} has rows that do.")
        if kind is None:
            if split is not None:
                raise ValueError(f"--split is for datasets, but {path} was written by `groma annotate`.")
            # Before the rows are counted: it knows which files have to be there.
            records = annotation_records(path, all_regions)
            paths = parquet_files(path, None)
        else:
            paths = parquet_files(path, split)
            if others := [other for other in paths if kind_of_columns(other) != kind]:
                raise ValueError(f"{others[0]} has other columns than {paths[0]}: pass one of them.")
            records = dataset_records(paths, kind, all_regions)
        return Source(kind or "annotations", number_of_rows(paths), one_record_per_image(records))
    if split is not None:
        raise ValueError(f"--split is for datasets, but {path} is not a folder of Parquet files.")
    if path.is_file() and path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{path} is not a Parquet, JSON or JSON-lines file.")
    paths = answer_paths(path)
    if not paths:
        raise ValueError(f"{path} has no Parquet, JSON or JSON-lines files: there is nothing to export.")
    return Source("answers", len(paths), one_record_per_image(answer_records(paths, all_regions, image)))


__all__ = ["Source", "SourceKind", "open_source"]
