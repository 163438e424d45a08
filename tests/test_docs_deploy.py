"""docs/deploy.md: its commands and its code run, and it names the options as the commands do."""

import re
from pathlib import Path

import pytest

from transformers_groma import cli
from transformers_groma.loading_options import ATTENTIONS, QUANTIZATIONS

from .run_document import read_blocks, run_block

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "deploy.md"


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    for name in ("hub_configs", "docs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)


def run_blocks(exports: bool) -> None:
    """The blocks in order; those from the export on take minutes on a small machine."""
    for package in ("torchao", "accelerate", *(("onnx", "onnxscript", "onnxruntime") if exports else ())):
        pytest.importorskip(package)
    namespace: dict = {"__name__": "page"}
    found = read_blocks(PAGE)
    first_export = next(index for index, block in enumerate(found) if "export-perception" in block.text)
    assert 0 < first_export < len(found)
    for block in found if exports else found[:first_export]:
        if block.language in ("bash", "python"):
            run_block(block, PAGE.name, namespace)


def test_the_options(checkout):
    run_blocks(exports=False)


@pytest.mark.slow
def test_the_whole_page(checkout):
    run_blocks(exports=True)


def test_the_page_names_all_values():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"--quantization {value}" in text for value in QUANTIZATIONS)
    assert all(f"`{value}`" in text for value in ATTENTIONS)


def test_the_page_names_the_commands_that_load_a_model():
    named = re.search(r"take them: (.*)\.\n", PAGE.read_text(encoding="utf-8"))[1]
    for command in re.findall(r"`(?:groma )?([a-z]+)`", named):
        parser = cli.build_parser()
        commands = next(action for action in parser._actions if action.dest == "command").choices
        if command in commands:  # `annotate` comes with its own task
            assert "--quantization" in commands[command].format_help(), command
