"""Golden cases of the original GLaMM, and its tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaTokenizer

from transformers_groma.models.glamm.image_processing_glamm import GlammImageProcessor
from transformers_groma.models.glamm.processing_glamm import GlammProcessor
from transformers_groma.models.glamm.tokenization_glamm import (
    LEGACY_IMAGE_TOKEN,
    add_glamm_tokens,
    convert_glamm_tokenizer,
)


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


@pytest.fixture(scope="session")
def glamm_train(glamm_text_dir) -> dict[str, Any]:
    """Conversations, ids and labels of the original's collator. Don't change it; it is read once."""
    return json.loads((glamm_text_dir / "train_text.json").read_text())


@pytest.fixture
def processor(glamm_tokenizer) -> GlammProcessor:
    """As of a converted checkpoint, with a small grounding view."""
    image_processor = GlammImageProcessor(do_center_crop=True, grounding_size=64)
    return GlammProcessor(image_processor, glamm_tokenizer, image_token=LEGACY_IMAGE_TOKEN)


@pytest.fixture(scope="session")
def new_tokenizer(glamm_text_dir, tmp_path_factory):
    """A language model's tokenizer of today, with GLaMM's tokens. Don't change it; it is built once."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(glamm_text_dir / "legacy_checkpoint" / name, folder)
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    add_glamm_tokens(tokenizer)
    return tokenizer


@pytest.fixture(params=["converted", "new"])
def any_processor(request, processor, new_tokenizer) -> GlammProcessor:
    if request.param == "converted":
        return processor
    return GlammProcessor(GlammImageProcessor(grounding_size=64), new_tokenizer)
