"""`Regions`: accepted input, selection, and conversion for other tools."""

import copy
import dataclasses
import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as coco_mask

from transformers_groma import Regions
from transformers_groma.masks import rle_to_mask
from transformers_groma.regions import regions_of_slots, with_extent

BOXES = [[10.126, 20, 30, 40], [0, 0, 4, 2], [5, 5, 8, 9]]
SCORES = [0.123456, 0.5, 1.0]
LABELS = ["a dog", "a cup", "a dog"]


@pytest.fixture
def masks() -> np.ndarray:
    masks = np.zeros((3, 48, 64), bool)
    masks[0, 20:40, 11:30] = True
    masks[1, 0, :3] = True  # the third one is empty
    return masks


@pytest.fixture
def regions(masks) -> Regions:
    return Regions(BOXES, SCORES, [4, 7, 0], masks, LABELS)


def test_defaults():
    regions = Regions(BOXES)
    assert regions.ids == (0, 1, 2) and regions.scores.tolist() == [1.0] * 3
    assert regions.masks is None and regions.labels is None
    assert regions[0].mask is None and regions[0].label is None


@pytest.mark.parametrize(
    "empty", [[], (), np.zeros((0, 4)), torch.zeros(0, 4), np.zeros(0)], ids=["list", "tuple", "array", "tensor", "1d"]
)
def test_there_may_be_no_regions(empty):
    regions = Regions(empty, [], [], np.zeros((0, 4, 6), bool), [])
    assert regions.xyxy.shape == (0, 4) and len(regions) == 0 and not regions
    assert list(regions) == [] and regions.to_dict() == {"regions": []} and regions.to_coco(1) == []
    assert len(regions[:]) == len(regions[[]]) == 0
    assert regions[:].masks.shape == (0, 4, 6)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (BOXES, torch.float32),
        (np.array(BOXES), torch.float64),
        (np.array(BOXES, np.float32), torch.float32),
        (np.array(BOXES, np.float16), torch.float32),
        (np.array(BOXES, np.int64), torch.float32),
        (torch.tensor(BOXES, dtype=torch.float64, requires_grad=True), torch.float64),
        (torch.tensor(BOXES, dtype=torch.bfloat16), torch.float32),
        ([torch.tensor(box) for box in BOXES], torch.float32),
    ],
)
def test_numbers_of_any_kind_become_tensors_without_losing_digits(values, dtype):
    regions = Regions(values, values[:, 0] if hasattr(values, "dtype") else SCORES)
    assert regions.xyxy.dtype == dtype and not regions.xyxy.requires_grad
    assert regions.scores.dtype == dtype
    expected = torch.stack(values) if isinstance(values, list) and torch.is_tensor(values[0]) else values
    torch.testing.assert_close(regions.xyxy, torch.as_tensor(expected).detach().to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_ids_of_any_kind_become_python_integers(kind):
    ids = Regions(BOXES, ids=kind([4, 10**17, 0])).ids
    assert ids == (4, 10**17, 0) and all(type(number) is int for number in ids)
    assert Regions(BOXES, ids=range(3, 6)).ids == (3, 4, 5)


def test_later_changes_of_an_array_are_not_seen():
    boxes = np.array(BOXES)
    boxes.setflags(write=False)
    with np.errstate(all="raise"):
        assert Regions(boxes).xyxy.tolist() == BOXES
    boxes = np.array(BOXES)
    regions = Regions(boxes)
    boxes[:] = 0
    assert regions.xyxy.tolist() == BOXES


def test_later_changes_of_tensors_and_masks_are_not_seen(masks):
    boxes, scores, pixels = torch.tensor(BOXES), torch.tensor(SCORES), masks.copy()
    regions = Regions(boxes, scores, masks=pixels)
    boxes[:], scores[:], pixels[:] = 0, 0, True
    assert regions.xyxy.sum() > 0 and regions.scores.sum() > 0
    np.testing.assert_array_equal(regions.masks, masks)
    for index in (0, slice(None), [0, 1, 2], [True] * 3):
        part = regions[index]
        part.xyxy[:], part.scores[:], part.masks[:] = 0, 0, True
        assert regions.xyxy[0].sum() > 0 and regions.scores[0] > 0
        np.testing.assert_array_equal(regions.masks, masks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xyxy": [10, 20, 30, 40]}, r"`xyxy` must have shape \(number of regions, 4\), got \(4,\)"),
        ({"xyxy": [[1, 2, 3]] * 3}, r"got \(3, 3\)"),
        ({"xyxy": np.zeros((0, 5))}, r"got \(0, 5\)"),
        ({"xyxy": [BOXES]}, r"got \(1, 3, 4\)"),
        ({"xyxy": [[0, 0, 9, 9], [30, 20, 10, 40]]}, r"x1 <= x2 and y1 <= y2, got \[30\.0, 20\.0, 10\.0, 40\.0\]"),
        ({"xyxy": [[10, 20, 30, 19.5]]}, r"got \[10\.0, 20\.0, 30\.0, 19\.5\].*`boxes\.box_to_xyxy`"),
        ({"xyxy": [[1, 2, 3, 4], [1, 2]]}, "`xyxy` must be numbers"),
        ({"xyxy": "box"}, "`xyxy` must be numbers"),
        (
            {"xyxy": [[0, 0, 9, 9], [0, 0, float("nan"), 1]]},
            r"`xyxy` must be finite numbers, got nan at xyxy\[1\]\[2\]",
        ),
        ({"xyxy": None}, "`xyxy` must be finite numbers, got nan at xyxy"),
        ({"xyxy": [["1", "2", "3", "4"]]}, "`xyxy` must be numbers"),
        ({"xyxy": np.ones((3, 4), complex)}, "`xyxy` must be numbers"),
        ({"xyxy": torch.ones(3, 4, dtype=torch.complex64)}, "`xyxy` must be numbers"),
        ({"xyxy": torch.ones(3, 4, device="meta")}, "`xyxy` must be numbers"),
        ({"xyxy": torch.ones(3, 4).to_sparse()}, "`xyxy` must be numbers"),
        ({"xyxy": [[0, 0, 1, 10**400]]}, "`xyxy` must be numbers"),
        ({"xyxy": [[0, 0, 1, 1e300]]}, r"`xyxy` must be finite numbers, got inf at xyxy\[0\]\[3\]"),
        ({"xyxy": (box for box in BOXES)}, "`xyxy` must be numbers"),
        ({"scores": [True, False, True]}, "`scores` must be numbers"),
        ({"scores": torch.tensor([True, False, True])}, "`scores` must be numbers"),
        ({"scores": ["0.5", "0.5", "1"]}, "`scores` must be numbers"),
        ({"scores": 0.5}, r"`scores` must have shape \(3,\)"),
        ({"scores": [1.0, 1.0]}, r"`scores` must have shape \(3,\).*\(2,\)"),
        ({"scores": [[1.0]] * 3}, r"`scores` must have shape \(3,\).*\(3, 1\)"),
        ({"scores": [1.0, float("inf"), 0.0]}, "`scores` must be finite"),
        ({"ids": [1, 2]}, r"`ids` must be 3 non-negative integers.*\[1, 2\]"),
        ({"ids": [1, 2, -1]}, "`ids`"),
        ({"ids": 5}, "`ids` must be 3 non-negative integers.*got 5"),
        ({"ids": {4, 5, 6}}, "`ids` must be 3 non-negative integers"),
        ({"ids": [[1], [2], [3]]}, "`ids` must be 3 non-negative integers"),
        ({"ids": [[1], [2], [3, 4]]}, "`ids` must be an array or a list"),
        ({"ids": torch.tensor([1, 2, 3], dtype=torch.bfloat16)}, "`ids` must be an array or a list"),
        ({"masks": [np.zeros((4, 4), bool), np.zeros((4, 5), bool)]}, "`masks` must be an array or a list"),
        ({"masks": torch.zeros(3, 4, 4, dtype=torch.bfloat16)}, "`masks` must be an array or a list"),
        ({"masks": []}, r"`masks` must be a bool array of shape \(3, height, width\)"),
        ({"ids": [1, 2, 2.5]}, "`ids`"),
        ({"ids": [True, False, True]}, "`ids`"),
        ({"masks": np.zeros((3, 4, 4))}, r"`masks` must be a bool array of shape \(3, height, width\).*float64.*> 0`"),
        (
            {"masks": [{"size": [4, 4], "counts": "@"}] * 3},
            r"`masks` must be a bool array .*\(3,\). RLE .*`rle_to_mask`",
        ),
        ({"masks": np.zeros((2, 4, 4), bool)}, r"`masks`.*\(2, 4, 4\)"),
        ({"masks": np.zeros((4, 4), bool)}, r"`masks`.*\(4, 4\)"),
        ({"labels": ["a"]}, r"`labels` must be 3 texts.*\['a'\]"),
        ({"labels": "abc"}, "`labels` must be 3 texts"),
        ({"labels": ["a", None, "c"]}, "`labels` must be 3 texts.*None"),
        ({"labels": [1, 2, 3]}, "`labels` must be 3 texts"),
        ({"labels": b"abc"}, "`labels` must be 3 texts"),
        ({"labels": {"a", "b", "c"}}, "`labels` must be 3 texts"),
        ({"labels": (letter for letter in "abc")}, "`labels` must be 3 texts"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Regions(**{"xyxy": BOXES, **arguments})


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (torch.tensor(1), [1]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(1, 99), [1, 2]),
        ([2, 0], [2, 0]),
        ((1, -1), [1, 2]),
        (np.array([1, 1]), [1, 1]),
        (torch.tensor([2]), [2]),
        (range(2), [0, 1]),
        ([], []),
        ([True, False, True], [0, 2]),
        (np.array([False, True, False]), [1]),
        (torch.tensor([False] * 3), []),
    ],
)
def test_selecting_keeps_what_belongs_together(regions, masks, index, expected):
    found = regions[index]
    assert isinstance(found, Regions) and len(found) == len(expected)
    assert torch.equal(found.xyxy, regions.xyxy[expected]) and torch.equal(found.scores, regions.scores[expected])
    assert found.ids == tuple([4, 7, 0][position] for position in expected)
    assert found.labels == tuple(LABELS[position] for position in expected)
    np.testing.assert_array_equal(found.masks, masks[expected])


def test_regions_of_masks_have_the_boxes_around_them(masks):
    for given in (masks[:2], list(masks[:2]), torch.from_numpy(masks[:2])):
        found = Regions.from_masks(given, SCORES[:2], [4, 7], LABELS[:2])
        assert found.xyxy.tolist() == [[11, 20, 30, 40], [0, 0, 3, 1]] and found.ids == (4, 7)
        assert found.labels == tuple(LABELS[:2]) and found.scores.tolist() == pytest.approx(SCORES[:2])
        np.testing.assert_array_equal(found.masks, masks[:2])
    for none in ([], np.zeros((0, 4, 6), bool)):
        assert len(Regions.from_masks(none)) == 0
    with pytest.raises(ValueError, match="`masks` must have pixels for a box around them, but mask 2 is empty"):
        Regions.from_masks(masks)
    with pytest.raises(ValueError, match="`masks` must be a bool array of shape .*float64"):
        Regions.from_masks(masks * 1.0)
    with pytest.raises(ValueError, match=r"`masks` .* One mask becomes several by `mask\[None\]`"):
        Regions.from_masks(masks[0])
    with pytest.raises(ValueError, match=r"`scores` must have shape \(2,\)"):
        Regions.from_masks(masks[:2], [1.0])


@pytest.mark.parametrize("index", [3, -4, [0, 3], [True, False], np.zeros(0, bool), True, [[0]], "0", None, 0.5])
def test_there_must_be_a_region_at_a_position(regions, index):
    with pytest.raises(IndexError):
        regions[index]


def test_regions_by_their_numbers(regions):
    assert regions.with_ids([0, 4]).ids == (0, 4)
    assert torch.equal(regions.with_ids((0, 4, 0)).xyxy, regions.xyxy[[2, 0, 2]])
    assert len(regions.with_ids([])) == 0 and len(Regions([]).with_ids([])) == 0
    assert regions.with_ids(torch.tensor([7])).ids == regions.with_ids(np.array([7])).ids == (7,)
    with pytest.raises(ValueError, match=r"No region has the number 1, only \[4, 7, 0\]"):
        regions.with_ids([4, 1])
    twice = Regions(BOXES, ids=[4, 4, 7])
    assert torch.equal(twice.with_ids([7]).xyxy, twice.xyxy[2:])
    with pytest.raises(ValueError, match="2 regions have the number 4: select one by its position"):
        twice.with_ids([7, 4])


def test_repr_is_short(regions, masks):
    assert repr(regions[:1]) == "Regions(1: r4 [10.1, 20.0, 30.0, 40.0] 0.12 'a dog', masks of 64x48)"
    assert repr(Regions([])) == "Regions(0)"
    assert repr(Regions([[1, 2, 3, 4]])) == "Regions(1: r0 [1.0, 2.0, 3.0, 4.0] 1.00)"
    many = Regions(np.tile(BOXES, (40, 1)), masks=np.tile(masks, (40, 1, 1)), labels=["long " * 100] * 120)
    assert repr(many).startswith("Regions(120: r0 [") and repr(many).endswith("; …, masks of 64x48)")
    assert len(repr(many)) < 300


def test_copies_are_whole(regions):
    for other in (copy.deepcopy(regions), pickle.loads(pickle.dumps(regions))):
        assert other.to_dict() == regions.to_dict() and other is not regions
    with pytest.raises(dataclasses.FrozenInstanceError):
        regions.ids = ()


def test_regions_one_by_one(regions, masks):
    seen = [(region.id, region.box.tolist(), region.score, region.label) for region in regions]
    assert seen == [
        (number, pytest.approx(box), pytest.approx(score), label)
        for number, box, score, label in zip([4, 7, 0], BOXES, SCORES, LABELS)
    ]
    assert all(isinstance(score, float) for _, _, score, _ in seen)
    np.testing.assert_array_equal(regions[1].mask, masks[1])
    assert regions[0].box.shape == (4,)


@pytest.mark.parametrize("name", ["id", "box", "score", "label", "mask"])
def test_what_one_region_has_is_not_asked_of_several(regions, name):
    for several in (regions, regions[:0]):
        with pytest.raises(ValueError, match=f"`{name}` belongs to one region, but these are {len(several)}"):
            getattr(several, name)


def test_to_dict_is_json(regions, masks):
    plain = regions[:2].to_dict()
    assert json.loads(json.dumps(plain)) == plain
    found = [region.pop("mask") for region in plain["regions"]]
    assert plain["regions"] == [
        {"id": 4, "box_xyxy": [10.13, 20.0, 30.0, 40.0], "score": 0.1235, "label": "a dog"},
        {"id": 7, "box_xyxy": [0.0, 0.0, 4.0, 2.0], "score": 0.5, "label": "a cup"},
    ]
    np.testing.assert_array_equal([rle_to_mask(rle) for rle in found], masks[:2])
    assert set(Regions(BOXES).to_dict()["regions"][0]) == {"id", "box_xyxy", "score"}


def test_to_coco_without_masks():
    box, _, other = Regions(np.array(BOXES), np.array(SCORES)).to_coco(9, [3, 1, 2])
    assert box == {
        "image_id": 9,
        "category_id": 3,
        "bbox": [10.126, 20.0, 30 - 10.126, 20.0],
        "score": 0.123456,
        "area": pytest.approx((30 - 10.126) * 20, abs=1e-9),
        "iscrowd": 0,
    }
    assert (other["category_id"], other["area"]) == (2, 12.0)
    with pytest.raises(ValueError, match="`category_id` must be one number or 3, got 2"):
        Regions(BOXES).to_coco(9, [1, 2])
    for category in (1.5, "abc", [1, 2, 3.5], [1, True, "3"], True):
        with pytest.raises(ValueError, match="`category_id` must be"):
            Regions(BOXES).to_coco(9, category)


@pytest.mark.parametrize("kind", [np.int64, torch.tensor])
def test_to_coco_has_plain_integers(kind):
    entries = Regions(BOXES).to_coco(kind(9), kind(3))
    assert json.loads(json.dumps(entries)) == entries
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(9, 3)] * 3


