"""Conversion of released checkpoints in every form."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForObjectDetection, AutoProcessor

from tests.golden import golden_pixels
from transformers_groma import GromaForRegionProposal, convert_legacy_checkpoint
from transformers_groma.models.convert_saved_tensors import open_checkpoint
from transformers_groma.models.groma.convert_config import convert_legacy_config
from transformers_groma.models.groma.convert_names import rename_legacy_key
from transformers_groma.models.groma.convert_position_table import bake_position_table
from transformers_groma.models.groma.convert_weights import convert_legacy_state_dict


def rewrite(folder: Path, change) -> None:
    state_dict = load_file(folder / "model.safetensors")
    save_file(change(state_dict) or state_dict, folder / "model.safetensors", metadata={"format": "pt"})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_written(converted_golden):
    names = {path.name for path in converted_golden.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "processor_config.json"} <= names
    assert {"tokenizer.json", "chat_template.jinja"} <= names
    config = AutoConfig.from_pretrained(converted_golden)
    assert config.region_encoder_config.roi_box_format == "cxcywh"
    assert config.region_encoder_config.roi_strides == [1.75, 3.5, 7.0]
    assert not config.proposer_config.refine_reference_points
    assert (config.image_token_id, config.refer_box_token_id, config.ground_box_token_id) == (328, 330, 331)
    assert (config.first_proxy_token_id, config.text_config.vocab_size, config.text_config.pad_token_id) == (
        334,
        434,
        320,
    )
    processor = AutoProcessor.from_pretrained(converted_golden)
    assert processor.tokenizer.convert_tokens_to_ids("<r0>") == config.first_proxy_token_id
    assert processor.image_token_id == config.image_token_id


def test_shards_of_bin_files(legacy, converted_golden, tmp_path):
    state_dict = load_file(legacy / "model.safetensors")
    # The original's .bin files hold the detector's heads under both names.
    for name in list(state_dict):
        if ".decoder.bbox_embed." in name or ".decoder.class_embed" in name:
            state_dict[name.replace(".decoder.", ".")] = state_dict[name]
    names = sorted(state_dict)
    weight_map = {}
    for index, chunk in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"pytorch_model-{index + 1:05d}-of-00002.bin"
        torch.save({name: state_dict[name] for name in chunk}, legacy / file)
        weight_map.update(dict.fromkeys(chunk, file))
    (legacy / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (legacy / "model.safetensors").unlink()
    assert_same_weights(convert_legacy_checkpoint(legacy, tmp_path / "out"), converted_golden)

    (legacy / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match="pytorch_model-00002-of-00002.bin"):
        open_checkpoint(legacy).read()


def test_one_bin_file_with_the_other_alias_and_computed_buffers(legacy, converted_golden, tmp_path):
    state_dict = {}
    for name, tensor in load_file(legacy / "model.safetensors").items():
        alias = ".decoder.bbox_embed." in name or ".decoder.class_embed" in name
        state_dict[name.replace(".decoder.", ".") if alias else name] = tensor
    state_dict["llm.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(12)
    torch.save(state_dict, legacy / "pytorch_model.bin")
    (legacy / "model.safetensors").unlink()
    assert_same_weights(convert_legacy_checkpoint(legacy, tmp_path / "out"), converted_golden)


def test_dtype(legacy, tmp_path):
    out = convert_legacy_checkpoint(legacy, tmp_path / "out", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in weights(out).values()} == {torch.bfloat16}
    model = AutoModelForImageTextToText.from_pretrained(out, dtype="auto")
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.model.vision_tower.dtype == torch.float32


def test_the_language_model_s_dtype_is_that_of_the_model(legacy, tmp_path):
    """Whatever the parts before it are in."""

    def half(state_dict):
        return {name: tensor.half() if name.startswith("llm.") else tensor for name, tensor in state_dict.items()}

    rewrite(legacy, half)
    out = convert_legacy_checkpoint(legacy, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.float16
    assert model.model.vision_tower.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("perceiver.ddetr_transformer.enc_output.weight"),
            ["missing", "region_proposer.enc_output.weight"],
        ),
        (lambda s: s.update({"perceiver.surprise.weight": torch.ones(1)}), ["unknown", "perceiver.surprise.weight"]),
        (lambda s: s.update({"llm.model.norm.weight": torch.ones(5)}), ["wrong shape", "norm.weight", "(5,)"]),
        (lambda s: s.pop("new_input_embs.weight"), ["new_input_embs.weight"]),
        (
            lambda s: s.update({"perceiver.ddetr_transformer.class_embed_enc.bias": torch.ones(1) * 99}),
            ["two different tensors", "class_embed_enc.bias"],
        ),
    ],
    ids=["missing", "unknown", "shape", "table", "aliases"],
)
def test_damaged_checkpoints_stop_with_names_and_leave_nothing(legacy, tmp_path, change, words):
    def apply(state_dict):
        change(state_dict)
        return state_dict

    rewrite(legacy, apply)
    out = tmp_path / "results" / "model"
    with pytest.raises(ValueError) as error:
        convert_legacy_checkpoint(legacy, out)
    for word in words:
        assert word in str(error.value)
    assert list(out.parent.iterdir()) == []


def test_a_folder_that_is_not_a_groma(tmp_path, legacy, tiny_dir):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        convert_legacy_checkpoint(tmp_path / "nothing", tmp_path / "out")
    (legacy / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="'llama'"):
        convert_legacy_checkpoint(legacy, tmp_path / "out")
    (legacy / "config.json").write_text('{"model_type": "groma", "perceiver_cfg": {"ddetr_cfg": {}}}')
    with pytest.raises(ValueError, match="lacks vis_encoder_cfg, llm_cfg"):
        convert_legacy_checkpoint(legacy, tmp_path / "out")
    with pytest.raises(ValueError, match="already"):
        convert_legacy_checkpoint(tiny_dir, tmp_path / "out")
    (legacy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        convert_legacy_checkpoint(legacy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_with_files_is_kept_unless_overwritten(legacy, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        convert_legacy_checkpoint(legacy, out)
    assert (out / "precious.txt").read_text() == "mine"
    convert_legacy_checkpoint(legacy, out, overwrite=True)
    assert not (out / "precious.txt").exists()
    assert (out / "model.safetensors").is_file()


def test_stage_1_checkpoint(golden_dir, legacy, tmp_path, converted_golden):
    """The detector of the whole checkpoint, saved alone as the original's stage 1 does."""
    config = json.loads((legacy / "config.json").read_text())["perceiver_cfg"]
    (legacy / "config.json").write_text(json.dumps({**config, "architectures": ["CustomDDETRModel"]}))
    rewrite(legacy, lambda s: {k.removeprefix("perceiver."): v for k, v in s.items() if k.startswith("perceiver.")})
    out = convert_legacy_checkpoint(legacy, tmp_path / "detector")
    detector = AutoModelForObjectDetection.from_pretrained(out).eval()
    assert type(detector) is GromaForRegionProposal
    whole = AutoModelForImageTextToText.from_pretrained(converted_golden).eval()
    pixels = golden_pixels(golden_dir)
    one, other = detector.propose_regions(pixels), whole.propose_regions(pixels)
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.mask, other.mask)


