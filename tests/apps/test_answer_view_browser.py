"""The answer view in a real browser: pointing, tapping, keys, the switch and the slider, sizes and streaming."""

import json
import re

import pytest
import torch
from PIL import Image, ImageDraw

from transformers_groma.apps.answer_page import answer_page, image_data_url
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


def test_pointing_at_a_phrase_lights_its_places_and_dims_the_others(open_page):
    page = open_page(page_of(html(Turn("What?", answer()))), reduced_motion="reduce")
    cat, dog = key_of_box(page, 40), key_of_box(page, 320)
    assert lit(page) == {"names": [], "places": []}
    names(page).nth(0).hover()
    assert lit(page) == {"names": ["A cat"], "places": [cat]}
    assert page.locator(".groma-words:visible").all_text_contents() == ["A cat"]
    assert opacity(page, f'g[data-groma-place="{cat}"]') == 1 and opacity(page, f'g[data-groma-place="{dog}"]') < 0.5
    widths = [
        page.locator(f'g[data-groma-place="{key}"] .groma-line').first.evaluate(
            "(e) => getComputedStyle(e).strokeWidth"
        )
        for key in (cat, dog)
    ]
    assert float(widths[0][:-2]) > float(widths[1][:-2])
    names(page).nth(2).hover()
    assert lit(page) == {"names": ["Both animals"], "places": sorted([cat, dog])}
    assert page.locator(".groma-words:visible").all_text_contents() == ["Both animals", "Both animals"]
    # The colour of the lit phrase alone, without the gaps for the other one.
    lines = page.locator(f'g[data-groma-place="{cat}"] .groma-line:visible')
    assert lines.evaluate_all("(all) => all.map((e) => getComputedStyle(e).strokeDasharray)") == ["none"]
    page.mouse.move(5, 5)
    assert lit(page) == {"names": [], "places": []}
    assert lines.evaluate_all("(all) => all.map((e) => getComputedStyle(e).strokeDasharray)") == ["9px, 9px"] * 2


def test_pointing_at_a_place_lights_all_phrases_that_name_it(open_page):
    page = open_page(page_of(html(Turn("What?", answer()))))
    point(page, 100, 200)
    assert lit(page)["names"] == ["A cat", "Both animals"]
    point(page, 280, 200)
    assert lit(page) == {"names": [], "places": []}


def test_each_sign_of_a_tag_lights_its_own_phrase(open_page):
    page = open_page(page_of(html(Turn("What?", answer()))))
    tag = page.locator(f'.groma-tag[data-groma-place="{key_of_box(page, 40)}"] .groma-chip')
    assert [chip.inner_text() for chip in tag.all()] == ["1", "3"]
    tag.nth(1).hover()
    assert lit(page)["names"] == ["Both animals"]
    tag.nth(0).click()
    page.mouse.move(5, 5)
    assert lit(page)["names"] == ["A cat"]


def test_a_pointer_that_leaves_the_page_takes_its_light_along(open_page):
    page = open_page(page_of(html(Turn("What?", answer("<p>all</p> <roi><r2></roi>")))))
    point(page, 100, 100)
    assert lit(page)["names"] == ["all"]
    page.evaluate("() => document.documentElement.dispatchEvent(new PointerEvent('pointerleave'))")
    assert lit(page)["names"] == []


def test_of_nested_places_the_smallest_under_the_pointer_lights(open_page):
    nested = answer("<p>an eye</p> <roi><r3></roi> of <p>a dog</p> <roi><r1></roi>")
    page = open_page(page_of(html(Turn("What?", nested))))
    point(page, 440, 200)
    assert lit(page)["names"] == ["an eye"]
    point(page, 340, 200)
    assert lit(page)["names"] == ["a dog"]


def test_a_click_pins_until_the_next_one(open_page):
    page = open_page(page_of(html(Turn("What?", answer()))))
    first = names(page).nth(0)
    first.click()
    page.mouse.move(5, 5)
    assert lit(page)["names"] == ["A cat"] and first.get_attribute("aria-pressed") == "true"
    names(page).nth(1).hover()
    assert lit(page)["names"] == ["a dog"]  # pointing goes before, for as long as it lasts
    page.mouse.move(5, 5)
    assert lit(page)["names"] == ["A cat"]
    first.click()
    page.mouse.move(5, 5)
    assert lit(page)["names"] == [] and first.get_attribute("aria-pressed") == "false"


def test_a_tap_lights_and_a_tap_elsewhere_clears(open_page):
    page = open_page(page_of(html(Turn("What?", answer()))), width=390, height=844, touch=True)
    names(page).nth(1).tap()
    assert lit(page)["names"] == ["a dog"]
    names(page).nth(0).tap()
    assert lit(page)["names"] == ["A cat"]
    names(page).nth(0).tap()
    assert lit(page)["names"] == []
    page.locator(f'g[data-groma-place="{key_of_box(page, 320)}"] .groma-halo').tap()
    assert lit(page)["names"] == ["a dog", "Both animals"]
    page.locator(".groma-question").tap()
    assert lit(page)["names"] == []


