"""Lists of labels: files, folders, and names that several classes have."""

import json

import pytest

from transformers_groma.cli.arguments import CommandError
from transformers_groma.cli.label_arguments import descriptions_of, labels_of, templates_of
from transformers_groma.zero_shot.label_lists import check_labels, distinct_names, names_of_labels, read_labels


def test_labels_of_a_text_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat\r\n\r\n crane, the bird \nwooden_box\u2028x".encode())
    with pytest.raises(ValueError, match="label 3 .* has a line break"):
        read_labels(path)
    path.write_bytes("\ufeffcat\r\n\r\n crane, the bird \nwooden_box".encode())
    assert read_labels(path) == ["cat", "crane, the bird", "wooden_box"] == labels_of(str(path))
    path.write_text("cat,dog,bird\n")
    with pytest.raises(ValueError, match="has one line, with commas"):
        read_labels(path)
    path.write_text("cat\ndog\ncat\n")
    with pytest.raises(ValueError, match=r"labels\.txt: 'cat' appears twice"):
        read_labels(path)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        ({"dog": ["a"], "cat": ["b", "c"]}, ["dog", "cat"]),
        ({"10": "k", **{str(index): "abcdefghij"[index] for index in range(10)}}, list("abcdefghijk")),
    ],
)
def test_labels_of_a_json_file(tmp_path, content, labels):
    (path := tmp_path / "labels.json").write_text(json.dumps(content))
    assert read_labels(path) == labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cat": "a cat"}, "is an object, but not one of lists"),
        ({"0": "cat", "2": "dog"}, "not one for each number from 0 to the last"),
        ({"0": ["n01", "tench"], "1": ["n02", "goldfish"]}, "label 1 is a list, not a text"),
        ([], "must have at least one label"),
        ({}, "must have at least one label"),
        (["cat", 3], "label 2 is a number (3)"),
        (["cat", " "], "label 2 is blank"),
        ("cat", "holds a text ('cat')"),
        (["a_b", "a b"], "'a_b' and 'a b' have one name"),
    ],
)
def test_wrong_json_files_of_labels(tmp_path, content, message):
    (path := tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        read_labels(path)
    assert message in str(error.value) and str(error.value).startswith(str(path))


def test_labels_of_an_image_folder(tmp_path):
    with pytest.raises(ValueError, match="has no folder for a class"):
        read_labels(tmp_path)
    for name in ("train", "test"):
        for label in ("dog", "Cat", ".cache"):
            (tmp_path / name / label).mkdir(parents=True)
    (tmp_path / "train" / "notes.txt").touch()
    (tmp_path / "train" / "dog" / "notes.txt").touch()
    (tmp_path / "train" / "Cat" / "2024").mkdir()
    (tmp_path / "train" / "Cat" / "2024" / "1.JPG").touch()
    with pytest.raises(
        ValueError, match=r"train is not an image folder, as 1 of 2 folders in it has no image \('dog'\)"
    ):
        read_labels(tmp_path / "train")
    (tmp_path / "train" / "dog" / "1.webp").touch()
    assert read_labels(tmp_path / "train") == ["Cat", "dog"]
    with pytest.raises(ValueError, match="has the parts test, train of a dataset"):
        read_labels(tmp_path)


def test_labels_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert labels_of("cat") == ["cat"] and labels_of(" cat , red ball") == ["cat", "red ball"]
    assert labels_of("and/or,hot dog") == ["and/or", "hot dog"]
    for text, message in [
        ("labels.txt", "--labels: labels.txt does not exist"),
        ("cat,labels.JSON", "does not exist"),
        ("data/labels", "does not exist"),
        ("cat,,dog", "has a blank name"),
        ("", "has a blank name"),
        ("cat,dog,cat", "--labels: 'cat,dog,cat': 'cat' appears twice"),
    ]:
        with pytest.raises(CommandError) as error:
            labels_of(text)
        assert message in str(error.value)


def test_files_of_the_command_line(tmp_path):
    assert descriptions_of(None) is None and templates_of(None) is None
    (path := tmp_path / "x.json").write_text('{"cat": ["a"]}')
    assert descriptions_of(path) == {"cat": ["a"]}
    with pytest.raises(CommandError, match="^--templates: .*x.json holds an object, not a list"):
        templates_of(path)
    path.write_text('["a {}"]')
    assert templates_of(path) == ("a {}",)
    with pytest.raises(CommandError, match="^--descriptions: .*holds a list, as files of templates do"):
        descriptions_of(path)


@pytest.mark.parametrize("labels", [None, b"cat", {"cat": 1}, 5])
def test_labels_are_a_list(labels):
    with pytest.raises(ValueError, match="`labels` must be a list of texts"):
        check_labels(labels)


def test_names_that_several_classes_have():
    """As the released code: the first class with a name gets its predictions."""
    distinct = distinct_names(["church", "desert_sand", "church", "desert sand", "stage", "church"])
    assert distinct.names == ("church", "desert sand", "stage")
    assert distinct.of_classes == (0, 1, 0, 1, 2, 0) and distinct.first_classes == (0, 1, 4)
    assert distinct.shared == ("church", "desert sand")
    assert distinct.note == (
        "6 classes have 3 distinct names ('church', 'desert sand'): a predicted name counts as its first class, so 3 "
        "classes can never be right"
    )
    alone = distinct_names(["a", "b"])
    assert alone.note is None and alone.of_classes == alone.first_classes == (0, 1)
    assert names_of_labels(["a", "a"]) == ("a", "a")
    with pytest.raises(ValueError, match="must have at least one label"):
        distinct_names([])
