"""Dense captions against the scene graph: what is tied to what, and what a checklist finds missing."""

from itertools import pairwise

from processing.grand.caption_grounding import grounded_caption, missing_objects


def thing(number, label, attribute=None, box=(0, 0, 10, 10)):
    return {"id": number, "bbox": list(box), "labels": [label], "attributes": [attribute] if attribute else []}


def grounded(caption, objects, relations=()):
    return [(caption[each.start : each.end], each.ids) for each in grounded_caption(caption, objects, relations)]


def test_attributes_word_by_word_come_first():
    objects = [thing(0, "chair", "a red chair"), thing(1, "chair", "a chair at a table")]
    assert grounded("A Red Chair stands there.", objects) == [("A Red Chair", (0,))]


def test_the_phrase_of_a_relation_has_all_its_objects():
    relations = [{"phrase": "tables and chairs", "object_ids": [1, 2]}]
    objects = [thing(1, "table"), thing(2, "chair")]
    assert grounded("Many tables and chairs are outside.", objects, relations) == [("tables and chairs", (1, 2))]


def test_three_quarters_of_the_words_are_enough():
    objects = [thing(0, "x", "the old dark big shirt")]
    assert grounded("big dark red shirt", objects) == [("big dark red shirt", (0,))]
    assert grounded("dark red shirt", objects) == []


def test_words_in_common_are_not_enough():
    objects = [
        thing(0, "street", "a narrow street in front of colorful buildings"),
        thing(1, "person", "a man in red"),
    ]
    assert grounded("There are colorful buildings.", objects) == []
    assert grounded("There is a narrow street and a red man.", objects) == [
        ("a narrow street", (0,)),
        ("a red man", (1,)),
    ]


def test_a_noun_is_tied_to_the_only_object_of_its_label():
    assert grounded("There is a signboard.", [thing(7, "signboard"), thing(8, "chair")]) == [("a signboard", (7,))]


def test_of_two_objects_the_one_around_the_other():
    inner, outer = thing(0, "table", box=(2, 2, 5, 5)), thing(1, "table", box=(0, 0, 9, 9))
    assert grounded("A table is there.", [inner, outer]) == [("A table", (1,))]
    apart = thing(2, "table", box=(20, 20, 30, 30))
    assert grounded("A table is there.", [inner, apart]) == []


def test_a_plural_has_all_objects_of_its_label():
    assert grounded("Chairs stand there.", [thing(0, "chair"), thing(3, "chair")]) == [("Chairs", (0, 3))]


def test_a_noun_in_several_descriptions_says_nothing():
    apart = (50, 50, 60, 60)
    objects = [thing(0, "person", "a man in a hat"), thing(1, "person", "a man on a bench", apart)]
    assert grounded("A man is there.", objects) == []


def test_phrases_do_not_overlap():
    objects = [thing(0, "dog", "a brown dog"), thing(1, "dog", "dog on a rug")]
    found = grounded_caption("A brown dog on a rug.", objects, [])
    assert all(first.end <= second.start for first, second in pairwise(found))
    assert found[0].ids == (1,)  # the longest


def test_ids_that_are_gone_are_not_named():
    assert grounded("a dog runs", [thing(0, "cat")], [{"phrase": "a dog", "object_ids": [9]}]) == []


def test_a_checklist_is_held_against_labels_attributes_phrases_and_the_landmark():
    objects = [thing(0, "wine_glass", "a glass on a white tablecloth")]
    relations = [{"phrase": "a narrow street", "object_ids": [0]}]
    landmark = {"category": "Outdoor scene", "fine_category": "Urban landscape"}
    there = ["glasses", "the tablecloth", "a street", "an urban landscape"]
    assert missing_objects([*there, "a dog", "two lamps"], objects, relations, landmark) == ["a dog", "two lamps"]


def test_people_are_persons():
    assert missing_objects(["a girl", "people"], [thing(0, "person")], []) == []
    assert missing_objects(["a girl"], [thing(0, "dog")], []) == ["a girl"]


def test_what_is_not_a_thing_is_not_missing():
    assert missing_objects(["the", ""], [], []) == []
