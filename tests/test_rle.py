"""Run-length encoding of masks: identical to COCO's tools, and back; areas, boxes and IoU without decoding."""

import json

import numpy as np
import pytest
from faster_coco_eval import mask as coco

from transformers_groma.masks import mask_to_rle, rle_area, rle_iou, rle_to_box, rle_to_mask

from .processing.samples import real_sample


def masks():
    generator = np.random.default_rng(0)
    wide = np.zeros((40, 3000), bool)
    wide[3:30, 5:2900] = True  # runs longer than two letters hold, and differences of both signs
    corner = np.zeros((5, 7), bool)
    corner[0, 0] = True
    last = np.zeros((5, 7), bool)
    last[-1, -1] = True
    yy, xx = np.mgrid[:480, :640]
    yield from {
        "empty": np.zeros((5, 7), bool),
        "full": np.ones((5, 7), bool),
        "one pixel": np.ones((1, 1), bool),
        "first pixel": corner,
        "last pixel": last,
        "row": np.ones((1, 9), bool),
        "column": np.ones((9, 1), bool),
        "noise": generator.random((33, 21)) > 0.5,
        "sparse noise": generator.random((200, 300)) > 0.99,
        "wide": wide,
        "disc": (yy - 200) ** 2 + (xx - 300) ** 2 < 150**2,
        "transposed": (generator.random((21, 33)) > 0.3).T,
        "every other pixel": (generator.random((40, 60)) > 0.3)[::-2, ::3],
        "column by column": np.asfortranarray(generator.random((40, 60)) > 0.7),
    }.items()


@pytest.mark.parametrize(("name", "mask"), masks())
def test_masks_are_written_as_coco_writes_them_and_read_back(name, mask):
    rle = mask_to_rle(mask)
    expected = coco.encode(np.asfortranarray(mask, np.uint8))
    assert rle == {"size": [int(side) for side in expected["size"]], "counts": expected["counts"].decode()}
    for written in (rle, expected):
        found = rle_to_mask(written)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(coco.decode({**rle, "counts": rle["counts"].encode()}), mask)


@pytest.mark.parametrize(("columns", "part"), [(1, 12), (5, 13), (64, 40)])
def test_large_masks_are_written_and_read_in_parts(columns, part, monkeypatch):
    monkeypatch.setattr("transformers_groma.rle._COLUMNS", columns)
    monkeypatch.setattr("transformers_groma.rle._PART", part)
    for name, mask in masks():
        for layout in (np.ascontiguousarray, np.asfortranarray):
            test_masks_are_written_as_coco_writes_them_and_read_back(name, layout(mask))
    with pytest.raises(ValueError, match="a number of more than 60 bits"):
        rle_to_mask({"size": [2, 3], "counts": "2" + "o" * 12 + "0"})


def test_masks_of_no_pixels():
    assert mask_to_rle(np.zeros((0, 4), bool))["size"] == [0, 4]
    assert rle_to_mask(mask_to_rle(np.zeros((0, 4), bool))).shape == (0, 4)


@pytest.mark.parametrize("kind", [list, np.array])
def test_counts_may_be_the_numbers_themselves(kind):
    rle = {"size": kind([2, 3]), "counts": kind([2, 3, 1])}
    assert rle_to_mask(rle).tolist() == [[False, True, True], [False, True, False]]
    assert rle_to_mask({"size": (2, 3), "counts": bytearray(b"231")}).tolist() == rle_to_mask(rle).tolist()


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 3), np.uint8), np.zeros(3, bool), np.zeros((1, 2, 3), bool), [[0.5]], [[True], []]]
)
def test_only_a_bool_image_is_a_mask(mask):
    with pytest.raises(ValueError, match="`mask` must be a bool array of shape"):
        mask_to_rle(mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"counts": "231"}, "'size'"),
        ({"size": [2, 3]}, "'counts'"),
        ({"size": [2, 4], "counts": "231"}, "cover 6 pixels.* 4x2 .*has 8"),
        ({"size": [2, 3], "counts": [5, 2, -1]}, "damaged"),
        ({"size": [2, 3], "counts": "23"}, "cover 5 pixels"),
        ({"size": [2, 3], "counts": "23R"}, "end in the middle"),
        ({"size": [2, 3], "counts": "2 1"}, "contain ' '"),
        ({"size": [2, 3], "counts": b"2\xff1"}, "contain"),
        ([[1, 2, 3, 4, 5, 6]], "must be a dict.*Polygons become masks"),
        (None, "must be a dict"),
        ({"size": "23", "counts": "231"}, "`size` must be integers"),
        ({"size": [2.7, 3.2], "counts": "231"}, "`size` must be integers"),
        ({"size": None, "counts": "231"}, "`size` must be integers"),
        ({"size": [2, 3, 1], "counts": "231"}, r"`size` must be \[height, width\], got \[2, 3, 1\]"),
        ({"size": [-2, -3], "counts": "231"}, r"`size` must be \[height, width\]"),
        ({"size": [2, 3], "counts": [2.5, 3.5]}, "`counts` must be integers"),
        ({"size": [2, 3], "counts": ["2", "3", "1"]}, "`counts` must be integers"),
        ({"size": [2, 3], "counts": 6}, "`counts` must be integers"),
        ({"size": [2, 3], "counts": [-1, 7]}, "run of -1 pixels"),
        ({"size": [2, 3], "counts": [7, -1]}, "run of 7 pixels.* 3x2 .*has 6"),
        ({"size": [2, 3], "counts": [2**64, 6]}, "`counts` must be integers"),
        ({"size": [2, 3], "counts": [2**63, 6]}, "`counts` must be integers"),
        ({"size": [2, 3], "counts": [[2, 3, 1]]}, "`counts` must be integers"),
        # Differences whose sum would be 0 in 64 bits.
        ({"size": [2, 3], "counts": "0" + "60" + f"{'P' * 11}8" * 128}, "run of 288230376151711750 pixels"),
        ({"size": [2, 3], "counts": "o" * 20_000 + "1"}, "more than 60 bits"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "1000000x1000000 .* are more than"),
    ],
)
def test_damaged_encodings_are_named(rle, message):
    with pytest.raises(ValueError, match=message):
        rle_to_mask(rle)


