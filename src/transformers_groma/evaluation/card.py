"""The results in a model card moved to `transformers_groma.evaluation.reports.card`; this name keeps working."""

from .reports.card import *  # noqa: F403
