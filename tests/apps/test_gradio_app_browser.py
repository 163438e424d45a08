"""The app in a real browser, with an engine that needs no model: choosing, drawing, asking, saving, several users."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.apps.app_pages import (
    HEIGHT,
    WIDTH,
    answers,
    ask,
    chips,
    choose,
    drag,
    make_photo,
    question,
    scrolls_sideways,
    wait_for_answers,
)
from tests.apps.app_server import SCORES, FakeEngine, running_app
from transformers_groma.apps.app_settings import AppSettings

pytest.importorskip("gradio", reason='needs gradio: pip install "transformers-groma[app]"')

SETTINGS = AppSettings("fake", max_pixels=WIDTH * HEIGHT, max_upload_mb=1, max_question_length=60)


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[tuple[str, FakeEngine]]:
    """The URL of the app, and its engine."""
    engine = FakeEngine()
    with running_app(engine, SETTINGS, tmp_path_factory.mktemp("app")) as url:
        yield url, engine


@pytest.fixture
def engine(app) -> FakeEngine:
    engine = app[1]
    engine.__init__()
    return engine


@pytest.fixture
def start(app, engine, open_page):
    """Opens the app in a browser of its own."""

    def start(dark: bool = False, **options):
        page = open_page(f"{app[0]}?__theme={'dark' if dark else 'light'}", **options)
        page.locator("#groma-file input").wait_for(state="attached")
        return page

    return start


@pytest.fixture
def photo(tmp_path) -> Path:
    return make_photo(tmp_path / "photo.png")


def test_upload_draw_ask_see_and_ask_on(start, engine, photo):
    page = start()
    choose(page, photo)
    drag(page, (40, 30, 120, 120))
    drag(page, (200, 60, 360, 240))
    assert chips(page) == ["[1] 40, 30, 120, 120 ×", "[2] 200, 60, 360, 240 ×"]
    ask(page, "Is [2] left of [1]?")
    wait_for_answers(page, 1)
    names = page.locator(".groma-answer .groma-name")
    assert names.evaluate_all("all => all.map((e) => e.firstChild.data)") == ["A red cup", "a blue bowl"]
    colors = [name.evaluate("e => e.style.getPropertyValue('--c')") for name in names.all()]
    outlines = page.locator(".groma-place .groma-line:not(.is-user)")
    assert sorted(outlines.evaluate_all("all => all.map(e => e.style.getPropertyValue('--c'))")) == sorted(colors)
    assert question(page).input_value() == "" and chips(page) == []
    boxes = [part["box"] for part in engine.asked[0][0]["content"] if part["type"] == "region"]
    assert np.abs(np.array(boxes) - [[200, 60, 360, 240], [40, 30, 120, 120]]).max() < 1.5

    # Another turn with another region; the first answer is part of the conversation.
    drag(page, (10, 10, 60, 60))
    ask(page, "And this?")
    wait_for_answers(page, 2)
    assert [message["role"] for message in engine.asked[1]] == ["user", "assistant", "user"]
    page.locator(".groma-name").filter(has_text="A red cup").last.hover()
    assert page.locator("g.groma-place.is-lit").count() == 1


def test_words_come_one_by_one_and_stop(start, engine, photo):
    engine.seconds = 0.2
    page = start()
    choose(page, photo)
    page.get_by_role("button", name="Describe the image").click()
    page.wait_for_function("document.querySelector('.is-partial')?.textContent.includes('A red')")
    assert "Seen" not in page.locator(".is-partial").inner_text()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    assert engine.closed.wait(3)
    assert page.get_by_role("button", name="Ask", exact=True).is_enabled()
    assert "Seen" not in answers(page).inner_text()


@pytest.mark.slow
def test_what_is_drawn_while_an_answer_comes_stays(start, engine, photo):
    engine.seconds = 0.3
    page = start()
    choose(page, photo)
    drag(page, (40, 30, 120, 120))
    ask(page, "What is this?")
    page.get_by_role("button", name="Stop").wait_for()
    drag(page, (200, 60, 360, 240))
    page.wait_for_function("document.querySelectorAll('.drawing-regions li').length === 1")
    wait_for_answers(page, 1)
    assert chips(page) == ["[1] 200, 60, 360, 240 ×"]


def test_boxes_are_moved_resized_and_removed(start, photo):
    page = start()
    choose(page, photo)
    drag(page, (40, 40, 140, 140))
    drag(page, (90, 40, 110, 60))  # by its upper edge
    assert chips(page) == ["[1] 60, 60, 160, 160 ×"]
    drag(page, (160, 160, 200, 220))  # by its lower right corner
    assert chips(page) == ["[1] 60, 60, 200, 220 ×"]
    drag(page, (100, 60, 300, -200))  # never out of the image
    assert chips(page)[0].split(", ")[1] == "0"
    drag(page, (300, 200, 301, 201))  # a click is not a box
    assert len(chips(page)) == 1
    page.get_by_role("button", name="Remove region 1").click()
    assert chips(page) == []


def test_with_the_keyboard_alone(start, engine, photo):
    page = start()
    choose(page, photo)
    field = page.get_by_label("Box in pixels")
    field.focus()
    for wrong, words in (
        ("1, 2, 3", "is not a box"),
        ("50, 20, 10, 60", "empty or inverted"),
        ("0, 0, 900, 60", "leaves the image, which is 400 pixels wide and 300 high"),
    ):
        field.fill(wrong)
        page.keyboard.press("Enter")
        assert words in page.locator(".drawing-error").inner_text()
    field.fill("40 30 120 120")
    page.keyboard.press("Enter")
    assert chips(page) == ["[1] 40, 30, 120, 120 ×"] and not page.locator(".drawing-error").is_visible()
    page.keyboard.press("Enter")  # an empty field: a box in the middle, which has the focus
    assert chips(page)[1] == "[2] 100, 75, 300, 225 ×"
    for key in ("ArrowRight", "Shift+ArrowDown", "Alt+ArrowUp"):
        page.keyboard.press(key)
    assert chips(page)[1] == "[2] 108, 74, 308, 230 ×"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        "Region 2: 108, 74, 308, 230."
    )
    page.keyboard.press("Delete")
    assert chips(page) == ["[1] 40, 30, 120, 120 ×"]
    page.get_by_role("button", name="Mention region 1").focus()
    page.keyboard.press("Enter")
    assert question(page).input_value() == "[1]"
    page.keyboard.type(" is what?")
    page.keyboard.press("Enter")
    wait_for_answers(page, 1)
    assert [part["type"] for part in engine.asked[0][0]["content"]] == ["image", "text", "region", "text"]
    phrase = page.locator(".groma-name").filter(has_text="A red cup")
    phrase.focus()
    page.keyboard.press("Enter")
    assert phrase.get_attribute("aria-pressed") == "true"


@pytest.mark.slow
def test_the_order_of_focus(start, photo):
    page = start()
    choose(page, photo)
    page.get_by_text("All regions").wait_for()
    page.locator("body").click(position={"x": 2, "y": 2})
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(e => e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || '')(document.activeElement)"
            )
        )
    order = ["All regions", "Draw a box", "Box in pixels", "Add box", "Question", "Ask", "Find", "Describe the image"]
    places = [next(i for i, name in enumerate(seen) if name.strip().startswith(wanted)) for wanted in order]
    assert places == sorted(places), seen


def test_on_a_phone_with_a_finger(start, engine, photo):
    page = start(width=390, height=844, touch=True, dark=True)
    assert not scrolls_sideways(page)
    choose(page, photo)
    tool = page.get_by_role("button", name="Draw a box")
    touch_action = "getComputedStyle(document.querySelector('.groma-stage')).touchAction"
    assert tool.get_attribute("aria-pressed") == "false"  # a finger on the image scrolls at first
    assert page.evaluate(touch_action) == "auto"
    swipe(page, (40, 30), (120, 120))
    assert chips(page) == []
    tool.tap()
    assert page.evaluate(touch_action) == "none"
    swipe(page, (40, 30), (120, 120))
    assert chips(page) == ["[1] 40, 30, 120, 120 ×"]
    page.get_by_role("button", name="Describe the region").tap()
    wait_for_answers(page, 1)
    page.locator(".groma-name").filter(has_text="a blue bowl").tap()
    assert page.locator("g.groma-place.is-lit").count() == 1
    assert not scrolls_sideways(page)
    assert page.evaluate("document.body.classList.contains('dark')")


def swipe(page, start, end) -> None:
    """What a browser reports of a finger on the image, in pixels of the image."""
    page.evaluate(
        """([width, start, end]) => {
          const stage = document.querySelector(".groma-stage");
          const frame = stage.getBoundingClientRect();
          const scale = frame.width / width;
          const middle = start.map((value, side) => (value + end[side]) / 2);
          const steps = [["pointerdown", start], ["pointermove", middle], ["pointermove", end], ["pointerup", end]];
          for (const [type, [x, y]] of steps) {
            const [clientX, clientY] = [frame.x + scale * x, frame.y + scale * y];
            const how = { bubbles: true, cancelable: true, isPrimary: true, pointerId: 7, pointerType: "touch" };
            stage.dispatchEvent(new PointerEvent(type, { ...how, clientX, clientY }));
          }
        }""",
        [WIDTH, start, end],
    )


def test_all_regions_and_their_score(start, photo):
    page = start()
    choose(page, photo)
    page.get_by_label("All regions").check()
    assert page.locator(".groma-proposals rect:visible").count() == len(SCORES)
    page.get_by_role("slider").fill("50")
    assert page.locator(".groma-proposals rect:visible").count() == 2
    frame = page.locator(".groma-stage").bounding_box()
    page.mouse.click(frame["x"] + 0.6 * frame["width"], frame["y"] + 0.4 * frame["height"])
    assert chips(page) == ["[1] 200, 60, 360, 240 ×"]  # the region became one of the question
    page.mouse.click(frame["x"] + 0.6 * frame["width"], frame["y"] + 0.6 * frame["height"])
    assert chips(page) == []


def test_downloads(start, photo):
    page = start()
    choose(page, photo)
    assert page.get_by_role("button", name="Save JSON").is_disabled()
    drag(page, (40, 30, 120, 120))
    ask(page, "What is this?")
    wait_for_answers(page, 1)
    with page.expect_download() as found:
        page.get_by_role("button", name="Save JSON").click()
    assert found.value.suggested_filename == "photo-answer.json"
    saved = json.loads(Path(found.value.path()).read_text())
    assert saved["image"] == {"name": "photo.png", "width": WIDTH, "height": HEIGHT}
    assert len(saved["phrases"]) == 2 and saved["question"] == "[grounding]What is this? <region>"
    with page.expect_download() as found:
        page.get_by_role("button", name="Save image").click()
    assert found.value.suggested_filename == "photo-answer.png"
    assert Image.open(found.value.path()).width >= WIDTH


def test_an_image_that_was_deleted_meanwhile_is_not_saved_and_says_so(start, photo):
    page = start()
    choose(page, photo)
    ask(page, "What is this?")
    wait_for_answers(page, 1)
    shown = Path(page.locator(".groma-stage img").get_attribute("src").partition("file=")[2])
    for uploaded in shown.parents[1].rglob("photo.png"):
        uploaded.unlink()
    page.get_by_role("button", name="Save image").click()
    page.get_by_text("The image is no longer kept on the server: choose it again.").wait_for()


def test_files_that_are_refused(start, tmp_path):
    page = start()
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    Image.fromarray(noise).save(tmp_path / "heavy.png")
    make_photo(tmp_path / "large.png", size=(WIDTH, HEIGHT + 1))
    for name, words in (
        ("notes.txt", "notes.txt is not an image"),
        ("heavy.png", "heavy.png has 1.5 MB, more than the 1 MB allowed"),
        ("broken.png", "broken.png cannot be read as an image"),
        ("large.png", "large.png has 400x301 pixels"),
    ):
        page.set_input_files("#groma-file input[type=file]", tmp_path / name)
        page.locator(".status:visible").filter(has_text=words).wait_for()
        assert page.locator(".status:visible").count() == 1
    choose(page, make_photo(tmp_path / "good.png"))


def test_mistakes_are_sentences_and_nothing_is_lost(start, engine, photo):
    page = start()
    choose(page, photo)
    drag(page, (40, 30, 120, 120))
    ask(page, "What is [2]?")
    status = page.locator("#groma-status .status")
    status.filter(has_text="only one region is drawn").wait_for()
    assert status.get_attribute("role") == "alert"
    engine.error = RuntimeError("64 requests wait: try again later.")
    ask(page, "What is [1]?")
    status.filter(has_text="64 requests wait: try again later.").wait_for()
    assert question(page).input_value() == "What is [1]?" and len(chips(page)) == 1
    question(page).fill("x" * 100)
    assert len(question(page).input_value()) == 60
    engine.error = None
    ask(page, "What is [1]?")
    wait_for_answers(page, 1)
    assert status.count() == 0


@pytest.mark.slow
def test_turned_photos_are_upright(start, engine, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    page = start()
    choose(page, make_photo(tmp_path / "turned.jpg", size=(HEIGHT, WIDTH), exif=exif))
    box = page.locator(".groma-stage").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(WIDTH / HEIGHT, abs=0.01)
    drag(page, (300, 10, 390, 90))
    ask(page, "What is this?")
    wait_for_answers(page, 1)
    image, _, region = engine.asked[0][0]["content"]
    assert image["image"].size == (WIDTH, HEIGHT)
    # What was in the upper left corner is in the upper right one, and that is where the box is.
    assert np.array(image["image"].crop([round(value) for value in region["box"]])).mean() > 200


def test_two_users_never_see_each_others_image(start, app, tmp_path):
    first, second = start(), start()
    choose(first, make_photo(tmp_path / "red.png", "#cc0000"))
    choose(second, make_photo(tmp_path / "green.png", "#00cc00"))
    for page in (first, second):
        ask(page, "What is this?")
    for page in (first, second):
        wait_for_answers(page, 1)
    colors = [answers(page).inner_text().partition("Seen: ")[2] for page in (first, second)]
    assert colors[0] != colors[1]
    assert int(colors[0][1:3], 16) > int(colors[0][3:5], 16) and int(colors[1][1:3], 16) < int(colors[1][3:5], 16)
    sources = [page.locator(".groma-stage img").get_attribute("src") for page in (first, second)]
    assert sources[0] != sources[1]
    assert "red.png" not in second.content() and "green.png" not in first.content()
    # Nobody comes to a file by guessing: folders are not listed, and their names are random.
    assert re.search(r"/[0-9a-f]{32}/image\.webp$", sources[0])
    for guess in (Path(sources[0]).parents[1], "gradio_api/file=/etc/passwd", "gradio_api/file=README.md"):
        assert second.request.get(f"{app[0]}{guess}").status in (403, 404)
    first.get_by_role("button", name="New image").click()
    first.locator("#groma-file input").wait_for(state="attached")
    assert second.request.get(app[0] + sources[0]).status in (403, 404)
    assert second.request.get(app[0] + sources[1]).status == 200


@pytest.mark.slow
def test_a_new_image_starts_anew(start, engine, photo, tmp_path):
    page = start()
    choose(page, photo)
    drag(page, (40, 30, 120, 120))
    ask(page, "What is this?")
    wait_for_answers(page, 1)
    drag(page, (40, 30, 120, 120))
    question(page).fill("half a question")
    page.get_by_role("button", name="New image").click()
    choose(page, make_photo(tmp_path / "other.png", "#aa0000"))
    assert chips(page) == [] and question(page).input_value() == ""
    assert page.locator(".groma-turn").count() == 0
    drag(page, (10, 10, 100, 100))  # with the component that has just appeared again
    assert chips(page) == ["[1] 10, 10, 100, 100 ×"]


def test_nothing_is_for_other_programs(app):
    import httpx

    info = httpx.get(app[0] + "gradio_api/info").json()
    assert info == {"named_endpoints": {}, "unnamed_endpoints": {}}


@pytest.mark.slow
def test_labels_and_alternative_texts(app, open_page, photo):
    page = open_page(app[0], dark=True)  # the colours of the system, without a parameter of the URL
    page.locator("#groma-file input").wait_for(state="attached")
    assert page.evaluate("document.body.classList.contains('dark')")
    assert page.get_by_role("heading", level=1).inner_text() == "Groma"
    choose(page, photo)
    assert page.locator(".groma-stage img").get_attribute("alt") == "Your image photo.png, 400 by 300 pixels"
    drag(page, (40, 30, 120, 120))
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('#groma-work :is(button, input, textarea, [tabindex="0"])')].filter(
          (e) => e.checkVisibility() && !(e.ariaLabel || e.innerText?.trim() || e.labels?.length || e.title)
        ).map((e) => e.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.slow
def test_more_questions_than_may_wait(start, engine, photo):
    engine.seconds, engine.limit = 0.5, 2
    pages = [start() for _ in range(3)]
    for page in pages:
        choose(page, photo)
        ask(page, "What is this?")
        page.locator(".groma-turn, #groma-status .status").first.wait_for()
    pages[2].locator("#groma-status .status").filter(has_text="Too many people are asking right now").wait_for()
    assert question(pages[2]).input_value() == "What is this?"
    for page in pages[:2]:
        wait_for_answers(page, 1)
    pages[2].get_by_role("button", name="Ask", exact=True).click()
    wait_for_answers(pages[2], 1)


@pytest.mark.slow
def test_images_are_deleted_after_the_tab_was_closed(open_page, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_IS_E2E_TEST", "1")  # Gradio keeps a session for a second and not for an hour
    folder = tmp_path / "app"

    def kept() -> list[str]:  # Gradio leaves an empty file for each upload
        return [path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0]

    with running_app(FakeEngine(), SETTINGS, folder) as url:
        page = open_page(url)
        page.locator("#groma-file input").wait_for(state="attached")
        choose(page, photo)
        ask(page, "What is this?")
        wait_for_answers(page, 1)
        assert sorted(kept()) == ["image.webp", "photo.png"]
        page.context.close()
        deadline = time.monotonic() + 20
        while kept() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert kept() == []


@pytest.mark.slow
def test_the_end_of_a_long_conversation_stays_in_sight(start, engine, photo):
    page = start(height=700)
    choose(page, photo)
    for count in range(1, 9):
        ask(page, "What is this, and what is left of it, and what is right of it?")
        wait_for_answers(page, count)
    last = page.locator(".groma-turn").last.bounding_box()
    composer = page.locator("#groma-composer").bounding_box()
    figure = page.locator(".groma-stage").bounding_box()
    assert last["y"] >= 0 and last["y"] + last["height"] <= composer["y"] + 1
    assert composer["y"] + composer["height"] <= 700
    assert figure["y"] >= 0 and figure["y"] + figure["height"] <= composer["y"]
    # Who reads an earlier answer is left there.
    engine.seconds = 0.1
    ask(page, "And now?")
    page.locator(".is-partial").wait_for()
    page.mouse.wheel(0, -600)
    page.wait_for_timeout(300)
    before = page.evaluate("scrollY")
    wait_for_answers(page, 9)
    assert page.evaluate("scrollY") == before
