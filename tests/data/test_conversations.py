"""From rows to messages."""

from PIL import Image

from transformers_groma.data.columns import image_part, phrase_part, region_part, text_part
from transformers_groma.data.conversations import to_messages

BOXES = [[0, 0, 9, 9], [10, 10, 30, 20], [5, 5, 6, 6]]


def row(*messages, image=None):
    roles = ("user", "assistant")
    return {
        "image": image,
        "boxes_xyxy": BOXES,
        "messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(messages)],
    }


def test_every_kind_of_part():
    image = Image.new("RGB", (40, 40))
    messages = to_messages(
        row(
            [image_part(), text_part("Is "), region_part(1), text_part(" "), phrase_part("a dog"), text_part("?")],
            [phrase_part("dogs", [2, 0]), phrase_part("", [1])],
            image=image,
        )
    )
    assert messages == [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": image},
                {"type": "text", "text": "Is "},
                {"type": "region", "box": BOXES[1]},
                {"type": "text", "text": " "},
                {"type": "phrase", "text": "a dog", "boxes": []},
                {"type": "text", "text": "?"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "phrase", "text": "dogs", "boxes": [BOXES[2], BOXES[0]]},
                {"type": "phrase", "text": "", "boxes": [BOXES[1]]},
            ],
        },
    ]


def test_the_row_is_not_changed():
    given = row([text_part("Hello")], [text_part("Hi")])
    messages = to_messages(given)
    messages[0]["content"][0]["text"] = "changed"
    messages[0]["role"] = "system"
    assert given["messages"][0] == {"role": "user", "content": [text_part("Hello")]}


def test_words_alone():
    assert to_messages(row([text_part("Hello")], [text_part("Hi")])) == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
    ]
