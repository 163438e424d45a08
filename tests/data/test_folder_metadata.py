"""Lines of `metadata.jsonl`, grouped by image. What becomes of their boxes is in test_folder_objects.py."""

import json

import pytest
from datasets import Dataset

from transformers_groma.data.columns import text_part
from transformers_groma.data.folder_metadata import METADATA, FolderImage, read_metadata
from transformers_groma.data.image_folder import (
    FolderOptions,
    image_folder_dataset,
    write_image_folder,
)

from .folders import CUP_RIGHT, MUG, lines_of, one


def write(folder, *lines):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / METADATA).write_text("\n".join(texts) + "\n")
    return read_metadata(folder)


def line(name, **more):
    return {"file_name": name, **more}


def test_lines_go_to_their_image_in_the_order_of_the_file(tmp_path):
    images = write(tmp_path, line("b.jpg", a=1), line("a.jpg"), "  ", line("./b.jpg", a=2), line("b.jpg", a=3))
    assert images == [
        FolderImage("b.jpg", (line("b.jpg", a=1), line("./b.jpg", a=2), line("b.jpg", a=3))),
        FolderImage("a.jpg", (line("a.jpg"),)),
    ]


def test_links_to_one_image_are_one_image(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    (image,) = write(tmp_path, line("a.jpg"), line("link.jpg"))
    assert image.file_name == "a.jpg" and len(image.lines) == 2


def test_a_line_that_stands_twice_counts_once_whatever_the_order_of_its_keys(tmp_path):
    (image,) = write(
        tmp_path,
        line("a.jpg", x=1, y=2),
        '{"y": 2, "x": 1, "file_name": "a.jpg"}',
        line("a.jpg", x=1, y=3),
        line("a.jpg", x=1, y=2),
    )
    assert image.lines == (line("a.jpg", x=1, y=2), line("a.jpg", x=1, y=3)) and image.fault is None
    assert [str(one) for one in image.left_out] == [
        f"a line of {METADATA} appears twice: line 2",
        f"a line of {METADATA} appears twice: line 4",
    ]


def test_names_that_lead_out_are_kept_for_the_report(tmp_path):
    images = write(tmp_path, line("../a.jpg", x=1), line("..//a.jpg", x=2), line("a.jpg"))
    assert [(image.file_name, len(image.lines)) for image in images] == [("../a.jpg", 2), ("a.jpg", 1)]


@pytest.mark.parametrize(
    ("wrong", "reason", "detail"),
    [
        ("{", "is not JSON", "is not JSON ("),
        ("[" * 100_000, "is not JSON", "is not JSON (nested too deeply)"),
        ('{"file_name": "a.jpg", "x": 1, "x": 2}', "has a key twice", "has the key 'x' twice"),
        ("[1]", "has no `file_name`", "has no `file_name`"),
        ('{"x": 1}', "has no `file_name`", "has no `file_name`"),
        ('{"file_name": 7}', "has no `file_name`", "has no `file_name`"),
        ('{"file_name": ""}', "has no `file_name`", "has no `file_name`"),
    ],
)
def test_a_line_that_is_wrong_is_an_entry_of_its_own(tmp_path, wrong, reason, detail):
    good, bad, again = write(tmp_path, line("a.jpg"), wrong, wrong)
    assert good == FolderImage("a.jpg", (line("a.jpg"),))
    assert (bad.file_name, bad.lines, bad.fault.reason) == (
        f"{METADATA}, line 2",
        (),
        f"a line of {METADATA} {reason}",
    )
    assert bad.fault.detail.startswith(f"line 2 {detail}") and again.fault.detail.startswith(f"line 3 {detail}")
    # Nothing else: the file is of something else, and the first line says of what.
    with pytest.raises(ValueError) as error:
        write(tmp_path, "", wrong, wrong)
    assert str(error.value).startswith(f"{tmp_path / METADATA}, line 2 {detail}")
    assert str(error.value).endswith('"text": ["a cat"]}}')


def test_files_that_are_missing_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} has no {METADATA}. Write it, one line per image: "):
        read_metadata(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder. Pass the folder of the images"):
        read_metadata(tmp_path / "nowhere")
    for name in ("valid", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / METADATA).touch()
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} has no {METADATA}. Pass {tmp_path / 'train'}.$"):
        read_metadata(tmp_path)
    for content in ("", "\n \n"):
        (tmp_path / METADATA).write_text(content)
        with pytest.raises(ValueError, match=f"{METADATA} is empty. Write one line per image"):
            read_metadata(tmp_path)


