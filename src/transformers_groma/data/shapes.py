"""Old name of `transformers_groma.shapes.scenes`, kept for existing imports."""

from ..shapes.scenes import *  # noqa: F403
