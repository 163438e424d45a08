"""An answer as one HTML file."""

import base64
import hashlib
import io

import torch
from PIL import Image

from transformers_groma.apps.answer_page import answer_page, conversation_page, image_data_url
from transformers_groma.apps.answer_view import Turn
from transformers_groma.grounding import ground_text

from .parsed_html import Parsed

BOXES = torch.tensor([[10.0, 20, 110, 220], [150, 40, 300, 200]])


def test_a_page_allows_its_own_script_and_nothing_else():
    answer = ground_text("<p>a cat</p> <roi><r0></roi>", BOXES)
    page = answer_page(Image.new("RGB", (320, 240)), answer, question="What?", title="<Cats>")
    parsed = Parsed(page.removeprefix("<!doctype html>"))
    (script,) = ["".join(texts) for tag, _, texts in parsed.elements if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(attributes["content"] for _, attributes, _ in parsed.elements if "http-equiv" in attributes)
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert "<title>&lt;Cats&gt;</title>" in page
    assert "http:" not in page and "https:" not in page


def test_a_page_shows_the_upright_image_in_its_own_pixels():
    image = Image.new("RGB", (320, 240), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.info["exif"] = exif.tobytes()
    page = answer_page(image, ground_text("Red.", torch.zeros(0, 4)))
    assert 'viewBox="0 0 240 320"' in page


def test_large_images_are_scaled_down_in_a_page_but_their_boxes_are_not():
    noise = Image.effect_noise((64, 32), 80).convert("RGB")
    image = noise.resize((2304, 1152), Image.Resampling.BICUBIC)
    answer = ground_text("<p>noise</p> <roi><r0></roi>", torch.tensor([[0.0, 0, 2300, 1100]]))
    page = answer_page(image, answer)
    assert 'viewBox="0 0 2304 1152"' in page and 'width="2300" height="1100"' in page
    assert image.size == (2304, 1152)
    kind, _, data = image_data_url(image).partition(";base64,")
    assert kind == "data:image/jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (2048, 1024)


def test_a_page_without_a_question_shows_none():
    page = answer_page(Image.new("RGB", (320, 240)), ground_text("A cat.", BOXES))
    assert Parsed(page.removeprefix("<!doctype html>")).of_class("groma-question") == []


def test_a_conversation_is_a_page_with_all_turns():
    answer = ground_text("<p>a cat</p> <roi><r0></roi>", BOXES)
    turns = [Turn("One?", answer), Turn("Two <region>?", ground_text("No.", BOXES, user_region_ids=[1]))]
    parsed = Parsed(conversation_page(Image.new("RGB", (320, 240)), turns).removeprefix("<!doctype html>"))
    assert [text for _, text in parsed.of_class("groma-question")] == ["One?", "Two your region?"]
    assert [sorted(attributes["class"].split()) for attributes, _ in parsed.of_class("groma-place")] == [
        ["groma-place"],
        ["groma-place", "is-current"],
    ]
