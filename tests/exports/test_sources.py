"""What exports read: annotated images, answers and dataset rows."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_groma.data.annotation_columns import AnnotatedPhrase
from transformers_groma.data.columns import image_part, phrase_part, region_part, text_part
from transformers_groma.exports.annotation_rows import CAME_BEFORE
from transformers_groma.exports.answer_files import KnownImage
from transformers_groma.exports.sources import open_source
from transformers_groma.masks import mask_to_rle

from .samples import BOXES, HEIGHT, WIDTH, annotated, answer, image_bytes, mask_of, write_annotations, write_json
from .samples import write_rows as write_dataset


def reasons(record) -> list[str]:
    return [part.reason for part in record.left_out]


def named(record) -> list[tuple[str, tuple]]:
    return [(thing.label, tuple(thing.box_xyxy)) for thing in record.objects]


@pytest.mark.parametrize("is_folder", [False, True])
def test_annotated_images(tmp_path, is_folder):
    path = write_annotations(tmp_path / "train-00000-of-00001.parquet", [annotated(), annotated("b/c.jpg", False)])
    source = open_source(tmp_path if is_folder else path)
    assert (source.kind, source.total, source.has_scores) == ("annotations", 2, True)
    first, second = source.records
    assert named(first) == [
        *(("A ball", BOXES[2]), ("Two dogs", BOXES[0]), ("Two dogs", BOXES[1]), ("the dog", BOXES[1]))
    ]
    assert [thing.score for thing in first.objects] == [0.75, 0.25, 0.5, 0.5]
    assert first.objects[1].description == "A brown dog." and first.objects[0].mask == mask_to_rle(mask_of(2))
    assert first.captions == ("Two dogs, a cat and the dog.",) and (first.height, first.width) == (HEIGHT, WIDTH)
    assert [str(part) for part in first.left_out] == [
        "phrase without a region: 'a cat'",
        "phrase that was to be located and was not found: 'a bird'",
        "region that nothing names; --all-regions exports it as 'object': region 3",
    ]
    assert second.file_name == "b/c.jpg" and all(thing.mask is None for thing in second.objects)
    first, _ = open_source(path, all_regions=True).records
    assert named(first)[-1] == ("object", BOXES[3]) and len(first.left_out) == 2


def test_a_region_that_a_caption_names_without_words(tmp_path):
    image = annotated()
    object.__setattr__(image, "phrases", (AnnotatedPhrase("", 0, 0, (3,)),))
    (record,) = open_source(write_annotations(tmp_path / "a.parquet", [image])).records
    assert named(record) == [("A ball", BOXES[2]), ("object", BOXES[3])]


def test_answers(tmp_path):
    write_json(tmp_path / "one" / "answer.json", answer("photos/a.jpg"))
    write_json(tmp_path / "two" / "answer_1.json", answer("/home/me/b.jpg"))
    write_json(tmp_path / "two" / "answer_2.json", answer("/home/me/b.jpg", text="A dog.", phrases=[]))
    (tmp_path / ".hidden").mkdir()
    write_json(tmp_path / ".hidden" / "answer.json", {})
    source = open_source(tmp_path)
    assert (source.kind, source.total, source.has_scores) == ("answers", 3, True)
    first, second = source.records
    assert named(first) == [("A dog", BOXES[0]), ("object", BOXES[2])]
    assert reasons(first) == [
        "phrase without a region",
        "region that nothing names; --all-regions exports it as 'object'",
    ]
    assert first.objects[0].mask == mask_to_rle(mask_of(0)) and first.objects[1].score == 0.75
    assert (first.file_name, second.file_name) == ("photos/a.jpg", "b.jpg")
    assert second.captions == ("A dog and nothing.", "A dog."), "both answers are about one image"
    first, _ = open_source(tmp_path, all_regions=True).records
    assert named(first)[-1] == ("object", BOXES[1])


def test_lines_of_json_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "answers.jsonl"
    said = [answer(f"{number}.jpg", text="A dog\u2028and nothing.") for number in range(2)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in said), encoding="utf-8")
    assert [record.captions for record in open_source(path).records] == [("A dog\u2028and nothing.",)] * 2


def test_regions_without_phrases(tmp_path):
    regions = [
        {"id": 0, "box_xyxy": list(BOXES[0]), "score": 0.5},
        {"id": 1, "box_xyxy": list(BOXES[1]), "label": "x"},
    ]
    path = write_json(tmp_path / "segments.json", {"regions": regions, "image": answer()["image"]})
    (record,) = open_source(path).records
    assert named(record) == [("object", BOXES[0]), ("x", BOXES[1])] and record.captions == ()


def test_answers_of_standard_output_need_their_image(tmp_path):
    content = answer()
    del content["image"]
    path = tmp_path / "answers.jsonl"
    path.write_text(f"{json.dumps(content)}\n\n{json.dumps(content)}\n")
    with pytest.raises(ValueError, match=r"answers.jsonl, line 1 does not say which image .* --image"):
        list(open_source(path).records)
    (record,) = open_source(path, image=KnownImage("photos/a.jpg", HEIGHT, WIDTH)).records
    assert record.file_name == "photos/a.jpg" and len(record.objects) == 2, "the same objects are there once"
    (record,) = open_source(write_json(tmp_path / "list.json", [answer()])).records
    assert record.file_name == "a.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("7", "is not an answer: it needs an object with `regions`"),
        ('{"text": "A dog."}', "is not an answer"),
        ({"regions": [{"id": 1}]}, "region 0 is not a region: it needs `box_xyxy`"),
        (answer(phrases=[{"text": "A dog"}]), "phrase 0 is not a phrase: it needs `text` and `region_ids`"),
        (answer(phrases=[{"text": "A dog", "region_ids": [5]}]), r"phrase 0 names the regions \[5\], which are not"),
        (answer(image={"name": "a.jpg", "width": 0, "height": 4}), "`image` must have name, width and height"),
        (answer(image={"name": "a.jpg"}), "`image` must have name, width and height"),
        (answer(phrases=7), "`phrases` must be a list, got 7"),
        (answer(phrases=[{"text": "A dog", "region_ids": [[7]]}]), r"names the regions \[\[7\]\]"),
        ({"regions": [{"id": [1], "box_xyxy": []}]}, r"`id` must be a number, got \[1\]"),
    ],
)
def test_files_that_are_not_answers(tmp_path, content, message):
    path = tmp_path / "answer.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        list(open_source(path).records)


def row(**values):
    return {"image": {"bytes": image_bytes(), "path": "a.png"}, "image_id": "17", "boxes_xyxy": BOXES, **values}


def test_detection_rows(tmp_path):
    masks = [mask_to_rle(mask_of(0)), None, None, None]
    rows = [
        row(source="coco", masks=masks, crowd_boxes_xyxy=[[0, 0, 9, 9]], crowd_masks=[None]),
        row(
            image={"bytes": image_bytes("JPEG", (HEIGHT, WIDTH), orientation=6), "path": None},
            **{"image_id": "18", "source": "coco", "masks": [None] * 4, "crowd_boxes_xyxy": [], "crowd_masks": []},
        ),
    ]
    source = open_source(write_dataset(tmp_path / "train-00000-of-00001.parquet", rows, "detection"))
    assert (source.kind, source.total, source.has_scores) == ("detection", 2, False)
    first, second = source.records
    assert named(first) == [*(("object", box) for box in BOXES), ("object", (0, 0, 9, 9))]
    assert [thing.is_crowd for thing in first.objects] == [False] * 4 + [True]
    assert [thing.mask is not None for thing in first.objects] == [True, False, False, False, False]
    assert first.objects[0].score is None and first.content == rows[0]["image"]["bytes"]
    # The size of the upright image, and a name for an image that has none.
    assert (second.file_name, second.height, second.width) == ("18.jpg", HEIGHT, WIDTH)


def user(*parts):
    return {"role": "user", "content": list(parts)}


def assistant(*parts):
    return {"role": "assistant", "content": list(parts)}


def test_conversation_rows(tmp_path):
    messages = [
        user(image_part(), text_part("Where is "), phrase_part("the red cup"), text_part("?")),
        assistant(phrase_part("", [2])),
        user(text_part("What is "), region_part(3), text_part("?")),
        assistant(phrase_part("A dog", [0, 1]), text_part(" and "), phrase_part("a\ncat"), phrase_part("a dog", [0])),
    ]
    rows = [
        row(messages=messages, source="x"),
        {"image": None, "image_id": "2", "boxes_xyxy": [], "messages": [user(text_part("Hi"))], "source": "x"},
    ]
    path = write_dataset(tmp_path / "train-00000-of-00001.parquet", rows, "conversation")
    plain_text, record = open_source(path).records
    assert str(plain_text.fault) == "row of plain text, without an image"
    assert named(record) == [
        *(("the red cup", BOXES[2]), ("A dog", BOXES[0]), ("A dog", BOXES[1]), ("a dog", BOXES[0]))
    ]
    assert reasons(record) == [
        "phrase without a region",
        "region that nothing names; --all-regions exports it as 'object'",
    ]
    _, record = open_source(path, all_regions=True).records
    assert named(record)[-1] == ("object", BOXES[3])


def test_evaluation_rows(tmp_path):
    question = [user(image_part(), text_part("Where is "), phrase_part("the cup"))]
    common = {"source": "x", "references": ["A cup."], "target_boxes_xyxy": BOXES[1:2], "category": "cup"}
    rows = [
        row(messages=question, **common),
        row(messages=[user(image_part(), text_part("All cups"))], **{**common, "references": []}),
    ]
    source = open_source(write_dataset(tmp_path / "test-00000-of-00001.parquet", rows, "evaluation"))
    (record,) = source.records
    assert source.kind == "evaluation" and record.captions == ("A cup.",)
    assert named(record) == [("the cup", BOXES[1]), ("cup", BOXES[1])]


def test_one_bad_row_does_not_end_an_export(tmp_path):
    """Broken images, rows without boxes or messages, and boxes that are not there are faults of their rows alone."""
    good = row(messages=[assistant(phrase_part("a dog", [0]))], source="x")
    rows = [
        {**good, "image": {"bytes": b"no image", "path": "broken.png"}},
        {**good, "image": {"bytes": image_bytes(), "path": "b.png"}, "messages": None},
        {**good, "image": {"bytes": image_bytes(), "path": "c.png"}, "boxes_xyxy": None},
        {**good, "image": {"bytes": None, "path": str(tmp_path / "missing.png")}},
        good,
    ]
    path = write_dataset(tmp_path / "a.parquet", rows, "conversation")
    *bad, last = open_source(path).records
    assert [record.fault.reason for record in bad] == [
        "image that cannot be read",
        "row that does not fit the conversation columns",
        "row that names a box it does not have",
        "image that cannot be read",
    ]
    assert bad[1].file_name == "a.parquet, row 1" and last.fault is None and named(last) == [("a dog", BOXES[0])]


def test_an_image_is_said_once(tmp_path):
    path = write_json(tmp_path / "answer.json", answer())
    with pytest.raises(ValueError, match="says that it is about a.jpg: leave --image out"):
        list(open_source(path, image=KnownImage("b.jpg", 4, 4)).records)


def test_images_that_come_again_are_not_mixed_up(tmp_path):
    path = write_json(tmp_path / "a.json", [answer("a.jpg"), answer("b.jpg"), answer("a.jpg")])
    with pytest.raises(ValueError, match="two images have the file name 'a.jpg', or one comes again after others"):
        list(open_source(path).records)
    larger = answer("a.jpg")
    larger["image"] = {**larger["image"], "width": 65}
    with pytest.raises(ValueError, match="a.jpg is 64x48 pixels large in one record and 65x48 in the next"):
        list(open_source(write_json(tmp_path / "b.json", [answer("a.jpg"), larger])).records)


def test_images_of_one_file_name_are_called_by_their_ids(tmp_path):
    images = [replace(annotated("image.jpg"), image_id=name) for name in ("1", "2", "3.jpg")]
    for number, image in enumerate(images):
        write_annotations(tmp_path / f"train-{number:05d}-of-00003.parquet", [image])
    records = list(open_source(tmp_path).records)
    assert [record.file_name for record in records] == ["1.jpg", "2.jpg", "3.jpg"]
    assert [len(record.objects) for record in records] == [4, 4, 4]


def test_an_image_id_that_comes_again_is_left_out(tmp_path):
    images = [replace(annotated(f"{number}.jpg"), image_id=name) for number, name in enumerate("abbcab")]
    records = list(open_source(write_annotations(tmp_path / "a.parquet", images)).records)
    assert [record.file_name for record in records if record.fault is None] == ["0.jpg", "1.jpg", "3.jpg"]
    assert [record.fault for record in records if record.fault] == [CAME_BEFORE] * 3


def test_rows_of_two_images_with_one_path_are_not_mixed_up(tmp_path):
    row = {"image_id": "1", "boxes_xyxy": [list(BOXES[0])], "masks": [None], "crowd_boxes_xyxy": [], "source": "x"}
    contents = [image_bytes("PNG"), image_bytes("BMP")]
    rows = [{**row, "image": {"bytes": content, "path": "image.png"}} for content in contents]
    path = write_dataset(tmp_path / "a.parquet", rows, "detection")
    with pytest.raises(ValueError, match="two images have the file name 'image.png'"):
        list(open_source(path).records)


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing does not exist: pass what `groma annotate`"):
        open_source(tmp_path / "missing")
    with pytest.raises(ValueError, match="has no Parquet, JSON or JSON-lines files: there is nothing to export"):
        open_source(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"a.txt is not a Parquet, JSON or JSON-lines file"):
        open_source(tmp_path / "a.txt")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b.parquet has the columns x: this reads what `groma annotate` writes"):
        open_source(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"c.parquet is not a whole Parquet file"):
        open_source(tmp_path / "c.parquet")
    path = write_annotations(tmp_path / "d" / "train-00000-of-00002.parquet", [annotated()])
    with pytest.raises(ValueError, match="has 1 of 2 shards"):
        open_source(path.parent)
    with pytest.raises(ValueError, match="--split is for datasets"):
        open_source(path, split="train")
    with pytest.raises(ValueError, match="--image is for answers"):
        open_source(path, image=KnownImage("a.jpg", 4, 4))


def test_splits_of_a_dataset(tmp_path):
    for split in ("train", "test"):
        write_dataset(tmp_path / f"{split}-00000-of-00001.parquet", [row(source="coco")], "detection")
    with pytest.raises(ValueError, match="has the splits test, train: pass one of them as --split"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="has no split 'val', only test, train"):
        open_source(tmp_path, split="val")
    assert open_source(tmp_path, split="test").total == 1
    write_dataset(tmp_path / "train-00001-of-00002.parquet", [row(source="x", messages=[])], "conversation")
    with pytest.raises(ValueError, match="has other columns than"):
        open_source(tmp_path, split="train")
