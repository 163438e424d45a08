"""Checks of what callers pass to the processor."""

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.models.processing_inputs import (
    GromaBatchFeature,
    _group_boxes,
    as_texts,
    assign_images,
    check_marks,
    check_phrase_part,
    check_prompt_length,
    count_marks,
    group_images,
    pad_boxes,
    pad_left,
    plain_part,
    prepare_boxes,
    refuse_other_media,
)

IMAGE = Image.new("RGB", (40, 20))
BOX = [0.0, 0.0, 20.0, 10.0]


def test_marks_are_counted_and_compared():
    assert count_marks("<region>", "a <region><region> b <region") == 2
    check_marks("boxes", "<region>", "a <region> b", 1, 0)
    for text, count, said in (
        ("a", 1, "0 <region> marks, but `boxes` has 1 box for it"),
        ("<region>", 0, "1 <region> mark, but `boxes` has 0 boxes for it"),
        ("<region> <region>", 3, "2 <region> marks, but `boxes` has 3 boxes for it"),
    ):
        with pytest.raises(ValueError, match=f"`text` of sample 3 has {said}"):
            check_marks("boxes", "<region>", text, count, 3)


@pytest.mark.parametrize(("text", "expected"), [(None, None), ("a", ["a"]), (["a", "b"], ["a", "b"]), (("a",), ["a"])])
def test_texts(text, expected):
    assert as_texts(text) == expected


@pytest.mark.parametrize("text", [5, b"a", ["a", 5], {"a": 1}, [["a"]], [], "", " \n", ["a", " "]])
def test_other_texts(text):
    with pytest.raises(ValueError, match="`text`"):
        as_texts(text)


def test_images_in_groups():
    assert group_images(None) == ([], False)
    assert group_images(IMAGE) == ([[IMAGE]], False)
    assert group_images([IMAGE, None]) == ([[IMAGE], []], False)
    assert group_images([[IMAGE], [], [None]]) == ([[IMAGE], [], []], True)
    assert group_images((IMAGE, [IMAGE, IMAGE])) == ([[IMAGE], [IMAGE, IMAGE]], True)
    for batch in (np.zeros((2, 9, 8, 3)), torch.zeros(2, 3, 9, 8)):
        groups, is_nested = group_images(batch)
        assert [len(group) for group in groups] == [1, 1] and not is_nested
        assert groups[1][0].shape == batch.shape[1:]
    assert len(group_images(np.zeros((9, 8, 3)))[0]) == 1


SMALL = Image.new("RGB", (4, 2))


@pytest.mark.parametrize(
    ("images", "texts", "sizes"),
    [
        (None, ["a", "b"], [None, None]),
        (SMALL, None, [(4, 2)]),
        ([SMALL, IMAGE], None, [(4, 2), (40, 20)]),
        ([SMALL, None], ["a", "b"], [(4, 2), None]),
        ([[], [SMALL]], ["a", "b"], [None, (4, 2)]),
        # As many marks as images: each mark takes the next image.
        ([SMALL], ["a", "<image>"], [None, (4, 2)]),
        ([SMALL, IMAGE], ["<image>", "a", "b <image>"], [(4, 2), None, (40, 20)]),
        ([[SMALL, IMAGE]], ["<image>", "<image>"], [(4, 2), (40, 20)]),
        # A nested list with an entry for each text is not moved by marks.
        ([[SMALL], []], ["<image>", "a"], [(4, 2), None]),
    ],
)
def test_which_image_belongs_to_which_text(images, texts, sizes):
    assert [image and image.size for image in assign_images(images, texts, "<image>")] == sizes


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        (None, None, "Neither `images` nor `text`"),
        ([], None, "`images` is an empty list"),
        ([SMALL, None], None, "Sample 1 has neither an image nor a text"),
        ([SMALL, IMAGE], ["a"], "Sample 0 has 2 `images`"),
        ([SMALL, IMAGE], ["a", "b", "c"], "`images` has 2 entries for 3 texts"),
        ([[SMALL], []], ["a", "<image>"], "Found total 1 <image> tokens and 1 images"),
        ([SMALL], ["<image>", "<image>"], "Found total 2 <image> tokens and 1 images"),
    ],
)
def test_images_that_do_not_fit_the_texts(images, texts, message):
    with pytest.raises(ValueError, match=message):
        assign_images(images, texts, "<image>")


def test_parts_of_messages_without_what_is_none_and_with_boxes_as_lists():
    array = np.zeros((4, 4, 3))
    part = plain_part(
        {"type": "region", "image": array, "box": np.array([1, 2, 3, 4]), "boxes": [torch.ones(4)], "text": None}
    )
    assert part["image"] is array
    assert part["box"] == [1, 2, 3, 4] and part["boxes"] == [[1.0] * 4] and "text" not in part
    assert plain_part("a") == "a"


def test_other_media():
    refuse_other_media({"images": 1, "videos": None, "videos_kwargs": {}, "audio_kwargs": {"x": 1}}, "argument")
    refuse_other_media({"images_kwargs": 1, "padding": True, "video": None}, "argument")
    for name in ("videos", "video", "audio", "input_audio", "video_url", "videos_kwargs_of_mine"):
        with pytest.raises(ValueError, match=f"the argument `{name}` was given"):
            refuse_other_media({name: 0}, "argument")


