"""Converts checkpoints of the original code, and assembles models from components, of whichever family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .models.convert_files import read_settings
from .models.glamm.convert_components_glamm import assemble_glamm_components
from .models.glamm.convert_glamm_checkpoint import convert_glamm_checkpoint, is_glamm_folder
from .models.groma.convert_components import assemble_groma_components
from .models.groma.convert_groma_checkpoint import convert_groma_checkpoint

_GROMA_TYPES = ("groma", "ddetr")
_OUR_TYPES = ("glamm", "groma_region_proposal")


def convert_legacy_checkpoint(
    legacy_dir: str | Path,
    output_dir: str | Path,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    vision_encoder: str | Path | None = None,
) -> Path:
    """Convert a checkpoint of the original Groma (complete or stage 1) or GLaMM into a folder for `from_pretrained`.

    Writes weights, config, generation config, processor and tokenizer. The folder appears only when it is complete.

    Args:
        legacy_dir (`str` or `Path`): folder with the original config.json, weights and tokenizer.
        output_dir (`str` or `Path`): folder to write; it must be new or empty.
        dtype (`torch.dtype`, *optional*): dtype of the written weights; as in the checkpoint by default.
        overwrite (`bool`): replace an `output_dir` that exists.
        vision_encoder (`str` or `Path`, *optional*): folder or Hub name of the CLIP of a GLaMM, which its checkpoint
            does not hold; by default what its config.json names.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: a checkpoint of another model, files that are damaged, weights that are empty, not finite or not
            floating point, names that are missing or unknown, wrong shapes, a config, tokenizer or CLIP that is not
            that of the weights.
        FileNotFoundError: no config, weights or tokenizer, or no CLIP.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or something else would be lost with it:
            a source, the current folder, the home folder.
    """
    legacy_dir = Path(legacy_dir)
    config_file = legacy_dir / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{legacy_dir} has no config.json: pass the folder of a released checkpoint.")
    config = read_settings(config_file)
    if is_glamm_folder(legacy_dir, config):
        return convert_glamm_checkpoint(legacy_dir, output_dir, vision_encoder, dtype, overwrite)
    model_type = config.get("model_type")
    if model_type in _OUR_TYPES:
        raise ValueError("config.json is in this package's format already: load the folder with `from_pretrained`.")
    if model_type not in _GROMA_TYPES:
        raise ValueError(
            f"config.json says `model_type` {model_type!r} and `architectures` {config.get('architectures')!r}, which "
            "is neither an original Groma ('groma', or 'ddetr' for stage 1) nor an original GLaMM ('llava' with "
            "'GLaMMForCausalLM')."
        )
    if vision_encoder is not None:
        raise ValueError(
            f"`vision_encoder` {vision_encoder} is not needed: a checkpoint of the original Groma holds its own, so "
            "leave it out."
        )
    return convert_groma_checkpoint(legacy_dir, output_dir, dtype, overwrite)


def assemble_components(
    output_dir: str | Path,
    detector: str | Path | None = None,
    language_model: str | Path | None = None,
    vision_encoder: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
    region_encoder: Mapping[str, Any] | None = None,
    grounding_encoder: str | Path | None = None,
) -> Path:
    """Assemble a Groma or a GLaMM: pretrained components, and new weights for what joins them.

    - `detector` (a `GromaForRegionProposal`) and `language_model` (any `AutoModelForCausalLM`) make a
      `GromaForConditionalGeneration` for stage 2. Its added tokens start at the mean of the vocabulary's embeddings.
      It keeps the language model's chat template and generation settings; without a chat template it gets
      `GROMA_CHAT_TEMPLATE`. A whole Groma may be the detector too: its region encoder comes along, but for the
      projection into its language model.
    - `vision_encoder` alone (any `AutoModel` with a patch grid) makes a `GromaForRegionProposal` for stage 1.
    - `vision_encoder`, `grounding_encoder` (a whole SAM) and `language_model` make a `GlammForConditionalGeneration`.
      SAM's prompt encoder and mask decoder come along.

    Args:
        output_dir (`str` or `Path`): folder to write; it must be new or empty. It appears only when it is complete.
        detector, language_model, vision_encoder, grounding_encoder (`str` or `Path`, *optional*): folders or Hub names
            of the components.
        dtype (`torch.dtype`): dtype of the written weights. The vision encoder and the region proposer of `detector`
            stay in float32: its regions are those of the model. So do a GLaMM's vision encoder and all that makes its
            masks.
        overwrite (`bool`): replace an `output_dir` that exists.
        region_encoder (`Mapping[str, Any]`, *optional*): sizes of the region encoder, by their names in
            `GromaRegionEncoderConfig`: `vision_feature_layers`, `num_fuse_layers`, `group_norm_groups`,
            `roi_output_size`, `roi_sampling_ratio`, `position_hidden_size`, `region_hidden_size`. What is left out
            follows from the detector, or from the vision encoder of a GLaMM.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: another combination of components, sizes or components that do not fit each other.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or something else would be lost with it:
            a source, the current folder, the home folder.
    """
    if grounding_encoder is None:
        return assemble_groma_components(
            output_dir, detector, language_model, vision_encoder, dtype, overwrite, region_encoder
        )
    if vision_encoder is None or language_model is None or detector is not None:
        raise ValueError(
            "Pass `vision_encoder`, `grounding_encoder` and `language_model`, and no `detector`, for a GLaMM."
        )
    return assemble_glamm_components(
        output_dir, vision_encoder, grounding_encoder, language_model, dtype, overwrite, region_encoder
    )


__all__ = ["assemble_components", "convert_legacy_checkpoint"]
