"""Annotated segmentations as RLE."""

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Image as ImageFeature
from PIL import Image

from processing import coco
from processing.masks import compact_segmentation, masks_of, upright_masks, usable_masks
from transformers_groma._text import parse_json
from transformers_groma.data.image_files import turned_boxes
from transformers_groma.masks import mask_to_rle, polygons_to_mask, rle_area, rle_to_box, rle_to_mask

from . import wild
from .samples import real_sample
from .wild import HEIGHT, WIDTH

BOX = wild.CORNERS
POLYGON = [4, 6, 24, 6, 24, 15, 4, 15]
SQUARE = np.zeros((HEIGHT, WIDTH), dtype=bool)
SQUARE[6:15, 4:24] = True


def read(segmentation, box=BOX):
    (mask,), left_out = usable_masks([segmentation], [box], WIDTH, HEIGHT, [7])
    return mask, [str(part) for part in left_out]


@pytest.mark.parametrize(
    "segmentation",
    [
        [POLYGON],
        [POLYGON[:6], [24, 15, 4, 15, 4, 6]],  # in two parts
        [[[4, 6], [24, 6], [24, 15], [4, 15]]],  # points of their own
        mask_to_rle(SQUARE),
        {"size": [HEIGHT, WIDTH], "counts": [4 * 30 + 6, *[9, 21] * 19, 9, 15 + 16 * 30]},
    ],
)
def test_polygons_and_both_kinds_of_rle(segmentation):
    for form in (segmentation, compact_segmentation(segmentation)):
        mask, left_out = read(form)
        assert mask == mask_to_rle(SQUARE) and not left_out
        json.dumps(mask)


