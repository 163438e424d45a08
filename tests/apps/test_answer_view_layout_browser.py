"""The answer view in a real browser: light and dark, sizes of pages and images, hostile text, several views."""

import json

import pytest
import torch
from PIL import Image

from transformers_groma.apps.answer_page import answer_page
from transformers_groma.apps.answer_view import Turn, answer_view
from transformers_groma.grounding import ground_text
from transformers_groma.image_inputs import ImageSize

from .answer_pages import SIZE, TWO, answer, html, lit, names, page_of, photo, replace


@pytest.mark.parametrize("dark", [False, True])
def test_dark_follows_the_page(open_page, dark):
    page = open_page(page_of(html(Turn("What?", answer()))), dark=dark)
    # A page of our own follows the system; within an app its class alone decides.
    for page_class, is_dark in {"groma-page": dark, "dark": True, "": False}.items():
        page.evaluate("(name) => { document.documentElement.className = name; }", page_class)
        background = page.locator(".groma-view").evaluate("(e) => getComputedStyle(e).backgroundColor")
        assert background == ("rgb(24, 24, 27)" if is_dark else "rgb(255, 255, 255)"), page_class


LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3
HARD = {
    "long words": f"<p>{LONG}</p> <roi><r0></roi> and {LONG}",
    "right to left": "<p>قطة صغيرة</p> <roi><r0></roi> تنظر إلى <p>كلب</p> <roi><r1></roi>.",
    "chinese": "<p>一只小猫</p> <roi><r0></roi>和<p>一只狗</p> <roi><r1></roi>坐在一起。" * 20,
    "no words": "<roi><r0><r1><r2></roi>",
    "empty": "",
    "one box": "<p>a</p> <roi><r0></roi> <p>b</p> <roi><r0></roi> <p>c</p> <roi><r0></roi> <p>d</p> <roi><r0></roi>",
}


def test_nothing_is_wider_than_the_page(open_page):
    page = open_page(page_of(""), height=844)
    for name, markup in HARD.items():
        turns = [Turn(f"{LONG} <region>?", answer(markup, users=[3])), Turn("And?", answer(markup))]
        for size in (SIZE, ImageSize(3000, 200), ImageSize(60, 2400), ImageSize(16, 16)):
            replace(page, html(*turns, size=size, url=photo((8, 8))))
            for width in (320, 390, 768, 1280):
                page.set_viewport_size({"width": width, "height": 844})
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, size)
                stage = page.locator(".groma-stage").bounding_box()
                # Within a pixel: the image keeps its shape and fits the screen.
                assert abs(stage["width"] * size.height / size.width - stage["height"]) < 1
                assert stage["height"] < 844


@pytest.mark.parametrize("width", [390, 1280])
def test_tags_and_words_stay_inside_the_image(open_page, width):
    boxes = torch.tensor(
        [[0.0, 0, 20, 12], [600, 0, 640, 30], [630, 470, 640, 480], [0, 460, 12, 480], [300, 0, 640, 480]]
    )
    markup = " ".join(f"<p>a thing with quite a long description {i}</p> <roi><r{i}></roi>" for i in range(5))
    page = open_page(page_of(html(Turn("What?", ground_text(markup, boxes)))), width=width, reduced_motion="reduce")
    stage = page.locator(".groma-stage").bounding_box()
    for index in range(5):
        names(page).nth(index).hover()
        assert lit(page)["names"] == [f"a thing with quite a long description {index}"]
        tag = page.locator(".groma-tag.is-lit").bounding_box()
        assert tag["width"] > 100
        assert tag["x"] >= stage["x"] - 1 and tag["x"] + tag["width"] <= stage["x"] + stage["width"] + 1
        assert tag["y"] >= stage["y"] - 1 and tag["y"] + tag["height"] <= stage["y"] + stage["height"] + 1


