"""Images of the places that decided a label."""

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.colors import palette_color
from transformers_groma.zero_shot.classification import Classification, Explanation, LabelScore
from transformers_groma.zero_shot.classification_drawing import LEAST_SIDE, draw_classification
from transformers_groma.zero_shot.text_features import TextFeatures
from transformers_groma.zero_shot.views import Views

GREY = (120, 120, 120)


def classified(
    boxes=((10, 10, 110, 110), (200, 60, 380, 240), (150, 150, 250, 250)),
    weights=(0.2, 0.7, 0.1),
    descriptions=(("furry", "with whiskers"), ("it has a wet nose",)),
    labels=("cat", "dog"),
) -> Classification:
    """View i looks like description i, and the last one like the last label."""
    texts = [text for of_label in descriptions for text in of_label]
    features = torch.eye(max(len(texts), len(boxes)), dtype=torch.float32)
    of_labels = features[: len(texts)].split([len(of_label) for of_label in descriptions])
    uniform = tuple(torch.full((len(of_label),), 1 / len(of_label)) for of_label in descriptions)
    explanation = Explanation(
        Views.of_kind(torch.tensor(boxes), "region"),
        torch.tensor(weights),
        features[: len(boxes)],
        TextFeatures(labels, tuple(descriptions), features[: len(labels)], of_labels, uniform),
        "paper",
    )
    scores = [LabelScore(label, 0.3 - index / 10, 0.9 / (index + 1)) for index, label in enumerate(labels)]
    return Classification(tuple(scores), explanation)


def edges(image: Image.Image, color: tuple[int, int, int]) -> set[tuple[int, int]]:
    """The pixels `(x, y)` of a colour."""
    rows, columns = (np.asarray(image) == color).all(axis=2).nonzero()
    return set(zip(columns.tolist(), rows.tolist(), strict=True))


def test_another_image_than_the_classified_one_is_refused():
    with pytest.raises(
        ValueError, match=r"`image` has 379x400 .*, but the views of the classification reach to 380, 250"
    ):
        draw_classification(Image.new("RGB", (379, 400)), classified())


def test_places_by_weight_each_with_what_it_fits_best():
    places = classified().explanation.places("cat", n=2)
    assert [place.view_xyxy for place in places] == [(200, 60, 380, 240), (10, 10, 110, 110)]
    assert [place.description for place in places] == ["with whiskers", "furry"]
    assert [round(place.weight, 5) for place in places] == [0.7, 0.2]
    assert [round(place.contribution, 5) for place in places] == [0.35, 0.1]
    assert [place.similarity for place in places] == [1.0, 1.0]
    (dog,) = classified().explanation.places("dog", n=1)
    assert (dog.description, dog.similarity, dog.contribution) == ("it has a wet nose", 0.0, 0.0)


def test_to_dict_has_the_places():
    content = classified().to_dict(strongest=1)
    assert content["places"] == [
        {
            "view_xyxy": [200, 60, 380, 240],
            "kind": "region",
            "weight": pytest.approx(0.7),
            "contribution": pytest.approx(0.35),
            "description": "with whiskers",
            "similarity": 1.0,
        }
    ]


def test_each_place_has_its_outline_and_its_line():
    image = Image.new("RGB", (500, 400), GREY)
    drawn = classified().draw(image)
    assert drawn.width == 500 and drawn.height > 480 and image.getpixel((200, 150)) == GREY
    for number, (x1, _, x2, y2) in enumerate([(200, 60, 380, 240), (10, 10, 110, 110), (150, 150, 250, 250)]):
        found = edges(drawn, palette_color(number))
        lines = {(x, y) for x, y in found if y < 400}
        assert {min(x for x, _ in lines), max(x for x, _ in lines)} <= {*range(x1, x1 + 3), *range(x2 - 4, x2 + 1)}
        assert max(y for _, y in lines) in range(y2 - 4, y2 + 30)  # a label may stand below
        assert any(y > 400 for _, y in found)  # underlined in the strip
    # What is inside stays as it is, so that the image can be judged.
    assert drawn.getpixel((300, 200)) == GREY


def test_fewer_places_are_drawn_if_asked_for():
    image = Image.new("RGB", (500, 400), GREY)
    drawn = draw_classification(image, classified(), places=1)
    assert edges(drawn, palette_color(0)) and not edges(drawn, palette_color(1))
    assert drawn.height < classified().draw(image).height


def test_small_images_are_enlarged():
    result = classified(boxes=((2, 2, 10, 10), (16, 8, 30, 22)), weights=(0.4, 0.6))
    drawn = result.draw(Image.new("L", (32, 24), 120))
    assert drawn.width == 14 * 32 >= LEAST_SIDE and drawn.mode == "RGB"
    columns = {x for x, y in edges(drawn, palette_color(0)) if 150 < y < 250}
    assert min(columns) in range(16 * 14, 16 * 14 + 4) and max(columns) in range(30 * 14 - 4, 30 * 14 + 1)


@pytest.mark.parametrize("size", [(3000, 2000), (1200, 60), (20, 900)])
def test_long_texts_and_odd_sizes(size):
    """One label, and a text that would fill a page."""
    box = (0, 0, min(size), min(size))
    long = "a very long description of many words " * 60
    result = classified(((box),) * 2, (0.5, 0.5), ((long, "short\nlines"),), ("label " * 80,))
    drawn = result.draw(Image.new("RGB", size, GREY))
    assert drawn.width >= size[0] and drawn.height > size[1]
    assert edges(drawn, palette_color(0)) and edges(drawn, palette_color(1))  # one inside of the other


def test_any_label_can_be_explained():
    image = Image.new("RGB", (500, 400), GREY)
    assert classified().draw(image, "dog").tobytes() != classified().draw(image).tobytes()
    with pytest.raises(ValueError, match="'fish' is not one of"):
        classified().draw(image, "fish")


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="`explain=True`"):
        Classification(classified().scores).draw(Image.new("RGB", (9, 9)))
    with pytest.raises(ValueError, match="`image` must be a PIL image"):
        classified().draw(np.zeros((9, 9, 3)))


def test_a_small_weight_does_not_look_like_none():
    image = Image.new("RGB", (500, 400), GREY)
    weights = [(0.996, 0.004, 0.0), (0.996, 0.003, 0.0), (1.0, 0.0, 0.0)]
    little, less, none = (classified(weights=one).draw(image).tobytes() for one in weights)
    assert little == less != none
