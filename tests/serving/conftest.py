"""Fixtures of the server's tests; without its packages they are skipped."""

import pytest

pytest.importorskip("fastapi", reason='the server needs pip install "transformers-groma[serve]"')
