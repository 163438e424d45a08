"""Assembles the glamm-tiny that `groma train glamm` starts from, of the parts that were pretrained.

python -m scripts.glamm_tiny.build GROUNDING LANGUAGE FOLDER
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from scripts.groma_tiny.card import MODEL as GROMA_TINY
from transformers_groma import GromaConfig
from transformers_groma.models.glamm.configuration_glamm import GlammConfig
from transformers_groma.models.glamm.image_processing_pil_glamm import GlammImageProcessorPil
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.models.glamm.processing_glamm import GlammProcessor

from .pretrain_grounding import WEIGHTS as GROUNDING_WEIGHTS
from .pretrain_grounding import grounding_config, mask_decoder_config
from .pretrain_language_model import WEIGHTS as LANGUAGE_WEIGHTS
from .pretrain_language_model import text_config
from .pretrain_vision import IMAGE_SIZE, MEAN, STD, region_encoder_config
from .tokens import build_tokenizer

# Small masks have few pixels, so the mean over pixels weighs more than in the released models (2 and 0.5).
BCE_WEIGHT, DICE_WEIGHT = 5.0, 1.0


def build_config(tokenizer: PreTrainedTokenizerBase) -> GlammConfig:
    """The configuration, with the token ids of a tokenizer."""
    groma = GromaConfig.from_pretrained(GROMA_TINY)
    return GlammConfig(
        vision_config=groma.vision_config.to_dict(),
        text_config=text_config(tokenizer, groma.text_config).to_dict(),
        grounding_config=grounding_config().to_dict(),
        region_encoder_config=region_encoder_config().to_dict(),
        mask_decoder_config=mask_decoder_config().to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        region_token_id=tokenizer.convert_tokens_to_ids("<bbox>"),
        seg_token_id=tokenizer.convert_tokens_to_ids("[SEG]"),
        vision_feature_layer=-1,
        bce_loss_weight=BCE_WEIGHT,
        dice_loss_weight=DICE_WEIGHT,
        tie_word_embeddings=True,
    )


def pretrained_weights(grounding: Path, language: Path) -> dict[str, Tensor]:
    """The weights of the parts, by their names in the model; heads that only taught are left out.

    Args:
        grounding (`Path`), language (`Path`): folders of the weights.

    Returns:
        `dict[str, Tensor]`
    """
    places = {
        "grounding_encoder.": ("model.grounding_encoder.vision_encoder.", grounding / GROUNDING_WEIGHTS),
        "mask_decoder.": ("model.mask_decoder.", grounding / GROUNDING_WEIGHTS),
        "speaker.vision_tower.": ("model.vision_tower.", language / LANGUAGE_WEIGHTS),
        "speaker.multi_modal_projector.": ("model.multi_modal_projector.", language / LANGUAGE_WEIGHTS),
        "speaker.region_encoder.": ("model.region_encoder.", language / LANGUAGE_WEIGHTS),
        "language_model.": ("model.language_model.", language / LANGUAGE_WEIGHTS),
        "prompt_projection.": ("model.prompt_projection.", language / LANGUAGE_WEIGHTS),
    }
    files = {path: load_file(path) for path in (grounding / GROUNDING_WEIGHTS, language / LANGUAGE_WEIGHTS)}
    return {
        name.replace(prefix, place, 1): value
        for prefix, (place, path) in places.items()
        for name, value in files[path].items()
        if name.startswith(prefix)
    }


def build_glamm_tiny(grounding: Path, language: Path, folder: Path) -> GlammForConditionalGeneration:
    """Write the folder of a glamm-tiny that has not been trained as a whole.

    Args:
        grounding (`Path`), language (`Path`): folders of the pretrained parts.
        folder (`Path`): output folder; existing files are replaced.

    Returns:
        `GlammForConditionalGeneration`: the model, in float32.
    """
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    model = GlammForConditionalGeneration(config)
    loaded = model.load_state_dict(pretrained_weights(grounding, language), strict=False)
    missing = [name for name in loaded.missing_keys if name != "lm_head.weight"]
    if missing or loaded.unexpected_keys:
        raise ValueError(f"The parts do not fit the model: missing {missing}, unexpected {loaded.unexpected_keys}.")
    model.tie_weights()
    # An answer that points should be the same twice.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)
    image_processor = GlammImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=MEAN,
        image_std=STD,
        grounding_size=config.grounding_image_size,
    )
    GlammProcessor(
        image_processor=image_processor, tokenizer=tokenizer, num_image_tokens=config.num_image_tokens
    ).save_pretrained(folder)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("grounding", "language", "folder"):
        parser.add_argument(name, metavar=name.upper(), type=Path, help=f"folder: {name}")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = build_glamm_tiny(arguments.grounding, arguments.language, arguments.folder)
    print(f"{arguments.folder}: {model.num_parameters():,} parameters")
