"""Clicks, scribbles and masks in the app, in a real browser: with a mouse, a finger and the keyboard."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.apps.app_pages import (
    HEIGHT,
    WIDTH,
    ask,
    chips,
    choose,
    click,
    drag,
    make_photo,
    on_screen,
    question,
    scribble,
    scrolls_sideways,
    wait_for_answers,
)
from tests.apps.app_server import FakeEngine, running_app
from transformers_groma.apps.app_settings import AppSettings
from transformers_groma.apps.drawn_regions import MAX_DRAWINGS
from transformers_groma.point_inputs import MAX_POINTS

pytest.importorskip("gradio", reason='needs gradio: pip install "transformers-groma[app]"')

SETTINGS = AppSettings("fake", max_pixels=WIDTH * HEIGHT, max_upload_mb=1)


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[tuple[str, FakeEngine]]:
    """The URL of the app, and its engine."""
    engine = FakeEngine(has_masks=True)
    with running_app(engine, SETTINGS, tmp_path_factory.mktemp("app")) as url:
        yield url, engine


@pytest.fixture
def engine(app) -> FakeEngine:
    engine = app[1]
    engine.__init__(has_masks=True)
    return engine


@pytest.fixture
def start(app, engine, open_page, tmp_path):
    """Opens the app in a browser of its own, with a photo."""

    def start(dark: bool = False, **options):
        page = open_page(f"{app[0]}?__theme={'dark' if dark else 'light'}", **options)
        page.locator("#groma-file input").wait_for(state="attached")
        choose(page, make_photo(tmp_path / "photo.png"))
        return page

    return start


def tool(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def asked_regions(engine: FakeEngine) -> list[dict]:
    return [part for part in engine.asked[-1][-1]["content"] if part["type"] == "region"]


def near(points, expected) -> bool:
    """Whether points are where they were clicked: the browser rounds to its own pixels."""
    return np.shape(points) == np.shape(expected) and np.abs(np.array(points) - expected).max() < 1.5


def test_a_click_shows_its_mask_at_once_and_is_a_region_of_the_question(start, engine):
    page = start()
    tool(page, "Click").click()
    click(page, (80, 60))
    assert chips(page) == ["[1] at 80, 60 ×"]
    page.locator(".drawing-mask").wait_for()
    assert engine.asked == []
    assert page.locator(".drawing-layer .drawing-dot").count() == 1
    # Each further click is a region of its own, and asks for its own mask alone.
    click(page, (300, 200))
    assert chips(page) == ["[1] at 80, 60 ×", "[2] at 300, 200 ×"]
    page.wait_for_function("document.querySelectorAll('.drawing-mask').length === 2")
    assert [len(regions) for regions in engine.resolved] == [1, 1]
    ask(page, "Is [2] left of [1]?")
    wait_for_answers(page, 1)
    second, first = asked_regions(engine)
    assert near(second["points"], [[300, 200]]) and near(first["points"], [[80, 60]]) and first["labels"] == [1]
    assert chips(page) == []
    page.get_by_role("button", name="New image").click()
    assert page.locator(".drawing-mask").count() == 0


def test_fast_clicks_all_show_their_masks(start, engine):
    engine.seconds = 0.3  # the model takes longer than the next click
    page = start()
    tool(page, "Click").click()
    for point in ((80, 60), (200, 60), (320, 60), (80, 200), (320, 200)):
        click(page, point)
        page.wait_for_timeout(90)
    page.wait_for_function("document.querySelectorAll('.drawing-mask').length === 5")


def test_several_clicks_make_one_region(start, engine):
    page = start()
    tool(page, "Click").click()
    assert not page.locator(".drawing-modes").is_visible()
    click(page, (80, 60))
    click(page, (120, 60), "Shift")  # more of it
    click(page, (200, 150), "Alt")  # not this
    assert chips(page) == ["[1] 3 points ↶ ×"]
    assert page.locator(".drawing-dot.is-not").count() == 1
    # The same with buttons, for a finger.
    tool(page, "More of [1]").click()
    click(page, (90, 90))
    tool(page, "Not part of [1]").click()
    click(page, (250, 90))
    assert chips(page) == ["[1] 5 points ↶ ×"]
    page.get_by_role("button", name="Take back the last point of region 1").click()
    assert chips(page) == ["[1] 4 points ↶ ×"]
    tool(page, "New region").click()
    click(page, (300, 200))
    assert chips(page)[1] == "[2] at 300, 200 ×"
    assert tool(page, "More of [2]").is_visible()
    drag(page, (300, 200, 330, 220))  # a point is moved
    assert chips(page)[1] == "[2] at 330, 220 ×"
    click(page, (120, 60))  # on a point of the first region: more and not are about this one again
    assert tool(page, "More of [1]").is_visible()
    page.get_by_role("button", name="Remove region 2").click()
    ask(page, "What is this?")
    wait_for_answers(page, 1)
    [region] = asked_regions(engine)
    assert region["labels"] == [1, 1, 0, 1]
    assert near(region["points"], [[80, 60], [120, 60], [200, 150], [90, 90]])


@pytest.mark.slow
def test_not_this_needs_something_to_be_part_of(start):
    page = start()
    tool(page, "Click").click()
    click(page, (80, 60), "Alt")
    assert "Click on what you mean first" in page.locator(".drawing-error").inner_text()
    assert chips(page) == []


@pytest.mark.slow
def test_no_more_is_drawn_than_a_question_takes(start, engine):
    page = start()
    tool(page, "Click").click()
    error = page.locator(".drawing-error")
    for number in range(MAX_POINTS + 1):
        click(page, (20 + 22 * (number % 16), 20 + 40 * (number // 16)), *["Shift"] * (number > 0))
    assert error.inner_text() == f"A region takes up to {MAX_POINTS} clicks."
    assert chips(page) == [f"[1] {MAX_POINTS} points ↶ ×"]
    for number in range(MAX_DRAWINGS):
        page.locator(".drawing-field").fill(f"{10 * number}, 7")
        page.keyboard.press("Enter")
    assert error.inner_text().startswith(f"A question takes up to {MAX_DRAWINGS} regions: ask about these first")
    assert len(chips(page)) == MAX_DRAWINGS == page.locator(".drawing-region").count()
    tool(page, "Scribble").click()
    scribble(page, [(40, 240), (160, 260)])
    assert page.locator(".drawing-region").count() == MAX_DRAWINGS
    ask(page, "What are they?")
    wait_for_answers(page, 1)
    assert len(asked_regions(engine)) == MAX_DRAWINGS and len(asked_regions(engine)[0]["points"]) == MAX_POINTS


def test_a_scribble(start, engine):
    page = start()
    tool(page, "Scribble").click()
    scribble(page, [(40, 40), (80, 60), (120, 40), (160, 60)])
    assert chips(page) == ["[1] scribble ×"]
    page.locator(".drawing-mask").wait_for()
    click(page, (300, 200))  # a click is not a line
    assert len(chips(page)) == 1
    tool(page, "Draw a box").click()
    drag(page, (200, 60, 360, 240))
    ask(page, "Is [1] left of [2]?")
    wait_for_answers(page, 1)
    line, box = asked_regions(engine)
    assert near(line["scribble"][0], [40, 40]) and near(line["scribble"][-1], [160, 60])
    assert 4 <= len(line["scribble"]) <= 60
    assert near(box["box"], [200, 60, 360, 240])
    assert chips(page) == []


@pytest.mark.slow
def test_of_many_regions_only_those_that_were_asked_about_go(start, engine):
    """Right after the image was chosen, with an answer that comes at once."""
    page = start()
    tool(page, "Click").click()
    click(page, (80, 60))
    tool(page, "Scribble").click()
    scribble(page, [(200, 200), (240, 220), (280, 200)])
    tool(page, "Draw a box").click()
    drag(page, (220, 60, 330, 150))
    ask(page, "Is [1] left of [2]?")
    wait_for_answers(page, 1)
    page.wait_for_function("document.querySelectorAll('.drawing-regions li').length === 1")
    assert chips(page) == ["[1] 220, 60, 330, 150 ×"]
    assert question(page).input_value() == ""


def gone(page, count: int) -> None:
    page.wait_for_function(f"document.querySelectorAll('.drawing-regions li').length === {count}")


@pytest.mark.slow
def test_what_is_under_way_with_a_region_goes_on_with_it_when_others_go(start, engine):
    """Those that were asked about go with the first word, also while another one is dragged."""
    page = start()
    for box in ((20, 20, 80, 80), (120, 100, 180, 160), (240, 100, 300, 160)):
        drag(page, box)
    question(page).fill("What is [1]?")
    top, below = on_screen(page, [(150, 100), (150, 120)])
    page.mouse.move(*top)
    page.mouse.down()
    page.keyboard.press("Enter")
    gone(page, 2)
    page.mouse.move(*below, steps=4)
    page.mouse.up()
    assert chips(page) == ["[1] 120, 120, 180, 180 ×", "[2] 240, 100, 300, 160 ×"]
    wait_for_answers(page, 1)
    # The region that goes may be the one that is dragged.
    question(page).fill("What is [1]?")
    page.mouse.move(*on_screen(page, [(150, 120)])[0])
    page.mouse.down()
    page.keyboard.press("Enter")
    gone(page, 1)
    page.mouse.move(*on_screen(page, [(150, 200)])[0], steps=4)
    page.mouse.up()
    assert chips(page) == ["[1] 240, 100, 300, 160 ×"]


@pytest.mark.slow
def test_more_of_it_stays_about_the_same_region_when_others_go(start, engine):
    page = start()
    tool(page, "Click").click()
    for point in ((80, 60), (200, 60), (320, 60)):
        click(page, point)
    click(page, (200, 60))
    assert tool(page, "More of [2]").is_visible()
    ask(page, "What is [1]?")
    gone(page, 2)
    click(page, (210, 90), "Shift")
    assert chips(page) == ["[1] 2 points ↶ ×", "[2] at 320, 60 ×"]
    tool(page, "More of [1]").click()
    page.get_by_role("button", name="Remove region 2").click()
    click(page, (220, 120))
    assert chips(page) == ["[1] 3 points ↶ ×"]


@pytest.mark.slow
def test_a_point_in_the_first_pixel_is_not_taken_for_fractions(start, engine):
    page = start()
    tool(page, "Click").click()
    page.get_by_label("Point in pixels").fill("0.6, 0.6")
    page.get_by_role("button", name="Add point").click()
    page.locator(".drawing-mask").wait_for()
    assert engine.resolved[-1][0]["points"] == [[1.1, 1.1]]


@pytest.mark.slow
def test_a_long_scribble_is_drawn_with_fewer_points(start, engine):
    page = start()
    tool(page, "Scribble").click()
    line = [(40 + 3 * step, 150 + 60 * (-1) ** step) for step in range(100)]
    scribble(page, line)
    assert chips(page) == ["[1] scribble ×"]
    ask(page, "What is this?")
    wait_for_answers(page, 1)
    [region] = asked_regions(engine)
    assert len(region["scribble"]) == 60
    assert near(region["scribble"][0], line[0]) and near(region["scribble"][-1], line[-1])


def test_clicks_and_scribbles_with_the_keyboard_alone(start, engine):
    page = start()
    tool(page, "Click").focus()
    page.keyboard.press("Enter")
    field = page.get_by_label("Point in pixels")
    field.focus()
    for wrong, words in (("1, 2, 3", "is not a point"), ("1, x", "is not a point"), ("401, 5", "leaves the image")):
        field.fill(wrong)
        page.keyboard.press("Enter")
        assert words in page.locator(".drawing-error").inner_text()
    field.fill("80 60")
    page.keyboard.press("Enter")
    assert chips(page) == ["[1] at 80, 60 ×"]
    tool(page, "Not part of [1]").focus()
    page.keyboard.press("Enter")
    field.focus()
    page.keyboard.press("Enter")  # an empty field: a point in the middle, which arrow keys move
    assert chips(page) == ["[1] 2 points ↶ ×"]
    for key in ("ArrowRight", "Alt+ArrowUp"):
        page.keyboard.press(key)
    label = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(label).startswith(
        "Region 1: point 80, 60; not this: 208, 149. Arrow keys move its last point"
    )
    tool(page, "Scribble").focus()
    page.keyboard.press("Enter")
    field = page.get_by_label("Scribble in pixels")
    field.focus()
    for wrong, words in (("1, 2", "is not a scribble"), ("1, 2, 3", "is not a scribble"), ("1, 2, 3, 301", "leaves")):
        field.fill(wrong)
        page.keyboard.press("Enter")
        assert words in page.locator(".drawing-error").inner_text()
    field.fill("10, 20, 60, 20, 60, 70")
    page.keyboard.press("Enter")
    page.locator(".drawing-region").nth(1).focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate(label).startswith("Region 2: scribble from 10, 26 to 60, 76.")
    page.keyboard.press("ArrowUp")
    ask(page, "Is [1] left of [2]?")
    wait_for_answers(page, 1)
    points, line = asked_regions(engine)
    assert points["points"] == [[80, 60], [208, 149]] and points["labels"] == [1, 0]
    assert line["scribble"] == [[10, 20], [60, 20], [60, 70]]


def test_on_a_phone_with_a_finger(start, engine):
    page = start(width=390, height=844, touch=True, dark=True)
    tap = """([width, point]) => {
      const frame = document.querySelector(".groma-stage").getBoundingClientRect();
      return point.map((value, side) => frame[side ? "y" : "x"] + (value * frame.width) / width);
    }"""
    page.touchscreen.tap(*page.evaluate(tap, [WIDTH, (80, 60)]))  # until a tool is chosen, a finger does not draw
    assert chips(page) == []
    tool(page, "Click").tap()
    touch_action = "getComputedStyle(document.querySelector('.groma-stage')).touchAction"
    assert page.evaluate(touch_action) == "manipulation"  # a finger scrolls, a tap is a click
    page.touchscreen.tap(*page.evaluate(tap, [WIDTH, (80, 60)]))
    page.locator(".drawing-mask").wait_for()
    tool(page, "Not part of [1]").tap()
    page.touchscreen.tap(*page.evaluate(tap, [WIDTH, (200, 150)]))
    assert chips(page) == ["[1] 2 points ↶ ×"]
    tool(page, "Scribble").tap()
    assert page.evaluate(touch_action) == "none"
    assert not scrolls_sideways(page)
    page.get_by_role("button", name="Describe the region").tap()
    wait_for_answers(page, 1)
    assert asked_regions(engine)[0]["labels"] == [1, 0]
    assert not scrolls_sideways(page)


def test_answers_show_masks_until_they_are_switched_off(start, engine):
    engine.seconds = 0.2
    page = start()
    ask(page, "What is this?")
    page.locator(".is-partial .groma-name").first.wait_for()
    assert page.get_by_label("Masks").count() == 0  # they come with the end
    engine.seconds = 0
    wait_for_answers(page, 1)
    assert page.get_by_label("Masks").is_checked()
    masks, boxes = page.locator("path.groma-line:visible"), page.locator("rect.groma-line:visible")
    assert (masks.count(), boxes.count()) == (2, 0)
    fill = "e => getComputedStyle(e).fill"
    assert masks.first.evaluate(fill) != masks.last.evaluate(fill)
    page.locator(".groma-name").filter(has_text="A red cup").hover()
    assert page.locator("g.groma-place.is-lit path.groma-line:visible").count() == 1
    assert page.locator("path.groma-hole.is-lit").count() == 1
    page.mouse.move(2, 2)
    page.get_by_label("Masks").uncheck()
    assert (masks.count(), boxes.count()) == (0, 2)
    ask(page, "And what else?")
    wait_for_answers(page, 2)
    assert (masks.count(), boxes.count()) == (0, 2)  # it stays switched off
    page.get_by_label("Masks").check()
    assert (masks.count(), boxes.count()) == (2, 0)


@pytest.mark.slow
def test_a_mask_is_pointed_at_where_it_has_pixels(start):
    page = start()
    ask(page, "What is this?")
    wait_for_answers(page, 1)
    frame = page.locator(".groma-stage").bounding_box()
    scale = frame["width"] / WIDTH
    page.mouse.move(frame["x"] + scale * 280, frame["y"] + scale * 150)  # the middle of the second region
    assert page.locator("g.groma-place.is-lit").count() == 1
    page.mouse.move(frame["x"] + scale * 204, frame["y"] + scale * 64)  # a corner of its box, outside of its ellipse
    assert page.locator("g.groma-place.is-lit").count() == 0


def test_without_a_mask_decoder_a_click_shows_the_box_that_it_stands_for(start, engine):
    engine.has_masks = False
    page = start()
    tool(page, "Click").click()
    click(page, (80, 60))
    page.locator(".drawing-taken").wait_for()
    assert page.locator(".drawing-mask").count() == 0
    ask(page, "What is this?")
    wait_for_answers(page, 1)
    assert page.get_by_label("Masks").count() == 0


@pytest.mark.slow
def test_a_mask_that_cannot_be_shown_is_said_and_the_click_stays(start, engine):
    page = start()
    engine.error = RuntimeError("64 requests wait: try again later.")
    tool(page, "Click").click()
    click(page, (80, 60))
    status = page.locator("#groma-status .status")
    status.filter(has_text="What you pointed at cannot be shown right now. 64 requests wait").wait_for()
    assert chips(page) == ["[1] at 80, 60 ×"] and page.locator(".drawing-mask").count() == 0
    engine.error = None
    click(page, (300, 200))
    page.wait_for_function("document.querySelectorAll('.drawing-mask').length === 2")
    assert status.count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_tools_have_names_and_readable_colours(start, dark):
    page = start(dark=dark)
    tool(page, "Click").click()
    click(page, (80, 60))
    click(page, (200, 150), "Alt")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('.drawing :is(button, input), .drawing-layer [tabindex="0"]')].filter(
          (e) => e.checkVisibility() && !(e.ariaLabel || e.innerText?.trim() || e.labels?.length)
        ).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    colors = page.evaluate(
        """() => [...document.querySelectorAll('.drawing-tool, .drawing-mode')].map((e) => {
          const style = getComputedStyle(e);
          return [style.color, style.backgroundColor].map((color) => color.match(/[0-9.]+/g).slice(0, 3).map(Number));
        })"""
    )
    assert len(colors) == 6 and min(contrast(*pair) for pair in colors) >= 4.5
    assert question(page).get_attribute("placeholder").endswith("[1], the first region")


def contrast(one, other) -> float:
    """The contrast of two colours as WCAG defines it."""

    def luminance(color) -> float:
        parts = [value / 255 for value in color]
        parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)
