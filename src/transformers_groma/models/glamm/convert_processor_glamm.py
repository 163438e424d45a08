"""Writes the processor of a converted or assembled GLaMM."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.image_processing_auto import get_image_processor_config

from .configuration_glamm import GlammConfig
from .image_processing_pil_glamm import GlammImageProcessorPil
from .processing_glamm import GlammProcessor


def legacy_image_processor(config: GlammConfig) -> GlammImageProcessorPil:
    """The image processor of released checkpoints: CLIP sees the centre of an image.

    Args:
        config (`GlammConfig`): the model's configuration.

    Returns:
        `GlammImageProcessorPil`
    """
    return GlammImageProcessorPil(
        size=_square(config), do_center_crop=True, grounding_size=config.grounding_image_size
    )


def new_image_processor(config: GlammConfig, vision_encoder: str | Path) -> GlammImageProcessorPil:
    """The image processor of a new model: its vision encoder sees the whole image, in the colours that it knows.

    Args:
        config (`GlammConfig`): the model's configuration.
        vision_encoder (`str` or `Path`): folder or Hub name of its vision encoder.

    Returns:
        `GlammImageProcessorPil`: with the mean and the deviation of the vision encoder's own image processor, if it
        has one, else those of CLIP.
    """
    own = get_image_processor_config(vision_encoder)
    colors = {name: own[name] for name in ("image_mean", "image_std") if own.get(name) is not None}
    return GlammImageProcessorPil(size=_square(config), grounding_size=config.grounding_image_size, **colors)


def save_processor(
    folder: Path,
    image_processor: GlammImageProcessorPil,
    tokenizer: PreTrainedTokenizerBase,
    image_token: str,
    num_image_tokens: int,
    chat_template: str | dict[str, str] | None = None,
) -> None:
    """Write the processor of a model into its folder.

    Args:
        folder (`Path`): the model's folder.
        image_processor (`GlammImageProcessorPil`): from one of the functions above.
        tokenizer (`PreTrainedTokenizerBase`): with GLaMM's tokens.
        image_token (`str`): the placeholder of the image.
        num_image_tokens (`int`): placeholders for one image.
        chat_template (`str` or `dict[str, str]`, *optional*): one template, or several by name; GLaMM's by default.
    """
    GlammProcessor(
        image_processor,
        tokenizer,
        chat_template=chat_template,
        num_image_tokens=num_image_tokens,
        image_token=image_token,
    ).save_pretrained(folder)


def _square(config: GlammConfig) -> dict[str, int]:
    return {"height": config.vision_config.image_size, "width": config.vision_config.image_size}


__all__ = ["legacy_image_processor", "new_image_processor", "save_processor"]
