"""Finds tokens and private keys in what would go up to the Hub, where everybody could read them."""

import re
from pathlib import Path

from .contents import Contents
from .machine_paths import searched_pieces
from .parquet_texts import texts_of_parquet

# By what people call it, how it is written.
_SECRETS = {
    "a token of Hugging Face": rb"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{30,}(?![A-Za-z0-9])",
    "a token of GitHub": rb"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "a key of a language model's service": rb"(?<![A-Za-z0-9])sk-(?:[a-z0-9]+-)*[A-Za-z0-9_]{32,}",
    "a key of AWS": rb"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
}
_PATTERNS = {what: re.compile(pattern) for what, pattern in _SECRETS.items()}


def check_no_secrets(contents: Contents) -> None:
    """Check that no file holds a token or a private key.

    Args:
        contents (`Contents`): what would go up. Of Parquet files the texts are searched, in all columns.

    Raises:
        ValueError: a file does; the message does not repeat it.

    Example:
    >>> check_no_secrets(Contents("model", {"config.json": b'{"model_type": "groma"}'}))
    >>> check_no_secrets(Contents("model", {"config.json": b'{"token": "hf_%s"}' % (b"x" * 34)}))
    Traceback (most recent call last):
    ValueError: config.json holds a token of Hugging Face, in line 1. Remove it there, and revoke it if it was shared.
    """
    for name, source in contents.files.items():
        if isinstance(source, Path) and name.endswith(".parquet"):
            _check_parquet(name, source)
            continue
        lines = 1
        for piece in searched_pieces(name, source):
            for what, pattern in _PATTERNS.items():
                match = pattern.search(piece)
                if match is not None:
                    line = lines + piece.count(b"\n", 0, match.start())
                    raise ValueError(
                        f"{name} holds {what}, in line {line}. Remove it there, and revoke it if it was shared."
                    )
            lines += piece.count(b"\n")


def _check_parquet(name: str, path: Path) -> None:
    for column, texts in texts_of_parquet(name, path):
        joined = "\n".join(texts).encode("utf-8", "replace")
        for what, pattern in _PATTERNS.items():
            if pattern.search(joined):
                raise ValueError(
                    f"{name} holds {what}, in its column {column!r}. Remove it there, and revoke it if it was shared."
                )


__all__ = ["check_no_secrets"]
