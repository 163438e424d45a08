"""Sources of images: what their files say they are, their shards, and what is wrong with them."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_groma.annotation.sources.hub_dataset import HubDataset, hub_shards
from transformers_groma.annotation.sources.opening import SourceOptions, expand_braces, open_source
from transformers_groma.annotation.sources.source_images import SourceColumns
from transformers_groma.data.left_out import LeftOut

from .samples import png, sample, scene, write_photos, write_rows, write_tar


def shards_of(source, **options):
    return open_source(str(source), SourceOptions(**options))[1]


def names(shards):
    return [[image.image_id for image in shard.images()] for shard in shards]


def test_a_folder_of_images_in_shards(tmp_path):
    photos = write_photos(tmp_path / "photos", 4)
    for hidden in (".hidden.png", ".cache/x.png", "out/gallery.png"):
        (photos / hidden).parent.mkdir(exist_ok=True)
        (photos / hidden).write_bytes(b"")
    (photos / "notes.txt").write_text("no image")
    (photos / "UP.JPG").write_bytes(b"")
    kind, shards = open_source(str(photos), SourceOptions(shard_size=2), [photos / "out"])
    assert kind == "images"
    assert names(shards) == [["UP.JPG", "more/s2.png"], ["s0.png", "s1.png"], ["s3.png"]]
    assert [shard.count for shard in shards] == [2, 2, 1]
    assert [image.image_id for image in shards[1].images(1)] == ["s1.png"]
    assert next(iter(shards[1].images())).content.read_bytes() == png(0)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "photos" / "locked").mkdir()
    scandir = os.scandir

    def denied(path):  # root may read everything
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match=r"photos/locked' cannot be read \(Permission denied\). Make it readable"):
        shards_of(tmp_path / "photos")


def test_a_changed_image_changes_the_state_of_its_shard_alone(tmp_path):
    photos = write_photos(tmp_path / "photos", 4)
    before = [shard.state for shard in shards_of(photos, shard_size=2)]
    os.utime(photos / "s3.png", (1, 1))
    after = [shard.state for shard in shards_of(photos, shard_size=2)]
    assert before[0] == after[0] and before[1] != after[1]


def test_the_first_images_of_each_kind(tmp_path):
    assert names(shards_of(write_photos(tmp_path / "photos", 4), shard_size=2, max_images=3)) == [
        ["more/s2.png", "s0.png"],
        ["s1.png"],
    ]
    write_rows(tmp_path / "rows" / "a.parquet", range(2))
    write_rows(tmp_path / "rows" / "b.parquet", range(2, 4))
    assert names(shards_of(tmp_path / "rows", max_images=3)) == [["scene 0", "scene 1"], ["scene 2"]]
    assert names(shards_of(tmp_path / "rows", max_images=2)) == [["scene 0", "scene 1"]]


def test_parquet_files_of_a_folder(tmp_path):
    write_rows(tmp_path / "rows" / "a.parquet", range(3))
    write_rows(tmp_path / "rows" / "deep" / "b.parquet", [3])
    first, second = shards_of(tmp_path / "rows", columns=SourceColumns(regions="objects.bbox", labels="objects.name"))
    images = list(first.images())
    assert (first.count, first.name, second.name) == (3, "a.parquet", "deep/b.parquet")
    assert [image.image_id for image in images] == ["scene 0", "scene 1", "scene 2"]
    assert [image.file_name for image in images] == ["s0.png", "s1.png", "s2.png"]
    assert images[0].content == png(0)
    assert images[0].regions == [list(map(float, box)) for box in scene(0).boxes_xyxy]
    assert images[0].labels[0] == scene(0).objects[0].attributes.shape
    # Groups of two rows: the first group is not read at all.
    assert [image.image_id for image in first.images(2)] == ["scene 2"]


def test_other_columns_of_parquet_files(tmp_path):
    pq.write_table(
        pa.table({"jpg": [png(0), None, b"x"], "name": ["a", "", None], "caption": ["", "", ""]}),
        tmp_path / "rows.parquet",
    )
    (shard,) = shards_of(tmp_path / "rows.parquet", columns=SourceColumns(image_id="name"))
    first, second, third = shard.images()
    assert (first.image_id, first.content) == ("a", png(0))
    assert (second.image_id, second.content) == ("rows/0000001", LeftOut("no image in its row"))
    assert third.content == b"x"


def test_a_column_of_paths_and_one_with_a_dictionary(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    pq.write_table(pa.table({"image": ["a.png", None], "key": [b"a", b"\xff"]}), tmp_path / "paths.parquet")
    (shard,) = shards_of(tmp_path / "paths.parquet")
    first, second = shard.images()
    assert (first.image_id, first.content, first.file_name) == ("a", tmp_path / "a.png", "a.png")
    assert (second.image_id, second.content) == ("\\xff", LeftOut("no image in its row"))
    pq.write_table(pa.table({"jpg": pa.array([png(0)]).dictionary_encode()}), tmp_path / "dictionary.parquet")
    (shard,) = shards_of(tmp_path / "dictionary.parquet")
    assert next(shard.images()).content == png(0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (SourceColumns(image="jpeg"), r"has no column 'jpeg', only image, image_id, objects\. .*--image-column"),
        (SourceColumns(image_id="key"), "has no column 'key'.*--id-column"),
        (SourceColumns(regions="boxes"), "has no column 'boxes'.*--regions-column"),
        (SourceColumns(labels="objects.name"), "--labels-column.*--regions-column, too"),
    ],
)
def test_columns_that_are_missing(tmp_path, columns, message):
    write_rows(tmp_path / "rows.parquet", [0])
    with pytest.raises(ValueError, match=message):
        shards_of(tmp_path / "rows.parquet", columns=columns)


def test_columns_of_images_that_are_unclear(tmp_path):
    pq.write_table(pa.table({"a": [b""], "b": [b""]}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"text": [""]}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="its columns a, b may all hold images. Name the one .* with --image-column"):
        shards_of(tmp_path / "two.parquet")
    with pytest.raises(ValueError, match="none of its columns text holds bytes"):
        shards_of(tmp_path / "none.parquet")
    pq.write_table(pa.table({"image": [[1]]}), tmp_path / "numbers.parquet")
    with pytest.raises(ValueError, match=r"has list<.*> in its column `image`, which is no image, and none"):
        shards_of(tmp_path / "numbers.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "two.parquet").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"cut\.parquet is not a whole Parquet file"):
        shards_of(tmp_path / "cut.parquet")


def test_tars_of_a_pattern(tmp_path):
    write_tar(tmp_path / "w-08.tar", {**sample(0), **sample(1)})
    write_tar(tmp_path / "w-09.tar", {"in/a.png": png(2), "in/a.json": b"[]", "in/b.json": b"{}", "x.cls": b"7"})
    columns = SourceColumns(regions="boxes")
    first, second = shards_of(tmp_path / "w-{08..09}.tar", columns=columns)
    images = list(first.images())
    assert [image.image_id for image in images] == ["w-08/00000", "w-08/00001"]
    assert images[0].file_name == "w-08.tar/00000.png"
    assert images[0].content == png(0)
    assert images[0].regions == [list(map(float, box)) for box in scene(0).boxes_xyxy]
    assert [image.image_id for image in first.images(1)] == ["w-08/00001"]
    good, without, other = second.images()
    assert good.content == png(2) and good.left_out == (LeftOut("no column or field 'boxes'"),)
    assert without.content == LeftOut("no image in its sample", "json")
    assert other.content.reason == "no image in its sample"
    assert (first.count, second.count) == (2, 3)


def test_a_tar_that_is_cut_gives_what_is_whole(tmp_path):
    whole = write_tar(tmp_path / "w.tar", {**sample(0), **sample(1)})
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: len(png(0)) + 4096])
    (shard,) = shards_of(cut)
    images = list(shard.images())
    assert images[0].content == png(0)
    assert isinstance(images[-1].content, LeftOut)
    (tmp_path / "not.tar").write_bytes(b"not a tar")
    with pytest.raises(ValueError, match=r"not\.tar is not a tar that can be read"):
        shards_of(tmp_path / "not.tar")


def test_several_images_of_a_sample(tmp_path):
    write_tar(tmp_path / "w.tar", {"a.left.png": png(0), "a.right.png": png(1)})
    (image,) = shards_of(tmp_path / "w.tar")[0].images()
    assert image.content == LeftOut("several images in a sample: name one with --image-column", "left.png, right.png")
    (image,) = shards_of(tmp_path / "w.tar", columns=SourceColumns(image="right.png"))[0].images()
    assert image.content == png(1) and image.file_name == "w.tar/a.right.png"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("{a,b}-{9..11}", ["a-9", "a-10", "a-11", "b-9", "b-10", "b-11"]),
        ("{07..07}", ["07"]),
    ],
)
def test_braces(pattern, expected):
    assert expand_braces(pattern) == expected


@pytest.mark.parametrize("pattern", ["{3..1}", "{a..c}", "{0..99999999}", "{0..9999}{0..9999}"])
def test_braces_that_are_wrong(pattern):
    with pytest.raises(ValueError, match="Write"):
        expand_braces(pattern)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("photos", {"split": "test"}, "--split 'test' is for a dataset of the Hub"),
        ("photos", {"source_revision": "v1"}, "--source-revision 'v1' is for"),
        ("photos", {"kind": "webdataset"}, "has no tar files. Pass another source, or another --source-type"),
        ("photos", {"columns": SourceColumns(regions="boxes")}, "--regions-column 'boxes'.*has no columns"),
        ("photos/s0.png", {}, "is an image file. Pass the folder"),
        ("empty", {}, "has no image files, Parquet files or tars"),
        ("arrow", {}, r"has Arrow files, as `save_to_disk` .*to_parquet"),
        ("mixed", {}, "holds 1 image files and 1 Parquet files.*--source-type images or parquet"),
        ("w.tar", {"columns": SourceColumns(image_id="key")}, "--id-column 'key' cannot be read: images in a tar"),
        ("missing/deep/er", {}, "is not a file, a folder or the name of a dataset"),
        ("w-{00..01}.tar", {}, r"w-00\.tar', one of the files of"),
        ("x*.parquet", {}, r"No file is called as 'x\*\.parquet' says"),
    ],
)
def test_sources_that_are_refused(tmp_path, monkeypatch, source, options, message):
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "arrow").mkdir()
    (tmp_path / "arrow" / "data-00000-of-00001.arrow").write_bytes(b"")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.png").write_bytes(b"")
    write_rows(tmp_path / "mixed" / "a.parquet", [0])
    write_tar(tmp_path / "w.tar", sample(0))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_source(source, SourceOptions(**options))


def test_the_wanted_kind_of_a_mixed_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    write_rows(tmp_path / "a.parquet", [1])
    assert names(shards_of(tmp_path, kind="images")) == [["a.png"]]
    assert names(shards_of(tmp_path, kind="parquet")) == [["scene 1"]]


def test_a_dataset_is_streamed_shard_by_shard(tmp_path):
    """`datasets` reads a folder as it reads a repository of the Hub."""
    from datasets import Dataset, Image

    for index in range(2):
        rows = {
            "image": [{"bytes": png(2 * index + row), "path": None} for row in range(2)],
            "id": [f"{index}a", f"{index}b"],
        }
        dataset = Dataset.from_dict(rows).cast_column("image", Image())
        dataset.to_parquet(tmp_path / "data" / f"train-{index:05d}-of-00002.parquet")
    shards = hub_shards(HubDataset(str(tmp_path / "data")), SourceColumns())
    assert names(shards) == [["0a", "0b"], ["1a", "1b"]]
    assert [image.image_id for image in shards[1].images(1)] == ["1b"]
    assert next(iter(shards[1].images())).content == png(2)
    with pytest.raises(ValueError, match="cannot be read from the Hub.*--split"):
        hub_shards(HubDataset(str(tmp_path / "data"), split="nope"), SourceColumns())
    with pytest.raises(ValueError, match="has no column 'x', only image, id"):
        hub_shards(HubDataset(str(tmp_path / "data")), SourceColumns(image="x"))


def test_a_dataset_without_a_network(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^no file or folder is called .* the dataset no-such/dataset cannot be read"):
        open_source("no-such/dataset", SourceOptions())
    assert not Path("no-such").exists()
