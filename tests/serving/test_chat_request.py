"""What a chat request may say, at both sides of every limit."""

import json

import pytest

from transformers_groma.point_inputs import MAX_POINTS
from transformers_groma.serving.api_errors import ApiError
from transformers_groma.serving.chat_request import HARMLESS, UNSUPPORTED, read_chat_request
from transformers_groma.serving.request_json import MAX_REQUEST_VERTICES
from transformers_groma.serving.settings import ServerSettings

SETTINGS = ServerSettings(
    "toy",
    max_messages=4,
    max_parts=7,
    max_regions=2,
    max_characters=30,
    max_mask_characters=8,
    max_new_tokens=10,
)
TEXT = {"type": "text", "text": "What?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
REGION = {"type": "region", "box": [1, 2, 3.5, 4]}
MASK = {"type": "region", "mask": {"size": [4, 4], "counts": "12345678"}}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def body(*messages, **fields):
    return {"model": "toy", "messages": list(messages or [user(IMAGE, REGION, TEXT)]), **fields}


def read(content):
    return read_chat_request(content if isinstance(content, bytes) else json.dumps(content).encode(), SETTINGS)


def refusal(content) -> ApiError:
    with pytest.raises(ApiError) as raised:
        read(content)
    assert raised.value.message.endswith(".") and "\n" not in raised.value.message
    return raised.value


def test_a_request_with_everything():
    request = read(
        body(
            {"role": "system", "content": "Be short."},
            user(IMAGE, TEXT),
            {
                "role": "assistant",
                "content": "A cup.",
                "refusal": None,
                "annotations": [],
                "grounding": {"phrases": []},
            },
            user(TEXT, REGION, {"type": "phrase", "text": "a cup"}),
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=10,
            temperature=2,
            top_p=1,
            seed=-(2**63),
            grounding=True,
            masks=True,
        )
    )
    assert request.masks
    assert request.messages[3].content[1].box == [1, 2, 3.5, 4]
    assert request.messages[0].content[0].text == "Be short."


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_fields_are_accepted(name):
    assert read(body(**{name: "x"})) == read(body())


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_fields_that_would_change_the_answer_are_refused(name):
    error = refusal(body(**{name: ["x"]}))
    assert error.status == 400 and error.param == name and error.code == "unsupported_parameter"
    assert f"`{name}`" in error.message
    read(body(**{name: None}))


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in UNSUPPORTED.items() for value in values]
)
def test_their_neutral_values_are_accepted(name, value):
    assert read(body(**{name: value})) == read(body())


@pytest.mark.parametrize(
    ("name", "value"), [("n", 2), ("n", True), ("logprobs", 0), ("stop", "."), ("tools", {}), ("store", True)]
)
def test_values_that_only_look_neutral_are_refused(name, value):
    assert refusal(body(**{name: value})).param == name


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("store", True, "leave it out, or send false."),
        ("response_format", "x", 'leave it out, or send {"type": "text"}.'),
        ("n", 2, "leave it out, or send 1."),
        ("stop", ".", "leave it out."),
    ],
)
def test_the_remedy_is_what_one_can_send(name, value, remedy):
    assert refusal(body(**{name: value})).message.endswith(f"which this server does not support: {remedy}")


