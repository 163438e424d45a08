"""Images as callers pass them: read, upright, 8 bits, and named in errors."""

import dataclasses
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.image_inputs import ImageSize, image_size, read_upright, shortened, to_rgb, to_upright_8_bit

IMAGE = Image.new("RGB", (40, 20))


def test_sizes_of_images():
    assert image_size(IMAGE) == (20, 40)
    for channels in (1, 3, 4):
        assert image_size(np.zeros((channels, 20, 40))) == (20, 40)
        assert image_size(np.zeros((20, 40, channels))) == (20, 40)
    assert image_size(np.zeros((3, 20, 3)), channels="channels_last") == (3, 20)
    assert image_size(np.zeros((3, 20, 3)), channels="channels_first") == (20, 3)


def test_a_size_stands_for_an_image():
    size = ImageSize(height=20, width=40)
    assert read_upright(size) is size and image_size(size) == (20, 40)
    assert size == ImageSize(20, 40) != ImageSize(40, 20) and size != (20, 40)
    assert len({size, ImageSize(20, 40)}) == 1 and pickle.loads(pickle.dumps(size)) == size
    with pytest.raises(AttributeError):
        size.height = 9
    # transformers 5.24 turns dataclasses and whatever dumps itself in messages into dicts.
    assert not dataclasses.is_dataclass(size) and not hasattr(size, "model_dump")


def test_the_smallest_image():
    for size in ((2, 2), (2, 50), (50, 2)):
        assert image_size(Image.new("RGB", size)) == size[::-1]
    for size in ((1, 50), (50, 1), (1, 1)):
        with pytest.raises(ValueError, match=f"^sample 4 has {size[0]}x{size[1]} .* at least 2x2 pixels"):
            image_size(Image.new("RGB", size), "sample 4")


def test_arrays_without_channels_get_one():
    assert read_upright(np.zeros((5, 6), np.uint8)).shape == (1, 5, 6)
    assert read_upright(torch.zeros(5, 6)).shape == (1, 5, 6)
    assert read_upright(np.zeros((5, 6, 3), np.uint8)).shape == (5, 6, 3)
    assert read_upright(IMAGE).size == (40, 20)


def test_files_and_arrays_are_turned_upright_and_brought_to_8_bits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("I;16", (40, 20), 65535).save(tmp_path / "a.png", exif=exif)
    image = read_upright(tmp_path / "a.png")
    assert image.size == (20, 40) and image.mode == "L" and image.getpixel((0, 0)) == 255
    assert read_upright(np.full((5, 6, 3), 65535, np.uint16)).max() == 255
    floats = np.full((5, 6, 3), 0.5)
    assert read_upright(floats) is floats  # the image processor knows whether they are to be rescaled


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (__file__, "cannot be read as an image file, URL or base64 text: '.*test_image_inputs.py' "),
        ("no/such/file.png", "cannot be read as an image file, URL or base64 text"),
        (5, "is not an image: 5"),
        (np.full((5, 6, 3), 2.0), ", an array of float64, must have values from 0 to 1"),
        (np.zeros((20_000, 20_000), bool), "cannot be read: 20000x20000"),
    ],
)
def test_errors_name_the_image(image, message):
    for name in ("it", "`images` of sample 3"):
        with pytest.raises(ValueError, match=f"^{name}[ ,]*{message.lstrip(', ')}"):
            read_upright(image, name)


def test_an_array_that_is_not_an_image_is_named():
    with pytest.raises(ValueError, match=r"^it is an array of shape \(5, 6, 7\)"):
        image_size(np.zeros((5, 6, 7)), "it")


def test_an_rgb_image_with_a_transparent_colour_becomes_white_there():
    image = Image.new("RGB", (4, 4), (0, 0, 255))
    assert to_rgb(image).tobytes() == image.tobytes()
    png = io.BytesIO()
    image.save(png, "PNG", transparency=(0, 0, 255))
    assert to_rgb(Image.open(png)).getpixel((1, 1)) == (255, 255, 255)
    assert to_rgb(Image.new("L", (4, 4), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_images_of_16_bits_keep_their_shades_in_rgb():
    """`Image.convert` would make all but the darkest 255 shades white."""
    for mode in ("I;16", "I"):
        for value, shade in ((256, 0), (257, 1), (32767, 127), (257 * 100, 100), (65535, 255)):
            assert to_rgb(Image.new(mode, (4, 4), value)).getpixel((0, 0)) == (shade,) * 3
    assert to_rgb(Image.new("F", (4, 4), 1.0)).getpixel((0, 0)) == (255, 255, 255)


def test_long_values_are_cut_in_messages():
    assert shortened("x" * 98) == repr("x" * 98)  # 100 characters with its quotes
    assert shortened("x" * 99) == repr("x" * 99)[:100] + "…"
    assert shortened(ValueError("no")) == "no"
    assert "\n" not in shortened(np.ones((90, 90))) and shortened("a\nb") == r"'a\nb'"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]]), [[0, 7, 255]]),
        (np.array([[True, False]]), [[255, 0]]),
        (np.array([[256, 257, 65535]], np.uint16), [[0, 1, 255]]),
        (np.array([[0.0, 0.5, 1.0]]), [[0, 128, 255]]),
        (np.array([[-0.0009, 1.0009]], np.float32), [[0, 255]]),  # resizing leaves floats a little outside
        (torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.bfloat16), [[0, 128, 255]]),
        (torch.tensor([[0, 7, 255]]), [[0, 7, 255]]),
        (torch.tensor([[True, False]]), [[255, 0]]),
        (np.zeros((0, 4)), []),
    ],
)
def test_the_type_of_values_tells_their_scale(values, expected):
    before = values.copy() if isinstance(values, np.ndarray) else values.clone()
    found = to_upright_8_bit(values)
    assert type(found) is type(values) and found.dtype in (np.uint8, torch.uint8)
    assert found.tolist() == expected and (values == before).all()  # not changed


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.array([[256]]), "an array of int64, must have values from 0 to 255, got 256 to 256"),
        (torch.tensor([[-1]]), "a tensor of int64, must have values from 0 to 255, got -1 to -1"),
        (np.array([[1.0011]]), "an array of float64, must have values from 0 to 1, got 1.0011"),
        (np.array([[-0.0011]]), "must have values from 0 to 1, got -0.0011"),
        (torch.tensor([[0.5, torch.nan, torch.inf]]), "a tensor of float32, has 2 values that are NaN or infinite"),
        (np.array([["red"]]), "is not made of numbers"),
        (Image.new("I", (2, 2), 65536), "a PIL image of mode 'I', must have values from 0 to 65535, got 65536"),
        (Image.new("I", (2, 2), -1), "must have values from 0 to 65535, got -1"),
        (Image.new("F", (2, 2), 1.5), "a PIL image of mode 'F', must have values from 0 to 1, got 1.5"),
    ],
)
def test_values_outside_of_their_scale_are_named(image, message):
    with pytest.raises(ValueError, match=f"^it, .*{message}"):
        to_upright_8_bit(image, name="it")
    if isinstance(image, np.ndarray) and image.dtype == float:
        with pytest.raises(ValueError, match=message):  # they are looked at even if they are kept
            to_upright_8_bit(image, keep_floats=True)
