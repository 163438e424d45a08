"""RefCOCO in MDETR's layout and in the original one."""

import datetime
import pickle
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from processing import refcoco
from transformers_groma.data.columns import check_dataset, image_part, phrase_part, region_part, text_part
from transformers_groma.data.prompts import GLAMM_LOCATIONS as ANSWERS
from transformers_groma.data.prompts import NOTHING_THERE, PROMPTS
from transformers_groma.masks import mask_to_rle, polygons_to_mask, rle_area, rle_to_box

from . import wild
from .samples import read_report, read_rows, real_sample, write_jpeg, write_json
from .wild import SCRIPTS, coco_content, one_reason, write_refer


def mdetr_file(folder: Path) -> Path:
    """Three expressions about two boxes of one image, and bad ones."""
    write_jpeg(folder / "images" / "a.jpg", 40, 30)
    image = {"file_name": "a.jpg", "width": 40, "height": 30, "original_id": 77}
    captions = ["Dog in Red.", "the big dog", "a cat", "", "nothing", "a <p>"]
    bboxes = [[1, 2, 10, 20], [1, 2, 10, 20], [20, 2, 30, 9], [1, 2, 3, 4], [50, 2, 3, 4], [1, 2, 3, 4]]
    images = [{**image, "id": number, "caption": caption} for number, caption in enumerate(captions)]
    images.append({**image, "id": 6, "caption": "gone", "file_name": "b.jpg"})
    images.append({**image, "id": 7, "caption": "other size", "width": 80})
    annotations = [{"id": number, "image_id": number, "bbox": bbox} for number, bbox in enumerate(bboxes)]
    annotations += [{"image_id": 6, "bbox": [1, 2, 3, 4]}, {"image_id": 7, "bbox": [1, 2, 3, 4]}]
    return write_json(folder / "refs.json", {"images": images, "annotations": annotations})


def run(folder: Path, *more: str, annotations: list[Path] | None = None) -> int:
    files = map(str, annotations or [mdetr_file(folder)])
    return refcoco.main(
        ["--images", str(folder / "images"), "--annotations", *files, "--output", str(folder / "rows"), *more]
    )


def test_expressions_become_questions_and_bad_ones_are_counted(tmp_path):
    assert run(tmp_path, "--task", "rec", "--source", "refcocog") == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert rows["boxes_xyxy"] == [[[1, 2, 11, 22]], [[1, 2, 11, 22]], [[20, 2, 40, 11]]]
    assert set(rows["source"]) == {"refcocog"} and set(rows["image_id"]) == {"77"}
    question, answer = rows[0]["messages"]
    assert question["content"][0] == image_part()
    phrases = [part for part in question["content"] if part["type"] == "phrase"]
    assert phrases == [phrase_part("Dog in Red")]
    assert answer == {"role": "assistant", "content": [phrase_part("", [0])]}
    report = read_report(tmp_path / "rows")
    assert report["records"] == 8
    assert report["skipped"] == {
        "no text": 1,
        "box is outside of the image": 1,
        "text holds a token of the model": 1,
        "missing image": 1,
        "image has another size than annotated": 1,
    }
    assert ["b.jpg: gone", "missing image"] in report["examples"]


def test_evaluation_asks_the_standard_question(tmp_path):
    assert run(tmp_path, "--task", "rec", "--evaluation", "--split", "test") == 0
    rows = read_rows(tmp_path / "rows", "evaluation", split="test")
    assert rows["target_boxes_xyxy"] == [[[1, 2, 11, 22]], [[1, 2, 11, 22]], [[20, 2, 40, 11]]]
    assert rows["boxes_xyxy"] == [[], [], []]
    expected = [image_part(), text_part("Locate "), phrase_part("a cat"), text_part(" in this image.")]
    assert rows[2]["messages"] == [{"role": "user", "content": expected}]
    assert rows[2]["references"] == []


def test_a_prompt_seed_draws_other_questions_for_evaluation(tmp_path):
    first_texts = {template.split("{")[0] for template in PROMPTS["rec"]}
    asked = set()
    for seed in range(4):
        assert run(tmp_path, "--task", "rec", "--evaluation", "--prompt-seed", str(seed), "--overwrite") == 0
        rows = read_rows(tmp_path / "rows", "evaluation")
        asked |= {row["messages"][0]["content"][1]["text"] for row in rows}
    assert len(asked) > 1 and asked <= first_texts


def test_boxes_are_described(tmp_path):
    assert run(tmp_path, "--task", "region-caption") == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    answers = [row["messages"][1]["content"] for row in rows]
    assert answers == [[text_part("Dog in red.")], [text_part("The big dog")], [text_part("A cat")]]
    assert region_part(0) in rows[0]["messages"][0]["content"]


