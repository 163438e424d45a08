"""Conversion of released GLaMM checkpoints, and what is refused before anything is written."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    GenerationConfig,
)

from transformers_groma import GlammForConditionalGeneration, convert_legacy_checkpoint
from transformers_groma.models.glamm.convert_config_glamm import convert_glamm_config
from transformers_groma.models.glamm.convert_names_glamm import rename_glamm_key
from transformers_groma.models.glamm.convert_weights_glamm import convert_glamm_state_dict

from .legacy import legacy_weights, released_settings, released_shapes, write_legacy


@pytest.fixture(scope="module")
def original(glamm_text_dir, tmp_path_factory) -> Path:
    """A checkpoint in float32. Don't change it."""
    return write_legacy(glamm_text_dir, tmp_path_factory.mktemp("original") / "legacy")


@pytest.fixture(scope="module")
def expected(original, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights that it is converted to."""
    clip = original.parent / "clip_tiny"
    return weights_of(convert_legacy_checkpoint(original, tmp_path_factory.mktemp("out") / "out", vision_encoder=clip))


@pytest.fixture
def legacy(original, tmp_path) -> Path:
    """A copy that a test may damage. Its CLIP is beside it."""
    shutil.copytree(original.parent, tmp_path / "copy")
    return tmp_path / "copy" / "legacy"


@pytest.fixture(scope="module")
def converted(glamm_text_dir, tmp_path_factory) -> Path:
    """As released: the language model in bfloat16, SAM and the projection of prompts in float32."""
    folder = tmp_path_factory.mktemp("released")
    legacy = write_legacy(glamm_text_dir, folder / "legacy", half=True)
    return convert_legacy_checkpoint(legacy, folder / "model", vision_encoder=folder / "clip_tiny")


def convert(legacy: Path, **options) -> Path:
    options.setdefault("vision_encoder", legacy.parent / "clip_tiny")
    return convert_legacy_checkpoint(legacy, legacy.parent / "out", **options)


def assert_refused(legacy: Path, *words: str, error: type = ValueError, **options) -> None:
    """Converting ends with an error in one line that has the words, and leaves nothing."""
    before = sorted(path.name for path in legacy.parent.iterdir())
    with pytest.raises(error) as info:
        convert(legacy, **options)
    assert "\n" not in str(info.value)
    for word in words:
        assert word in str(info.value)
    assert sorted(path.name for path in legacy.parent.iterdir()) == before


def change_config(legacy: Path, **changes) -> None:
    config = json.loads((legacy / "config.json").read_text())
    config.update(changes)
    config = {name: value for name, value in config.items() if value is not None}
    (legacy / "config.json").write_text(json.dumps(config))


def change_weights(legacy: Path, change) -> None:
    weights = load_file(legacy / "model.safetensors")
    change(weights)
    save_file(weights, legacy / "model.safetensors")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert set(first) == set(second)
    for name, weight in first.items():
        assert weight.dtype == second[name].dtype and torch.equal(weight, second[name]), name


class TestWhatIsWritten:
    def test_every_tensor_under_its_name_in_its_dtype(self, converted, glamm_text_dir):
        saved = weights_of(converted)
        expected = {rename_glamm_key(key): value for key, value in legacy_weights(glamm_text_dir, half=True).items()}
        clip = CLIPVisionModel.from_pretrained(converted.parent / "clip_tiny").state_dict()
        expected |= {f"model.vision_tower.{name}": weight for name, weight in clip.items()}
        assert_same(saved, expected)

    def test_loading_keeps_every_bit_and_dtype(self, converted):
        model = AutoModelForImageTextToText.from_pretrained(converted)
        assert type(model) is GlammForConditionalGeneration
        assert_same(dict(model.state_dict()), weights_of(converted))
        assert model.config.dtype == torch.bfloat16

    def test_saving_again_changes_nothing(self, converted, tmp_path):
        AutoModelForImageTextToText.from_pretrained(converted).save_pretrained(tmp_path / "again")
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / "again")
        assert_same(dict(again.state_dict()), weights_of(converted))

    def test_settings(self, converted):
        config = AutoModelForImageTextToText.from_pretrained(converted).config
        assert config.region_encoder_config.roi_image_size == 224
        assert config.region_encoder_config.roi_strides == [1.75, 3.5, 7.0, 14.0]
        assert config.region_encoder_config.vision_feature_layers == [-11, -8, -5, -2]
        assert config.region_encoder_config.box_embedding_format == "xyxy"
        assert (config.projector_hidden_act, config.prompt_projection_hidden_act) == ("gelu", "relu")
        assert (config.image_token_id, config.region_token_id, config.seg_token_id) == (323, 322, 324)
        assert config.grounding_config.global_attn_indexes == [1, 3]
        assert (config.grounding_config.window_size, config.grounding_config.image_size) == (14, 256)
        assert config.mask_decoder_config.layer_norm_eps == 1e-5
        generation = GenerationConfig.from_pretrained(converted)
        assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 0)
        assert not generation.do_sample

    def test_processor(self, converted):
        processor = AutoProcessor.from_pretrained(converted)
        tokenizer, views = processor.tokenizer, processor.image_processor
        assert tokenizer.convert_tokens_to_ids(["<im_start>", "<bbox>", "[SEG]", "</p>"]) == [320, 322, 324, 326]
        assert tokenizer("[SEG]")["input_ids"] == [1, 324]
        assert processor.image_token == "<point>" and views.do_center_crop
        assert (views.size["height"], views.grounding_size) == (336, 256)

    def test_files(self, converted):
        names = {path.name for path in converted.iterdir()}
        assert names == {
            *("config.json", "generation_config.json", "model.safetensors", "processor_config.json", "README.md"),
            *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        }
        card = (converted / "README.md").read_text()
        assert "# model" in card and "hf download" not in card

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_one_dtype_for_all(self, legacy, dtype):
        out = convert(legacy, dtype=dtype)
        assert {weight.dtype for weight in weights_of(out).values()} == {dtype}
        model = AutoModelForImageTextToText.from_pretrained(out)
        assert model.lm_head.weight.dtype == dtype
        assert model.model.grounding_encoder.dtype == torch.float32

    def test_parts_that_have_other_dtypes_than_usual_keep_them(self, legacy):
        """A CLIP in half precision, and a projection of prompts in the language model's."""
        clip = legacy.parent / "clip_tiny"
        CLIPVisionModel.from_pretrained(clip).half().save_pretrained(clip)
        change_weights(
            legacy,
            lambda w: w.update({name: w[name].bfloat16() for name in w if "grounding_encoder" not in name}),
        )
        out = convert(legacy)
        assert json.loads((out / "config.json").read_text())["part_dtypes"] == {
            "model": "bfloat16",
            "vision_tower": "float16",
            "prompt_projection": "bfloat16",
        }
        model = AutoModelForImageTextToText.from_pretrained(out)
        assert_same(dict(model.state_dict()), weights_of(out))


class TestForms:
    def test_shards_of_bin_files(self, legacy, expected):
        weights = weights_of(legacy)
        names, weight_map = sorted(weights), {}
        for index, part in enumerate((names[::2], names[1::2])):
            file = f"pytorch_model-{index + 1:05d}-of-00002.bin"
            torch.save({name: weights[name] for name in part}, legacy / file)
            weight_map.update(dict.fromkeys(part, file))
        (legacy / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (legacy / "model.safetensors").unlink()
        assert_same(weights_of(convert(legacy)), expected)

        (legacy / "pytorch_model-00001-of-00002.bin").unlink()
        shutil.rmtree(legacy.parent / "out")
        assert_refused(legacy, "pytorch_model-00001-of-00002.bin", error=FileNotFoundError)

    def test_buffers_that_old_versions_saved(self, legacy, expected):
        def add(weights):
            weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(12)
            weights["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(577)[None]

        change_weights(legacy, add)
        assert_same(weights_of(convert(legacy)), expected)

    @pytest.mark.parametrize("prefix", ["model.vision_tower.vision_tower.vision_model.", "model.vision_tower."])
    def test_its_own_clip(self, legacy, prefix):
        """Kept apart from the same CLIP elsewhere only by its dtype, it is left out; another one is refused."""
        clip = CLIPVisionModel.from_pretrained(legacy.parent / "clip_tiny").state_dict()
        change_weights(legacy, lambda w: w.update({prefix + name: weight.bfloat16() for name, weight in clip.items()}))
        out = weights_of(convert(legacy))
        assert all(torch.equal(out[f"model.vision_tower.{name}"], weight) for name, weight in clip.items())
        shutil.rmtree(legacy.parent / "out")
        name = prefix + "pre_layrnorm.bias"
        change_weights(legacy, lambda w: w[name].add_(1))
        assert_refused(legacy, name, "differs from that of `vision_encoder`")

    def test_a_whole_clip_and_one_by_name(self, legacy):
        """The Hub's repository holds a CLIP with its text encoder; config.json names it."""
        vision = CLIPVisionModel.from_pretrained(legacy.parent / "clip_tiny")
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = CLIPConfig(
            vision_config=vision.config.to_dict(), text_config={**sizes, "vocab_size": 9}, projection_dim=32
        )
        whole = CLIPModel(config)
        whole.vision_model.load_state_dict(vision.state_dict())
        whole.save_pretrained(legacy.parent / "clip_whole")
        change_config(legacy, mm_vision_tower=str(legacy.parent / "clip_whole"))
        out = weights_of(convert(legacy, vision_encoder=None))
        assert all(
            torch.equal(out[f"model.vision_tower.{name}"], weight) for name, weight in vision.state_dict().items()
        )

    def test_one_linear_layer_as_the_projector(self, legacy):
        """As GLaMM-FullScope_v0 has it: the second layer passes on what the first gives."""

        def change(weights):
            weights["model.mm_projector.weight"] = weights.pop("model.mm_projector.0.weight")
            weights["model.mm_projector.bias"] = weights.pop("model.mm_projector.0.bias")
            del weights["model.mm_projector.2.weight"], weights["model.mm_projector.2.bias"]

        change_weights(legacy, change)
        change_config(legacy, mm_projector_type="linear")
        weights = weights_of(legacy)
        model = AutoModelForImageTextToText.from_pretrained(convert(legacy))
        states = torch.randn(5, 64)
        expected = torch.nn.functional.linear(
            states, weights["model.mm_projector.weight"], weights["model.mm_projector.bias"]
        )
        assert torch.equal(model.model.multi_modal_projector(states), expected)

    @pytest.mark.parametrize(
        "changes",
        [
            {"architectures": None},
            {"architectures": ["LlavaLlamaForCausalLM"]},
            {"num_reg_features": None, "mm_use_image_start_end": None, "select_feature_type": None},
            {"bbox_token_idx": None, "out_dim": None, "with_region": None, "mm_hidden_size": None},
            {"rope_scaling": None, "max_length": 4096, "torch_dtype": "bfloat16", "num_key_value_heads": 4},
        ],
    )
    def test_settings_that_differ_between_the_releases(self, legacy, expected, changes):
        change_config(legacy, **changes)
        assert_same(weights_of(convert(legacy)), expected)

    def test_one_table_for_embedding_and_head(self, legacy):
        change_config(legacy, tie_word_embeddings=True)
        assert_refused(legacy, "`tie_word_embeddings`", "differ")
        change_weights(legacy, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
        model = AutoModelForImageTextToText.from_pretrained(convert(legacy))
        assert model.lm_head.weight is model.get_input_embeddings().weight
        assert torch.equal(model.lm_head.weight, weights_of(legacy)["lm_head.weight"])


NORM = "model.norm.weight"
LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda w: w.pop(NORM), ["missing", "language_model.norm.weight"]),
            (lambda w: w.pop("model.text_hidden_fcs.0.0.bias"), ["missing", "prompt_projection.linear_1.bias"]),
            (lambda w: w.pop("model.text_hidden_fcs.0.2.weight"), ["lacks 'model.text_hidden_fcs.0.2.weight'"]),
            (lambda w: w.update({"model.surprise": torch.ones(1)}), ["unknown", "model.surprise"]),
            (lambda w: w.update({NORM: torch.ones(5)}), ["wrong shape", "norm.weight", "(5,)", "(96,)"]),
            (lambda w: w.update({LORA: torch.ones(8, 96)}), ["1 tensors of LoRA", LORA, "merge"]),
            (lambda w: w.update({NORM: torch.full((96,), torch.nan)}), [NORM, "NaN"]),
            (lambda w: w.update({NORM: torch.zeros(0)}), [NORM, "empty"]),
            (lambda w: w.update({NORM: torch.ones(96, dtype=torch.int8)}), [NORM, "int8"]),
            (
                lambda w: [w.pop(name) for name in list(w) if "input_conv.3" in name],
                ["`num_level_reg_features` 4", "3 rows"],
            ),
            (lambda w: [w.pop(name) for name in list(w) if "layers.1." in name and "mask" not in name], ["1 layers"]),
            (lambda w: [w.pop(name) for name in list(w) if ".image_encoder.blocks." in name], ["SAM's image encoder"]),
        ],
        ids=["missing", "bias", "size", "unknown", "shape", "lora", "nan", "empty", "int8", "maps", "layers", "sam"],
    )
    def test_tensors(self, legacy, change, words):
        change_weights(legacy, change)
        assert_refused(legacy, *words)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"bbox_token_idx": 321}, ["`bbox_token_idx` 321", "322"]),
            ({"bbox_token_idx": "<bbox>"}, ["`bbox_token_idx` '<bbox>'"]),
            ({"vocab_size": 320}, ["`vocab_size` 320", "327 rows"]),
            ({"hidden_size": 97}, ["`hidden_size` 97"]),
            ({"num_hidden_layers": 3}, ["`num_hidden_layers` 3", "2 layers"]),
            ({"num_hidden_layers": None}, ["lacks `num_hidden_layers`"]),
            ({"num_attention_heads": 5}, ["5"]),
            ({"num_attention_heads": -4}, ["`num_attention_heads` -4"]),
            ({"rms_norm_eps": 0}, ["`rms_norm_eps` 0"]),
            ({"out_dim": 256}, ["`out_dim` 256", "32"]),
            ({"mm_hidden_size": 1024}, ["`mm_hidden_size` 1024", "64"]),
            ({"num_reg_features": 3}, ["`num_reg_features` 3"]),
            ({"mm_vision_select_feature": "cls_patch"}, ["`mm_vision_select_feature` 'cls_patch'", "'patch'"]),
            ({"mm_use_im_start_end": False}, ["`mm_use_im_start_end` False"]),
            ({"mm_vision_select_layer": -14}, ["`mm_vision_select_layer` -14", "-13"]),
            ({"mm_vision_select_layer": -5}, ["hidden state 8"]),
            ({"pad_token_id": 999}, ["`pad_token_id` 999"]),
            ({"eos_token_id": 5}, ["'</s>'", "5"]),
            ({"rope_theta": float("inf")}, ["rope_theta", "finite"]),
        ],
    )
    def test_settings(self, legacy, changes, words):
        change_config(legacy, **changes)
        assert_refused(legacy, *words)

    def test_tokenizers(self, legacy):
        tokens = json.loads((legacy / "added_tokens.json").read_text())
        (legacy / "added_tokens.json").write_text(json.dumps({**tokens, "<bbox>": 324, "[SEG]": 322}))
        assert_refused(legacy, "<bbox>")
        (legacy / "added_tokens.json").write_text(json.dumps({name: tokens[name] for name in ("<p>", "</p>")}))
        assert_refused(legacy, "<im_start>")
        (legacy / "tokenizer.model").write_bytes(b"no model")
        assert_refused(legacy, "tokenizer.model", "SentencePiece")
        (legacy / "tokenizer.model").unlink()
        assert_refused(legacy, "tokenizer.model", error=FileNotFoundError)

    def test_another_clip(self, legacy):
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4}
        for name, config, words in (
            ("wide", {**sizes, "hidden_size": 128, "num_hidden_layers": 12}, ["128 wide", "64", "clip_tiny"]),
            ("small", {**sizes, "num_hidden_layers": 12, "image_size": 224}, ["16x16", "24x24", "clip_tiny"]),
            ("flat", {**sizes, "num_hidden_layers": 9}, ["hidden state 8", "9 layers"]),
        ):
            folder = legacy.parent / name
            CLIPVisionModel(CLIPVisionConfig(**{"image_size": 336, "patch_size": 14, **config})).save_pretrained(
                folder
            )
            assert_refused(legacy, "`vision_encoder`", *words, vision_encoder=folder)

    def test_what_is_not_a_clip(self, legacy):
        folder = legacy.parent / "dinov2"
        config = Dinov2Config(hidden_size=64, num_hidden_layers=12, num_attention_heads=4, image_size=336)
        Dinov2Model(config).save_pretrained(folder)
        assert_refused(legacy, "`vision_encoder`", "'dinov2'", "CLIP", vision_encoder=folder)
        assert_refused(legacy, "missing", error=OSError, vision_encoder=legacy.parent / "missing")
        (folder / "model.safetensors").write_bytes(b"cut")
        assert_refused(legacy, "model.safetensors", "is damaged or incomplete", vision_encoder=folder)

    def test_a_clip_that_is_not_there(self, legacy):
        change_config(legacy, mm_vision_tower="openai/no-such-clip")
        assert_refused(
            legacy, "'openai/no-such-clip'", "`vision_encoder`", error=FileNotFoundError, vision_encoder=None
        )
        changes = dict.fromkeys(("mm_vision_tower", "mm_vision_module", "vision_tower", "vision_module"))
        change_config(legacy, **changes)
        assert_refused(legacy, "`mm_vision_tower`", "`vision_encoder`", vision_encoder=None)

    def test_a_llava_is_not_a_glamm(self, legacy):
        change_config(legacy, architectures=["LlavaLlamaForCausalLM"])
        change_weights(legacy, lambda w: [w.pop(name) for name in list(w) if "grounding_encoder" in name])
        assert_refused(legacy, "'llava'", "LlavaLlamaForCausalLM", "GLaMM")

    def test_our_own_format(self, converted, tmp_path):
        with pytest.raises(ValueError, match="in this package's format already"):
            convert_legacy_checkpoint(converted, tmp_path / "out")

    def test_a_groma_needs_no_vision_encoder(self, golden_dir, tmp_path):
        with pytest.raises(ValueError, match="`vision_encoder` .* holds its own"):
            convert_legacy_checkpoint(golden_dir / "legacy_checkpoint", tmp_path / "out", vision_encoder="clip")
        assert not (tmp_path / "out").exists()

    def test_the_clip_is_a_source_that_is_not_overwritten(self, legacy):
        with pytest.raises(FileExistsError, match="clip_tiny"):
            convert_legacy_checkpoint(
                legacy, legacy.parent / "clip_tiny", overwrite=True, vision_encoder=legacy.parent / "clip_tiny"
            )


def test_all_names_of_a_release_map(glamm_text_dir):
    """None is missing, none is left over, and every shape is that of the model which the settings describe."""
    shapes, settings = released_shapes(glamm_text_dir), released_settings(glamm_text_dir)
    clip = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    with torch.device("meta"):
        vision = CLIPVisionModel(clip)
    config = convert_glamm_config(settings, shapes, clip)
    converted = convert_glamm_state_dict(shapes, vision.state_dict(), config)
    of_clip = sum(weight.numel() for weight in vision.state_dict().values())
    assert sum(weight.numel() for weight in converted.values()) - of_clip == 7_717_518_640 - 32 * 64
    assert config.grounding_config.global_attn_indexes == [7, 15, 23, 31]
    assert (config.image_token_id, config.region_token_id, config.seg_token_id) == (32003, 32002, 32004)
