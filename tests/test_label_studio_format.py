"""Label Studio's SDK reads our predictions, masks and configurations."""

import json

import numpy as np
import pytest
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from transformers_groma.label_studio_format import label_studio_config, label_studio_prediction, label_studio_rle
from transformers_groma.labelled_objects import LabelledObject
from transformers_groma.mask_outlines import mask_to_polygons
from transformers_groma.masks import mask_to_rle

HEIGHT, WIDTH = 48, 64
BOXES = [(3.25, 4.5, 20.125, 40.0), (0.0, 0.0, 64.0, 48.0), (30.1, 5.7, 31.9, 6.2)]


def mask_of_ring() -> np.ndarray:
    """Two parts, one of them with a hole."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:40, 3:20] = True
    mask[10:20, 8:12] = False
    mask[1:3, 50:60] = True
    return mask


@pytest.mark.parametrize("name", ["ring", "empty", "full", "noise", "pixel", "large"])
def test_the_sdk_decodes_our_rle(name):
    mask = {
        "ring": mask_of_ring(),
        "empty": np.zeros((HEIGHT, WIDTH), bool),
        "full": np.ones((HEIGHT, WIDTH), bool),
        "noise": np.random.default_rng(0).random((37, 53)) > 0.5,
        "pixel": np.ones((1, 1), bool),
        "large": np.arange(300 * 400).reshape(300, 400) > 70_000,  # runs of more than 65536 values
    }[name]
    codes = label_studio_rle(mask)
    assert all(isinstance(code, int) and 0 <= code <= 255 for code in codes)
    decoded = decode_rle(codes).reshape(*mask.shape, 4)
    assert set(np.unique(decoded)) <= {0, 255}
    for channel in range(4):
        np.testing.assert_array_equal(decoded[:, :, channel] > 0, mask)


def objects(masks: bool) -> list[LabelledObject]:
    rle = mask_to_rle(mask_of_ring()) if masks else None
    phrases = ["a dog", "a dog", 'a <cat> & "kitten"']
    return [
        LabelledObject(box, "dog" if number < 2 else "cat", 0.25 * (number + 1), rle, phrases[number])
        for number, box in enumerate(BOXES)
    ]


@pytest.mark.parametrize(
    ("masks", "shape", "types"),
    [
        (None, "rectangle", ["rectanglelabels"]),
        ("brush", "brush", ["brushlabels"]),
        ("polygon", "polygon", ["polygonlabels"] * 2),
    ],
)
def test_predictions_are_valid(masks, shape, types):
    labels = ["dog", "cat", "others <&\"'>"]
    interface = LabelInterface(label_studio_config(labels, [shape], caption=True))
    prediction = label_studio_prediction(
        objects(True), HEIGHT, WIDTH, masks=masks, caption="A dog.", model_version="m"
    )
    prediction = json.loads(json.dumps(prediction))
    assert interface.validate_prediction(prediction, return_errors=True) == []
    assert interface.get_control(shape).labels == labels
    result = prediction["result"]
    each = [kind for kind in types for kind in (kind, "textarea")]
    assert [entry["type"] for entry in result] == [*each * len(BOXES), "textarea"]
    shapes, phrases = result[:-1:2], result[1:-1:2]
    assert [entry["id"] for entry in shapes] == [entry["id"] for entry in phrases]
    assert len({entry["id"] for entry in shapes}) == len(shapes), "each shape has an id of its own"
    assert phrases[-1]["value"]["text"] == ['a <cat> & "kitten"']
    assert result[-1]["value"]["text"] == ["A dog."] and result[-1]["from_name"] == "caption"
    assert prediction["score"] == pytest.approx(0.5) and prediction["model_version"] == "m"
    prediction["result"][0]["value"][types[0]] = ["a bird"]
    assert not interface.validate_prediction(prediction), "the check sees labels"


def test_an_object_without_a_mask_keeps_its_box():
    box, ring = objects(False)[0], objects(True)[1]
    result = label_studio_prediction([box, ring], HEIGHT, WIDTH)["result"]
    assert [entry["type"] for entry in result[::2]] == ["rectanglelabels", "brushlabels"]
    config = label_studio_config(["dog"], ["rectangle", "brush"])
    assert LabelInterface(config).validate_prediction({"result": result}, return_errors=True) == []


def test_scores_and_phrases_may_be_missing():
    prediction = label_studio_prediction([LabelledObject(BOXES[0], "dog", phrase="dog")], HEIGHT, WIDTH)
    assert "score" not in prediction and "score" not in prediction["result"][0] and len(prediction["result"]) == 1
    assert label_studio_prediction([], HEIGHT, WIDTH) == {"model_version": "groma", "result": []}
    assert label_studio_prediction([LabelledObject(BOXES[0], score=1.2)], HEIGHT, WIDTH)["score"] == 1.0


def converted(tmp_path, config: str, prediction: dict, to: str):
    """What the SDK's own converter makes of a task whose annotation is the prediction."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg")
    task = {
        "id": 1,
        "data": {"image": str(tmp_path / "a.jpg")},
        "annotations": [{"id": 1, "result": prediction["result"]}],
    }
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    converter = Converter(config, str(tmp_path), output_tags=None, download_resources=False)
    getattr(converter, f"convert_to_{to}")(str(tmp_path / "tasks.json"), str(tmp_path / to), is_dir=False)
    return tmp_path / to


