"""Answers and regions of both families as COCO, supervision, Label Studio and YOLO have them, read by those tools."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest
import torch
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from pycocotools.coco import COCO
from supervision.dataset.formats.yolo import yolo_annotations_to_detections

from transformers_groma import GroundedText, Regions
from transformers_groma.coco_format import coco_categories
from transformers_groma.grounding import ground_segmented_text, ground_text
from transformers_groma.label_studio_format import label_studio_config

HEIGHT, WIDTH = 48, 64
BOXES = torch.tensor([[0.0, 0, 9, 9], [10, 20, 30, 40], [30.25, 4.5, 60.75, 44.125], [5, 5, 6, 6]])
# Phrases with one region, with two, without one; a region of two phrases, one that is named twice, one without words.
GROMA = (
    "<p>two\n dogs</p> <roi><r1><r2></roi>, <p>a cat</p> <roi></roi>, <p>one</p> <roi><r1></roi> and <p>one</p> "
    "<roi><r1></roi>, here: <roi><r3></roi>."
)
LABELS = ("two dogs", "two dogs", "one", "object")


def masks_of(ids) -> dict[int, np.ndarray]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    masks = {}
    for number in ids:
        x1, y1, x2, y2 = BOXES[number].round().int().tolist()
        masks[number] = (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)
        masks[number][y1 + 1 : y1 + 3, x1 + 2 : x1 + 4] = number == 3  # a hole
    return masks


def groma_answer(masks: bool) -> GroundedText:
    answer = ground_text(GROMA, BOXES, torch.tensor([0.9, 0.8, 0.5, 0.25]), user_region_ids=[0])
    return answer.with_masks(masks_of(range(4))) if masks else answer


def glamm_answer() -> GroundedText:
    """The user points at region 0; the third `[SEG]` finds nothing."""
    boxes = torch.cat([BOXES[:3], torch.zeros(1, 4)])
    masks = {**masks_of(range(3)), 3: np.zeros((HEIGHT, WIDTH), bool)}
    markup = "<p> a dog </p> [SEG] and <p> a cup </p> [SEG] <p> nothing </p> [SEG]"
    return ground_segmented_text(markup, boxes, torch.ones(4), user_region_ids=[0], masks=masks)


def test_what_an_answer_means():
    answer = groma_answer(masks=True)
    regions = answer.labelled_regions()
    assert regions.labels == LABELS and regions.ids == (1, 2, 1, 3) and regions.masks.shape == (4, HEIGHT, WIDTH)
    assert answer.labelled_regions(user_regions=True).labels == (*LABELS, "object")
    assert answer.labelled_regions(user_regions=True).ids == (1, 2, 1, 3, 0)
    assert groma_answer(masks=False).labelled_regions().masks is None
    glamm = glamm_answer()
    assert glamm.labelled_regions().labels == ("a dog", "a cup"), "a mask without a pixel finds nothing"
    assert glamm.labelled_regions(user_regions=True).ids == (1, 2, 0)
    assert glamm.phrases[0].labelled_regions().labels == ("a dog",)
    regions = Regions(BOXES)
    assert regions.labelled_regions() is regions


def test_a_region_that_is_a_user_s_and_a_phrase_s_is_one():
    answer = ground_text("<p>it</p> <roi><r0></roi>", BOXES, user_region_ids=[0, 2])
    regions = answer.labelled_regions(user_regions=True)
    assert (regions.ids, regions.labels) == ((0, 2), ("it", "object"))


def test_answers_without_regions_become_nothing():
    for answer in (ground_text("A dog.", BOXES), ground_segmented_text("<p> a dog </p> [SEG]", torch.zeros(0, 4))):
        assert (
            answer.to_coco(1) == [] and answer.to_yolo(height=4, width=4) == "" and len(answer.to_supervision()) == 0
        )
        assert answer.to_label_studio(height=4, width=4)["result"] == []


def test_masks_of_some_regions_are_not_dropped():
    answer = groma_answer(masks=False).with_masks(masks_of([1, 2, 3]))
    assert answer.labelled_regions().masks is not None
    with pytest.raises(ValueError, match=r"Regions \[0\] have no mask, but the others have"):
        answer.labelled_regions(user_regions=True)


@pytest.mark.parametrize("kind", ["boxes", "masks", "glamm"])
def test_pycocotools_reads_answers(kind):
    answer = glamm_answer() if kind == "glamm" else groma_answer(kind == "masks")
    regions = answer.labelled_regions()
    labels = list(dict.fromkeys(regions.labels))
    results = json.loads(json.dumps(answer.to_coco(7)))
    assert results == answer.to_coco(7, categories=labels) == answer.to_coco(image_id=np.int64(7))
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "height": HEIGHT, "width": WIDTH}],
        "annotations": [],
        "categories": coco_categories({label: number for number, label in enumerate(labels, start=1)}),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        read = truth.loadRes(results)
    annotations = read.loadAnns(read.getAnnIds(imgIds=7))
    assert [read.cats[entry["category_id"]]["name"] for entry in annotations] == list(regions.labels)
    corners = np.array([entry["bbox"] for entry in annotations])
    corners[:, 2:] += corners[:, :2]
    np.testing.assert_allclose(corners, regions.xyxy.numpy(), atol=1e-5)
    assert [entry["score"] for entry in annotations] == regions.scores.tolist()
    if regions.masks is not None:
        for entry, mask in zip(annotations, regions.masks, strict=True):
            np.testing.assert_array_equal(read.annToMask(entry), mask)
        # `loadRes` puts the area of the box in its place.
        assert [entry["area"] for entry in answer.to_coco(7)] == regions.masks.sum(axis=(1, 2)).tolist()


def test_coco_has_one_way_to_say_the_category():
    answer = groma_answer(masks=False)
    assert [entry["category_id"] for entry in answer.to_coco(7, 5)] == [5] * 4
    assert [entry["category_id"] for entry in answer.to_coco(7, [4, 3, 2, 1])] == [4, 3, 2, 1]
    numbers = {"object": 90, "one": 3, "two dogs": 17}
    assert [entry["category_id"] for entry in answer.to_coco(7, categories=numbers)] == [17, 17, 3, 90]
    with pytest.raises(ValueError, match="`category_id` and `categories` both say"):
        answer.to_coco(7, 5, categories=numbers)
    with pytest.raises(ValueError, match="`categories`: 'two dogs' is not one of the known labels"):
        answer.to_coco(7, categories=["one"])
    for image_id in ("7", 7.5, True, None):
        with pytest.raises(ValueError, match="`image_id` must be integers"):
            answer.to_coco(image_id)


@pytest.mark.parametrize("masks", [False, True])
def test_supervision_gets_answers(masks):
    answer = groma_answer(masks)
    found = answer.to_supervision()
    assert found.xyxy.dtype == np.float32 and len(found) == 4
    np.testing.assert_array_equal(found.xyxy, answer.labelled_regions().xyxy.numpy())
    assert found["class_name"].tolist() == list(LABELS) and found.class_id.tolist() == [0, 0, 1, 2]
    assert found.confidence.tolist() == [np.float32(score) for score in (0.8, 0.5, 0.8, 0.25)]
    assert found["region_id"].tolist() == [1, 2, 1, 3]
    assert answer.to_supervision(labels=["object", "one", "two dogs"]).class_id.tolist() == [2, 2, 1, 0]
    if masks:
        np.testing.assert_array_equal(found.mask, answer.labelled_regions().masks)
    else:
        assert found.mask is None
    assert found[found.confidence > 0.4].class_id.tolist() == [0, 0, 1], "its own filters work"
    with pytest.raises(ValueError, match="`labels`: 'two dogs' is not one"):
        answer.to_supervision(labels=["one"])


@pytest.mark.parametrize("kind", ["boxes", "brush", "polygon", "glamm"])
def test_label_studio_gets_answers(kind):
    answer = glamm_answer() if kind == "glamm" else groma_answer(kind != "boxes")
    regions = answer.labelled_regions()
    size = {"height": HEIGHT, "width": WIDTH} if kind == "boxes" else {}
    prediction = answer.to_label_studio(**size, masks="polygon" if kind == "polygon" else "brush")
    shape = {"boxes": "rectangle", "glamm": "brush"}.get(kind, kind)
    interface = LabelInterface(label_studio_config(["object"], [shape]))
    assert interface.validate_prediction(json.loads(json.dumps(prediction)), return_errors=True) == []
    texts = [entry for entry in prediction["result"] if entry["type"] == "textarea"]
    shapes = [entry for entry in prediction["result"] if entry["type"] != "textarea"]
    named = [label for label in regions.labels if label != "object"]
    assert [text for entry in texts for text in entry["value"]["text"]] == named
    assert {entry["id"] for entry in texts} <= {entry["id"] for entry in shapes}
    if kind in ("brush", "glamm"):
        for entry, mask in zip(shapes, regions.masks, strict=True):
            np.testing.assert_array_equal(
                decode_rle(entry["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0, mask
            )
    if kind == "boxes":
        values = [[entry["value"][name] for name in ("x", "y", "width", "height")] for entry in shapes]
        corners = np.array(values) / 100 * ([WIDTH, HEIGHT] * 2)
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(corners, regions.xyxy.numpy(), atol=1e-9)


def test_label_studio_has_the_labels_of_the_project():
    answer = groma_answer(masks=False)
    labels = ["object", "one", "two dogs"]
    prediction = answer.to_label_studio(height=HEIGHT, width=WIDTH, labels=labels, model_version="groma-7b")
    assert [entry["value"]["rectanglelabels"] for entry in prediction["result"]] == [[label] for label in LABELS]
    assert prediction["model_version"] == "groma-7b"
    assert LabelInterface(label_studio_config(labels)).validate_prediction(prediction)
    with pytest.raises(ValueError, match="`labels`: 'two dogs' is not one"):
        answer.to_label_studio(height=HEIGHT, width=WIDTH, labels=["one"])


@pytest.mark.parametrize("kind", ["boxes", "masks", "glamm"])
def test_yolo_gets_answers(kind):
    answer = glamm_answer() if kind == "glamm" else groma_answer(kind == "masks")
    regions = answer.labelled_regions()
    size = {} if regions.masks is not None else {"height": HEIGHT, "width": WIDTH}
    lines = answer.to_yolo(**size).splitlines()
    found = yolo_annotations_to_detections(lines, (WIDTH, HEIGHT), with_masks=regions.masks is not None)
    numbers = {label: number for number, label in enumerate(dict.fromkeys(regions.labels))}
    assert found.class_id.tolist() == [numbers[label] for label in regions.labels]
    # A polygon's box is that of its mask, in whole pixels here.
    boxes = regions.xyxy.numpy() if regions.masks is None else Regions.from_masks(regions.masks).xyxy.numpy()
    np.testing.assert_allclose(found.xyxy, boxes, atol=1e-4)
    if kind == "masks":
        for mask, expected in zip(found.mask, regions.masks, strict=True):
            assert not (expected & ~mask).any()
        boxes_alone = answer.to_yolo(masks=False).splitlines()
        assert boxes_alone == groma_answer(False).to_yolo(height=HEIGHT, width=WIDTH).splitlines()


def test_the_size_of_the_image_is_needed():
    boxes, masks = groma_answer(masks=False), groma_answer(masks=True)
    for convert in ("to_yolo", "to_label_studio"):
        with pytest.raises(ValueError, match="pass `height` and `width` of the upright image"):
            getattr(boxes, convert)(height=HEIGHT)
        with pytest.raises(ValueError, match="must be those of the masks, 48 and 64, got 48 and 65"):
            getattr(masks, convert)(width=65)
        with pytest.raises(ValueError, match="outside of the image"):
            getattr(boxes, convert)(height=HEIGHT, width=40)
        with pytest.raises(ValueError, match="`width` must be a positive number of pixels"):
            getattr(boxes, convert)(height=HEIGHT, width=0)
        assert getattr(masks, convert)() == getattr(masks, convert)(height=HEIGHT, width=WIDTH)


def test_regions_without_a_place_are_refused():
    line, far = Regions([[5, 5, 5, 9]]), Regions([[5, 5, 90, 9]])
    empty = Regions(BOXES[:1], masks=np.zeros((1, HEIGHT, WIDTH), bool))
    for convert in ("to_yolo", "to_label_studio"):
        for regions, message in [(line, "needs an area"), (far, "outside of the image"), (empty, "mask .* is empty")]:
            with pytest.raises(ValueError, match=f"Regions need a place in the image: .*{message}.*. Leave such"):
                getattr(regions, convert)(height=HEIGHT, width=WIDTH)
    with pytest.raises(ValueError, match="^`masks` must be 'brush', 'polygon' or None"):
        line.to_label_studio(height=HEIGHT, width=WIDTH, masks="rle")


def test_labels_that_no_tool_shows_are_refused():
    for label, message in [("", "not empty"), ("a\x00b", "printable"), ("x" * 300, "at most 255")]:
        regions = Regions(BOXES[:1], labels=[label])
        with pytest.raises(ValueError, match=f"`categories`: .*{message}"):
            regions.to_coco(1)
        with pytest.raises(ValueError, match=f"`labels`: .*{message}"):
            regions.to_supervision()
        with pytest.raises(ValueError, match=f"`labels`: .*{message}"):
            regions.to_yolo(height=9, width=9)
    assert Regions(BOXES[:1], labels=["x" * 300]).to_coco(1, 4)[0]["category_id"] == 4, "no label is written"


def test_supervision_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        groma_answer(masks=False).to_supervision()
