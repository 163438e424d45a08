"""Which model an exported graph is of: a note beside it, so that it is never used with another one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from .._files import write_file
from ..model_files import read_json

NOTE_FILE = "perception.json"
# What decides regions and is a constant of the graph.
_SETTINGS = ("max_regions", "nms_threshold", "box_score_threshold")


def note_of(model: Any) -> dict[str, Any]:
    """What a graph of this model would have in its note.

    Args:
        model (`PreTrainedModel`): a Groma or a GLaMM.

    Returns:
        `dict`: the type of the model, a digest of its vision encoder and region proposer, and the settings of regions.
    """
    digest = hashlib.sha256()
    for part in ("vision_tower", "region_proposer"):
        if hasattr(model.model, part):
            for name, weight in sorted(model.model.get_submodule(part).state_dict().items()):
                digest.update(f"{part}.{name} {tuple(weight.shape)}".encode())
                digest.update(weight.detach().float().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return {
        "model_type": model.config.model_type,
        "vision_sha256": digest.hexdigest(),
        **{name: getattr(model.config, name) for name in _SETTINGS if hasattr(model.config, name)},
    }


def write_note(folder: Path, note: dict[str, Any]) -> None:
    """Write the note of a graph beside it."""
    write_file(folder / NOTE_FILE, json.dumps(note, indent=2).encode())


def read_note(folder: Path) -> dict[str, Any]:
    """Read the note of a graph.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is damaged.
    """
    path = folder / NOTE_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no {NOTE_FILE}: pass a folder that `groma export-perception` wrote."
        )
    return read_json(path, "Export the graph again.")


def check_same_model(note: dict[str, Any], model: Any) -> None:
    """Check that a graph was exported from a model with the same eyes.

    Args:
        note (`dict`): of the graph.
        model (`PreTrainedModel`): what should see through it.

    Raises:
        ValueError: other weights or settings of regions.
    """
    own = note_of(model)
    differing = [name for name in own if note.get(name) != own[name]]
    if differing:
        pairs = "; ".join(f"`{name}` is {note.get(name)!r} there and {own[name]!r} here" for name in differing)
        raise ValueError(f"The graph was exported from another model: {pairs}. Export the graph of this model.")


__all__ = ["NOTE_FILE", "check_same_model", "note_of", "read_note", "write_note"]
