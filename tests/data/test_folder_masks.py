"""Masks of image folders: PNG files, RLE, polygons."""

import json

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from transformers_groma.data.columns import check_dataset
from transformers_groma.data.folder_masks import files_beside, has_masks, read_folder_mask
from transformers_groma.data.folder_metadata import read_metadata
from transformers_groma.data.image_folder import (
    FolderOptions,
    draw_image_folder,
    image_folder_dataset,
    write_image_folder,
)
from transformers_groma.masks import mask_to_rle, polygons_to_mask, rle_to_box, rle_to_mask

from .folders import write_folder

WIDTH, HEIGHT = 60, 40
# Two triangles; their boxes are `xywh`.
FIRST, SECOND = [4, 4, 24, 4, 4, 20], [30, 10, 55, 30, 30, 30]
BOXES = [[4, 4, 20, 16], [30, 10, 25, 20]]
MASKS = [polygons_to_mask([polygon], HEIGHT, WIDTH) for polygon in (FIRST, SECOND)]
RLES = [mask_to_rle(mask) for mask in MASKS]


def folder_of(path, masks=None, boxes=BOXES, **more):
    objects = {"bbox": boxes, "text": ["a flag", "a sail"]} | ({} if masks is None else {"mask": masks})
    return write_folder(path, {"file_name": "a.jpg", "objects": objects, **more}, size=(WIDTH, HEIGHT))


def save(path, values: np.ndarray, mode: str | None = None) -> None:
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)


