"""Names of classes: a file renames by index or by name, and what does not fit is an error that names it."""

import pytest

from transformers_groma.evaluation.classification.class_names import classes_of, classes_of_texts, only


def test_underscores_are_spaces_and_a_file_renames_by_index():
    assert classes_of(["n01", "red_fox"]).shown == ("n01", "red fox")
    classes = classes_of(["n01", "n02"], ["tench", "red_fox"])
    assert classes.given == ("n01", "n02") and classes.shown == ("tench", "red fox")


def test_names_may_be_shared():
    assert classes_of(["a1", "a2"], ["church", "church"]).shown == ("church", "church")


@pytest.mark.parametrize(
    ("given", "names", "message"),
    [
        (["a", "b", "c"], ["x", "y"], r"2 names, and the dataset has 3 classes.*'a', 'b', 'c'"),
        (["a", "b"], ["x", " "], "class 1 has no name: 'b'"),
        (["cat", "dog"], ["dog", "cat"], "class 0 is 'cat' in the dataset.*has 'cat' at 1"),
        (["cat", "red_fox", "n3"], ["cat", "n3", "red fox"], "class 1 is 'red_fox' in the dataset.*'red fox' at 2"),
    ],
)
def test_a_file_that_does_not_fit(given, names, message):
    with pytest.raises(ValueError, match=message):
        classes_of(given, names)


def test_texts_are_the_distinct_ones_or_those_of_a_file():
    assert classes_of_texts(["dog", "cat", "dog"]).given == ("cat", "dog")
    classes = classes_of_texts(["red_fox", "dog"], ["wolf", "red fox", "dog"])
    assert classes.given == ("wolf", "red_fox", "dog") and classes.shown == ("wolf", "red fox", "dog")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dogs", "cat"], r"the label 'dog' is not in the file of labels \(did you mean 'dogs'\?\)"),
        (["dog", "cat", "dog"], r"the label 'dog' is 2 times in the file of labels \(at 0 and 2\)"),
    ],
)
def test_a_label_that_is_not_one_class_of_the_file(names, message):
    with pytest.raises(ValueError, match=message):
        classes_of_texts(["dog", "cat"], names)


def test_only_some_classes():
    classes = classes_of(["n01", "n02", "n03", "n04"], ["cat", "church", "red_fox", "church"])
    assert only(classes, ["red_fox", "n01"]).tolist() == [0, 2]
    assert only(classes, ["church"]).tolist() == [1, 3], "a shared name chooses all of its classes"
    with pytest.raises(ValueError, match=r"'red foxes' is not a class of the dataset \(did you mean 'red fox'\?\)"):
        only(classes, ["cat", "red foxes"])
    with pytest.raises(ValueError, match="1 class can't be told apart"):
        only(classes, ["cat", "n01"])