def test_numbers_may_be_written_either_way():
    assert read(body(presence_penalty=0.0)) == read(body())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 11}, "max_tokens"),
        ({"max_completion_tokens": 11}, "max_completion_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 5.0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens"),
        ({"temperature": 2.01}, "temperature"),
        ({"temperature": -0.01}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"grounding": "yes"}, "grounding"),
        ({"masks": 1}, "masks"),
        ({"grouding": True}, "grouding"),
        ({"boxes": [[1, 2, 3, 4]]}, "boxes"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [[]]}, "messages[0]"),
    ],
)
def test_wrong_fields_are_named(fields, param):
    error = refusal(body() | fields)
    assert error.status == 400 and error.param == param and f"`{param}`" in error.message


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (user({"type": "video_url", "video_url": {"url": "x"}}), "messages[0].content[0]"),
        (user({"type": "input_audio"}), "messages[0].content[0]"),
        (user({"text": "no type"}), "messages[0].content[0]"),
        (user("text"), "messages[0].content[0]"),
        (user({"type": "text"}), "messages[0].content[0].text"),
        (user({"type": "text", "text": 5}), "messages[0].content[0].text"),
        (user({**TEXT, "cache": True}), "messages[0].content[0].cache"),
        ({"role": "assistant", "content": [{"type": "text", "text": 5}]}, "messages[0].content[0].text"),
        (user({"type": "image_url", "image_url": "data:,"}), "messages[0].content[0].image_url"),
        (
            user({"type": "image_url", "image_url": {"url": "x", "detail": "no"}}),
            "messages[0].content[0].image_url.detail",
        ),
        (user(IMAGE, {"type": "region"}), "messages[0].content[1]"),
        (user(IMAGE, {"type": "region", "box": [1, 2, 3, 4], "point": [1, 2]}), "messages[0].content[1]"),
        (user(IMAGE, {"type": "region", "point": [1, 2, 3]}), "messages[0].content[1].point"),
        (user(IMAGE, {"type": "region", "points": []}), "messages[0].content[1].points"),
        (user(IMAGE, {"type": "region", "points": [[1]]}), "messages[0].content[1].points[0]"),
        (user(IMAGE, {"type": "region", "point": [1, 2], "labels": [1]}), "messages[0].content[1].labels"),
        (user(IMAGE, {"type": "region", "points": [[1, 2]], "labels": [True]}), "messages[0].content[1].labels[0]"),
        (user(IMAGE, {"type": "region", "mask": "x"}), "messages[0].content[1].mask"),
        (user(IMAGE, {"type": "region", "mask": {"size": [1, 2]}}), "messages[0].content[1].mask.counts"),
        (user(IMAGE, {"type": "region", "mask": {"size": [1], "counts": "x"}}), "messages[0].content[1].mask.size"),
        (user(IMAGE, {"type": "region", "point": [1, 2], "ambiguity": "all"}), "messages[0].content[1].ambiguity"),
        (user(IMAGE, {"type": "region", "box": [1, 2, 3]}), "messages[0].content[1].box"),
        (user(IMAGE, {"type": "region", "box": [1, 2, 3, 4, 5]}), "messages[0].content[1].box"),
        (user(IMAGE, {"type": "region", "box": [1, 2, 3, "4"]}), "messages[0].content[1].box[3]"),
        (user(IMAGE, {"type": "region", "bbox": [1, 2, 3, 4]}), "messages[0].content[1].bbox"),
        (user(IMAGE, {"type": "phrase", "text": ""}), "messages[0].content[1].text"),
        (user(IMAGE, {"type": "phrase", "text": "x", "boxes": []}), "messages[0].content[1].boxes"),
        (user(IMAGE, IMAGE, TEXT), "messages[0].content[1]"),
        (user(REGION, TEXT), "messages[0].content[0]"),
        (user(IMAGE), "messages[0].content"),
        (user(IMAGE, {"type": "text", "text": " \n"}), "messages[0].content"),
        ({"role": "user", "content": ""}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": "Hi", "name": "Ann"}, "messages[0].name"),
        ({"role": "tool", "content": "x"}, "messages[0]"),
        ({"content": "x"}, "messages[0]"),
        ({"role": "assistant", "content": "x"}, "messages[0]"),
        ({"role": "system", "content": [IMAGE]}, "messages[0].content[0].type"),
        ("Hi", "messages[0]"),
    ],
)
def test_wrong_messages_are_named(message, param):
    error = refusal(body(message))
    assert error.status == 400 and error.param == param and f"`{param}`" in error.message


@pytest.mark.parametrize(("box", "shown"), [([1, 2, 3], "[1, 2, 3]"), ([5, 5], "[5, 5]"), ("1,2,3,4", "'1,2,3,4'")])
def test_what_is_not_a_box_is_told_what_one_is(box, shown):
    error = refusal(body(user(IMAGE, {"type": "region", "box": box})))
    assert error.message == (
        f"`messages[0].content[1].box` is {shown}: send [x1, y1, x2, y2] in pixels of the upright image."
    )


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({}, "`messages[0].content[1]` has nothing that says where it is: send one of box, point, points, scribble, "),
        ({"box": [1, 2, 3, 4], "mask": MASK["mask"]}, "`messages[0].content[1]` has box and mask: send one of box, "),
        ({"point": 5}, "`messages[0].content[1].point` is 5: send [x, y] in pixels of the upright image."),
        ({"mask": [1]}, '`messages[0].content[1].mask` is [1]: send COCO\'s RLE, {"size": [height, width], '),
        (
            {"mask": {"size": [4, 3], "counts": [0, 1.5]}},
            "`messages[0].content[1].mask.counts` is [0, 1.5]: send COCO's text, or the lengths of its runs",
        ),
        (
            {"mask": {"size": [4], "counts": "12"}},
            "`messages[0].content[1].mask.size` is [4]: send [height, width], whole numbers of pixels.",
        ),
        ({"box": [1, 2, 3, 4], "labels": [1]}, "`messages[0].content[1].labels` say which of several points are on a"),
    ],
)
def test_regions_in_a_wrong_form(region, message):
    assert refusal(body(user(IMAGE, {"type": "region", **region}, TEXT))).message.startswith(message)


