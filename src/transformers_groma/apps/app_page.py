"""The fixed parts of the app's page: its head, the cards of the examples, its style and its scripts."""

from functools import cache
from html import escape

from .app_examples import EXAMPLES
from .app_settings import AppSettings

EMPTY = "Ask about the image, or point at something in it with a box, a click or a scribble and ask about that."
NO_PROPOSALS = "This model proposes no regions by itself: write what to find and press Find, or point at it."
SHAPES_NOTE = "knows drawn scenes of coloured shapes, and nothing else"


def page_head(settings: AppSettings) -> str:
    """The title of the page, the model and its limits.

    Args:
        settings (`AppSettings`): of the app.

    Returns:
        `str`: HTML.
    """
    limits = f" {SHAPES_NOTE}" if settings.knows_shapes_only else ""
    return (
        '<div class="page-head"><h1>Groma</h1><p>A language model that points.</p>'
        f'<p class="page-model"><strong>{escape(settings.model_name)}</strong>{limits}</p></div>'
    )


def start_note(settings: AppSettings) -> str:
    """What to do on the empty page, and what may be sent.

    Args:
        settings (`AppSettings`): of the app.

    Returns:
        `str`: HTML.
    """
    kind = "an image of coloured shapes" if settings.knows_shapes_only else "a photo"
    return (
        f'<p class="start-note">Choose {kind}, draw a box around what you mean or click on it, and ask: the answer '
        f"points at what it names. <small>Up to {settings.max_upload_mb} MB and {settings.max_pixels / 1e6:g} "
        "megapixels. Other users cannot see your image.</small></p>"
        f'<p class="status" role="alert" data-max-mb="{settings.max_upload_mb}"></p>'
    )


@cache
def examples_html() -> str:
    """The cards of the examples, each a button with the number of its example.

    Returns:
        `str`: HTML.
    """
    cards = "".join(
        f'<li><button type="button" class="example" data-example="{number}"><img src="{example.thumbnail()}" alt="" '
        f"width=320 height=320><span>{escape(example.title)}</span></button></li>"
        for number, example in enumerate(EXAMPLES)
    )
    return f'<h2 class="examples-title">Or try one of these</h2><ul class="examples">{cards}</ul>'


# A click on a card becomes the event "choose" with the number of its example.
EXAMPLES_SCRIPT = """
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-example]");
  if (card) trigger("choose", { number: Number(card.dataset.example) });
});
"""


def status_html(message: str) -> str:
    """A sentence about what went wrong, read out by screen readers; nothing for no message.

    Args:
        message (`str`): plain text.

    Returns:
        `str`: HTML.
    """
    return f'<p class="status" role="alert">{escape(message)}</p>' if message else ""


__all__ = ["EMPTY", "EXAMPLES_SCRIPT", "NO_PROPOSALS", "examples_html", "page_head", "start_note", "status_html"]
