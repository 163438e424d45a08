"""Evaluation following LVIS: by hand, and against the output of LVIS's own program."""

import json
from pathlib import Path
from typing import Any

import pytest

from transformers_groma.evaluation.metrics import lvis_average_precision as lvis_eval
from transformers_groma.evaluation.metrics.lvis_average_precision import lvis_ground_eval, lvis_metrics

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"
# How the manifest names the metrics.
NAMES = {
    **{"AP": "ap", "AP50": "ap@0.5", "AP75": "ap@0.75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large"},
    **{"APr": "ap_rare", "APc": "ap_common", "APf": "ap_frequent"},
    **{"AR@300": "ar", "AR50": "ar@0.5", "AR75": "ar@0.75"},
    **{"ARs@300": "ar_small", "ARm@300": "ar_medium", "ARl@300": "ar_large"},
}
CUPS = [[100.0 * i, 0.0, 100.0 * i + 50, 50.0] for i in range(4)]
DOG = [[0.0, 200.0, 150.0, 350.0]]


@pytest.mark.parametrize("name", ["jittered_gt_results", "jittered_gt_results_score1"])
def test_metrics_of_the_lvis_sample(name):
    """100 real images, made-up detections; the second file scores all alike, as the released Groma script does."""
    if not REALDATA.is_dir():
        pytest.skip("the real samples are not beside this checkout (../shared/realdata)")
    file = f"derived/lvis_val_100_{name}.json"
    manifest = json.loads((REALDATA / "manifest.json").read_text())
    expected = next(entry for entry in manifest["files"] if entry["file"] == file)["expected"]["figures"]
    truth = json.loads((REALDATA / "lvis" / "lvis_val_100.json").read_text())
    metrics = lvis_metrics(truth, json.loads((REALDATA / file).read_text()))
    assert metrics == pytest.approx({NAMES[key]: value for key, value in expected.items()}, abs=1e-12)


def test_ground_eval_of_the_lvis_sample_is_the_recall_of_its_file():
    """Questions of the sample, one an image and category, score as the file that the released script would write."""
    if not REALDATA.is_dir():
        pytest.skip("the real samples are not beside this checkout (../shared/realdata)")
    truth = json.loads((REALDATA / "lvis" / "lvis_val_100.json").read_text())
    results = json.loads((REALDATA / "derived" / "lvis_val_100_jittered_gt_results_score1.json").read_text())
    columns: dict[tuple[int, int], tuple[list, list, list]] = {}
    for entry in truth["annotations"]:
        boxes, _, areas = columns.setdefault((entry["image_id"], entry["category_id"]), ([], [], []))
        boxes.append(xyxy(entry["bbox"]))
        areas.append(entry["area"])
    # Nobody asks for what is not there, so those false positives are left out.
    for entry in results:
        if (key := (entry["image_id"], entry["category_id"])) in columns:
            columns[key][1].append(xyxy(entry["bbox"]))
    targets, predictions, areas = ([column[part] for column in columns.values()] for part in range(3))
    metrics = lvis_ground_eval(
        predictions,
        targets,
        [str(category) for _, category in columns],
        [str(image) for image, _ in columns],
        areas,
    )
    whole = lvis_metrics(truth, results)
    # False positives take no target away, and so no recall.
    assert metrics == pytest.approx({name: whole[name] for name in metrics}, abs=1e-12)
    assert list(metrics) == ["ar", "ar@0.5", "ar@0.75", "ar_small", "ar_medium", "ar_large"]


