"""Pages with answer views, and what is lit in them, for tests in a browser."""

import torch
from PIL import Image, ImageDraw

from transformers_groma.apps.answer_page import image_data_url
from transformers_groma.apps.answer_view import Turn, answer_view, view_script, view_style
from transformers_groma.grounding import ground_text
from transformers_groma.image_inputs import ImageSize

BOXES = torch.tensor(
    [[40.0, 60, 240, 360], [320, 80, 600, 400], [0, 0, 640, 480], [400, 160, 480, 240], [10, 400, 60, 460]]
)
SCORES = torch.tensor([0.9, 0.8, 0.3, 0.55, 0.1])
SIZE = ImageSize(480, 640)
TWO = (
    "<p>A cat</p> <roi><r0></roi> looks at <p>a dog</p> <roi><r1></roi>. <p>Both animals</p> <roi><r0><r1></roi> sit."
)


def photo(size=(640, 480)) -> str:
    image = Image.new("RGB", size, (90, 140, 90))
    ImageDraw.Draw(image).ellipse((size[0] / 2, size[1] / 6, size[0] * 0.93, size[1] * 0.83), fill=(230, 230, 235))
    return image_data_url(image)


def answer(markup: str = TWO, users=(), scores=SCORES):
    return ground_text(markup, BOXES, scores, user_region_ids=users)


def html(*turns: Turn, url: str | None = None, size: ImageSize = SIZE, **options) -> str:
    return answer_view("groma", turns, image_url=url or photo((size.width, size.height)), size=size, **options)


def page_of(view: str, dark_class: str = "groma-page") -> str:
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    style = f"<style>body {{ margin: 12px; }} {view_style()}</style>"
    return (
        f'{head}<html class="{dark_class}">{style}<div id="mount">{view}</div><script>{view_script()}</script></html>'
    )


def names(page):
    return page.locator("span.groma-name")


def lit(page) -> dict[str, list[str]]:
    """What is lit: phrases by their words, places by their keys."""
    return page.evaluate(
        """() => ({
          names: [...document.querySelectorAll("span.groma-name.is-lit")].map((e) => e.firstChild.data),
          places: [...document.querySelectorAll("g.groma-place.is-lit")].map((e) => e.dataset.gromaPlace).sort(),
        })"""
    )


def key_of_box(page, x: int) -> str:
    return page.locator(f"g.groma-place:has(rect[x='{x}'])").get_attribute("data-groma-place")


def point(page, x: float, y: float):
    """The mouse over a pixel of the image."""
    box = page.locator(".groma-stage").bounding_box()
    page.mouse.move(box["x"] + x * box["width"] / 640, box["y"] + y * box["height"] / 480)


def replace(page, view: str):
    """What a server does with each part of a streamed answer, in the roughest way: all of the HTML is new."""
    page.evaluate("(view) => { document.getElementById('mount').innerHTML = view; }", view)


def opacity(page, selector: str) -> float:
    return float(page.locator(selector).first.evaluate("(e) => getComputedStyle(e).opacity"))
