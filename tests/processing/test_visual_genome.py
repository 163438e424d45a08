"""Region descriptions of Visual Genome, in its own layout and COCO-style."""

import json
from pathlib import Path

import pytest
import torch

from processing import visual_genome
from processing.regions import Region
from transformers_groma.boxes import box_iou
from transformers_groma.data.columns import image_part, region_part, text_part

from . import wild
from .samples import read_report, read_rows, real_sample, write_jpeg, write_json
from .wild import SCRIPTS, one_reason, run, write_vg


def vg_files(folder: Path) -> list[str]:
    """Image 1 with fourteen regions, image 2 with bad ones only, image 3 of which nothing is known."""
    write_jpeg(folder / "VG_100K_2" / "1.jpg", 400, 300)
    write_jpeg(folder / "VG_100K" / "2.jpg", 40, 30)
    image_data = [
        {"image_id": 1, "width": 400, "height": 300, "url": "https://x/rak248/VG_100K_2/1.jpg", "coco_id": None},
        {"image_id": 2, "width": 40, "height": 30, "url": "https://x/rak248/VG_100K/2.jpg", "coco_id": 9},
    ]
    spots = [(x, y) for y in (10, 110, 210) for x in (10, 110, 210, 310)]
    regions = [
        {"region_id": number, "image_id": 1, "x": x, "y": y, "width": 60, "height": 50, "phrase": f"Thing {number} "}
        for number, (x, y) in enumerate(spots)
    ]
    regions.append({**regions[0], "x": 12, "phrase": "overlaps thing 0"})
    regions.append({**regions[0], "x": 300, "y": 250, "width": 900, "height": 900, "phrase": "sticks out"})
    bad = [
        {"x": 1, "y": 1, "width": 0, "height": 5, "phrase": "empty"},
        {"x": 1, "y": 1, "width": 5, "height": 5, "phrase": " "},
        {"x": 1, "y": 1, "width": 5, "height": 5, "phrase": "a <region>"},
    ]
    lost = [{"x": 1, "y": 1, "width": 5, "height": 5, "phrase": "lost"}]
    descriptions = [{"id": 1, "regions": regions}, {"id": 2, "regions": bad}, {"id": 3, "regions": lost}]
    return [
        *("--images", str(folder)),
        *("--annotations", str(write_json(folder / "region_descriptions.json", descriptions))),
        *("--image-data", str(write_json(folder / "image_data.json", image_data))),
        *("--output", str(folder / "rows")),
    ]


