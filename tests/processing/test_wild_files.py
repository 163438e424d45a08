"""Annotation files as they are in the wild: each script leaves out what is wrong alone, counts it and says why.

Every script gets files with two good pictures, `a.png` and `b.png`, and a change that spoils something. Rows of what is not
spoiled must come out as they do without the change.
"""

import csv
import gzip
import io
import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from processing import (
    coco,
    flickr30k,
    grit,
    groma_instruct_dataset,
    grounding,
    llava_instruct,
    lvis_ground,
    openimages,
    refcoco,
    sa1b,
    visual_genome,
)

WIDTH, HEIGHT = 40, 30
BOX = [4, 6, 20, 9]  # xywh
CORNERS = [4, 6, 24, 15]


def write_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> None:
    """A black PNG in which `BOX` is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[CORNERS[1] : CORNERS[3], CORNERS[0] : CORNERS[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, "PNG", exif=exif)  # whatever its name


# ------------------------------------------------------------------------------------------------------------- scripts


def coco_content(name: str = "a.png", bbox: Any = BOX, size: tuple[Any, Any] = (WIDTH, HEIGHT)) -> dict:
    """COCO instances that every script of that format reads; `name`, `bbox` and `size` are of the first picture."""
    images = [
        {"id": 1, "file_name": name, "width": size[0], "height": size[1], "caption": "a cup stands"},
        {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT, "caption": "a dog runs"},
    ]
    more = {"category_id": 1, "iscrowd": 0, "tokens_positive": [[0, 5]]}
    annotations = [
        {"id": 11, "image_id": 1, "bbox": bbox, "caption": "a cup", **more},
        {"id": 12, "image_id": 2, "bbox": BOX, "caption": "a dog", **more, "category_id": 2},
    ]
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@dataclass
class Script:
    """How to run a script on files of its format.

    Args:
        main (`Callable`): the script.
        write (`Callable`): writes the files for `name`, `bbox` and `size` of the first picture; the annotation options.
        options (`list`): more options.
        file (`str`): the annotation file whose bytes tests change.
        bbox (`bool`): whether it has `xywh` boxes in JSON.
        size (`bool`): whether it knows the size of pictures.
    """

    main: Callable[[list[str]], int]
    write: Callable[..., list[str]]
    options: tuple[str, ...] = ()
    file: str = "a.json"
    bbox: bool = True
    size: bool = True


def write_json(folder: Path, content: Any, name: str = "a.json") -> list[str]:
    (folder / name).write_text(json.dumps(content))
    return ["--annotations", str(folder / name)]


def write_coco(folder: Path, **changes) -> list[str]:
    return write_json(folder, coco_content(**changes))


def write_refer(folder: Path, **changes) -> list[str]:
    write_coco(folder, **changes)
    refs = [
        {"ref_id": k, "image_id": k, "ann_id": 10 + k, "split": "train", "sentences": [{"sent": f"thing {k}"}]}
        for k in (1, 2)
    ]
    (folder / "refs.p").write_bytes(pickle.dumps(refs))
    return ["--annotations", str(folder / "refs.p"), str(folder / "a.json")]


def write_vg(folder: Path, name="a.png", bbox=BOX, size=(WIDTH, HEIGHT)) -> list[str]:
    images = [
        {"image_id": 1, "url": f"https://x/VG_100K/{name}", "width": size[0], "height": size[1]},
        {"image_id": 2, "url": "https://x/VG_100K/b.png", "width": WIDTH, "height": HEIGHT},
    ]
    box = dict(zip(("x", "y", "width", "height"), bbox)) if isinstance(bbox, list) else {"x": bbox}
    regions = [
        {"id": 1, "regions": [{"region_id": 5, "image_id": 1, "phrase": "a cup", **box}]},
        {
            "id": 2,
            "regions": [
                {"region_id": 6, "image_id": 2, "phrase": "a dog", **dict(zip(("x", "y", "width", "height"), BOX))}
            ],
        },
    ]
    (folder / "image_data.json").write_text(json.dumps(images))
    return [*write_json(folder, regions), "--image-data", str(folder / "image_data.json")]


def write_instruct(folder: Path, name="a.png", bbox=BOX, size=(WIDTH, HEIGHT)) -> list[str]:
    def record(name: str, bbox: Any, size: tuple[Any, Any]) -> dict:
        turns = [{"value": "What?"}, {"value": "<p>It</p> <roi><ground_box></roi>", "box_inds": [0]}]
        return {"file_name": name, "width": size[0], "height": size[1], "boxes": [bbox], "conversation": turns}

    return write_json(folder, [record(name, bbox, size), record("b.png", BOX, (WIDTH, HEIGHT))])


def write_grit(folder: Path, name="a.png", size=(WIDTH, HEIGHT), **_) -> list[str]:
    x1, y1, x2, y2 = CORNERS
    box = [x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]
    lines = [
        {"filename": n, "caption": "a cup", "ref_exps": [[0, 5, *box, 0.9]], "noun_chunks": []}
        for n in (name, "b.png")
    ]
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return ["--annotations", str(folder / "a.jsonl")]


def write_llava(folder: Path, name="a.png", **_) -> list[str]:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It."}]
    return write_json(folder, [{"id": n, "image": n, "conversations": turns} for n in (name, "b.png")])


def write_openimages(folder: Path, name="a.png", **_) -> list[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["ImageID", "XMin", "YMin", "XMax", "YMax", "IsGroupOf"])
    x1, y1, x2, y2 = CORNERS
    for n in (name, "b.png"):
        writer.writerow([n.removesuffix(".png"), x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT, 0])
    (folder / "a.csv").write_text(buffer.getvalue())
    return ["--annotations", str(folder / "a.csv")]


SCRIPTS = {
    "coco": Script(coco.main, write_coco),
    "grounding": Script(grounding.main, write_coco),
    "lvis_ground": Script(lvis_ground.main, write_coco),
    "refcoco": Script(refcoco.main, write_coco, ("--task", "rec")),
    "refcoco caption": Script(refcoco.main, write_coco, ("--task", "region-caption", "--evaluation")),
    "refer": Script(refcoco.main, write_refer, ("--task", "rec")),
    "flickr30k": Script(flickr30k.main, write_coco),
    "visual_genome coco": Script(visual_genome.main, write_coco),
    "visual_genome": Script(visual_genome.main, write_vg),
    "visual_genome single": Script(visual_genome.main, write_vg, ("--rounds", "single")),
    "groma_instruct": Script(groma_instruct_dataset.main, write_instruct),
    "grit": Script(grit.main, write_grit, file="a.jsonl", bbox=False, size=False),
    "llava": Script(llava_instruct.main, write_llava, bbox=False, size=False),
    "openimages": Script(openimages.main, write_openimages, file="a.csv", bbox=False, size=False),
}
WITH_BOXES = [name for name, script in SCRIPTS.items() if script.bbox]
COCO_STYLE = [name for name, script in SCRIPTS.items() if script.write in (write_coco, write_refer)]


@dataclass
class Outcome:
    status: int
    rows: list[dict]
    report: dict
    errors: str

    @property
    def boxes(self) -> list[list[float]]:
        return [[*row["boxes_xyxy"], *row.get("target_boxes_xyxy", [])] for row in self.rows]

    @property
    def reasons(self) -> dict[str, int]:
        """What was counted, records and parts of records."""
        return {**self.report["skipped"], **self.report.get("parts", {})}


def run(script: Script, folder: Path, arguments: list[str], *more: str) -> Outcome:
    output = folder / "rows"
    argv = ["--images", str(folder / "images"), *arguments, "--output", str(output), *script.options, *more]
    status = script.main(argv)
    rows = [row for path in sorted(output.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    reports = [
        json.loads(path.read_text()) for path in (*output.glob("*.report.json"), *output.glob(".*.report.json"))
    ]
    return Outcome(status, rows, reports[0] if reports else {"skipped": {}}, "")


@pytest.fixture
def images(tmp_path) -> Path:
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png")
        os.link(tmp_path / "images" / f"{name}.png", tmp_path / "images" / f"{name}.jpg")  # OpenImages' names
    return tmp_path


def one_reason(outcome: Outcome) -> str:
    """The one thing that was counted: a reason without numbers or names, with an example beside it."""
    assert outcome.status == 0 and len(outcome.rows) == 1
    reasons = {
        name: count
        for name, count in outcome.reasons.items()
        if name
        not in (
            "no boxes",
            "no expression with a box",
            "no phrase with a box",
            "no region with a box and a description",
        )
    }
    [(reason, count)] = reasons.items()
    assert count == 1 and not re.search(r"\d|\.png|\.jpg", reason), reason
    assert any(text.startswith(reason) for _, text in outcome.report["examples"])
    return reason


@pytest.mark.parametrize("name", SCRIPTS)
def test_good_files(images, name):
    script = SCRIPTS[name]
    outcome = run(script, images, script.write(images))
    assert outcome.status == 0 and len(outcome.rows) == 2 and outcome.reasons == {}
    if name != "llava":
        assert outcome.boxes == [[pytest.approx(CORNERS)]] * 2


# --------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("name", WITH_BOXES)
@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        (None, "box is not four finite numbers"),
        ([], "box is not four finite numbers"),
        ([1, 2, 3], "box is not four finite numbers"),
        ([1, 2, 3, None], "box is not four finite numbers"),
        ([1, 2, 3, float("nan")], "box is not four finite numbers"),
        ([1, 2, 3, "wide"], "box is not four finite numbers"),
        ([5, 5, 0, 5], "box is empty"),
        ([5, 5, 5, -5], "box is empty"),
        ([0.1, 0.2, 0.5, 0.3], "box is smaller than a pixel"),
        ([50, 5, 5, 5], "box is outside of the image"),
    ],
)
def test_a_wrong_box_is_counted(images, name, bbox, reason):
    script = SCRIPTS[name]
    outcome = run(script, images, script.write(images, bbox=bbox))
    found = one_reason(outcome)
    if name == "groma_instruct":
        assert found == "the conversation names a box that is wrong"
        assert any(reason in text for _, text in outcome.report["examples"])
    else:
        assert found.startswith(reason)
    assert outcome.boxes == [[CORNERS]]


@pytest.mark.parametrize("name", COCO_STYLE)
def test_a_missing_box_is_counted(images, name):
    script = SCRIPTS[name]
    arguments = script.write(images)
    content = coco_content()
    del content["annotations"][0]["bbox"]
    write_json(images, content)
    assert one_reason(run(script, images, arguments)) == "box is not four finite numbers"


@pytest.mark.parametrize("name", ["coco", "grounding", "lvis_ground", "flickr30k", "visual_genome coco"])
def test_the_other_boxes_of_a_picture_stay(images, name):
    script = SCRIPTS[name]
    content = coco_content()
    wrong = [
        {**content["annotations"][0], "id": 20 + k, "bbox": box} for k, box in enumerate([None, [], [1, 1, 0, 1]])
    ]
    content["annotations"][:0] = wrong[:2]
    content["annotations"].append(wrong[2])
    outcome = run(script, images, write_json(images, content))
    assert outcome.status == 0 and outcome.boxes == [[CORNERS]] * 2
    assert outcome.report["skipped"] == {} and sum(outcome.report["parts"].values()) == 3


# ----------------------------------------------------------------------------------------------------------------- ids


def changed(images: Path, name: str, change: Callable[[dict], None]) -> Outcome:
    """Run a COCO-style script on a file that was changed."""
    script = SCRIPTS[name]
    arguments = script.write(images)
    content = coco_content()
    change(content)
    write_json(images, content)
    return run(script, images, arguments)


@pytest.mark.parametrize("name", COCO_STYLE)
@pytest.mark.parametrize("identity", [1, 1.0])
def test_two_pictures_with_one_id(images, name, identity, capsys):
    def change(content: dict) -> None:
        content["images"].append({**content["images"][0], "id": identity, "file_name": "b.png"})

    outcome = changed(images, name, change)
    assert outcome.boxes == [[CORNERS]], "the other picture stays"
    assert "several images share the same id: whose annotations are they?" in outcome.report["skipped"]
    assert "id 1: a.png, b.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", COCO_STYLE)
def test_a_picture_that_is_listed_twice_counts_once(images, name):
    outcome = changed(images, name, lambda content: content["images"].append(dict(content["images"][0])))
    assert outcome.boxes == [[CORNERS]] * 2
    assert outcome.report["skipped"] in ({"image is listed twice": 1}, {})
    assert ("image is listed twice" in outcome.report["skipped"]) == (name != "refer")


@pytest.mark.parametrize("name", [name for name in COCO_STYLE if name not in ("refer", "refcoco caption")])
def test_files_that_use_an_id_for_other_pictures(images, name, capsys):
    """Boxes go to the picture of their own file, and somebody is told."""
    content = coco_content()
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    content["images"][0]["file_name"] = "b.png"
    arguments = [*write_json(images, coco_content()), write_json(images, content, "b.json")[1]]
    outcome = run(SCRIPTS[name], images, arguments)
    assert {row["image"]["path"] for row in outcome.rows if row["image_id"] == "2"} == {"b.png"}
    assert [row["image"]["path"] for row in outcome.rows if row["image_id"] == "1"] == ["a.png", "b.png"]
    assert "1 ids belong to different pictures, for example 1 to a.png and b.png" in capsys.readouterr().err
    assert run(SCRIPTS[name], images, [*arguments[:2], arguments[1]], "--overwrite").rows
    assert "belong to different pictures" not in capsys.readouterr().err


@pytest.mark.parametrize("name", COCO_STYLE)
@pytest.mark.parametrize(
    ("image_id", "told"),
    [
        ("1", "is a text and the image's id a number, or the other way round,"),
        (None, "without an `image_id`"),
        (True, "without an `image_id`"),
        (1.5, "without an `image_id`"),
        (float("nan"), "without an `image_id`"),
        ([1], "without an `image_id`"),
        (99, "of pictures that are not in the file"),
    ],
)
def test_an_annotation_of_no_picture(images, name, image_id, told, capsys):
    outcome = changed(images, name, lambda content: content["annotations"][0].update(image_id=image_id))
    assert outcome.boxes == [[CORNERS]]
    assert re.search(
        rf"a.json: 1 annotations .*{re.escape(told)} are left out, for example annotation at", capsys.readouterr().err
    )


@pytest.mark.parametrize("name", COCO_STYLE)
def test_an_annotation_that_is_not_an_object(images, name, capsys):
    outcome = changed(images, name, lambda content: content["annotations"].insert(0, [1, 2]))
    assert outcome.boxes == [[CORNERS]] * 2
    assert "1 annotations that are not JSON objects are left out" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in COCO_STYLE if name != "refer"])
@pytest.mark.parametrize("identity", [None, True, "", 0.5, [1]])
def test_a_picture_without_an_id(images, name, identity):
    outcome = changed(images, name, lambda content: content["images"][0].update(id=identity))
    assert outcome.boxes == [[CORNERS]]
    assert outcome.report["skipped"] == {"image without an id: a whole number or a text": 1}


@pytest.mark.parametrize("name", COCO_STYLE)
@pytest.mark.parametrize("identities", [("1", "2"), (1.0, 2.0), (10**18 + 1, 10**18 + 2), ("x", "y")])
def test_ids_may_be_of_any_type_that_both_ends_share(images, name, identities):
    if name == "refer" and identities != (1.0, 2.0):
        pytest.skip("its refs have ids of their own")

    def change(content: dict) -> None:
        for image, annotation, identity in zip(content["images"], content["annotations"], identities):
            image["id"] = annotation["image_id"] = identity

    outcome = changed(images, name, change)
    assert outcome.boxes == [[CORNERS]] * 2 and outcome.reasons == {}
    assert [row["image_id"] for row in outcome.rows] == [
        str(int(i)) if isinstance(i, float) else str(i) for i in identities
    ]


@pytest.mark.parametrize("name", ["coco", "grounding", "lvis_ground", "flickr30k", "visual_genome coco", "refcoco"])
def test_an_annotation_that_is_listed_twice_counts_once(images, name):
    outcome = changed(images, name, lambda content: content["annotations"].append(dict(content["annotations"][0])))
    assert outcome.boxes == [[CORNERS]] * 2
    assert outcome.reasons == {"annotation is listed twice": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda refs, _: refs[0].update(ann_id=12), "the annotation of a ref belongs to another picture than the ref"),
        (
            lambda refs, _: refs[0].update(image_id=2),
            "the annotation of a ref belongs to another picture than the ref",
        ),
        (lambda refs, _: refs[0].update(image_id=99), "the picture of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].update(image_id="1"), "the picture of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].update(image_id=True), "the picture of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].pop("image_id"), "the picture of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].update(ann_id=99), "the annotation of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].update(ann_id="11"), "the annotation of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].update(ann_id=None), "the annotation of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].update(sentences=None), "ref without sentences"),
        (lambda refs, _: refs[0].update(sentences=[]), "ref without sentences"),
        (lambda refs, _: refs[0].update(sentences=["a cup"]), "no text"),
        (lambda refs, _: refs[0].update(split=None), "ref without a split"),
        (lambda refs, _: refs.__setitem__(0, "ref"), "ref without a split"),
        (
            lambda _, content: content["annotations"].append({**content["annotations"][0], "bbox": [1, 1, 9, 9]}),
            "several annotations share the id that a ref names",
        ),
        (
            lambda _, content: content["annotations"].append({**content["annotations"][1], "id": 11}),
            "several annotations share the id that a ref names",
        ),
        (lambda _, content: content["annotations"][0].update(iscrowd=1), "the box is that of a crowd region"),
    ],
)
def test_refs_are_tied_at_both_ends(images, change, reason):
    arguments = write_refer(images)
    refs, content = pickle.loads((images / "refs.p").read_bytes()), coco_content()
    change(refs, content)
    (images / "refs.p").write_bytes(pickle.dumps(refs))
    write_json(images, content)
    outcome = run(SCRIPTS["refer"], images, arguments)
    assert one_reason(outcome) == reason
    assert outcome.rows[0]["image_id"] == "2"


@pytest.mark.parametrize("name", ["visual_genome", "visual_genome single"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda regions, images: regions[0]["regions"][0].update(image_id=2),
            "a region names another picture than the entry that lists it",
        ),
        (lambda regions, images: regions[0].update(id=99), "the picture is not in `--image-data`"),
        (lambda regions, images: regions[0].update(id="1"), "the picture is not in `--image-data`"),
        (lambda regions, images: regions[0].update(id=True), "entry of regions without an `id`"),
        (lambda regions, images: regions[0].pop("regions"), "`regions` of an entry is not a list"),
        (lambda regions, images: regions.__setitem__(0, 5), "entry of regions is not a JSON object"),
        (lambda regions, images: regions[0]["regions"].__setitem__(0, 5), "region is not a JSON object"),
        (lambda regions, images: regions[0]["regions"][0].pop("phrase"), "no text"),
        (lambda regions, images: images[0].pop("url"), "the picture has no `url`"),
        (lambda regions, images: images[0].update(height=None), "image has no usable `height`"),
        (
            lambda regions, images: images.append({**images[0], "url": "https://x/VG_100K/b.png"}),
            "several pictures share the same id: whose regions are they?",
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


def test_two_entries_of_regions_for_one_picture(images):
    arguments = write_vg(images)
    entries = json.loads((images / "a.json").read_text())
    write_json(images, [*entries, entries[0]])
    outcome = run(SCRIPTS["visual_genome"], images, arguments)
    assert len(outcome.rows) == 2
    assert outcome.reasons["two entries of regions share the id of a picture"] == 1


@pytest.mark.parametrize(
    ("indices", "reason"),
    [
        ([1], "`box_inds` of a turn name boxes that are not there"),
        ([-1], "`box_inds` of a turn name boxes that are not there"),
        ([True], "`box_inds` of a turn are not numbers of boxes"),
        (["0"], "`box_inds` of a turn are not numbers of boxes"),
        ([0.5], "`box_inds` of a turn are not numbers of boxes"),
        (0, "`box_inds` of a turn are not numbers of boxes"),
        ([], "another number of marks than of box_inds"),
        ([0, 0], "another number of marks than of box_inds"),
    ],
)
def test_indices_of_boxes_are_checked(images, indices, reason):
    arguments = write_instruct(images)
    records = json.loads((images / "a.json").read_text())
    records[0]["conversation"][1]["box_inds"] = indices
    write_json(images, records)
    assert one_reason(run(SCRIPTS["groma_instruct"], images, arguments)) == reason


def test_a_box_that_nobody_names_is_left_out_alone(images):
    """The others keep their places."""
    arguments = write_instruct(images)
    records = json.loads((images / "a.json").read_text())
    records[0]["boxes"] = [None, [1, 1, 0, 0], BOX]
    records[0]["conversation"][1]["box_inds"] = [2.0]
    write_json(images, records)
    outcome = run(SCRIPTS["groma_instruct"], images, arguments)
    assert outcome.boxes == [[CORNERS]] * 2 and sum(outcome.report["parts"].values()) == 2
    assert outcome.rows[0]["messages"][1]["content"][0]["boxes"] == [0]


@pytest.mark.parametrize("name", ["coco", "grounding", "lvis_ground"])
@pytest.mark.parametrize("spelled", ["a.png", "./a.png"])
def test_entries_of_one_picture_are_put_together(images, name, spelled, capsys):
    """Apart, each would deny the boxes of the other."""

    def change(content: dict) -> None:
        content["images"].append({**content["images"][0], "id": 3, "file_name": spelled})
        for number, box in ((30, [1, 1, 9, 9]), (31, BOX)):
            content["annotations"].append({**content["annotations"][0], "id": number, "image_id": 3, "bbox": box})

    outcome = changed(images, name, change)
    assert sorted(outcome.boxes[0]) == [[1, 1, 10, 10], CORNERS] and outcome.boxes[1] == [CORNERS]
    assert [row["image_id"] for row in outcome.rows] == ["1", "2"]
    assert outcome.reasons == {"annotation is listed twice": 1}
    assert "1 pictures have several entries, for example a.png the ids 1 and 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["coco", "grounding", "lvis_ground"])
def test_of_entries_that_disagree_about_the_size_the_file_tells(images, name):
    outcome = changed(
        images, name, lambda content: content["images"].append({**content["images"][0], "id": 3, "width": 99})
    )
    assert outcome.boxes == [[CORNERS]] * 2
    if name == "coco":
        assert outcome.report["skipped"] == {"no boxes": 1}


def test_no_entry_of_a_picture_may_call_its_category_unfinished(images):
    def change(content: dict) -> None:
        content["images"].append({**content["images"][0], "id": 3, "not_exhaustive_category_ids": [1]})

    outcome = changed(images, "grounding", change)
    assert outcome.boxes == [[CORNERS]]
    assert outcome.report["skipped"] == {"category not exhaustively annotated": 1}


# ---------------------------------------------------------------------------------------------------------- categories


@pytest.mark.parametrize("name", ["grounding", "lvis_ground"])
@pytest.mark.parametrize("category_id", [9, "1", None, True, 1.5], ids=repr)
def test_an_annotation_of_an_unknown_category(images, name, category_id, capsys):
    def change(content: dict) -> None:
        content["annotations"].append({**content["annotations"][0], "id": 30, "category_id": category_id})

    outcome = changed(images, name, change)
    assert outcome.status == 2 and outcome.boxes == [[CORNERS]] * 2
    assert outcome.report["parts"] == {"annotation of a category that the file does not list": 1}
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and f"category {category_id!r}" in error and "The others are written" in error


@pytest.mark.parametrize("name", ["grounding", "lvis_ground"])
def test_the_only_annotation_of_a_picture_has_an_unknown_category(images, name):
    outcome = changed(images, name, lambda content: content["annotations"][0].update(category_id=9))
    assert outcome.status == 2 and outcome.boxes == [[CORNERS]]
    assert outcome.report["skipped"] == {"no boxes": 1}


@pytest.mark.parametrize("name", ["grounding", "lvis_ground"])
def test_a_file_without_categories_is_an_error(images, name, capsys):
    for wrong in ({"categories": []}, {"categories": None}):
        outcome = changed(images, name, partial(dict.update, **wrong))
        assert outcome.status == 2 and outcome.rows == []
        assert "has annotations, but no `categories`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["coco", "refcoco", "flickr30k"])
def test_scripts_without_categories_need_none(images, name):
    outcome = changed(
        images, name, lambda content: (content.pop("categories"), content["annotations"][0].pop("category_id"))
    )
    assert outcome.boxes == [[CORNERS]] * 2 and outcome.reasons == {}


@pytest.mark.parametrize("name", ["grounding", "lvis_ground"])
@pytest.mark.parametrize("other", ["cup", "Cup", " cup ", "CUP"])
def test_categories_of_one_name_are_asked_for_together(images, name, other, capsys):
    def change(content: dict) -> None:
        content["categories"].append({"id": 3, "name": other})
        content["annotations"].append({**content["annotations"][0], "id": 30, "category_id": 3, "bbox": [1, 1, 9, 9]})

    outcome = changed(images, name, change)
    assert outcome.boxes == [[[1, 1, 10, 10], CORNERS], [CORNERS]]
    assert "the categories 1 and 3 are all called 'cup': they are asked for together" in capsys.readouterr().err


def test_categories_of_one_name_are_exhaustive_only_together(images):
    def change(content: dict) -> None:
        content["categories"].append({"id": 3, "name": "cup"})
        content["annotations"].append({**content["annotations"][0], "id": 30, "category_id": 3, "bbox": [1, 1, 9, 9]})
        content["images"][0]["not_exhaustive_category_ids"] = [3]
        content["images"][1]["not_exhaustive_category_ids"] = None

    outcome = changed(images, "grounding", change)
    assert outcome.boxes == [[CORNERS]]
    assert outcome.report["skipped"] == {"category not exhaustively annotated": 1}


@pytest.mark.parametrize("name", ["grounding", "lvis_ground"])
@pytest.mark.parametrize(
    ("category", "reason"),
    [
        ({"id": 1, "name": "glass"}, "two categories with different names share the id of an annotation's category"),
        ({"id": 1.0, "name": "glass"}, "two categories with different names share the id of an annotation's category"),
    ],
)
def test_categories_that_share_an_id(images, name, category, reason):
    outcome = changed(images, name, lambda content: content["categories"].append(category))
    assert outcome.boxes == [[CORNERS]] and outcome.reasons == {reason: 1, "no boxes": 1}


@pytest.mark.parametrize("name", ["grounding", "lvis_ground"])
def test_odd_categories(images, name, capsys):
    def change(content: dict) -> None:
        content["categories"] += [dict(content["categories"][0]), {"name": "x"}, 7, {"id": 5, "name": " "}]
        content["annotations"].append({**content["annotations"][0], "id": 30, "category_id": 5})

    outcome = changed(images, name, change)
    assert outcome.boxes == [[CORNERS]] * 2
    assert outcome.reasons == {"the category of an annotation has no name": 1}
    assert capsys.readouterr().err.count("a category without an `id` is left out") == 2


# -------------------------------------------------------------------------------------------------------------- crowds


@pytest.mark.parametrize("crowd", [1, True, 1.0, "1", "true"])
def test_crowds_have_a_column_of_their_own(images, crowd):
    def change(content: dict) -> None:
        mask = {"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT]}
        more = {"id": 30, "iscrowd": crowd, "bbox": [1, 1, 30, 20], "segmentation": mask}
        content["annotations"].append({**content["annotations"][0], **more})

    outcome = changed(images, "coco", change)
    assert outcome.boxes == [[CORNERS]] * 2 and outcome.reasons == {}
    assert [row["crowd_boxes_xyxy"] for row in outcome.rows] == [[[1, 1, 31, 21]], []]


@pytest.mark.parametrize("crowd", [0, False, None, 0.0, "0", "false", ""])
def test_what_is_not_a_crowd(images, crowd):
    outcome = changed(images, "coco", lambda content: content["annotations"][0].update(iscrowd=crowd))
    assert outcome.boxes == [[CORNERS]] * 2 and outcome.rows[0]["crowd_boxes_xyxy"] == []


@pytest.mark.parametrize("crowd", [2, "maybe", [], {}])
def test_a_crowd_flag_that_says_nothing(images, crowd):
    outcome = changed(images, "coco", lambda content: content["annotations"][0].update(iscrowd=crowd))
    assert one_reason(outcome) == "`iscrowd` of an annotation is neither false nor true"


def test_pictures_without_boxes_are_kept_if_wanted(images):
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    content["images"].append({**content["images"][0], "id": 3, "file_name": "a.jpg"})
    arguments = write_json(images, content)
    outcome = run(SCRIPTS["coco"], images, arguments)
    assert outcome.boxes == [[CORNERS]] and outcome.report["skipped"] == {"no boxes": 2}
    outcome = run(SCRIPTS["coco"], images, arguments, "--keep-empty", "--overwrite")
    assert outcome.boxes == [[], [CORNERS], []]
    assert [row["crowd_boxes_xyxy"] for row in outcome.rows] == [[CORNERS], [], []]


# --------------------------------------------------------------------------------------------------- pictures and paths


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("file_name", "reason"),
    [
        ("../secret.png", "the path of the image leaves its folder"),
        ("/secret.png", "the path of the image is absolute"),
        ("out.png", "the image is a link that leads out of the folder"),
        ("fifo.png", "not a regular file"),
        ("folder.png", "not a regular file"),
        ("missing.png", "missing picture"),
        ("empty.png", "empty picture file"),
        ("text.png", "not a picture"),
        ("half.png", "broken picture"),
    ],
)
def test_pictures_that_are_not_there(images, name, file_name, reason):
    script, folder = SCRIPTS[name], images / "images"
    if name.startswith("visual_genome") and script.write is write_vg and "/" in file_name:
        pytest.skip("its URLs end in a folder and a name")
    write_image(images / "secret.png")
    content = (folder / "a.png").read_bytes()
    for suffix in ("png", "jpg"):
        (folder / f"out.{suffix}").symlink_to(images / "secret.png")
        os.mkfifo(folder / f"fifo.{suffix}")
        (folder / f"folder.{suffix}").mkdir()
        (folder / f"empty.{suffix}").touch()
        (folder / f"text.{suffix}").write_text("404")
        (folder / f"half.{suffix}").write_bytes(content[:-30])
    outcome = run(script, images, script.write(images, name=file_name))
    assert one_reason(outcome).startswith(reason)


@pytest.mark.parametrize("name", COCO_STYLE)
@pytest.mark.parametrize("file_name", [None, "", 7, ["a.png"], "a\0.png", "http://x/a.png"])
def test_names_that_are_no_paths(images, name, file_name):
    outcome = changed(images, name, lambda content: content["images"][0].update(file_name=file_name))
    assert outcome.boxes == [[CORNERS]] and len(outcome.reasons) == 1


@pytest.mark.parametrize("name", COCO_STYLE)
def test_separators_of_windows(images, name):
    (images / "images" / "train").mkdir()
    (images / "images" / "a.png").rename(images / "images" / "train" / "a.png")
    outcome = changed(images, name, lambda content: content["images"][0].update(file_name="train\\a.png"))
    assert outcome.boxes == [[CORNERS]] * 2
    outcome = changed(images, name, lambda content: content["images"][0].update(file_name="..\\secret.png"))


@pytest.mark.parametrize("name", [name for name, script in SCRIPTS.items() if script.size])
@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((41, HEIGHT), "image has another size than annotated"),
        ((HEIGHT, WIDTH), "image has another size than annotated"),
        ((None, HEIGHT), "image has no usable `width`"),
        ((WIDTH, 0), "image has no usable `height`"),
        ((WIDTH, "high"), "image has no usable `height`"),
        ((True, HEIGHT), "image has no usable `width`"),
    ],
)
def test_pictures_of_another_size(images, name, size, reason):
    script = SCRIPTS[name]
    assert one_reason(run(script, images, script.write(images, size=size))) == reason


# ---------------------------------------------------------------------------------------------------------------- EXIF


def white_box(row: dict) -> list[int]:
    """Where the white box of an image is as a viewer shows it."""
    from datasets import Image as ImageFeature

    return list(ImageFeature().decode_example(row["image"]).convert("L").getbbox())


TURNING = [name for name in SCRIPTS if name != "llava"]


@pytest.mark.parametrize("name", TURNING)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_stored_images_are_turned(images, name, orientation):
    script = SCRIPTS[name]
    for suffix in ("png", "jpg"):
        (images / "images" / f"a.{suffix}").unlink(missing_ok=True)
        write_image(images / "images" / f"a.{suffix}", orientation=orientation)
    outcome = run(script, images, script.write(images), "--boxes-of", "stored")
    assert outcome.status == 0
    assert outcome.boxes == [[pytest.approx(white_box(row))] for row in outcome.rows] and len(outcome.rows) == 2
    if script.size and orientation > 4:
        outcome = run(script, images, script.write(images), "--overwrite")
        assert outcome.boxes == [[pytest.approx(white_box(row))] for row in outcome.rows], "the annotated size tells"
    elif orientation > 1:
        outcome = run(script, images, script.write(images), "--overwrite")
        assert "pass `--boxes-of upright` or `--boxes-of stored`" in one_reason(outcome)


@pytest.mark.parametrize("name", TURNING)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_of_upright_images_stay(images, name, orientation):
    script = SCRIPTS[name]
    stored = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
    for suffix in ("png", "jpg"):
        (images / "images" / f"a.{suffix}").unlink(missing_ok=True)
        write_image(images / "images" / f"a.{suffix}", stored, orientation)
    outcome = run(script, images, script.write(images), "--boxes-of", "upright")
    assert outcome.boxes == [[pytest.approx(CORNERS)]] * 2
    if script.size and orientation > 4:
        assert run(script, images, script.write(images), "--overwrite").boxes == [[CORNERS]] * 2
        outcome = run(script, images, script.write(images), "--overwrite", "--boxes-of", "stored")
        assert "the annotated size is that of the upright image; pass `--boxes-of upright`" in one_reason(outcome)


@pytest.mark.parametrize("name", [name for name in TURNING if SCRIPTS[name].size])
@pytest.mark.parametrize("orientation", [2, 6])
def test_square_images_need_to_be_told(images, name, orientation):
    script = SCRIPTS[name]
    write_image(images / "images" / "a.png", (WIDTH, WIDTH), orientation)
    arguments = script.write(images, size=(WIDTH, WIDTH))
    assert "pass `--boxes-of upright` or `--boxes-of stored`" in one_reason(run(script, images, arguments))
    for boxes_of in ("stored", "upright"):
        outcome = run(script, images, arguments, "--boxes-of", boxes_of, "--overwrite")
        expected = white_box(outcome.rows[0]) if boxes_of == "stored" else CORNERS
        assert outcome.boxes[0] == [expected]


def test_grounding_sorts_boxes_of_the_upright_image(images):
    """Turned upside down, the left box is the right one."""
    write_image(images / "images" / "a.png", orientation=3)
    content = coco_content()
    content["annotations"].append({**content["annotations"][0], "id": 30, "bbox": [1, 1, 3, 3]})
    outcome = run(SCRIPTS["grounding"], images, write_json(images, content), "--boxes-of", "stored")
    assert outcome.boxes[0] == [[16, 15, 36, 24], [36, 26, 39, 29]]


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(images, name, encoding):
    script = SCRIPTS[name]
    if name == "openimages" and encoding == "utf-16":
        pytest.skip("tables of millions of lines are read as they stream")
    arguments = script.write(images)
    path = images / script.file
    path.write_bytes(path.read_text().encode(encoding))
    outcome = run(script, images, arguments)
    assert len(outcome.rows) == 2 and outcome.reasons == {}


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "openimages"])
def test_packed_files(images, name):
    script = SCRIPTS[name]
    arguments = script.write(images)
    path = images / script.file
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    arguments = [str(packed) if argument == str(path) else argument for argument in arguments]
    assert len(run(script, images, arguments).rows) == 2


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"caption": "caf\xe9"}', "is not UTF-8"),
        ("{}".encode("utf-16-le"), "is not"),
        (b"\x1f\x8b broken", "is"),
        (b"", "is"),
        (b"3", "is"),
        (b"null", "is"),
    ],
)
def test_files_that_cannot_be_read_are_named(images, name, content, told, capsys):
    script = SCRIPTS[name]
    arguments = script.write(images)
    (images / script.file).write_bytes(content)
    outcome = run(script, images, arguments)
    assert outcome.status in (1, 2) and outcome.rows == []
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert (script.file in error and told in error) or (outcome.status == 1 and name == "grit")


@pytest.mark.parametrize("name", [name for name in SCRIPTS if SCRIPTS[name].file == "a.json"])
def test_json_that_is_too_deep(images, name, capsys):
    script = SCRIPTS[name]
    arguments = script.write(images)
    (images / "a.json").write_text("[" * 100_000)
    assert run(script, images, arguments).status == 2
    assert "a.json is not a JSON file (nested too deeply)" in capsys.readouterr().err


@pytest.mark.parametrize("name", COCO_STYLE)
@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        '{"images": []}',
        '{"annotations": []}',
        '{"images": [3], "annotations": []}',
        '{"images": {}, "annotations": []}',
    ],
)
def test_files_of_another_format_are_named(images, name, text, capsys):
    script = SCRIPTS[name]
    arguments = script.write(images)
    (images / "a.json").write_text(text)
    assert run(script, images, arguments).status == 2
    assert "a.json is not a COCO-style file: " in capsys.readouterr().err


@pytest.mark.parametrize("name", COCO_STYLE)
def test_a_key_that_stands_twice(images, name, capsys):
    """In an annotation it is left out alone; in the file itself nothing can be read."""
    script = SCRIPTS[name]
    arguments = script.write(images)
    text = json.dumps(coco_content())
    twice = text.replace('"id": 11,', '"id": 11, "bbox": [9, 9, 9, 9],')
    assert twice != text
    (images / "a.json").write_text(twice)
    outcome = run(script, images, arguments)
    assert outcome.boxes == [[CORNERS]]
    if name != "refer":
        assert any("has a key twice" in reason for reason in outcome.reasons)
    (images / "a.json").write_text(text[:-1] + ', "images": []}')
    assert run(script, images, arguments, "--overwrite").status == 2
    assert "the key 'images' stands twice in it" in capsys.readouterr().err


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_lines_end_at_line_feeds_alone(images, character):
    """A caption with a character at which `splitlines` would break, in files of lines."""
    line = {"filename": "a.png", "caption": f"a{character}cup", "ref_exps": [[0, 5, 0, 0, 1, 1]]}
    (images / "a.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\r\n", encoding="utf-8")
    outcome = run(SCRIPTS["grit"], images, ["--annotations", str(images / "a.jsonl")])
    assert outcome.rows[0]["messages"][1]["content"][0]["text"] == f"A{character}cup"

    sentences, boxes = images / "Sentences", images / "Annotations"
    sentences.mkdir()
    boxes.mkdir()
    write_image(images / "images" / "7.jpg")
    (sentences / "7.txt").write_bytes(f"[/EN#1/other a{character}cup] .\r\n[/EN#1/other A cup] .\r\n".encode())
    (boxes / "7.xml").write_bytes(flickr_xml("7.jpg").encode("utf-16"))
    (images / "ids.txt").write_bytes("7\r\n".encode("utf-8-sig"))
    (images / "unrelated.txt").write_bytes("7 2\r\n".encode("utf-16"))
    arguments = ["--annotations", str(boxes), "--sentences", str(sentences), "--image-ids", str(images / "ids.txt")]
    outcome = run(
        SCRIPTS["flickr30k"], images, [*arguments, "--unrelated", str(images / "unrelated.txt")], "--overwrite"
    )
    [row] = outcome.rows
    assert row["messages"][1]["content"][0]["text"] == f"A{character}cup"


def flickr_xml(name: str, box: tuple[Any, ...] = (5, 7, 24, 15)) -> str:
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return (
        '<?xml version="1.0" encoding="UTF-16"?>'
        f"<annotation><filename>{name}</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        f"<object><name>1</name><bndbox>{corners}</bndbox></object>"
        "<object><name>2</name><bndbox><xmin>5</xmin><ymin>7</ymin><xmax>24</xmax><ymax>15</ymax></bndbox></object></annotation>"
    )


@pytest.mark.parametrize(
    ("name", "box", "skipped", "parts"),
    [
        ("8.jpg", (5, 7, 24, 15), {"the file of boxes is that of another picture": 1}, {}),
        ("7.jpg", (5, 7, "wide", 15), {}, {"box is not four finite numbers": 1}),
        ("7.jpg", (5, 7, "", 15), {}, {"box is not four finite numbers": 1}),
        ("7.jpg", (5, 7, 2, 15), {}, {"box is empty: its width or height is zero or negative": 1}),
    ],
)
def test_xml_files_of_boxes(images, name, box, skipped, parts):
    for folder in ("Sentences", "Annotations"):
        (images / folder).mkdir()
    write_image(images / "images" / "7.jpg")
    (images / "Sentences" / "7.txt").write_text("[/EN#1/other a cup] and [/EN#2/other a dog] .")
    (images / "Annotations" / "7.xml").write_bytes(flickr_xml(name, box).encode("utf-16"))
    arguments = ["--annotations", str(images / "Annotations"), "--sentences", str(images / "Sentences")]
    outcome = run(SCRIPTS["flickr30k"], images, arguments)
    assert (outcome.report["skipped"], outcome.report.get("parts", {})) == (skipped, parts)
    assert len(outcome.rows) == 1 - len(skipped)


@pytest.mark.parametrize(
    "spans",
    [None, [], 3, [[0]], [[0, 5, 6]], [["0", "5"]], [[0.0, 5.0]], [[True, 5]], [[0, 99]], [[-1, 5]], [[5, 5]]],
    ids=repr,
)
def test_spans_outside_of_their_caption_are_left_out_alone(images, spans):
    content = coco_content()
    content["annotations"].append({**content["annotations"][0], "id": 30, "tokens_positive": spans})
    outcome = run(SCRIPTS["flickr30k"], images, write_json(images, content))
    assert outcome.boxes == [[CORNERS]] * 2
    expected = {"`tokens_positive` of an annotation are not [start, end] inside the caption": 1}
    assert outcome.reasons == ({} if spans == [] else expected)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (None, "expression is not [start, end"),
        ([0, 5, 0.1], "expression is not [start, end"),
        (["a", 5, 0, 0, 1, 1], "expression is not [start, end"),
        ([0.5, 5, 0, 0, 1, 1], "expression is not [start, end"),
        ([0, 5, 0, 0, 1, None], "expression is not [start, end"),
        ([0, 5, 0, 0, 1, float("nan")], "expression is not [start, end"),
        ([0, 99, 0, 0, 1, 1], "expression is not inside its caption"),
        ([3, 3, 0, 0, 1, 1], "expression is not inside its caption"),
        ([0, 5, 0, 0, 20, 1], "the box of the expression is not in fractions"),
        ([0, 5, -0.2, 0, 1, 1], "the box of the expression is not in fractions"),
        ([0, 5, 0.5, 0, 0.5, 1], "box is empty"),
    ],
)
def test_a_wrong_expression_is_left_out_alone(images, expression, reason):
    arguments = write_grit(images)
    lines = [json.loads(line) for line in (images / "a.jsonl").read_text().splitlines()]
    lines[0]["ref_exps"].append(expression)
    (images / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    outcome = run(SCRIPTS["grit"], images, arguments)
    assert len(outcome.rows) == 2
    [(found, count)] = outcome.reasons.items()
    assert found.startswith(reason) and count == 1 and found in outcome.report["parts"]


@pytest.mark.parametrize("line", ["[" * 100_000, "3", "null", '{"caption": 1, "caption": 2}', '"text"', "{"])
def test_a_wrong_line_is_left_out_alone(images, line):
    arguments = write_grit(images)
    (images / "a.jsonl").write_text(f"{line}\n" + (images / "a.jsonl").read_text())
    outcome = run(SCRIPTS["grit"], images, arguments)
    assert len(outcome.rows) == 2 and sum(outcome.report["skipped"].values()) == 1


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("a,0.1,0.2,0.6", [["a", "b"]]),
        ("a,x,0.2,0.6,0.5,0", [["a", "b"]]),
        ("a,nan,0.2,0.6,0.5,0", [["a", "b"]]),
        ("a,4,6,24,15,0", [["a", "b"]]),
        ("a,-1,0.2,0.6,0.5,0", [["a", "b"]]),
        (",0.1,0.2,0.6,0.5,0", [["a", "b"]]),
        ("../a,0.1,0.2,0.6,0.5,0", [["a", "b"]]),
    ],
)
def test_a_wrong_line_of_a_table_is_left_out_alone(images, line, rows):
    arguments = write_openimages(images)
    path = images / "a.csv"
    path.write_text(path.read_text() + line + "\n")
    outcome = run(SCRIPTS["openimages"], images, arguments)
    assert [row["image_id"] for row in outcome.rows] == ["a", "b"] and sum(outcome.reasons.values()) == 1
    assert outcome.boxes == [[pytest.approx(CORNERS)]] * 2


def test_a_table_with_a_nul_is_named(images, capsys):
    arguments = write_openimages(images)
    (images / "a.csv").write_text((images / "a.csv").read_text() + "a\0b,1\n" + "x" * 200_000)
    assert run(SCRIPTS["openimages"], images, arguments).status in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "records", [[3], [None], ["x"], [[1]], [{}], [{"conversations": 3}], [{"conversations": [3]}]]
)
def test_records_that_are_not_conversations(images, records):
    arguments = write_llava(images)
    content = json.loads((images / "a.json").read_text())
    write_json(images, [*records, *content])
    outcome = run(SCRIPTS["llava"], images, arguments)
    assert len(outcome.rows) == 2 and sum(outcome.report["skipped"].values()) == 1
    write_instruct(images)
    content = json.loads((images / "a.json").read_text())
    write_json(images, [*records, *content])
    outcome = run(SCRIPTS["groma_instruct"], images, arguments, "--overwrite")
    assert len(outcome.rows) == 2 and sum(outcome.report["skipped"].values()) == 1


def test_sa1b_files(tmp_path, capsys):
    """Each file is one picture."""
    good = {
        "image": {"image_id": 1, "file_name": "sa_1.jpg", "width": WIDTH, "height": HEIGHT},
        "annotations": [
            {"id": 1, "bbox": BOX, "segmentation": {"size": [1, 1], "counts": "x"}},
            {"id": 2, "bbox": []},
            3,
        ],
    }
    contents = {
        "1": json.dumps(good),
        "2": "[1]",
        "3": json.dumps({**good, "image": None}),
        "4": json.dumps({**good, "annotations": None}),
        "5": "{",
        "6": json.dumps({**good, "image": {**good["image"], "file_name": "../sa_1.jpg"}}),
        "7": json.dumps({**good, "image": {**good["image"], "width": 99}}),
        "8": json.dumps({**good, "annotations": []}),
    }
    write_image(tmp_path / "sa_1.jpg")
    for name, content in contents.items():
        (tmp_path / f"sa_{name}.json").write_text(content)
    (tmp_path / "sa_9.json").write_bytes(b"\xff\xfe" + json.dumps(good).encode("utf-16-le"))
    assert sa1b.main(["--images", str(tmp_path), "--output", str(tmp_path / "rows")]) == 0
    rows = pq.read_table(next((tmp_path / "rows").glob("*.parquet"))).to_pylist()
    assert [row["boxes_xyxy"] for row in rows] == [[CORNERS]] * 2
    report = json.loads(next((tmp_path / "rows").glob("*.report.json")).read_text())
    assert report["skipped"] == {
        "annotation file is not a JSON object": 1,
        "`image` is not a JSON object": 1,
        "`annotations` is not a list": 1,
        "not a JSON file": 1,
        "the path of the image leaves its folder": 1,
        "image has another size than annotated": 1,
        "no boxes": 1,
    }
    assert report["parts"]["annotation is not a JSON object"] >= 2
    assert report["parts"]["box is not four finite numbers"] >= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sa1b_boxes_are_turned(tmp_path, orientation):
    content = {
        "image": {"image_id": 1, "file_name": "sa_1.png", "width": WIDTH, "height": HEIGHT},
        "annotations": [{"id": 1, "bbox": BOX}],
    }
    write_image(tmp_path / "sa_1.png", orientation=orientation)
    (tmp_path / "sa_1.json").write_text(json.dumps(content))
    arguments = ["--images", str(tmp_path), "--output", str(tmp_path / "rows"), "--boxes-of", "stored"]
    assert sa1b.main(arguments) == 0
    [row] = pq.read_table(next((tmp_path / "rows").glob("*.parquet"))).to_pylist()
    assert row["boxes_xyxy"] == [white_box(row)]


def test_reasons_aggregate(images):
    """A hundred pictures of other sizes are one reason."""
    content = coco_content()
    content["images"] += [{**content["images"][0], "id": 100 + k, "width": 100 + k} for k in range(100)]
    content["annotations"] += [{**content["annotations"][0], "id": 100 + k, "image_id": 100 + k} for k in range(100)]
    outcome = run(SCRIPTS["coco"], images, write_json(images, content))
    assert outcome.report["skipped"] == {"image has another size than annotated": 100}
    assert outcome.report["examples"][0] == ["a.png", "image has another size than annotated: 40x30, annotated 100x30"]