def xyxy(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def test_recall_is_averaged_over_categories():
    """1 of 4 cups and the dog: (1/4 + 1) / 2, while over all targets it is 2 of 5."""
    metrics = lvis_ground_eval([CUPS[:1], DOG], [CUPS, DOG], ["cup", "dog"], ["1", "1"])
    assert metrics["ar"] == metrics["ar@0.5"] == metrics["ar@0.75"] == pytest.approx(0.625)
    assert (metrics["ar_small"], metrics["ar_medium"], metrics["ar_large"]) == (-1.0, 0.25, 1.0)


def test_all_boxes_count():
    """More boxes than targets do no harm here, unlike under AS-MANY."""
    wrong = [[100.0 * i, 500.0, 100.0 * i + 50, 550.0] for i in range(50)]
    assert lvis_ground_eval([wrong + CUPS], [CUPS], ["cup"], ["1"])["ar"] == 1
    # But no more than 300 an image, whatever is asked for.
    assert lvis_ground_eval([wrong * 6 + CUPS], [CUPS], ["cup"], ["1"])["ar"] == 0
    both = lvis_ground_eval([wrong * 6, DOG], [CUPS, DOG], ["cup", "dog"], ["1", "1"])
    assert both["ar"] == 0


def test_a_category_in_several_images():
    """Boxes of one image hit nothing in another; recall is over all targets of a category."""
    metrics = lvis_ground_eval([CUPS, []], [CUPS, CUPS[:1]], ["cup", "cup"], ["1", "2"])
    assert metrics["ar"] == pytest.approx(0.8)
    assert lvis_ground_eval([DOG, CUPS], [CUPS, DOG], ["cup", "cup"], ["1", "2"])["ar"] == 0


def test_areas_of_masks():
    metrics = lvis_ground_eval([CUPS[:1]], [CUPS[:2]], ["cup"], ["1"], areas=[[100.0, 9000.0]])
    assert (metrics["ar_small"], metrics["ar_medium"]) == (1.0, 0.0)


def test_nothing_found_and_nothing_to_find():
    assert lvis_ground_eval([[]], [CUPS], ["cup"], ["1"])["ar"] == 0
    assert set(lvis_ground_eval([CUPS], [[]], ["cup"], ["1"]).values()) == {-1.0}


def annotations(image: int, category: int, boxes: list, **more: Any) -> list[dict]:
    return [
        {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], **more} for box in boxes
    ]


BOX, FAR = [0.0, 0.0, 50.0, 50.0], [300.0, 300.0, 50.0, 50.0]


@pytest.mark.parametrize(
    ("image", "ap"),
    [
        # Nobody looked for category 2 in the second image: what is found there is not judged.
        ({}, 1.0),
        # Somebody looked for it, and it is not there.
        ({"neg_category_ids": [2]}, 0.5),
        ({"neg_category_ids": [2], "not_exhaustive_category_ids": [2]}, 1.0),
    ],
)
def test_only_what_was_looked_for_is_judged(image, ap):
    truth = {
        "images": [{"id": 1}, {"id": 2, **image}],
        "categories": [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "r"}],
        "annotations": annotations(1, 2, [BOX]) + annotations(2, 1, [BOX]),
    }
    results = annotations(2, 2, [BOX], score=0.9) + annotations(1, 2, [BOX], score=0.8)
    metrics = lvis_metrics(truth, results)
    assert metrics["ap_rare"] == pytest.approx(ap)
    assert (metrics["ap_frequent"], metrics["ap_common"]) == (0.0, -1.0)
    assert metrics["ar"] == 0.5


def test_objects_that_were_not_all_drawn():
    """A box beside the target is wrong, unless the annotators did not draw all objects of the category."""
    for not_exhaustive, ap in (([], 0.5), ([2], 1.0)):
        truth = {
            "images": [{"id": 1, "not_exhaustive_category_ids": not_exhaustive}],
            "categories": [{"id": 2, "frequency": "f"}],
            "annotations": annotations(1, 2, [BOX]),
        }
        results = annotations(1, 2, [FAR], score=0.9) + annotations(1, 2, [BOX], score=0.8)
        assert lvis_metrics(truth, results)["ap"] == pytest.approx(ap)


