"""Helpers for tests of pipelines."""

from transformers_groma import GroundedText

BOX = [20.0, 30.0, 200.0, 180.0]


def same(first: GroundedText, second: GroundedText) -> bool:
    return first.markup == second.markup and first.to_dict() == second.to_dict()
