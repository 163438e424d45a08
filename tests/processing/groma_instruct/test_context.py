"""The messages that the model receives."""

import base64
import io
import json

from PIL import Image

from processing.groma_instruct.context import EXAMPLES_FILE, build_messages
from processing.groma_instruct.parse import parse_conversation

from ..samples import write_jpeg
from .samples import selected_image


def test_messages(tmp_path):
    content = write_jpeg(tmp_path / "7.jpg", 200, 160).read_bytes()
    messages = build_messages(selected_image(), content)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3, "user"]
    text, image = messages[-1]["content"]
    assert text["text"] == (
        "Regions:\n[1] cat\n[2] dog\n[3] collar\n\nCaptions:\n- A cat.\n\nQuestions and answers:\n- Who is it? The "
        "cat."
    )
    head, data = image["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
        assert (sent.format, sent.size) == ("JPEG", (200, 160))
        # The plate of the cat; the image alone is dark grey there.
        assert max(sent.convert("L").crop((20, 20, 40, 40)).getextrema()) > 200
    json.dumps(messages)


def test_examples_keep_the_rules():
    """What the model is shown passes the checks that its own answers must pass."""
    for example in json.loads(EXAMPLES_FILE.read_text()):
        turns = parse_conversation(json.dumps(example["answer"]), len(example["image"]["descriptions"]))
        assert all(turn["box_inds"] for turn in turns[1::2])
        assert len({index for turn in turns for index in turn["box_inds"]}) >= 2
