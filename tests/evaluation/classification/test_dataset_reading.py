"""Datasets of labelled images: class folders, splits, columns by type; nothing is left out without a word."""

import os
import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PilImage

from transformers_groma.evaluation.classification.dataset_reading import read_labelled_images
from transformers_groma.evaluation.classification.labelled_images import UnreadableImage, said_of_left_out

from .samples import COUNTS, image_folder, noise

NAMES = ["cat", "red_fox"]


def parquet(path, labels, feature, **others):
    columns = {"image": [noise(index) for index in range(len(labels))], "label": labels, **others}
    features = {"image": Image(), "label": feature}
    features |= {name: Value("int64" if isinstance(values[0], int) else "string") for name, values in others.items()}
    Dataset.from_dict(columns, features=Features(features)).to_parquet(path)
    return path


def test_class_folders(folder):
    images = read_labelled_images(folder)
    assert images.classes.given == tuple(COUNTS) and images.classes.shown[3] == "wooden box"
    assert len(images) == sum(COUNTS.values()) and images.image_ids[:2] == ["cloud/0.png", "cloud/1.png"]
    assert np.bincount(images.labels).tolist() == list(COUNTS.values())
    assert (images.split, images.left_out) == ("", {})
    assert images.image(0).mode == "RGB" and images.image(0).size == (56, 40)


def test_what_is_not_an_image_of_a_class_is_counted(tmp_path):
    image_folder(tmp_path, {"a": 1, "b": 1, "empty": 0})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".DS_Store").write_text("x")
    noise(3).save(tmp_path / "outside.png")
    (tmp_path / "b" / "more").mkdir()
    noise(4).save(tmp_path / "b" / "more" / "1.JPG")
    images = read_labelled_images(tmp_path)
    assert images.image_ids == ["a/0.png", "b/0.png", "b/more/1.JPG"]
    assert images.classes.given == ("a", "b", "empty"), "a class without images can still be predicted"
    assert said_of_left_out(images.left_out) == [
        "1 left out, file that is not an image by its name: a/notes.txt",
        "1 left out, image outside of the class folders: outside.png",
    ]


def test_links_are_followed_and_what_is_not_a_file_is_counted(tmp_path):
    image_folder(tmp_path / "real", {"more": 2})
    image_folder(tmp_path / "data", {"a": 1, "b": 1})
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "real" / "more")
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "b" / "gone.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(tmp_path / "data" / "b" / "pipe.png")
    images = read_labelled_images(tmp_path / "data")
    assert images.image_ids == ["a/0.png", "a/more/0.png", "a/more/1.png", "b/0.png"]
    assert images.left_out == {"not a file, or a link to nothing": ["b/gone.png", "b/pipe.png"]}


def test_splits_are_folders_of_class_folders(tmp_path):
    for split, counts in (("train", {"a": 1, "b": 2}), ("test", {"a": 2, "b": 2})):
        image_folder(tmp_path / split, counts)
    assert len(read_labelled_images(tmp_path)) == 4 and read_labelled_images(tmp_path).split == "test"
    assert len(read_labelled_images(f"{tmp_path}@train")) == len(read_labelled_images(tmp_path, "train")) == 3
    with pytest.raises(FileNotFoundError, match="no folder 'val'; its folders .* are test, train"):
        read_labelled_images(f"{tmp_path}@val")
    with pytest.raises(ValueError, match="Name one"):
        read_labelled_images(f"{tmp_path}@train", "test")


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    image_folder(tmp_path, {"test": 1, "train": 2})
    images = read_labelled_images(tmp_path)
    assert images.classes.given == ("test", "train") and len(images) == 3
    with pytest.raises(FileNotFoundError, match="no folder 'val' with a folder for each class; it has no splits"):
        read_labelled_images(f"{tmp_path}@val")


def test_images_that_cannot_be_decoded(tmp_path):
    image_folder(tmp_path, {"a": 1, "b": 1})
    whole = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a" / "2.png").write_bytes(b"")
    PilImage.new("RGB", (1, 9)).save(tmp_path / "a" / "3.png")
    images = read_labelled_images(tmp_path)
    for index, message in ((1, "truncated"), (2, "not an image|cannot be read"), (3, "too small")):
        with pytest.raises(UnreadableImage, match=message):
            images.image(index)


def test_the_orientation_of_a_camera_is_followed(tmp_path):
    image_folder(tmp_path, {"a": 0, "b": 1})
    exif = PilImage.Exif()
    exif[0x0112] = 6
    noise(0).save(tmp_path / "a" / "0.png", exif=exif)
    assert read_labelled_images(tmp_path).image(0).size == (40, 56)


@pytest.mark.parametrize("is_folder", [False, True])
def test_parquet_with_class_labels(tmp_path, is_folder):
    path = parquet(tmp_path / "test-00000.parquet", [1, -1, 0, None, 1], ClassLabel(names=NAMES))
    images = read_labelled_images(tmp_path if is_folder else path)
    assert images.classes.given == tuple(NAMES) and images.classes.shown == ("cat", "red fox")
    assert images.labels.tolist() == [1, 0, 1] and images.image_ids == ["row 0", "row 2", "row 4"]
    assert images.left_out == {"row without a label": ["row 1", "row 3"]}
    assert np.array_equal(np.array(images.image(1)), np.array(noise(2)))


