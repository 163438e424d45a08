"""Examples of the app for the tiny models: scenes of shapes, each with a question that groma-tiny answers right."""

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..questions import GLAMM_QUESTIONS, QuestionWording
from ..shapes.demo import scene_questions
from ..shapes.glamm_wording import in_glamm_words
from ..shapes.scenes import Scene, make_scene
from ..shapes.world import Exchange, Phrase, Region

# Scenes of the split "test", which the tiny models were not trained on.
SCENE_SEED = 0
SCENE_SIZE = 640
THUMBNAIL_SIDE = 320


@dataclass(frozen=True)
class Example:
    """A scene and a question about it.

    Args:
        number (`int`): of the test scene.
        kind (`str`): which question about it, see `shapes.demo.scene_questions`.
        title (`str`): what is asked, as its card says it.
    """

    number: int
    kind: str
    title: str

    @property
    def scene(self) -> Scene:
        """The scene, not drawn yet."""
        return make_scene(SCENE_SEED, "test", self.number, SCENE_SIZE)

    @property
    def exchange(self) -> Exchange:
        """The question and its true answer."""
        return scene_questions(self.scene)[self.kind]

    def content(self, wording: QuestionWording) -> list[dict[str, Any]]:
        """The question as message parts, as the family of a model asks it; boxes are `xyxy` in absolute pixels."""
        boxes = self.scene.boxes_xyxy
        exchange = in_glamm_words(self.exchange) if wording is GLAMM_QUESTIONS else self.exchange
        parts: list[dict[str, Any]] = []
        for part in exchange.question:
            match part:
                case Region(index):
                    parts.append({"type": "region", "box": boxes[index]})
                case Phrase(text):
                    parts.append({"type": "phrase", "text": text, "boxes": []})
                case _:
                    parts.append({"type": "text", "text": part})
        return parts

    def thumbnail(self) -> str:
        """The scene as a data URL, small enough for a page."""
        image = self.scene.draw()
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=80)
        return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


EXAMPLES = (
    Example(3, "description", "Describe the image"),
    Example(10, "neighbor", "What is left of this?"),
    Example(6, "group", "Find all red hearts"),
    Example(9, "expression", "Find the small red rectangle"),
)

__all__ = ["EXAMPLES", "SCENE_SIZE", "Example"]
