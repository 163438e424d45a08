"""The Python code of docs/loading.md runs and prints what the page says."""

import importlib.util
import re
from pathlib import Path

import pytest

from .run_document import blocks, run_python

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "loading.md"


@pytest.mark.parametrize("with_bitsandbytes", [False, True])
def test_the_document_runs(monkeypatch, tmp_path, with_bitsandbytes):
    if with_bitsandbytes and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    (tmp_path / "hub_configs").symlink_to(REPOSITORY / "hub_configs")
    monkeypatch.chdir(tmp_path)
    namespace, ran = {}, 0
    for language, code in blocks(DOCUMENT):
        assert language == "python"
        if "bitsandbytes" in code and not with_bitsandbytes:
            # What follows uses its pixels.
            code = re.search(r"^pixels = .*$", code, flags=re.MULTILINE).group()
        printed = run_python(code, DOCUMENT.name, namespace)
        if "except ValueError" in code:
            assert printed.startswith("`refer_boxes` is torch.bfloat16")
        ran += 1
    assert ran == 9
