"""Makes the running process a client of the Hub on this machine, for tests that need no process of their own."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers.utils import hub as transformers_hub

from .hub_server import TOKEN


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, home: Path, token: str | None = TOKEN) -> None:
    """Point `huggingface_hub` and transformers to a Hub, with a cache of its own.

    Args:
        monkeypatch (`pytest.MonkeyPatch`): undoes it.
        url (`str`): where the Hub listens.
        home (`Path`): folder for the cache.
        token (`str`, *optional*): who is logged in; nobody without it.
    """
    for name, value in (
        ("ENDPOINT", url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(home / "hub")),
        ("HF_TOKEN_PATH", str(home / "token")),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
    ):
        monkeypatch.setattr(constants, name, value)
    # Made once in a process, with the address of that moment.
    monkeypatch.setattr(transformers_hub, "_hf_api", None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", token or "")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
