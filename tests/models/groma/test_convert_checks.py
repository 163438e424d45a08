"""What is refused before anything is written: each kind of damage, by its file and name, with a remedy."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.tiny import TEXT, tiny_detector_config
from transformers_groma import (
    GromaForRegionProposal,
    GromaRegionProposalConfig,
    assemble_components,
    convert_legacy_checkpoint,
)
from transformers_groma.models.groma.convert_checks import (
    _line,
    check_component,
    check_integer,
    check_layers,
    check_share,
    check_size,
    check_tensors,
    check_tokens,
    find_weights,
    load_checkpoint,
    read_settings,
)
from transformers_groma.models.groma.convert_groma_checkpoint import convert_legacy_config

NORM = "llm.model.norm.weight"


@pytest.fixture
def legacy(golden_dir, tmp_path) -> Path:
    """A copy of the toy checkpoint that a test may damage."""
    folder = tmp_path / "legacy"
    shutil.copytree(golden_dir / "legacy_checkpoint", folder)
    return folder


@pytest.fixture(scope="module")
def legacy_weights(golden_dir) -> dict[str, torch.Tensor]:
    return load_file(golden_dir / "legacy_checkpoint" / "model.safetensors")


def refuse(folder: Path, *words: str, **kwargs) -> None:
    """Converting ends with a ValueError in one line that has the words, and leaves nothing."""
    out = folder.parent / "out"
    with pytest.raises(ValueError) as error:
        convert_legacy_checkpoint(folder, out, **kwargs)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert not out.exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def change_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def save_bin(folder: Path, weights, **kwargs) -> Path:
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(weights, folder / "pytorch_model.bin", **kwargs)
    return folder / "pytorch_model.bin"


class TestFiles:
    @pytest.mark.parametrize("length", [0, 7, 100, 100_000])
    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_cut_files(self, legacy, legacy_weights, name, length):
        path = legacy / "model.safetensors" if name == "model.safetensors" else save_bin(legacy, legacy_weights)
        path.write_bytes(path.read_bytes()[:length])
        refuse(legacy, name, "cut or damaged")

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    @pytest.mark.parametrize(
        ("content", "word"),
        [
            (b"<!DOCTYPE html><html>Not found</html>", "cut or damaged"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ],
    )
    def test_other_files(self, legacy, name, content, word):
        (legacy / "model.safetensors").unlink()
        (legacy / name).write_bytes(content)
        refuse(legacy, name, word)

    def test_code_in_a_pickle_does_not_run(self, legacy, tmp_path):
        class Attack:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "attacked",))

        for zipped in (True, False):
            save_bin(legacy, {"a": Attack()}, _use_new_zipfile_serialization=zipped)
            refuse(legacy, "pytorch_model.bin", "could run code")
        (legacy / "pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
        refuse(legacy, "pytorch_model.bin")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ([torch.zeros(1)], ["list", "state_dict"]),
            ({"state_dict": {"a": torch.zeros(1)}}, ["'state_dict'", "dict"]),
            ({"epoch": 3}, ["'epoch'", "int"]),
            ({1: torch.zeros(1)}, ["1"]),
        ],
    )
    def test_something_else_than_tensors(self, legacy, content, words):
        save_bin(legacy, content)
        refuse(legacy, "pytorch_model.bin", *words)

    def test_files_of_old_versions_of_torch_are_read(self, legacy, legacy_weights, tmp_path, converted_golden):
        save_bin(legacy, legacy_weights, _use_new_zipfile_serialization=False)
        out = convert_legacy_checkpoint(legacy, tmp_path / "out")
        first, second = load_file(out / "model.safetensors"), load_file(converted_golden / "model.safetensors")
        assert all(torch.equal(first[name], second[name]) for name in second)

    @pytest.mark.parametrize(
        ("index", "words"),
        [
            ("{", ["is not JSON", "Download or copy it again"]),
            ("[]", ["list"]),
            ("{}", ["weight_map"]),
            ('{"weight_map": {}}', ["weight_map"]),
            ('{"weight_map": ["a"]}', ["weight_map"]),
            ('{"weight_map": {"a": "../model.safetensors"}}', ["'../model.safetensors'"]),
            ('{"weight_map": {"a": "/etc/passwd"}}', ["'/etc/passwd'"]),
            ('{"weight_map": {"a": "b/c.safetensors"}}', ["'b/c.safetensors'"]),
            ('{"weight_map": {"a": ".."}}', ["'..'"]),
            ('{"weight_map": {"a": 3}}', ["3"]),
        ],
    )
    def test_indices(self, legacy, index, words):
        (legacy / "model.safetensors").unlink()
        (legacy / "model.safetensors.index.json").write_text(index)
        refuse(legacy, "model.safetensors.index.json", *words)

    def test_the_size_of_all_tensors_has_no_limit(self, legacy, legacy_weights, tmp_path, converted_golden):
        (legacy / "model.safetensors").rename(legacy / "one.safetensors")
        index = {
            "metadata": {"total_size": 29_509_246_628},
            "weight_map": dict.fromkeys(legacy_weights, "one.safetensors"),
        }
        (legacy / "model.safetensors.index.json").write_text(json.dumps(index))
        out = convert_legacy_checkpoint(legacy, tmp_path / "out")
        assert (out / "model.safetensors").stat().st_size == (converted_golden / "model.safetensors").stat().st_size

    def test_an_index_beside_a_whole_file(self, legacy):
        (legacy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}')
        refuse(legacy, "both model.safetensors and model.safetensors.index.json")

    def test_a_shard_lacks_what_the_index_says(self, legacy, legacy_weights):
        (legacy / "model.safetensors").rename(legacy / "one.safetensors")
        weight_map = {**dict.fromkeys(legacy_weights, "one.safetensors"), "lost.weight": "one.safetensors"}
        (legacy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        refuse(legacy, "one.safetensors", "'lost.weight'")

    @pytest.mark.parametrize("is_same", [True, False])
    def test_one_name_in_two_shards(self, legacy, legacy_weights, is_same, tmp_path):
        (legacy / "model.safetensors").rename(legacy / "one.safetensors")
        save_file({NORM: legacy_weights[NORM] + (0 if is_same else 1)}, legacy / "two.safetensors")
        weight_map = {**dict.fromkeys(legacy_weights, "one.safetensors"), NORM: "two.safetensors"}
        (legacy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        if is_same:
            assert convert_legacy_checkpoint(legacy, tmp_path / "out").is_dir()
        else:
            refuse(legacy, "one.safetensors and two.safetensors", NORM)


class TestTensors:
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (torch.zeros(0), ["1 of 325 tensors is empty", "ZeRO-3", "zero_to_fp32.py"]),
            (torch.full((96,), torch.nan), ["NaN or infinite"]),
            (torch.full((96,), -torch.inf), ["NaN or infinite"]),
            (torch.ones(96, dtype=torch.int8), ["int8", "float32"]),
            (torch.ones(96, dtype=torch.uint8), ["uint8"]),
            (torch.ones(96, dtype=torch.int64), ["int64"]),
            (torch.ones(96, dtype=torch.complex64), ["complex64"]),
            (torch.ones(96).to(torch.float8_e4m3fn), ["float8_e4m3fn"]),
            (torch.ones(96, dtype=torch.bool), ["bool"]),
            (torch.quantize_per_tensor(torch.ones(96), 0.1, 0, torch.qint8), ["quantized"]),
            (torch.ones(96).to_sparse(), ["sparse_coo"]),
            (torch.ones(96, device="meta"), ["no values"]),
            (torch.ones(1).expand(10**12), ["1000000000000 values"]),
        ],
        ids=lambda value: str(getattr(value, "dtype", "")),
    )
    def test_what_is_not_a_weight(self, legacy, legacy_weights, value, words):
        save_bin(legacy, {**legacy_weights, NORM: value})
        refuse(legacy, "pytorch_model.bin", NORM, *words)

    def test_views_that_share_memory_are_weights(self):
        both = torch.ones(2, 4)
        check_tensors({"a": both[0], "b": both[:, 1], "c": both}, "x")
        check_tensors({"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(2).bfloat16()}, "x")

    def test_many_names_are_cut(self):
        with pytest.raises(ValueError, match=r"'0', '1', '2' and 2 more\."):
            check_tensors({str(index): torch.zeros(0) for index in range(5)}, "x")
        with pytest.raises(ValueError, match=r"'0', '1', '2' have values"):
            check_tensors({str(index): torch.tensor(torch.nan) for index in range(3)}, "x")

    def test_what_does_not_fit_another_dtype(self, legacy, legacy_weights, tmp_path):
        save_bin(legacy, {**legacy_weights, NORM: torch.full((96,), 70_000.0)})
        refuse(legacy, "as float16", "model.language_model.norm.weight", "infinite", dtype=torch.float16)
        assert convert_legacy_checkpoint(legacy, tmp_path / "out", dtype=torch.bfloat16).is_dir()

    def test_tables_of_two_dtypes_lose_nothing(self, legacy, legacy_weights, tmp_path):
        name = "llm.model.embed_tokens.weight"
        save_bin(legacy, {**legacy_weights, name: legacy_weights[name].half()})
        out = convert_legacy_checkpoint(legacy, tmp_path / "out")
        table = load_file(out / "model.safetensors")["model.language_model.embed_tokens.weight"]
        assert torch.equal(table[320:], legacy_weights["new_input_embs.weight"])

    def test_a_tied_head_that_differs(self, legacy):
        change_config(legacy, lambda config: config["llm_cfg"].update(tie_word_embeddings=True))
        refuse(legacy, "tie_word_embeddings", "head")


class TestConfig:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.update(nms_thres=1.01), ["`nms_thres` 1.01", "0 to 1"]),
            (lambda c: c.update(nms_thres=-0.1), ["`nms_thres` -0.1"]),
            (lambda c: c.update(nms_thres="0.6"), ["`nms_thres` '0.6'"]),
            (lambda c: c.update(nms_thres=True), ["`nms_thres` True"]),
            (lambda c: c.update(nms_thres=None), ["`nms_thres` None"]),
            (lambda c: c.update(box_score_thres=2), ["`box_score_thres` 2"]),
            (lambda c: c.update(box_score_thres=float("nan")), ["`box_score_thres` nan"]),
            (lambda c: c.update(max_region_num=0), ["`max_region_num` 0", "1 to 100"]),
            (lambda c: c.update(max_region_num=101), ["`max_region_num` 101"]),
            (lambda c: c.update(max_region_num=10**9), ["`max_region_num` 1000000000"]),
            (lambda c: c.update(max_region_num=5.0), ["`max_region_num` 5.0"]),
            (lambda c: c["perceiver_cfg"].update(vis_output_layer=6), ["`vis_output_layer` 6", "-6 to 5"]),
            (lambda c: c["perceiver_cfg"].update(vis_output_layer=-7), ["`vis_output_layer` -7"]),
            (lambda c: c["llm_cfg"].update(num_hidden_layers=10**9), ["llm_cfg.num_hidden_layers", "2 layers"]),
            (lambda c: c["llm_cfg"].pop("num_hidden_layers"), ["llm_cfg.num_hidden_layers` 32", "2 layers"]),
            (lambda c: c["llm_cfg"].update(num_hidden_layers="2"), ["llm_cfg.num_hidden_layers", "'2'"]),
            (lambda c: c["llm_cfg"].update(hidden_size=10**8), ["wrong shape"]),
            (lambda c: c["llm_cfg"].update(hidden_size=10**12), ["llm_cfg.hidden_size", "1000000000000"]),
            (lambda c: c["llm_cfg"].update(hidden_size="big"), ["config.json"]),
            (lambda c: c["llm_cfg"].update(num_attention_heads=0), ["config.json"]),
            (lambda c: c["llm_cfg"].update(vocab_size=321), ["`llm_cfg.vocab_size` 321", "320 rows"]),
            (lambda c: c.update(num_new_token=7), ["`num_new_token` 7", "114 rows"]),
            (lambda c: c.update(vocab_size=435), ["`vocab_size` 435", "434 rows"]),
            (lambda c: c["llm_cfg"].update(max_position_embeddings=0), ["llm_cfg.max_position_embeddings` 0"]),
            (lambda c: c["llm_cfg"].update(rope_theta=0), ["llm_cfg.rope_theta` 0", "above 0"]),
            (lambda c: c["llm_cfg"].update(rope_theta=-0.5), ["llm_cfg.rope_theta` -0.5"]),
            (lambda c: c["llm_cfg"].update(rope_theta=True), ["llm_cfg.rope_theta` True"]),
            (
                lambda c: c["perceiver_cfg"]["vis_encoder_cfg"].update(num_attention_heads=-1),
                ["vis_encoder_cfg.num_attention_heads` -1"],
            ),
            (
                lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(num_queries=61),
                ["ddetr_cfg.num_queries` 61", "60 rows"],
            ),
            (
                lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(two_stage_num_proposals=59),
                ["two_stage_num_proposals` 59", "60 rows"],
            ),
            (
                lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(num_feature_levels=True),
                ["num_feature_levels` True", "1 rows"],
            ),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(two_stage=False), ["ddetr_cfg.two_stage` False"]),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(with_box_refine=0), ["ddetr_cfg.with_box_refine` 0"]),
            (lambda c: c.update(llm_cfg=3), ["`llm_cfg`", "int"]),
            (lambda c: c.update(perceiver_cfg=[]), ["`perceiver_cfg`", "list"]),
            (
                lambda c: c["perceiver_cfg"]["vis_encoder_cfg"].update(num_hidden_layers=10**9),
                ["vis_encoder_cfg.num_hidden_layers", "5 layers"],
            ),
            (
                lambda c: c["perceiver_cfg"]["vis_encoder_cfg"].update(hidden_size=10**8),
                ["wrong shape"],
            ),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(encoder_layers=3), ["encoder_layers", "2 layers"]),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(decoder_layers=2), ["decoder_layers", "3 layers"]),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(d_model=7), ["d_model"]),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(activation_function=3), ["activation_function"]),
        ],
    )
    def test_settings_that_cannot_be(self, legacy, change, words):
        change_config(legacy, change)
        refuse(legacy, *words)

    @pytest.mark.parametrize("change", [{"nms_thres": 0, "box_score_thres": 1}, {"nms_thres": 1}, {"vocab_size": 320}])
    def test_settings_that_can_be(self, legacy, change, tmp_path):
        change_config(legacy, lambda config: config.update(change))
        assert convert_legacy_checkpoint(legacy, tmp_path / "out").is_dir()

    def test_a_message_names_a_few_tensors_of_many(self, legacy, legacy_weights):
        names = [f"model.{number}" for number in range(5000)]
        save_bin(legacy, {**legacy_weights, **dict.fromkeys(names, torch.zeros(1))})
        with pytest.raises(ValueError, match="unknown: 'model.0', .* and 4997 more$"):
            convert_legacy_checkpoint(legacy, legacy.parent / "out")

    def test_labels_are_not_counted_up(self, legacy, tmp_path):
        change_config(legacy, lambda c: c["perceiver_cfg"]["vis_encoder_cfg"].update(num_labels=2 * 10**9))
        assert convert_legacy_checkpoint(legacy, tmp_path / "out").is_dir()

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'{"a": ' * 100_000])
    def test_files_that_are_not_settings(self, legacy, content):
        (legacy / "config.json").write_bytes(content)
        refuse(legacy, "config.json")

    def test_a_position_table_of_no_grid(self, legacy, legacy_weights):
        name = "perceiver.vis_encoder.embeddings.position_embeddings"
        save_bin(legacy, {**legacy_weights, name: torch.zeros(1, 1371, 64)})
        refuse(legacy, "position_embeddings", "(1, 1371, 64)")
        save_bin(legacy, {**legacy_weights, name: torch.zeros(1, 1 + 7 * 7, 64)})
        refuse(legacy, "32x32", "7x7")

    def test_patches_of_a_pixel_take_no_memory(self, legacy, legacy_weights):
        name = "perceiver.vis_encoder.embeddings.patch_embeddings.projection.weight"
        save_bin(legacy, {**legacy_weights, name: torch.zeros(64, 3, 1, 1)})
        refuse(legacy, "448x448", "37x37")

    def test_empty_meta_tensors_name_themselves(self, golden_dir, legacy_weights):
        config = json.loads((golden_dir / "legacy_checkpoint" / "config.json").read_text())
        name = "new_input_embs.weight"
        for value, word in ((torch.zeros(0), "empty"), (torch.tensor(1.0), "no size")):
            with pytest.raises(ValueError, match=f"{name}.*{word}"):
                convert_legacy_config(config, {**legacy_weights, name: value})

    def test_limits(self):
        assert [check_share("x", value) for value in (0, 1, 0.5)] == [0, 1, 0.5]
        assert [check_integer("x", value, 1, 3) for value in (1, 3)] == [1, 3]
        check_layers("x", 3, 3)
        check_size("config.json", 20, 10)
        with pytest.raises(ValueError, match=r"config.json describes a model of 2,100 weights.*1,049"):
            check_size("config.json", 2_100, 1_049)

    def test_four_names_are_cut_as_well(self):
        with pytest.raises(ValueError, match=r"'0', '1', '2' and 1 more\."):
            check_tensors({str(index): torch.zeros(0) for index in range(4)}, "x")

    def test_errors_of_libraries_are_one_short_line(self):
        assert _line(ValueError("x" * 160)) == "x" * 160 and _line(ValueError("x" * 161)) == "x" * 160 + "…"
        assert _line(KeyError()) == "KeyError" and _line(ValueError("a\n  b ")) == "a b"

    def test_numbers_of_settings(self, tmp_path):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"a": [{"b": 2**31}], "model_max_length": 10**30, "c": -(2**31)}))
        assert read_settings(path)["model_max_length"] == 10**30
        for text in ('{"a": [{"b": 2147483649}]}', '{"a": -2147483649}', '{"a": {"b": 1e999}}', '{"b": NaN}'):
            path.write_text(text)
            with pytest.raises(ValueError, match="config.json says `(a|a.b|b)` "):
                read_settings(path)


class TestSettingsOfTheCheckpoint:
    """All of them differ from the defaults; where one is missing, it is the original's default."""

    OTHERS = (
        ("nms_thres", 0.45, "nms_threshold", 0.6),
        ("box_score_thres", 0.3, "box_score_threshold", 0.15),
        ("max_region_num", 7, "max_regions", 100),
        ("vis_output_layer", -2, "vision_feature_layer", -1),
    )

    @pytest.mark.parametrize(("theirs", "value", "ours", "default"), OTHERS)
    def test_each(self, theirs, value, ours, default, golden_dir, legacy_weights):
        config = json.loads((golden_dir / "legacy_checkpoint" / "config.json").read_text())
        holder = config["perceiver_cfg"] if theirs == "vis_output_layer" else config
        holder[theirs] = value
        assert getattr(convert_legacy_config(config, legacy_weights), ours) == value
        del holder[theirs]
        converted = convert_legacy_config(config, legacy_weights)
        assert getattr(converted, ours) == default
        assert converted.proposer_config.num_queries == 60

    def test_a_whole_checkpoint_keeps_them(self, legacy, tmp_path):
        def change(config):
            config.update(nms_thres=0.45, box_score_thres=0.3, max_region_num=7)
            config["perceiver_cfg"]["vis_output_layer"] = -2

        change_config(legacy, change)
        out = convert_legacy_checkpoint(legacy, tmp_path / "out")
        config = json.loads((out / "config.json").read_text())
        assert (config["nms_threshold"], config["box_score_threshold"]) == (0.45, 0.3)
        assert (config["max_regions"], config["vision_feature_layer"]) == (7, -2)
        assert json.loads((out / "processor_config.json").read_text())["max_regions"] == 7

    def test_of_stage_1(self, golden_dir, legacy_weights):
        config = json.loads((golden_dir / "legacy_checkpoint" / "config.json").read_text())["perceiver_cfg"]
        weights = {name.removeprefix("perceiver."): tensor for name, tensor in legacy_weights.items()}
        converted = convert_legacy_config(config, weights)
        defaults = (converted.max_regions, converted.nms_threshold, converted.box_score_threshold)
        assert isinstance(converted, GromaRegionProposalConfig) and defaults == (100, 0.6, 0.15)
        converted = convert_legacy_config(
            {**config, "nms_thres": 0.4, "box_score_thres": 0, "max_region_num": 9}, weights
        )
        assert (converted.max_regions, converted.nms_threshold, converted.box_score_threshold) == (9, 0.4, 0)