def test_parquet_with_texts(tmp_path):
    path = parquet(tmp_path / "a.parquet", ["dog", "cat", None, "dog", ""], Value("string"))
    images = read_labelled_images(path)
    assert images.classes.given == ("cat", "dog") and images.labels.tolist() == [1, 0, 1]
    assert images.left_out == {"row without a label": ["row 2", "row 4"]}
    with pytest.raises(ValueError, match="the label 'dog' is not in the file of labels"):
        read_labelled_images(path, label_names=["cat", "wolf"])
    assert read_labelled_images(path, label_names=["wolf", "dog", "cat"]).labels.tolist() == [1, 2, 1]


def test_numbers_need_names(tmp_path):
    path = parquet(tmp_path / "a.parquet", [0, 2, -1], Value("int64"))
    with pytest.raises(ValueError, match="'label' has numbers without names.* from 0 to 2"):
        read_labelled_images(path)
    assert read_labelled_images(path, label_names=["a", "b", "c"]).labels.tolist() == [0, 2]
    with pytest.raises(ValueError, match="row 1 has the label 2, and the 2 classes are 0 to 1"):
        read_labelled_images(path, label_names=["a", "b"])


@pytest.mark.parametrize("number", [-2, 7])
def test_a_number_that_is_not_a_class(tmp_path, number):
    path = parquet(tmp_path / "a.parquet", [0, number], Value("int64"))
    with pytest.raises(ValueError, match=f"row 1 has the label {number}, and the 3 classes are 0 to 2"):
        read_labelled_images(path, label_names=["a", "b", "c"])


def test_a_column_that_could_be_another_is_not_guessed(tmp_path):
    path = parquet(tmp_path / "a.parquet", ["dog", "cat"], Value("string"), source=["x", "y"])
    message = "the dataset has the columns image (image), label (string), source (string): label and source can hold"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_labelled_images(path)
    assert read_labelled_images(path, label_column="label").classes.given == ("cat", "dog")
    for column, error in (("lable", "is not a column of the dataset, which has image"), ("image", "holds no labels")):
        with pytest.raises(ValueError, match=error):
            read_labelled_images(path, label_column=column)


def test_a_column_of_classes_goes_before_texts_and_numbers(tmp_path):
    path = parquet(tmp_path / "a.parquet", [0, 1], ClassLabel(names=NAMES), image_id=["x", "y"], row=[1, 2])
    assert read_labelled_images(path).labels.tolist() == [0, 1]
    assert read_labelled_images(path, label_column="image_id").classes.given == ("x", "y")


def test_images_of_other_tools_are_bytes(tmp_path):
    noise(5).save(tmp_path / "x.png")
    content = [{"bytes": (tmp_path / "x.png").read_bytes(), "path": None}] * 2
    path = tmp_path / "a.parquet"
    Dataset.from_dict({"photo": content, "label": ["a", "b"]}).to_parquet(path)
    images = read_labelled_images(path)
    assert np.array_equal(np.array(images.image(0)), np.array(noise(5)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "has neither folders with images, one for each class, nor Parquet files"),
        (lambda folder: image_folder(folder, {"a": 2}), "has 1 class: there must be at least two"),
        (lambda folder: None, "does not exist"),
    ],
)
def test_no_dataset(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_labelled_images(tmp_path / "data")


@pytest.mark.parametrize("of_splits", [False, True])
def test_a_dataset_of_save_to_disk_is_told_from_others(tmp_path, of_splits):
    dataset = Dataset.from_dict({"label": ["cat"]})
    (DatasetDict(test=dataset) if of_splits else dataset).save_to_disk(tmp_path / "data")
    with pytest.raises(ValueError, match="was written by `save_to_disk`, .* Write it with `dataset.to_parquet`"):
        read_labelled_images(tmp_path / "data")


def test_columns_of_a_folder_of_class_folders(folder):
    with pytest.raises(ValueError, match="`label_column` is of datasets with columns"):
        read_labelled_images(folder, label_column="label")


def test_some_images_are_spread_over_the_classes(folder):
    images = read_labelled_images(folder).spread(4)
    assert images.image_ids == ["cloud/0.png", "cloud/2.png", "red ball/1.png", "striped tile/2.png"]
    assert np.array_equal(np.array(images.image(2)), np.array(read_labelled_images(folder).image(5)))
    assert len(images.spread(99)) == 4


def test_some_classes_alone(folder):
    images = read_labelled_images(folder).with_classes(["striped tile", "cloud"])
    assert images.classes.given == ("cloud", "striped tile") and np.bincount(images.labels).tolist() == [4, 3]
    assert [images.image_ids[index] for index in (0, 4)] == ["cloud/0.png", "striped tile/0.png"]
    others = ["red ball/0.png", "red ball/1.png", "wooden_box/0.png", "wooden_box/1.png"]
    assert images.left_out == {"image of a class that was not chosen": others}


def test_the_fingerprint_is_of_the_content_alone(folder, tmp_path):
    images = read_labelled_images(folder)
    (tmp_path / "b").symlink_to(folder)
    assert images.fingerprint() == read_labelled_images(tmp_path / "b").fingerprint()
    assert images.fingerprint() != images.spread(10).fingerprint()
