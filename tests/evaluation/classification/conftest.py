"""The tiny dual encoder, and a dataset of eleven images of four classes."""

from pathlib import Path

import pytest

from transformers_groma.evaluation.classification.table_rows import TextFiles
from transformers_groma.zero_shot.dual_encoder import DualEncoder

from .samples import CASES, golden_case, image_folder


@pytest.fixture(scope="package")
def encoder() -> DualEncoder:
    return DualEncoder.from_pretrained(CASES / "clip_b2_c4" / "model", device="cpu")


@pytest.fixture(scope="package")
def folder(tmp_path_factory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images") / "shapes")


@pytest.fixture(scope="package")
def files() -> TextFiles:
    case = golden_case()
    return TextFiles(case["descriptions"], case["clip_d"], case["clip_e"])
