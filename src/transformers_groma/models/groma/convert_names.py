"""Maps a released checkpoint's tensor names to the names of this package."""

from ..convert_region_encoder import REGION_ENCODER_RENAMES
from ..convert_rename import rename_tensor

# Original names, after the prefixes of the parts, to ours. The first pattern that matches is used.
_VISION_RENAMES = (
    (r"\.attention\.attention\.(q)uery\.", r".attention.\1_proj."),
    (r"\.attention\.attention\.(k)ey\.", r".attention.\1_proj."),
    (r"\.attention\.attention\.(v)alue\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
)
_DETECTOR_RENAMES = (
    (r"^(encoder|decoder)\.layers\.(\d+)\.(fc[12])\.", r"\1_layers.\2.mlp.\3."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.self_attn\.out_proj\.", r"\1_layers.\2.self_attn.o_proj."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.", r"\1_layers.\2."),
    # The heads are saved under two names; both are one tensor.
    (r"^decoder\.(bbox_embed|class_embed_enc|class_embed_coco|class_embed_sa1b)\.", r"\1."),
)
_PROJECTOR_RENAMES = ((r"^0\.", "linear_1."), (r"^2\.", "linear_2."))
_PARTS = (
    ("perceiver.vis_encoder.", "model.vision_tower.", _VISION_RENAMES),
    ("perceiver.ddetr_transformer.", "model.region_proposer.", _DETECTOR_RENAMES),
    ("perceiver.input_proj.", "model.region_proposer.input_proj.", ()),
    ("region_encoder.", "model.region_encoder.", REGION_ENCODER_RENAMES),
    ("img_txt_bridge.", "model.multi_modal_projector.", _PROJECTOR_RENAMES),
    ("llm.model.", "model.language_model.", ()),
    ("llm.lm_head.", "lm_head.", ()),
)
# Tables for the added tokens that the original keeps apart: its name -> our name of the table they are appended to.
ADDED_TOKEN_TABLES = {
    "new_input_embs.weight": "model.language_model.embed_tokens.weight",
    "extra_lm_head.weight": "lm_head.weight",
}


def rename_legacy_key(key: str) -> str:
    """Translate a tensor name of the original's `GromaModel`.

    Args:
        key (`str`): name in the released checkpoint.

    Returns:
        `str`: name in `GromaForConditionalGeneration`. Both tables of an embedding that the original splits get the
        one name of the joined table.

    Raises:
        ValueError: if the name is not one of the original's.

    Example:
    >>> rename_legacy_key("perceiver.ddetr_transformer.encoder.layers.0.fc1.weight")
    'model.region_proposer.encoder_layers.0.mlp.fc1.weight'
    """
    if key in ADDED_TOKEN_TABLES:
        return ADDED_TOKEN_TABLES[key]
    name = rename_tensor(key, _PARTS)
    if name is None:
        raise ValueError(f"{key!r} is not the name of a tensor of the original Groma.")
    return name


__all__ = [
    "ADDED_TOKEN_TABLES",
    "rename_legacy_key",
]
