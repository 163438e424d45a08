"""Image files of a dataset: kept inside their folder, decoded to the end, turned as EXIF says."""

import io
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from datasets import Image as ImageFeature
from PIL import Image, ImageOps

from transformers_groma.data.image_files import (
    check_size,
    exif_orientation,
    image_candidates,
    image_path,
    orientation_of_boxes,
    read_image_bytes,
    stored_size,
    turned_boxes,
    upright_size,
)
from transformers_groma.data.left_out import SkipRecord

PHOTO = Path(__file__).parents[1] / "fixtures" / "photos" / "cat_and_dog.jpg"
TELLS_NOTHING = "pass `--boxes-of upright` or `--boxes-of stored`"


def image_file(width: int, height: int, orientation: int = 1, box: list[int] | None = None) -> bytes:
    """A black PNG, a white box in it."""
    pixels = np.zeros((height, width, 3), np.uint8)
    if box is not None:
        pixels[box[1] : box[3], box[0] : box[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------- reading


def test_images_are_checked_to_their_end(tmp_path):
    assert read_image_bytes(PHOTO) == PHOTO.read_bytes()
    half = tmp_path / "half.jpg"
    half.write_bytes(PHOTO.read_bytes()[: PHOTO.stat().st_size // 2])
    text = tmp_path / "text.jpg"
    text.write_text("404")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    broken = tmp_path / "broken.png"
    Image.radial_gradient("L").save(broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    for path, reason in [
        (half, "broken image"),
        (broken, "broken image"),
        (text, "not an image"),
        (empty, "empty image file"),
        (PHOTO / "beneath", "missing image"),
        (tmp_path / "nothing.jpg", "missing image"),
    ]:
        with pytest.raises(SkipRecord, match=f"^{reason}$"):
            read_image_bytes(path)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_upright_image(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / f"a.{ending}", exif=exif)
    content = read_image_bytes(tmp_path / f"a.{ending}")
    assert exif_orientation(content) == orientation
    assert stored_size(content) == (30, 20)
    size = (30, 20) if orientation <= 4 else (20, 30)
    assert upright_size(content) == size
    check_size(content, *size)
    with pytest.raises(SkipRecord, match=f": {size[0]}x{size[1]}, annotated {size[1]}x{size[0]}"):
        check_size(content, size[1], size[0])


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (7, 7), (8, 8), (1, 1)])
def test_narrow_images_are_read(tmp_path, size):
    """JPEGs are decoded at an eighth of their size, which is less than a pixel here."""
    Image.new("RGB", size).save(tmp_path / "a.jpg")
    assert read_image_bytes(tmp_path / "a.jpg") == (tmp_path / "a.jpg").read_bytes()


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "link to a fifo"])
def test_only_regular_files_are_images(tmp_path, kind):
    path = tmp_path / "a.jpg"
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "folder":
            path.mkdir()
        elif kind == "socket":
            server.bind(str(path))
        else:
            os.mkfifo(tmp_path / "fifo")
            path.symlink_to("fifo") if kind.startswith("link") else os.mkfifo(path)
        errors = []

        def read() -> None:
            try:
                read_image_bytes(path)
            except SkipRecord as error:
                errors.append(error)

        # Opening a FIFO waits for somebody who writes into it.
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(timeout=10)
    assert [error.reason for error in errors] == [
        "not a regular file: a folder, FIFO, socket or device is not an image"
    ]


def test_images_have_a_limited_number_of_pixels(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(image_file(40, 30))
    monkeypatch.setattr("transformers_groma.images.MAX_IMAGE_PIXELS", 1200)
    assert read_image_bytes(tmp_path / "a.png")
    monkeypatch.setattr("transformers_groma.images.MAX_IMAGE_PIXELS", 1199)
    with pytest.raises(SkipRecord, match="image has too many pixels: 40x30"):
        read_image_bytes(tmp_path / "a.png")


def test_devices_are_not_images():
    with pytest.raises(SkipRecord, match="not a regular file"):
        read_image_bytes("/dev/null")


# --------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../a.jpg", "leaves its folder"),
        ("b/../../a.jpg", "leaves its folder"),
        ("b\\..\\..\\a.jpg", "leaves its folder"),
        ("..", "leaves its folder"),
        ("/etc/a.jpg", "is absolute"),
        ("\\\\server\\a.jpg", "is absolute"),
        ("C:\\photos\\a.jpg", "is absolute"),
        ("c:/photos/a.jpg", "is absolute"),
        ("https://example.org/a.jpg", "is a URL"),
        ("file:///etc/a.jpg", "is a URL"),
        ("a\0.jpg", "NUL"),
        ("\ud800.jpg", "half a character"),
        ("", "without a file name"),
        (" ", "without a file name"),
        (".", "without a file name"),
        (None, "without a file name"),
        (7, "without a file name"),
        (["a.jpg"], "without a file name"),
    ],
)
def test_names_that_are_not_of_the_folder(tmp_path, name, reason):
    with pytest.raises(SkipRecord, match=reason):
        image_candidates(tmp_path, name)


