"""The scenes moved to `transformers_groma.shapes.scenes`; this name keeps working."""

from ..shapes.scenes import *  # noqa: F403
