"""Inputs for tests of the command line."""

from pathlib import Path

from transformers_groma.shapes.scenes import make_scene
from transformers_groma.shapes.wording import sentence, with_article, words

TESTS = Path(__file__).parents[1]
PHOTO = TESTS / "fixtures" / "photos" / "cat_and_dog.jpg"
# What files of answers say about their image.
PHOTO_NOTE = {"name": str(PHOTO), "width": 800, "height": 601}
TINY = TESTS.parent / "hub_configs" / "groma-tiny"
BOX = "30,212,372,585"
SHORT = ("--max-new-tokens", "8")
SCENE = make_scene(0, "test", 3, 448)


def box_of(index: int) -> str:
    """An object's box, as `--box` takes it."""
    return ",".join(map(str, SCENE.boxes_xyxy[index]))


def truth(index: int) -> str:
    """What describes an object of the scene."""
    return sentence(with_article(words(SCENE.objects[index].attributes)))
