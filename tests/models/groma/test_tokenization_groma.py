"""The tokens that Groma adds to a tokenizer."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from transformers_groma.models.groma.tokenization_groma import add_groma_tokens, groma_tokens, load_legacy_tokenizer


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

    def test_pieces_of_the_vocabulary_become_tokens_and_keep_their_ids(self):
        vocabulary = {"<unk>": 0, "<p>": 1, "<": 2, "p": 3, ">": 4, "<p": 5, "a": 6, "<p>a": 7}
        model = models.BPE(vocabulary, [("<", "p"), ("<p", ">"), ("<p>", "a")], unk_token="<unk>")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>")
        assert tokenizer("<p>a")["input_ids"] == [7]
        assert add_groma_tokens(tokenizer, max_regions=3) == 16
        assert tokenizer("<p>a")["input_ids"] == [1, 6]
        assert len(tokenizer) == 8 + 16
        assert add_groma_tokens(tokenizer, max_regions=3) == 0

    @pytest.mark.parametrize(("token", "is_right"), [("<r0>", False), ("<r2>", False), ("<r3>", True)])
    def test_proxy_tokens_that_are_there_already(self, token, is_right):
        tokenizer = LlamaTokenizer()
        tokenizer.add_tokens([token])
        if is_right:
            assert add_groma_tokens(tokenizer, max_regions=3) == 17
            return
        with pytest.raises(ValueError, match="(?s)`tokenizer` has the token <r[0-9]> already.*vocabulary"):
            add_groma_tokens(tokenizer, max_regions=3)

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
