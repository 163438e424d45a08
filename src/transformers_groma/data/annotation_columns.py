"""Columns of what `groma annotate` writes, one row per image, and a reader of these files.

Boxes are `xyxy` in absolute pixels of the upright image, masks are COCO's run-length encoding (RLE) of its size, and
spans are offsets in characters. A region's id is unique in its row, and phrases name regions by it.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, List, Value

# Where a region comes from: the model's proposals, the regions of the source, or an answer to one of the questions.
Origin = Literal["proposal", "source", "caption", "located"]
ORIGINS = PROPOSAL, SOURCE, CAPTION, LOCATED = ("proposal", "source", "caption", "located")

_IDS = List(Value("int32"))
ANNOTATION_FEATURES = Features(
    {
        # Unique in the dataset.
        "image_id": Value("string"),
        # Where the image is in its source: a path relative to it, or TAR/MEMBER. Null where it has no file.
        "file_name": Value("string"),
        # Of the upright image, in pixels.
        "width": Value("int32"),
        "height": Value("int32"),
        # The caption as plain text, and as the model wrote it, with its marks. Null where none was asked for.
        "text": Value("string"),
        "markup": Value("string"),
        # The phrases of the caption, each with its place in `text` and the regions that it names.
        "phrases": List({"text": Value("string"), "start": Value("int32"), "end": Value("int32"), "region_ids": _IDS}),
        # The phrases that were to be located, each with all regions that were found; none is an answer, too.
        "located": List({"phrase": Value("string"), "region_ids": _IDS}),
        "regions": List(
            {
                "id": Value("int32"),
                "box_xyxy": List(Value("float32"), length=4),
                "score": Value("float32"),
                "origin": Value("string"),
                # The label of the source, else the first phrase that was located there, else that of the caption.
                "label": Value("string"),
                # The answer to the question what the region shows.
                "description": Value("string"),
                "mask": {"size": List(Value("int32")), "counts": Value("string")},
            }
        ),
    }
)
ANNOTATION_SCHEMA: pa.Schema = ANNOTATION_FEATURES.arrow_schema
# The split of all rows, at the head of the names of files.
SHARD_SPLIT = "train"
_SHARD = re.compile(r"(\w+)-(\d{5,})-of-(\d{5,})\.parquet")


@dataclass(frozen=True)
class AnnotatedRegion:
    """A region of an annotated image.

    Args:
        id (`int`): its number, unique in the image.
        box_xyxy (`tuple[float, float, float, float]`): in absolute pixels of the upright image.
        score (`float`): how sure the model is of it, from 0 to 1; 1 for a region of the source.
        origin (`str`): one of [`ORIGINS`].
        label (`str`, *optional*): what it is called.
        description (`str`, *optional*): what the model says about it.
        mask (`Mapping`, *optional*): COCO's RLE, `{"size": [height, width], "counts": str}`.
    """

    id: int
    box_xyxy: tuple[float, float, float, float]
    score: float
    origin: Origin
    label: str | None = None
    description: str | None = None
    mask: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class AnnotatedPhrase:
    """A phrase of a caption.

    Args:
        text (`str`): the phrase; empty where the caption names regions without one.
        start, end (`int`): its place in the text of the caption, in characters.
        region_ids (`tuple[int, ...]`): the regions that it names.
    """

    text: str
    start: int
    end: int
    region_ids: tuple[int, ...]


@dataclass(frozen=True)
class LocatedPhrase:
    """A phrase that was to be located, and what was found.

    Args:
        phrase (`str`): what was asked for.
        region_ids (`tuple[int, ...]`): the regions, each once; none where the model named none.
    """

    phrase: str
    region_ids: tuple[int, ...]


@dataclass(frozen=True)
class AnnotatedImage:
    """What `groma annotate` says about an image: a row of its files.

    Args:
        image_id (`str`): its name, unique in the dataset.
        file_name (`str`, *optional*): where it is in its source.
        width, height (`int`): size of the upright image, in pixels.
        regions (`tuple[AnnotatedRegion, ...]`): every region that is named below, and those that were asked for.
        text (`str`, *optional*): the caption, if one was asked for.
        markup (`str`, *optional*): the caption as the model wrote it.
        phrases (`tuple[AnnotatedPhrase, ...]`): of the caption, in the order of its text.
        located (`tuple[LocatedPhrase, ...]`): the phrases of the list, in its order.

    Example:
    >>> cup = AnnotatedRegion(3, (10.0, 20.0, 30.0, 40.0), 0.5, "proposal", label="a cup")
    >>> image = AnnotatedImage(
    ...     "a.jpg", "a.jpg", 640, 480, (cup,), text="A cup.", phrases=(AnnotatedPhrase("A cup", 0, 5, (3,)),)
    ... )
    >>> [(label, region.id) for label, region in image.named_regions()]
    [('A cup', 3)]
    >>> AnnotatedImage.from_row(image.to_row()) == image
    True
    """

    image_id: str
    file_name: str | None
    width: int
    height: int
    regions: tuple[AnnotatedRegion, ...]
    text: str | None = None
    markup: str | None = None
    phrases: tuple[AnnotatedPhrase, ...] = ()
    located: tuple[LocatedPhrase, ...] = ()

    def regions_with_ids(self, ids: Sequence[int]) -> list[AnnotatedRegion]:
        """The regions with these numbers, in this order.

        Args:
            ids (`Sequence[int]`): numbers of regions.

        Raises:
            ValueError: no region has one of the numbers.
        """
        region_of = {region.id: region for region in self.regions}
        if unknown := [number for number in ids if number not in region_of]:
            raise ValueError(f"{self.image_id} has no regions with the numbers {unknown}, only {list(region_of)}.")
        return [region_of[number] for number in ids]

    def named_regions(self) -> list[tuple[str, AnnotatedRegion]]:
        """Each name of each region: what detection datasets call a label and a box.

        Returns:
            `list[tuple[str, AnnotatedRegion]]`: labels of the source, then located phrases, then phrases of the
            caption; a region that has several names comes with each of them, once. Regions without a name are left
            out.
        """
        names = [(region.label, region.id) for region in self.regions if region.origin == SOURCE and region.label]
        names += [(found.phrase, number) for found in self.located for number in found.region_ids]
        names += [(phrase.text, number) for phrase in self.phrases if phrase.text for number in phrase.region_ids]
        region_of = {region.id: region for region in self.regions}
        return [(name, region_of[number]) for name, number in dict.fromkeys(names)]

    def to_row(self) -> dict[str, Any]:
        """The row of the image, as [`ANNOTATION_FEATURES`] has it."""
        return {
            "image_id": self.image_id,
            "file_name": self.file_name,
            "width": self.width,
            "height": self.height,
            "text": self.text,
            "markup": self.markup,
            "phrases": [{**vars(phrase), "region_ids": list(phrase.region_ids)} for phrase in self.phrases],
            "located": [{**vars(found), "region_ids": list(found.region_ids)} for found in self.located],
            "regions": [
                {
                    **vars(region),
                    "box_xyxy": list(region.box_xyxy),
                    "mask": None if region.mask is None else dict(region.mask),
                }
                for region in self.regions
            ],
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "AnnotatedImage":
        """The image of a row, as [`to_row`] makes it and Parquet readers return it."""
        regions = (
            AnnotatedRegion(**{**region, "box_xyxy": tuple(region["box_xyxy"]), "mask": _mask(region["mask"])})
            for region in row["regions"]
        )
        phrases = (
            AnnotatedPhrase(**{**phrase, "region_ids": tuple(phrase["region_ids"])}) for phrase in row["phrases"]
        )
        located = (LocatedPhrase(found["phrase"], tuple(found["region_ids"])) for found in row["located"])
        return cls(**{**row, "regions": tuple(regions), "phrases": tuple(phrases), "located": tuple(located)})


def annotation_files(source: str | os.PathLike, partial: bool = False) -> list[Path]:
    """The files that `groma annotate` has written to a folder, in their order.

    Args:
        source (`str` or `Path`): the folder, or one of its files.
        partial (`bool`): whether some of them may be missing, as while it runs.

    Returns:
        `list[Path]`: Parquet files.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the folder has no such files, of two runs, or not all of them.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"{source} does not exist. Pass the folder that `groma annotate` has written.")
    found = {path: match for path in sorted(source.iterdir()) if (match := _SHARD.fullmatch(path.name))}
    if not found:
        raise ValueError(
            f"{source} has no files of `groma annotate` (train-00000-of-00001.parquet, …). Pass the folder that it "
            "has written."
        )
    counts = {int(match[3]) for match in found.values()}
    if len(counts) > 1:
        raise ValueError(
            f"{source} has files of {len(counts)} datasets, of {' and of '.join(map(str, sorted(counts)))} shards. "
            "Pass a file of one of them, or put them into folders of their own."
        )
    (count,) = counts
    if len(found) < count and not partial:
        raise ValueError(
            f"{source} has {len(found)} of {count} shards: `groma annotate` was interrupted or still runs. Run it "
            "again, and it resumes."
        )
    return list(found)


