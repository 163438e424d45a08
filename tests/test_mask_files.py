"""Masks in image files."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from transformers_groma.mask_files import mask_of_image, read_mask_file

MASK = np.zeros((20, 30), bool)
MASK[5:12, 10:28] = True
BYTES = Image.fromarray(MASK.astype(np.uint8) * 255)
RED = Image.fromarray(np.where(MASK[..., None], [200, 0, 0], 0).astype(np.uint8))


def palette(*colours):
    image = Image.fromarray(MASK.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def transparent():
    image = Image.new("RGBA", (30, 20), (9, 9, 9, 0))
    ImageDraw.Draw(image).rectangle((10, 5, 27, 11), fill=(0, 128, 0, 255))
    return image


@pytest.mark.parametrize(
    "image",
    [
        *[
            BYTES,
            BYTES.convert("1"),
            Image.fromarray(MASK),
            Image.fromarray(MASK.astype(np.uint8)),
            BYTES.convert("RGB"),
        ],
        *[RED, RED.convert("RGBA"), transparent(), palette((0, 0, 0), (128, 0, 0)), BYTES.convert("LA")],
        *[Image.fromarray(MASK.astype(np.uint16)), Image.fromarray(MASK.astype(np.int32) * 40_000)],
        *[Image.fromarray(MASK.astype(np.float32)), BYTES.convert("CMYK").convert("RGB")],
    ],
    ids=lambda image: image.mode,
)
@pytest.mark.parametrize("is_file", [False, True])
def test_masks_of_every_mode(image, is_file, tmp_path):
    if is_file:
        path = tmp_path / ("mask.tiff" if image.mode == "F" else "mask.png")
        image.save(path)
        found = read_mask_file(path)
        np.testing.assert_array_equal(read_mask_file(str(path)), found)
    else:
        found = mask_of_image(image)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, MASK)


def test_masks_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    BYTES.save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(read_mask_file(tmp_path / "mask.png"), np.rot90(MASK, -1))


def test_masks_of_one_colour():
    assert not mask_of_image(Image.new("L", (4, 3))).any()
    assert mask_of_image(Image.new("RGB", (4, 3), "white")).all()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (BYTES.resize((60, 40), Image.Resampling.BILINEAR), r"`--mask` has \d+ colours, but a mask is black and one"),
        (Image.fromarray(MASK.astype(np.uint8) + np.eye(20, 30, dtype=np.uint8) * 4), "`--mask` has 4 colours"),
        (Image.fromarray(np.where(MASK, 255, 100).astype(np.uint8)), "two colours, and neither is black"),
        (Image.fromarray(np.where(MASK[..., None], [255, 0, 0], [255] * 3).astype(np.uint8)), "neither is black"),
        (palette((255, 255, 255), (128, 0, 0)), "neither is black"),
    ],
)
def test_what_is_not_a_mask_is_named(image, words):
    with pytest.raises(ValueError, match=words):
        mask_of_image(image, "--mask")


def test_files_that_cannot_be_read(tmp_path):
    for name, content in (("text.png", b"no image"), ("empty.png", b""), ("cut.png", None)):
        if content is None:
            BYTES.save(tmp_path / name)
            content = (tmp_path / name).read_bytes()[:60]
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"`mask` cannot be read as an image file: .*{name}"):
            read_mask_file(tmp_path / name)
    with pytest.raises(ValueError, match="`mask` cannot be read as an image file: .*missing.png"):
        read_mask_file(tmp_path / "missing.png")
