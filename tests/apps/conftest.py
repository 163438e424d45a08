"""A real browser for tests of the app and the answer view. Pages may ask nothing of the outside."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Headless Chromium, one for a module; skips without it. `GROMA_CHROMIUM` names another executable.

    Not one for all tests: while it is there, an event loop runs in this thread, and `asyncio.run` fails.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs a browser: pip install playwright")
    executable = os.environ.get("GROMA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs Chromium on the PATH, or GROMA_CHROMIUM=/path/to/it")
    with playwright.sync_playwright() as started:
        # Containers have no user namespaces for the sandbox and little shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = started.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser", tmp_path: Path) -> Iterator[Callable[..., "Page"]]:
    """Opens pages, each in a browser context of its own; see `open_page` below for the arguments.

    At the end of the test: no page wrote an error to its console, threw an exception, or made a request to anything
    but this machine.
    """
    contexts, problems = [], []

    def open_page(
        source: str, *, width: int = 1280, height: int = 900, dark: bool = False, touch: bool = False, **options
    ) -> "Page":
        """Open a URL, or text that is HTML. `touch`: a phone, where nothing hovers. `options`: of the context."""
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
            is_mobile=touch,
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.extend(outside(request.url)))
        if not source.startswith("http"):
            file = tmp_path / f"page{len(contexts)}.html"
            file.write_text(source, encoding="utf-8")
            source = file.as_uri()
        page.goto(source)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def outside(url: str) -> list[str]:
    """The URL, if it leaves this machine."""
    parts = urlsplit(url)
    is_here = parts.scheme in ("data", "blob", "file", "about") or parts.hostname in LOOPBACK
    return [] if is_here else [f"request to {url}"]
