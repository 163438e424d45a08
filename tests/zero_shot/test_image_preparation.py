"""Images are prepared exactly as by the image processor, fast where that is possible, and in calls that fit a CPU."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    EfficientNetImageProcessor,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
)

from transformers_groma.zero_shot.dual_encoder import CPU_IMAGES
from transformers_groma.zero_shot.image_preparation import Crop, ImagePreparation

SQUARE = {"height": 32, "width": 32}
EDGE = {"shortest_edge": 32}
# Image processors, and whether square images and others are prepared without calling them.
PROCESSORS = {
    "clip": (lambda: CLIPImageProcessor(size=EDGE, crop_size=SQUARE), True, False),
    "siglip": (lambda: SiglipImageProcessor(size={"height": 24, "width": 40}), True, True),
    "vit": (lambda: ViTImageProcessor(size=SQUARE), True, True),
    "clip, other values": (
        lambda: CLIPImageProcessor(
            size=EDGE,
            crop_size=SQUARE,
            resample=2,
            rescale_factor=0.01,
            image_mean=(0.1, 0.2, 0.3),
            image_std=(1, 2, 3),
        ),
        True,
        False,
    ),
    "clip to a square": (lambda: CLIPImageProcessor(size=SQUARE, crop_size=SQUARE), True, True),
    "clip that crops": (
        lambda: CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE),
        False,
        False,
    ),
    "clip that pads": (
        lambda: CLIPImageProcessor(size=EDGE, crop_size=SQUARE, do_pad=True, pad_size={"height": 40, "width": 40}),
        False,
        False,
    ),
    "clip of raw pixels": (lambda: CLIPImageProcessor(size=EDGE, crop_size=SQUARE, do_normalize=False), False, False),
    "align": (lambda: EfficientNetImageProcessor(size=SQUARE, do_center_crop=False), False, False),
    "siglip2": (lambda: Siglip2ImageProcessor(patch_size=8, max_num_patches=16), False, False),
}


def images_of(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Images of random pixels, by width and height."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


SQUARES = images_of((7, 7), (32, 32), (33, 33), (150, 150))
OTHERS = images_of((20, 31), (90, 33), (150, 151))


class Counted:
    """An image processor that counts the images it prepares."""

    def __init__(self, processor):
        self.processor, self.count = processor, 0

    def __call__(self, images, return_tensors):
        self.count += len(images)
        return self.processor(images=images, return_tensors=return_tensors)


@pytest.mark.parametrize(
    "images", [SQUARES, OTHERS, SQUARES[:2] + OTHERS + SQUARES[2:]], ids=["square", "other", "both"]
)
@pytest.mark.parametrize("name", PROCESSORS)
def test_inputs_are_those_of_the_processor_to_the_last_bit(name, images, monkeypatch):
    make, squares_are_fast, others_are_fast = PROCESSORS[name]
    processor = make()
    expected = processor(images=images, return_tensors="pt")
    prepare = ImagePreparation(processor)
    counted = Counted(processor)
    monkeypatch.setattr(prepare, "_by_processor", lambda some: dict(counted(list(some), "pt")))
    found = prepare(images)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].dtype == values.dtype and torch.equal(found[key], values), key
    squares = sum(image.width == image.height for image in images)
    assert counted.count == squares * (not squares_are_fast) + (len(images) - squares) * (not others_are_fast)


def test_a_processor_of_the_callers_own_is_called():
    def double(images, return_tensors):
        return {"pixel_values": torch.full((len(images), 3, 2, 2), 2.0), "names": ["no tensor"] * len(images)}

    inputs = ImagePreparation(double)(SQUARES)
    assert set(inputs) == {"pixel_values"} and inputs["pixel_values"].shape == (4, 3, 2, 2)


def test_a_step_that_a_subclass_changes_is_not_left_out():
    class Inverted(type(CLIPImageProcessor())):
        def rescale(self, image, scale, **kwargs):
            return 1 - super().rescale(image, scale, **kwargs)

    processor = Inverted(size=EDGE, crop_size=SQUARE)
    expected = processor(images=SQUARES, return_tensors="pt")["pixel_values"]
    assert torch.equal(ImagePreparation(processor)(SQUARES)["pixel_values"], expected)


def test_gray_images_are_converted_by_the_processor():
    gray = [image.convert("L") for image in SQUARES]
    processor = CLIPImageProcessor(size=EDGE, crop_size=SQUARE)
    expected = processor(images=gray, return_tensors="pt")["pixel_values"]
    assert torch.equal(ImagePreparation(processor)(gray)["pixel_values"], expected)


def test_a_cpu_gets_few_images_in_a_call_and_the_features_are_the_same(first_case, monkeypatch):
    encoder = first_case.encoder
    images = images_of(*((20 + number % 7, 24) for number in range(CPU_IMAGES + 3)))
    alone = torch.cat([encoder.encode_images([image]) for image in images])
    sizes = []
    features = encoder.model.get_image_features

    def counted(pixel_values, **others):
        sizes.append(len(pixel_values))
        return features(pixel_values, **others)

    monkeypatch.setattr(encoder.model, "get_image_features", counted)
    monkeypatch.setattr(encoder, "batch_size", 2 * CPU_IMAGES)
    torch.testing.assert_close(encoder.encode_images(images), alone, atol=1e-6, rtol=0)
    monkeypatch.setattr(encoder, "batch_size", 5)
    encoder.encode_images(images[:7])
    assert sizes == [CPU_IMAGES, 3, 5, 2]


def test_views_of_a_large_image_are_cut_out_one_at_a_time(first_case, monkeypatch):
    parts: list[weakref.ref] = []
    most = 0
    crop = Image.Image.crop

    def watched(image, box):
        nonlocal most
        part = crop(image, box)
        parts.append(weakref.ref(part))
        most = max(most, sum(reference() is not None for reference in parts))
        return part

    image = Image.new("RGB", (90, 60), "red")
    expected = first_case.encoder.encode_images([image.crop((index, 0, index + 40, 40)) for index in range(30)])
    monkeypatch.setattr(Image.Image, "crop", watched)
    found = first_case.encoder.encode_images(Crop(image, (index, 0, index + 40, 40)) for index in range(30))
    assert torch.equal(found, expected)
    assert 1 <= most <= 2


def test_an_error_of_the_processor_is_raised(first_case, monkeypatch):
    def broken(images, return_tensors):
        raise ValueError("no such image")

    monkeypatch.setattr(first_case.encoder, "image_processor", broken)
    with pytest.raises(ValueError, match="no such image"):
        first_case.encoder.encode_images(SQUARES)
