"""Numbered markers on the regions of an image."""

import pytest
from PIL import Image

from processing.groma_instruct.markers import draw_markers, place_plates

from ..samples import write_jpeg
from .samples import PHOTO


def overlaps(first: tuple, second: tuple) -> bool:
    return max(first[0], second[0]) < min(first[2], second[2]) and max(first[1], second[1]) < min(first[3], second[3])


def test_plates_at_the_centres():
    boxes = [[0, 0, 40, 20], [60, 60, 100, 100]]
    assert place_plates(boxes, [(10, 8), (12, 8)], (100, 100)) == [(15, 6, 25, 14), (74, 76, 86, 84)]
    # At the edge they are pushed into the image.
    assert place_plates([[0, 0, 4, 4]], [(10, 8)], (100, 100)) == [(0, 0, 10, 8)]


def test_plates_that_collide_move_apart():
    """Ten boxes around one centre and one elsewhere: the smallest keeps the centre, all stay in their boxes."""
    boxes = [[300 - 20 * n, 200 - 15 * n, 300 + 20 * n, 200 + 15 * n] for n in range(10, 0, -1)]
    boxes.append([310, 10, 340, 40])
    plates = place_plates(boxes, [(24, 20)] * 11, (640, 480))
    assert plates[9] == (288, 190, 312, 210)
    assert plates[10] == (313, 15, 337, 35)
    for index, (plate, box) in enumerate(zip(plates, boxes, strict=True)):
        assert plate[0] >= 0 and plate[1] >= 0 and plate[2] <= 640 and plate[3] <= 480
        assert not any(overlaps(plate, other) for other in plates[:index])
        if index < 8:  # the two smallest boxes have no room for two plates
            assert overlaps(plate, tuple(box))


def test_more_plates_than_room():
    plates = place_plates([[0, 0, 20, 20]] * 12, [(12, 10)] * 12, (20, 20))
    assert len(plates) == 12
    assert all(plate[0] >= 0 and plate[1] >= 0 and plate[2] <= 20 and plate[3] <= 20 for plate in plates)


@pytest.mark.parametrize("background", ["black", "white", "gray", "red"])
def test_markers_are_readable_on_any_background(background):
    image = Image.new("RGB", (640, 480), background)
    marked = draw_markers(image, [[100, 100, 300, 300]])
    assert image.getpixel((200, 200)) == Image.new("RGB", (1, 1), background).getpixel((0, 0)), (
        "the image is not changed"
    )
    colors = {color: count for count, color in marked.crop((185, 185, 216, 216)).getcolors(maxcolors=1000)}
    assert colors[0, 0, 0] > 150 and colors[255, 255, 255] > 60
    # A white rim and a black line around the plate.
    row = [marked.getpixel((x, 200)) for x in range(180, 200)]
    rim = row.index((255, 255, 255), 1 if background == "white" else 0)
    assert (0, 0, 0) in row[rim:] or (0, 0, 0) in row[:rim]


def test_markers_on_turned_images(tmp_path):
    """Boxes are those of the upright image."""
    turned = Image.open(write_jpeg(tmp_path / "turned.jpg", 200, 100, orientation=6))
    marked = draw_markers(turned, [[0, 100, 100, 200]])
    assert marked.size == (100, 200)
    assert marked.getpixel((44, 150)) == (0, 0, 0)
    with pytest.raises(ValueError, match=r"boxes\[0\].*outside of the 100x200"):
        draw_markers(turned, [[100, 0, 200, 100]])


def test_markers_on_a_photo():
    with Image.open(PHOTO) as photo:
        boxes = [[30, 212, 372, 585], [345, 10, 750, 600], [410, 80, 600, 290], [0, 0, 800, 601]]
        marked = draw_markers(photo, boxes)
        assert marked.size == photo.size
        for x1, y1, x2, y2 in boxes[:3]:
            assert marked.getpixel((round((x1 + x2) / 2) - 11, round((y1 + y2) / 2))) == (0, 0, 0)
        assert draw_markers(photo, boxes).tobytes() == marked.tobytes()
