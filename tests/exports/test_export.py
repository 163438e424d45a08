"""Whole exports, read back by pycocotools, supervision, Label Studio's SDK and our own converter of COCO."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import supervision
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image
from pycocotools.coco import COCO

from processing import coco as import_coco
from transformers_groma.exports.export import export
from transformers_groma.exports.labels import Labels, read_labels
from transformers_groma.exports.options import ExportOptions
from transformers_groma.exports.records import ImageRecord
from transformers_groma.exports.sources import Source, open_source
from transformers_groma.labelled_objects import LabelledObject
from transformers_groma.masks import mask_to_rle

from .samples import (
    BOXES,
    HEIGHT,
    WIDTH,
    annotated,
    answer,
    image_bytes,
    mask_of,
    write_annotations,
    write_json,
    write_rows,
)

# What is named in `annotated()`: label, box.
NAMED = [("A ball", 2), ("Two dogs", 0), ("Two dogs", 1), ("the dog", 1)]


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.jpg", "sub/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image_bytes("JPEG"))
    return folder


@pytest.fixture
def annotations(tmp_path) -> Path:
    images = [annotated("a.jpg"), annotated("sub/b.jpg")]
    return write_annotations(tmp_path / "annotations" / "train-00000-of-00001.parquet", images)


def run(source: Path, output: Path, format: str, labels: Labels | None = None, **options):
    """Export; returns the report."""
    if format == "yolo":
        options.setdefault("masks", "polygon")
    return export(
        open_source(source, options.pop("all_regions", False)),
        source,
        output,
        labels or Labels(),
        ExportOptions(format, **options),
        options.pop("overwrite", False),
    )


def coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def corners(boxes) -> np.ndarray:
    boxes = np.array(boxes, float)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


@pytest.mark.parametrize("masks", ["pixels", "polygon", "none"])
def test_pycocotools_reads_instances(tmp_path, annotations, masks):
    report = run(annotations, tmp_path / "coco", "coco", masks=masks)
    assert [path.name for path in report.files] == ["instances_default.json"] and report.files[0].is_file()
    assert (report.counts.rows, report.objects, report.labels) == (2, 8, 3)
    content = json.loads(report.files[0].read_text())
    assert {path.name for path in (tmp_path / "coco").rglob("*")} == {"annotations", "instances_default.json"}
    assert [entry["id"] for entry in content["annotations"]] == list(range(1, 9)) and content["licenses"] == []
    read = coco(report.files[0])
    assert {entry["id"]: entry["file_name"] for entry in read.imgs.values()} == {1: "a.jpg", 2: "sub/b.jpg"}
    for image_id in (1, 2):
        found = read.loadAnns(read.getAnnIds(imgIds=image_id))
        assert [read.cats[entry["category_id"]]["name"] for entry in found] == [label for label, _ in NAMED]
        expected = [BOXES[number] for _, number in NAMED]
        np.testing.assert_allclose(corners([entry["bbox"] for entry in found]), expected, atol=1e-5)
        assert [entry["score"] for entry in found] == [0.75, 0.25, 0.5, 0.5]
        assert found[1]["description"] == "A brown dog."
        for entry, (_, number) in zip(found, NAMED, strict=True):
            if masks == "none":
                assert "segmentation" not in entry
                continue
            assert isinstance(entry["segmentation"], dict if masks == "pixels" else list)
            np.testing.assert_array_equal(read.annToMask(entry), mask_of(number))
            assert entry["area"] == mask_of(number).sum()


def test_captions_and_results(tmp_path, annotations):
    report = run(annotations, tmp_path / "coco", "coco", captions=True, results=True)
    instances, captions, results = report.files
    read = coco(captions)
    assert [entry["caption"] for entry in read.anns.values()] == ["Two dogs, a cat and the dog."] * 2
    assert report.captions == 2 and {entry["image_id"] for entry in read.anns.values()} == {1, 2}
    truth = coco(instances)
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(str(results))
    assert len(found.anns) == len(truth.anns) == 8
    for entry in found.anns.values():
        np.testing.assert_array_equal(found.annToMask(entry), truth.annToMask(truth.anns[entry["id"]]))


def test_captions_alone_are_an_export(tmp_path):
    path = write_json(tmp_path / "answer.json", answer(phrases=[]))
    report = run(path, tmp_path / "coco", "coco", captions=True)
    assert (report.objects, report.captions) == (0, 1)
    with pytest.raises(ValueError, match=r"no object could be exported: region that nothing names.*\(3\)"):
        run(path, tmp_path / "other", "coco")
    assert not (tmp_path / "other").exists()


def test_ids_of_images_may_stay(tmp_path):
    rows = [
        {
            "image": {"bytes": image_bytes(), "path": f"{name}.png"},
            "image_id": name,
            "boxes_xyxy": BOXES,
            "source": "coco",
        }
        for name in ("17", "0009")
    ]
    path = write_rows(tmp_path / "a.parquet", rows, "detection")
    report = run(path, tmp_path / "coco", "coco", keep_image_ids=True)
    assert list(coco(report.files[0]).imgs) == [17, 9]
    for name, message in [("x", "whole numbers, but x.png has the id 'x'"), ("017", "two images have the id 17")]:
        rows[1] = {**rows[1], "image_id": name, "image": {**rows[1]["image"], "path": f"{name}.png"}}
        path = write_rows(tmp_path / f"{name}.parquet", rows, "detection")
        with pytest.raises(ValueError, match=message):
            run(path, tmp_path / name, "coco", keep_image_ids=True)


def test_supervision_reads_coco(tmp_path, annotations, photos):
    report = run(annotations, tmp_path / "coco", "coco", images="copy", image_root=photos)
    dataset = supervision.DetectionDataset.from_coco(
        str(tmp_path / "coco" / "images"), str(report.files[0]), force_masks=True
    )
    assert dataset.classes == ["A ball", "Two dogs", "the dog"] and len(dataset) == 2
    _, image, found = dataset[0]
    assert image.shape == (HEIGHT, WIDTH, 3) and found.class_id.tolist() == [0, 1, 1, 2]
    np.testing.assert_allclose(found.xyxy, [BOXES[number] for _, number in NAMED], atol=1e-5)
    for mask, (_, number) in zip(found.mask, NAMED, strict=True):
        np.testing.assert_array_equal(mask, mask_of(number))


@pytest.mark.parametrize("images", ["link", "copy"])
@pytest.mark.parametrize("masks", ["polygon", "none"])
def test_supervision_reads_yolo(tmp_path, annotations, photos, images, masks):
    report = run(annotations, tmp_path / "yolo", "yolo", images=images, image_root=photos, masks=masks)
    assert (report.counts.rows, report.objects) == (2, 8)
    folder = tmp_path / "yolo"
    assert (folder / "images" / "a.jpg").is_symlink() == (images == "link")
    assert (folder / "images" / "sub" / "b.jpg").read_bytes() == (photos / "sub" / "b.jpg").read_bytes()
    assert (folder / "labels" / "a.txt").read_text() == (folder / "labels" / "sub" / "b.txt").read_text()
    # It does not look into folders below these.
    dataset = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=masks == "polygon"
    )
    assert dataset.classes == ["A ball", "Two dogs", "the dog"]
    _, _, found = dataset[0]
    assert found.class_id.tolist() == [0, 1, 1, 2]
    if masks == "none":
        np.testing.assert_allclose(found.xyxy, [BOXES[number] for _, number in NAMED], atol=1e-5)
        return
    for mask, (_, number) in zip(found.mask, NAMED, strict=True):
        # OpenCV also fills the pixels that a line goes through: no pixel is lost, and edges are one pixel wider.
        assert not (mask_of(number) & ~mask).any()


@pytest.mark.parametrize(("masks", "shape"), [("pixels", "brush"), ("polygon", "polygon"), ("none", "rectangle")])
def test_label_studio_reads_tasks(tmp_path, annotations, masks, shape):
    report = run(
        *(annotations, tmp_path / "studio", "label-studio"),
        **{"masks": masks, "captions": True, "image_url": "http://x/d?f=", "model_version": "m"},
    )
    tasks, config = (path.read_text() for path in report.files)
    interface = LabelInterface(config)
    assert sorted(control.name for control in interface.controls) == sorted([shape, "phrase", "caption"])
    tasks = json.loads(tasks)
    assert [task["data"]["image"] for task in tasks] == ["http://x/d?f=a.jpg", "http://x/d?f=sub/b.jpg"]
    for task in tasks:
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        assert interface.validate_task({"data": task["data"]})
        result = prediction["result"]
        assert prediction["model_version"] == "m" and result[-1]["value"]["text"] == ["Two dogs, a cat and the dog."]
        texts = [entry["value"]["text"] for entry in result[:-1] if entry["type"] == "textarea"]
        if masks != "polygon":
            assert texts == [["A ball"], ["Two dogs", "A brown dog."], ["Two dogs"], ["the dog"]]
        if masks == "pixels":
            drawn = [entry["value"]["rle"] for entry in result if entry["type"] == "brushlabels"]
            for rle, (_, number) in zip(drawn, NAMED, strict=True):
                np.testing.assert_array_equal(decode_rle(rle).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0, mask_of(number))


def test_label_studio_has_the_labels_of_a_file(tmp_path, annotations):
    (tmp_path / "labels.json").write_text(json.dumps({"two dogs": "dog", "dog": "dog", "ball": "toy <1>", "x": "y"}))
    labels = read_labels(tmp_path / "labels.json", normalize=True)
    report = run(annotations, tmp_path / "studio", "label-studio", labels, masks="none")
    tasks, config = (path.read_text() for path in report.files)
    assert LabelInterface(config).get_control("rectangle").labels == ["dog", "toy <1>", "y"]
    result = json.loads(tasks)[0]["predictions"][0]["result"]
    assert [entry["value"]["rectanglelabels"][0] for entry in result if entry["type"] == "rectanglelabels"] == [
        *("toy <1>", "dog", "dog", "dog")
    ]
    assert result[1]["value"]["text"] == ["A ball"], "the phrase stays"


def test_what_has_no_label_is_counted(tmp_path, annotations):
    labels = Labels(known={"dog": 1}, normalize=True)
    report = run(annotations, tmp_path / "coco", "coco", labels)
    assert report.objects == 2 and report.counts.parts["phrase without a label in --labels"] == 6
    assert "phrase without a label in --labels (6), for example a.jpg: 'A ball'" in report.counts.told()
    (entry, _) = coco(report.files[0]).anns.values()
    assert entry["phrase"] == "the dog"


def bad_answer(tmp_path: Path) -> Path:
    """Objects that no tool takes, one that is clipped, and one whose mask alone is wrong."""
    boxes = [
        *([5, 5, 5, 9], [float("nan"), 1, 2, 3], [70, 5, 90, 9], [1, 2, 3], "x", [9, 9, 3, 3]),
        *([-0.5, 0, 64.5, 48], [5, 5, 9, 9], [5, 5, 9, 9]),
    ]
    other = mask_to_rle(np.ones((4, 4), bool))
    labels = ["a"] * 6 + ["clipped", "wrong mask", "x" * 300]
    regions = [{"box_xyxy": box, "label": label} for box, label in zip(boxes, labels, strict=True)]
    regions[7]["mask"] = other
    regions += [{"box_xyxy": [1, 1, 5, 5], "label": "b\x07d"}, {"box_xyxy": [1, 1, 5, 5], "label": "empty mask"}]
    regions[-1]["mask"] = mask_to_rle(np.zeros((HEIGHT, WIDTH), bool))
    return write_json(tmp_path / "answer.json", {"regions": regions, "image": answer()["image"]})


@pytest.mark.parametrize("format", ["coco", "yolo", "label-studio"])
def test_what_no_tool_takes_is_left_out_and_counted(tmp_path, format):
    report = run(bad_answer(tmp_path), tmp_path / "out", format)
    assert report.objects == 3 and sum(report.counts.parts.values()) == 8 + 2
    told = "\n".join(report.counts.told())
    for reason in ("needs an area", "finite numbers", "outside of the image", "four numbers", "at most", "printable"):
        assert reason in told, told
    assert "mask has another size than its image; its box is exported" in told
    if format == "yolo":
        lines = (tmp_path / "out" / "labels" / "a.txt").read_text().splitlines()
        assert len(lines) == 3 and lines[0] == "0 0.5 0.5 1 1"


def test_scores_and_names_that_no_file_has(tmp_path):
    regions = [{"box_xyxy": [1, 1, 5, 5], "score": score, "mask": 7} for score in (float("inf"), float("nan"), 0.5)]
    contents = [
        {"regions": regions, "image": answer(name)["image"]} for name in ("a.jpg", "/", "..", "a\nb.jpg", "//")
    ]
    path = write_json(tmp_path / "answers.json", contents)
    for format in ("coco", "yolo", "label-studio"):
        report = run(path, tmp_path / format, format)
        assert (report.counts.rows, report.objects) == (1, 1)
        assert report.counts.skipped == {"image without a file name that can be written": 4}
        assert report.counts.parts["object whose score is not a finite number"] == 2
        assert sum(report.counts.parts.values()) == 3, "the mask is not one, the box stays"
    assert {path.name for path in (tmp_path / "yolo" / "labels").iterdir()} == {"a.txt"}


def test_names_with_spaces_that_do_not_break(tmp_path):
    """macOS writes one into the names of screenshots."""
    name = "Screenshot 2026-01-01 at 9.41.00\u202fAM.png"
    (tmp_path / name).write_bytes(image_bytes("PNG"))
    path = write_json(tmp_path / "answer.json", answer(name))
    for format in ("coco", "yolo", "label-studio"):
        report = run(path, tmp_path / format, format, images="copy", image_root=tmp_path)
        assert report.counts.rows == 1 and (tmp_path / format / "images" / name).is_file()


def test_scores_and_crowds(tmp_path):
    path = write_json(tmp_path / "answer.json", answer())
    report = run(path, tmp_path / "coco", "coco", min_score=0.6)
    assert report.objects == 1 and report.counts.parts["object with a score below --min-score"] == 1
    row = {
        **{"image": {"bytes": image_bytes(), "path": "a.png"}, "image_id": "1", "boxes_xyxy": BOXES},
        **{"source": "coco", "crowd_boxes_xyxy": [[0, 0, 9, 9]]},
    }
    path = write_rows(tmp_path / "rows.parquet", [row], "detection")
    report = run(path, tmp_path / "crowds", "coco")
    assert [entry["iscrowd"] for entry in coco(report.files[0]).anns.values()] == [0, 0, 0, 0, 1]
    report = run(path, tmp_path / "yolo", "yolo", images="link")
    assert report.objects == 4
    assert report.counts.parts == {"region around many objects, for which the format has no place": 1}
    assert (tmp_path / "yolo" / "images" / "a.png").read_bytes() == row["image"]["bytes"]


def test_a_dataset_goes_to_coco_and_back(tmp_path, capsys):
    """Boxes, crowds and masks of detection rows are the same after an export and an import."""
    masks = [mask_to_rle(mask_of(number)) for number in (0, 1, 2)]
    # Boxes of masks go around all of their pixels, as the import checks.
    boxes = [[float(value) for value in _around(mask_of(number))] for number in range(3)]
    row = {
        **{
            "image": {"bytes": image_bytes(), "path": "a.png"},
            "image_id": "17",
            "boxes_xyxy": boxes,
            "source": "coco",
        },
        **{"masks": masks, "crowd_boxes_xyxy": [[1.5, 2.25, 9.125, 9.0]], "crowd_masks": [None]},
    }
    path = write_rows(tmp_path / "train-00000-of-00001.parquet", [row], "detection")
    report = run(path, tmp_path / "coco", "coco", images="copy", keep_image_ids=True)
    code = import_coco.main(
        [
            *("--images", str(tmp_path / "coco" / "images"), "--annotations", str(report.files[0])),
            *("--output", str(tmp_path / "back"), "--shards", "1"),
        ]
    )
    assert code == 0, capsys.readouterr().err
    (back,) = pq.read_table(next((tmp_path / "back").glob("*.parquet"))).to_pylist()
    assert back["image_id"] == "17" and back["image"]["bytes"] == row["image"]["bytes"]
    np.testing.assert_allclose(back["boxes_xyxy"], boxes, atol=1e-5)
    np.testing.assert_allclose(back["crowd_boxes_xyxy"], row["crowd_boxes_xyxy"], atol=1e-5)
    assert back["masks"] == masks


def _around(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_images_that_exif_turns_are_written_upright(tmp_path, kind):
    (tmp_path / "photos").mkdir()
    turned = image_bytes(kind, (HEIGHT, WIDTH), orientation=6)
    (tmp_path / "photos" / "a.jpg").write_bytes(turned)
    path = write_json(tmp_path / "answer.json", answer())
    for images in ("link", "copy"):
        run(path, tmp_path / images, "yolo", images=images, image_root=tmp_path / "photos")
        with Image.open(tmp_path / images / "images" / "a.jpg") as written:
            assert written.size == (WIDTH, HEIGHT) and written.getexif().get(0x0112, 1) == 1


def test_images_that_do_not_fit_are_skipped(tmp_path, photos, annotations):
    (photos / "a.jpg").write_bytes(image_bytes("JPEG", (WIDTH, HEIGHT + 1)))
    (photos / "sub" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no object could be exported: image has another size.*cannot be read"):
        run(annotations, tmp_path / "yolo", "yolo", images="link", image_root=photos)
    with pytest.raises(ValueError, match="image that is not there; pass the folder that file names start in"):
        run(annotations, tmp_path / "yolo", "yolo", images="link")
    (photos / "a.jpg").write_bytes(image_bytes("JPEG"))
    report = run(annotations, tmp_path / "yolo", "yolo", images="link", image_root=photos)
    assert (report.counts.rows, report.objects) == (1, 4) and list(report.counts.skipped) == [
        "image that cannot be read"
    ]
    path = write_json(tmp_path / "url.json", answer("https://example.com/a%20b.jpg?x=1"))
    with pytest.raises(ValueError, match="image at a URL"):
        run(path, tmp_path / "url", "yolo", images="link")
    report = run(path, tmp_path / "url", "label-studio", image_url="http://other/")
    task = json.loads(report.files[0].read_text())[0]
    assert task["data"]["image"] == "https://example.com/a%20b.jpg?x=1"


def test_names_that_differ_in_their_ending_are_refused(tmp_path):
    images = [annotated("a.jpg"), annotated("a.png")]
    path = write_annotations(tmp_path / "x.parquet", images)
    with pytest.raises(
        ValueError, match=re.escape("a.png and another image would both have the label file labels/a.txt")
    ):
        run(path, tmp_path / "yolo", "yolo")
    assert not (tmp_path / "yolo").exists()


def test_an_output_is_not_lost(tmp_path, annotations):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        run(annotations, tmp_path / "out", "coco")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    export(*(open_source(annotations), annotations, tmp_path / "out", Labels(), ExportOptions("coco")), overwrite=True)
    assert not (tmp_path / "out" / "mine.txt").exists()
    with pytest.raises(FileExistsError, match="lies in .*annotations, and the next export would read its files"):
        run(annotations.parent, annotations.parent / "coco", "coco")


def test_labels_with_any_characters(tmp_path):
    names = [
        "a: b # c",
        "- x",
        "{y}",
        "yes",
        "12",
        'quo"te\\n',
        "Hündchen 🐶",
        "null",
        "می\u200cخواهم",
        "क्\u200dष 👩\u200d👧",
    ]
    regions = [{"id": n, "box_xyxy": list(BOXES[0]), "label": name} for n, name in enumerate(names)]
    path = write_json(tmp_path / "answer.json", {"regions": regions, "image": answer()["image"]})
    run(path, tmp_path / "yolo", "yolo")
    (tmp_path / "yolo" / "images").mkdir(exist_ok=True)
    (tmp_path / "yolo" / "images" / "a.jpg").write_bytes(image_bytes("JPEG"))
    folder = tmp_path / "yolo"
    dataset = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml")
    )
    assert dataset.classes == names


def test_the_records_are_read_a_few_at_a_time(tmp_path):
    """An export of many images holds one of them at a time."""
    alive = 0
    most = 0

    class Content(bytes):
        def __init__(self, *_):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    thing = LabelledObject(BOXES[0], "dog", 0.5)
    for format in ("coco", "yolo", "label-studio"):
        records = (
            ImageRecord(str(number), f"{number}.jpg", HEIGHT, WIDTH, (thing,), content=Content())
            for number in range(200)
        )
        source = Source("annotations", 200, records)
        report = export(source, tmp_path / "none", tmp_path / format, Labels(), ExportOptions(format, "none"))
        assert report.objects == 200 and most <= 4
