"""Captions with spans to message parts, and checks of their text."""

from argparse import ArgumentParser

import pytest
from PIL import Image

from processing.rows import (
    ImageFile,
    add_conversation_options,
    category_name,
    coco_image_names,
    conversation_row,
    evaluation_row,
    grounded_parts,
    plain_text,
    prompt_seed,
    read_annotated_image,
    read_ids,
    read_image_file,
    without_stray_spaces,
)
from transformers_groma.data.columns import image_part, phrase_part, text_part
from transformers_groma.data.conversations import to_messages
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.data.prompts import question_parts

A, B, C = [0.0, 0, 5, 5], [1.0, 1, 6, 6], [2.0, 2, 7, 7]


def test_phrases_come_in_the_order_of_the_text_with_their_boxes():
    parts, boxes = grounded_parts("Two men hold a box.", [(13, 18, [C]), (0, 7, [B]), (0, 7, [A])])
    assert parts == [phrase_part("Two men", [0, 1]), text_part(" hold "), phrase_part("a box", [2]), text_part(".")]
    assert boxes == [B, A, C]


def test_equal_boxes_are_one_box():
    parts, boxes = grounded_parts("a man and his twin", [(0, 5, [A, A]), (10, 18, [A, B])])
    assert parts[0] == phrase_part("a man", [0])
    assert parts[2] == phrase_part("his twin", [0, 1])
    assert boxes == [A, B]


def test_phrases_touch_and_fill_the_text():
    parts, _ = grounded_parts("redblue", [(0, 3, [A]), (3, 7, [B])])
    assert parts == [phrase_part("red", [0]), phrase_part("blue", [1])]


def test_whitespace_does_not_belong_to_a_phrase():
    parts, _ = grounded_parts("see a cat here", [(3, 10, [A])])
    assert parts == [text_part("see "), phrase_part("a cat", [0]), text_part(" here")]
    for span in ((3, 10), (3, 11), (4, 13)):
        parts, _ = grounded_parts("see  a cat   here", [(*span, [A])])
        assert parts == [text_part("see  "), phrase_part("a cat", [0]), text_part("   here")]


@pytest.mark.parametrize(
    ("phrases", "phrase", "box"),
    [
        ([(6, 11, [A]), (0, 18, [B])], "a man in a hat now", B),  # nested
        ([(0, 10, [A]), (6, 18, [B])], "in a hat now", B),  # overlap
        ([(2, 8, [A]), (6, 12, [B])], "man in", A),  # equally long
        ([(0, 18, []), (9, 14, [A])], "a hat", A),  # without boxes it is no phrase
    ],
)
def test_of_overlapping_phrases_the_longest_stands(phrases, phrase, box):
    text = "a man in a hat now"
    parts, boxes = grounded_parts(text, phrases)
    assert [part["text"] for part in parts if part["type"] == "phrase"] == [phrase]
    assert boxes == [box]
    assert "".join(part["text"] for part in parts) == text


def test_a_text_without_boxes_is_text():
    assert grounded_parts("a dog", [(0, 5, [])]) == ([text_part("a dog")], [])
    assert grounded_parts("a   dog", [(1, 4, [A])]) == ([text_part("a   dog")], [])


@pytest.mark.parametrize("span", [(3, 3), (4, 2), (-1, 2), (0, 6)])
def test_spans_outside_of_the_text_are_errors(span):
    with pytest.raises(ValueError, match="not inside its caption"):
        grounded_parts("a dog", [(*span, [A])])


@pytest.mark.parametrize(
    ("tokenized", "written"),
    [
        ("A man 's arm , raised ( left ) .", "A man's arm, raised (left)."),
        ("They do n't see ; it 's 3 . 5 m !", "They don't see; it's 3. 5 m!"),
        ("two  dogs .", "two dogs."),
        ("a t-shirt 'so big' .com", "a t-shirt 'so big' .com"),
    ],
)
def test_captions_are_written_as_one_would(tokenized, written):
    words = [(0, tokenized.index(" ")), (tokenized.rindex(" ") + 1, len(tokenized))]
    text, spans = without_stray_spaces(tokenized, words)
    assert text == written
    assert [text[start:end] for start, end in spans] == [tokenized[start:end] for start, end in words]


def test_text_that_would_be_read_as_markup_is_left_out():
    assert plain_text(" a < b ") == "a < b"
    for text, reason in [("a <p>b</p>", "a token of the model: <p>"), ("<r12>", ": <r12>"), ("a</s>", ": </s>")]:
        with pytest.raises(SkipRecord, match=reason):
            plain_text(text)
    for text in ("", "  \n", None, 3):
        with pytest.raises(SkipRecord, match="no text"):
            plain_text(text)


