"""The very small random models of `tests.tiny`, with processors and real tokenizers."""

from pathlib import Path

from transformers_groma import GromaImageProcessor, GromaProcessor
from transformers_groma.models.glamm.image_processing_pil_glamm import GlammImageProcessorPil
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.models.glamm.processing_glamm import GlammProcessor
from transformers_groma.models.glamm.tokenization_glamm import LEGACY_IMAGE_TOKEN, convert_glamm_tokenizer
from transformers_groma.models.groma.tokenization_groma import load_legacy_tokenizer

from .tiny import VISION, tiny_glamm, tiny_model


def save_tiny_checkpoint(folder: Path, golden_dir: Path, **settings) -> Path:
    """Write the model and its processor, with the toy tokenizer of the golden data; `settings` are of its config."""
    tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
    text_config = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 1024,
    }
    marks = {"image": "<image>", "refer_box": "<refer_box>", "ground_box": "<ground_box>", "first_proxy": "<r0>"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    model = tiny_model(text_config=text_config, **ids, **settings)
    model.save_pretrained(folder)
    size = {"height": VISION["image_size"], "width": VISION["image_size"]}
    GromaProcessor(
        GromaImageProcessor(size=size),
        tokenizer,
        num_image_tokens=model.config.num_image_tokens,
        max_regions=model.config.max_regions,
    ).save_pretrained(folder)
    return folder


def tiny_glamm_parts(**settings) -> tuple[GlammForConditionalGeneration, GlammProcessor]:
    """A random GLaMM and its processor, with the toy tokenizer of the golden data; `settings` are of its config."""
    fixtures = Path(__file__).parent / "fixtures" / "golden_glamm" / "legacy_checkpoint"
    tokenizer = convert_glamm_tokenizer(fixtures)
    marks = {"image_token_id": LEGACY_IMAGE_TOKEN, "region_token_id": "<bbox>", "seg_token_id": "[SEG]"}
    ids = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    text_config = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024, **settings.pop("text_config", {})}
    model = tiny_glamm(text_config=text_config, **ids, **settings)
    image_processor = GlammImageProcessorPil(
        size=model.config.vision_config.image_size, grounding_size=model.config.grounding_image_size
    )
    processor = GlammProcessor(
        image_processor, tokenizer, num_image_tokens=model.config.num_image_tokens, image_token=LEGACY_IMAGE_TOKEN
    )
    return model, processor


def save_tiny_glamm(folder: Path, **settings) -> Path:
    """Write the model and its processor of [`tiny_glamm_parts`]."""
    for part in tiny_glamm_parts(**settings):
        part.save_pretrained(folder)
    return folder
