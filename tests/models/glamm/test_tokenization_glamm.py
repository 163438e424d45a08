"""The tokens that GLaMM adds to a tokenizer, and the ids of the released checkpoints."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from transformers_groma.markup import GLAMM_MARKUP_TOKENS
from transformers_groma.models.glamm.tokenization_glamm import (
    GLAMM_TOKENS,
    add_glamm_tokens,
    convert_glamm_tokenizer,
)

# The original's code writes these around `<image>`; -200 in its ids is the image itself.
WRAPPED = "<im_start><image><im_end>"


def original_ids(tokenizer, text: str) -> list[int]:
    """As the original encodes a text: on both sides of the image, which is -200."""
    if WRAPPED not in text:
        text = text.replace("<image>", WRAPPED)
    first, *others = text.split("<image>")
    ids = tokenizer(first)["input_ids"]
    for piece in others:
        ids += [-200, *tokenizer(piece, add_special_tokens=False)["input_ids"]]
    return ids


class TestConvertedTokenizer:
    @pytest.fixture(params=["false", "true", "null", "absent"])
    def folder(self, request, glamm_text_dir, tmp_path):
        """The released files say false, which the transformers of the training did not know; it is never followed."""
        folder = shutil.copytree(glamm_text_dir / "legacy_checkpoint", tmp_path / "released")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        if request.param != "absent":
            config["legacy"] = json.loads(request.param)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    def test_same_ids_as_the_original_also_after_reloading(self, folder, glamm_text, tmp_path):
        converted = convert_glamm_tokenizer(folder)
        converted.save_pretrained(tmp_path / "saved")
        again = AutoTokenizer.from_pretrained(tmp_path / "saved")
        again.save_pretrained(tmp_path / "twice")
        for tokenizer in (converted, again, AutoTokenizer.from_pretrained(tmp_path / "twice")):
            for case in glamm_text["cases"]:
                assert original_ids(tokenizer, case["text"]) == case["ids"], case["text"]
                written = tokenizer("<s>" + case["text"], add_special_tokens=False)["input_ids"]
                assert "<image>" in case["text"] or written == case["ids"]
            assert original_ids(tokenizer, glamm_text["train_conversation"]) == glamm_text["train_ids"]
            assert (tokenizer.padding_side, tokenizer.pad_token, tokenizer.pad_token_id) == ("left", "<unk>", 0)
            assert tokenizer.model_max_length == 1536

    def test_tokens_have_the_ids_of_the_release(self, glamm_text, glamm_tokenizer):
        ids = glamm_tokenizer.convert_tokens_to_ids(list(GLAMM_MARKUP_TOKENS))
        assert ids == [glamm_text["added_tokens"][token] for token in GLAMM_MARKUP_TOKENS] == list(range(320, 327))
        assert len(glamm_tokenizer) == 327

    def test_grounding_survives_decoding(self, glamm_tokenizer):
        ids = glamm_tokenizer("<p> a dog </p> [SEG].</s>")["input_ids"] + [glamm_tokenizer.pad_token_id]
        decoded = glamm_tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == "<p>adog</p>[SEG]."

    def test_tokens_that_are_missing_are_named(self, folder):
        added = json.loads((folder / "added_tokens.json").read_text())
        for token in ("[SEG]", "<bbox>"):
            del added[token]
        (folder / "added_tokens.json").write_text(json.dumps(added))
        with pytest.raises(ValueError, match=r"lacks <bbox>, \[SEG\]\. .*added_tokens\.json"):
            convert_glamm_tokenizer(folder)


class TestTrainedConversations:
    def test_same_ids_as_the_original(self, glamm_text_dir, glamm_tokenizer):
        """All conversations that the original's collator prepared; its rows are padded on the right with 0."""
        cases = json.loads((glamm_text_dir / "train_text.json").read_text())
        assert len(cases) == 5
        for case in cases.values():
            for conversation, expected in zip(case["conversations"], case["input_ids"], strict=True):
                ids = original_ids(glamm_tokenizer, conversation)
                assert ids == expected[: len(ids)]
                assert set(expected[len(ids) :]) <= {0}


class TestTokens:
    def test_add_glamm_tokens(self):
        tokenizer = LlamaTokenizer()
        size = len(tokenizer)
        assert add_glamm_tokens(tokenizer) == 8
        tokens = [*GLAMM_TOKENS, "<image>", "[PAD]"]
        assert tokenizer.convert_tokens_to_ids(tokens) == list(range(size, size + 8))
        assert tokenizer.pad_token == "[PAD]"
        assert add_glamm_tokens(tokenizer) == 0

    def test_own_padding_token_is_kept(self):
        tokenizer = LlamaTokenizer(pad_token="<pad>")
        assert add_glamm_tokens(tokenizer) == 7
        assert tokenizer.pad_token == "<pad>"

    def test_pieces_of_the_vocabulary_become_tokens_and_keep_their_ids(self):
        vocabulary = {"<unk>": 0, "<p>": 1, "<": 2, "p": 3, ">": 4, "<p": 5, "a": 6, "<p>a": 7}
        model = models.BPE(vocabulary, [("<", "p"), ("<p", ">"), ("<p>", "a")], unk_token="<unk>")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>")
        assert add_glamm_tokens(tokenizer) == 7  # the padding token, too
        assert tokenizer("<p>a")["input_ids"] == [1, 6]

    def test_grounding_survives_decoding(self, glamm_text_dir, tmp_path):
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(glamm_text_dir / "legacy_checkpoint" / name, tmp_path)
        tokenizer = LlamaTokenizer.from_pretrained(tmp_path)
        add_glamm_tokens(tokenizer)
        text = "<p> a dog </p> [SEG] and <bbox>"
        decoded = tokenizer.decode(tokenizer(text + "</s>")["input_ids"], skip_special_tokens=True)
        assert decoded.replace(" ", "") == text.replace(" ", "")
