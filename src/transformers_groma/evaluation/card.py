"""Old name of `transformers_groma.evaluation.reports.card`, kept for existing imports."""

from .reports.card import *  # noqa: F403
