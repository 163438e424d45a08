"""What goes up of a dataset, and what its card says, read back by `datasets` from a folder as the Hub has it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Image, load_dataset
from huggingface_hub import DatasetCard

from transformers_groma.data.annotation_columns import ANNOTATION_FEATURES, AnnotatedImage, AnnotatedRegion
from transformers_groma.data.columns import CONVERSATION_FEATURES, FEATURES, OPTIONAL_FEATURES
from transformers_groma.data.mixtures import PROPOSAL_COLUMNS
from transformers_groma.publishing.contents import Contents
from transformers_groma.publishing.dataset_card import ANNOTATION_COLUMNS, OWN_COLUMNS, kind_of_rows
from transformers_groma.publishing.dataset_contents import dataset_contents
from transformers_groma.publishing.dataset_files import read_configs
from transformers_groma.publishing.machine_paths import check_no_machine_paths
from transformers_groma.shapes.rows import ShapesOptions, write_shapes

REGION = AnnotatedRegion(0, (1.0, 2.0, 3.0, 4.0), 0.5, "proposal", label="a cup")
ROW = AnnotatedImage("a.jpg", "a.jpg", 8, 8, (REGION,), text="A cup.").to_row()


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Any rows as a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def put(contents: Contents, folder: Path) -> Path:
    """Lay out what goes up as a checkout of the repository has it."""
    for name, source in contents.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    return folder


def shapes(folder: Path, split: str = "train", rows: int = 4, task: str = "rec", **more) -> Path:
    write_shapes(ShapesOptions(task, seed=0, split=split), rows, folder, **more)
    return folder


def test_splits_and_rows_come_back(tmp_path):
    folder = shapes(shapes(tmp_path / "rec", num_shards=2), "validation", rows=2)
    (folder / ".env").write_text("secret")
    (folder / "preview-train.png").write_bytes(b"")
    contents = dataset_contents(folder, "org/rec", license="cc-by-4.0")
    shards = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001.parquet"]
    assert sorted(contents.files) == ["README.md", *shards]
    assert contents.repo_type == "dataset" and contents.replaces == ("*.parquet",)
    assert {".env", "preview-train.png", "train-00000-of-00002.report.json"} <= set(contents.left_out)
    check_no_machine_paths(contents, folder)
    loaded = load_dataset(str(put(contents, tmp_path / "hub")), cache_dir=tmp_path / "cache")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4, "validation": 2}
    assert isinstance(loaded["train"].features["image"], Image)
    assert {name: loaded["train"].features[name] for name in CONVERSATION_FEATURES} == CONVERSATION_FEATURES
    written = load_dataset("parquet", data_files={"train": [str(folder / name) for name in shards[:2]]})["train"]
    assert (
        loaded["train"].cast_column("image", Image(decode=False))[:]
        == written.cast_column("image", Image(decode=False))[:]
    )


def test_the_card_says_what_the_rows_are(tmp_path):
    contents = dataset_contents(shapes(tmp_path / "rec", num_shards=2), "org/shapes-*rec*", license="cc-by-4.0")
    text = contents.files["README.md"].decode()
    card = DatasetCard(text)
    assert card.data["license"] == "cc-by-4.0" and card.data["size_categories"] == ["n<1K"]
    assert card.data["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "train-*.parquet"}]}
    ]
    for words in (
        "# shapes-\\*rec\\*\n",
        "| `train` | 4 | 2 |",
        "| `shapes-rec` | 4 |",
        "| `boxes_xyxy` | `list of list of 4 float32` |",
        "in absolute pixels of the upright image",
        'load_dataset("org/shapes-*rec*")',
        "`cc-by-4.0`, as stated",
    ):
        assert words in text, words
    assert "None was stated" in dataset_contents(tmp_path / "rec", "org/x").files["README.md"].decode()


@pytest.mark.parametrize(
    ("task", "words"), [("detection", "to train the detector of a"), ("chat", "Conversations about images")]
)
def test_kinds_of_rows(tmp_path, task, words):
    text = dataset_contents(shapes(tmp_path, rows=1, task=task), "org/x").files["README.md"].decode()
    assert words in text and "| `masks` |" in text and "COCO's run-length encoding" in text


def test_annotations_are_told_apart_and_no_images_are_promised(tmp_path):
    table = pa.Table.from_pylist([ROW], schema=ANNOTATION_FEATURES.arrow_schema)
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    contents = dataset_contents(tmp_path, "org/annotated")
    text = contents.files["README.md"].decode()
    assert "A model wrote them and nobody checked them. The images are not part of the dataset." in text
    assert "groma train" not in text and "## Sources" not in text
    (row,) = load_dataset(str(put(contents, tmp_path / "hub")), cache_dir=tmp_path / "cache")["train"]
    assert AnnotatedImage.from_row(row) == AnnotatedImage.from_row(ROW)


def test_every_column_of_ours_has_a_meaning():
    ours = {name for schema in (*FEATURES.values(), *OPTIONAL_FEATURES.values()) for name in schema}
    assert set(OWN_COLUMNS) == ours | set(PROPOSAL_COLUMNS)
    assert set(ANNOTATION_COLUMNS) == set(ANNOTATION_FEATURES)
    assert [kind_of_rows(list(FEATURES[kind])) for kind in FEATURES] == list(FEATURES)


def test_folders_are_parts_that_are_loaded_by_name(tmp_path):
    shapes(tmp_path / "data" / "rec", rows=2)
    shapes(tmp_path / "data" / "detection", "test", rows=3, task="detection")
    contents = dataset_contents(tmp_path / "data", "org/all")
    assert 'load_dataset("org/all", "detection")' in contents.files["README.md"].decode()
    hub = put(contents, tmp_path / "hub")
    for name, split, rows in (("rec", "train", 2), ("detection", "test", 3)):
        loaded = load_dataset(str(hub), name, cache_dir=tmp_path / "cache")
        assert {one: len(loaded[one]) for one in loaded} == {split: rows}


def test_a_card_of_your_own_is_kept(tmp_path):
    folder = shapes(tmp_path / "rec")
    (folder / "README.md").write_text("---\npretty_name: Mine\n---\n\n# Mine\r\n\nMy words.\n")
    (folder / "LICENSE").write_text("free")
    contents = dataset_contents(folder, "org/rec", license="mit")
    card = DatasetCard(contents.files["README.md"].decode())
    assert card.data["pretty_name"] == "Mine" and card.data["license"] == "mit"
    assert card.data["configs"][0]["data_files"] == [{"split": "train", "path": "train-00000-of-00001.parquet"}]
    assert "My words." in card.text and contents.files["LICENSE"] == folder / "LICENSE"
    with pytest.raises(ValueError, match=r"README.md says `license: mit`, not 'apache-2.0'"):
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
        dataset_contents(folder, "org/rec", license="apache-2.0")


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ([{"config_name": "default", "data_files": "train-*.parquet"}], None),
        ([{"config_name": "default", "data_files": [{"split": "train", "path": ["train-0*"]}]}], None),
        ([{"config_name": "default", "data_files": "test-*"}], "names 'test-\\*', and no file fits"),
        ([{"config_name": "a", "data_files": "train-00000-*"}], "leaves out train-00001-of-00002.parquet"),
        ([{"config_name": "default"}], "an entry without a path of files"),
    ],
)
def test_splits_of_your_own_must_fit_the_files(tmp_path, configs, words):
    folder = shapes(tmp_path / "rec", num_shards=2)
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    if words is None:
        assert DatasetCard(dataset_contents(folder, "org/rec").files["README.md"].decode()).data["configs"] == configs
        return
    with pytest.raises(ValueError, match=words):
        dataset_contents(folder, "org/rec")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "has no Parquet files"),
        ({"train.parquet": [], "x.txt": []}, "have no rows"),
        ({"train.parquet": [{"a": 1}], "test.parquet": []}, "The split 'test' of .* has no rows"),
        ({"train.parquet": [{"a": 1}], "b/train.parquet": [{"a": 1}]}, "has Parquet files, and so has its folder b"),
        ({"my-rows.parquet": [{"a": 1}]}, "would be the split 'my-rows', but the name of a split"),
        ({"train-00001-of-00002.parquet": [{"a": 1}]}, "train-00000-of-00002.parquet is missing"),
        (
            {"train-00000-of-00001.parquet": [{"a": 1}], "train-00000-of-00002.parquet": [{"a": 1}]},
            "files of two datasets, train-00000-of-00001.parquet and train-00000-of-00002.parquet",
        ),
        ({"test.parquet": [{"a": 1, "b": 1}], "train.parquet": [{"a": "1"}]}, r"other columns than .* \(a, b\)"),
        (
            {"train.parquet": [{"image": {"bytes": None, "path": "a.png"}}]},
            "an image in its column 'image' that is only a path, 'a.png'",
        ),
    ],
)
def test_what_could_not_be_loaded_is_refused(tmp_path, files, words):
    for name, rows in files.items():
        write_rows(tmp_path / name, rows)
    with pytest.raises(ValueError, match=words):
        read_configs(tmp_path)


def test_a_cut_file_is_refused(tmp_path):
    path = write_rows(tmp_path / "train.parquet", [{"a": 1}])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train\.parquet is not a complete Parquet file"):
        read_configs(tmp_path)


def test_images_may_be_missing_and_name_themselves(tmp_path):
    images = [None, {"bytes": b"1", "path": "a.png"}, {"bytes": b"2", "path": None}]
    write_rows(tmp_path / "train.parquet", [{"image": image} for image in images])
    (config,) = read_configs(tmp_path)
    assert config.rows == {"train": 3}


def test_a_shard_without_rows_is_not_missed(tmp_path):
    write_rows(tmp_path / "train-00000-of-00002.parquet", [{"a": 1}])
    (tmp_path / ".train-00001-of-00002.report.json").write_text("{}")
    (config,) = read_configs(tmp_path)
    assert [path.name for path in config.files()] == ["train-00000-of-00002.parquet"]
