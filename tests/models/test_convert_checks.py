"""Impossible tensors, settings and tokens are refused before anything is written, with a remedy."""

import json

import pytest
import torch
from safetensors.torch import load_file

from transformers_groma import (
    convert_legacy_checkpoint,
)
from transformers_groma.models.convert_checks import (
    check_integer,
    check_layers,
    check_share,
    check_size,
    check_tensors,
    check_tokens,
)

from .groma.damage import NORM, change_config, refuse, save_bin


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

    def test_a_message_names_a_few_tensors_of_many(self, legacy, legacy_weights):
        names = [f"model.{number}" for number in range(5000)]
        save_bin(legacy, {**legacy_weights, **dict.fromkeys(names, torch.zeros(1))})
        with pytest.raises(ValueError, match="unknown: 'model.0', .* and 4997 more$"):
            convert_legacy_checkpoint(legacy, legacy.parent / "out")

    def test_four_names_are_cut_as_well(self):
        with pytest.raises(ValueError, match=r"'0', '1', '2' and 1 more\."):
            check_tensors({str(index): torch.zeros(0) for index in range(4)}, "x")

    def test_a_position_table_of_no_grid(self, legacy, legacy_weights):
        name = "perceiver.vis_encoder.embeddings.position_embeddings"
        save_bin(legacy, {**legacy_weights, name: torch.zeros(1, 1371, 64)})
        refuse(legacy, "position_embeddings", "(1, 1371, 64)")
        save_bin(legacy, {**legacy_weights, name: torch.zeros(1, 1 + 7 * 7, 64)})
        refuse(legacy, "32x32", "7x7")


class TestLimits:
    def test_limits(self):
        assert [check_share("x", value) for value in (0, 1, 0.5)] == [0, 1, 0.5]
        assert [check_integer("x", value, 1, 3) for value in (1, 3)] == [1, 3]
        check_layers("x", 3, 3)
        check_size("config.json", 20, 10)
        with pytest.raises(ValueError, match=r"config.json describes a model of 2,100 weights.*1,049"):
            check_size("config.json", 2_100, 1_049)


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
