"""Fixtures of annotation: the command in this process, so that imports are paid for once."""

import pytest
from transformers import pipeline as load_pipeline

from transformers_groma import cli

from .samples import GLAMM, TINY, write_photos


@pytest.fixture(scope="session")
def groma():
    """groma-tiny as a pipeline."""
    return load_pipeline("image-grounding", model=str(TINY), device="cpu")


@pytest.fixture(scope="session")
def glamm():
    """glamm-tiny as a pipeline."""
    if not (GLAMM / "model.safetensors").is_file():
        pytest.skip("glamm-tiny is not trained: `make train-tiny`")
    return load_pipeline("image-grounding", model=str(GLAMM), device="cpu")


@pytest.fixture
def annotate(capsys):
    """Runs the command; returns its exit code and what it says."""

    def annotate(*arguments) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main(["annotate", "--device", "cpu", *map(str, arguments)])
        return code, capsys.readouterr().err

    return annotate


@pytest.fixture
def photos(tmp_path):
    """A folder of four scenes."""
    return write_photos(tmp_path / "photos", 4)
