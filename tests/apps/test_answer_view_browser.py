"""The answer view in a real browser: pointing, tapping, keys, all regions, streaming and turns."""

import io
import re

import pytest
from PIL import Image

from transformers_groma.apps.answer_view import Turn, view_script
from transformers_groma.regions import Regions

from .answer_pages import SCORES, TWO, answer, html, key_of_box, lit, names, opacity, page_of, photo, point, replace


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


def test_the_image_is_dark_outside_of_what_is_lit(open_page):
    page = open_page(
        page_of(html(Turn("What?", answer("<p>a dog</p> <roi><r1></roi> <p>an eye</p> <roi><r3></roi>"))))
    )
    page.emulate_media(reduced_motion="reduce")
    stage = page.locator(".groma-stage").bounding_box()

    def brightness(x: float, y: float) -> int:
        place = {"x": stage["x"] + x * stage["width"] / 640, "y": stage["y"] + y * stage["height"] / 480}
        shot = page.screenshot(clip={**place, "width": 1, "height": 1})
        return Image.open(io.BytesIO(shot)).convert("L").getpixel((0, 0))

    outside, inside = brightness(200, 240), brightness(440, 200)
    names(page).nth(0).hover()
    # Also within the smaller place, which is not lit itself.
    assert brightness(440, 200) == inside and brightness(200, 240) < 0.7 * outside
    names(page).nth(1).hover()
    assert brightness(440, 200) == inside and brightness(540, 240) < 0.7 * inside


def test_a_script_that_a_page_runs_twice_listens_once(open_page):
    page = open_page(page_of(html(Turn("What?", answer()))))
    page.add_script_tag(content=view_script())
    names(page).nth(0).click()
    page.mouse.move(5, 5)
    assert lit(page)["names"] == ["A cat"]


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
    assert seen == ["checkbox", "your region", "A cat", "a dog", "Both animals"]
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
    slider = page.get_by_label("Minimum score")
    slider.fill("31")
    assert page.locator(".groma-count").text_content() == "3 of 5 regions"
    assert page.locator(".groma-proposals rect:visible").count() == 3
    assert "Minimum score 31%" in page.locator(".groma-slider").text_content()
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


def test_the_number_of_a_region_at_the_upper_edge_is_shown_inside(open_page):
    view = html(Turn("What?", answer("Nothing.")), regions=Regions([[100, 30, 300, 200]], [0.3], ids=[7]))
    page = open_page(page_of(view), width=390, height=844, touch=True)
    page.get_by_label("All regions").check()
    stage = page.locator(".groma-stage").bounding_box()
    page.touchscreen.tap(stage["x"] + stage["width"] * 0.25, stage["y"] + stage["height"] * 0.3)
    probe = page.locator(".groma-probe .groma-tag").bounding_box()
    assert page.locator(".groma-probe").text_content() == "r7 · 30%"
    upper_edge = stage["y"] + stage["height"] * 30 / 480
    assert upper_edge <= probe["y"] < upper_edge + 3
    page.locator(".groma-question").tap()
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
    page.get_by_label("Minimum score").fill("50")
    for view in views[1:]:
        replace(page, view)
        assert lit(page)["names"] == ["A cat"]
        assert page.get_by_label("All regions").is_checked()
        assert page.get_by_label("Minimum score").input_value() == "50"
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
    page.get_by_label("Minimum score").fill("90")
    low = answer(scores=SCORES / 2).regions
    replace(page, html(Turn("What?", answer()), regions=low, url=photo((320, 240))))
    assert page.get_by_label("All regions").is_checked()
    assert page.locator(".groma-count").text_content() == "1 of 5 regions"
    assert page.get_by_label("Minimum score").input_value() == "45"


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
