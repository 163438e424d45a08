"""The card that goes up with a model: written if there is none, completed, and refused while fields are open."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from ..markdown import python_string
from ..model_cards import ModelKind, fill_model_card
from .kinds import card_metadata

# What templates leave to their authors.
_OPEN_FIELDS = re.compile(
    r"(?i:\[more information needed\]|<!--\s*provide\b.*?-->)|\{\{\s+[a-z_].*?\}\}|\{%.*?%\}|\b(?:TODO|FIXME|TBD)\b",
    re.DOTALL,
)
_TITLE = re.compile(r"^# (.+?)\s*$", re.MULTILINE)
_CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_PIPELINE_TAGS = {"chat": "image-text-to-text", "glamm": "image-text-to-text", "detector": "object-detection"}
_TAGS = {
    "chat": ("groma", "visual-grounding"),
    "glamm": ("glamm", "visual-grounding"),
    "detector": ("groma", "region-proposal"),
}
_SENTENCE_WITHOUT_CODE = re.compile(
    r"^Without the package it does not load: this repository holds no code\..*$", re.MULTILINE
)


def published_card(
    folder: Path,
    repo_id: str,
    kind: ModelKind,
    *,
    license: str | None = None,
    base_model: str | None = None,
    is_adapter: bool = False,
    has_code: bool = False,
    config: Mapping[str, Any] | None = None,
) -> tuple[str, list[str]]:
    """The card of a model for its repository.

    A folder without a card gets one from the template of all models. One that it has keeps its text: its examples
    load the repository instead of the folder, and metadata that the Hub needs is added where it is missing.

    Args:
        folder (`Path`): folder of the model.
        repo_id (`str`): where it goes.
        kind (`str`): `"chat"`, `"detector"` or `"glamm"`.
        license (`str`, *optional*): in place of what the card says.
        base_model (`str`, *optional*): Hub name, in place of what the card says.
        is_adapter (`bool`): whether these are the weights of an adapter.
        has_code (`bool`): whether the code goes up too.
        config (`Mapping`, *optional*): content of config.json.

    Returns:
        The card, and what was changed or is worth knowing, for the user.

    Raises:
        ValueError: no licence, open fields, or metadata that cannot be read.
    """
    path = folder / "README.md"
    if not path.is_file():
        if license is None:
            raise ValueError(
                f"{folder} has no card (README.md): write one, or name the licence of the weights with --license (as "
                "apache-2.0, mit or llama2), and a card is made from the template."
            )
        text = fill_model_card(
            kind,
            repo_id.split("/")[1],
            model=repo_id,
            license=license,
            base_model=base_model,
            has_masks=bool((config or {}).get("mask_decoder_config")) and kind != "glamm",
            is_adapter=is_adapter,
            remote_code=has_code,
            config=config,
        )
        return text, ["README.md: a card from the template; data, recipe and metrics in it are unknown"]
    card_metadata(folder)  # reads it, or raises with what to do
    content = path.read_text(encoding="utf-8")
    check_no_open_fields(content, path)
    try:
        card = ModelCard(content)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The metadata of {path} cannot be read ({reason}). Correct it, then push again.") from error
    changes = _complete_metadata(card, kind, license, base_model)
    if not card.data.get("license"):
        raise ValueError(f"{path} does not say the licence of the weights: name it with --license, as apache-2.0.")
    names = {folder.resolve().name, *_TITLE.findall(card.text)[:1]}
    text = _CODE.sub(lambda block: _loading(block[0], names, repo_id), card.content)
    if has_code:
        text = _SENTENCE_WITHOUT_CODE.sub(
            "Without the package it loads with `trust_remote_code=True`, which runs the code of this repository.", text
        )
    if text != card.content:
        changes.append(f"README.md: its examples load {repo_id}")
    return text, changes


def _complete_metadata(card: ModelCard, kind: ModelKind, license: str | None, base_model: str | None) -> list[str]:
    """Add what the Hub needs to the metadata; returns what was added."""
    data, changes = card.data, []
    wanted = {"license": license, "base_model": base_model}
    wanted |= {
        name: value
        for name, value in (("library_name", "transformers"), ("pipeline_tag", _PIPELINE_TAGS[kind]))
        if not data.get(name)
    }
    for name, value in wanted.items():
        if value is not None and data.get(name) not in (value, [value]):
            setattr(data, name, value)
            changes.append(f"README.md: {name} is {value}")
    tags = list(data.get("tags") or [])
    missing = [tag for tag in _TAGS[kind] if tag not in tags]
    if missing:
        data.tags = [*tags, *missing]
        changes.append(f"README.md: tagged {', '.join(missing)}")
    return changes


def _loading(code: str, names: Iterable[str], repo_id: str) -> str:
    """Code whose string literals for the folder, or for what the card calls the model, name the repository."""
    named = "|".join(map(re.escape, sorted(names)))
    literal = re.compile(rf"([\"'])(?:[\w./~-]*/)?(?:{named})/?\1")
    return literal.sub(lambda _: python_string(repo_id), code)


def check_no_open_fields(card: str, path: Path) -> None:
    """Check that nothing in a card was left to be filled in.

    Args:
        card (`str`): its text.
        path (`Path`): where it is from, for the message.

    Raises:
        ValueError: a placeholder of a template, outside of code.

    Example:
    >>> check_no_open_fields("# My Groma\\n\\nTrained on [More Information Needed].", Path("README.md"))
    Traceback (most recent call last):
    ValueError: README.md, line 3: '[More Information Needed]' is not filled in. Complete the card, then push again.
    """
    # Code and citations may hold braces; lines keep their numbers.
    text = _CODE.sub(lambda block: "\n" * block[0].count("\n"), card)
    found = _OPEN_FIELDS.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        words = " ".join(found[0].split())[:80]
        raise ValueError(f"{path}, line {line}: {words!r} is not filled in. Complete the card, then push again.")


__all__ = ["check_no_open_fields", "published_card"]