def test_keys_reach_every_phrase_in_the_order_of_the_text(open_page):
    turn = Turn("Is <region> alone?", answer(users=[3]))
    page = open_page(page_of(html(turn)))
    seen = []
    for _ in range(5):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.firstChild?.data ?? document.activeElement.type"))
    assert seen == ["checkbox", "your box", "A cat", "a dog", "Both animals"]
    assert lit(page)["names"] == ["Both animals"]
    page.keyboard.press("Shift+Tab")
    assert lit(page)["names"] == ["a dog"]


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_enter_and_space_pin_and_escape_clears(open_page, key):
    page = open_page(page_of(html(Turn("What?", answer(TWO + " And so on." * 2000)))))
    assert page.evaluate("document.documentElement.scrollHeight") > 2000  # Space would scroll
    names(page).nth(0).focus()
    page.keyboard.press("Tab")
    page.keyboard.press(key)
    assert names(page).nth(1).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    assert lit(page)["names"] == ["Both animals"]
    page.locator("body").evaluate("() => document.activeElement.blur()")
    assert lit(page)["names"] == ["a dog"]
    page.keyboard.press("Escape")
    assert lit(page) == {"names": [], "places": []}
    names(page).nth(1).focus()
    page.keyboard.press(key)
    page.keyboard.press(key)
    assert lit(page)["names"] == [] and names(page).nth(1).get_attribute("aria-pressed") == "false"
    assert page.evaluate("window.scrollY") == 0


def test_screen_readers_get_names_roles_and_places(open_page):
    page = open_page(page_of(html(Turn("Is <region> alone?", answer(users=[3])))))
    tree = page.locator(".groma-answer").aria_snapshot()
    assert re.sub(r"\s+", " ", tree) == (
        '- group "Answer": - button "A cat" - text: looks at - button "a dog" - text: . - button "Both animals" '
        "- text: sit."
    )
    described = page.evaluate(
        "() => [...document.querySelectorAll('span.groma-name')]"
        ".map((e) => document.getElementById(e.getAttribute('aria-describedby')).textContent)"
    )
    assert described[0] == "region at left 400, top 160, width 80, height 80"
    assert described[3].startswith("2 regions: left 40, top 60, width 200, height 300; left 320")
    assert "img" in page.locator(".groma-stage").aria_snapshot()


def test_all_regions_are_switched_and_filtered_in_the_browser(open_page):
    page = open_page(page_of(html(Turn("What?", answer()))))
    regions = page.locator(".groma-proposals rect")
    assert regions.count() == 5 and page.locator(".groma-proposals rect:visible").count() == 0
    page.get_by_label("All regions").check()
    assert page.locator(".groma-proposals rect:visible").count() == 5
    slider = page.get_by_label("Score at least")
    slider.fill("31")
    assert page.locator(".groma-count").text_content() == "3 of 5 regions"
    assert page.locator(".groma-proposals rect:visible").count() == 3
    assert "Score at least 31%" in page.locator(".groma-slider").text_content()
    slider.press("End")
    assert page.locator(".groma-count").text_content() == "1 of 5 regions"
    page.get_by_label("All regions").uncheck()
    assert page.locator(".groma-proposals rect:visible").count() == 0


def test_pointing_at_a_region_shows_its_number_and_score(open_page):
    page = open_page(page_of(html(Turn("What?", answer("Nothing.")))))
    point(page, 440, 200)
    assert page.locator(".groma-probe:visible").count() == 0
    page.get_by_label("All regions").check()
    point(page, 440, 200)
    assert page.locator(".groma-probe").text_content() == "r3 · 55%" and page.locator(".groma-probe").is_visible()
    page.mouse.move(5, 5)
    assert page.locator(".groma-probe:visible").count() == 0


def test_regions_within_places_are_reached_and_reported_in_pixels(open_page):
    page = open_page(page_of(html(Turn("What?", answer("<p>A dog</p> <roi><r1></roi>")))))
    page.evaluate("() => document.addEventListener('groma:region', (e) => { window.region = e.detail; })")
    point(page, 440, 200)
    assert lit(page)["names"] == ["A dog"]
    page.get_by_label("All regions").check()
    point(page, 340, 200)
    assert lit(page)["names"] == ["A dog"] and page.locator(".groma-probe:visible").count() == 0
    point(page, 440, 200)
    assert lit(page)["names"] == [] and page.locator(".groma-probe").text_content() == "r3 · 55%"
    page.mouse.down()
    page.mouse.up()
    assert page.evaluate("window.region") == {"viewId": "groma", "id": 3, "box": [400, 160, 480, 240]}


