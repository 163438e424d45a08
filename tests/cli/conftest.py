"""Fixtures of the command line. It runs in this process, so that the imports are paid for once."""

from pathlib import Path

import pytest

from transformers_groma import GromaForRegionProposal, GromaImageProcessor, cli

from ..tiny import MASK_DECODER
from ..tiny_checkpoint import save_tiny_checkpoint
from .samples import PHOTO, SCENE, SHORT


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit code, stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def scene_png(tmp_path_factory) -> Path:
    """The scene as a file, for questions that groma-tiny answers correctly."""
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    SCENE.draw().save(path)
    return path


@pytest.fixture(scope="module")
def tiny_dir(golden_dir, tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), golden_dir)


@pytest.fixture
def chat(run, tiny_dir):
    def chat(*arguments):
        return run("chat", PHOTO, *arguments, "--model", tiny_dir, *SHORT)

    return chat


@pytest.fixture(scope="module")
def detector_dir(tiny_dir, tmp_path_factory) -> Path:
    """The detector of the tiny model alone."""
    folder = tmp_path_factory.mktemp("detector")
    GromaForRegionProposal.from_pretrained(tiny_dir).save_pretrained(folder)
    GromaImageProcessor.from_pretrained(tiny_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def masking_dir(golden_dir, tmp_path_factory) -> Path:
    """The tiny model with a mask decoder."""
    folder = tmp_path_factory.mktemp("masking")
    return save_tiny_checkpoint(folder, golden_dir, mask_decoder_config=MASK_DECODER)