def test_unknown_name():
    with pytest.raises(ValueError, match="surprise"):
        rename_legacy_key("surprise")


def test_position_table_of_the_right_size_stays():
    table = torch.randn(1, 1 + 32 * 32, 4)
    assert bake_position_table(table, 32) is table
    baked = bake_position_table(torch.randn(1, 1 + 37 * 37, 4), 32)
    assert baked.shape == (1, 1025, 4)


def test_positions_move_by_the_tenth_that_the_original_adds():
    """Its scale is (32 + 0.1) / 37, so the last positions are a little before those of a plain resize."""
    ramp = torch.arange(37.0).expand(37, 37).reshape(1, 1369, 1)
    table = torch.cat([torch.full((1, 1, 1), -5.0), ramp], dim=1)
    baked = bake_position_table(table, 32)
    assert baked[0, 0, 0] == -5
    rows = baked[0, 1:, 0].reshape(32, 32)
    torch.testing.assert_close(rows, rows[:1].expand(32, 32))
    expected = (torch.arange(32.0) + 0.5) * 37 / 32.1 - 0.5
    # Bicubic resizing wavers around a ramp. A plain resize would be 0.08 higher here.
    assert abs((rows[0] - expected)[15:30].mean()) < 0.02


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("perceiver.vis_encoder.encoder.layer.1.mlp.fc1.bias", "model.vision_tower."),
        ("perceiver.ddetr_transformer.decoder.layers.2.fc2.weight", "model.region_proposer.decoder_layers.2.mlp.fc2."),
        (
            "perceiver.ddetr_transformer.encoder.layers.1.self_attn.out_proj.bias",
            "model.region_proposer.encoder_layers.1.self_attn.o_proj.bias",
        ),
        (
            "perceiver.ddetr_transformer.decoder.layers.0.encoder_attn.value_proj.weight",
            "model.region_proposer.decoder_layers.0.encoder_attn.value_proj.weight",
        ),
        (
            "perceiver.ddetr_transformer.decoder.bbox_embed.0.layers.0.weight",
            "model.region_proposer.bbox_embed.0.layers.0.weight",
        ),
        (
            "perceiver.ddetr_transformer.class_embed_coco.bias",
            "model.region_proposer.class_embed_coco.bias",
        ),
        ("perceiver.input_proj.0.weight", "model.region_proposer.input_proj.0.weight"),
        ("region_encoder.mlvl_fuse.fuse_convs.3.gn.bias", "model.region_encoder.fuse_layers.3.norm.bias"),
        ("region_encoder.mlvl_fuse.fuse_convs.3.conv.weight", "model.region_encoder.fuse_layers.3.conv.weight"),
        ("region_encoder.mlvl_fuse.input_conv.0.weight", "model.region_encoder.input_convs.0.weight"),
        ("region_encoder.roi_align.updims.bias", "model.region_encoder.output_projection.bias"),
        ("img_txt_bridge.0.weight", "model.multi_modal_projector.linear_1.weight"),
        ("img_txt_bridge.2.bias", "model.multi_modal_projector.linear_2.bias"),
        ("llm.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("llm.lm_head.weight", "lm_head.weight"),
        ("new_input_embs.weight", "model.language_model.embed_tokens.weight"),
        ("extra_lm_head.weight", "lm_head.weight"),
    ],
)
def test_names(key, name):
    assert rename_legacy_key(key).startswith(name)
    with pytest.raises(ValueError, match="is not the name of a tensor of the original Groma"):
        rename_legacy_key(f"x{key}")


