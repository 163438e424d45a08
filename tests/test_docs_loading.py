"""The Python code of docs/loading.md runs and prints what the page says."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import pytest

from .run_document import blocks

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
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(DOCUMENT), "exec"), namespace)
        promised = [
            line.split("  # ")[1] for line in code.splitlines() if line.lstrip().startswith("print") and "  # " in line
        ]
        if promised:
            assert printed.getvalue().splitlines() == promised
        elif "except ValueError" in code:
            assert printed.getvalue().startswith("`refer_boxes` is torch.bfloat16")
        ran += 1
    assert ran == 8
