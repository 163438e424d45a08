"""Makes the image of docs/app.md: the app in headless Chromium, with an answer and a box for the next question.

python -m scripts.app_image
"""

import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from transformers_groma.apps.app_settings import AppSettings
from transformers_groma.apps.gradio_app import build_app, launch_options
from transformers_groma.serving.engine import Engine

REPOSITORY = Path(__file__).parents[1]
IMAGE = REPOSITORY / "docs" / "images" / "app.png"
SIZE = {"width": 1280, "height": 860}
# Around the star at the lower left of the first example: `xyxy` as shares of the image.
BOX = (0.025, 0.71, 0.135, 0.825)


def app_image() -> Image.Image:
    """A screenshot of the app.

    Returns:
        `PIL.Image.Image`: 256 colours.
    """
    settings = AppSettings("groma-tiny", knows_shapes_only=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        engine = Engine.from_pretrained(REPOSITORY / "hub_configs" / "groma-tiny", device="cpu")
        app = build_app(engine, settings)
        try:
            options = launch_options(settings)
            _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
                )
                page = browser.new_page(viewport=SIZE)
                page.goto(f"{url}?__theme=light")
                _ask(page)
                content = page.screenshot()
                browser.close()
        finally:
            app.close(verbose=False)
            engine.close(0)
    return Image.open(io.BytesIO(content)).convert("RGB").quantize(256, dither=Image.Dither.NONE)


def _ask(page: Page) -> None:
    """Answer the first example, then draw a box and write the next question."""
    page.locator("[data-example='0']").click()
    page.locator(".groma-answer:not(.is-partial)").wait_for()
    page.get_by_text("All regions").wait_for()
    frame = page.locator(".groma-stage").bounding_box()
    x1, y1, x2, y2 = (
        frame[start] + share * frame[length]
        for share, start, length in zip(BOX, "xyxy", ("width", "height") * 2, strict=True)
    )
    page.mouse.move(x1, y1)
    page.mouse.down()
    page.mouse.move(x2, y2, steps=4)
    page.mouse.up()
    page.get_by_role("textbox", name="Question", exact=True).fill("What is right of [1]?")
    page.mouse.move(5, 5)
    page.wait_for_timeout(500)


if __name__ == "__main__":
    app_image().save(IMAGE, optimize=True)
