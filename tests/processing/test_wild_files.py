"""Annotation files from the wild: each script leaves out only what is wrong, counts it and says why.

What single scripts do is in their own test files.
"""

import gzip
import json
import os

import pytest

from .wild import (
    CORNERS,
    HEIGHT,
    SCRIPTS,
    TURNING,
    WIDTH,
    WITH_BOXES,
    flickr_xml,
    one_reason,
    run,
    white_box,
    write_image,
    write_instruct,
    write_json,
    write_llava,
    write_vg,
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_good_files(images, name):
    script = SCRIPTS[name]
    outcome = run(script, images, script.write(images))
    assert outcome.status == 0 and len(outcome.rows) == 2 and outcome.reasons == {}
    if name != "llava":
        assert outcome.boxes == [[pytest.approx(CORNERS)]] * 2


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


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("file_name", "reason"),
    [
        ("../secret.png", "the path of the image leaves its folder"),
        ("/secret.png", "the path of the image is absolute"),
        ("out.png", "the image is a link that leads out of the folder"),
        ("fifo.png", "not a regular file"),
        ("folder.png", "not a regular file"),
        ("missing.png", "missing image"),
        ("empty.png", "empty image file"),
        ("text.png", "not an image"),
        ("half.png", "broken image"),
    ],
)
def test_images_that_are_not_there(images, name, file_name, reason):
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
def test_images_of_another_size(images, name, size, reason):
    script = SCRIPTS[name]
    assert one_reason(run(script, images, script.write(images, size=size))) == reason


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
