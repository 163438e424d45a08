"""A new GLaMM of a vision encoder, a whole SAM and a language model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
    SamVisionModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from transformers_groma import assemble_components
from transformers_groma.models.glamm.convert_components_glamm import new_region_encoder_config

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VISION = {**SMALL, "intermediate_size": 32, "image_size": 56, "patch_size": 14}
SAM = {
    "vision_config": {
        **SMALL, "num_hidden_layers": 2, "mlp_dim": 32, "image_size": 64, "patch_size": 16, "output_channels": 32,
        "global_attn_indexes": [1], "window_size": 3, "num_pos_feats": 16,
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 16},
    "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 4, "mlp_dim": 32, "iou_head_hidden_dim": 32},
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory, glamm_tokenizer) -> dict[str, Path]:
    """Folders of very small components."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(folder / "clip")
    CLIPImageProcessor().save_pretrained(folder / "clip")
    text = {**SMALL, "intermediate_size": 32, "vocab_size": 32}
    siglip = SiglipConfig(vision_config=VISION, text_config={**text, "projection_size": 32})
    SiglipModel(siglip).save_pretrained(folder / "siglip")
    SiglipImageProcessor().save_pretrained(folder / "siglip")
    SamModel(SamConfig(**SAM)).save_pretrained(folder / "sam")
    hq = {**SAM, "mask_decoder_config": {**SAM["mask_decoder_config"], "vit_dim": 32}}
    SamHQModel(SamHQConfig(**hq)).save_pretrained(folder / "sam_hq")
    SamVisionModel(SamConfig(**SAM).vision_config).save_pretrained(folder / "sam_vision")
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[3] / "hub_configs" / "groma-tiny")
    tokenizer.save_pretrained(folder / "llm")
    config = LlamaConfig(**SMALL, intermediate_size=32, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(folder / "llm")
    return {path.name: path for path in folder.iterdir()}


def assemble(parts, out: Path, vision="clip", sam="sam", **options) -> Path:
    return assemble_components(
        out, vision_encoder=parts[vision], grounding_encoder=parts[sam], language_model=parts["llm"], **options
    )


@pytest.mark.parametrize(("vision", "sam"), [("clip", "sam"), ("siglip", "sam_hq")])
def test_each_part_is_what_it_was(parts, tmp_path, vision, sam):
    model = AutoModelForImageTextToText.from_pretrained(assemble(parts, tmp_path / "out", vision, sam)).eval()
    files = load_file(parts[sam] / "model.safetensors")
    for name, weight in model.model.grounding_encoder.state_dict().items():
        assert torch.equal(weight, files[name]), name
    for name, weight in model.model.mask_decoder.mask_decoder.state_dict().items():
        assert torch.equal(weight, files[f"mask_decoder.{name}"]), name
    prompts = model.model.mask_decoder.prompt_encoder.state_dict()
    assert torch.equal(prompts["point_embed.2.weight"], files["prompt_encoder.point_embed.2.weight"])
    positions = files["shared_image_embedding.positional_embedding"]
    assert torch.equal(prompts["shared_embedding.positional_embedding"], positions)
    whole = {"clip": CLIPVisionModel, "siglip": SiglipModel}[vision].from_pretrained(parts[vision])
    encoder = getattr(whole, "vision_model", whole) if vision == "siglip" else whole
    pixels = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        expected = encoder.eval()(pixels, output_hidden_states=True).hidden_states[-2]
        found = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        old = AutoModelForCausalLM.from_pretrained(parts["llm"]).eval()
        ids = torch.arange(3, 40)[None]
        logits = model(input_ids=ids).logits
        assert torch.equal(logits[..., : old.config.vocab_size], old(input_ids=ids).logits)


def test_it_has_the_right_geometry_and_answers(parts, tmp_path, image):
    out = assemble(parts, tmp_path / "out")
    model, processor = AutoModelForImageTextToText.from_pretrained(out).eval(), AutoProcessor.from_pretrained(out)
    config = model.config
    assert config.region_encoder_config.roi_image_size is None
    assert config.region_encoder_config.box_embedding_format == "xyxy"
    assert config.prompt_projection_hidden_act == "gelu"
    assert config.mask_decoder_config.layer_norm_eps == 1e-5
    ids = [processor.tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<bbox>", "[SEG]")]
    assert ids == [config.image_token_id, config.region_token_id, config.seg_token_id]
    assert not processor.image_processor.do_center_crop
    assert (processor.image_processor.size["height"], processor.image_processor.grounding_size) == (56, 64)
    inputs = processor(images=image, text="What is <region>?", boxes=[[64, 48, 256, 240]], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
    answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(480, 640)])[0]
    torch.testing.assert_close(torch.as_tensor(answer.regions[0].box), torch.tensor([64.0, 48, 256, 240]))


def test_colours_are_those_that_the_vision_encoder_knows(parts, tmp_path):
    for vision, mean in (("clip", 0.48145466), ("siglip", 0.5)):
        processor = AutoProcessor.from_pretrained(assemble(parts, tmp_path / vision, vision))
        assert processor.image_processor.image_mean[0] == pytest.approx(mean)


def test_half_precision_leaves_what_makes_masks(parts, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(assemble(parts, tmp_path / "out", dtype=torch.bfloat16))
    for name in ("vision_tower", "grounding_encoder", "mask_decoder", "prompt_projection"):
        assert {weight.dtype for weight in getattr(model.model, name).parameters()} == {torch.float32}, name
    for name in ("language_model", "region_encoder", "multi_modal_projector"):
        assert {weight.dtype for weight in getattr(model.model, name).parameters()} == {torch.bfloat16}, name
    assert model.config.dtype == torch.bfloat16
    source = load_file(parts["sam"] / "model.safetensors")
    assert torch.equal(model.model.grounding_encoder.vision_encoder.pos_embed, source["vision_encoder.pos_embed"])


@pytest.mark.parametrize(
    ("num_layers", "layers"),
    [(24, [-11, -8, -5, -2]), (10, [-11, -8, -5, -2]), (9, [-8, -6, -4, -2]), (4, [-5, -4, -3, -2])],
)
def test_layers_of_the_region_encoder_fit_the_depth(num_layers, layers):
    config = CLIPVisionConfig(**{**VISION, "num_hidden_layers": num_layers})
    assert new_region_encoder_config(config, {}).vision_feature_layers == layers
    chosen = new_region_encoder_config(config, {"vision_feature_layers": [0, 1, 2, 3], "region_hidden_size": 7})
    assert (chosen.vision_feature_layers, chosen.region_hidden_size) == ([0, 1, 2, 3], 7)


def test_what_does_not_fit_is_refused(parts, tmp_path):
    out = tmp_path / "out"
    shallow = tmp_path / "shallow"
    CLIPVisionModel(CLIPVisionConfig(**{**VISION, "num_hidden_layers": 2})).save_pretrained(shallow)
    cases = [
        ({"sam": "clip"}, ["`grounding_encoder`", "'clip_vision_model'", "facebook/sam-vit-huge"]),
        ({"sam": "sam_vision"}, ["`grounding_encoder`", "'sam_vision_model'", "a whole SAM"]),
        ({"vision": "llm"}, ["`vision_encoder`", "'llama'", "no grid of patches"]),
        ({"region_encoder": {"vision_feature_layers": [-3, -2, -1]}}, ["`vision_feature_layers`", "4 integers"]),
        ({"region_encoder": {"group_norm_groups": 5}}, ["`group_norm_groups`", "5", "32"]),
        ({"vision": "shallow"}, ["`vision_feature_layers`", "2 layers"]),
    ]
    for options, words in cases:
        with pytest.raises(ValueError) as error:
            assemble({**parts, "shallow": shallow}, out, **options)
        assert all(word in str(error.value) for word in words), str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="`language_model` .* not a causal language model"):
        assemble({**parts, "llm": parts["clip"]}, out)
    for absent in ("vision_encoder", "language_model"):
        given = {"vision_encoder": parts["clip"], "language_model": parts["llm"], "grounding_encoder": parts["sam"]}
        given.pop(absent)
        with pytest.raises(ValueError, match="`vision_encoder`, `grounding_encoder` and `language_model`"):
            assemble_components(out, **given)
    assert not out.exists()


def test_damaged_files_of_sam(parts, tmp_path):
    damaged = tmp_path / "sam"
    SamModel(SamConfig(**SAM)).save_pretrained(damaged)
    weights = load_file(damaged / "model.safetensors")
    name = "mask_decoder.iou_token.weight"
    for change, words in (
        ({name: None}, ["lack 1 weights", name]),
        ({name: torch.ones(2, 32)}, [name, "shape (2, 32)"]),
        ({name: torch.full((1, 32), torch.inf)}, [name, "infinite"]),
    ):
        changed = {key: value for key, value in {**weights, **change}.items() if value is not None}
        save_file(changed, damaged / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError) as error:
            assemble({**parts, "sam": damaged}, tmp_path / "out")
        assert all(word in str(error.value) for word in (*words, "`grounding_encoder`")), str(error.value)
    assert not (tmp_path / "out").exists()