def test_id_lists(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("# <image> <caption>\n12 5\n\n  7\n")
    assert read_ids(path) == {"12", "7"}


def test_rows_read_as_the_paper_writes_them(processor):
    """What a source makes of a caption, and what the model learns from it."""
    answer, boxes = grounded_parts("Two men hold a box.", [(13, 18, [C]), (0, 7, [B, A])])
    image = ImageFile(b"", "a.jpg", 10, 10)
    question = question_parts("rec", phrase="the box")
    turns = [(question_parts("region_caption", region=2), [text_part("A box")]), (question, answer)]
    row = conversation_row(image, "1", boxes, turns, "test")
    text = processor.apply_chat_template(to_messages(row), tokenize=False)
    assert text.endswith(
        "USER: Please give a short description of <region>. ASSISTANT: A box</s>"
        "USER: Locate <p>the box</p> in this image. ASSISTANT: "
        "<p>Two men</p> <roi><ground_box><ground_box></roi> hold <p>a box</p> <roi><ground_box></roi>.</s>"
    )
    assert to_messages(row)[3]["content"][0]["boxes"] == [B, A]


def test_images_are_found_and_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "b").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "b" / "turned.jpg", exif=exif)
    Image.new("RGB", (40, 30)).save(tmp_path / "plain.png")
    image = read_image_file(tmp_path, "missing.jpg", "a/b/turned.jpg", "plain.png")
    assert (image.name, image.width, image.height, image.orientation) == ("turned.jpg", 30, 40, 1)
    assert image.content == (tmp_path / "b" / "turned.jpg").read_bytes()
    assert image.upright([(0, 0, 10, 5)]) == [[0, 0, 10, 5]]
    with pytest.raises(SkipRecord, match="missing image"):
        read_image_file(tmp_path, "missing.jpg", "other.jpg")
    for size, boxes_of, boxes in (
        ((30, 40), None, [[0, 0, 10, 5]]),
        ((40, 30), None, [[25, 0, 30, 10]]),
        (None, "upright", [[0, 0, 10, 5]]),
        (None, "stored", [[25, 0, 30, 10]]),
    ):
        image = read_annotated_image(tmp_path, "b/turned.jpg", size=size, boxes_of=boxes_of)
        assert image.upright([(0, 0, 10, 5)]) == boxes and (image.width, image.height) == (30, 40)
    with pytest.raises(SkipRecord, match="it is unclear whether its boxes"):
        read_annotated_image(tmp_path, "b/turned.jpg", size=None)
    # What was drawn as it is needs no look into the file.
    assert ImageFile(b"", "a.jpg", 10, 10).upright([(1, 2, 3, 4)]) == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("image", "names"),
    [
        ({"file_name": "a.jpg"}, ["a.jpg"]),
        ({"coco_url": "http://images.cocodataset.org/val2017/7.jpg"}, ["val2017/7.jpg"]),
        ({"file_name": "a.jpg", "coco_url": "http://x/y/z/val2017/7.jpg"}, ["a.jpg", "val2017/7.jpg"]),
        ({"file_name": "a.jpg", "coco_url": ""}, ["a.jpg"]),
        ({"file_name": "a.jpg", "coco_url": 7}, ["a.jpg"]),
    ],
)
def test_names_of_images(image, names):
    assert coco_image_names(image) == names
    for nothing in ({}, {"file_name": "", "coco_url": None}):
        with pytest.raises(SkipRecord, match="no file name"):
            coco_image_names(nothing)


def test_categories_are_words():
    assert [category_name(name) for name in ("Band_Aid", " dog ", "bat_(animal)")] == [
        "band aid",
        "dog",
        "bat (animal)",
    ]


@pytest.mark.parametrize(
    ("options", "seed"),
    [([], 0), (["--prompt-seed", "3"], 3), (["--evaluation"], None), (["--evaluation", "--prompt-seed", "0"], 0)],
)
def test_questions_are_drawn_unless_they_evaluate(options, seed):
    parser = ArgumentParser()
    add_conversation_options(parser, "lvis")
    args = parser.parse_args(options)
    assert prompt_seed(args) == seed and args.source == "lvis"
    plain = ArgumentParser()
    add_conversation_options(plain, "lvis", evaluation=False)
    assert prompt_seed(plain.parse_args(["--source", "own"])) == 0
    with pytest.raises(SystemExit):
        plain.parse_args(["--evaluation"])


def test_rows_show_their_image_once_and_evaluate_without_an_answer():
    image, turn = ImageFile(b"x", "a.jpg", 10, 10), ([text_part("Q")], [text_part("A")])
    row = conversation_row(image, "7", [A], [turn, turn], "test")
    assert row["image"] == {"bytes": b"x", "path": "a.jpg"}
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    assert [message["content"] for message in row["messages"]] == [
        [image_part(), text_part("Q")],
        [text_part("A")],
        [text_part("Q")],
        [text_part("A")],
    ]
    assert conversation_row(image, "7", [], [], "test")["messages"] == []
    text = conversation_row(None, "7", [], [turn], "test")
    assert text["image"] is None and text["messages"][0]["content"] == [text_part("Q")]

    question = [text_part("Q")]
    row = evaluation_row(image, "7", question, "test", boxes=[A], references=("a",), targets=(B,), category="dog")
    assert row["messages"] == [{"role": "user", "content": [image_part(), text_part("Q")]}] and len(question) == 1
    assert (row["boxes_xyxy"], row["references"], row["target_boxes_xyxy"]) == ([A], ["a"], [B])
    assert (row["category"], row["source"], row["image_id"]) == ("dog", "test", "7")
    row = evaluation_row(image, "7", question, "test")
    assert (row["boxes_xyxy"], row["references"], row["target_boxes_xyxy"], row["category"]) == ([], [], [], "")
