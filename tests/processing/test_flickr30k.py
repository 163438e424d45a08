"""Flickr30k Entities, in MDETR's layout and in the original one."""

from pathlib import Path

import pytest

from processing import flickr30k
from transformers_groma.data.columns import image_part, phrase_part, text_part

from . import wild
from .samples import read_report, read_rows, real_sample, write_jpeg, write_json
from .wild import CORNERS, SCRIPTS, coco_content, flickr_xml, run, write_image

ANNOTATION = """<annotation><filename>{name}.jpg</filename><size><width>40</width><height>30</height></size>
<object><name>1</name><name>6</name>{first}</object>
<object><name>1</name><bndbox><xmin>11</xmin><ymin>1</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>
<object><name>9</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>21</ymax></bndbox>"


def original_files(folder: Path) -> list[str]:
    """Image 7 with three captions, 8 without boxes, 9 with broken ones, 10 with none."""
    captions = [
        "[/EN#1/people Two men] in [/EN#9/scene a yard] hold [/EN#6/bodyparts/people a man 's arm] .",
        "Nobody is in [/EN#9/scene a yard] with [/EN#0/notvisual each other] .",
        "[/EN#6/people A man] is <image> .",
    ]
    for name in ("7", "8", "9", "10"):
        write_jpeg(folder / "images" / f"{name}.jpg", 40, 30)
        (folder / "Sentences").mkdir(exist_ok=True)
        (folder / "Sentences" / f"{name}.txt").write_text(
            "\n".join(captions if name == "7" else captions[:1]) + "\n\n"
        )
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "7.xml").write_text(ANNOTATION.format(name=7, first=BOX))
    (folder / "Annotations" / "8.xml").write_text(
        "<annotation><size><width>40</width><height>30</height></size></annotation>"
    )
    (folder / "Annotations" / "9.xml").write_text(ANNOTATION.format(name=9, first=BOX)[:200])
    return [
        *("--images", str(folder / "images")),
        *("--annotations", str(folder / "Annotations")),
        *("--sentences", str(folder / "Sentences")),
        *("--output", str(folder / "rows")),
    ]


def test_the_original_layout(tmp_path):
    assert flickr30k.main(original_files(tmp_path)) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["messages"][1]["content"] == [
        phrase_part("Two men", [0, 1]),
        text_part(" in a yard hold "),
        phrase_part("a man's arm", [0]),
        text_part("."),
    ]
    # Pixels count from 1 in the file, and the last one belongs to the box.
    assert row["boxes_xyxy"] == [[0, 1, 10, 21], [10, 0, 20, 30]]
    question = row["messages"][0]["content"]
    assert question[0] == image_part() and question[1]["text"].startswith("[grounding]") and len(question) == 2
    assert (row["image_id"], row["source"]) == ("7", "flickr30k")
    assert read_report(tmp_path / "rows")["skipped"] == {
        "no phrase with a box": 2,
        "text holds a token of the model": 1,
        "broken file of boxes": 1,
        "no file of boxes": 1,
    }


def test_lists_of_images_and_of_unrelated_captions(tmp_path):
    arguments = original_files(tmp_path)
    (tmp_path / "train.txt").write_text("7\n8\n")
    (tmp_path / "unrelated").write_text("# format: <imageID> <sentence number>\n7 1\n")
    more = ["--image-ids", str(tmp_path / "train.txt"), "--unrelated", str(tmp_path / "unrelated")]
    assert flickr30k.main([*arguments, *more]) == 1
    report = read_report(tmp_path / "rows")
    assert report["records"] == 3
    assert report["examples"][0] == ["7, caption 2", "no phrase with a box"]


def mdetr_file(folder: Path, **changes) -> list[str]:
    write_jpeg(folder / "images" / "5.jpg", 40, 30)
    image = {"id": 0, "file_name": "5.jpg", "width": "40", "height": "30", "original_img_id": 5, "sentence_id": 0}
    image |= {"caption": "two dogs and a cat on grass ."} | changes
    annotations = [
        {"image_id": 0, "bbox": [1, 2, 9, 9], "tokens_positive": [[0, 8]], "iscrowd": 0},
        {"image_id": 0, "bbox": [15, 2, 40, 9], "tokens_positive": [[13, 18]], "iscrowd": 0},
        {"image_id": 0, "bbox": [5, 2, 9, 9], "tokens_positive": [[0, 8]], "iscrowd": 0},
        {"image_id": 0, "bbox": [99, 2, 9, 9], "tokens_positive": [[22, 27]], "iscrowd": 0},
    ]
    path = write_json(folder / "flickr.json", {"images": [image], "annotations": annotations})
    return ["--images", str(folder / "images"), "--annotations", str(path), "--output", str(folder / "rows")]


def test_mdetr_layout(tmp_path):
    assert flickr30k.main(mdetr_file(tmp_path)) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["messages"][1]["content"] == [
        phrase_part("Two dogs", [0, 1]),
        text_part(" and "),
        phrase_part("a cat", [2]),
        text_part(" on grass."),
    ]
    assert row["boxes_xyxy"] == [[1, 2, 10, 11], [5, 2, 14, 11], [15, 2, 40, 11]]
    assert row["image_id"] == "5"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caption": "short"}, "no phrase with a box"),
        ({"width": "60"}, "image has another size than annotated"),
        ({"file_name": "6.jpg"}, "missing image"),
    ],
)
def test_bad_records_are_counted(tmp_path, changes, reason):
    assert flickr30k.main(mdetr_file(tmp_path, **changes)) == 1
    assert read_report(tmp_path / "rows")["skipped"] == {reason: 1}


def test_options_that_do_not_fit_are_named(tmp_path, capsys):
    arguments = original_files(tmp_path)
    (tmp_path / "list").write_text("7 1\n")
    assert flickr30k.main([*mdetr_file(tmp_path), "--unrelated", str(tmp_path / "list")]) == 2
    assert "pass `--sentences` as well" in capsys.readouterr().err
    (tmp_path / "list").write_text("7\n")
    assert flickr30k.main([*arguments, "--unrelated", str(tmp_path / "list")]) == 2
    assert "is not the id of an image and the number" in capsys.readouterr().err
    arguments[3] = str(tmp_path / "list")
    assert flickr30k.main(arguments) == 2
    assert "`--annotations` is the folder" in capsys.readouterr().err
    arguments[3], arguments[5] = str(tmp_path / "Annotations"), str(tmp_path)
    assert flickr30k.main(arguments) == 2
    assert "No captions in" in capsys.readouterr().err


def test_real_record_in_mdetr_layout(tmp_path):
    folder = real_sample("flickr30k_entities")
    arguments = ["--images", str(tmp_path), "--annotations", str(folder / "mdetr_style_3359636318.json")]
    assert flickr30k.main([*arguments, "--output", str(tmp_path / "none")]) == 1
    assert read_report(tmp_path / "none")["skipped"] == {"missing image": 1}

    write_jpeg(tmp_path / "3359636318.jpg", 500, 334)
    assert flickr30k.main([*arguments, "--output", str(tmp_path / "rows")]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["messages"][1]["content"] == [
        phrase_part("Two people", [0, 1]),
        text_part(" are talking outside of "),
        phrase_part("the video game shop", [2]),
        text_part(" next door to "),
        phrase_part("the mobile phone store", [3]),
        text_part("."),
    ]
    assert row["boxes_xyxy"] == [[144, 166, 208, 334], [47, 183, 106, 334], [1, 55, 169, 308], [192, 1, 499, 231]]


def test_real_sentences_with_their_excerpt_of_boxes(tmp_path):
    folder = real_sample("flickr30k_entities")
    write_jpeg(tmp_path / "images" / "1000092795.jpg", 333, 500)
    (tmp_path / "Annotations").mkdir()
    content = (folder / "Annotations" / "1000092795_excerpt.xml").read_text()
    (tmp_path / "Annotations" / "1000092795.xml").write_text(content)
    arguments = [
        *("--images", str(tmp_path / "images")),
        *("--annotations", str(tmp_path / "Annotations")),
        *("--sentences", str(folder / "Sentences")),
        *("--unrelated", str(folder / "UNRELATED_CAPTIONS")),
        *("--output", str(tmp_path / "rows")),
    ]
    assert flickr30k.main(arguments) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    texts = ["".join(part["text"] for part in row["messages"][1]["content"]) for row in rows]
    # The third sentence is about shirts and the yard, which the excerpt does not box; its men are there.
    assert texts == [
        "Two young guys with shaggy hair look at their hands while hanging out in the yard.",
        "Two young, White males are outside near many bushes.",
        "Two men in green shirts are standing in a yard.",
        "A man in a blue shirt standing in a garden.",
        "Two friends enjoy time spent together.",
    ]
    assert rows[0]["messages"][1]["content"][0] == phrase_part("Two young guys", [0, 1])
    assert rows[0]["boxes_xyxy"] == [[158, 124, 219, 335], [196, 109, 261, 373]]
    assert rows[1]["messages"][1]["content"][2] == phrase_part("many bushes", [2, 3])
    assert rows[3]["boxes_xyxy"] == [[196, 109, 261, 373]]
    report = read_report(tmp_path / "rows")
    assert report["records"] == 45 and report["skipped"] == {"no file of boxes": 40}


def test_real_markup_reads_as_the_sentence():
    for path in sorted((real_sample("flickr30k_entities") / "Sentences").glob("*.txt")):
        for line in path.read_text().splitlines():
            text, phrases = flickr30k.parse_sentence(line)
            assert "EN#" not in text and "]" not in text
            assert len(phrases) == line.count("/EN#")
            for start, end, entity in phrases:
                assert f"[/EN#{entity}/" in line and f" {text[start:end]}]" in line


def test_real_split_lists():
    folder = real_sample("flickr30k_entities")
    assert [len(flickr30k.read_ids(folder / f"{name}.txt")) for name in ("train", "val", "test")] == [
        29783,
        1000,
        1000,
    ]
    unrelated = flickr30k.read_unrelated(folder / "UNRELATED_CAPTIONS")
    assert ("129602216", 5) in unrelated and len(unrelated) == 21


@pytest.mark.parametrize(
    ("name", "box", "skipped", "parts"),
    [
        ("8.jpg", (5, 7, 24, 15), {"the file of boxes is that of another image": 1}, {}),
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
    outcome = run(SCRIPTS["flickr30k"], images, wild.write_json(images, content))
    assert outcome.boxes == [[CORNERS]] * 2
    expected = {"`tokens_positive` of an annotation are not [start, end] inside the caption": 1}
    assert outcome.reasons == ({} if spans == [] else expected)
