"""Reading COCO-style annotation files."""

import json
import re

import pytest

from processing.coco_format import find_image, load_coco_json
from transformers_groma.masks import rle_to_box

from . import wild
from .samples import real_sample, write_jpeg, write_json
from .wild import BOX, COCO_STYLE, CORNERS, HEIGHT, SCRIPTS, WIDTH, changed, coco_content, one_reason, run


def test_annotations_go_to_their_images_without_crowds_and_masks(tmp_path, capsys):
    path = write_json(
        tmp_path / "instances.json",
        {
            "images": [
                {"id": 7, "file_name": "b.jpg", "width": 9, "height": 8},
                {"id": 3, "file_name": "a.jpg", "width": 9, "height": 8},
            ],
            "annotations": [
                {"id": 1, "image_id": 3, "bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 3, 1, 3, 3]], "iscrowd": 0},
                {"id": 2, "image_id": 3, "bbox": [0, 0, 9, 8], "iscrowd": 1},
                {"id": 3, "image_id": 3, "bbox": [2, 2, 1, 1], "caption": "no iscrowd here, as in LVIS"},
                {"id": 4, "image_id": 99, "bbox": [2, 2, 1, 1]},
            ],
            "categories": [{"id": 5, "name": "cat"}],
        },
    )
    content = load_coco_json(path)
    assert [entry.image["id"] for entry in content.images] == [7, 3]
    assert [[annotation["id"] for annotation in entry.annotations] for entry in content.images] == [[], [1, 3]]
    assert "segmentation" not in content.images[1].annotations[0]
    assert content.categories == {5: {"id": 5, "name": "cat"}}
    assert "1 annotations of images that are not in the file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1, 2]", '{"images": []}', '{"images": [3], "annotations": []}', '{"images": ['])
def test_other_files_are_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="wrong.json is not a (COCO-style|JSON) file"):
        load_coco_json(path)


def test_images_are_found_with_fewer_folders(tmp_path):
    path = write_jpeg(tmp_path / "patch8" / "a.jpg", 8, 8)
    assert find_image(tmp_path, "images/v1/patch8/a.jpg") == path
    assert find_image(tmp_path / "patch8", "images/v1/patch8/a.jpg") == path
    assert find_image(tmp_path, "images/b.jpg") == tmp_path / "images" / "b.jpg"


def test_real_coco_file():
    path = real_sample("cocoapi") / "instances_val2014_100.json"
    content = load_coco_json(path)
    crowds = sum(annotation["iscrowd"] for annotation in json.loads(path.read_text())["annotations"])
    assert crowds == 9
    assert len(content.images) == 100 and len(content.categories) == 80
    assert sum(len(entry.annotations) for entry in content.images) == 839 - crowds


def test_real_lvis_file_has_no_crowd_flags():
    content = load_coco_json(real_sample("lvis") / "lvis_val_100.json")
    assert sum(len(entry.annotations) for entry in content.images) == 977
    assert content.categories[1]["frequency"] in "rcf"


@pytest.mark.parametrize("name", COCO_STYLE)
@pytest.mark.parametrize("identity", [1, 1.0])
def test_two_images_with_one_id(images, name, identity, capsys):
    def change(content: dict) -> None:
        content["images"].append({**content["images"][0], "id": identity, "file_name": "b.png"})

    outcome = changed(images, name, change)
    assert outcome.boxes == [[CORNERS]], "the other image stays"
    assert "several images share the same id: whose annotations are they?" in outcome.report["skipped"]
    assert "id 1: a.png, b.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", COCO_STYLE)
def test_an_image_that_is_listed_twice_counts_once(images, name):
    outcome = changed(images, name, lambda content: content["images"].append(dict(content["images"][0])))
    assert outcome.boxes == [[CORNERS]] * 2
    assert outcome.report["skipped"] in ({"image is listed twice": 1}, {})
    assert ("image is listed twice" in outcome.report["skipped"]) == (name != "refer")