@pytest.mark.parametrize(("name", "most"), [("points", MAX_POINTS), ("scribble", MAX_REQUEST_VERTICES)])
def test_as_many_points_as_are_read_and_one_more(name, most):
    def content(count):
        return json.dumps(body(user(IMAGE, {"type": "region", name: [[1, 2]] * count}, TEXT))).encode()

    request = read_chat_request(content(most), ServerSettings("toy"))
    assert len(getattr(request.messages[0].content[1], name)) == most
    with pytest.raises(ApiError, match=f"`messages.0..content.1..{name}` is .*: send .*, at most {most}."):
        read_chat_request(content(most + 1), ServerSettings("toy"))


def test_what_is_empty_is_said_to_be_empty():
    assert refusal(body() | {"messages": []}).message == "`messages` is empty."
    assert (
        refusal(body(user(IMAGE, {"type": "phrase", "text": ""}))).message == "`messages[0].content[1].text` is empty."
    )


def test_unknown_parts_are_told_what_there_is():
    error = refusal(body(user({"type": "video_url"})))
    assert error.message == (
        "`messages[0].content[0]` has the type 'video_url', which this server cannot read: use text, image_url, "
        "region or phrase."
    )


@pytest.mark.parametrize(
    ("parts", "limit"),
    [
        ([IMAGE, REGION, REGION, TEXT], "regions"),
        ([IMAGE, *[TEXT] * 4, {"type": "text", "text": "0123456789"}], "characters"),
        ([IMAGE, *[{"type": "text", "text": "a"}] * 6], "parts"),
        ([IMAGE, MASK, TEXT], "characters of masks"),
    ],
)
def test_limits_of_a_conversation(parts, limit):
    """As many as are read, and one more."""
    longer = {"type": "region", "mask": {"size": [4, 4], "counts": [1]}}
    one = {"type": "text", "text": "a"}
    more = {"regions": REGION, "characters": one, "parts": TEXT, "characters of masks": longer}[limit]
    read(body(user(*parts)))
    error = refusal(body(user(*parts, more)))
    assert limit in error.message and error.param == "messages"


def test_very_many_small_values_are_not_even_parsed():
    """20 MB of `{},` would take 500 MB; what a conversation needs is far below."""
    most = SETTINGS.max_characters + 100 * SETTINGS.max_parts
    text = json.dumps(body())
    marks = sum(text.count(mark) for mark in ",[{")

    def with_marks(count):
        return text.replace(
            '"messages"', f'"metadata": [{",".join(["1"] * (count - marks - 1))}], "messages"'
        ).encode()

    assert read(with_marks(most)) == read(body())
    assert f"{most + 1} commas and brackets" in refusal(with_marks(most + 1)).message
    refusal(b"[" + b"{}," * 5_000_000 + b"{}]")


def test_limit_of_messages():
    turns = [user({"type": "text", "text": "a"}), {"role": "assistant", "content": "b"}] * 2
    read(body(*turns[:3]))
    error = refusal(body(*turns, turns[0]))
    assert "5 messages" in error.message and "at most 4" in error.message


def test_a_system_message_comes_first():
    error = refusal(body(user(TEXT), {"role": "system", "content": "x"}, user(TEXT)))
    assert error.param == "messages[1].role"


def test_another_model():
    error = refusal(body() | {"model": "gpt"})
    assert error.status == 404 and error.code == "model_not_found"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"[" * 700,
        b'{"temperature": NaN}',
    ],
)
def test_bodies_that_are_not_json(content):
    error = refusal(content)
    assert error.status == 400 and error.code == "invalid_json"


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_numbers_that_are_too_large(number):
    content = json.dumps(body()).replace("3.5", number).encode()
    assert refusal(content).status == 400
