"""Wrong input raises a ValueError with the argument, the value and the remedy."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaTokenizer

from transformers_groma import GromaImageProcessor, GromaProcessor

IMAGE = Image.new("RGB", (640, 480))
BOX = [10, 20, 100, 200]

CASES = {
    # boxes
    "box without area": ({"boxes": [[10, 20, 10, 200]]}, r"`boxes\[0\]` = \[10.*no area"),
    "inverted box": ({"boxes": [[100, 20, 10, 200]]}, r"`boxes\[0\]` = \[100.*inverted.*box_format"),
    "NaN in a box": ({"boxes": [[float("nan"), 20, 100, 200]]}, r"`boxes` must be finite.*nan"),
    "infinite box": ({"boxes": [[0, 0, float("inf"), 200]]}, r"`boxes` must be finite.*inf"),
    "box outside of the image": ({"boxes": [[10, 20, 700, 200]]}, r"`boxes\[0\]`.*640x480.*by 60 pixels"),
    "box far outside of the image": ({"boxes": [[900, 900, 950, 950]]}, r"`boxes\[0\]`.*outside of the 640x480"),
    "one box without its list": ({"boxes": BOX}, r"`boxes` must have shape.*\[\[x1, y1, x2, y2\]\]"),
    "box of three numbers": ({"boxes": [[1, 2, 3]]}, r"`boxes` must have shape.*\(1, 3\)"),
    "boxes of different length": ({"boxes": [[1, 2, 3, 4], [1, 2]]}, r"`boxes` must be numbers"),
    "box of words": ({"boxes": [["a", "b", "c", "d"]]}, r"`boxes` must be numbers.*'a'"),
    "boxes that are not a list": ({"boxes": 7}, r"`boxes` must be a list of boxes.*7"),
    "pixels called normalized": ({"boxes": [BOX], "normalized": True}, r"`boxes` look like pixels.*normalized=False"),
    "unknown box format": ({"boxes": [BOX], "box_format": "yxyx"}, r"`box_format` must be one of 'xyxy'.*'yxyx'"),
    "more boxes than slots": (
        {"text": "<region>" * 101, "boxes": [BOX] * 101},
        r"101 `boxes`.*`max_regions` is 100",
    ),
    "boxes without image": ({"images": None, "boxes": [BOX]}, r"`boxes` was given, but sample 0 has no image"),
    "boxes of a sample without image": (
        {"images": [IMAGE, None], "text": ["<region>", "<region>"], "boxes": [[BOX], [BOX]]},
        r"`boxes\[1\]` was given, but sample 1 has no image",
    ),
    "boxes for another number of samples": (
        {"images": [IMAGE, IMAGE], "text": ["<region>", "<region>"], "boxes": [[BOX]]},
        r"`boxes` has boxes for 1 samples, but there are 2",
    ),
    "one box per sample": (
        {"images": [IMAGE, IMAGE], "text": ["<region>", "<region>"], "boxes": [BOX, BOX]},
        r"`boxes` has boxes for 1 samples, but there are 2.*one list of boxes per sample",
    ),
    "wrong box in a batch": (
        {"images": [IMAGE, IMAGE], "text": ["<region>", "<region>"], "boxes": [[BOX], [[9, 9, 1, 1]]]},
        r"`boxes\[1\]\[0\]`.*inverted",
    ),
    # marks
    "fewer marks than boxes": ({"boxes": [BOX, BOX]}, r"1 <region> mark, but `boxes` has 2.*Write one <region>"),
    "more marks than boxes": ({"text": "<region> or <region>?", "boxes": [BOX]}, r"2 <region> marks.*`boxes` has 1"),
    "boxes but no mark": ({"text": "What is it?", "boxes": [BOX]}, r"0 <region> marks.*as in \"What is <region>\?\""),
    "mark but no boxes": ({"boxes": None}, r"1 <region> mark, but `boxes` has 0"),
    "mark in a text without image": ({"images": None, "boxes": None}, r"1 <region> mark, but `boxes` has 0"),
    "ground box mark without box": (
        {"text": "<image> <ground_box>", "boxes": None},
        r"1 <ground_box> mark.*`ground_boxes`",
    ),
    "ground boxes without mark": (
        {"ground_boxes": [BOX], "boxes": [BOX]},
        r"0 <ground_box> marks, but `ground_boxes` has 1",
    ),
    # images
    "two images in a sample": ({"images": [[IMAGE, IMAGE]], "boxes": None}, r"Sample 0 has 2 `images`.*one image per"),
    "two images for one text": ({"images": [IMAGE, IMAGE]}, r"Sample 0 has 2 `images`"),
    "two images in one prompt": (
        {"images": [IMAGE, IMAGE], "text": "<image><image>", "boxes": None},
        r"Sample 0 has 2 `images`",
    ),
    "more images than marks": (
        {"images": [IMAGE] * 4, "text": ["<image>"] * 3, "boxes": None},
        r"tokens in the prompts should be the same as the number of images.*3 <image> tokens and 4 images",
    ),
    "more marks than images": (
        {"images": IMAGE, "text": "<image><image>", "boxes": None},
        r"tokens in the prompts should be the same as the number of images.*2 <image> tokens and 1 images",
    ),
    "image mark without image": ({"images": None, "text": "<image>", "boxes": None}, r"no images were passed"),
    "three images for two questions": (
        {"images": [IMAGE] * 3, "text": ["a", "b"], "boxes": None},
        r"`images` has 3 entries for 2 texts.*None or \[\]",
    ),
    "text that is not a file": (
        {"images": "no_such_file.jpg"},
        r"`images` of sample 0 cannot be read.*'no_such_file.jpg'",
    ),
    "number as an image": ({"images": 42}, r"`images` of sample 0 is not an image: 42\. Pass a PIL image"),
    "dict as an image": ({"images": {"path": "a.jpg"}}, r"`images` of sample 0 is not an image: \{'path'"),
    "second image is none": (
        {"images": [IMAGE, 3.5], "text": ["a", "b"], "boxes": None},
        r"of sample 1 is not an image",
    ),
    "vector as an image": ({"images": np.zeros(7, np.uint8)}, r"`images` of sample 0 is an array of shape \(7,\)"),
    "array with two channels": ({"images": np.zeros((9, 9, 2), np.uint8)}, r"array of shape \(9, 9, 2\).*1, 3 or 4"),
    "image of one pixel": (
        {"images": Image.new("RGB", (1, 1)), "boxes": None},
        r"`images` of sample 0 has 1x1 .*small",
    ),
    "tensor of one pixel": ({"images": torch.zeros(3, 1, 1), "boxes": None}, r"`images` of sample 0 has 1x1 .*small"),
    "NaN in an array": (
        {"images": [IMAGE, np.full((9, 9, 3), np.nan)], "text": ["a", "b"], "boxes": None},
        r"`images` of sample 1, an array of float64, has 243 values that are NaN or infinite",
    ),
    "infinity in a tensor": (
        {"images": torch.full((3, 9, 9), torch.inf)},
        r"`images` of sample 0, a tensor of float32, has 243 values that are NaN",
    ),
    "floats up to 255": (
        {"images": np.full((9, 9, 3), 200.0)},
        r"`images` of sample 0, an array of float64, must have values from 0 to 1, got 200 to 200.*floats run from 0 "
        r"to 1",
    ),
    "normalized pixels": ({"images": torch.full((3, 9, 9), -1.5)}, r"must have values from 0 to 1, got -1.5"),
    "12 bits in int32": ({"images": np.full((9, 9, 3), 4095, np.int32)}, r"must have values from 0 to 255, got 4095"),
    "infinity in a box": ({"boxes": [[1, 1, float("inf"), 9]]}, r"`boxes` must be finite numbers"),
    "NaN in a normalized box": (
        {"boxes": [[0.1, 0.1, float("nan"), 0.9]], "normalized": True},
        r"`boxes` must be finite numbers",
    ),
    "empty list of images": ({"images": [], "text": None, "boxes": None}, r"`images` is an empty list"),
    # text
    "nothing at all": ({"images": None, "text": None, "boxes": None}, r"Neither `images` nor `text`"),
    "neither image nor text in a sample": (
        {"images": [[IMAGE], []], "text": None, "boxes": None},
        r"Sample 1 has neither an image nor a text",
    ),
    "empty text": ({"text": "", "boxes": None}, r"`text` of sample 0 is empty: ''"),
    "blank text": ({"text": [" \n"], "boxes": None}, r"`text` of sample 0 is empty: ' \\n'"),
    "empty list of texts": ({"text": [], "images": None, "boxes": None}, r"`text` is an empty list"),
    "number as text": ({"text": 5, "boxes": None}, r"`text` must be a string or list of strings, got 5"),
    "cut off": (
        {"truncation": True, "max_length": 100},
        r"Mismatch in `image` token count.*truncation",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_arguments(case, processor):
    arguments, message = CASES[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        processor(**{"images": IMAGE, "text": "What is <region>?", "boxes": [BOX], **arguments})


def test_corrupt_file(processor, tmp_path):
    IMAGE.save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    for name, damaged in (("cut.png", content[: len(content) // 2]), ("text.png", b"no image"), ("empty.png", b"")):
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"(?s)`images` of sample 0 cannot be read.*{name}"):
            processor(images=path)
    with pytest.raises(ValueError, match="`images` of sample 0 cannot be read"):
        processor(images=Image.open(tmp_path / "cut.png"))


def test_box_that_sticks_out_by_rounding_is_clipped(processor):
    inputs = processor(images=IMAGE, text="<region>", boxes=[[-0.5, 0, 641, 480]], return_tensors="pt")
    assert inputs["refer_boxes"].tolist() == [[[0.5, 0.5, 1, 1]]]


PARTS = {
    "region without image": ([{"type": "region", "box": BOX}], r"`boxes` was given, but sample 0 has no image"),
    "region without box": ([{"type": "image", "image": IMAGE}, {"type": "region"}], r"region part needs a `box`"),
    "two images": (
        [{"type": "image", "image": IMAGE}] * 2 + [{"type": "text", "text": "a"}],
        r"Sample 0 has 2 `images`",
    ),
    "one box without its list": (
        [{"type": "image", "image": IMAGE}, {"type": "phrase", "text": "a", "boxes": BOX}],
        r"ground_boxes",
    ),
    "wrong box": (
        [{"type": "image", "image": IMAGE}, {"type": "region", "box": [5, 5, 1, 1]}],
        r"`boxes\[0\]`.*inverted",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_wrong_message_parts(case, processor):
    parts, message = PARTS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=True, return_dict=True)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "tool", "content": "x"}], "Unknown role 'tool'"),
        ([{"role": "user", "content": [{"type": "file", "file": "x"}]}], "Unknown part type 'file'"),
    ],
)
def test_wrong_conversations(messages, message, processor):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(messages)


def test_question_without_chat_template(processor):
    processor.chat_template = None
    with pytest.raises(ValueError, match=r"'What is <region>\?' is a plain question.*processor.chat_template"):
        processor(images=IMAGE, text="What is <region>?", boxes=[BOX])
    with pytest.raises(ValueError, match=r"processor.chat_template"):
        processor(images=IMAGE)
    assert "pixel_values" in processor(images=IMAGE, text="Image: <image>.")


def test_tokenizer_without_the_tokens():
    with pytest.raises(
        ValueError, match=r"`tokenizer` lacks 114 tokens.*add_groma_tokens\(tokenizer, max_regions=100\)"
    ):
        GromaProcessor(GromaImageProcessor(), LlamaTokenizer())


@pytest.mark.parametrize("name", ["videos", "video", "audio", "audios"])
@pytest.mark.parametrize("images", [None, IMAGE])
def test_videos_and_sound_are_refused(name, images, processor):
    remedy = "Pass a frame" if "video" in name else "Write what is heard"
    with pytest.raises(ValueError, match=f"The model sees images only, but the argument `{name}` was given. {remedy}"):
        processor(images=images, text="What is this?", **{name: np.zeros((4, 9, 9, 3), np.uint8)})
    assert processor(images=images, text="What is this?", videos=None, audio=None)["input_ids"]
    assert processor(images=images, text="What is this?", videos=[], audio=())["input_ids"]


@pytest.mark.parametrize("kind", ["video", "audio", "video_url", "input_audio", "audio_url"])
@pytest.mark.parametrize("tokenize", [True, False])
def test_videos_and_sound_in_conversations_are_refused(kind, tokenize, processor):
    messages = [
        {"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "a"}]},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": kind, kind: "clip.mp4"}]},
    ]
    for conversation in (messages, [messages[:1], messages]):
        with pytest.raises(ValueError, match=f"The model sees images only, but the message part `{kind}` was given"):
            processor.apply_chat_template(conversation, tokenize=tokenize, return_dict=tokenize)