@pytest.mark.parametrize(
    ("boxes", "groups"),
    [
        (None, [[], []]),
        ([], [[], []]),
        ([None, None], [[], []]),
        ([[BOX], None], [[BOX], []]),
        ([None, [BOX, BOX]], [[], [BOX, BOX]]),
        ([[], [BOX]], [[], [BOX]]),
        (np.array([[BOX], [BOX]]), [[BOX], [BOX]]),
    ],
)
def test_boxes_of_two_samples(boxes, groups):
    assert _group_boxes("boxes", boxes, 2) == groups


@pytest.mark.parametrize("boxes", [[BOX], np.array([BOX]), torch.tensor([BOX]), (tuple(BOX),), [[BOX]]])
def test_boxes_of_one_sample(boxes):
    assert _group_boxes("boxes", boxes, 1) == [[BOX]]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [([BOX], "for 1 samples, but there are 2"), ([[BOX]] * 3, "for 3 samples"), (5, "must be a list")],
)
def test_boxes_that_are_not_those_of_the_samples(boxes, message):
    with pytest.raises(ValueError, match=message):
        _group_boxes("boxes", boxes, 2)


def test_prepared_boxes_are_fractions_of_their_own_image():
    prepared = prepare_boxes("boxes", [[BOX], None, [BOX]], [(20, 40), None, (10, 20)], "xyxy", False)
    assert [boxes.tolist() for boxes in prepared] == [[[0.25, 0.25, 0.5, 0.5]], [], [[0.5, 0.5, 1, 1]]]
    with pytest.raises(ValueError, match=r"`boxes\[1\]` was given, but sample 1 has no image"):
        prepare_boxes("boxes", [None, [BOX]], [(20, 40), None], "xyxy", False)
    with pytest.raises(ValueError, match=r"`boxes\[1\]\[0\]` .* outside of the 9x20"):
        prepare_boxes("boxes", [None, [BOX]], [(20, 40), (20, 9)], "xyxy", False)
    with pytest.raises(ValueError, match=r"`boxes\[0\]` .* outside"):  # one sample has no number
        prepare_boxes("boxes", [BOX], [(20, 9)], "xyxy", False)


def test_padded_boxes():
    rows = pad_boxes([torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.zeros(0, 4), torch.full((2, 4), 0.5)])
    assert [row.shape for row in rows] == [(2, 4)] * 3 and rows[0].dtype == np.float32
    np.testing.assert_allclose(rows[0], [[0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0]])
    assert not rows[1].any() and (rows[2] == 0.5).all()


@pytest.mark.parametrize(
    ("num_tokens", "max_new_tokens", "advice"),
    [
        (90, 10, None),
        (90, 11, "lower `max_new_tokens`"),
        (99, 2, "lower `max_new_tokens`"),
        (100, 1, "Shorten the question"),
        (101, 0, "Shorten"),
    ],
)
def test_prompt_and_answer_are_no_longer_than_the_model_reads(num_tokens, max_new_tokens, advice):
    if advice is None:
        check_prompt_length(num_tokens, max_new_tokens, 100)
        return
    with pytest.raises(ValueError, match=advice) as error:
        check_prompt_length(num_tokens, max_new_tokens, 100)
    # Nothing that would not help is advised.
    assert ("max_new_tokens`." in str(error.value)) == (num_tokens < 100)


def test_boxes_are_moved_and_never_cast():
    inputs = GromaBatchFeature(
        {"pixel_values": torch.ones(1, 3, 8, 8), "refer_boxes": torch.full((1, 1, 4), 0.3), "ground_boxes": [[0.1]]}
    )
    returned = inputs.to(torch.bfloat16)
    assert returned is inputs
    assert inputs["pixel_values"].dtype == torch.bfloat16 and inputs["refer_boxes"].dtype == torch.float32
    assert torch.equal(inputs["refer_boxes"], torch.full((1, 1, 4), 0.3)) and inputs["ground_boxes"] == [[0.1]]
    assert inputs.to("meta")["refer_boxes"].device.type == "meta"


@pytest.mark.parametrize("pad_token_id", [None, 0, 7])
def test_prompts_are_padded_on_the_left(pad_token_id):
    padded = pad_left([[5, 6, 7], [8], np.array([9, 9])], pad_token_id)
    fill = pad_token_id or 0
    assert padded["input_ids"].tolist() == [[5, 6, 7], [fill, fill, 8], [fill, 9, 9]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert padded["input_ids"].dtype == padded["attention_mask"].dtype == torch.int64


@pytest.mark.parametrize("rest", [{}, {"boxes": []}, {"boxes": [BOX]}, {"boxes": [BOX], "box": None, "points": []}])
def test_phrases_say_where_they_are_by_boxes(rest):
    check_phrase_part({"type": "phrase", "text": "a dog", **rest})


@pytest.mark.parametrize(
    "rest", [{"box": BOX}, {"regions": [{"box": BOX}]}, {"boxes": [BOX], "mask": np.ones((2, 2), bool)}]
)
def test_phrases_in_other_words_are_refused(rest):
    (name,) = set(rest) - {"boxes"}
    with pytest.raises(ValueError, match=f"phrase part has the unknown key '{name}'.*`boxes` says where"):
        check_phrase_part({"type": "phrase", "text": "a dog", **rest})
