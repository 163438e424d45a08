"""Helpers for tests of pipelines."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from transformers_groma import GroundedText, ImageGroundingPipeline
from transformers_groma.models.groma.configuration_groma import GromaMaskDecoderConfig

from ..tiny import MASK_DECODER

BOX = [20.0, 30.0, 200.0, 180.0]


def same(first: GroundedText, second: GroundedText) -> bool:
    return first.markup == second.markup and first.to_dict() == second.to_dict()


def with_mask_decoder(folder: Path | str, **settings) -> ImageGroundingPipeline:
    """A pipeline of a model with a random mask decoder; `settings` are the decoder's."""
    config = AutoConfig.from_pretrained(folder)
    config.mask_decoder_config = GromaMaskDecoderConfig(**{**MASK_DECODER, **settings})
    torch.manual_seed(0)
    # A trained decoder of another size stays out.
    model = AutoModelForImageTextToText.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
    processor = AutoProcessor.from_pretrained(folder)
    return ImageGroundingPipeline(
        model=model, processor=processor, device="cpu", task="image-grounding", max_new_tokens=5
    )
