"""What of a model's folder goes up to the Hub: its files and card, without what only this machine knows."""

import json
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import constants
from transformers.utils import CHAT_TEMPLATE_DIR

from ..hub_names import has_owner_and_name, is_hub_name
from ..model_cards import KIND_OF_TYPE, ModelKind
from ..model_files import checked_file, model_files, read_json
from .contents import Contents, left_out_of
from .kinds import metadata_of
from .machine_paths import VOCABULARIES
from .model_checks import check_adapter, check_model
from .published_card import published_card

# A push with fewer shards, or an adapter in place of a model, leaves nothing of the one before: an adapter beside a
# config.json would be read as a model without weights.
WEIGHTS_THERE = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin*",
    "adapter_config.json",
    "config.json",
)
# Settings that say where the model was loaded from. They are no use to others.
_ORIGINS = ("_name_or_path", "name_or_path")
# Folders of a model: results of evaluations, and chat templates beside the first.
_FOLDERS = {constants.EVAL_RESULTS_FOLDER: "*.yaml", CHAT_TEMPLATE_DIR: "*.jinja"}
_IMAGE_LINK = re.compile(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]+src=[\"']([^\"']+)")


def model_contents(
    folder: Path,
    repo_id: str,
    *,
    code: Mapping[str, bytes] | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> Contents:
    """Choose the files of a model or an adapter, and complete its card.

    Args:
        folder (`Path`): folder of a model as `save_pretrained`, `groma convert` or a training writes it.
        repo_id (`str`): where it goes; the card's examples load it from there.
        code (`Mapping[str, bytes]`, *optional*): files that make it load without this package, by name.
        license (`str`, *optional*): for the card, in place of what it says.
        base_model (`str`, *optional*): Hub name of what it was trained from, in place of what the folder says.

    Returns:
        `Contents`: its `changes` tell what differs from the folder.

    Raises:
        ValueError: the model is not complete, a file names a path of some machine, or the card has open fields.
    """
    files: dict[str, Path | bytes] = {path.name: path for path in model_files(folder)}
    is_adapter = "config.json" not in files
    settings: dict[str, Any] = {}
    changes: list[str] = []
    if is_adapter:
        base_model = check_adapter(folder, base_model)
        if code:
            raise ValueError(f"{folder} is an adapter, which holds no code: push it without --remote-code.")
    else:
        if base_model is not None and not (is_hub_name(base_model) and has_owner_and_name(base_model)):
            raise ValueError(f"--base-model {base_model!r} is not the name of a model on the Hub: write ORG/NAME.")
        check_model(folder)
        settings = read_json(checked_file(folder, "config.json"))
    files |= code or {}
    for name in sorted(name for name in files if name.endswith(".json") and name not in VOCABULARIES):
        if name.endswith(".index.json"):
            continue
        content = _json(files[name], folder / name)
        cleaned, removed = _without_origins(content)
        if name == "adapter_config.json" and content.get("base_model_name_or_path") != base_model:
            cleaned["base_model_name_or_path"] = base_model
            changes.append(f"adapter_config.json: base_model_name_or_path is {base_model}")
        _check_paths(cleaned, name)
        if cleaned != content:
            files[name] = (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()
            changes += [f"{name}: without {key}, {value!r}" for key, value in removed]
    kind = _kind_of_adapter(folder) if is_adapter else KIND_OF_TYPE[settings["model_type"]]
    card, said = published_card(
        folder,
        repo_id,
        kind,
        license=license,
        base_model=base_model,
        is_adapter=is_adapter,
        has_code=any(name.endswith(".py") for name in files),
        config=settings,
    )
    _check_paths(metadata_of(card), "README.md")
    files["README.md"] = card.encode()
    files |= _linked_images(folder, card)
    for place, pattern in _FOLDERS.items():
        for path in sorted((folder / place).glob(pattern)):
            files[f"{place}/{path.name}"] = path
    return Contents(
        "model",
        dict(sorted(files.items())),
        replaces=WEIGHTS_THERE,
        left_out=left_out_of(folder, files),
        changes=(*changes, *said),
        needs=(base_model,) if is_adapter else (),
    )


def _kind_of_adapter(folder: Path) -> ModelKind:
    """The family of an adapter's model, which its processor tells."""
    path = folder / "processor_config.json"
    processor = read_json(path).get("processor_class") if path.is_file() else None
    return "glamm" if processor == "GlammProcessor" else "chat"


def _json(source: Path | bytes, path: Path) -> dict[str, Any]:
    return read_json(path) if isinstance(source, Path) else json.loads(source)


def _without_origins(content: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Settings without the folders that they were loaded from, and which these were."""
    cleaned: dict[str, Any] = {}
    removed: list[tuple[str, str]] = []
    for key, value in content.items():
        if key in _ORIGINS and isinstance(value, str) and not is_hub_name(value):
            removed.append((key, value))
        elif isinstance(value, dict):
            cleaned[key], inside = _without_origins(value)
            removed += inside
        else:
            cleaned[key] = value
    return cleaned, removed


def _check_paths(value: Any, where: str) -> None:
    """Refuse settings that hold an absolute path, of this machine or another."""
    if isinstance(value, str) and _is_absolute(value):
        raise ValueError(
            f"{where} holds a path of a machine, {value!r}, which leads nowhere else. Correct it, then push again."
        )
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        if isinstance(key, str):
            _check_paths(key, where)
        _check_paths(child, f"{where}, {key!r}" if isinstance(key, str) else where)


def _is_absolute(text: str) -> bool:
    """Whether a text is an absolute path: `/data/x`, `C:\\x`, `\\\\host\\x`, `file:///x`, `~/x`, but not "/" alone."""
    if "\n" in text or len(text) > 4096:
        return False
    if text.startswith(("file://", "~/")):
        return True
    posix = PurePosixPath(text)
    is_posix = posix.is_absolute() and len(posix.parts) > 2 and " " not in text
    return is_posix or (PureWindowsPath(text).is_absolute() and bool(re.match(r"(?:[A-Za-z]:[\\/]|\\\\)\w", text)))


def _linked_images(folder: Path, card: str) -> dict[str, Path]:
    """The images of the folder that the card shows, by their paths."""
    found = {}
    for link in (first or second for first, second in _IMAGE_LINK.findall(card)):
        if "://" in link or link.startswith(("/", "data:", "#")):
            continue
        path = (folder / link).resolve()
        inside = path.relative_to(folder.resolve()) if path.is_relative_to(folder.resolve()) else None
        is_hidden = inside is not None and any(part.startswith(".") for part in inside.parts)
        if inside is None or not path.is_file() or is_hidden or not _is_shown(path):
            raise ValueError(
                f"README.md shows {link!r}, which is not an image in {folder}. Add it or remove the link."
            )
        found[inside.as_posix()] = folder / inside
    return found


def _is_shown(path: Path) -> bool:
    """Whether browsers show a file in place of an image."""
    kind, _ = mimetypes.guess_type(path.name)
    return (kind or "").startswith(("image/", "video/"))


__all__ = ["WEIGHTS_THERE", "model_contents"]