def test_all_expressions_of_a_box_are_its_references(tmp_path):
    assert run(tmp_path, "--task", "region-caption", "--evaluation") == 0
    rows = read_rows(tmp_path / "rows", "evaluation")
    assert rows["references"] == [["Dog in Red.", "the big dog"], ["a cat"]]
    assert rows["boxes_xyxy"] == [[[1, 2, 11, 22]], [[20, 2, 40, 11]]]
    assert rows["target_boxes_xyxy"] == [[], []]
    assert rows[0]["messages"][0]["content"][1:] == [
        text_part("Please give a short description of "),
        region_part(0),
        text_part("."),
    ]


def test_rows_do_not_depend_on_shards(tmp_path):
    assert run(tmp_path, "--task", "rec") == 0
    whole = read_rows(tmp_path / "rows", "conversation")
    arguments = ["--task", "rec", "--shards", "2", "--overwrite"]
    assert run(tmp_path, *arguments) == 0
    parts = read_rows(tmp_path / "rows", "conversation")
    by_question = {str(row["messages"]): row["boxes_xyxy"] for row in whole}
    assert {str(row["messages"]): row["boxes_xyxy"] for row in parts} == by_question


def refer_files(folder: Path, refs: object) -> list[Path]:
    write_jpeg(folder / "images" / "COCO_train2014_000000000077.jpg", 40, 30)
    image = {"id": 77, "file_name": "COCO_train2014_000000000077.jpg", "width": 40, "height": 30}
    annotations = [
        {"id": 5, "image_id": 77, "bbox": [1.5, 2, 10, 20]},
        {"id": 6, "image_id": 77, "bbox": [9, 9, 9, 9]},
    ]
    path = folder / "refs(unc).p"
    # Protocol 2 is what Python 2 wrote.
    path.write_bytes(pickle.dumps(refs, protocol=2))
    return [path, write_json(folder / "instances.json", {"images": [image], "annotations": annotations})]


def ref(ann_id: int, split: str, *sentences: str, image_id: int = 77) -> dict:
    return {
        "ref_id": ann_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "split": split,
        "category_id": 1,
        "file_name": f"COCO_train2014_000000000077_{ann_id}.jpg",
        "sentences": [{"sent": text, "raw": text.upper(), "tokens": text.split()} for text in sentences],
    }


def test_the_original_layout(tmp_path):
    refs = [ref(5, "train", "the dog", "big dog"), ref(6, "testA", "a cat"), ref(9, "testA", "nobody"), {"split": "x"}]
    files = refer_files(tmp_path, refs)
    assert run(tmp_path, "--task", "rec", "--split", "train", annotations=files) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert rows["boxes_xyxy"] == [[[1.5, 2, 11.5, 22]]] * 2
    assert run(tmp_path, "--task", "rec", "--split", "testA", "--evaluation", annotations=files) == 0
    path = tmp_path / "rows" / "testA-00000-of-00001.parquet"
    rows = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert check_dataset(rows, "evaluation") == 1
    assert rows["target_boxes_xyxy"] == [[[9, 9, 18, 18]]]
    report = (tmp_path / "rows" / "testA-00000-of-00001.report.json").read_text()
    assert '"the annotation of a ref is not in the file of boxes": 1' in report


@pytest.mark.parametrize(
    ("refs", "more", "message"),
    [
        (
            [ref(5, "train", "the dog")],
            ["--split", "testB"],
            "no refs of the split 'testB'. Pass `--split` as one of train",
        ),
        (datetime.date(2020, 1, 1), [], "wants to load datetime"),
        ({"a": 1}, [], "is not a pickle of refs"),
    ],
)
def test_wrong_pickles_are_named(tmp_path, capsys, refs, more, message):
    assert run(tmp_path, "--task", "rec", *more, annotations=refer_files(tmp_path, refs)) == 2
    assert message in capsys.readouterr().err


def test_a_pickle_needs_its_boxes(tmp_path, capsys):
    files = refer_files(tmp_path, [])
    assert run(tmp_path, "--task", "rec", annotations=files[:1]) == 2
    assert "--annotations REFS.p instances.json" in capsys.readouterr().err
    files[0].write_bytes(b"\x80")
    assert run(tmp_path, "--task", "rec", annotations=files) == 2
    assert "is not a pickle of refs" in capsys.readouterr().err