class TestTokenizer:
    def test_tokens_of_another_tokenizer(self, legacy):
        added = json.loads((legacy / "added_tokens.json").read_text())
        swapped = {**added, "<r3>": added["<r4>"], "<r4>": added["<r3>"]}
        (legacy / "added_tokens.json").write_text(json.dumps(swapped))
        refuse(legacy, "'<r3>'", "337", "tokenizer")

    def test_a_tokenizer_without_groma_s_tokens(self, legacy):
        (legacy / "added_tokens.json").unlink()
        change = json.loads((legacy / "tokenizer_config.json").read_text())
        change.pop("added_tokens_decoder", None)
        (legacy / "tokenizer_config.json").write_text(json.dumps(change))
        (legacy / "special_tokens_map.json").unlink()
        refuse(legacy, "tokenizer")

    @pytest.mark.parametrize("index", [434, "433", None])
    def test_ids_that_contradict_the_model(self, legacy, index):
        added = json.loads((legacy / "added_tokens.json").read_text())
        (legacy / "added_tokens.json").write_text(json.dumps({**added, "<r99>": index}))
        refuse(legacy, "tokenizer")

    def test_one_token_for_both_ends(self, legacy):
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            content = json.loads((legacy / name).read_text())
            (legacy / name).write_text(json.dumps({**content, "bos_token": "</s>"}))
        refuse(legacy, "'</s>' by the id 1", "has it at 2")

    @pytest.mark.parametrize(("name", "value"), [("bos_token_id", 2), ("eos_token_id", 1)])
    def test_ends_of_another_tokenizer(self, legacy, name, value):
        change_config(legacy, lambda config: config["llm_cfg"].update({name: value}))
        refuse(legacy, "tokenizer", f"id {value}")

    def test_a_damaged_tokenizer(self, legacy):
        whole = (legacy / "tokenizer.model").read_bytes()
        for content in (b"", b"not a model", whole[: len(whole) // 2]):
            (legacy / "tokenizer.model").write_bytes(content)
            refuse(legacy, str(legacy / "tokenizer.model"), "cut or damaged")
        (legacy / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        refuse(legacy, str(legacy / "tokenizer.model"), "git lfs pull")
        (legacy / "tokenizer.model").unlink()
        with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.model"):
            convert_legacy_checkpoint(legacy, legacy.parent / "out")

    def test_other_numbers_of_tokens(self, legacy_tokenizer):
        size = len(legacy_tokenizer)
        check_tokens(legacy_tokenizer, {"<s>": 1}, size)
        for rows in (size - 1, size + 1):
            with pytest.raises(ValueError, match=f"{size} tokens.*{rows} rows"):
                check_tokens(legacy_tokenizer, {"<s>": 1}, rows)
        with pytest.raises(ValueError, match="'<new>' by the id 5, but the tokenizer lacks it"):
            check_tokens(legacy_tokenizer, {"<new>": 5}, size)


class TestComponents:
    @pytest.fixture
    def parts(self, tmp_path, tiny_dir) -> dict[str, Path]:
        torch.manual_seed(0)
        GromaForRegionProposal(tiny_detector_config()).save_pretrained(tmp_path / "detector")
        tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
        LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": len(tokenizer)})).save_pretrained(tmp_path / "llm")
        tokenizer.save_pretrained(tmp_path / "llm")
        return {"detector": tmp_path / "detector", "language_model": tmp_path / "llm"}

    def refuse(self, parts, tmp_path, *words):
        with pytest.raises((ValueError, OSError)) as error:
            assemble_components(tmp_path / "out", **parts)
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)
        assert not (tmp_path / "out").exists()

    def rewrite(self, folder, change):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    @pytest.mark.parametrize("name", ["detector", "language_model"])
    def test_damage(self, name, parts, tmp_path):
        folder = parts[name]
        whole = (folder / "model.safetensors").read_bytes()
        key = next(key for key in load_file(folder / "model.safetensors") if key.endswith("norm.weight"))

        def nan(weights):
            weights[key][0] = torch.nan

        for change, words in (
            (nan, [key, "NaN"]),
            (lambda weights: weights.update({key: torch.zeros(0)}), [key, "empty"]),
            (lambda weights: weights.update({key: weights[key].to(torch.int8)}), [key, "int8"]),
            (lambda weights: weights.pop(key), ["lack 1 weights", "norm.weight"]),
            (lambda weights: weights.update({key: torch.ones(3)}), ["norm.weight"]),
        ):
            (folder / "model.safetensors").write_bytes(whole)
            self.rewrite(folder, change)
            self.refuse(parts, tmp_path, folder.name, *words)
        (folder / "model.safetensors").write_bytes(whole[:-10])
        self.refuse(parts, tmp_path, "model.safetensors", "cut or damaged")
        (folder / "model.safetensors").unlink()
        self.refuse(parts, tmp_path, "no weights")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.update(hidden_size=10**6, head_dim=10**6), ["config.json describes a model of"]),
            (lambda c: c.update(num_hidden_layers=10**9), ["num_hidden_layers", "1000000000"]),
            (lambda c: c.update(vocab_size=10**10), ["vocab_size"]),
            (lambda c: c.update(quantization_config={"quant_method": "gptq"}), ["quantized (gptq)"]),
            (lambda c: c.update(model_type="dinov2"), ["'dinov2'", "not a causal language model"]),
            (lambda c: c.update(num_hidden_layers="two"), ["language_model"]),
        ],
    )
    def test_settings_of_a_language_model(self, change, words, parts, tmp_path):
        change_config(parts["language_model"], change)
        self.refuse(parts, tmp_path, *words)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c["proposer_config"].update(decoder_layers=10**9), ["decoder_layers"]),
            (lambda c: c.update(max_regions=10**9), ["`max_regions` 1000000000", "1 to 10000"]),
            (lambda c: c.update(max_regions=0), ["`max_regions` 0"]),
            (lambda c: c.update(nms_threshold=1.5), ["`nms_threshold` 1.5"]),
            (lambda c: c.update(box_score_threshold=-0.5), ["`box_score_threshold` -0.5"]),
        ],
    )
    def test_settings_of_a_detector(self, change, words, parts, tmp_path):
        change_config(parts["detector"], change)
        self.refuse(parts, tmp_path, "`detector`", *words)

    def test_a_folder_without_settings(self, parts, tmp_path):
        (parts["detector"] / "config.json").unlink()
        self.refuse(parts, tmp_path, "`detector`", "config.json")

    def test_a_damaged_tokenizer(self, parts, tmp_path):
        (parts["language_model"] / "tokenizer.json").write_text("{")
        self.refuse(parts, tmp_path, "`language_model`")

    def test_a_language_model_is_no_vision_encoder(self, parts, tmp_path):
        self.refuse({"vision_encoder": parts["language_model"]}, tmp_path, "`vision_encoder`", "'llama'")


