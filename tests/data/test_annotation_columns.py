"""Rows of annotated images, and the reader of their files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from transformers_groma.data.annotation_columns import (
    ANNOTATION_SCHEMA,
    AnnotatedImage,
    AnnotatedPhrase,
    AnnotatedRegion,
    LocatedPhrase,
    annotation_files,
    number_of_annotations,
    read_annotations,
)
from transformers_groma.masks import rle_to_mask

MASK = {"size": [2, 3], "counts": "132"}
STAR = AnnotatedRegion(4, (1.5, 0.0, 3.0, 2.0), 0.25, "proposal", "a star", "A red star.", MASK)
RING = AnnotatedRegion(7, (0.0, 0.0, 1.0, 1.0), 1.0, "source", "ring")
IMAGE = AnnotatedImage(
    image_id="a.png",
    file_name="a.png",
    width=3,
    height=2,
    regions=(STAR, RING),
    text="A star and a star.",
    markup="<p>A star</p> <roi><r4></roi> …",
    phrases=(AnnotatedPhrase("A star", 0, 6, (4,)), AnnotatedPhrase("", 8, 8, (7,))),
    located=(LocatedPhrase("stars", (4,)), LocatedPhrase("cups", ())),
)
BARE = AnnotatedImage("b.png", None, 9, 9, ())


def write(path, *images):
    pq.write_table(pa.Table.from_pylist([image.to_row() for image in images], schema=ANNOTATION_SCHEMA), path)


def test_rows_return_from_a_file_unchanged(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", IMAGE)
    write(tmp_path / "train-00001-of-00002.parquet", BARE)
    assert list(read_annotations(tmp_path)) == [IMAGE, BARE]
    assert list(read_annotations(tmp_path / "train-00001-of-00002.parquet")) == [BARE]
    assert number_of_annotations(tmp_path) == 2


def test_datasets_read_the_same_rows(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", IMAGE, BARE)
    rows = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert [AnnotatedImage.from_row(row) for row in rows] == [IMAGE, BARE]


def test_names_of_regions_come_from_the_source_the_list_and_the_caption():
    named = [(name, region.id) for name, region in IMAGE.named_regions()]
    assert named == [("ring", 7), ("stars", 4), ("A star", 4)]
    assert BARE.named_regions() == []


def test_a_region_is_found_by_its_number():
    assert IMAGE.regions_with_ids([7, 4]) == [RING, STAR]
    with pytest.raises(ValueError, match=r"a\.png has no regions with the numbers \[5\], only \[4, 7\]"):
        IMAGE.regions_with_ids([5])


def test_missing_shards_are_named(tmp_path):
    write(tmp_path / "train-00001-of-00003.parquet", BARE)
    with pytest.raises(ValueError, match="1 of 3 shards.*resumes"):
        read_annotations(tmp_path)
    assert list(read_annotations(tmp_path, partial=True)) == [BARE]
    write(tmp_path / "train-00000-of-00001.parquet", BARE)
    with pytest.raises(ValueError, match="of 1 and of 3 shards"):
        annotation_files(tmp_path, partial=True)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        read_annotations(tmp_path / "missing")
    with pytest.raises(ValueError, match="has no files of `groma annotate`"):
        read_annotations(tmp_path)
    pq.write_table(pa.table({"image_id": ["a"], "text": ["b"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="lacks the columns file_name, width"):
        read_annotations(tmp_path / "other.parquet")
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is not a whole Parquet file"):
        read_annotations(tmp_path)


def test_masks_are_those_of_coco(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", IMAGE)
    (image,) = read_annotations(tmp_path)
    assert rle_to_mask(image.regions[0].mask).shape == (2, 3)
    assert image.regions[1].mask is None
