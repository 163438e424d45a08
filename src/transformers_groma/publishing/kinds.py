"""Tells what a folder holds that could go to the Hub: a model, a dataset, a metric, a Space or a kernel."""

from pathlib import Path
from typing import Any, Literal, get_args

import yaml

Kind = Literal["model", "dataset", "metric", "space", "kernel"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(folder: Path) -> Kind:
    """Tell what a folder holds.

    Args:
        folder (`Path`): a model as `save_pretrained` writes it, a folder of Parquet files (or of such folders), a
            folder of `metrics/` or `kernels/`, or one with a Space's app.

    Returns:
        `str`: one of `KINDS`.

    Raises:
        ValueError: it is not a folder, or holds none of these, or several.

    Example:
    >>> kind_of(Path("hub_configs/groma-tiny")), kind_of(Path("metrics/rec_accuracy"))
    ('model', 'metric')
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    metadata = card_metadata(folder)
    found = {
        "model": any((folder / name).is_file() for name in ("config.json", "adapter_config.json")),
        "dataset": any(folder.glob("*.parquet")) or any(folder.glob("[!._]*/*.parquet")),
        # A metric is a Space for the Hub; what tells it apart is its script and its tag.
        "metric": (folder / f"{folder.resolve().name}.py").is_file() and "metric" in (metadata.get("tags") or ()),
        "space": "sdk" in metadata and (folder / "app.py").is_file(),
        "kernel": (folder / "build.toml").is_file(),
    }
    kinds = [kind for kind, is_it in found.items() if is_it]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise ValueError(f"{folder} could be pushed as {' or '.join(kinds)}: say which with `--type`.")
    raise ValueError(
        f"{folder} holds nothing that is pushed: neither a model (config.json), nor Parquet files, nor a metric "
        "(README.md with the tag `metric`, and its script), nor a Space (app.py, and `sdk` in README.md), nor a "
        "kernel (build.toml)."
    )


def card_metadata(folder: Path) -> dict[str, Any]:
    """The metadata at the head of a folder's README.md.

    Args:
        folder (`Path`): the folder.

    Returns:
        `dict`: empty without a README.md or without metadata.

    Raises:
        ValueError: the metadata is not a YAML object, or the file is not text.

    Example:
    >>> card_metadata(Path("metrics/rec_accuracy"))["sdk"]
    'static'
    """
    path = folder / "README.md"
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8. Save it as UTF-8, then push again.") from error
    return metadata_of(text, path)


def metadata_of(card: str, name: str | Path = "README.md") -> dict[str, Any]:
    r"""The metadata at the head of a card.

    Args:
        card (`str`): its text.
        name (`str` or `Path`): what errors call it.

    Returns:
        `dict`: empty without metadata.

    Raises:
        ValueError: the metadata is not a YAML object.

    Example:
    >>> metadata_of("---\nsdk: static\n---\n# Title\n")
    {'sdk': 'static'}
    """
    lines = card.splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (ends := [line.strip() for line in lines[1:]]):
        return {}
    try:
        metadata = yaml.safe_load("\n".join(lines[1 : 1 + ends.index("---")]))
    except yaml.YAMLError as error:
        raise ValueError(f"The metadata of {name} is not YAML ({error}). Correct it, then push again.") from error
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError(f"The metadata of {name} is not a list of `name: value`. Correct it, then push again.")
    return metadata or {}


__all__ = ["KINDS", "Kind", "card_metadata", "kind_of", "metadata_of"]