def test_many_images_cost_little(monkeypatch):
    """However many images there are, the evaluation visits no more than the category with the most of them has."""
    visited = []
    original = lvis_eval.COCO

    def spy(dataset: dict) -> Any:
        visited.append(len(dataset["images"]))
        return original(dataset)

    monkeypatch.setattr(lvis_eval, "COCO", spy)
    count = 400
    categories = [str(index // 4) for index in range(count)]
    metrics = lvis_ground_eval([CUPS[:1]] * count, [CUPS[:2]] * count, categories, [str(i) for i in range(count)])
    assert visited == [4, 4]
    assert metrics["ar"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], [], []), "`predictions` is empty"),
        (([CUPS], [CUPS], ["cup"], []), "`image_ids` must have one entry for each of the 1 `predictions`, got 0"),
        (([CUPS], [CUPS], [], ["1"]), "`categories` must have one entry"),
        (([CUPS], [CUPS], ["cup"], ["1"], [[1.0]]), r"`areas\[0\]` must have one value for each box: 4, got 1"),
        (([CUPS] * 2, [CUPS] * 2, ["cup"] * 2, ["7"] * 2), "image '7' is asked for 'cup' twice, in rows 0 and 1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        lvis_ground_eval(*arguments)


def test_results_on_unknown_images():
    truth = {"images": [{"id": 1}], "categories": [{"id": 2, "frequency": "f"}], "annotations": []}
    with pytest.raises(ValueError, match="name the image 9, which is not among the images"):
        lvis_metrics(truth, annotations(9, 2, [BOX], score=0.9))


def test_every_metric_is_over_its_own_thresholds_sizes_and_frequencies():
    """A medium target of a frequent category, found with an IoU of 0.6; a large one of a rare one, found exactly."""
    large = [100.0, 100.0, 200.0, 200.0]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "r"}, {"id": 3, "frequency": "c"}],
        "annotations": annotations(1, 1, [BOX]) + annotations(1, 2, [large]),
    }
    results = annotations(1, 1, [[0.0, 0.0, 50.0, 30.5]], score=0.9) + annotations(1, 2, [large], score=0.8)
    metrics = lvis_metrics(truth, results)
    shared = {"": 0.65, "@0.5": 1.0, "@0.75": 0.5, "_small": -1.0, "_medium": 0.3, "_large": 1.0}
    expected = {f"{kind}{name}": value for kind in ("ap", "ar") for name, value in shared.items()}
    assert metrics == pytest.approx(expected | {"ap_rare": 1.0, "ap_common": -1.0, "ap_frequent": 0.3})


def test_the_best_300_boxes_of_an_image_count():
    """Whatever their order and their category."""
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "f"}],
        "annotations": annotations(1, 1, [BOX]) + annotations(1, 2, [BOX]),
    }
    wrong = annotations(1, 2, [FAR], score=0.5) * 299
    for score, ar in ((0.6, 0.5), (0.4, 0.0)):
        right = annotations(1, 1, [BOX], score=score)
        for results in ([*right, *wrong, *wrong[:1]], [*wrong, *wrong[:1], *right]):
            assert lvis_metrics(truth, results)["ar"] == ar
    # One of 300 is the last that counts.
    assert lvis_metrics(truth, [*wrong, *annotations(1, 1, [BOX], score=0.4)])["ar"] == 0.5
    # Each image has its own 300.
    two = {
        **truth,
        "images": [{"id": 1}, {"id": 2}],
        "annotations": annotations(1, 1, [BOX]) + annotations(2, 1, [BOX]),
    }
    others = annotations(2, 2, [FAR], score=0.5) * 300
    assert lvis_metrics(two, [*others, *annotations(1, 1, [BOX], score=0.1)])["ar"] == 0.5


def test_among_equal_scores_the_order_of_the_images_decides():
    ids = [(7 * number) % 31 + 1 for number in range(30)]
    truth = {
        "images": [{"id": image} for image in ids],
        "categories": [{"id": 1, "frequency": "f"}],
        "annotations": [entry for image in ids for entry in annotations(image, 1, [BOX])],
    }

    def results(score) -> list[dict]:
        return [
            {"image_id": image, "category_id": 1, "bbox": BOX if image % 3 else FAR, "score": score(image)}
            for image in ids
        ]

    equal, falling = results(lambda image: 0.5), results(lambda image: 0.5 - image / 1000)
    rising = results(lambda image: 0.5 + image / 1000)
    assert lvis_metrics(truth, equal) == lvis_metrics(truth, falling)
    assert lvis_metrics(truth, equal)["ap"] != lvis_metrics(truth, rising)["ap"]


def test_ground_eval_takes_areas_of_boxes_where_none_are_given():
    # 32 x 32 pixels are the largest small object, 96 x 96 the largest medium one, for COCO.
    small, medium, large = ([[0.0, 0.0, side, side]] for side in (31.9, 95.9, 96.1))
    metrics = lvis_ground_eval(
        [small, medium, [[500, 500, 501, 501]]], [small, medium, large], ["a", "b", "c"], ["1"] * 3
    )
    assert (metrics["ar_small"], metrics["ar_medium"], metrics["ar_large"]) == (1.0, 1.0, 0.0)
    assert metrics["ar"] == pytest.approx(2 / 3)