@pytest.fixture(scope="module")
def original(golden_dir) -> tuple[dict, dict[str, torch.Tensor]]:
    folder = golden_dir / "legacy_checkpoint"
    return json.loads((folder / "config.json").read_text()), weights(folder)


@pytest.mark.parametrize(("num_proxies", "max_regions"), [(120, 100), (101, 100), (100, 100), (99, 99), (1, 1)])
def test_without_a_setting_there_are_as_many_regions_as_tokens_for_them_up_to_100(original, num_proxies, max_regions):
    config, state_dict = original
    config = {
        name: value for name, value in config.items() if name not in ("max_region_num", "num_new_token", "vocab_size")
    }
    rows = torch.zeros(14 + num_proxies, 96)
    found = convert_legacy_config(config, {**state_dict, "new_input_embs.weight": rows})
    assert found.max_regions == max_regions
    assert found.text_config.vocab_size == 320 + 14 + num_proxies
    # As many as there are tokens, and no more.
    assert (
        convert_legacy_config(
            {**config, "max_region_num": num_proxies}, {**state_dict, "new_input_embs.weight": rows}
        ).max_regions
        == num_proxies
    )
    with pytest.raises(ValueError, match=f"`max_region_num` {num_proxies + 1}: it must be an integer from 1 to"):
        convert_legacy_config(
            {**config, "max_region_num": num_proxies + 1}, {**state_dict, "new_input_embs.weight": rows}
        )


