import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from transformers_groma import GromaImageProcessor, GromaImageProcessorPil
from transformers_groma.image_processing_pil_groma import to_upright_8_bit
from transformers_groma.modeling_groma_outputs import GromaRegionProposalOutput

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
