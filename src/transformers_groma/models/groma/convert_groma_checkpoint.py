"""Converts released Groma checkpoints to this package.

A released checkpoint is what the original code saved with transformers 4.32: a `GromaModel` (model_type "groma") or a
stage-1 `CustomDDETRModel` (model_type "ddetr"), as safetensors or .bin, whole or in shards. Its files are read by
`models/convert_files.py`, its settings become ours in `convert_config.py` and its tensors in `convert_weights.py`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..._folders import complete_folder
from ...markup import GROMA_MARKUP_TOKENS
from ..convert_checks import check_tokens
from ..convert_files import check_added_tokens, check_tokenizer_files, read_settings
from ..convert_parts import greedy_generation_config
from ..convert_saved_tensors import open_checkpoint, write_weights
from ..modeling_parts import part_dtypes
from .chat_template_groma import GROMA_CHAT_TEMPLATE
from .configuration_groma import GromaConfig, GromaRegionProposalConfig
from .convert_card_groma import write_card
from .convert_components import save_processor
from .convert_config import convert_legacy_config
from .convert_weights import convert_legacy_state_dict, convert_some_tensors, must_agree, original_names
from .image_processing_pil_groma import GromaImageProcessorPil
from .modeling_groma import GromaForConditionalGeneration
from .modeling_groma_base import PARTS
from .modeling_groma_detector import GromaForRegionProposal
from .tokenization_groma import groma_tokens, load_legacy_tokenizer


def convert_groma_checkpoint(
    legacy_dir: str | Path, output_dir: str | Path, dtype: torch.dtype | None = None, overwrite: bool = False
) -> Path:
    """Convert a released Groma or stage-1 checkpoint into a folder for `from_pretrained`.

    Writes weights, config, generation config, processor, tokenizer and card. The folder appears when it is complete.

    Args:
        legacy_dir (`str` or `Path`): folder with the original config.json, weights and tokenizer.
        output_dir (`str` or `Path`): folder to write; it must be new or empty.
        dtype (`torch.dtype`, *optional*): dtype of the written weights; as in the checkpoint by default.
        overwrite (`bool`): replace an `output_dir` that exists.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: files that are damaged, weights that are empty, not finite or not floating point, names that are
            missing or unknown, wrong shapes, a config or a tokenizer that is not that of the weights.
        FileNotFoundError: no config, weights or tokenizer.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or something else would be lost with it:
            a source, the current folder, the home folder.
    """
    legacy_dir = Path(legacy_dir)
    config_file = legacy_dir / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{legacy_dir} has no config.json: pass the folder of a released Groma checkpoint.")
    with complete_folder(output_dir, overwrite, [legacy_dir]) as folder:
        legacy_config = read_settings(config_file)
        saved = open_checkpoint(legacy_dir)
        config = convert_legacy_config(legacy_config, saved.shapes)
        is_detector = isinstance(config, GromaRegionProposalConfig)
        tokenizer = None if is_detector else _load_tokenizer(legacy_dir, config)
        shapes = convert_legacy_state_dict(saved.shapes, config)
        sources = original_names(saved.shapes, config)

        def read(names: Sequence[str]) -> dict[str, Tensor]:
            return convert_some_tensors(saved.read(key for name in names for key in sources[name]), config)

        for names in must_agree(sources, config):
            read(names)
        if dtype is not None:
            shapes = {name: tensor.to(dtype) for name, tensor in shapes.items()}
        model_class = GromaForRegionProposal if is_detector else GromaForConditionalGeneration
        config.architectures = [model_class.__name__]
        config.dtype = part_dtypes(shapes, PARTS)["model"]
        config.save_pretrained(folder)
        if is_detector:
            GromaImageProcessorPil().save_pretrained(folder)
        else:
            greedy_generation_config(config.text_config).save_pretrained(folder)
            save_processor(config, tokenizer, folder, GROMA_CHAT_TEMPLATE)
        write_card(folder, Path(output_dir).resolve().name, config)
        write_weights(folder, shapes, read, legacy_dir)
    return Path(output_dir)


def _load_tokenizer(legacy_dir: Path, config: GromaConfig) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer and check that it gives the ids that the model knows."""
    check_tokenizer_files(legacy_dir)
    try:
        tokenizer = load_legacy_tokenizer(legacy_dir)
    except OSError:
        raise
    except Exception as error:  # the libraries have no common one
        raise ValueError(f"The tokenizer in {legacy_dir} cannot be read ({' '.join(str(error).split())}).") from error
    text_config = config.text_config
    first_added = config.image_token_id - GROMA_MARKUP_TOKENS.index("<image>")
    num_proxies = text_config.vocab_size - config.first_proxy_token_id
    added = {token: first_added + index for index, token in enumerate(groma_tokens(num_proxies))}
    check_tokens(tokenizer, {tokenizer.eos_token: text_config.eos_token_id, **added}, text_config.vocab_size)
    # Apart: a wrong tokenizer may have one token for both ends.
    check_tokens(tokenizer, {tokenizer.bos_token: text_config.bos_token_id}, text_config.vocab_size)
    check_added_tokens(legacy_dir, added)
    return tokenizer


__all__ = [
    "convert_groma_checkpoint",
]
