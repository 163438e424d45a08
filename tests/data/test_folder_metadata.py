"""Lines of `metadata.jsonl`, put together by image. What becomes of them is in test_image_folder.py."""

import json

import pytest

from transformers_groma.data.folder_metadata import METADATA, FolderImage, read_metadata


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
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} has no {METADATA}. Write it, one line an image: "):
        read_metadata(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder. Pass that of the images"):
        read_metadata(tmp_path / "nowhere")
    for name in ("valid", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / METADATA).touch()
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} has no {METADATA}. Pass {tmp_path / 'train'}.$"):
        read_metadata(tmp_path)
    for content in ("", "\n \n"):
        (tmp_path / METADATA).write_text(content)
        with pytest.raises(ValueError, match=f"{METADATA} is empty. Write one line an image"):
            read_metadata(tmp_path)