def test_real_expressions_and_photos(tmp_path):
    annotations = real_sample("derived") / "refcoco_testA_26_mdetr_style.json"
    images = real_sample("refcoco/images")
    arguments = ["--images", str(images), "--annotations", str(annotations), "--evaluation", "--split", "test"]
    assert refcoco.main([*arguments, "--task", "rec", "--output", str(tmp_path / "rec")]) == 0
    rows = read_rows(tmp_path / "rec", "evaluation", split="test")
    assert len(rows) == 26
    assert rows[0]["target_boxes_xyxy"] == [[pytest.approx(value) for value in (0.0, 95.32, 113.34, 419.59)]]
    assert rows[0]["image"].size == (428, 640)
    assert rows[0]["image_id"] == "266240"
    assert rows[0]["messages"][0]["content"][2] == phrase_part("person in red")

    assert refcoco.main([*arguments, "--task", "region-caption", "--output", str(tmp_path / "captions")]) == 0
    rows = read_rows(tmp_path / "captions", "evaluation", split="test")
    assert sum(len(references) for references in rows["references"]) == 26
    assert rows[0]["references"] == ["person in red", "far left cut off", "person in yellow"]
    assert len(rows) == 9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda refs, _: refs[0].update(ann_id=12), "the annotation of a ref belongs to another image than the ref"),
        (
            lambda refs, _: refs[0].update(image_id=2),
            "the annotation of a ref belongs to another image than the ref",
        ),
        (lambda refs, _: refs[0].update(image_id=99), "the image of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].update(image_id="1"), "the image of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].update(image_id=True), "the image of a ref is not in the file of boxes"),
        (lambda refs, _: refs[0].pop("image_id"), "the image of a ref is not in the file of boxes"),
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
    wild.write_json(images, content)
    outcome = wild.run(SCRIPTS["refer"], images, arguments)
    assert one_reason(outcome) == reason
    assert outcome.rows[0]["image_id"] == "2"


DOG, CAT = [2, 3, 11, 3, 11, 21, 2, 21], [20, 5, 36, 5, 36, 25, 20, 25]


def segmented_files(folder: Path, refs: list, name: str = "refs(unc).p") -> list[Path]:
    """Refs, and annotations with masks in all forms: polygons, a crowd's numbers, a list of RLE, nothing."""
    write_jpeg(folder / "images" / "COCO_train2014_000000000077.jpg", 40, 30)
    image = {"id": 77, "file_name": "COCO_train2014_000000000077.jpg", "width": 40, "height": 30}
    crowd = {"size": [30, 40], "counts": [30 * 20 + 5, 20, 30 * 20 - 25]}
    parts = [mask_to_rle(polygons_to_mask([part], 30, 40)) for part in (CAT, [20, 5, 30, 5, 30, 25, 20, 25])]
    annotations = [
        {"id": 5, "bbox": [2, 3, 9, 18], "segmentation": [DOG]},
        {"id": 6, "bbox": [20, 5, 16, 20], "segmentation": parts},
        {"id": 7, "bbox": [20, 5, 1, 20], "segmentation": crowd, "iscrowd": 1},
        {"id": 8, "bbox": [20, 5, 16, 20], "segmentation": []},
        {"id": 9, "bbox": [2, 3, 9, 18], "segmentation": [CAT]},
    ]
    annotations = [{**annotation, "image_id": 77} for annotation in annotations]
    path = folder / name
    if path.suffix == ".p":
        path.write_bytes(pickle.dumps(refs, protocol=2))
    else:
        write_json(path, refs)
    return [path, write_json(folder / "instances.json", {"images": [image], "annotations": annotations})]


SEGMENTATION = ("--task", "referring-segmentation", "--wording", "glamm")


def test_questions_for_masks_share_rows(tmp_path):
    refs = [ref(5, "train", "The Dog.", "big dog"), ref(6, "train", "a cat"), ref(7, "train", "the crowd")]
    refs += [ref(8, "train", "a thing"), ref(9, "train", "a mask elsewhere"), ref(5, "val", "of val")]
    files = segmented_files(tmp_path, refs)
    assert run(tmp_path, *SEGMENTATION, annotations=files) == 0
    assert [len(row["messages"]) for row in read_rows(tmp_path / "rows", "conversation")] == [8]
    assert run(tmp_path, *SEGMENTATION, "--questions", "3", "--overwrite", annotations=files) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert [len(row["messages"]) for row in rows] == [6, 2]
    masks = {}
    for row in rows:
        for question, answer in zip(row["messages"][::2], row["messages"][1::2], strict=True):
            text = question["content"][-1]["text"]
            (part,) = [part for part in answer["content"] if part["type"] == "phrase"]
            phrase = next(name for name in ("the dog", "big dog", "a cat", "the crowd") if name in text)
            masks[phrase] = [row["masks"][box] for box in part["boxes"]]
            answered = "{region}".join(part["text"] for part in answer["content"] if part["type"] == "text")
            assert any(template.replace("{region}", "") == answered.replace("{region}", "") for template in ANSWERS)
    dog, cat = (mask_to_rle(polygons_to_mask([polygon], 30, 40)) for polygon in (DOG, CAT))
    assert masks["the dog"] == masks["big dog"] == [dog] and masks["a cat"] == [cat], "the parts of a cat are one mask"
    assert rle_area(masks["the crowd"][0]) == 20
    assert read_report(tmp_path / "rows")["parts"] == {
        "region without a mask": 1,
        "mask does not fit its box: they are of different objects, or of differently turned images": 1,
    }