@pytest.mark.parametrize(
    "forms",
    [
        ["one.png", "two.png"],
        ["sub/one.png", RLES[1]],
        [RLES[0], [SECOND]],
        [[FIRST], {"png": "both.png", "value": 2}],
        [{"png": "both.png", "value": 1}, {"png": "two.png"}],
        [{"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]} | RLES[0], "two.png"],
        "beside",
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_all_ways_to_give_a_mask(tmp_path, forms, mode):
    folder = folder_of(tmp_path, None if forms == "beside" else forms)
    (folder / "sub").mkdir()
    names = ["a.mask-0.png", "a.mask-1.png"] if forms == "beside" else ["one.png", "two.png"]
    for name, mask in zip(names, MASKS, strict=True):
        save(folder / name, mask.astype(np.uint8) * 255, mode)
    save(folder / "sub" / "one.png", MASKS[0].astype(np.uint8))  # 0 and 1
    save(folder / "both.png", (MASKS[0] + 2 * MASKS[1]).astype(np.uint8))
    (row,) = image_folder_dataset(folder, FolderOptions("detection"))
    assert row["masks"] == RLES and row["boxes_xyxy"] == [[4, 4, 24, 20], [30, 10, 55, 30]]


@pytest.mark.parametrize("task", ["conversation", "rec", "region-caption"])
def test_masks_go_with_the_boxes_that_rows_name(tmp_path, task):
    folder = folder_of(tmp_path, RLES, messages=None)
    dataset = image_folder_dataset(folder, FolderOptions(task))
    assert check_dataset(dataset, "conversation") == len(dataset) > 0
    for row in dataset:
        assert len(row["masks"]) == len(row["boxes_xyxy"]) > 0
        for mask, box in zip(row["masks"], row["boxes_xyxy"], strict=True):
            assert RLES.index(mask) == [[4, 4, 24, 20], [30, 10, 55, 30]].index(box)
    if task == "conversation":
        return
    evaluation = image_folder_dataset(folder, FolderOptions(task, evaluation=True))
    assert check_dataset(evaluation, "evaluation") == 2
    name = "target_masks" if task == "rec" else "masks"
    assert [row[name] for row in evaluation] == [[RLES[0]], [RLES[1]]]
    assert evaluation[0]["masks" if task == "rec" else "target_masks"] == []


def test_folders_without_masks_have_no_column(tmp_path):
    dataset = image_folder_dataset(folder_of(tmp_path), FolderOptions("rec"))
    assert not [name for name in dataset.features if "mask" in name]


def test_some_objects_have_masks(tmp_path):
    (row,) = image_folder_dataset(folder_of(tmp_path, [None, RLES[1]]), FolderOptions("detection"))
    assert row["masks"] == [None, RLES[1]]


@pytest.mark.parametrize("boxes", [None, [None, None], [BOXES[0], None]])
def test_boxes_come_from_masks_where_there_are_none(tmp_path, boxes):
    (row,) = image_folder_dataset(folder_of(tmp_path, RLES, boxes), FolderOptions("detection"))
    expected = [rle_to_box(rle).tolist() for rle in RLES]
    assert row["boxes_xyxy"] == [[4, 4, 24, 20] if boxes and boxes[0] else expected[0], expected[1]]
    assert row["masks"] == RLES


def test_files_beside_count_the_boxes_of_all_lines(tmp_path):
    lines = [
        {"file_name": "a.jpg", "objects": {"bbox": [box], "text": [text]}}
        for box, text in zip(BOXES, ("a flag", "a sail"), strict=True)
    ]
    folder = write_folder(tmp_path, *lines, size=(WIDTH, HEIGHT))
    save(folder / "a.mask-1.png", MASKS[1].astype(np.uint8))
    (row,) = image_folder_dataset(folder, FolderOptions("detection"))
    assert row["masks"] == [None, RLES[1]]
    save(folder / "a.mask-2.png", MASKS[1].astype(np.uint8))
    with pytest.raises(ValueError, match=r"of a box that does not exist; boxes count from 0: a.mask-2.png"):
        image_folder_dataset(folder, FolderOptions("detection"))


def test_files_beside_images_in_folders(tmp_path):
    for name in ("b.mask-0.png", "b.mask-2.png"):
        save(tmp_path / name, MASKS[0])
    assert files_beside("b.tar.jpg", tmp_path, 3) == {} == files_beside("/", tmp_path, 3)
    assert files_beside("b.jpg", tmp_path, 3) == {0: "b.mask-0.png", 2: "b.mask-2.png"}
    (tmp_path / "x").mkdir()
    save(tmp_path / "x" / "c.mask-0.png", MASKS[0])
    assert files_beside("x/c.webp", tmp_path, 1) == {0: "x/c.mask-0.png"}
    assert files_beside("x" * 5000 + ".jpg", tmp_path, 1) == {}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("none.png", "PNG file of a mask: missing image: .*'none.png'|PNG file of a mask: missing image"),
        ("../out.png", "PNG file of a mask: "),
        ("photo.jpg", "file of a mask is not PNG: .*'photo.jpg' is JPEG"),
        ("small.png", "mask has another size than its image: .*'small.png' 30x40, image 60x40"),
        ("both.png", "PNG file of a mask has several values besides 0: .* 'both.png': 1, 2"),
        ("colours.png", "PNG file of a mask is in colour or has transparency"),
        ("clear.png", "PNG file of a mask is in colour or has transparency"),
        ({"png": "both.png", "value": 3}, "PNG file of masks has no pixel of this value: .*'both.png': 3"),
        ({"png": "both.png", "value": 0}, "`value` of a mask must be a whole number of at least 1: .*0"),
        ({"png": "both.png", "value": "1"}, "`value` of a mask must be a whole number of at least 1: .*'1'"),
        ({"png": 3}, "PNG file of a mask: "),
        ({"png": "both.png", "values": 1}, "a mask in a PNG file has other keys than `png` and `value`: .* values"),
        ({"value": 3}, "mask is not COCO RLE"),
        (7, "mask is neither a list of polygons nor COCO RLE"),
        ([[1, 2, 3]], "polygon of a mask has an x without a y"),
        ("empty.png", "mask is empty"),
        ("full.png", "mask does not fit its box"),
        (RLES[1], "mask does not fit its box"),
        (mask_to_rle(MASKS[0].T), "mask has another size than its image"),
        ({"size": [HEIGHT, WIDTH], "counts": "1"}, "mask is damaged"),
    ],
    ids=str,
)
def test_a_wrong_mask_leaves_its_box(tmp_path, given, reason):
    folder = folder_of(tmp_path, [given, RLES[1]])
    save(folder / "both.png", (MASKS[0] + 2 * MASKS[1]).astype(np.uint8))
    save(folder / "small.png", MASKS[0][:, :30])
    save(folder / "photo.jpg", MASKS[0].astype(np.uint8) * 255)
    save(folder / "empty.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    save(folder / "full.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[..., 0] = MASKS[0] * 255
    save(folder / "colours.png", colours)
    save(folder / "clear.png", colours, "RGBA")
    report = write_image_folder(folder, tmp_path / "rows", FolderOptions("detection"))
    rows = load_dataset("parquet", data_files=[str(path) for path in report.files], split="train")
    assert rows[0]["masks"] == [None, RLES[1]] and len(rows[0]["boxes_xyxy"]) == 2
    ((name, told),) = report.examples
    with pytest.raises(ValueError, match=f"^{reason}"):
        raise ValueError(told)
    assert name == "a.jpg" and "`objects.mask[0]`" in told
    with pytest.raises(ValueError, match=reason):
        image_folder_dataset(folder, FolderOptions("detection"))


def test_an_object_without_box_and_without_mask_is_left_out_once(tmp_path):
    folder = folder_of(tmp_path, ["none.png", RLES[1]], [None, BOXES[1]])
    report = write_image_folder(folder, tmp_path / "rows", FolderOptions("detection"))
    rows = load_dataset("parquet", data_files=[str(path) for path in report.files], split="train")
    assert rows[0]["masks"] == [RLES[1]]
    assert [told[:28] for _, told in report.examples] == ["PNG file of a mask: missing "]


@pytest.mark.parametrize("masks", ["a.png", [None], {"png": "a.png"}])
def test_masks_are_one_a_box(tmp_path, masks):
    with pytest.raises(ValueError, match=r"`objects.mask` must be a list with one mask for each of `objects.bbox`"):
        image_folder_dataset(folder_of(tmp_path, masks), FolderOptions("detection"))


def test_masks_have_one_name(tmp_path):
    objects = {"bbox": BOXES, "text": ["a", "b"], "masks": RLES}
    folder = write_folder(tmp_path, {"file_name": "a.jpg", "objects": objects}, size=(WIDTH, HEIGHT))
    with pytest.raises(ValueError, match=r"`objects.masks` is not read: one mask for each box is in `objects.mask`"):
        image_folder_dataset(folder, FolderOptions("detection"))


def test_a_file_beside_two_images(tmp_path):
    lines = [{"file_name": name, "objects": {"bbox": BOXES}} for name in ("a.jpg", "a.png", "b.jpg")]
    folder = write_folder(tmp_path, *lines, size=(WIDTH, HEIGHT))
    save(folder / "a.mask-1.png", MASKS[1])
    with pytest.raises(
        ValueError, match=r"a.mask-1.png is beside two images, a.jpg and a.png: name the masks of both"
    ):
        write_image_folder(folder, tmp_path / "rows", FolderOptions("detection"))


@pytest.mark.parametrize("orientation", [2, 6, 8])
def test_masks_turn_with_their_boxes(tmp_path, orientation):
    """Both were drawn on the stored image."""
    folder = folder_of(tmp_path, ["one.png", RLES[1]], width=WIDTH, height=HEIGHT)
    save(folder / "one.png", MASKS[0])
    exif = Image.Exif()
    exif[0x0112] = orientation
    white = Image.fromarray((MASKS[0] | MASKS[1]).astype(np.uint8) * 255)
    white.save(folder / "a.jpg", exif=exif, quality=100)
    (row,) = image_folder_dataset(folder, FolderOptions("detection", boxes_of="stored"))
    shown = np.asarray(row["image"].convert("L")) > 127
    np.testing.assert_array_equal(rle_to_mask(row["masks"][0]) | rle_to_mask(row["masks"][1]), shown)


@pytest.mark.parametrize("boxes_of", ["stored", "upright"])
@pytest.mark.parametrize("form", ["rle", "png", "both", "no box"])
def test_masks_say_which_image_they_were_drawn_on(tmp_path, boxes_of, form):
    """The boxes fit into the upright image as well as into the stored one, and the line has no size."""
    shape = (HEIGHT, WIDTH) if boxes_of == "stored" else (WIDTH, HEIGHT)
    masks = np.zeros((2, *shape), bool)
    masks[0, 4:20, 4:24], masks[1, 10:30, 20:35] = True, True
    given = [mask_to_rle(masks[0]), "two.png"] if form == "both" else [mask_to_rle(mask) for mask in masks]
    boxes = None if form == "no box" else [[4, 4, 20, 16], [20, 10, 15, 20]]
    folder = folder_of(tmp_path, ["one.png", "two.png"] if form == "png" else given, boxes)
    for name, mask in zip(("one.png", "two.png"), masks, strict=True):
        save(folder / name, mask)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.jpg", exif=exif)
    (row,) = image_folder_dataset(folder, FolderOptions("detection"))
    expected = [np.rot90(mask, -1) if boxes_of == "stored" else mask for mask in masks]
    for box, rle, mask in zip(row["boxes_xyxy"], row["masks"], expected, strict=True):
        np.testing.assert_array_equal(rle_to_mask(rle), mask)
        assert box == rle_to_box(rle).tolist()


def test_masks_of_both_images_say_nothing(tmp_path):
    folder = folder_of(tmp_path, [RLES[0], mask_to_rle(MASKS[1].T)], None)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.jpg", exif=exif)
    with pytest.raises(ValueError, match="it is unclear whether its boxes are those of the upright or of the stored"):
        image_folder_dataset(folder, FolderOptions("detection"))


def test_no_polygons_and_no_box_are_told(tmp_path):
    """An empty list of polygons has no pixels, so no box can be made from it."""
    folder = folder_of(tmp_path, [[], RLES[1]], [None, BOXES[1]])
    report = write_image_folder(folder, tmp_path / "rows", FolderOptions("detection"))
    assert [told[:48] for _, told in report.examples] == ["box is not four finite numbers: `objects.bbox[0]"]


def test_files_follow_the_masks(tmp_path, capsys):
    """A dataset of before its masks, and one whose mask file has changed, are not taken for finished."""
    folder, rows = folder_of(tmp_path / "images"), tmp_path / "rows"
    write_image_folder(folder, rows, FolderOptions("detection"))
    save(folder / "a.mask-0.png", MASKS[0])
    with pytest.raises(FileExistsError, match="what differs: masks"):
        write_image_folder(folder, rows, FolderOptions("detection"))
    write_image_folder(folder, rows, FolderOptions("detection"), overwrite=True)
    write_image_folder(folder, rows, FolderOptions("detection"))
    save(folder / "a.mask-1.png", MASKS[1])
    with pytest.raises(FileExistsError, match="what differs: masks"):
        write_image_folder(folder, rows, FolderOptions("detection"))
    write_image_folder(folder, rows, FolderOptions("detection"), overwrite=True)
    mask = MASKS[0].copy()
    mask[5, 5] = False
    save(folder / "a.mask-0.png", mask)
    with pytest.raises(FileExistsError, match="made from a different .*a.mask-0.png"):
        write_image_folder(folder, rows, FolderOptions("detection"))


def test_shards_have_the_same_columns(tmp_path):
    """The first image has no mask."""
    lines = [
        {"file_name": f"{name}.jpg", "objects": {"bbox": BOXES, "mask": masks}}
        for name, masks in (("a", None), ("b", [None, None]), ("c", RLES), ("d", None))
    ]
    folder = write_folder(tmp_path / "images", *lines, size=(WIDTH, HEIGHT))
    assert has_masks(read_metadata(folder), folder)
    report = write_image_folder(folder, tmp_path / "rows", FolderOptions("detection"), num_shards=2)
    rows = load_dataset(str(tmp_path / "rows"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(report.files) == 2 and check_dataset(rows, "detection") == 4
    assert {row["image_id"]: row["masks"] for row in rows}["c.jpg"] == RLES


def test_drawings_show_masks(tmp_path):
    folder = folder_of(tmp_path, [RLES[0], None])
    (_, drawn), (_, plain) = (
        next(iter(draw_image_folder(one, FolderOptions(), 1))) for one in (folder, folder_of(tmp_path / "plain"))
    )
    drawn, plain = np.asarray(drawn, dtype=int), np.asarray(plain, dtype=int)
    assert np.abs(drawn - plain)[16:19, 16:23].max() > 0, "the box's corner away from the triangle is not tinted"


def test_masks_are_read_as_lines_have_them(tmp_path):
    assert read_folder_mask(None, tmp_path, WIDTH, HEIGHT) == (None, [])
    assert read_folder_mask(json.loads(json.dumps(RLES[0])), tmp_path, WIDTH, HEIGHT) == (RLES[0], [])
