"""Messages of requests: what they may hold, what the model reads of them, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from transformers_groma.masks import mask_to_rle
from transformers_groma.serving.conversations import prepare_prompt, upright_image

from .engines import ask, noise

LIMIT = 1024


def words(processor, messages, **settings):
    """The end of the prompt, after the image."""
    prompt = prepare_prompt(processor, messages, settings.pop("max_new_tokens", 8), LIMIT)
    return processor.tokenizer.decode(prompt.input_ids).rpartition("USER:")[2], prompt


def test_the_prompt_has_the_size_of_the_image_and_the_boxes_as_fractions(processor):
    image = noise(size=(100, 200))
    text, prompt = words(processor, ask("What is ", image, [20, 10, 60, 50]))
    assert "<roi><refer_box></roi><image>" in text
    assert prompt.pointing.boxes.tolist() == [pytest.approx([0.2, 0.3, 0.2, 0.4])]
    assert (prompt.image.size.height, prompt.image.size.width) == (100, 200)
    assert prompt.image.key == upright_image(image.convert("RGBA")).key


def test_a_conversation_without_an_image(processor):
    text, prompt = words(processor, ask("Is it?"))
    assert prompt.image is None and len(prompt.pointing.boxes) == 0 and "Is it?" in text


def test_an_image_is_turned_upright(processor):
    image = noise(size=(40, 60))
    image.getexif()[0x0112] = 6  # turn by 90 degrees
    size = prepare_prompt(processor, ask("What?", image), 8, LIMIT).image.size
    assert (size.height, size.width) == (60, 40)


def test_control_tokens_are_plain_text_but_for_grounding_at_the_head(processor):
    image_token = processor.image_token_id
    for text in ("What is </s> <image> <r3> <refer_box>?", "[grounding] Where is [grounding]?"):
        _, prompt = words(processor, ask(text, noise()))
        _, plain = words(processor, ask("What?", noise()))
        count = [int((ids == image_token).sum()) for ids in (prompt.input_ids, plain.input_ids)]
        assert count[0] == count[1]
        grounding = processor.tokenizer.convert_tokens_to_ids("[grounding]")
        assert int((prompt.input_ids == grounding).sum()) == text.startswith("[grounding]")


def test_an_earlier_answer_keeps_its_words_and_loses_its_markup(processor):
    first = ask("What is there?", noise())
    later = {"role": "user", "content": "And <r3>?"}
    answered = [*first, {"role": "assistant", "content": "<p>A dog</p> <roi><r3></roi> on grass.</s>"}, later]
    plain = [*first, {"role": "assistant", "content": [{"type": "text", "text": "A dog on grass.</s>"}]}, later]
    ids = [prepare_prompt(processor, messages, 8, LIMIT).input_ids.tolist() for messages in (answered, plain)]
    assert ids[0] == ids[1]


def test_regions_in_every_form(processor):
    mask = np.zeros((100, 200), bool)
    mask[10:50, 20:60] = True
    small = mask[::2, ::2]
    regions = (
        {"point": [50, 25]},
        {"box": [20, 10, 60, 50]},
        {"points": [[100, 50], [0, 100]], "labels": [1, 0], "ambiguity": "group"},
        {"scribble": [[0, 0], [20, 0]]},
        {"mask": mask},
        {"mask": mask_to_rle(small), "ambiguity": None},
    )
    parts = [{"type": "region", **region} for region in regions]
    prompt_text, prompt = words(processor, user(image_part(noise(size=(100, 200))), text("What?"), *parts))
    assert prompt_text.count("<refer_box>") == len(prompt.pointing) == 6
    boxes = prompt.pointing.boxes
    assert boxes[0].tolist() == pytest.approx([0.2525, 0.255, 0.005, 0.01])  # a pixel
    for row in (1, 4, 5):
        assert boxes[row].tolist() == pytest.approx([0.2, 0.3, 0.2, 0.4])
    points = prompt.pointing.points
    assert points["refer_points"].shape == (6, 8, 2) and points["refer_points"][0, 0].tolist() == [0.25, 0.25]
    assert points["refer_point_labels"][:3, :2].tolist() == [[1, -1], [-1, -1], [1, 0]]
    assert (points["refer_point_labels"][3] == 1).all()
    assert points["refer_ambiguity"].tolist() == [-1, -1, 2, -1, -1, -1]
    # Masks are kept small while the request waits, in the size of the image.
    assert prompt.pointing.masks == {4: mask_to_rle(mask), 5: mask_to_rle(mask)}


def test_what_callers_pass_is_not_changed(processor):
    messages = ask("What is <p> ", noise(), [1, 2, 30, 30])
    copy = [{**message, "content": [dict(part) for part in message["content"]]} for message in messages]
    prepare_prompt(processor, messages, 8, LIMIT)
    assert messages == copy


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def text(words):
    return {"type": "text", "text": words}


def image_part(image=None):
    return {"type": "image", "image": image or noise()}


def point(region):
    return user(image_part(), text("What is "), {"type": "region", **region})


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "`messages` must be a list of messages, got None"),
        ([], "`messages` must be a list of messages, got \\[\\]"),
        ("What?", "`messages` must be a list of messages, got 'What\\?'"),
        (["What?"], "`messages\\[0\\]` must be a dict with `role` and `content`"),
        ([{"role": "user"}], "`messages\\[0\\]` must be a dict with `role` and `content`"),
        ([{"role": "user", "content": "a", "tool_calls": [1]}], "has 'tool_calls', which the model would not see"),
        ([{"role": "user", "content": 5}], "must be text or a list of parts, got 5"),
        ([{"role": "user", "content": None}], "must be text or a list of parts, got None"),
        ([{"role": "tool", "content": "x"}], "The last of `messages` is of role 'tool'"),
        ([{"role": "tool", "content": "x"}, *ask("And?")], "Unknown role 'tool'"),
        ([*ask("a"), {"role": "assistant", "content": "b"}], "The last of `messages` is of role 'assistant'"),
        ([{"role": "system", "content": [image_part()]}, *ask("a")], "`messages\\[0\\]` is not a user's"),
        (user(image_part()), "asks nothing"),
        (user(image_part(), text(" ")), "asks nothing"),
        (ask(""), "asks nothing"),
        (user("What?"), "\\['content'\\]\\[0\\]` must be a part of type 'text', 'image', 'region', 'phrase'"),
        (user({"type": "video", "video": "x"}), "must be a part of type 'text', 'image'"),
        (user({"type": ["text"]}), "must be a part of type 'text'"),
        (user({"type": "text"}), "lacks 'text'"),
        (user({"type": "text", "text": 5}), "must be text, got 5"),
        (user({"type": "text", "text": "a", "box": [1, 2, 3, 4]}), "has 'box', but a part of type 'text' has 'text'"),
        (user({"type": "image", "url": "http://127.0.0.1/"}, text("a")), "has 'url', but a part of type 'image'"),
        (user({"type": "image", "image": "/etc/hostname"}, text("a")), "is not a PIL image: '/etc/hostname'"),
        (user({"type": "image", "image": "http://127.0.0.1/"}, text("a")), "the engine reads neither"),
        (user(image_part(Image.new("RGB", (1, 9))), text("a")), "too small to show anything"),
        (user(image_part(), image_part(), text("a")), "`messages` have 2 images"),
        ([*user(image_part(), text("a")), *user(image_part(), text("a"))], "`messages` have 2 images"),
        (user(text("a"), {"type": "region", "box": [1, 2, 3, 4]}), "point at a region, but have no image"),
        (ask("a", noise(), [1, 2, 3]), r"`messages\[0\]\['content'\]\[2\]\['box'\]` must be a box, four numbers"),
        (ask("a", noise(), "box"), r"\['box'\]` must be a box, four numbers such as .*, got 'box'"),
        (ask("a", noise(), [10, 2, 5, 9]), r"`messages\[0\]\['content'\]\[2\]\['box'\]` = .* is inverted"),
        (
            point({"point": [70, 2]}),
            r"`messages\[0\]\['content'\]\[2\]\['point'\]` = \[70, 2\] is outside of the 60x40",
        ),
        (point({"box": [1, 2, 3, 4], "point": [1, 2]}), r"`messages\[0\]\['content'\]\[2\]` has 'box' and 'point'"),
        (point({}), r"`messages\[0\]\['content'\]\[2\]` has none of 'box', 'point'"),
        (point({"points": [[1, 2]], "labels": [0]}), "has no 1: points beside a region do not say where it is"),
        (point({"labels": [1], "point": [4, 5]}), "has 'labels' for a 'point'"),
        (point({"point": [4, 5], "ambiguity": "all"}), "must be one of 'part', 'object', 'group'"),
        (point({"scribble": []}), r"\['scribble'\]` is empty"),
        (point({"mask": mask_to_rle(np.zeros((40, 60), bool))}), r"\['mask'\]` is empty"),
        (point({"mask": mask_to_rle(np.ones((40, 50), bool))}), "has 50x40 .* but the upright image has 60x40"),
        (point({"mask": {"size": [40, 60], "counts": "x"}}), "is not COCO's RLE"),
        (point({"point": [4, 5], "name": "it"}), "has 'name', but a part of type 'region' has 'box' and"),
        (ask("a", noise(), [1, 2, 3000, 9]), "is outside of the 60x40"),
        (user(image_part(), {"type": "phrase", "text": "a dog", "boxes": [[1, 2, 3, 4]]}), "a phrase to locate"),
        (user(image_part(), {"type": "phrase", "text": " "}), "a phrase to locate"),
        (ask("a " * 2000, noise()), "but the model reads 1024 in all .* Shorten the question\\."),
    ],
)
def test_what_is_not_a_question_is_refused_with_a_remedy(processor, messages, message):
    with pytest.raises(ValueError, match=message):
        prepare_prompt(processor, messages, 8, LIMIT)


def test_the_prompt_and_its_answer_fit_the_model_exactly(processor):
    length = len(prepare_prompt(processor, ask("What?", noise()), 1, LIMIT).input_ids)
    prepare_prompt(processor, ask("What?", noise()), LIMIT - length, LIMIT)
    with pytest.raises(ValueError, match="Shorten the question or lower `max_new_tokens`"):
        prepare_prompt(processor, ask("What?", noise()), LIMIT - length + 1, LIMIT)
    prepare_prompt(processor, ask("What?", noise()), 10**6, None)  # a model without a limit
