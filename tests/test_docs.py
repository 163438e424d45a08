"""Examples in the documentation run: README, and every docstring with a prompt."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import transformers_groma

REPOSITORY = Path(__file__).parents[1]
MODULES = sorted(
    name.removeprefix("transformers_groma.")
    for _, name, _ in pkgutil.walk_packages(transformers_groma.__path__, "transformers_groma.")
    if "._" not in name
)


@pytest.mark.parametrize("path", ["README.md"])
def test_examples_in_documents(path, monkeypatch, tmp_path):
    """The Python blocks of a document, run one after the other as a reader would."""
    (tmp_path / "hub_configs").symlink_to(REPOSITORY / "hub_configs")
    (tmp_path / "tests").symlink_to(REPOSITORY / "tests")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / path).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, path, "exec"), namespace)
    assert (tmp_path / "answer.png").stat().st_size > 1000
    assert len(namespace["answers"]) == 2
    assert [round(value) for value in namespace["answer"].regions[0].box.tolist()] == [30, 212, 372, 585]


def docstrings_with_examples() -> list[tuple[str, str]]:
    found = []
    for name in MODULES:
        module = importlib.import_module(f"transformers_groma.{name}")
        members = [("", module)] + [
            (key, value) for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        ]
        for key, value in members:
            inner = [(f".{k}", v) for k, v in vars(value).items()] if isinstance(value, type) else []
            for suffix, item in [("", value), *inner]:
                text = getattr(item, "__doc__", None)
                if isinstance(text, str) and ">>> " in text:
                    found.append((f"{name}:{key}{suffix}", text))
    return found


@pytest.mark.parametrize(("name", "text"), docstrings_with_examples(), ids=lambda value: value.split("\n")[0][:60])
def test_examples_in_docstrings(name, text, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    module = importlib.import_module(f"transformers_groma.{name.split(':')[0]}")
    torch.manual_seed(0)
    # Fences of Markdown would be read as expected output.
    text = re.sub(r"^\s*```.*$", "", text, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {**vars(module), "torch": torch}, name, None, None)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    result = runner.run(test, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


def test_contributing_maps_every_file():
    """The tree in CONTRIBUTING.md names every module, script and folder that is there."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    names = [path.name for path in (REPOSITORY / "src" / "transformers_groma").glob("**/*.py")]
    names += [path.name for path in (REPOSITORY / "processing").glob("**/*.py")]
    names += [path.name for folder in ("benchmarks", "hub_configs") for path in (REPOSITORY / folder).glob("*.py")]
    names += [path.name for path in (REPOSITORY / "tests").glob("*.py")]
    missing = [name for name in names if name not in text]
    assert not missing
