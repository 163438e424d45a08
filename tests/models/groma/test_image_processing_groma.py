"""Image processors: modes, orientations and scales."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from transformers_groma import GromaImageProcessor, GromaImageProcessorPil
from transformers_groma.image_inputs import to_upright_8_bit
from transformers_groma.models.groma.modeling_groma_outputs import GromaRegionProposalOutput

ORIENTATION_TAG = 0x0112


def pixels(image, **kwargs) -> torch.Tensor:
    return GromaImageProcessorPil()(image, return_tensors="pt", **kwargs)["pixel_values"]


def test_same_pixels_as_the_original(golden_dir):
    expected = load_file(golden_dir / "case_preprocess.safetensors")
    image = load_file(golden_dir / "case_inputs.safetensors")["images_uint8"][0]
    image = Image.fromarray(image.permute(1, 2, 0).numpy())

    plain = pixels(image, do_resize=False)[0]
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain[:, ::16, ::16], expected["image0_strided"], rtol=0, atol=1e-6)

    resized = pixels(image.crop((0, 0, 300, 200)))[0]
    torch.testing.assert_close(resized[:, ::16, ::16], expected["crop300x200_resized_strided"], rtol=0, atol=1e-6)


def test_every_size_becomes_the_same_square():
    images = [Image.new("RGB", size) for size in ((640, 480), (30, 400), (448, 448))]
    assert pixels(images).shape == (3, 3, 448, 448)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_modes_become_rgb(mode):
    white = 65535 if mode.startswith("I") else {"CMYK": (0, 0, 0, 0), "RGBA": (255, 255, 255, 255)}.get(mode)
    image = Image.new("RGB", (20, 10), "white").convert(mode) if white is None else Image.new(mode, (20, 10), white)
    torch.testing.assert_close(pixels(image), pixels(Image.new("RGB", (20, 10), "white")))


def test_transparent_pixels_are_white():
    clear_black = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    torch.testing.assert_close(pixels(clear_black), pixels(Image.new("RGB", (20, 10), "white")))


@pytest.mark.parametrize("kind", ["pil", "numpy", "torch"])
def test_16_bit_values_are_scaled_and_not_cut_off(kind):
    grey = np.full((1, 10, 20), 128 * 257, dtype=np.uint16)
    image = {"pil": Image.fromarray(grey[0]), "numpy": grey, "torch": torch.from_numpy(grey)}[kind]
    torch.testing.assert_close(pixels(image), pixels(Image.new("L", (20, 10), 128)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((20, 40, 3), dtype=np.uint8)
    upright[:10, :10] = 255
    image = Image.fromarray(upright)
    # How a camera stores the upright image under each orientation: the inverse of what the tag asks for.
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    rotated = image.transpose(stored[orientation]) if orientation in stored else image.copy()
    rotated.getexif()[ORIENTATION_TAG] = orientation
    before = rotated.tobytes()

    np.testing.assert_array_equal(np.asarray(to_upright_8_bit(rotated)), upright)
    torch.testing.assert_close(pixels(rotated), pixels(image))
    assert rotated.tobytes() == before and rotated.getexif()[ORIENTATION_TAG] == orientation


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_arrays_in_both_layouts(layout, channels, kind):
    array = np.random.default_rng(0).integers(0, 255, (12, 16, channels), dtype=np.uint8)
    if channels == 4:
        array[..., 3] = 255
    expected = pixels(Image.fromarray(array[..., 0] if channels == 1 else array[..., :3].copy()))
    given = kind(array if layout == "HWC" else array.transpose(2, 0, 1).copy())
    torch.testing.assert_close(pixels(given), expected)


def test_save_and_load(tmp_path):
    image_processor = GromaImageProcessor(size={"height": 224, "width": 224}, image_mean=[0.5, 0.5, 0.5])
    image_processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["image_processor_type"] == (
        "GromaImageProcessor"
    )
    for image_processor_class in (GromaImageProcessor, GromaImageProcessorPil, AutoImageProcessor):
        reloaded = image_processor_class.from_pretrained(tmp_path)
        assert reloaded.to_dict() == image_processor.to_dict()


def test_not_an_image():
    with pytest.raises(TypeError, match="int"):
        pixels(42)


# ------------------------------------------------------------------------------------------------- found boxes


def detections(logits: list[float], boxes: list[list[float]]) -> GromaRegionProposalOutput:
    """The output of a detector for two images; the second has the queries the other way round."""
    logits, boxes = torch.tensor(logits)[:, None], torch.tensor(boxes)
    return GromaRegionProposalOutput(
        logits=torch.stack([logits, logits.flip(0)]), pred_boxes=torch.stack([boxes, boxes.flip(0)])
    )


QUERIES = [[0.5, 0.5, 0.5, 0.25], [0.25, 0.5, 0.1, 0.2], [0.9, 0.1, 0.4, 0.4]]
SIZES = [(100, 200), (400, 50)]


@pytest.mark.parametrize("sizes", [SIZES, torch.tensor(SIZES), torch.IntTensor(SIZES)])
def test_detections_are_boxes_in_pixels_best_first(sizes):
    output = detections([0.0, 2.0, 1.0], QUERIES)
    first, second = GromaImageProcessor().post_process_object_detection(output, threshold=0.4, target_sizes=sizes)
    assert list(first) == ["scores", "labels", "boxes"]
    scores = torch.tensor([2.0, 1.0, 0.0]).sigmoid()
    torch.testing.assert_close(first["scores"], scores)
    torch.testing.assert_close(second["scores"], scores)
    assert first["labels"].tolist() == [0, 0, 0] and first["labels"].dtype == torch.int64
    # The third query sticks out of the image at the top right.
    torch.testing.assert_close(
        first["boxes"], torch.tensor([[40.0, 40, 60, 60], [140, 0, 200, 30], [50, 37.5, 150, 62.5]])
    )
    torch.testing.assert_close(
        second["boxes"], torch.tensor([[10.0, 160, 15, 240], [35, 0, 50, 120], [12.5, 150, 37.5, 250]])
    )


def test_detections_without_sizes_are_fractions():
    output = detections([0.0, 2.0, -2.0], QUERIES)
    found = GromaImageProcessorPil().post_process_object_detection(output)[0]
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.2, 0.4, 0.3, 0.6]]))
    assert len(GromaImageProcessorPil().post_process_object_detection(output, 0.49)[0]["scores"]) == 2


def test_detections_need_a_score_above_the_threshold():
    # sigmoid(0) is 0.5 exactly: the default threshold is not passed by what only reaches it.
    found = GromaImageProcessorPil().post_process_object_detection(detections([0.0, 0.0, 0.01], QUERIES))
    assert [len(image["scores"]) for image in found] == [1, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_what_is_not_finite_is_not_a_detection(bad, place):
    boxes = [list(box) for box in QUERIES]
    boxes[1][place] = bad
    for logits in ([1.0, 2.0, 0.5], [1.0, float("nan"), 0.5]):
        found = GromaImageProcessorPil().post_process_object_detection(detections(logits, boxes), 0.0, SIZES)
        torch.testing.assert_close(found[0]["boxes"], torch.tensor([[50, 37.5, 150, 62.5], [140.0, 0, 200, 30]]))


@pytest.mark.parametrize("sizes", [[], SIZES[:1], SIZES * 2, torch.zeros(3, 2)])
def test_detections_need_a_size_for_each_image(sizes):
    with pytest.raises(ValueError, match=f"got {len(sizes)} for 2"):
        GromaImageProcessorPil().post_process_object_detection(detections([0.0] * 3, QUERIES), 0.5, sizes)


# ----------------------------------------------------------------------------------- scales of arrays and tensors


def as_kind(kind: str, array: np.ndarray):
    """An array as another kind of image: `"numpy float32 CHW"`."""
    library, dtype, layout = kind.split()
    if layout == "CHW":
        array = array.transpose(2, 0, 1)
    if library == "numpy":
        return np.ascontiguousarray(array).astype(dtype)
    return torch.from_numpy(np.ascontiguousarray(array).astype(np.float64)).to(getattr(torch, dtype))


FLOATS = [
    f"{library} {dtype} {layout}"
    for library, dtypes in (
        ("numpy", ("float16", "float32", "float64")),
        ("torch", ("float16", "bfloat16", "float32", "float64")),
    )
    for dtype in dtypes
    for layout in ("HWC", "CHW")
]


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("resize", [True, False])
def test_floats_run_from_0_to_1(kind, resize, noise):
    given = as_kind(kind, noise / 255)
    # bfloat16 has 8 bits for the values from 0.5 to 1, so it is one or two levels off.
    levels = 2 if "bfloat16" in kind else 0
    expected = pixels(noise, do_resize=resize)
    torch.testing.assert_close(
        pixels(given, do_resize=resize), expected, rtol=0, atol=levels / 255 / 0.22 * 1.5 + 1e-5
    )


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_that_are_not_to_be_rescaled(kind, noise):
    given = as_kind(kind, noise / 255)
    plain = pixels(given, do_rescale=False, do_resize=False)
    assert plain.dtype == torch.float32
    atol = 0.06 if "float16" in kind else 1e-5
    torch.testing.assert_close(plain, pixels(noise, do_resize=False), rtol=0, atol=atol)
    resized = pixels(given, do_rescale=False)
    torch.testing.assert_close(resized, pixels(noise), rtol=0, atol=atol)
    assert GromaImageProcessorPil(do_rescale=False)(given, return_tensors="pt")["pixel_values"].equal(resized)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("settings", [{}, {"do_rescale": False}])
def test_black_and_white_floats(value, settings):
    expected = pixels(np.full((10, 20, 3), int(value * 255), np.uint8))
    torch.testing.assert_close(pixels(np.full((10, 20, 3), value, np.float32), **settings), expected)


@pytest.mark.parametrize(
    "kind", ["numpy int32 HWC", "numpy int64 CHW", "numpy uint32 HWC", "torch int16 CHW", "torch int64 HWC"]
)
def test_whole_numbers_run_from_0_to_255(kind, noise):
    assert pixels(as_kind(kind, noise)).equal(pixels(noise))


@pytest.mark.parametrize("kind", ["numpy bool HWC", "torch bool CHW"])
def test_booleans_are_black_and_white(kind, noise):
    mask = np.repeat(noise[..., :1] > 127, 3, axis=-1)
    assert pixels(as_kind(kind, mask)).equal(pixels(mask.astype(np.uint8) * 255))


@pytest.mark.parametrize("kind", ["numpy uint16 HWC", "torch uint16 CHW", "torch uint16 HWC"])
def test_uint16_runs_from_0_to_65535(kind, noise):
    assert pixels(as_kind(kind, noise.astype(np.uint16) * 257)).equal(pixels(noise))


def test_floats_of_pil():
    values = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20)
    assert pixels(Image.fromarray(values)).equal(pixels(Image.fromarray((values * 255).round().astype(np.uint8))))


def test_each_image_of_a_list_has_its_own_scale(noise):
    images = [noise, noise / 255, torch.from_numpy(noise).permute(2, 0, 1) / 255, noise.astype(np.uint16) * 257]
    together = pixels([*images, Image.fromarray(noise)])
    for row in together:
        torch.testing.assert_close(row, pixels(noise)[0], rtol=0, atol=1e-6)
    assert pixels([image / 255 for image in [noise, noise]]).shape == (2, 3, 448, 448)


def test_arrays_are_not_changed(noise):
    given = noise / 255
    before = given.copy()
    pixels(given)
    pixels(given, do_rescale=False)
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("settings", [{}, {"do_rescale": False}])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_pixels_that_are_not_finite_are_refused(bad, kind, settings, noise):
    values = (noise / 255).astype(np.float32)
    values[3, 4, 1] = bad
    with pytest.raises(
        ValueError, match="The image, an? (array|tensor) of float32, has 1 values that are NaN or infinite"
    ):
        pixels(kind(values), **settings)
    with pytest.raises(ValueError, match="mode 'F', has 1 values that are NaN"):
        pixels(Image.fromarray(values[..., 1]), **settings)


@pytest.mark.parametrize("settings", [{}, {"do_rescale": False}])
def test_floats_outside_of_their_scale_are_refused(settings, noise):
    for value in (-0.001, 1.001):  # what arithmetic leaves is clipped
        values = np.full((10, 20, 3), 0.5)
        values[0, 0, 0] = value
        assert pixels(values, **settings).isfinite().all()
    for value in (-0.002, 1.002, 255.0):
        values = np.full((10, 20, 3), 0.5)
        values[0, 0, 0] = value
        with pytest.raises(
            ValueError, match="array of float64, must have values from 0 to 1, got .* floats run from 0 to 1"
        ):
            pixels(values, **settings)
    with pytest.raises(ValueError, match="tensor of float32, must have values from 0 to 1"):
        pixels(torch.from_numpy(noise).float(), **settings)


def test_whole_numbers_outside_of_their_scale_are_refused():
    for value in (0, 255):
        assert pixels(np.full((10, 20, 3), value, np.int32)).isfinite().all()
    for value in (-1, 256):
        for kind in (np.asarray, torch.from_numpy):
            with pytest.raises(ValueError, match=f"of int32, must have values from 0 to 255, got {value} to {value}"):
                pixels(kind(np.full((10, 20, 3), value, np.int32)))
    for value in (-1, 65536):
        with pytest.raises(ValueError, match="mode 'I', must have values from 0 to 65535"):
            pixels(Image.new("I", (20, 10), value))


def test_arrays_of_something_else_are_refused():
    for values in (np.full((10, 20, 3), "a"), np.zeros((10, 20, 3), complex)):
        with pytest.raises(ValueError, match="is not made of numbers"):
            to_upright_8_bit(values)


def test_8_bit_pixels_need_rescaling_before_they_are_normalized(noise):
    for image in (noise, Image.fromarray(noise), noise.astype(np.int64)):
        with pytest.raises(ValueError, match="`do_rescale=False` takes images that are rescaled already"):
            pixels(image, do_rescale=False)
        plain = pixels(image, do_rescale=False, do_normalize=False, do_resize=False)[0]
        assert torch.equal(plain, torch.from_numpy(noise).permute(2, 0, 1).to(plain.dtype))