def test_on_a_phone_the_image_stays_in_sight_and_on_a_desk_it_stands_beside_the_text(open_page):
    long = Turn("What?", answer("Word. " * 800 + TWO + " Word." * 800))
    page = open_page(page_of(html(long)), width=390, height=844)
    names(page).nth(0).scroll_into_view_if_needed()
    stage = page.locator(".groma-stage").bounding_box()
    assert page.evaluate("window.scrollY") > 500 and 0 <= stage["y"] < 40
    assert names(page).nth(0).bounding_box()["y"] > stage["y"] + stage["height"]
    # A phrase that gets the focus while it is under the image comes out.
    page.keyboard.press("Tab")
    page.evaluate("window.scrollBy(0, document.querySelector('span.groma-name').getBoundingClientRect().top - 30)")
    names(page).nth(1).focus()
    page.keyboard.press("Shift+Tab")
    stage = page.locator(".groma-stage").bounding_box()
    assert names(page).nth(0).bounding_box()["y"] >= stage["y"] + stage["height"]
    page = open_page(page_of(html(Turn("What?", answer()))), width=1280)
    stage, text = page.locator(".groma-stage").bounding_box(), page.locator(".groma-turns").bounding_box()
    assert text["x"] > stage["x"] + stage["width"] and abs(text["y"] - stage["y"]) < 2


def test_motion_is_reduced_where_it_is_unwelcome(open_page):
    view = page_of(html(Turn("What?", answer("A"), True)))
    animations = [
        open_page(view, reduced_motion=motion)
        .locator(".groma-caret")
        .evaluate("(e) => getComputedStyle(e).animationName")
        for motion in ("no-preference", "reduce")
    ]
    assert animations == ["groma-pulse", "none"]


def test_hostile_text_is_shown_and_runs_nowhere(open_page):
    hostile = "</svg></div><script>window.ran = 1</script><img src=x onerror='window.ran = 2'> \"' {{x}} ${y}"
    turn = Turn(hostile, answer(f"<p>{hostile}</p> <roi><r0></roi> {hostile}"), notice=hostile)
    page = open_page(page_of(html(turn, alt=hostile)))
    names(page).nth(0).hover()
    assert page.evaluate("window.ran") is None
    assert page.locator(".groma-words:visible").text_content() == hostile[:79] + "…"
    assert page.locator(".groma-question").text_content() == hostile
    assert page.locator(".groma-view img").count() == 1


def test_two_views_in_a_page_have_states_of_their_own(open_page):
    url = photo()
    both = "".join(answer_view(name, [Turn("What?", answer())], image_url=url, size=SIZE) for name in ("one", "two"))
    page = open_page(page_of(both))
    page.locator("#one span.groma-name").nth(0).hover()
    assert page.locator("#one .is-lit").count() > 0 and page.locator("#two .is-lit").count() == 0
    page.locator("#two span.groma-name").nth(0).hover()
    assert page.locator("#two .is-lit").count() > 0 and page.locator("#one .is-lit").count() == 0
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids)), json.dumps(ids)


def test_a_page_in_one_file_works_under_its_own_policy(open_page):
    image = Image.new("RGB", (640, 480), (90, 140, 90))
    page = open_page(answer_page(image, answer(users=[3]), question="Who is with <region>?"))
    names(page).nth(1).hover()
    assert lit(page)["names"] == ["A cat"]
    assert page.locator("img.groma-image").evaluate("(e) => e.naturalWidth") == 640


def test_styles_that_an_app_has_for_all_its_text_and_fields_do_not_reach_in(open_page):
    plain = page_of(html(Turn("What?", answer())))
    app = plain.replace(
        "<style>",
        "<style>.prose * { color: rgb(1, 2, 3); font-family: monospace; } "
        "[type=checkbox] { appearance: none; background: rgb(4, 5, 6); } ",
        1,
    ).replace('id="mount"', 'id="mount" class="prose"')
    styles = []
    for source in (plain, app):
        page = open_page(source)
        names(page).nth(0).hover()
        styles.append(
            page.evaluate(
                """() => [...document.querySelectorAll(".groma-view *")].map((e) => {
                  const style = getComputedStyle(e);
                  const hasField = e.type === "checkbox";
                  return [e.className.baseVal ?? e.className, style.color, style.fontFamily,
                    hasField ? style.appearance + style.backgroundColor : ""].join("|");
                })"""
            )
        )
    assert [pair for pair in zip(*styles, strict=True) if pair[0] != pair[1]] == []
