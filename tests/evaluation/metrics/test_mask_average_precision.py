"""Average precision of masks: COCO's published metrics on its sample, and handmade masks."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.average_precision import coco_metrics
from transformers_groma.evaluation.metrics.mask_average_precision import class_agnostic_mask_metrics
from transformers_groma.masks import mask_to_rle, rle_area

from .masks import coco_masks, filled, real

NAMES = {
    **{"AP": "ap", "AP50": "ap@0.5", "AP75": "ap@0.75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large"},
    **{"AR@1": "ar@1", "AR@10": "ar@10", "AR@100": "ar@100"},
    **{"ARs": "ar_small", "ARm": "ar_medium", "ARl": "ar_large"},
}


def as_text(rle: dict) -> dict:
    """RLE of pycocotools, whose counts are bytes, as ours."""
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


@pytest.fixture(scope="module")
def sample() -> tuple[dict, dict]:
    return coco_masks()


def test_published_metrics(sample):
    """Those of COCO's own fakesegm100 results, with classes."""
    targets, found = sample
    [published] = [
        entry["expected"]["figures"]
        for entry in real("manifest.json")["files"]
        if entry["file"] == "cocoapi/instances_val2014_fakesegm100_results.json"
    ]
    truth = [{**entry, "segmentation": as_text(entry["segmentation"])} for of in targets.values() for entry in of]
    results = [{**entry, "segmentation": as_text(entry["segmentation"])} for of in found.values() for entry in of]
    results = [{**entry, "area": rle_area(entry["segmentation"])} for entry in results]
    metrics = coco_metrics(truth, results, list(targets), use_categories=True, iou_type="segm")
    assert {name: metrics[ours] for name, ours in NAMES.items()} == pytest.approx(published, abs=1e-9)


def test_without_classes_as_pycocotools(sample):
    """The same metrics as pycocotools' `COCOeval` with `useCats` 0, crowds included."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    # pycocotools goes through categories in order, which decides between equal scores.
    targets, found = (
        {image: sorted(entries, key=lambda entry: entry["category_id"]) for image, entries in by_image.items()}
        for by_image in sample
    )
    images = sorted(targets)
    reference, results = coco.COCO(), coco.COCO()
    for holder, by_image in ((reference, targets), (results, found)):
        entries = [
            {"iscrowd": 0, **entry, "id": number, "area": float(rle_area(as_text(entry["segmentation"])))}
            for number, entry in enumerate((entry for image in images for entry in by_image[image]), start=1)
        ]
        sizes = {image: as_text(targets[image][0]["segmentation"])["size"] for image in images if targets[image]}
        holder.dataset = {
            "images": [{"id": image, "height": sizes[image][0], "width": sizes[image][1]} for image in sizes],
            "annotations": entries,
            "categories": [{"id": category} for category in range(1, 91)],
        }
        holder.createIndex()
    evaluation = cocoeval.COCOeval(reference, results, "segm")
    evaluation.params.useCats = 0
    evaluation.params.imgIds = images
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    metrics = class_agnostic_mask_metrics(
        [
            ([as_text(entry["segmentation"]) for entry in found[image]], [entry["score"] for entry in found[image]])
            for image in images
        ],
        [[as_text(entry["segmentation"]) for entry in targets[image] if not entry["iscrowd"]] for image in images],
        crowds=[[as_text(entry["segmentation"]) for entry in targets[image] if entry["iscrowd"]] for image in images],
    )
    assert [metrics[name] for name in NAMES.values()] == pytest.approx(evaluation.stats.tolist(), abs=1e-9)


def test_masks_decide_and_not_their_boxes():
    triangle, box = np.tri(12, dtype=bool), np.ones((12, 12), bool)
    metrics = class_agnostic_mask_metrics([([box], [0.9])], [[triangle]])
    # The boxes are equal; the IoU of the masks is 78 / 144.
    assert metrics["ap@0.5"] == pytest.approx(1) and metrics["ap@0.75"] == 0 and metrics["ar@100"] == 0.1


def test_arrays_and_rle():
    masks = [filled(0, 0, 4, 4), filled(8, 0, 16, 12)]
    rles = [mask_to_rle(mask) for mask in masks]
    for found in (masks, rles):
        for target in (masks, rles):
            assert class_agnostic_mask_metrics([(found, [0.5, 0.4])], [target])["ar@100"] == 1


def test_the_best_masks_count():
    right, wrong = filled(0, 0, 4, 4), filled(8, 0, 12, 4)
    metrics = class_agnostic_mask_metrics([([wrong, right], [0.2, 0.9])], [[right]], max_detections=(1,))
    assert metrics["ar@1"] == 1
    metrics = class_agnostic_mask_metrics([([wrong, right], [0.9, 0.2])], [[right]], max_detections=(1,))
    assert metrics["ar@1"] == 0


def test_crowds_are_neither_right_nor_wrong():
    crowd, inside, target = filled(8, 0, 16, 12), filled(9, 2, 12, 6), filled(0, 0, 4, 4)
    for crowds, ap in (([[crowd]], 1), ([[]], 0.5), (None, 0.5)):
        metrics = class_agnostic_mask_metrics([([inside, target], [0.9, 0.8])], [[target]], crowds=crowds)
        assert metrics["ap"] == pytest.approx(ap, abs=0.01)


def test_images_without_masks():
    nothing = class_agnostic_mask_metrics([([], [])], [[]])
    assert nothing["ap"] == nothing["ar@100"] == -1
    missed = class_agnostic_mask_metrics([([], []), ([], [])], [[filled(0, 0, 4, 4)], []])
    assert missed["ap"] == missed["ar@100"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "need one entry for each image, got 0 and 0"),
        (([([], [])], []), "need one entry for each image, got 1 and 0"),
        (([([], [])], [[]], (1,), []), "`crowds` needs one entry for each image, got 0 for 1"),
        (
            ([([filled(0, 0, 2, 2)], [])], [[]]),
            r"`predictions\[0\]` must have one finite score for each of its 1 masks",
        ),
        (([([filled(0, 0, 2, 2)], [np.nan])], [[]]), r"`predictions\[0\]` must have one finite score"),
        (([([], [])], [filled(0, 0, 2, 2)]), r"`targets\[0\]` must be a list of masks, got ndarray"),
        (([([], [])], [[{"size": [2, 2], "counts": "1"}]]), r"`targets\[0\]\[0\]`: `rle` is damaged"),
        (([([filled(0, 0, 2, 2).T], [1])], [[filled(0, 0, 2, 2)]]), "The masks of image 0 have different sizes"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        class_agnostic_mask_metrics(*arguments)
