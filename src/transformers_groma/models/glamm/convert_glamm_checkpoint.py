"""Converts released GLaMM checkpoints to this package.

A released checkpoint is what the original code saved with transformers 4.28: a `GLaMMForCausalLM`, whose config.json
says "llava", without its CLIP. Its files are read by `models/convert_files.py`, its settings become ours in
`convert_config_glamm.py` and its tensors in `convert_weights_glamm.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerBase

from ..._folders import complete_folder
from ..convert_checks import check_tokens
from ..convert_files import (
    check_added_tokens,
    check_component,
    check_tokenizer_files,
    read_settings,
    tensor_names,
)
from ..convert_parts import check_model_size, greedy_generation_config, load_component, loading_component
from ..convert_saved_tensors import open_checkpoint, write_weights
from ..modeling_parts import part_dtypes, record_part_dtypes
from ..original_settings import GLAMM_ARCHITECTURE, original_family
from .configuration_glamm import GlammConfig
from .convert_card_glamm import write_card
from .convert_config_glamm import added_token_ids, convert_glamm_config, vision_tower_name
from .convert_processor_glamm import legacy_image_processor, save_processor
from .convert_weights_glamm import (
    COMPUTED_KEYS,
    convert_glamm_state_dict,
    convert_some_glamm_tensors,
    must_agree,
    original_glamm_names,
)
from .modeling_glamm import GlammForConditionalGeneration
from .modeling_glamm_base import PARTS
from .tokenization_glamm import LEGACY_IMAGE_TOKEN, convert_glamm_tokenizer

_VISION_TOWER = "model.vision_tower."


def convert_glamm_checkpoint(
    legacy_dir: str | Path,
    output_dir: str | Path,
    vision_encoder: str | Path | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Convert a released GLaMM checkpoint into a folder for `from_pretrained`.

    Writes weights, config, generation config, processor and tokenizer. The folder appears only when it is complete.

    Args:
        legacy_dir (`str` or `Path`): folder with the original config.json, weights and tokenizer.
        output_dir (`str` or `Path`): folder to write; it must be new or empty.
        vision_encoder (`str` or `Path`, *optional*): folder or Hub name of its CLIP, which the checkpoint does not
            hold; by default what its config.json names, `openai/clip-vit-large-patch14-336` for all released ones.
        dtype (`torch.dtype`, *optional*): dtype of the written weights; as in the checkpoint by default, where the
            language model is in bfloat16 and SAM in float32.
        overwrite (`bool`): replace an `output_dir` that exists.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: files that are damaged, weights that are empty, not finite or not floating point, names that are
            missing or unknown, wrong shapes, LoRA weights that are not merged, a config, tokenizer or CLIP that is
            not that of the weights.
        FileNotFoundError: no config, weights, tokenizer or CLIP.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or something else would be lost with it:
            a source, the current folder, the home folder.
    """
    legacy_dir = Path(legacy_dir)
    config_file = legacy_dir / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{legacy_dir} has no config.json: pass the folder of a released GLaMM checkpoint.")
    sources = [legacy_dir] if vision_encoder is None else [legacy_dir, vision_encoder]
    with complete_folder(output_dir, overwrite, sources) as folder:
        legacy_config = read_settings(config_file)
        if not is_glamm_folder(legacy_dir, legacy_config):
            raise ValueError(
                f"config.json says `architectures` {legacy_config.get('architectures')!r}; the original GLaMM's is "
                f"{GLAMM_ARCHITECTURE!r}."
            )
        check_tokenizer_files(legacy_dir)
        clip = load_clip(vision_encoder, legacy_config)
        saved = open_checkpoint(legacy_dir, COMPUTED_KEYS)
        config = convert_glamm_config(legacy_config, saved.shapes, clip.config)
        tokenizer = _load_tokenizer(legacy_dir, config, added_token_ids(legacy_config, config.text_config.vocab_size))
        vision = clip.state_dict()
        shapes = convert_glamm_state_dict(
            saved.shapes, {name: tensor.to("meta") for name, tensor in vision.items()}, config
        )
        sources = original_glamm_names(saved.shapes, vision, config)

        def read(names: Sequence[str]) -> dict[str, Tensor]:
            wanted = {name: vision[name] for name in vision if f"{_VISION_TOWER}{name}" in names}
            tensors = saved.read(dict.fromkeys(key for name in names for key in sources[name]))
            converted = convert_some_glamm_tensors(tensors, wanted, config)
            return {name: converted[name] for name in names}

        for names in must_agree(sources, config):
            read(names)
        if dtype is not None:
            shapes = {name: tensor.to(dtype) for name, tensor in shapes.items()}
        config.architectures = [GlammForConditionalGeneration.__name__]
        _set_dtypes(config, shapes, has_one=dtype is not None)
        config.save_pretrained(folder)
        greedy_generation_config(config.text_config).save_pretrained(folder)
        image_processor = legacy_image_processor(config)
        save_processor(folder, image_processor, tokenizer, LEGACY_IMAGE_TOKEN, config.num_image_tokens)
        write_card(folder, Path(output_dir).resolve().name)
        write_weights(folder, shapes, read, legacy_dir)
    return Path(output_dir)


