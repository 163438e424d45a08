"""Which label a phrase becomes."""

import json

import pytest

from transformers_groma.exports.labels import Labels, normalized, read_labels


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("The Red  cup.", "red cup"),
        ("a dog", "dog"),
        ("An apple,", "apple"),
        ("some cups", "cups"),
        ("the", "the"),
        ("a", "a"),
        ("another dog", "another dog"),
        ("“the dog”", "dog"),
        ("dog (left)", "dog (left)"),
        ("...", "..."),
        ("Ärger", "ärger"),
    ],
)
def test_normalized(phrase, expected):
    assert normalized(phrase) == expected


def test_every_phrase_is_a_label():
    labels = Labels()
    assert [labels.of(phrase) for phrase in ("A dog", "a dog", "A dog")] == ["A dog", "a dog", "A dog"]
    assert labels.numbers == {"A dog": 1, "a dog": 2} and labels.classes == {"A dog": 0, "a dog": 1}
    assert not labels.is_closed
    labels = Labels(normalize=True)
    assert {labels.of(phrase) for phrase in ("A dog", "a dog", "the dog.")} == {"dog"}


@pytest.mark.parametrize("normalize", [False, True])
def test_a_closed_set(tmp_path, normalize):
    for name, text in [("a.txt", "dog\n\n The Cat \r\n"), ("b.json", '["dog", "The Cat"]')]:
        (tmp_path / name).write_text(text)
        labels = read_labels(tmp_path / name, normalize)
        assert labels.is_closed and labels.numbers == {"dog": 1, "The Cat": 2}
        assert (labels.of("dog"), labels.of("The Cat"), labels.of("bird")) == ("dog", "The Cat", None)
        found = [labels.of("A dog"), labels.of("a cat")]
        assert found == (["dog", "The Cat"] if normalize else [None, None])


def test_phrases_with_labels(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"a puppy": "dog", "the dog": "dog", "a cat": "cat", "sky": None}))
    labels = read_labels(path, normalize=True)
    assert [labels.of(phrase) for phrase in ("A puppy", "dog", "the cat", "the sky", "a bird")] == [
        *("dog", "dog", "cat", None, None)
    ]
    assert labels.numbers == {"dog": 1, "cat": 2}


def test_categories_of_coco_keep_their_numbers(tmp_path):
    path = tmp_path / "instances.json"
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": [], "categories": categories}))
    labels = read_labels(path)
    assert labels.numbers == {"dog": 18, "cat": 17} and labels.classes == {"cat": 0, "dog": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n", "has no labels"),
        ("a.txt", "dog\ncat\ndog", "names the label 'dog' twice"),
        ("a.txt", "x" * 300, "at most 255 characters"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "has no labels"),
        ("a.json", "{}", "has no labels"),
        ("a.json", '["a", 7]', "a label must be a text"),
        ("a.json", '{"a": 7}', "write a list of labels"),
        ("a.json", '{"a": "b\\nc"}', "one line of printable characters"),
        ("a.json", "7", "write a list of labels"),
        ("a.json", '{"categories": []}', "has no categories"),
        ("a.json", '{"categories": [{"name": "a"}]}', "a category needs a number as `id`"),
        ("a.json", '{"categories": [{"id": 1}]}', "a label must be a text"),
        ("a.json", '{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "two categories"),
    ],
)
def test_files_without_labels(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        read_labels(tmp_path / name)
