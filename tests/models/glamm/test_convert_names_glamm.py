"""Names of the original GLaMM's tensors."""

import pytest

from transformers_groma.models.glamm.convert_names_glamm import rename_glamm_key

from .legacy import read_keys

SAM, ENCODER, DECODER = "model.grounding_encoder.", "model.grounding_encoder.vision_encoder.", "model.mask_decoder."


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lm_head.weight", "lm_head.weight"),
        ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("model.norm.weight", "model.language_model.norm.weight"),
        ("model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
        ("model.mm_projector.0.weight", "model.multi_modal_projector.linear_1.weight"),
        ("model.mm_projector.2.bias", "model.multi_modal_projector.linear_2.bias"),
        ("model.mm_projector.bias", "model.multi_modal_projector.linear_1.bias"),
        ("model.text_hidden_fcs.0.2.weight", "model.prompt_projection.linear_2.weight"),
        ("model.region_encoder.mlvl_fuse.fuse_convs.4.gn.bias", "model.region_encoder.fuse_layers.4.norm.bias"),
        ("model.region_encoder.roi_align.updims.weight", "model.region_encoder.output_projection.weight"),
        (f"{SAM}image_encoder.pos_embed", f"{ENCODER}pos_embed"),
        (f"{SAM}image_encoder.patch_embed.proj.bias", f"{ENCODER}patch_embed.projection.bias"),
        (f"{SAM}image_encoder.blocks.31.norm2.weight", f"{ENCODER}layers.31.layer_norm2.weight"),
        (f"{SAM}image_encoder.blocks.7.attn.rel_pos_h", f"{ENCODER}layers.7.attn.rel_pos_h"),
        (f"{SAM}image_encoder.neck.3.bias", f"{ENCODER}neck.layer_norm2.bias"),
        (
            f"{SAM}prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
            f"{DECODER}prompt_encoder.shared_embedding.positional_embedding",
        ),
        (f"{SAM}prompt_encoder.point_embeddings.3.weight", f"{DECODER}prompt_encoder.point_embed.3.weight"),
        (f"{SAM}prompt_encoder.mask_downscaling.6.bias", f"{DECODER}prompt_encoder.mask_embed.conv3.bias"),
        (f"{SAM}prompt_encoder.not_a_point_embed.weight", f"{DECODER}prompt_encoder.not_a_point_embed.weight"),
        (
            f"{SAM}mask_decoder.transformer.layers.1.norm4.weight",
            f"{DECODER}mask_decoder.transformer.layers.1.layer_norm4.weight",
        ),
        (
            f"{SAM}mask_decoder.transformer.norm_final_attn.bias",
            f"{DECODER}mask_decoder.transformer.layer_norm_final_attn.bias",
        ),
        (f"{SAM}mask_decoder.output_upscaling.1.weight", f"{DECODER}mask_decoder.upscale_layer_norm.weight"),
        (
            f"{SAM}mask_decoder.output_hypernetworks_mlps.2.layers.0.bias",
            f"{DECODER}mask_decoder.output_hypernetworks_mlps.2.proj_in.bias",
        ),
        (
            f"{SAM}mask_decoder.iou_prediction_head.layers.1.weight",
            f"{DECODER}mask_decoder.iou_prediction_head.layers.0.weight",
        ),
    ],
)
def test_names(key, name):
    assert rename_glamm_key(key) == name
    for wrong in (f"x{key}", f"base_model.{key}"):
        with pytest.raises(ValueError, match="is not the name of a tensor of the original GLaMM"):
            rename_glamm_key(wrong)


def test_no_two_tensors_of_a_release_get_one_name(glamm_text_dir):
    keys = read_keys(glamm_text_dir / "glamm_real_size_keys.txt")
    assert len(keys) == len({rename_glamm_key(key) for key in keys}) == 968