def test_many_rounds_are_about_regions_that_overlap_little(tmp_path):
    assert visual_genome.main(vg_files(tmp_path)) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["image_id"] == "1" and row["source"] == "visual_genome"
    assert len(row["boxes_xyxy"]) == 10 and len(row["messages"]) == 20
    overlaps = box_iou(torch.tensor(row["boxes_xyxy"]), torch.tensor(row["boxes_xyxy"])).fill_diagonal_(0)
    assert overlaps.max() <= 0.6
    assert [part for message in row["messages"] for part in message["content"]].count(image_part()) == 1
    assert row["messages"][0]["content"][0] == image_part()
    by_corner = {(x, y): 4 * (y // 100) + x // 100 for y in (10, 110, 210) for x in (10, 110, 210, 310)}
    for index, box in enumerate(row["boxes_xyxy"]):
        question, answer = row["messages"][2 * index : 2 * index + 2]
        assert region_part(index) in question["content"]
        expected = {
            (12, 10): "Overlaps thing 0",
            (300, 250): "Sticks out",
        }.get((box[0], box[1])) or f"Thing {by_corner[box[0], box[1]]}"
        assert answer["content"] == [text_part(expected)]
    report = read_report(tmp_path / "rows")
    assert report["skipped"] == {
        "no region with a box and a description": 1,
        "the image is not in `--image-data`": 1,
    }
    assert report["parts"] == {
        "box is empty: its width or height is zero or negative": 1,
        "no text": 1,
        "text holds a token of the model": 1,
    }


def test_all_regions_of_an_image_in_the_words_of_glamm(tmp_path):
    assert visual_genome.main([*vg_files(tmp_path), "--rounds", "all", "--wording", "glamm"]) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert [len(row["boxes_xyxy"]) for row in rows] == [10, 4]
    told = {}
    for row in rows:
        for number, (question, answer) in enumerate(zip(row["messages"][::2], row["messages"][1::2], strict=True)):
            words = [part["text"] for part in question["content"] if part["type"] == "text"]
            assert words[0].endswith(f"region{number + 1} "), "each row counts from 1"
            told[answer["content"][0]["text"]] = tuple(row["boxes_xyxy"][number])
    assert len(told) == 14 and told["overlaps thing 0"] == (12, 10, 72, 60) and told["Thing 0"] == (10, 10, 70, 60)


def test_captions_on_annotations_as_glamm_takes_them(tmp_path):
    """`train.json` has many annotations an image, `test_caption.json` one, whose id is that of its image."""
    write_jpeg(tmp_path / "images" / "7.jpg", 40, 30)
    images = [{"id": 7, "file_name": "7.jpg", "width": 40, "height": 30}]
    annotations = [
        {"id": 7, "image_id": 7, "bbox": [1, 2, 9, 9], "area": 81, "iscrowd": 0, "category_id": 1, "caption": "a Dog "}
    ]
    path = write_json(tmp_path / "test_caption.json", {"images": images, "annotations": annotations})
    options = ["--images", str(tmp_path / "images"), "--annotations", str(path), "--wording", "glamm"]
    assert visual_genome.main([*options, "--output", str(tmp_path / "rows")]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["messages"][1]["content"] == [text_part("a Dog")] and row["boxes_xyxy"] == [[1, 2, 10, 11]]
    assert visual_genome.main([*options, "--evaluation", "--split", "test", "--output", str(tmp_path / "test")]) == 0
    (row,) = read_rows(tmp_path / "test", "evaluation", split="test")
    assert row["references"] == ["a Dog"] and row["image_id"] == "7"
    assert row["messages"][0]["content"][1]["text"].startswith("Please give a short description"), (
        "put otherwise later"
    )


def test_the_choice_depends_on_image_and_seed_only():
    image = {"id": 1, "width": 400, "height": 300}
    regions = [Region(image, [10 * number, 5, 8, 8], (f"thing {number}",)) for number in range(30)]
    chosen = visual_genome.choose_regions(regions, "1", seed=0)
    assert chosen == visual_genome.choose_regions(regions, "1", seed=0)
    assert chosen != visual_genome.choose_regions(regions, "2", seed=0)
    assert chosen != visual_genome.choose_regions(regions, "1", seed=1)
    boxes, captions = chosen
    assert [f"thing {int(box[0] / 10)}" for box in boxes] == captions
    numbers = [int(box[0] / 10) for box in boxes]
    assert numbers != sorted(numbers)  # in random order


def test_of_overlapping_regions_one_is_taken():
    image = {"id": 1, "width": 400, "height": 300}
    regions = [Region(image, [number, 5, 100, 100], (f"thing {number}",)) for number in range(9)]
    boxes, _ = visual_genome.choose_regions(regions, "1", seed=0)
    assert len(boxes) == 1


def test_single_rounds_and_evaluation(tmp_path):
    arguments = vg_files(tmp_path)
    assert visual_genome.main([*arguments, "--rounds", "single"]) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert len(rows) == 14
    assert rows[0]["boxes_xyxy"] == [[10, 10, 70, 60]]
    assert rows[13]["boxes_xyxy"] == [[300, 250, 400, 300]]
    assert len({str(row["messages"][0]) for row in rows}) > 3  # several templates
    report = read_report(tmp_path / "rows")
    assert report["skipped"] == {
        "box is empty: its width or height is zero or negative": 1,
        "no text": 1,
        "text holds a token of the model": 1,
        "the image is not in `--image-data`": 1,
    }

    assert visual_genome.main([*arguments, "--evaluation", "--overwrite"]) == 0
    rows = read_rows(tmp_path / "rows", "evaluation")
    assert len(rows) == 14
    assert rows[3]["references"] == ["Thing 3"]
    assert [part["text"] for part in rows[3]["messages"][0]["content"]][1] == "Please give a short description of "


def test_coco_style_with_a_list_of_images(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30} for number in (1, 2, 3)]
    annotations = [
        {"image_id": number, "bbox": [1, 2, 3 + number, 4], "caption": f"THING {number}", "iscrowd": 0}
        for number in (1, 2, 3, 3)
    ]
    path = write_json(tmp_path / "vg.json", {"images": images, "annotations": annotations})
    for number, folder in ((1, "VG_100K"), (2, "VG_100K"), (3, "VG_100K_2")):
        write_jpeg(tmp_path / folder / f"{number}.jpg", 40, 30)
    ids = tmp_path / "ids.txt"
    ids.write_text("3\n1\n")
    arguments = ["--images", str(tmp_path), "--annotations", str(path), "--image-ids", str(ids)]
    assert visual_genome.main([*arguments, "--output", str(tmp_path / "rows")]) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert rows["image_id"] == ["1", "3"]
    assert rows["boxes_xyxy"] == [[[1, 2, 5, 6]], [[1, 2, 7, 6]]]  # equal boxes overlap
    assert rows[0]["messages"][1]["content"] == [text_part("Thing 1")]


@pytest.mark.parametrize(("which", "message"), [(3, "is not a `region_desc"), (5, "is not the `image_data.json`")])
def test_files_of_another_layout_are_named(tmp_path, capsys, which, message):
    arguments = vg_files(tmp_path)
    write_json(Path(arguments[which]), {"images": [], "annotations": []})
    assert visual_genome.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_real_regions_without_and_with_their_image(tmp_path, capsys):
    folder = real_sample("visual_genome")
    arguments = [
        *("--annotations", str(folder / "region_descriptions_image_1_excerpt.json")),
        *("--image-data", str(folder / "image_data_image_1.json")),
        *("--images", str(tmp_path)),
    ]
    assert visual_genome.main([*arguments, "--output", str(tmp_path / "none")]) == 1
    assert read_report(tmp_path / "none")["skipped"] == {"missing image": 1}
    assert "no row was written" in capsys.readouterr().err

    write_jpeg(tmp_path / "VG_100K_2" / "1.jpg", 800, 600)  # of the right size
    assert visual_genome.main([*arguments, "--output", str(tmp_path / "rows")]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    answers = [message["content"][0]["text"] for message in row["messages"][1::2]]
    by_box = {tuple(box): answer for box, answer in zip(row["boxes_xyxy"], answers, strict=True)}
    assert by_box == {
        (421, 57, 503, 196): "The clock is green in colour",
        (194, 372, 376, 481): "Shade is along the street",
        (241, 491, 302, 521): "Man is wearing sneakers",
        (318, 320, 358, 358): "Bicycles are seen in the bckground",
    }


@pytest.mark.parametrize("name", ["visual_genome", "visual_genome single"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda regions, images: regions[0]["regions"][0].update(image_id=2),
            "a region names another image than the entry that lists it",
        ),
        (lambda regions, images: regions[0].update(id=99), "the image is not in `--image-data`"),
        (lambda regions, images: regions[0].update(id="1"), "the image is not in `--image-data`"),
        (lambda regions, images: regions[0].update(id=True), "entry of regions without an `id`"),
        (lambda regions, images: regions[0].pop("regions"), "`regions` of an entry is not a list"),
        (lambda regions, images: regions.__setitem__(0, 5), "entry of regions is not a JSON object"),
        (lambda regions, images: regions[0]["regions"].__setitem__(0, 5), "region is not a JSON object"),
        (lambda regions, images: regions[0]["regions"][0].pop("phrase"), "no text"),
        (lambda regions, images: images[0].pop("url"), "the image has no `url`"),
        (lambda regions, images: images[0].update(height=None), "image has no usable `height`"),
        (
            lambda regions, images: images.append({**images[0], "url": "https://x/VG_100K/b.png"}),
            "several images share the same id: whose regions are they?",
        ),
    ],
)
def test_regions_are_tied_at_both_ends(images, name, change, reason):
    arguments = write_vg(images)
    files = [images / "a.json", images / "image_data.json"]
    contents = [json.loads(path.read_text()) for path in files]
    change(*contents)
    for path, content in zip(files, contents):
        path.write_text(json.dumps(content))
    outcome = run(SCRIPTS[name], images, arguments)
    assert one_reason(outcome) == reason and outcome.rows[0]["image_id"] == "2"


def test_two_entries_of_regions_for_one_image(images):
    arguments = write_vg(images)
    entries = json.loads((images / "a.json").read_text())
    wild.write_json(images, [*entries, entries[0]])
    outcome = run(SCRIPTS["visual_genome"], images, arguments)
    assert len(outcome.rows) == 2
    assert outcome.reasons["two entries of regions share the id of an image"] == 1
