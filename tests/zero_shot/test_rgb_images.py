"""Images in any form as RGB, and seeds that follow from their pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.image_inputs import ImageSize
from transformers_groma.zero_shot.rgb_images import read_rgb, seed_of_image

PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS.astype(np.float32) / 255,
        PIXELS.astype(np.uint16) * 257,
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1)[None],
        np.concatenate([PIXELS, np.full((5, 7, 1), 255, np.uint8)], axis=2),
    ],
    ids=["PIL", "array", "channels first", "floats", "16 bits", "tensor", "batch of one", "opaque"],
)
def test_every_form_has_the_same_pixels(image):
    assert np.array_equal(np.asarray(read_rgb(image)), PIXELS)


def test_grey_arrays_have_three_equal_channels_and_transparency_is_white():
    for grey in (PIXELS[..., 0], PIXELS[..., :1], PIXELS[None, ..., 0]):
        assert np.array_equal(np.asarray(read_rgb(grey)), np.repeat(PIXELS[..., :1], 3, axis=2))
    clear = read_rgb(np.zeros((5, 7, 4), np.uint8))
    assert clear.mode == "RGB" and clear.getpixel((0, 0)) == (255, 255, 255)


def test_a_size_without_pixels_is_refused():
    with pytest.raises(ValueError, match="Image 3 is a size without pixels"):
        read_rgb(ImageSize(height=4, width=6), "Image 3")


def test_seeds_follow_from_pixels_and_shape():
    image = Image.fromarray(PIXELS)
    assert seed_of_image(image, 0) == seed_of_image(image.copy(), 0)
    changed = PIXELS.copy()
    changed[4, 6, 2] ^= 1
    others = [Image.fromarray(changed), Image.fromarray(PIXELS.reshape(7, 5, 3))]
    seeds = {seed_of_image(one, seed) for one in (image, *others) for seed in (0, 1)}
    assert len(seeds) == 6