def test_names_of_the_folder(tmp_path):
    for name in ("a.jpg", "b/a.jpg", "./b//a.jpg", "a..jpg", "b:a.jpg", "..a.jpg"):
        assert image_candidates(tmp_path, name) == [tmp_path / name]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.jpg").touch()
    assert image_path(tmp_path, "b\\a.jpg") == tmp_path / "b" / "a.jpg"
    (tmp_path / "b\\a.jpg").touch()
    assert image_path(tmp_path, "b\\a.jpg") == tmp_path / "b\\a.jpg", "a file of that very name"


def test_names_are_the_same_however_their_accents_are_written(tmp_path):
    one, two = "caf\u00e9.jpg", "cafe\u0301.jpg"
    for there, asked in ((one, two), (two, one)):
        folder = tmp_path / str(len(there))
        folder.mkdir()
        (folder / there).touch()
        assert image_path(folder, asked) == folder / there
    (folder / one).touch()
    assert [image_path(folder, name) for name in (one, two)] == [folder / one, folder / two], (
        "files of those very names"
    )


def test_links_may_stay_in_the_folder_but_not_leave_it(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").touch()
    (tmp_path / "secret.jpg").touch()
    (photos / "inside.jpg").symlink_to("a.jpg")
    (photos / "out.jpg").symlink_to("../secret.jpg")
    (photos / "up").symlink_to(tmp_path, target_is_directory=True)
    (photos / "loop.jpg").symlink_to("loop.jpg")
    assert image_path(photos, "inside.jpg").exists()
    assert not image_path(photos, "loop.jpg").exists()
    for name in ("out.jpg", "up/secret.jpg"):
        with pytest.raises(SkipRecord, match="link that leads out of the folder"):
            image_path(photos, name)
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    assert image_path(tmp_path / "link", "a.jpg").exists(), "the folder itself may be a link"
    assert not image_path(photos, "missing.jpg").exists()


# ---------------------------------------------------------------------------------------------------------------- EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_image(orientation):
    """The white box of the stored image is where `turned_boxes` says, in what a viewer and `datasets` show."""
    box = [5, 2, 25, 8]
    content = image_file(40, 30, orientation, box)
    [turned] = turned_boxes([box], orientation, 40, 30)
    shown = [ImageOps.exif_transpose(Image.open(io.BytesIO(content)))]
    shown.append(ImageFeature().decode_example({"bytes": content, "path": None}))
    for image in shown:
        assert image.size == upright_size(content)
        assert list(Image.fromarray(np.asarray(image)).convert("L").getbbox()) == turned


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("boxes_of", ["upright", "stored", None])
@pytest.mark.parametrize("annotated", ["upright", "stored", "unknown"])
def test_the_annotated_size_tells_which_pixels_boxes_were_drawn_on(orientation, boxes_of, annotated):
    content = image_file(40, 30, orientation)
    sizes = {"stored": (40, 30), "upright": (30, 40) if orientation > 4 else (40, 30), "unknown": None}
    swaps, size = orientation > 4, sizes[annotated]
    if swaps and boxes_of is not None and annotated not in ("unknown", boxes_of):
        with pytest.raises(SkipRecord, match=f"pass `--boxes-of {annotated}`"):
            orientation_of_boxes(content, size, boxes_of)
    elif boxes_of is not None:
        assert orientation_of_boxes(content, size, boxes_of) == (orientation if boxes_of == "stored" else 1)
    elif orientation == 1:
        assert orientation_of_boxes(content, size) == 1
    elif not swaps or size is None:
        with pytest.raises(SkipRecord, match=TELLS_NOTHING):
            orientation_of_boxes(content, size)
    else:
        assert orientation_of_boxes(content, size) == (orientation if annotated == "stored" else 1)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_size_of_a_square_image_tells_nothing(orientation):
    content = image_file(30, 30, orientation)
    with pytest.raises(SkipRecord, match=TELLS_NOTHING) as error:
        orientation_of_boxes(content, (30, 30))
    assert error.value.detail == f"EXIF orientation {orientation}"
    assert orientation_of_boxes(content, (30, 30), "stored") == orientation
    assert orientation_of_boxes(content, (30, 30), "upright") == 1


def test_another_size_than_annotated():
    for orientation in (1, 6):
        for boxes_of in (None, "stored", "upright"):
            with pytest.raises(SkipRecord, match="another size than annotated"):
                orientation_of_boxes(image_file(40, 30, orientation), (40, 31), boxes_of)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_what_is_not_an_orientation_turns_nothing(orientation):
    content = image_file(40, 30, orientation)
    assert exif_orientation(content) == 1 and upright_size(content) == (40, 30)
    assert orientation_of_boxes(content, (40, 30)) == 1
