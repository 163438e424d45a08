"""A grounded answer or conversation as one HTML file, with the image inside, for browsers without a server."""

import base64
import hashlib
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from ..grounding import GroundedText
from ..image_inputs import ImageSize
from ..images import upright
from .answer_view import Question, Turn, answer_view, view_script, view_style

# Of the image in the file; its boxes stay in pixels of the original.
MAX_IMAGE_SIDE = 2048
# A PNG keeps drawings exact. It is used unless it is this many times as large as a JPEG.
PNG_FACTOR = 2
_PAGE_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; background: light-dark(#ffffff, #18181b); }
main { max-width: 78rem; margin-inline: auto; padding: clamp(0.75rem, 3vw, 2.5rem); }
"""


def answer_page(
    image: Image.Image, answer: GroundedText, *, question: Question | None = None, title: str = "Grounded answer"
) -> str:
    """Write an answer as a page that needs nothing else: pointing at a phrase lights its places in the image.

    Args:
        image (`PIL.Image.Image`): the image that the answer is about; it is not changed. In the page its longer side
            has at most 2048 pixels.
        answer (`GroundedText`): the answer, with boxes in absolute pixels (`xyxy`) of the upright image.
        question (`str` or `Sequence[Mapping]`, *optional*): what was asked; in a string `<region>` stands for the next
            region that the user pointed at.
        title (`str`): of the page.

    Returns:
        `str`: HTML. Its content security policy allows nothing but its own style, script and image.

    Example:
    >>> import torch
    >>> from PIL import Image
    >>> from transformers_groma.apps.answer_page import answer_page
    >>> from transformers_groma.grounding import ground_text
    >>> answer = ground_text("<p>a dog</p> <roi><r0></roi> runs.", torch.tensor([[20.0, 40, 120, 200]]))
    >>> page = answer_page(Image.new("RGB", (320, 240)), answer, question="What is it?")
    >>> page.startswith("<!doctype html>"), "://" in page
    (True, False)
    """
    return conversation_page(image, [Turn(question or "", answer)], title=title)


def conversation_page(image: Image.Image, turns: Sequence[Turn], *, title: str = "Conversation") -> str:
    """Write a conversation about an image as a page that needs nothing else.

    Args:
        image (`PIL.Image.Image`): the image that the conversation is about, see [`answer_page`].
        turns (`Sequence[Turn]`): questions and answers, oldest first; boxes are `xyxy` in absolute pixels of the
            upright image.
        title (`str`): of the page.

    Returns:
        `str`: HTML, see [`answer_page`].

    Example:
    >>> import torch
    >>> from PIL import Image
    >>> from transformers_groma.apps.answer_page import conversation_page
    >>> from transformers_groma.grounding import ground_text
    >>> boxes = torch.tensor([[20.0, 40, 120, 200]])
    >>> turns = [Turn("What is it?", ground_text("<p>A dog</p> <roi><r0></roi>.", boxes))]
    >>> turns.append(Turn("What does it do?", ground_text("It runs.", boxes)))
    >>> conversation_page(Image.new("RGB", (320, 240)), turns).count('class="groma-question"')
    2
    """
    shown = upright(image).convert("RGB")
    size = ImageSize(shown.height, shown.width)
    view = answer_view("answer", turns, image_url=image_data_url(shown), size=size)
    script = view_script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en" class="groma-page">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_PAGE_STYLE}{view_style()}</style>\n</head>\n"
        f"<body>\n<main>{view}</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def image_data_url(image: Image.Image) -> str:
    """An image as a data URL: a PNG, or a JPEG where that is much smaller.

    Args:
        image (`PIL.Image.Image`): upright, RGB. It is scaled down to a longer side of 2048 pixels.

    Returns:
        `str`: `data:image/…;base64,…`.

    Example:
    >>> image_data_url(Image.new("RGB", (320, 240)))[:22]
    'data:image/png;base64,'
    """
    image = image.copy()
    image.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG")
    image.save(jpeg, "JPEG", quality=90, subsampling=0)
    kind, data = ("png", png) if len(png.getvalue()) <= PNG_FACTOR * len(jpeg.getvalue()) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


__all__ = ["answer_page", "conversation_page", "image_data_url"]
