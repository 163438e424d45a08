"""Inputs for tests of the command line."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
PHOTO = TESTS / "fixtures" / "photos" / "cat_and_dog.jpg"
TINY = TESTS.parent / "hub_configs" / "groma-tiny"
BOX = "30,212,372,585"
SHORT = ("--max-new-tokens", "8")