def test_a_line_that_stands_twice_counts_once(tmp_path):
    first = one("a.jpg", [200, 40, 100, 60])
    more = {
        "file_name": "a.jpg",
        "objects": {"bbox": [[200, 40, 100, 60], [110, 10, 40, 40]], "text": ["a cup", "a mug"]},
    }
    folder = lines_of(tmp_path / "photos", first, first, more)
    with pytest.raises(ValueError, match="a line of metadata.jsonl appears twice: line 2"):
        image_folder_dataset(folder)
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("rec"))
    rows = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    assert [row["boxes_xyxy"] for row in rows] == [[CUP_RIGHT, MUG]]
    assert report.parts == {
        "a line of metadata.jsonl appears twice": 1,
        "a box is on several lines with the same text": 1,
    }
    report = write_image_folder(folder, tmp_path / "detection", FolderOptions("detection"))
    rows = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    assert [row["boxes_xyxy"] for row in rows] == [[CUP_RIGHT, MUG]]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("{", "a line of metadata.jsonl is not JSON", "line 2 is not JSON"),
        ("[" * 100_000, "a line of metadata.jsonl is not JSON", "line 2 is not JSON (nested too deeply)"),
        ('{"image": "a.jpg"}', "a line of metadata.jsonl has no `file_name`", "line 2"),
        ('{"file_name": 7}', "a line of metadata.jsonl has no `file_name`", "line 2"),
        ('{"file_name": ""}', "a line of metadata.jsonl has no `file_name`", "line 2"),
        ("[1]", "a line of metadata.jsonl has no `file_name`", "line 2"),
        ('{"file_name": "a.jpg", "file_name": "b.jpg"}', "a line of metadata.jsonl has a key twice", "line 2"),
    ],
)
def test_a_bad_line_is_left_out_alone(tmp_path, line, reason, detail):
    folder = lines_of(tmp_path / "photos", one("a.jpg", [110, 10, 40, 40]), line)
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("rec"))
    assert report.rows == 1 and report.skipped == {reason: 1}
    assert report.examples[0][0] == "metadata.jsonl, line 2" and detail in report.examples[0][1]
    with pytest.raises(ValueError, match="line 2"):
        image_folder_dataset(folder, FolderOptions("rec"))


def test_a_bad_line_of_several_is_left_out_alone(tmp_path):
    lines = [
        {"file_name": "a.jpg", "objects": {"bbox": [[1, 1, 9, 9]], "text": []}},
        one("a.jpg", [110, 10, 40, 40], messages=[{"role": "user", "content": "<region 0>?"}]),
        {"file_name": "a.jpg", "objects": {"bbox": [[1, 1, 9, 9]], "bbox2": 1, "text": "x"}},
    ]
    folder = lines_of(tmp_path / "photos", *lines)
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("rec"))
    rows = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    assert [row["boxes_xyxy"] for row in rows] == [[MUG]]
    [reason] = report.parts
    assert "must be a list with one text for each" in reason and report.parts[reason] == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_skipped(tmp_path, encoding):
    folder = lines_of(tmp_path / "photos")
    text = json.dumps(one("a.jpg", [110, 10, 40, 40], "un café"), ensure_ascii=False)
    (folder / "metadata.jsonl").write_bytes(f"{text}\r\n".encode(encoding))
    [row] = image_folder_dataset(folder, FolderOptions("region-caption"))
    assert row["messages"][1]["content"] == [text_part("Un café")]


def test_another_encoding_is_named(tmp_path):
    folder = lines_of(tmp_path / "photos", b'{"file_name": "a.jpg", "caption": "caf\xe9"}')
    with pytest.raises(ValueError, match="metadata.jsonl is not UTF-8: byte 38 is 0xe9. Save it as UTF-8"):
        read_metadata(folder)


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\x0b", "\x1c"])
def test_lines_end_at_line_feeds_alone(tmp_path, character):
    line = json.dumps(one("a.jpg", [110, 10, 40, 40], f"a{character}mug"), ensure_ascii=False)
    line = (
        line
        if character != "\x0b" and character != "\x1c"
        else json.dumps(one("a.jpg", [110, 10, 40, 40], f"a{character}mug"))
    )
    [row] = image_folder_dataset(lines_of(tmp_path / "photos", line), FolderOptions("region-caption"))
    assert row["messages"][1]["content"] == [text_part(f"A{character}mug")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "line 1 is not JSON"),
        ('\n["a.jpg"]', "line 2 has no `file_name`"),
        ('{"image": "a.jpg"}', "line 1 has no `file_name`"),
    ],
)
def test_a_bad_file(tmp_path, text, message):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metadata(tmp_path)


def test_no_file_points_to_the_folder_that_has_one(folder):
    with pytest.raises(FileNotFoundError, match=f"has no metadata.jsonl. Pass {folder}"):
        read_metadata(folder.parent)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_metadata(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no metadata.jsonl. Write it, one line per image"):
        read_metadata(folder / "empty")