def test_cocos_tools_read_what_to_coco_gives(regions, masks):
    entries = json.loads(json.dumps(regions[:2].to_coco(image_id=9)))
    assert [entry["area"] for entry in entries] == [380.0, 3.0]
    np.testing.assert_array_equal(coco_mask.decode(entries[0]["segmentation"]), masks[0])
    truth = COCO(
        {
            "images": [{"id": 9, "height": 48, "width": 64}],
            "annotations": [{**entry, "id": number} for number, entry in enumerate(entries, start=1)],
            "categories": [{"id": 1}],
        }
    )
    for kind in ("bbox", "segm"):
        evaluation = COCOeval_faster(truth, truth.loadRes(entries), iouType=kind, print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0), kind


def test_to_supervision(regions, masks, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    found = regions.to_supervision()
    assert found.xyxy.dtype == found.confidence.dtype == np.float32
    assert found.xyxy.tolist() == [pytest.approx(box) for box in BOXES]
    assert found.confidence.tolist() == pytest.approx(SCORES)
    assert found.class_id.tolist() == [0, 1, 0], "labels in the order in which they come"
    assert found.data["class_name"].tolist() == LABELS
    assert found.data["region_id"].tolist() == [4, 7, 0]
    assert found.mask is regions.masks
    plain = Regions(np.array(BOXES)).to_supervision()
    assert plain.xyxy.dtype == np.float32 and plain.mask is None
    assert plain.class_id.tolist() == [0, 0, 0] and set(plain.data) == {"region_id"}


def test_supervision_is_named_where_it_is_missing(regions, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        regions.to_supervision()


@pytest.mark.parametrize("target_sizes", [[(100, 200), (50, 50)], torch.tensor([[100, 200], [50, 50]])])
def test_regions_of_slots_keep_their_numbers(target_sizes):
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.5, 0.5, float("nan"), 1], [0.9, 0.9, 0.4, 0.4]]).repeat(2, 1, 1)
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    mask = torch.tensor([[True, True, True], [False, True, True]])
    first, second = regions_of_slots(boxes, scores, mask, target_sizes)
    torch.testing.assert_close(first.xyxy, torch.tensor([[75.0, 25, 125, 75], [140, 70, 200, 100]]))
    assert (first.ids, second.ids) == ((0, 2), (2,)), "a box that is not finite is not a region"
    torch.testing.assert_close(first.scores, torch.tensor([0.9, 0.7]))
    torch.testing.assert_close(second.xyxy, torch.tensor([[35.0, 35, 50, 50]]))
    fractions = regions_of_slots(boxes, scores, mask)
    torch.testing.assert_close(fractions[1].xyxy, torch.tensor([[0.7, 0.7, 1, 1]]))
    with pytest.raises(ValueError, match="`target_sizes`.*got 1 for 2"):
        regions_of_slots(boxes, scores, mask, [(100, 200)])


def test_a_line_or_a_point_has_no_extent():
    boxes = [[0, 0, 0, 0], [10, 20, 30, 40], [10, 20, 10, 40], [10, 20, 30, 20], [0, 0, 0.5, 0.5]]
    found = with_extent(Regions(boxes, ids=[3, 4, 5, 6, 7], labels=list("abcde")))
    assert found.ids == (4, 7) and found.labels == ("b", "e")
    assert len(with_extent(Regions([]))) == 0


def test_a_box_may_be_a_line_or_a_point():
    assert len(Regions([[5, 5, 5, 9], [5, 5, 9, 5], [5, 5, 5, 5]])) == 3
