"""What people do on the page of the app, and what they see there, for tests in a browser."""

from pathlib import Path

from PIL import Image, ImageDraw

# Of the photos in pixels.
WIDTH, HEIGHT = 400, 300


def make_photo(path: Path, color: str = "#506070", size: tuple[int, int] = (WIDTH, HEIGHT), **options) -> Path:
    image = Image.new("RGB", size, color)
    ImageDraw.Draw(image).ellipse((0, 0, size[0] // 3, size[1] // 3), fill="white")
    image.save(path, **options)
    return path


def choose(page, path: Path) -> None:
    page.set_input_files("#groma-file input[type=file]", path)
    page.locator(".groma-stage img").wait_for()


def on_screen(page, points) -> list[tuple[float, float]]:
    """Where points in pixels of the image are in the window."""
    frame = page.locator(".groma-stage").bounding_box()
    scale = frame["width"] / WIDTH
    return [(frame["x"] + scale * x, frame["y"] + scale * y) for x, y in points]


def drag(page, box) -> None:
    """Draw a box with the mouse, `xyxy` in pixels of the image."""
    points = on_screen(page, (box[:2], box[2:]))
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=4)
    page.mouse.up()


def scribble(page, line) -> None:
    """Draw a line with the mouse, in pixels of the image."""
    points = on_screen(page, line)
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=2)
    page.mouse.up()


def click(page, point, *keys: str) -> None:
    """Click at a point in pixels of the image, while keys are held."""
    [place] = on_screen(page, [point])
    for key in keys:
        page.keyboard.down(key)
    page.mouse.click(*place)
    for key in keys:
        page.keyboard.up(key)


def question(page):
    return page.get_by_role("textbox", name="Question", exact=True)


def ask(page, words: str) -> None:
    question(page).fill(words)
    page.get_by_role("button", name="Ask", exact=True).click()


def answers(page):
    return page.locator(".groma-answer:not(.is-partial)")


def wait_for_answers(page, count: int) -> None:
    page.wait_for_function(
        "count => document.querySelectorAll('.groma-answer:not(.is-partial)').length === count", arg=count
    )


def chips(page) -> list[str]:
    return [" ".join(text.split()) for text in page.locator(".drawing-regions li").all_inner_texts()]


def scrolls_sideways(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")