def test_the_sdk_converts_boxes_to_coco_and_yolo(tmp_path):
    config = label_studio_config(["dog", "cat"])
    prediction = label_studio_prediction(objects(False), HEIGHT, WIDTH)
    coco = json.loads((converted(tmp_path, config, prediction, "coco") / "result.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert [names[entry["category_id"]] for entry in coco["annotations"]] == ["dog", "dog", "cat"]
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == (WIDTH, HEIGHT)
    found = np.array([entry["bbox"] for entry in coco["annotations"]])
    found[:, 2:] += found[:, :2]
    np.testing.assert_allclose(found, BOXES, atol=1e-9)
    lines = (converted(tmp_path, config, prediction, "yolo") / "labels" / "a.txt").read_text().splitlines()
    values = np.array([[float(value) for value in line.split()[1:]] for line in lines]) * ([WIDTH, HEIGHT] * 2)
    corners = np.concatenate([values[:, :2] - values[:, 2:] / 2, values[:, :2] + values[:, 2:] / 2], axis=1)
    np.testing.assert_allclose(corners, BOXES, atol=1e-9)


def test_the_sdk_converts_polygons_to_coco(tmp_path):
    config = label_studio_config(["dog", "cat"], ["polygon"])
    prediction = label_studio_prediction(objects(True)[:1], HEIGHT, WIDTH, masks="polygon")
    coco = json.loads((converted(tmp_path, config, prediction, "coco") / "result.json").read_text())
    expected = mask_to_polygons(mask_of_ring())
    assert len(coco["annotations"]) == len(expected) == 2
    for entry, polygon in zip(coco["annotations"], expected, strict=True):
        np.testing.assert_allclose(entry["segmentation"][0], polygon, atol=1e-9)


def test_what_cannot_be_drawn_is_refused():
    empty = LabelledObject(BOXES[0], mask=mask_to_rle(np.zeros((HEIGHT, WIDTH), bool)))
    for masks in ("brush", "polygon"):
        with pytest.raises(ValueError, match="the mask of 'object' at .* is empty"):
            label_studio_prediction([empty], HEIGHT, WIDTH, masks=masks)
    with pytest.raises(ValueError, match="needs an area"):
        label_studio_prediction([LabelledObject((1, 1, 1, 5))], HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="`masks` must be 'brush', 'polygon' or None, got 'rle'"):
        label_studio_prediction([], HEIGHT, WIDTH, masks="rle")