@pytest.mark.parametrize("name", [name for name in COCO_STYLE if name not in ("refer", "refcoco caption")])
def test_files_that_use_an_id_for_other_images(images, name, capsys):
    """Boxes go to the image of their own file, and a note says so."""
    content = coco_content()
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    content["images"][0]["file_name"] = "b.png"
    arguments = [*wild.write_json(images, coco_content()), wild.write_json(images, content, "b.json")[1]]
    outcome = run(SCRIPTS[name], images, arguments)
    assert {row["image"]["path"] for row in outcome.rows if row["image_id"] == "2"} == {"b.png"}
    assert [row["image"]["path"] for row in outcome.rows if row["image_id"] == "1"] == ["a.png", "b.png"]
    assert "1 ids belong to different images, for example 1 to a.png and b.png" in capsys.readouterr().err
    assert run(SCRIPTS[name], images, [*arguments[:2], arguments[1]], "--overwrite").rows
    assert "belong to different images" not in capsys.readouterr().err


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
        (99, "of images that are not in the file"),
    ],
)
def test_an_annotation_without_an_image(images, name, image_id, told, capsys):
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
def test_an_image_without_an_id(images, name, identity):
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


@pytest.mark.parametrize(
    "name", ["coco", "category_grounding", "lvis_ground", "flickr30k", "visual_genome coco", "refcoco"]
)
def test_an_annotation_that_is_listed_twice_counts_once(images, name):
    outcome = changed(images, name, lambda content: content["annotations"].append(dict(content["annotations"][0])))
    assert outcome.boxes == [[CORNERS]] * 2
    assert outcome.reasons == {"annotation is listed twice": 1}


@pytest.mark.parametrize("name", ["coco", "category_grounding", "lvis_ground"])
@pytest.mark.parametrize("spelled", ["a.png", "./a.png"])
def test_entries_of_one_image_are_put_together(images, name, spelled, capsys):
    """Apart, each would deny the boxes of the other."""

    def change(content: dict) -> None:
        content["images"].append({**content["images"][0], "id": 3, "file_name": spelled})
        for number, box in ((30, [1, 1, 9, 9]), (31, BOX)):
            content["annotations"].append({**content["annotations"][0], "id": number, "image_id": 3, "bbox": box})

    outcome = changed(images, name, change)
    assert sorted(outcome.boxes[0]) == [[1, 1, 10, 10], CORNERS] and outcome.boxes[1] == [CORNERS]
    assert [row["image_id"] for row in outcome.rows] == ["1", "2"]
    assert outcome.reasons == {"annotation is listed twice": 1}
    assert "1 images have several entries, for example a.png the ids 1 and 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["coco", "category_grounding", "lvis_ground"])
def test_of_entries_that_disagree_about_the_size_the_file_tells(images, name):
    outcome = changed(
        images, name, lambda content: content["images"].append({**content["images"][0], "id": 3, "width": 99})
    )
    assert outcome.boxes == [[CORNERS]] * 2
    if name == "coco":
        assert outcome.report["skipped"] == {"no boxes": 1}


@pytest.mark.parametrize("name", ["coco", "refcoco", "flickr30k"])
def test_scripts_without_categories_need_none(images, name):
    outcome = changed(
        images, name, lambda content: (content.pop("categories"), content["annotations"][0].pop("category_id"))
    )
    assert outcome.boxes == [[CORNERS]] * 2 and outcome.reasons == {}


