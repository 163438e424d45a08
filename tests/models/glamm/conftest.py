"""Golden cases of the original GLaMM, and its tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest

from transformers_groma.models.glamm.tokenization_glamm import convert_glamm_tokenizer


@pytest.fixture(scope="session")
def glamm_golden() -> Path:
    """All golden cases, beside the checkout where the project is developed; they are too large for the repository."""
    folder = Path(__file__).parents[4] / "shared" / "golden_glamm"
    if not folder.is_dir():
        pytest.skip("the full golden data is not beside this checkout (../shared/golden_glamm)")
    return folder


@pytest.fixture(scope="session")
def glamm_text_dir() -> Path:
    """Texts with the original's ids and labels, and its tokenizer, as they are in the golden data."""
    return Path(__file__).parents[2] / "fixtures" / "golden_glamm"


@pytest.fixture(scope="session")
def glamm_text(glamm_text_dir) -> dict[str, Any]:
    """Texts and the ids that the original gave them. Don't change it; it is read once."""
    return json.loads((glamm_text_dir / "case_text.json").read_text())


@pytest.fixture(scope="session")
def glamm_tokenizer(glamm_text_dir):
    """Toy tokenizer of 320 pieces and the seven tokens of GLaMM. Don't change it; it is built once."""
    return convert_glamm_tokenizer(glamm_text_dir / "legacy_checkpoint")
