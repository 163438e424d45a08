"""Phrases and objects: matches, promotions, new objects."""

import pytest

from processing.grand.relations import related


def thing(number, box, label="dog", attributes=()):
    return {"id": number, "bbox": list(box), "labels": [label], "score": 0.5, "attributes": list(attributes)}


def phrase(text, *boxes):
    return {"phrase": text, "boxes": [list(box) for box in boxes]}


@pytest.mark.parametrize(("height", "matches"), [(7.5, True), (7.4, False)])
def test_a_phrase_belongs_to_the_object_that_it_overlaps(height, matches):
    objects, floating, relations = related([thing(4, (0, 0, 10, 10))], [], [phrase("A  Dog", (0, 0, 10, height))])
    assert [each["id"] for each in objects] == [4]
    assert relations == [{"phrase": "a dog", "object_ids": [4 if matches else 5]}]
    assert len(floating) == (0 if matches else 1)


def test_a_floating_object_that_a_phrase_names_becomes_an_object_and_keeps_its_id():
    objects, floating, relations = related(
        [], [thing(0, (0, 0, 9, 9), "view")], [phrase("a fine scene", (0, 0, 9, 9))]
    )
    assert floating == [] and relations == [{"phrase": "a fine scene", "object_ids": [0]}]
    assert objects[0]["labels"][0] == "view" and objects[0]["attributes"] == ["a fine scene"]


def test_a_new_object_has_the_noun_of_its_phrase_and_floats():
    objects, floating, _ = related([thing(6, (0, 0, 9, 9))], [], [phrase("tall colorful houses", (50, 50, 90, 90))])
    assert len(objects) == 1
    assert floating == [
        {"id": 7, "bbox": [50, 50, 90, 90], "labels": ["house"], "score": None, "attributes": ["tall colorful houses"]}
    ]


def test_two_phrases_about_one_box_make_an_object():
    phrases = [phrase("a river", (0, 0, 9, 9)), phrase("wide water", (0, 0, 9, 9))]
    objects, floating, relations = related([], [], phrases)
    assert floating == [] and objects[0]["labels"] == ["river", "water"]
    assert [each["object_ids"] for each in relations] == [[0], [0]]


def test_the_same_phrase_twice_is_one_source():
    objects, floating, relations = related([], [], [phrase("a river", (0, 0, 9, 9)), phrase("A river", (0, 0, 9, 9))])
    assert objects == [] and len(floating) == 1 and relations == [{"phrase": "a river", "object_ids": [0]}]


def test_objects_come_before_floating_ones_and_keep_their_attributes():
    known = thing(0, (0, 0, 10, 8), attributes=["a wet dog"])
    objects, floating, relations = related([known], [thing(1, (0, 0, 10, 10))], [phrase("an old dog", (0, 0, 10, 10))])
    assert relations[0]["object_ids"] == [0] and len(floating) == 1
    assert objects[0]["attributes"] == ["a wet dog"] and objects[0]["labels"] == ["dog"]


def test_a_phrase_may_have_several_boxes():
    objects = [thing(0, (0, 0, 9, 9)), thing(1, (20, 0, 29, 9))]
    _, _, relations = related(objects, [], [phrase("two dogs", (0, 0, 9, 9), (20, 0, 29, 9), (0, 0, 9, 9))])
    assert relations == [{"phrase": "two dogs", "object_ids": [0, 1]}]