def test_several_targets_and_none(tmp_path):
    """gRefCOCO: refs name lists of annotations, and -1 where there is nothing."""
    refs = [
        {**ref(5, "train", "both animals"), "ann_id": [5, 6]},
        {**ref(5, "train", "a horse"), "ann_id": [-1], "no_target": True},
        {**ref(5, "train", "contradiction"), "ann_id": [-1, 5]},
        {**ref(5, "train", "unknown"), "ann_id": [5, 99]},
        {**ref(5, "train", "nothing named"), "ann_id": []},
    ]
    files = segmented_files(tmp_path, refs, "grefs(unc).json")
    assert run(tmp_path, *SEGMENTATION, annotations=files) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    answers = [message["content"] for message in row["messages"][1::2]]
    both = next(answer for answer in answers if any(part["boxes"] for part in answer))
    assert [part["boxes"] for part in both if part["type"] == "phrase"] == [[0, 1]] and len(row["masks"]) == 2
    (none,) = next(answer for answer in answers if not any(part["boxes"] for part in answer))
    assert none["text"] in NOTHING_THERE
    assert read_report(tmp_path / "rows")["skipped"] == {
        "a ref names annotations and says that there are none": 1,
        "the annotation of a ref is not in the file of boxes": 2,
    }
    options = ("--task", "referring-segmentation", "--evaluation", "--split", "train", "--overwrite")
    assert run(tmp_path, *options, annotations=files) == 0
    rows = read_rows(tmp_path / "rows", "evaluation")
    assert [len(row["target_masks"]) for row in rows] == [2, 0]
    texts = [part["text"] for part in rows[1]["messages"][0]["content"]]
    assert texts == ["", "Locate ", "a horse", " in this image."]
    assert run(tmp_path, "--task", "rec", "--overwrite", annotations=files) == 1, "no expression has one box"


def test_a_list_of_refs_needs_its_boxes(tmp_path, capsys):
    files = segmented_files(tmp_path, [ref(5, "train", "a dog")], "grefs(unc).json")
    assert run(tmp_path, *SEGMENTATION, annotations=files[:1]) == 2
    assert "`--annotations REFS.json instances.json`" in capsys.readouterr().err


def test_rows_of_an_image_can_be_limited(tmp_path):
    refs = [ref(5, "train", *(f"dog {number}" for number in range(7)))]
    files = segmented_files(tmp_path, refs)
    assert run(tmp_path, *SEGMENTATION, "--questions", "2", "--rows-per-image", "3", annotations=files) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert [len(row["messages"]) for row in rows] == [4, 4, 4] and all(len(row["boxes_xyxy"]) == 1 for row in rows)


def test_masks_of_expressions_turn_with_the_image(tmp_path):
    files = segmented_files(tmp_path, [ref(5, "train", "a dog")])
    write_jpeg(tmp_path / "images" / "COCO_train2014_000000000077.jpg", 40, 30, orientation=6)
    assert run(tmp_path, *SEGMENTATION, annotations=files) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    turned = np.rot90(polygons_to_mask([DOG], 30, 40), -1)
    assert row["masks"] == [mask_to_rle(turned)] and row["boxes_xyxy"] == [rle_to_box(row["masks"][0]).tolist()]


def test_questions_in_the_words_of_glamm(tmp_path):
    assert run(tmp_path, "--task", "rec", "--wording", "glamm") == 0
    (question, answer) = read_rows(tmp_path / "rows", "conversation")[0]["messages"]
    assert "dog in red" in question["content"][1]["text"] and len(question["content"]) == 2
    assert answer["content"][-1]["text"] == "."
    options = ("--task", "region-caption", "--wording", "glamm", "--overwrite")
    assert run(tmp_path, *options) == 0
    (question, answer) = read_rows(tmp_path / "rows", "conversation")[0]["messages"]
    assert question["content"][1]["text"].endswith("region1 ") and question["content"][2] == region_part(0)
    assert answer["content"] == [text_part("Dog in Red.")], "as it is"
    assert run(tmp_path, *options, "--among-others") == 0
    (question, _) = read_rows(tmp_path / "rows", "conversation")[0]["messages"]
    assert question["content"][1]["text"].startswith("I will provide you with only one region")
    assert question["content"][1]["text"].endswith("its basic attributes.region1 ")


def test_one_object_among_others_is_a_question_of_glamm(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--task", "rec", "--among-others")
    assert "--among-others needs --task region-caption and --wording glamm" in capsys.readouterr().err
