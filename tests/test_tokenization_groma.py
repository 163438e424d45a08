import json
import shutil

import pytest
from transformers import AutoTokenizer, LlamaTokenizer

from transformers_groma.tokenization_groma import add_groma_tokens, groma_tokens, load_legacy_tokenizer


class TestTokens:
    def test_order_is_that_of_the_released_checkpoints(self, golden_text, legacy_tokenizer):
        ids = golden_text["special_token_ids"]
        in_order = sorted((token for token in ids if token not in ("<s>", "</s>", "<unk>")), key=ids.get)
        assert groma_tokens() == in_order
        assert legacy_tokenizer.convert_tokens_to_ids(in_order) == [ids[token] for token in in_order]

    def test_add_groma_tokens(self):
        tokenizer = LlamaTokenizer()
        size = len(tokenizer)
        assert add_groma_tokens(tokenizer, max_regions=7) == 21
        assert tokenizer.convert_tokens_to_ids(groma_tokens(7)) == list(range(size, size + 21))
        assert tokenizer.pad_token == "[PAD]"
        assert add_groma_tokens(tokenizer, max_regions=7) == 0
        assert add_groma_tokens(tokenizer, max_regions=9) == 2

    def test_own_padding_token_is_kept(self):
        tokenizer = LlamaTokenizer(pad_token="<pad>")
        add_groma_tokens(tokenizer)
        assert tokenizer.pad_token == "<pad>"

    @pytest.mark.parametrize("load", ["legacy", "added"])
    def test_grounding_survives_decoding(self, load, legacy_tokenizer, golden_dir):
        tokenizer = legacy_tokenizer
        if load == "added":
            tokenizer = LlamaTokenizer.from_pretrained(golden_dir / "legacy_checkpoint")
            add_groma_tokens(tokenizer)
        ids = tokenizer("<p>a dog</p> <roi><r4><r99></roi> here</s>")["input_ids"] + [tokenizer.pad_token_id]
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == "<p>adog</p><roi><r4><r99></roi>here"


class TestLegacyTokenizer:
    @pytest.fixture(params=["null", "true", "false"])
    def legacy(self, request):
        return request.param

    @pytest.fixture
    def path(self, legacy, golden_dir, tmp_path):
        path = shutil.copytree(golden_dir / "legacy_checkpoint", tmp_path / "checkpoint")
        config = json.loads((path / "tokenizer_config.json").read_text())
        config["legacy"] = json.loads(legacy)
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        return path

    def test_same_ids_as_the_original(self, path, legacy, golden_text, tmp_path):
        loaded = load_legacy_tokenizer(path)
        loaded.save_pretrained(tmp_path / "saved")
        for tokenizer in (loaded, AutoTokenizer.from_pretrained(tmp_path / "saved")):
            for name, case in golden_text["prompts"].items():
                if legacy == "false" and name == "answer_piece":
                    continue  # a text that starts with an added token, which no prompt does
                ids = case["ids_legacy_False" if legacy == "false" else "ids"]
                assert tokenizer(case["text"])["input_ids"] == ids
                assert tokenizer("<s>" + case["text"], add_special_tokens=False)["input_ids"] == ids
            assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", "[PAD]")
