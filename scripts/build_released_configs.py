"""Builds the Hub folders of released checkpoints, without weights and tokenizer.

    python -m scripts.build_released_configs [FOLDER]

`groma convert` writes the same configuration, processor and chat template, from the released files. FOLDER is
`hub_configs` by default.
"""

import sys
from pathlib import Path

from transformers import GenerationConfig, LlamaTokenizer

from transformers_groma import (
    GlammConfig,
    GlammProcessor,
    GromaConfig,
    GromaImageProcessorPil,
    GromaProcessor,
    GromaRegionProposalConfig,
)
from transformers_groma.markup import GLAMM_MARKUP_TOKENS
from transformers_groma.model_cards import fill_card
from transformers_groma.models.convert_parts import greedy_generation_config
from transformers_groma.models.glamm.convert_card_glamm import write_card
from transformers_groma.models.glamm.convert_config_glamm import LEGACY_ROI_IMAGE_SIZE
from transformers_groma.models.glamm.convert_processor_glamm import legacy_image_processor
from transformers_groma.models.glamm.tokenization_glamm import LEGACY_IMAGE_TOKEN, add_glamm_tokens
from transformers_groma.models.groma.convert_config import LEGACY_ROI_STRIDES
from transformers_groma.models.groma.tokenization_groma import add_groma_tokens, groma_tokens

# Vicuna-7B v1.5
BOS_TOKEN_ID, EOS_TOKEN_ID, NUM_BASE_TOKENS = 1, 2, 32000

# One template a model; those that start with an underscore hold what several models share.
CARDS = Path(__file__).with_name("released_cards")
RELEASED = ("groma-7b", "groma-7b-pretrain", "groma-det-pretrain")
RELEASED_GLAMM = {"glamm-fullscope": "GLaMM-FullScope"}


def released_groma_config() -> GromaConfig:
    """Groma-7B as released, with the geometry that its weights were trained with."""
    return GromaConfig(
        architectures=["GromaForConditionalGeneration"],
        proposer_config={"refine_reference_points": False},
        region_encoder_config={"roi_box_format": "cxcywh", "roi_strides": list(LEGACY_ROI_STRIDES)},
        text_config={
            "model_type": "llama",
            "vocab_size": NUM_BASE_TOKENS + len(groma_tokens()),
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "bos_token_id": BOS_TOKEN_ID,
            "eos_token_id": EOS_TOKEN_ID,
            "pad_token_id": NUM_BASE_TOKENS,  # [PAD] is the first added token
        },
    )


def released_detector_config() -> GromaRegionProposalConfig:
    """The detector of stage 1, as released."""
    return GromaRegionProposalConfig(
        architectures=["GromaForRegionProposal"], proposer_config={"refine_reference_points": False}
    )


def released_glamm_config() -> GlammConfig:
    """GLaMM as released, with the geometry that its weights were trained with."""
    return GlammConfig(
        architectures=["GlammForConditionalGeneration"],
        region_encoder_config={
            "vision_feature_layers": [-11, -8, -5, -2],
            "roi_image_size": LEGACY_ROI_IMAGE_SIZE,
            "box_embedding_format": "xyxy",
        },
        text_config={
            "model_type": "llama",
            "vocab_size": NUM_BASE_TOKENS + len(GLAMM_MARKUP_TOKENS),
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "bos_token_id": BOS_TOKEN_ID,
            "eos_token_id": EOS_TOKEN_ID,
            "pad_token_id": 0,  # the unknown token
        },
        prompt_projection_hidden_act="relu",
    )


def build_released_configs(folder: str | Path) -> None:
    """Write `groma-7b/`, `groma-7b-pretrain/`, `groma-det-pretrain/` and `glamm-fullscope/`.

    Args:
        folder (`str` or `Path`): where the folders go; existing files are replaced.
    """
    _build_groma(Path(folder))
    _build_glamm(Path(folder))


def _build_groma(folder: Path) -> None:
    # The processor's file says nothing about the tokenizer, so an empty one stands in for Vicuna's.
    tokenizer = LlamaTokenizer()
    add_groma_tokens(tokenizer)
    processor = GromaProcessor(GromaImageProcessorPil(), tokenizer)
    # An answer that points should be the same twice.
    generation_config = GenerationConfig(
        bos_token_id=BOS_TOKEN_ID, eos_token_id=EOS_TOKEN_ID, pad_token_id=NUM_BASE_TOKENS, do_sample=False
    )
    for name in RELEASED:
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        if name == "groma-det-pretrain":
            released_detector_config().save_pretrained(target)
            processor.image_processor.save_pretrained(target)
        else:
            released_groma_config().save_pretrained(target)
            generation_config.save_pretrained(target)
            processor.to_json_file(target / "processor_config.json")
            (target / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
        card = fill_card(CARDS / f"{name}.md", name=name)
        (target / "README.md").write_text(card, encoding="utf-8")


def _build_glamm(folder: Path) -> None:
    config = released_glamm_config()
    tokenizer = LlamaTokenizer(pad_token="<unk>")
    add_glamm_tokens(tokenizer, LEGACY_IMAGE_TOKEN)
    processor = GlammProcessor(legacy_image_processor(config), tokenizer, image_token=LEGACY_IMAGE_TOKEN)
    for name, released in RELEASED_GLAMM.items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(target)
        greedy_generation_config(config.text_config).save_pretrained(target)
        processor.to_json_file(target / "processor_config.json")
        (target / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
        write_card(target, name, released)


if __name__ == "__main__":
    build_released_configs(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "hub_configs")
