"""Wrong input to GLaMM's processor raises a ValueError with the argument, the value and the remedy."""

import numpy as np
import pytest
from transformers import LlamaTokenizer

from transformers_groma.models.glamm.image_processing_glamm import GlammImageProcessor
from transformers_groma.models.glamm.processing_glamm import GlammProcessor

from ..groma.test_processing_bad_input import CASES
from .chats import BOX, IMAGE, image_part, phrase, question, region, text

# What is about Groma's slots and its training answers alone, or named after the mark that converted checkpoints have.
OF_GROMA = (
    "more boxes than slots",
    "ground box mark without box",
    "ground boxes without mark",
    "more images than marks",
)
OF_GROMA += ("more marks than images",)
OWN = {
    "ground boxes": ({"ground_boxes": [BOX]}, "`ground_boxes` is not an input of GLaMM.*`mask_labels`"),
    "placeholders and marks": (
        {"text": "<image> <point>", "boxes": None},
        "same as the number of images.*2 <image> tokens and 1 images",
    ),
    "region token without box": ({"text": "<image> <bbox>", "boxes": None}, "1 <region> mark, but `boxes` has 0"),
    "region token and mark for one box": ({"text": "<image> <bbox> <region>"}, "2 <region> marks, but `boxes` has 1"),
    "boxes and regions": ({"regions": [BOX]}, "`boxes` and `regions` were both given"),
    "point outside": (
        {"boxes": None, "regions": [{"point": [900, 5]}]},
        r"`regions\[0\]\['point'\]` = \[900, 5\] is outside of the 640x480",
    ),
}


@pytest.mark.parametrize("case", [name for name in CASES if name not in OF_GROMA])
def test_what_groma_refuses(case, processor):
    arguments, message = CASES[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        processor(**{"images": IMAGE, "text": "What is <region>?", "boxes": [[10, 20, 100, 200]], **arguments})


@pytest.mark.parametrize("case", OWN)
def test_wrong_arguments(case, processor):
    arguments, message = OWN[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        processor(**{"images": IMAGE, "text": "What is <region>?", "boxes": [BOX], **arguments})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([region(BOX)], r"`boxes` was given, but sample 0 has no image"),
        ([image_part(), {"type": "region"}], r"region part needs a `box`"),
        ([image_part(), image_part(), text("a")], r"Sample 0 has 2 `images`"),
        ([image_part(), region([5, 5, 1, 1])], r"`boxes\[0\]`.*inverted"),
        ([image_part(), phrase("a", BOX)], r"A phrase in a question has boxes"),
    ],
)
def test_wrong_message_parts(parts, message, processor):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        processor.apply_chat_template(question(*parts), tokenize=True, return_dict=True)


@pytest.mark.parametrize("name", ["videos", "audio"])
def test_videos_and_sound_are_refused(name, processor):
    with pytest.raises(ValueError, match=f"The model sees images only, but the argument `{name}` was given."):
        processor(images=IMAGE, text="What is this?", **{name: np.zeros((4, 9, 9, 3), np.uint8)})


def test_question_without_chat_template(processor):
    processor.chat_template = None
    with pytest.raises(ValueError, match=r"'Hi' is a plain question.*processor.chat_template.*with an <image> in it"):
        processor(images=IMAGE, text="Hi")
    assert "grounding_pixel_values" in processor(images=IMAGE, text="Image: <image>.")


def test_tokenizer_without_the_tokens(glamm_tokenizer):
    with pytest.raises(ValueError, match=r"lacks 7 tokens of GLaMM, among them '<im_start>'.*add_glamm_tokens"):
        GlammProcessor(GlammImageProcessor(), LlamaTokenizer())
    # Released checkpoints have no `<image>`.
    with pytest.raises(ValueError, match=r"lacks 1 tokens of GLaMM, among them '<image>'.*`image_token`"):
        GlammProcessor(GlammImageProcessor(), glamm_tokenizer)