def read_annotations(source: str | os.PathLike, partial: bool = False) -> Iterator[AnnotatedImage]:
    """Read what `groma annotate` has written, a few rows at a time.

    Args:
        source (`str` or `Path`): its folder, or one Parquet file.
        partial (`bool`): whether shards may be missing, as while it runs.

    Returns:
        `Iterator[AnnotatedImage]`: the images, in the order of the source.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: see [`annotation_files`]; or a file that is not Parquet or has other columns.

    Example:
    ```python
    for image in read_annotations("annotations"):
        print(image.image_id, image.text, len(image.regions))
    ```
    """
    # Not a generator itself: wrong folders are noticed where it is called.
    paths = annotation_files(source, partial)
    for path in paths:
        _check_columns(path)
    return (AnnotatedImage.from_row(row) for path in paths for row in _rows(path))


def number_of_annotations(source: str | os.PathLike, partial: bool = False) -> int:
    """How many images [`read_annotations`] will give; only the ends of the files are read.

    Args:
        source (`str` or `Path`), partial (`bool`): as there.
    """
    return sum(pq.read_metadata(path).num_rows for path in annotation_files(source, partial))


def repeated_values(paths: Sequence[Path], column: str) -> list[str]:
    """The values of a column of text that several images have; only this column is read.

    Args:
        paths (`Sequence[Path]`): files of [`annotation_files`], at least one.
        column (`str`): `"image_id"` or `"file_name"`; images without a value are not counted.

    Returns:
        `list[str]`: each value once.
    """
    values = pa.chunked_array([pq.read_table(path, columns=[column])[column].combine_chunks() for path in paths])
    counts = values.drop_null().value_counts()
    return counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64, columns=list(ANNOTATION_FEATURES)):
            yield from batch.to_pylist()


def _check_columns(path: Path) -> None:
    try:
        schema = pq.read_schema(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path} is not a whole Parquet file ({error}). Run `groma annotate` again.") from error
    missing = [name for name in ANNOTATION_FEATURES if name not in schema.names]
    if missing:
        raise ValueError(
            f"{path} was not written by `groma annotate`: it lacks the columns {', '.join(missing)}. Pass a file or "
            "folder of it."
        )


def _mask(mask: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A mask as COCO's tools take it; Parquet readers may give a missing one as a struct of nothing."""
    return None if mask is None or mask["counts"] is None else {"size": list(mask["size"]), "counts": mask["counts"]}


__all__ = [
    "ANNOTATION_FEATURES",
    "ANNOTATION_SCHEMA",
    "CAPTION",
    "LOCATED",
    "ORIGINS",
    "PROPOSAL",
    "SHARD_SPLIT",
    "SOURCE",
    "AnnotatedImage",
    "AnnotatedPhrase",
    "AnnotatedRegion",
    "LocatedPhrase",
    "annotation_files",
    "number_of_annotations",
    "read_annotations",
    "repeated_values",
]