def is_glamm_folder(legacy_dir: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder holds a GLaMM of the original: its `model_type` says "llava", as those of others do.

    Args:
        legacy_dir (`Path`): folder of a checkpoint.
        config (`Mapping[str, Any]`): its config.json.

    Returns:
        `bool`: by its `architectures` or, where these do not say it, by the names of its tensors.
    """
    if original_family(config) == "GLaMM":
        return True
    return config.get("model_type") == "llava" and any(
        name.startswith("model.grounding_encoder.") for name in tensor_names(legacy_dir)
    )


def load_clip(vision_encoder: str | Path | None, legacy_config: Mapping[str, Any]) -> CLIPVisionModel:
    """Load the CLIP of a checkpoint, in the dtype of its files.

    Args:
        vision_encoder (`str` or `Path`, *optional*): folder or Hub name.
        legacy_config (`dict`): the original config.json, which names one.

    Returns:
        `CLIPVisionModel`

    Raises:
        FileNotFoundError: it cannot be found.
        ValueError: it is another model, or its files are damaged.
    """
    named = vision_tower_name(legacy_config)
    source = vision_encoder or named
    if source is None:
        raise ValueError(
            "config.json names no `mm_vision_tower`, and a GLaMM needs its CLIP: pass it as `vision_encoder`."
        )
    try:
        with loading_component("vision_encoder", source):
            num_saved = check_component("vision_encoder", source)
            config = AutoConfig.from_pretrained(source)
            vision_config = getattr(config, "vision_config", config)
            if not isinstance(vision_config, CLIPVisionConfig):
                raise ValueError(f"it is a model of type {config.model_type!r}, but a GLaMM needs a CLIP")
            check_model_size(CLIPVisionModel, vision_config, num_saved)
            return load_component(CLIPVisionModel, source, "auto")
    except OSError as error:
        if vision_encoder is not None:
            raise
        text = " ".join(str(error).split())
        raise FileNotFoundError(
            f"config.json names the vision encoder {named!r}, which cannot be loaded ({text[:160]}): pass its folder "
            "as `vision_encoder`."
        ) from error


def _set_dtypes(config: GlammConfig, state_dict: dict[str, Tensor], has_one: bool) -> None:
    """Set the dtype of the model and, unless it was converted to one, those of the parts that have another."""
    if has_one:
        config.dtype = part_dtypes(state_dict, PARTS)["model"]
    else:
        kept = GlammForConditionalGeneration._keep_in_fp32_modules_strict
        config.dtype = record_part_dtypes(config, state_dict, PARTS, kept)


def _load_tokenizer(legacy_dir: Path, config: GlammConfig, added: dict[str, int]) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer and check that it gives the ids that the model knows."""
    try:
        tokenizer = convert_glamm_tokenizer(legacy_dir)
    except OSError:
        raise
    except Exception as error:  # the libraries have no common one
        raise ValueError(f"The tokenizer in {legacy_dir} cannot be read ({' '.join(str(error).split())}).") from error
    text_config = config.text_config
    check_tokens(tokenizer, {tokenizer.eos_token: text_config.eos_token_id, **added}, text_config.vocab_size)
    # Apart: a wrong tokenizer may have one token for both ends.
    check_tokens(tokenizer, {tokenizer.bos_token: text_config.bos_token_id}, text_config.vocab_size)
    check_added_tokens(legacy_dir, added)
    return tokenizer


__all__ = ["convert_glamm_checkpoint", "is_glamm_folder", "load_clip"]