@pytest.mark.parametrize("segmentation", [None, []])
def test_annotations_without_a_mask(segmentation):
    assert read(segmentation) == (None, [])
    assert masks_of([{"id": 1}], [BOX], (WIDTH, HEIGHT)) == ([None], [])


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ("T1", "mask is neither a list of polygons nor COCO RLE: annotation 7: 'T1'"),
        (3, "mask is neither a list of polygons nor COCO RLE: annotation 7: 3"),
        ([4, 6, 24, 6, 24, 15.5], "mask is a polygon that is not in a list: .*: annotation 7: .4, 6, 24, 6, 24, 15.5"),
        ([3, [4]], "polygon of a mask is not a list of coordinates: annotation 7: 3"),
        ([[4, 6, 24, "6", 24, 15]], "polygon of a mask is not a list of coordinates: annotation 7: "),
        ([[4, 6, 24, None, 24, 15]], "polygon of a mask is not a list of coordinates: annotation 7: "),
        ([[4, 6, 24, float("nan"), 24, 15]], "polygon of a mask is not a list of coordinates: annotation 7: "),
        ([[4, 6, 24, 10**400, 24, 15]], "polygon of a mask is not a list of coordinates: annotation 7: "),
        ([[4, 6, 24, 6]], "polygon of a mask has fewer than three points: annotation 7"),
        ([[[4, 6], [24, 6]]], "polygon of a mask has fewer than three points: annotation 7"),
        ([[[4, 6, 1], [24, 6, 1], [24, 15, 1]]], "polygon of a mask is not a list of coordinates: annotation 7: "),
        ([POLYGON[:-1]], "polygon of a mask has an x without a y: annotation 7: 7 numbers"),
        ([[0, 0, 1, 0, 1, 0.1]], "mask is empty"),
        ([[14, 16, 34, 16, 34, 25, 14, 25]], "mask does not fit its box"),
        ({"size": [WIDTH, HEIGHT], "counts": "T1"}, "mask has another size than its image: annotation 7: "),
        ({"size": [WIDTH, HEIGHT], "counts": [1]}, "mask has another size than its image: annotation 7: "),
        ({"size": [10**9] * 2, "counts": [10**18]}, "mask has another size than its image: annotation 7: "),
        ({"size": [HEIGHT, WIDTH], "counts": "T1"}, "mask is damaged: annotation 7: "),
        ({"size": [HEIGHT, WIDTH], "counts": [1, "2"]}, "mask is damaged: annotation 7: "),
        ({"size": [HEIGHT, WIDTH]}, "mask is not COCO RLE"),
        (parse_json('{"size": [30, 40], "counts": "1", "counts": "2"}'), "mask is damaged: .*the key 'counts' twice"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_wrong_is_left_out_with_its_reason(segmentation, reason):
    for form in (segmentation, compact_segmentation(segmentation)):
        mask, (told, *more) = read(form)
        assert mask is None
        with pytest.raises(ValueError, match=f"^{reason}"):
            raise ValueError(told)
        assert len(more) == (segmentation == [3, [4]])


def test_other_polygons_of_a_mask_are_kept():
    mask, left_out = read([POLYGON, [1, 1, 2, 2]])
    assert mask == mask_to_rle(SQUARE)
    assert left_out == ["polygon of a mask has fewer than three points: annotation 7"]


def test_masks_stay_beside_their_boxes():
    masks, left_out = usable_masks([None, [POLYGON], [POLYGON]], [BOX, BOX, [30, 20, 35, 25]], WIDTH, HEIGHT, "abc")
    assert masks == [None, mask_to_rle(SQUARE), None]
    assert [part.detail[:13] for part in left_out] == ["annotation c:"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_with_their_boxes(orientation):
    mask = polygons_to_mask([[4, 6, 24, 6, 4, 15]], HEIGHT, WIDTH)
    before = rle_to_box(mask_to_rle(mask)).tolist()
    turned, nothing = upright_masks([mask_to_rle(mask), None], orientation)
    assert nothing is None
    assert rle_to_box(turned).tolist() == turned_boxes([before], orientation, WIDTH, HEIGHT)[0]
    # Each pixel is a box as well.
    for y, x in np.argwhere(mask)[::7].tolist():
        ((x1, y1, x2, y2),) = turned_boxes([[x, y, x + 1, y + 1]], orientation, WIDTH, HEIGHT)
        assert rle_to_mask(turned)[y1:y2, x1:x2].all()
    assert rle_area(turned) == mask.sum()


@pytest.mark.parametrize(
    ("name", "misfits"),
    [
        ("cocoapi/instances_val2014_100.json", 0),
        ("coco_person_val2017/test_coco.json", 0),
        ("coco_panoptic_val2017/panoptic_coco_detection_format.json", 0),
        # Three images of LVIS whose masks are turned against their boxes.
        ("lvis/lvis_val_100.json", 13),
    ],
)
def test_real_annotations_are_read_as_pycocotools_does(name, misfits):
    coco_masks = pytest.importorskip("pycocotools.mask")
    content = json.loads((real_sample(name.split("/")[0]) / name.split("/")[1]).read_text())
    images = {image["id"]: image for image in content["images"]}
    wrong = 0
    for annotation in content["annotations"]:
        width, height = images[annotation["image_id"]]["width"], images[annotation["image_id"]]["height"]
        x, y, w, h = annotation["bbox"]
        segmentation = annotation["segmentation"]
        (mask,), left_out = masks_of([annotation], [[x, y, x + w, y + h]], (width, height))
        if mask is None:
            assert [part.reason[:25] for part in left_out] == ["mask does not fit its box"]
            wrong += 1
            continue
        is_text = isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)
        expected = segmentation if is_text else coco_masks.frPyObjects(segmentation, height, width)
        if isinstance(expected, list):
            expected = coco_masks.merge(expected)
        np.testing.assert_array_equal(rle_to_mask(mask), coco_masks.decode(expected).astype(bool))
    assert wrong == misfits


# --------------------------------------------------------------------------------------------------- rows of scripts


# By script, the column of its masks.
COLUMNS = {
    "coco": "masks",
    "category_grounding": "masks",
    "lvis_ground": "target_masks",
    "refcoco": "masks",
    "refcoco caption": "masks",
    "refer": "masks",
    "refer evaluation": "target_masks",
}
SCRIPTS = {
    **wild.SCRIPTS,
    "refer evaluation": replace(wild.SCRIPTS["refer"], options=("--task", "rec", "--evaluation")),
}
L_SHAPE = [4, 6, 24, 6, 24, 10, 10, 10, 10, 15, 4, 15]


def run(name: str, folder, segmentations: list, *more: str) -> wild.Outcome:
    """Run a script on its two images, whose annotations have these segmentations."""
    arguments = SCRIPTS[name].write(folder)
    content = wild.coco_content()
    for annotation, segmentation in zip(content["annotations"], segmentations, strict=True):
        annotation["segmentation"] = segmentation
    wild.write_json(folder, content)
    return wild.run(SCRIPTS[name], folder, arguments, *more)


def write_l_shapes(folder, orientation: int = 1) -> None:
    """Images in which exactly the pixels of the mask are white."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    white = Image.fromarray(polygons_to_mask([L_SHAPE], HEIGHT, WIDTH)).convert("RGB")
    for name in ("a", "b"):
        white.save(folder / "images" / f"{name}.png", exif=exif)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_masks_of_rows_are_the_white_pixels(images, name, orientation):
    write_l_shapes(images, orientation)
    rle = mask_to_rle(polygons_to_mask([L_SHAPE], HEIGHT, WIDTH))
    outcome = run(name, images, [[L_SHAPE], rle], "--boxes-of", "stored")
    assert outcome.status == 0 and outcome.reasons == {} and len(outcome.rows) == 2
    for row in outcome.rows:
        (mask,) = row[COLUMNS[name]]
        upright = ImageFeature().decode_example(row["image"]).convert("L")
        np.testing.assert_array_equal(rle_to_mask(mask), np.asarray(upright) > 127)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_wrong_mask_leaves_its_box(images, name):
    outcome = run(name, images, [[[0, 20, 9, 20, 9, 29, 0, 29]], None])
    assert outcome.status == 0 and outcome.boxes == [[wild.CORNERS]] * 2
    assert [row[COLUMNS[name]] for row in outcome.rows] == [[None], [None]]
    ((reason, count),) = outcome.reasons.items()
    assert count == 1 and reason.startswith("mask does not fit its box")


@pytest.mark.parametrize("name", [name for name in wild.SCRIPTS if name not in COLUMNS])
def test_other_scripts_write_no_masks(images, name):
    script = wild.SCRIPTS[name]
    outcome = wild.run(script, images, script.write(images))
    assert not [column for row in outcome.rows for column in row if "masks" in column]


def test_files_of_before_are_not_taken_for_finished(images, capsys):
    """Rows without masks beside rows with them would be a dataset that cannot be loaded."""
    arguments = SCRIPTS["coco"].write(images)
    argv = ["--images", str(images / "images"), *arguments, "--output", str(images / "rows")]
    assert coco.main(argv, masks=False) == 0
    assert coco.main(argv) == 2
    assert "what differs: masks. Pass `--overwrite`" in capsys.readouterr().err
    assert coco.main([*argv, "--overwrite"]) == 0


def test_masks_are_sorted_with_their_boxes(images):
    """Objects from right to left in the file, from left to right in the rows."""
    content = wild.coco_content()
    first = content["annotations"][0]
    more = [{**first, "id": 20 + x, "bbox": [x, 3, 5, 5], "segmentation": [square(x)]} for x in (30, 20, 10)]
    for name in ("category_grounding", "lvis_ground"):
        arguments = wild.write_json(images, {**content, "annotations": more})
        outcome = wild.run(SCRIPTS[name], images, arguments, "--overwrite")
        masks = outcome.rows[0][COLUMNS[name]]
        assert [rle_to_box(mask).tolist() for mask in masks] == outcome.boxes[0]
        assert [box[0] for box in outcome.boxes[0]] == [10, 20, 30]


def square(x: int) -> list[int]:
    return [x, 3, x + 5, 3, x + 5, 8, x, 8]
