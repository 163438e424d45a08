"""The diagrams of the documentation are those that the script draws."""

from xml.etree import ElementTree

import pytest

from scripts.draw_diagrams import DIAGRAMS, IMAGES, WIDTH

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", DIAGRAMS)
def test_files_are_up_to_date(name):
    assert (IMAGES / name).read_text(encoding="utf-8") == DIAGRAMS[name]().svg(), (
        "run `python -m scripts.draw_diagrams`"
    )


@pytest.mark.parametrize("name", DIAGRAMS)
def test_nothing_leaves_the_drawing_and_every_text_has_a_background(name):
    root = ElementTree.fromstring(DIAGRAMS[name]().svg())
    boxes = [[float(box.get(key)) for key in ("x", "y", "width", "height")] for box in root.iter(f"{SVG}rect")]
    height = float(root.get("height"))
    assert all(x >= 0 and y >= 0 and x + w <= WIDTH and y + h <= height for x, y, w, h in boxes)
    for text in root.iter(f"{SVG}text"):
        x, y, size = (float(text.get(key)) for key in ("x", "y", "font-size"))
        half = 0.29 * size * len(text.text)  # letters are about 0.58 of their height wide
        inside = [b for b in boxes if b[0] <= x - half and x + half <= b[0] + b[2] and b[1] < y < b[1] + b[3]]
        assert inside, text.text
    assert root.find(f"{SVG}title").text
