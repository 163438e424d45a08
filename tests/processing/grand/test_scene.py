"""The scene graph as text: layers by depth, groups by distance."""

from processing.grand.scene import MAX_OBJECTS, grouped, layers_of, most_important, scene_text


def thing(number, label="dog", layer="Foreground", box=(0, 0, 10, 10), attributes=()):
    return {"id": number, "bbox": list(box), "label": label, "layer": layer, "attributes": list(attributes)}


def test_layers_begin_where_grand_has_them():
    # Normalized: 0, .099, .1, .599, .6, .849, .85, 1.
    depths = [1000.0, 901.0, 900.0, 401.0, 400.0, 151.0, 150.0, 0.0]
    names = ["Immediate Foreground"] * 2 + ["Foreground"] * 2 + ["Midground"] * 2 + ["Background"] * 2
    assert layers_of(depths) == names


def test_a_single_depth_is_the_foreground():
    assert layers_of([5.0]) == layers_of([5.0, 5.0])[:1] == ["Foreground"]
    assert layers_of([]) == [] and layers_of([None]) == [None]


def test_neighbours_are_within_200_of_2250_pixels():
    first, near, far = (thing(number, box=(x, 0, x + 2, 2)) for number, x in enumerate((0, 199, 201)))
    assert [[each["id"] for each in group] for _, group in grouped([first, near, far], (2250, 1500))] == [[0, 1], [2]]


def test_layers_have_groups_of_their_own_from_near_to_far():
    groups = grouped([thing(0, layer="Background"), thing(1), thing(2, layer=None)], (100, 100))
    assert [(layer, group[0]["id"]) for layer, group in groups] == [("Foreground", 1), ("Background", 0), (None, 2)]


def test_objects_with_attributes_are_kept_first():
    objects = [thing(number) for number in range(MAX_OBJECTS)] + [thing(500, attributes=["a brown dog"])]
    kept = most_important(objects)
    assert len(kept) == MAX_OBJECTS and kept[0]["id"] == 500 and kept[-1]["id"] == MAX_OBJECTS - 2


def test_the_text_has_what_there_is():
    landmark = {"category": "Indoor scene", "fine_category": "Work space"}
    relations = [{"phrase": "dogs", "object_ids": [0, 1, 99]}, {"phrase": "a ghost", "object_ids": [99]}]
    objects = [thing(0, "hot_dog"), thing(1, "dog", "Background", attributes=["a brown dog", "another"])]
    assert scene_text(objects, ["Dogs."], relations, landmark, (100, 100)).splitlines() == [
        *("Foreground:", "Group 0: hot dog", "Background:", "Group 1: dog (a brown dog)", ""),
        *("Short captions:", "Dogs.", "", "Relationships:", "dogs: groups 0, 1", ""),
        *("Landmark:", "Indoor scene, Work space"),
    ]
    assert scene_text([], [], [], {"category": "", "fine_category": ""}, (100, 100)) == ""