def test_tables_are_joined_in_their_order_and_other_names_are_counted(original):
    config, state_dict = original
    converted = convert_legacy_state_dict(state_dict, convert_legacy_config(config, state_dict))
    table = converted["model.language_model.embed_tokens.weight"]
    assert torch.equal(table[:320], state_dict["llm.model.embed_tokens.weight"])
    assert torch.equal(table[320:], state_dict["new_input_embs.weight"])
    assert torch.equal(converted["lm_head.weight"][320:], state_dict["extra_lm_head.weight"])
    ours = convert_legacy_config(config, state_dict)
    wrong = {"llm.model.norm.weight": torch.ones(5), "llm.model.layers.0.input_layernorm.weight": torch.ones(5)}
    with pytest.raises(ValueError, match=r"wrong shape: .* is \(5,\), expected \(96,\) \(and of 1 more\)$"):
        convert_legacy_state_dict({**state_dict, **wrong}, ours)
    wrong.popitem()
    with pytest.raises(ValueError, match=r"norm.weight is \(5,\), expected \(96,\)$"):
        convert_legacy_state_dict({**state_dict, **wrong}, ours)
    with pytest.raises(ValueError, match="two tables of 'lm_head.weight' have the shapes"):
        convert_legacy_state_dict({**state_dict, "extra_lm_head.weight": torch.ones(114, 5)}, ours)


@pytest.mark.parametrize(("old_grid", "fits"), [(8, True), (7, False), (37, True)])
def test_a_position_table_may_grow_to_four_times_its_side(original, old_grid, fits):
    config, state_dict = original
    name = "perceiver.vis_encoder.embeddings.position_embeddings"
    ours = convert_legacy_config(config, state_dict)
    changed = {**state_dict, name: torch.zeros(1, 1 + old_grid**2, state_dict[name].shape[-1])}
    if fits:
        assert (
            convert_legacy_state_dict(changed, ours)["model.vision_tower.embeddings.position_embeddings"].shape[1]
            == 1025
        )
    else:
        with pytest.raises(ValueError, match="are a grid of 32x32, but .* is one of 7x7"):
            convert_legacy_state_dict(changed, ours)


def test_a_table_whose_first_part_is_lost_is_missing(original):
    config, state_dict = original
    ours = convert_legacy_config(config, state_dict)
    without = {name: tensor for name, tensor in state_dict.items() if name != "llm.lm_head.weight"}
    with pytest.raises(ValueError, match=r"does not fit its config.json; missing: .*'?lm_head.weight"):
        convert_legacy_state_dict(without, ours)


def test_a_head_that_is_said_to_be_the_embedding_must_be_it(original):
    config, state_dict = original
    ours = convert_legacy_config({**config, "llm_cfg": {**config["llm_cfg"], "tie_word_embeddings": True}}, state_dict)
    with pytest.raises(ValueError, match="`tie_word_embeddings`, but the embedding and the head differ"):
        convert_legacy_state_dict(state_dict, ours)
    tied = {
        **state_dict,
        "llm.lm_head.weight": state_dict["llm.model.embed_tokens.weight"],
        "extra_lm_head.weight": state_dict["new_input_embs.weight"],
    }
    converted = convert_legacy_state_dict(tied, ours)
    assert torch.equal(converted["lm_head.weight"], converted["model.language_model.embed_tokens.weight"])


@pytest.mark.parametrize("name", ["two_stage", "with_box_refine"])
def test_the_kind_of_detector_may_go_without_saying(original, name):
    config, state_dict = original

    def converted(**changes):
        detector = {key: value for key, value in config["perceiver_cfg"]["ddetr_cfg"].items() if key != name}
        perceiver = {**config["perceiver_cfg"], "ddetr_cfg": {**detector, **changes}}
        return convert_legacy_config({**config, "perceiver_cfg": perceiver}, state_dict)

    assert converted().proposer_config.to_dict() == converted(**{name: True}).proposer_config.to_dict()
    for value in (False, None, 1):
        with pytest.raises(
            ValueError, match=f"`ddetr_cfg.{name}` {value!r}: the original Groma's detector has it true"
        ):
            converted(**{name: value})
