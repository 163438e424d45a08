"""The very small GLaMM of the tests of training, with answers that have masks."""

from pathlib import Path

import torch

from transformers_groma.models.glamm.image_processing_pil_glamm import GlammImageProcessorPil
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.models.glamm.processing_glamm import GlammProcessor

from ..training import glamm_rows


def glamm_model(seed: int = 0) -> GlammForConditionalGeneration:
    """A random model whose answers are mostly `[SEG]`, with masks that differ from state to state."""
    model = glamm_rows.glamm_model(seed)
    with torch.no_grad():
        # The norm before it makes states of one length: this direction wins by far, or its opposite never does.
        direction = torch.randn(model.config.text_config.hidden_size)
        model.lm_head.weight[model.config.seg_token_id] = direction
        # Prompts of random weights are all alike.
        model.model.prompt_projection.linear_2.weight.mul_(30)
    return model


def glamm_processor() -> GlammProcessor:
    """Its processor. Boxes fit, as in new models: the image is squared, not cropped."""
    config = glamm_rows.glamm_model().config
    side = config.vision_config.image_size
    image_processor = GlammImageProcessorPil(
        size={"height": side, "width": side}, do_center_crop=False, grounding_size=config.grounding_image_size
    )
    return GlammProcessor(image_processor, glamm_rows.glamm_tokenizer(), num_image_tokens=config.num_image_tokens)


def save_glamm(folder: Path) -> Path:
    """Both as a folder, to name on the command line."""
    glamm_model().save_pretrained(folder)
    glamm_processor().save_pretrained(folder)
    return folder