def test_load_checkpoint_returns_all(golden_dir, legacy_weights):
    loaded = load_checkpoint(golden_dir / "legacy_checkpoint")
    assert set(loaded) == set(legacy_weights)


class TestFilesOfAComponent:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        """Two tensors of 6 and 4 values, one of them an index."""
        save_file({"a": torch.ones(2, 3), "positions": torch.arange(4)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text("{}")
        return tmp_path

    def test_values_are_counted(self, folder):
        assert check_component("detector", folder) == check_component("detector", str(folder)) == 10
        assert check_component("detector", folder / "not there") is None  # a name of the Hub, perhaps
        (folder / "config.json").unlink()
        with pytest.raises(FileNotFoundError, match="`detector` .* has no config.json: pass the folder of a model"):
            check_component("detector", folder)

    @pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer", "encoder_layers", "num_labels"])
    def test_more_layers_than_tensors(self, folder, name):
        for content, fits in (({name: 2}, True), ({name: 3}, False), ({"a": {"b": {name: 3}}}, False)):
            (folder / "config.json").write_text(json.dumps(content))
            if fits:
                assert check_component("x", folder) == 10
            else:
                with pytest.raises(ValueError, match=f"config.json says `{name}` 3, but the weights have 2 tensors"):
                    check_component("x", folder)
        # Other settings are not numbers of layers.
        (folder / "config.json").write_text('{"hidden_size": 3, "num_layers_text": 9, "num_hidden_layers": "many"}')
        assert check_component("x", folder) == 10

    @pytest.mark.parametrize(
        ("content", "method"), [({"quant_method": "awq"}, "awq"), ("gptq", "gptq"), ({"bits": 4}, "None")]
    )
    def test_quantized_components(self, folder, content, method):
        (folder / "config.json").write_text(json.dumps({"quantization_config": content}))
        with pytest.raises(ValueError, match=rf"`x` .* is quantized \({method}\)"):
            check_component("x", folder)
        (folder / "config.json").write_text('{"quantization_config": null}')
        assert check_component("x", folder) == 10

    def test_indices_are_no_weights_of_a_checkpoint(self, folder):
        with pytest.raises(ValueError, match="'positions' is int64, which is not a dtype of weights"):
            load_checkpoint(folder)

    def test_which_files_are_taken(self, folder):
        torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
        assert find_weights(folder) == ([folder / "model.safetensors"], {})
        (folder / "model.safetensors").unlink()
        assert find_weights(folder) == ([folder / "pytorch_model.bin"], {})
        (folder / "pytorch_model.bin").rename(folder / "2.bin")
        weight_map = {"a": "2.bin", "b": "1.bin", "c": "2.bin"}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(FileNotFoundError, match=r"misses shards that its index names: 1\.bin\.$"):
            find_weights(folder)
        torch.save({"b": torch.ones(2)}, folder / "1.bin")
        assert find_weights(folder) == ([folder / "1.bin", folder / "2.bin"], weight_map)
        with pytest.raises(ValueError, match=r"2\.bin lacks 'c', which its index says it holds"):
            load_checkpoint(folder)
        torch.save({"a": torch.zeros(1), "c": torch.zeros(1)}, folder / "2.bin")
        assert {name: tensor.tolist() for name, tensor in load_checkpoint(folder).items()} == {
            "a": [0],
            "b": [1, 1],
            "c": [0],
        }
        for name in ("1.bin", "2.bin", "pytorch_model.bin.index.json"):
            (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match="holds no weights: looked for"):
            find_weights(folder)
