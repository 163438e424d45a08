"""Truncated, damaged or foreign checkpoint files are refused by name, with a remedy."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from transformers_groma import (
    convert_legacy_checkpoint,
)
from transformers_groma.models.convert_files import (
    _line,
    check_component,
    find_weights,
    read_settings,
)
from transformers_groma.models.convert_saved_tensors import open_checkpoint

from .groma.damage import NORM, refuse, save_bin


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

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'{"a": ' * 100_000])
    def test_files_that_are_not_settings(self, legacy, content):
        (legacy / "config.json").write_bytes(content)
        refuse(legacy, "config.json")

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


def test_load_checkpoint_returns_all(golden_dir, legacy_weights):
    loaded = open_checkpoint(golden_dir / "legacy_checkpoint").read()
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
            open_checkpoint(folder).read()

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
            open_checkpoint(folder).read()
        torch.save({"a": torch.zeros(1), "c": torch.zeros(1)}, folder / "2.bin")
        assert {name: tensor.tolist() for name, tensor in open_checkpoint(folder).read().items()} == {
            "a": [0],
            "b": [1, 1],
            "c": [0],
        }
        for name in ("1.bin", "2.bin", "pytorch_model.bin.index.json"):
            (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match="holds no weights: looked for"):
            find_weights(folder)