@pytest.mark.parametrize(("name", "mask"), masks())
def test_areas_and_boxes_are_those_of_coco(name, mask):
    rle = mask_to_rle(mask)
    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    x, y, width, height = coco.toBbox(encoded).tolist()
    box = rle_to_box(rle)
    assert box.dtype == np.float32 and box.tolist() == [x, y, x + width, y + height]
    assert rle_area(rle) == coco.area(encoded) and type(rle_area(rle)) is int


def test_runs_of_nothing_change_nothing():
    # As programs write them that begin and end every column with a run of its own.
    rle = {"size": [2, 4], "counts": [0, 0, 2, 1, 0, 1, 0, 0, 1, 0, 3]}
    expected = mask_to_rle(rle_to_mask(rle))
    assert rle_to_mask(rle).tolist() == [[False, True, False, False], [False, True, False, False]]
    assert rle_to_box(rle).tolist() == rle_to_box(expected).tolist() == [1, 0, 2, 2]
    assert rle_area(rle) == 2 and rle_iou([rle], [expected]).tolist() == [[1.0]]


def random_masks(generator: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Noise, rectangles and empty masks."""
    found = generator.random((count, height, width)) > generator.random((count, 1, 1))
    for mask in found[::2]:
        top, bottom = sorted(generator.integers(0, height + 1, 2))
        left, right = sorted(generator.integers(0, width + 1, 2))
        mask[:] = False
        mask[top:bottom, left:right] = True
    return found


@pytest.mark.parametrize("seed", range(40))
def test_iou_is_that_of_coco(seed):
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 40, 2)
    masks_a, masks_b = random_masks(generator, 5, height, width), random_masks(generator, 4, height, width)
    is_crowd = generator.random(4) > 0.5
    encoded_a, encoded_b = (
        [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks] for masks in (masks_a, masks_b)
    )
    expected = coco.iou(encoded_a, encoded_b, is_crowd.astype(int).tolist())
    np.testing.assert_array_equal(rle_iou(encoded_a, encoded_b, is_crowd), expected)
    rles_a, rles_b = ([mask_to_rle(mask) for mask in masks] for masks in (masks_a, masks_b))
    np.testing.assert_array_equal(rle_iou(rles_a, rles_b, is_crowd.astype(int).tolist()), expected)
    np.testing.assert_array_equal(rle_iou(rles_a, rles_b), coco.iou(encoded_a, encoded_b, [0] * 4))
    assert rle_iou(rles_a, []).shape == (5, 0) and rle_iou([], rles_b, is_crowd).shape == (0, 4)


def test_iou_of_what_does_not_belong_together():
    small, large = mask_to_rle(np.ones((2, 3), bool)), mask_to_rle(np.ones((3, 2), bool))
    with pytest.raises(ValueError, match=r"masks of one image, got sizes \[2, 3\] and \[3, 2\]"):
        rle_iou([small], [large])
    with pytest.raises(ValueError, match=r"must be lists of RLE.*`\[rle\]`"):
        rle_iou(small, [small])
    for is_crowd in ([True], [0, 2], [0.0, 1.0], "no", [[0, 1]]):
        with pytest.raises(ValueError, match="`is_crowd` must be 2 bools"):
            rle_iou([small], [small, small], is_crowd)


def test_results_and_crowds_of_coco():
    folder = real_sample("cocoapi")
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    encoded = [result["segmentation"] for result in results]
    read = [{**rle, "counts": rle["counts"].encode()} for rle in encoded]
    x, y, widths, heights = coco.toBbox(read).T
    np.testing.assert_array_equal([rle_to_box(rle) for rle in encoded], np.stack([x, y, x + widths, y + heights], 1))
    assert [rle_area(rle) for rle in encoded] == coco.area(read).tolist()
    for rle in encoded:
        assert mask_to_rle(rle_to_mask(rle)) == rle
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    crowds = [found for found in truth["annotations"] if found["iscrowd"]]
    assert len(crowds) == 9
    for crowd in crowds:
        rle = crowd["segmentation"]  # its counts are numbers
        mask = mask_to_rle(rle_to_mask(rle))
        assert mask["counts"].encode() == coco.frPyObjects(rle, *rle["size"])["counts"]
        of_image = [result["segmentation"] for result in results if result["image_id"] == crowd["image_id"]]
        expected = coco.iou(
            [{**other, "counts": other["counts"].encode()} for other in of_image],
            [{**mask, "counts": mask["counts"].encode()}],
            [1],
        )
        np.testing.assert_array_equal(rle_iou(of_image, [rle], [True]), expected)