def test_what_is_lit_and_chosen_survives_every_part_of_an_answer(open_page):
    parts = ["<p>A cat</p> <roi><r0></roi>", "<p>A cat</p> <roi><r0></roi> looks at <p>a dog</p> <roi><r1></roi>", TWO]
    url = photo()
    views = [html(Turn("What?", answer(part), True), url=url, regions=answer().regions) for part in parts]
    page = open_page(page_of(views[0]))
    names(page).nth(0).click()
    page.mouse.move(5, 5)
    page.get_by_label("All regions").check()
    page.get_by_label("Score at least").fill("50")
    for view in views[1:]:
        replace(page, view)
        assert lit(page)["names"] == ["A cat"]
        assert page.get_by_label("All regions").is_checked()
        assert page.get_by_label("Score at least").input_value() == "50"
        assert page.locator(".groma-count").text_content() == "3 of 5 regions"
        assert page.locator(".groma-proposals rect:visible").count() == 3
    assert names(page).count() == 3


def test_screen_readers_hear_each_sentence_once(open_page):
    url = photo()
    texts = [
        "A cat",
        "A cat sits.",
        "A cat sits. It is",
        "A cat sits. It is 3.5 years old! 好。And",
        "A cat sits. It is 3.5 years old! 好。And more",
    ]
    page = open_page(page_of(html(Turn("What?", None, True), url=url)))
    heard = []
    for text in [*texts, None]:
        replace(page, html(Turn("What?", answer(text or texts[-1]), text is not None), url=url))
        heard.append(page.locator(".groma-announcer p").all_text_contents())
    assert heard[:3] == [[], [], ["A cat sits."]]
    assert heard[3] == heard[4] == ["A cat sits.", "It is 3.5 years old! 好。"]
    assert heard[5] == ["A cat sits.", "It is 3.5 years old! 好。", "And more"]
    assert page.locator(".groma-announcer").get_attribute("aria-live") == "polite"


def test_a_question_that_is_asked_again_is_announced_again_and_keeps_nothing_lit(open_page):
    url = photo()
    page = open_page(page_of(html(Turn("One?", answer()), url=url)))
    names(page).nth(0).click()
    replace(page, html(Turn("Two?", answer()), url=url))
    page.mouse.move(5, 5)
    assert lit(page)["names"] == []
    whole = "A cat looks at a dog. Both animals sit."
    assert page.locator(".groma-announcer p").all_text_contents() == [whole]
    names(page).nth(0).click()
    replace(page, html(Turn("Two?", None, True), url=url))
    assert page.locator(".is-lighting").count() == 0
    replace(page, html(Turn("Two?", answer()), url=url))
    assert page.locator(".groma-announcer p").all_text_contents() == [whole, whole]


def test_the_slider_of_another_image_starts_within_its_scores(open_page):
    page = open_page(page_of(html(Turn("What?", answer()), regions=answer().regions)))
    page.get_by_label("All regions").check()
    page.get_by_label("Score at least").fill("90")
    low = answer(scores=SCORES / 2).regions
    replace(page, html(Turn("What?", answer()), regions=low, url=photo((320, 240))))
    assert page.get_by_label("All regions").is_checked()
    assert page.locator(".groma-count").text_content() == "1 of 5 regions"
    assert page.get_by_label("Score at least").input_value() == "45"


def test_answers_that_are_there_from_the_start_are_not_announced(open_page):
    page = open_page(page_of(html(Turn("What?", answer()))))
    assert page.locator(".groma-announcer p").count() == 0


def test_each_turn_shows_its_own_places(open_page):
    cat, dog = answer("<p>A cat</p> <roi><r0></roi>."), answer("<p>A dog</p> <roi><r1></roi>.")
    url = photo()
    page = open_page(page_of(html(Turn("One?", cat), Turn("Two?", dog), url=url)))

    def shown():
        return page.locator("g.groma-place:visible").evaluate_all("(all) => all.map((e) => e.dataset.gromaTurn)")

    assert shown() == ["1"]
    names(page).nth(0).hover()
    assert shown() == ["0"]
    page.mouse.move(5, 5)
    assert shown() == ["1"]
    page.locator(".groma-question").nth(0).click()
    page.mouse.move(5, 5)
    assert shown() == ["0"] and page.locator(".groma-turn.is-current .groma-question").text_content() == "One?"
    button = page.get_by_role("button", name="Show on the image")
    assert button.count() == 1
    button.press("Enter")
    assert shown() == ["1"]
    names(page).nth(0).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert shown() == ["0"]
    page.locator(".groma-question").nth(0).click()
    replace(page, html(Turn("One?", cat), Turn("Two?", dog), Turn("Three?", None, True), url=url))
    assert page.locator(".groma-turn.is-current .groma-question").text_content() == "Three?"


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
    long = Turn("What?", answer("Word. " * 800 + TWO))
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
