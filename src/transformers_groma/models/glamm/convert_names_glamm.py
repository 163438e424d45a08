"""Maps the tensor names of a released GLaMM checkpoint to the names of this package."""

from ..convert_region_encoder import REGION_ENCODER_RENAMES
from ..convert_rename import rename_tensor

# Original names, after the prefixes of the parts, to ours. The first pattern that matches is used.
_PROJECTION_RENAMES = ((r"^0\.", "linear_1."), (r"^2\.", "linear_2."))
# Of the first released checkpoints, whose projector is one linear layer.
_LINEAR_PROJECTOR_RENAMES = ((r"^(weight|bias)$", r"linear_1.\1"), *_PROJECTION_RENAMES)
_IMAGE_ENCODER_RENAMES = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"layers.\1.layer_norm\2."),
    (r"^blocks\.", "layers."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
)
_PROMPT_ENCODER_RENAMES = (
    (r"^pe_layer\.positional_encoding_gaussian_matrix$", "shared_embedding.positional_embedding"),
    (r"^point_embeddings\.", "point_embed."),
    (r"^mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"^mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"^mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"^mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"^mask_downscaling\.6\.", "mask_embed.conv3."),
)
_MASK_DECODER_RENAMES = (
    (r"^transformer\.layers\.(\d+)\.norm([1-4])\.", r"transformer.layers.\1.layer_norm\2."),
    (r"^transformer\.norm_final_attn\.", "transformer.layer_norm_final_attn."),
    (r"^output_upscaling\.0\.", "upscale_conv1."),
    (r"^output_upscaling\.1\.", "upscale_layer_norm."),
    (r"^output_upscaling\.3\.", "upscale_conv2."),
)
_PARTS = (
    ("model.mm_projector.", "model.multi_modal_projector.", _LINEAR_PROJECTOR_RENAMES),
    ("model.region_encoder.", "model.region_encoder.", REGION_ENCODER_RENAMES),
    ("model.grounding_encoder.image_encoder.", "model.grounding_encoder.vision_encoder.", _IMAGE_ENCODER_RENAMES),
    ("model.grounding_encoder.prompt_encoder.", "model.mask_decoder.prompt_encoder.", _PROMPT_ENCODER_RENAMES),
    ("model.grounding_encoder.mask_decoder.", "model.mask_decoder.mask_decoder.", _MASK_DECODER_RENAMES),
    ("model.text_hidden_fcs.0.", "model.prompt_projection.", _PROJECTION_RENAMES),
    ("model.embed_tokens.", "model.language_model.embed_tokens.", ()),
    ("model.layers.", "model.language_model.layers.", ()),
    ("model.norm.", "model.language_model.norm.", ()),
    ("lm_head.", "lm_head.", ()),
)
# The small networks of the mask decoder: layers are counted in the original, and have names in transformers.
_HEADS = ("output_hypernetworks_mlps.", "iou_prediction_head.")


def rename_glamm_key(key: str, head_depth: int = 3) -> str:
    """Translate a tensor name of the original's `GLaMMForCausalLM`.

    Args:
        key (`str`): name in the released checkpoint.
        head_depth (`int`): layers of the mask decoder's small networks.

    Returns:
        `str`: name in `GlammForConditionalGeneration`.

    Raises:
        ValueError: if the name is not one of the original's.

    Example:
    >>> rename_glamm_key("model.grounding_encoder.mask_decoder.iou_prediction_head.layers.2.bias")
    'model.mask_decoder.mask_decoder.iou_prediction_head.proj_out.bias'
    """
    name = rename_tensor(key, _PARTS)
    if name is None:
        raise ValueError(f"{key!r} is not the name of a tensor of the original GLaMM.")
    if name.startswith("model.mask_decoder.mask_decoder.") and any(head in name for head in _HEADS):
        network, _, layer = name.partition(".layers.")
        number, _, kind = layer.partition(".")
        if number == "0":
            return f"{network}.proj_in.{kind}"
        if number == str(head_depth - 1):
            return f"{network}.proj_out.{kind}"
        if number.isdecimal():
            return f"{network}.layers.{int(number) - 1}.{kind}"
    return name


__all__ = ["rename_glamm_key"]
