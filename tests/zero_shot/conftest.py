"""Fixtures of the zero-shot tests: the golden cases of the original code, each loaded once."""

from pathlib import Path

import pytest

from .golden_cases import GoldenCase, load_golden_case

CASES = sorted(
    folder for folder in (Path(__file__).parents[1] / "fixtures" / "golden_wca").iterdir() if folder.is_dir()
)


@pytest.fixture(scope="session")
def first_case() -> GoldenCase:
    """One golden case, for tests that need an encoder and images. Don't change it."""
    return load_golden_case(CASES[0])


@pytest.fixture(scope="session", params=CASES, ids=lambda folder: folder.name)
def golden_case(request) -> GoldenCase:
    """Each golden case. Don't change it."""
    return load_golden_case(request.param)
