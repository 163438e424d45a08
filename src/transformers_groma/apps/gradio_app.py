"""The app: choose an image, draw on it, ask, and see what the answer points at. Built with Gradio."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import gradio as gr
from gradio.utils import get_upload_folder

from ..serving.engine import Engine
from .answer_view import Turn, answer_view, view_head
from .app_events import AppEvents, Screen
from .app_page import EMPTY, EXAMPLES_SCRIPT, NO_PROPOSALS, examples_html, page_head, start_note, status_html
from .app_questions import TAKES_TEXT, Request, Verb
from .app_session import Session
from .app_settings import AppSettings
from .assets import asset
from .drawn_regions import drawing_of

VIEW_ID = "groma-answer"
# Seconds between two searches for files of users who left, and the age at which these are deleted.
CLEANING = (3600, 24 * 3600)
SESSIONS = 1000
MAX_EVENTS = 2000
MAX_DECODED = 4
# The app has no API for other programs: that is `groma serve`.
_PRIVATE = {"api_visibility": "private"}
_CLICK_DOWNLOAD = """() => setTimeout(() => {
  const target = document.querySelector("#groma-download");
  (target?.querySelector("a, button") ?? target)?.click();
}, 50)"""


class Page(NamedTuple):
    """The components that events change, in the order in which [`_shown`] gives their values."""

    session: gr.State
    start: gr.Column
    work: gr.Column
    view: gr.HTML
    drawing: gr.HTML
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    find: gr.Button
    describe_image: gr.Button
    describe_regions: gr.Button
    save_image: gr.Button
    save_json: gr.Button
    start_status: gr.HTML
    work_status: gr.HTML


def build_app(engine: Engine, settings: AppSettings) -> gr.Blocks:
    """The app as Gradio blocks, with its queue; `launch(**launch_options(settings))` starts it.

    Args:
        engine (`Engine`): answers the questions. All users share it, and nothing else.
        settings (`AppSettings`): what the page says about the model, and the limits.

    Returns:
        `gradio.Blocks`: the page.
    """
    events = AppEvents(engine, settings, Path(get_upload_folder()))
    with gr.Blocks(title="Groma", analytics_enabled=False, delete_cache=CLEANING) as app:
        session = gr.State(Session(), delete_callback=Session.reset)
        gr.HTML(page_head(settings), js_on_load=None, apply_default_css=False)
        with gr.Column(elem_id="groma-start") as start:
            gr.HTML(start_note(settings), js_on_load=asset("start.js"), apply_default_css=False)
            file = gr.File(label="Image", file_types=["image"], height=200, show_label=False, elem_id="groma-file")
            start_status = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="groma-start-status")
            examples = gr.HTML(
                examples_html() if settings.knows_shapes_only else "",
                js_on_load=EXAMPLES_SCRIPT,
                apply_default_css=False,
            )
        with gr.Column(visible=False, elem_id="groma-work") as work:
            view = gr.HTML(js_on_load=asset("view.js"), apply_default_css=False, elem_id="groma-view")
            with gr.Column(elem_id="groma-composer"):
                drawing = gr.HTML(
                    [],
                    html_template=asset("drawing.html"),
                    js_on_load=asset("drawing_shapes.js") + asset("drawing.js"),
                    apply_default_css=False,
                )
                with gr.Row(elem_id="groma-ask"):
                    question = gr.Textbox(
                        label="Question",
                        placeholder="Ask about the image, or about [1], the first region",
                        show_label=False,
                        lines=1,
                        max_lines=5,
                        max_length=settings.max_question_length,
                        scale=1,
                        min_width=120,
                        elem_id="groma-question",
                    )
                    ask = gr.Button("Ask", variant="primary", scale=0, min_width=64)
                    find = gr.Button("Find", scale=0, min_width=64)
                    stop = gr.Button("Stop", variant="stop", visible=False, scale=0, min_width=64)
                work_status = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="groma-status")
                with gr.Row(elem_id="groma-verbs"):
                    describe_image = gr.Button("Describe the image", size="sm")
                    describe_regions = gr.Button("Describe the region", size="sm")
                    points = gr.Checkbox(not settings.knows_shapes_only, label="Point at regions")
                    remembers = gr.Checkbox(not settings.knows_shapes_only, label="Remember earlier questions")
                    save_image = gr.Button("Save image", size="sm", interactive=False, elem_id="groma-save-image")
                    save_json = gr.Button("Save JSON", size="sm", interactive=False)
                    close = gr.Button("New image", size="sm")
            download = gr.DownloadButton("Download", visible="hidden", elem_id="groma-download")
        page = Page(
            session, start, work, view, drawing, question, ask, stop, find, describe_image, describe_regions,
            save_image, save_json, start_status, work_status,
        )  # fmt: skip

        _wire_images(events, page, file, examples, close)
        _wire_questions(events, page, points, remembers)
        for button, kind in ((save_image, "png"), (save_json, "json")):
            _wire_download(events, page, button, download, kind)
    # Gradio's own queue is only a backstop: it refuses with an error of the network.
    app.queue(max_size=MAX_EVENTS, default_concurrency_limit=None, api_open=False)
    return app


def launch_options(settings: AppSettings) -> dict[str, Any]:
    """Arguments of `launch` that belong to the app: its look and its limits.

    Args:
        settings (`AppSettings`): of the app.

    Returns:
        `dict`: keyword arguments. Neither fonts nor anything else come from other hosts.
    """
    theme = gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="zinc",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return {
        "theme": theme,
        "css": asset("app.css"),
        "head": view_head(),
        "footer_links": [],
        "max_file_size": f"{settings.max_upload_mb}mb",
        "state_session_capacity": SESSIONS,
        "ssr_mode": False,
        "enable_monitoring": False,
    }


def _wire_images(events: AppEvents, page: Page, file: gr.File, examples: gr.HTML, close: gr.Button) -> None:
    """Choosing an image or an example, and giving it up."""

    async def open_image(session: Session, path: str | None) -> list[Any]:
        screen = Screen(session) if path is None else await events.open_image(session, path)
        return [*_shown(screen), None]

    async def start_example(session: Session, event: gr.EventData) -> AsyncIterator[list[Any]]:
        async for screen in events.start_example(session, getattr(event, "number", None)):
            yield _shown(screen)

    async def propose(session: Session) -> list[Any]:
        return _shown(await events.propose(session))

    async def close_image(session: Session) -> list[Any]:
        return _shown(await events.close_image(session))

    busy = {"show_progress": "minimal", "show_progress_on": page.start_status, **_PRIVATE}
    quiet = {"show_progress": "hidden", **_PRIVATE}
    # Decoding takes memory: three bytes for each pixel.
    opened = file.upload(open_image, [page.session, file], [*page, file], concurrency_limit=MAX_DECODED, **busy)
    opened.then(propose, page.session, list(page), **quiet)
    started = examples.choose(start_example, page.session, list(page), **busy)
    started.then(propose, page.session, list(page), **quiet)
    close.click(close_image, page.session, list(page), queue=False, **quiet)


def _wire_questions(events: AppEvents, page: Page, points: gr.Checkbox, remembers: gr.Checkbox) -> None:
    """The free question, the buttons of the verbs, and stopping."""

    def answer(verb: Verb) -> Callable[..., AsyncIterator[list[Any]]]:
        async def answered(session: Session, text: str, drawings: Any, points: bool, remembers: bool):
            async for screen in events.ask(session, Request(verb, text, drawings, points, remembers)):
                yield _shown(screen, keeps_text=verb not in TAKES_TEXT)

        return answered

    async def stop(session: Session) -> None:
        await events.stop(session)  # the answer that ends shows its text so far

    inputs = [page.session, page.question, page.drawing, points, remembers]

    async def preview(session: Session, event: gr.EventData) -> list[Any]:
        screen = await events.preview(session, getattr(event, "regions", None))
        drawing = {"previews": screen.previews} if screen.previews else gr.skip()
        return [drawing, gr.skip() if screen.status is None else status_html(screen.status)]

    shown = {
        "outputs": list(page),
        "show_progress": "minimal",
        "show_progress_on": page.work_status,
        **_PRIVATE,
    }
    gr.on([page.ask.click, page.question.submit], answer("ask"), inputs, **shown)
    page.find.click(answer("find"), inputs, **shown)
    page.describe_image.click(answer("describe_image"), inputs, **shown)
    page.describe_regions.click(answer("describe_regions"), inputs, **shown)
    page.drawing.preview(
        preview,
        page.session,
        [page.drawing, page.work_status],
        trigger_mode="multiple",  # "always_last" may lose the last one
        show_progress="hidden",
        **_PRIVATE,
    )
    page.stop.click(stop, page.session, queue=False, show_progress="hidden", **_PRIVATE)


def _wire_download(events: AppEvents, page: Page, button: gr.Button, download: gr.DownloadButton, kind: str) -> None:
    """Saving: the file is made when it is asked for, then the hidden button that downloads it is pressed."""

    async def save(session: Session) -> Any:
        try:
            path = await events.save(session, kind)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return gr.skip() if path is None else str(path)

    made = button.click(save, page.session, download, show_progress="hidden", **_PRIVATE)
    made.success(None, js=_CLICK_DOWNLOAD, **_PRIVATE)


def _shown(screen: Screen, keeps_text: bool = False) -> list[Any]:
    """The values of the page's components for a screen. The buttons that need no text leave it as it is."""
    session = screen.session
    has_image, is_busy = session.image is not None, session.stop is not None
    clears_text = screen.is_new or (screen.has_begun and not keeps_text)
    drawing = gr.skip()
    if screen.is_new:
        drawing = []
    elif regions := [part for exchange in screen.asked for part in exchange.regions]:
        drawing = {"asked": [drawing_of(part) for part in regions]}  # what was drawn meanwhile stays
    status = gr.skip() if screen.status is None else status_html(screen.status)
    can_ask = gr.update(interactive=not is_busy)
    can_save = gr.update(interactive=session.last_answered is not None and not is_busy)
    shown = Page(
        session=session,
        start=gr.update(visible=not has_image),
        work=gr.update(visible=has_image),
        view=_view(session) if has_image else "",
        drawing=drawing,
        question="" if clears_text else gr.skip(),
        ask=can_ask,
        stop=gr.update(visible=is_busy),
        find=can_ask,
        describe_image=can_ask,
        describe_regions=can_ask,
        save_image=can_save,
        save_json=can_save,
        start_status=status if not has_image else "",
        work_status=status if has_image else "",
    )
    return list(shown)


def _view(session: Session) -> str:
    """The image and the conversation about it."""
    turns = [
        Turn(exchange.content, exchange.answer, exchange.is_partial, exchange.notice, exchange.outlines)
        for exchange in session.exchanges
    ]
    image = session.image
    return answer_view(
        VIEW_ID,
        turns,
        # Relative to the page, which may be behind a proxy.
        image_url=f"gradio_api/file={quote(str(image.shown))}",
        size=image.size,
        regions=session.proposals,
        alt=f"Your image {image.name}, {image.size.width} by {image.size.height} pixels",
        empty=EMPTY if session.proposes else f"{EMPTY} {NO_PROPOSALS}",
    )


__all__ = ["build_app", "launch_options"]
