"""Every block of code in docs/ runs, or says why not and parses; those of other documents parse."""

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml

from processing.grand.__main__ import build_parser
from processing.grand.job import step_parser
from transformers_groma import cli

from .models.glamm.legacy import write_legacy
from .run_document import commands, read_blocks, run_block
from .test_docs_training import parse_processing, parse_stage

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
# Pages that need more than a folder to run in, and the tests that run them. All others run here.
OWN_TESTS = {
    "deploy.md": "test_docs_deploy.py",
    "evaluation.md": "test_docs_evaluation.py",
    "finetune.md": "test_docs_finetune.py",
    "grand.md": "processing/grand/test_docs.py",
    "loading.md": "test_docs_loading.py",
    "own-language-model.md": "test_own_language_model.py",
    "serve.md": "test_docs_serve.py",
    "roi-geometry.md": "benchmarks/test_roi_geometry.py",
    "several-turns.md": "test_docs_turns.py",
    "training.md": "test_docs_training.py",
}
# Documents elsewhere whose blocks have to parse, too.
ELSEWHERE = ("../README.md", "../CONTRIBUTING.md", "../kernels/README.md", "../processing/README.md")
# What a page may tell a reader to run besides `groma`.
PROGRAMS = {"accelerate", "curl", "hf", "make", "pip", "python", "ray", "serve", "vllm"}
SHELL_WORDS = {"do", "done", "export", "for"}


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A folder with what pages find: the repository's files, a photo, and a checkpoint of the original code."""
    for name in ("hub_configs", "docs", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    fixtures = REPOSITORY / "tests" / "fixtures"
    (tmp_path / "original").symlink_to(fixtures / "golden" / "legacy_checkpoint")
    write_legacy(fixtures / "golden_glamm", tmp_path / "original-glamm")
    (tmp_path / "photo.jpg").symlink_to(fixtures / "photos" / "cat_and_dog.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", sorted(set(PAGES) - set(OWN_TESTS)))
def test_blocks_run(page, checkout, capfd):
    namespace: dict = {"__name__": "page"}
    printed = ""
    for block in read_blocks(DOCS / page):
        if block.shows_output:
            assert printed == block.text, f"{page}:{block.line}"
        if block.reason is None and block.language in ("bash", "python"):
            printed = run_block(block, page, namespace)


@pytest.mark.parametrize("page", [*PAGES, *ELSEWHERE])
def test_blocks_parse(page, monkeypatch):
    for block in read_blocks(DOCS / page):
        if block.language == "python":
            compile(block.text, f"{page}:{block.line}", "exec")
        elif block.language == "json":
            [json.loads(line) for line in block.text.splitlines()]
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "bash":
            for words in commands(block.text):
                check_command(words, monkeypatch)
        else:
            assert block.language in ("", "text", "bibtex"), f"{page}:{block.line}: what is {block.language}?"


def check_command(words: list[str], monkeypatch) -> None:
    """Fail for a command that its program would not read."""
    words = words[:-1] if words[-1] == "&" else words
    if "--help" in words:
        assert words[0] in PROGRAMS | {"groma"}, words
    elif words[0] == "groma" and words[1] == "train":
        parse_stage(words[2], words[3:], monkeypatch)
    elif words[0] == "groma":
        cli.build_parser().parse_args(words[1:])
    elif words[:2] == ["python", "-m"] and words[2].startswith("processing.grand."):
        step_parser(importlib.import_module(words[2]).STEP, None).parse_args(words[3:])
    elif words[:3] == ["python", "-m", "processing.grand"]:
        build_parser().parse_args(words[3:])
    elif words[:2] == ["python", "-m"] and words[2].startswith("processing."):
        parse_processing(words, monkeypatch)
    elif words[0] not in SHELL_WORDS:
        assert words[0] in PROGRAMS, words
        if words[0] == "make":
            makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
            assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in words[1:]), words
        if words[0] == "python" and words[1] != "-m":
            assert (REPOSITORY / words[1]).exists(), words


@pytest.mark.parametrize(("page", "test"), OWN_TESTS.items())
def test_pages_with_their_own_tests(page, test):
    assert page in PAGES
    assert page in (Path(__file__).parent / test).read_text(encoding="utf-8")


def test_ratios_of_kernels_are_those_that_were_measured():
    ratios = re.findall(r"\d+\.\d+x", (DOCS / "kernels.md").read_text(encoding="utf-8"))
    measured = (REPOSITORY / "kernels" / "README.md").read_text(encoding="utf-8")
    assert len(ratios) == 3 and all(f"| {ratio} |" in measured for ratio in ratios)


def test_only_what_needs_more_than_this_machine_is_not_run():
    """The reason of every block that is not run is a sentence, and they are few."""
    for page in PAGES:
        for block in read_blocks(DOCS / page):
            assert block.reason is None or len(block.reason.split()) >= 3, f"{page}:{block.line}: {block.reason}"