@pytest.mark.parametrize("crowd", [1, True, 1.0, "1", "true"])
def test_crowds_have_a_column_of_their_own(images, crowd):
    def change(content: dict) -> None:
        mask = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT, 30 * HEIGHT, (WIDTH - 31) * HEIGHT]}
        more = {"id": 30, "iscrowd": crowd, "bbox": [1, 1, 30, 29], "segmentation": mask}
        content["annotations"].append({**content["annotations"][0], **more})

    outcome = changed(images, "coco", change)
    assert outcome.boxes == [[CORNERS]] * 2 and outcome.reasons == {}
    assert [row["crowd_boxes_xyxy"] for row in outcome.rows] == [[[1, 1, 31, 30]], []]
    assert rle_to_box(outcome.rows[0]["crowd_masks"][0]).tolist() == [1, 0, 31, HEIGHT]
    assert [row["masks"] for row in outcome.rows] == [[None], [None]] and outcome.rows[1]["crowd_masks"] == []


@pytest.mark.parametrize("crowd", [0, False, None, 0.0, "0", "false", ""])
def test_what_is_not_a_crowd(images, crowd):
    outcome = changed(images, "coco", lambda content: content["annotations"][0].update(iscrowd=crowd))
    assert outcome.boxes == [[CORNERS]] * 2 and outcome.rows[0]["crowd_boxes_xyxy"] == []


@pytest.mark.parametrize("crowd", [2, "maybe", [], {}])
def test_a_crowd_flag_that_says_nothing(images, crowd):
    outcome = changed(images, "coco", lambda content: content["annotations"][0].update(iscrowd=crowd))
    assert one_reason(outcome) == "`iscrowd` of an annotation is neither false nor true"


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
    assert "it has the key 'images' twice" in capsys.readouterr().err


def test_reasons_aggregate(images):
    """A hundred images of other sizes are one reason."""
    content = coco_content()
    content["images"] += [{**content["images"][0], "id": 100 + k, "width": 100 + k} for k in range(100)]
    content["annotations"] += [{**content["annotations"][0], "id": 100 + k, "image_id": 100 + k} for k in range(100)]
    outcome = run(SCRIPTS["coco"], images, wild.write_json(images, content))
    assert outcome.report["skipped"] == {"image has another size than annotated": 100}
    assert outcome.report["examples"][0] == ["a.png", "image has another size than annotated: 40x30, annotated 100x30"]


@pytest.mark.parametrize("name", COCO_STYLE)
def test_a_missing_box_is_counted(images, name):
    script = SCRIPTS[name]
    arguments = script.write(images)
    content = coco_content()
    del content["annotations"][0]["bbox"]
    wild.write_json(images, content)
    assert one_reason(run(script, images, arguments)) == "box is not four finite numbers"


@pytest.mark.parametrize("name", ["coco", "category_grounding", "lvis_ground", "flickr30k", "visual_genome coco"])
def test_the_other_boxes_of_an_image_stay(images, name):
    script = SCRIPTS[name]
    content = coco_content()
    wrong = [
        {**content["annotations"][0], "id": 20 + k, "bbox": box} for k, box in enumerate([None, [], [1, 1, 0, 1]])
    ]
    content["annotations"][:0] = wrong[:2]
    content["annotations"].append(wrong[2])
    outcome = run(script, images, wild.write_json(images, content))
    assert outcome.status == 0 and outcome.boxes == [[CORNERS]] * 2
    assert outcome.report["skipped"] == {} and sum(outcome.report["parts"].values()) == 3


def test_categories_may_be_null_and_other_lists_may_not(tmp_path):
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": None}
    assert load_coco_json(write_json(tmp_path / "a.json", content)).categories == {}
    for name, value, found in (
        ("images", None, "its `images` is not a list of objects"),
        ("annotations", {}, "its `annotations` is not a list of objects"),
        ("categories", "cat", "its `categories` is not a list of objects"),
        ("categories", ["cat"], "its `categories` is not a list of objects"),
    ):
        path = write_json(tmp_path / "a.json", content | {name: value})
        with pytest.raises(ValueError, match=f"a.json is not a COCO-style file: {found}. It needs lists"):
            load_coco_json(path)
    del content["images"]
    with pytest.raises(ValueError, match="it has no `images`. It needs lists"):
        load_coco_json(write_json(tmp_path / "a.json", content))
