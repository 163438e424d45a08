"""Which detector made precomputed regions: its fingerprint, kept in `proposals.json` and checked.

Regions of another detector would train a model on places that it does not find itself.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.image_processing_utils import BaseImageProcessor

from .._files import write_file
from ..models.groma.modeling_groma import GromaForConditionalGeneration, GromaModel
from ..models.groma.modeling_groma_detector import GromaForRegionProposal

# Lies beside the files.
NOTES_NAME = "proposals.json"
DETECTOR_PARTS = ("vision_tower", "region_proposer")
# Proposals depend on these settings as well as on the weights.
PROPOSER_SETTINGS = (
    "num_vision_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "coco_score_weight",
    "refine_reference_points",
)

Detector = GromaModel | GromaForRegionProposal


def check_proposals(
    model: GromaForConditionalGeneration | GromaModel | GromaForRegionProposal, *dataset_dirs: str | os.PathLike
) -> None:
    """Check that precomputed regions come from a model's own detector, and include all that it could choose.

    Args:
        model (`GromaForConditionalGeneration`, `GromaModel` or `GromaForRegionProposal`): the model.
        *dataset_dirs (`str` or `Path`): folders that `precompute_regions` wrote.

    Raises:
        FileNotFoundError: a folder does not say whose proposals it holds.
        ValueError: the proposals are another detector's, or a higher threshold left some out.
    """
    detector = model.model if isinstance(model, GromaForConditionalGeneration) else model
    fingerprint = detector_sha256(detector)
    limit = detector.config.box_score_threshold
    for dataset_dir in dataset_dirs:
        path = Path(dataset_dir) / NOTES_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: it says whose proposals the folder holds, and is written by `groma train "
                "precompute-regions`. Keep it beside the files."
            )
        notes = json.loads(path.read_text(encoding="utf-8"))
        if notes["detector_sha256"] != fingerprint:
            raise ValueError(
                f"{dataset_dir} holds proposals of another detector ({notes['model'] or 'without a name'}): its "
                "vision encoder or region proposer has other weights or settings. Use that model, or precompute "
                "regions into another folder."
            )
        if notes["score_threshold"] > limit:
            raise ValueError(
                f"{dataset_dir} holds proposals with a score above {notes['score_threshold']:g}, but the model's "
                f"`box_score_threshold` is {limit:g}. Precompute regions again, into another folder."
            )


def detector_sha256(model: GromaModel | GromaForRegionProposal) -> str:
    """Fingerprint of all that decides proposals: weights of vision encoder and region proposer, and settings.

    Args:
        model (`GromaModel` or `GromaForRegionProposal`): the model, on any device.

    Returns:
        `str`: 64 hexadecimal digits, the same for a detector and for a whole model that holds it.
    """
    settings = {name: getattr(model.config.proposer_config, name) for name in PROPOSER_SETTINGS}
    digest = hashlib.sha256(json.dumps(settings).encode())
    for part in DETECTOR_PARTS:
        for name, weight in sorted(model.get_submodule(part).state_dict().items()):
            digest.update(f"{part}.{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def claim_folder(
    output_dir: Path, detector: Detector, image_processor: BaseImageProcessor, threshold: float
) -> dict[str, Any]:
    """Note which detector's proposals a folder will hold, or check that it holds the same ones already.

    Args:
        output_dir (`Path`): the folder; it exists.
        detector (`GromaModel` or `GromaForRegionProposal`): whose proposals.
        image_processor (`BaseImageProcessor`): makes its pixels.
        threshold (`float`): proposals with a larger score are kept.

    Returns:
        `dict`: the notes, for `check_claim`.

    Raises:
        ValueError: the folder holds something else.
    """
    notes = output_dir / NOTES_NAME
    # The path of a local folder stays private.
    name = Path(detector.name_or_path).name if Path(detector.name_or_path).exists() else detector.name_or_path
    claim = {
        "model": name,
        "detector_sha256": detector_sha256(detector),
        "image_processor_sha256": image_processor_sha256(image_processor),
        "score_threshold": threshold,
    }
    if notes.exists():
        check_proposals(detector, output_dir)
        check_claim(output_dir, claim)
        return claim
    others = sorted(path.name for path in output_dir.glob("*.parquet"))
    if others:
        raise ValueError(
            f"`output_dir` {output_dir} holds files without a {NOTES_NAME} ({others[0]}), so they are not copies that "
            "this program wrote. Pass another folder."
        )
    write_file(notes, (json.dumps(claim, indent=2) + "\n").encode())
    return claim


def check_claim(output_dir: Path, claim: Mapping[str, Any]) -> None:
    """Check that the notes of a folder are those of this run.

    Args:
        output_dir (`Path`): the folder, with notes.
        claim (`Mapping`): the notes of `claim_folder`.

    Raises:
        ValueError: they are another run's.
    """
    noted = json.loads((output_dir / NOTES_NAME).read_text(encoding="utf-8"))
    if noted["score_threshold"] != claim["score_threshold"]:
        raise ValueError(
            f"`output_dir` {output_dir} holds proposals with a score above {noted['score_threshold']:g}, but "
            f"`score_threshold` is {claim['score_threshold']:g}. Pass {noted['score_threshold']:g}, or another folder."
        )
    for name, what in (("detector_sha256", "another detector"), ("image_processor_sha256", "another image processor")):
        if noted.get(name) != claim[name]:
            raise ValueError(f"`output_dir` {output_dir} holds proposals of {what}. Pass another folder.")


def image_processor_sha256(image_processor: BaseImageProcessor) -> str:
    """Fingerprint of the settings that turn images into pixels.

    Args:
        image_processor (`BaseImageProcessor`): any class; which library does the work is left out.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    settings = image_processor.to_dict()
    for name in ("image_processor_type", "processor_class", "auto_map"):
        settings.pop(name, None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


__all__ = [
    "DETECTOR_PARTS",
    "NOTES_NAME",
    "Detector",
    "check_claim",
    "check_proposals",
    "claim_folder",
    "detector_sha256",
    "image_processor_sha256",
]
