"""GLaMM's image processors: the original's pixels, both geometries, odd images, and settings that are refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil, SamImageProcessorPil
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from transformers_groma.models.glamm.image_processing_pil_glamm import GlammImageProcessorPil, without_ends
from transformers_groma.padded_squares import size_in_square

SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def views(image, **settings):
    return GlammImageProcessorPil(**{"grounding_size": 64, **settings})(image, return_tensors="pt")


def scaled(pixels: torch.Tensor, mean, std) -> torch.Tensor:
    """`(H, W, 3)` of 8 bits as a model's values, by the formula of the original."""
    return (pixels.permute(2, 0, 1).float() - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


class TestOriginal:
    @pytest.fixture(params=["A", "B"])
    def name(self, request):
        return request.param

    @pytest.fixture
    def golden(self, glamm_golden):
        return load_file(glamm_golden / "case_inputs.safetensors")

    def test_global_view_is_bit_equal(self, name, golden):
        image = Image.fromarray(golden[f"image_{name}"].numpy())
        pixels = golden[f"clip_u8_{name}"].numpy().transpose(2, 0, 1).astype(np.float32) / 255
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        found = views(image, do_center_crop=True)["pixel_values"]
        assert found.shape == (1, 3, 336, 336) and found.dtype == torch.float32
        assert np.array_equal(found[0].numpy(), (pixels - mean) / std)

    def test_grounding_view(self, name, golden, glamm_golden):
        sizes = json.loads((glamm_golden / "case_inputs.json").read_text())["sizes"]
        image = Image.fromarray(golden[f"image_{name}"].numpy())
        found = views(image, grounding_size=256)
        height, width = found["grounding_sizes"][0].tolist()
        assert [height, width] == sizes[name]["sam_resized"] and found["grounding_sizes"].dtype == torch.int64
        pixels = found["grounding_pixel_values"][0]
        expected = scaled(golden[f"sam_u8_{name}"], SAM_MEAN, SAM_STD)
        torch.testing.assert_close(pixels[:, :height, :width], expected, rtol=0, atol=1e-6)
        assert pixels.shape == (3, 256, 256) and not pixels[:, height:].any() and not pixels[:, :, width:].any()

    def test_grounding_view_at_its_real_size(self, name, golden, glamm_golden):
        expected = load_file(glamm_golden / "case_preprocess_1024.safetensors")[f"sam1024_sub16_{name}"]
        image = Image.fromarray(golden[f"image_{name}"].numpy())
        found = views(image, grounding_size=1024)["grounding_pixel_values"][0]
        torch.testing.assert_close(found[:, ::16, ::16], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_both_views_are_those_of_the_library_s_own_processors(seed):
    """CLIP's and SAM's, for images of any proportions; the original's pixels were theirs."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(3, 500, 2)
    image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
    found = views(image, do_center_crop=True, size=56, grounding_size=128)
    clip = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=56)(image, return_tensors="pt")
    assert torch.equal(found["pixel_values"], clip["pixel_values"])
    sam = SamImageProcessorPil(size={"longest_edge": 128}, pad_size={"height": 128, "width": 128})
    sam = sam(image, return_tensors="pt")
    assert torch.equal(found["grounding_pixel_values"], sam["pixel_values"])
    assert found["grounding_sizes"].tolist() == sam["reshaped_input_sizes"].tolist()


def test_a_new_model_sees_the_whole_image_squeezed():
    """The released geometry shows the middle third of this image alone."""
    image = Image.new("RGB", (90, 30), "black")
    image.paste("white", (0, 0, 30, 30))
    squeezed, cut = (views(image, size=30, do_center_crop=crop)["pixel_values"][0, 0] for crop in (False, True))
    white = (1 - OPENAI_CLIP_MEAN[0]) / OPENAI_CLIP_STD[0]
    assert torch.isclose(squeezed[:, :8], torch.tensor(white)).all() and (squeezed[:, 12:] < 0).all()
    assert (cut < 0).all()


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("size", [(2, 2), (2, 3), (500, 2), (2, 100_000), (40_000, 300), (640, 10)])
def test_tiny_and_very_long_images(size, crop):
    found = views(Image.new("RGB", size, "red"), do_center_crop=crop)
    assert found["pixel_values"].shape == (1, 3, 336, 336)
    height, width = found["grounding_sizes"][0].tolist()
    assert max(height, width) == 64 and min(height, width) >= 1
    red = views(Image.new("RGB", (50, 50), "red"))["pixel_values"]
    torch.testing.assert_close(found["pixel_values"], red)


@pytest.mark.parametrize(("height", "width", "kept"), [(10, 640, 640), (10, 641, 31), (10, 700, 30), (700, 10, 30)])
def test_only_very_long_images_lose_their_ends(height, width, kept):
    """What is left has the centre of the image in its own centre."""
    longer = max(height, width)
    image = np.zeros((3, height, width), np.uint8)
    ramp = np.arange(longer) % 251
    image[:] = ramp[None, :] if width == longer else ramp[:, None]
    middle = without_ends(image)
    assert max(middle.shape[1:]) == kept
    line = middle[0, 0] if width == longer else middle[0, :, 0]
    start = (longer - kept) // 2
    assert line.tolist() == ramp[start : start + kept].tolist() and longer - kept - start == start


def test_a_long_image_without_its_ends_gives_nearly_the_same_centre(monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 600, 3), dtype=np.uint8))
    short = views(noise, do_center_crop=True, do_normalize=False)["pixel_values"]
    monkeypatch.setattr("transformers_groma.models.glamm.image_processing_pil_glamm._LONG", 1000)
    whole = views(noise, do_center_crop=True, do_normalize=False)["pixel_values"]
    torch.testing.assert_close(short, whole, rtol=0, atol=4 / 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_modes_become_rgb(mode):
    white = 65535 if mode.startswith("I") else {"CMYK": (0, 0, 0, 0), "RGBA": (255, 255, 255, 255)}.get(mode)
    image = Image.new("RGB", (20, 10), "white").convert(mode) if white is None else Image.new(mode, (20, 10), white)
    expected = views(Image.new("RGB", (20, 10), "white"))
    for name, value in views(image).items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_is_applied_to_both_views(orientation):
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    stored = upright.transpose(turn)
    stored.getexif()[0x0112] = orientation
    expected = views(upright)
    for name, value in views(stored).items():
        torch.testing.assert_close(value, expected[name])
    assert expected["grounding_sizes"].tolist() == [[32, 64]]


@pytest.mark.parametrize("kind", ["float", "CHW", "tensor", "no rescale"])
def test_arrays_give_what_their_image_gives(kind):
    array = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    given = {
        "float": (array / 255).astype(np.float32),
        "CHW": np.ascontiguousarray(array.transpose(2, 0, 1)),
        "tensor": torch.from_numpy(array),
        "no rescale": torch.from_numpy(array).permute(2, 0, 1) / 255,
    }[kind]
    expected = views(Image.fromarray(array))
    for name, value in views(given, do_rescale=kind != "no rescale").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


def test_a_batch_of_images_of_many_sizes():
    images = [Image.new("RGB", size) for size in ((64, 48), (30, 40), (33, 33))]
    found = views(images)
    assert found["pixel_values"].shape == (3, 3, 336, 336)
    assert found["grounding_pixel_values"].shape == (3, 3, 64, 64)
    assert found["grounding_sizes"].tolist() == [[48, 64], [64, 48], [64, 64]]
    lists = GlammImageProcessorPil(grounding_size=64)(images)
    assert [value.shape for value in lists["grounding_pixel_values"]] == [(3, 64, 64)] * 3


def test_save_and_load(tmp_path):
    processor = GlammImageProcessorPil(
        size=28, grounding_size=64, do_center_crop=True, image_mean=[0.5] * 3, grounding_mean=[0.4] * 3
    )
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "GlammImageProcessor" and saved["size"] == {"height": 28, "width": 28}
    reloaded = GlammImageProcessorPil.from_pretrained(tmp_path)
    assert reloaded.to_dict() == processor.to_dict()
    image = Image.new("RGB", (20, 10), "red")
    for name, value in reloaded(image, return_tensors="pt").items():
        torch.testing.assert_close(value, processor(image, return_tensors="pt")[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"height": 336, "width": 224}}, r"`size` must be the side of a square.*'height': 336"),
        ({"size": {"shortest_edge": 336}}, "`size` must be the side of a square.*shortest_edge.*`do_center_crop`"),
        ({"grounding_size": 0}, "`grounding_size` must be a positive number of pixels, an integer, got 0"),
        ({"crop_size": 336}, "`crop_size` is not a setting of GLaMM's images"),
        ({"do_pad": True}, "`do_pad` is not a setting"),
        ({"do_resize": False}, "`do_resize=False` is not possible"),
    ],
)
def test_settings_that_are_refused(settings, message):
    """In the constructor and in a call."""
    image = Image.new("RGB", (20, 10))
    with pytest.raises(ValueError, match=message):
        GlammImageProcessorPil()(image, **settings)
    with pytest.raises(ValueError, match=message):
        GlammImageProcessorPil(**settings)(image)


def test_not_an_image():
    with pytest.raises(TypeError, match="int"):
        views(42)


def test_sizes_in_the_square_are_those_of_the_original(glamm_golden):
    cases = json.loads((glamm_golden / "case_preprocess_1024.json").read_text())["get_preprocess_shape"]
    for height, width, expected in cases:
        assert list(size_in_square(height, width, 1024)) == expected
