"""The cosine of embeddings of phrases: means over tokens, padding without effect, each phrase encoded once."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5Model

from transformers_groma.evaluation import text_encoders
from transformers_groma.evaluation.text_encoders import TextEncoder

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "the", "dog", "cat", "red", "cup", "of", "tea")
PHRASES = ("a dog", "the cat", "a red cup of tea", "dog", "a dog")


def tokenizer(pad: bool = True) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = {"pad_token": "[PAD]"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", model_max_length=8, **named)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=8, **sizes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def cosine(folder, first: str, second: str) -> float:
    """As GLaMM's evaluation computes it: one phrase at a time, the mean over all of its tokens."""
    model, tokens = BertModel.from_pretrained(folder).eval(), tokenizer()
    with torch.no_grad():
        means = [
            model(**tokens(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in (first, second)
        ]
    return torch.nn.functional.cosine_similarity(*means, dim=0).item()


def test_cosines_are_those_of_single_phrases(folder):
    first, second = zip(*((one, other) for one in PHRASES for other in PHRASES), strict=True)
    values = TextEncoder(folder)(first, second)
    expected = [cosine(folder, one, other) for one, other in zip(first, second, strict=True)]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert values.min() < 0.95 and values[0] == pytest.approx(1)


def test_a_phrase_is_encoded_once_and_batches_change_nothing(folder, monkeypatch):
    encoder = TextEncoder(folder)
    real, encoded = encoder._tokenizer, []

    def count(phrases, **kwargs):
        encoded.extend(phrases)
        return real(phrases, **kwargs)

    monkeypatch.setattr(encoder, "_tokenizer", count)
    count.model_max_length = real.model_max_length
    monkeypatch.setattr(text_encoders, "BATCH_SIZE", 2)
    values = encoder(PHRASES, PHRASES[::-1])
    assert sorted(encoded) == sorted(set(PHRASES))
    np.testing.assert_allclose(values, TextEncoder(folder)(PHRASES, PHRASES[::-1]), atol=1e-6)
    encoder(PHRASES, PHRASES)
    assert len(encoded) == len(set(PHRASES))
    assert encoder([], []).shape == (0,)


def test_long_phrases_are_cut(folder):
    long = " ".join(["dog"] * 50)
    assert TextEncoder(folder)([long], [long + " cat"]).tolist() == pytest.approx([1])


def test_what_is_not_an_encoder(folder, tmp_path):
    with pytest.raises(ValueError, match="`second` must have one phrase for each of the 1 in `first`, got 0"):
        TextEncoder(folder)(["a dog"], [])
    with pytest.raises(OSError, match="nothing"):
        TextEncoder(tmp_path / "nothing")
    BertModel.from_pretrained(folder).save_pretrained(tmp_path / "gpt")
    tokenizer(pad=False).save_pretrained(tmp_path / "gpt")
    with pytest.raises(ValueError, match="has no padding token, .* Pass an encoder, such as bert-base-uncased"):
        TextEncoder(tmp_path / "gpt")
    sizes = {"d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1, "d_ff": 16, "decoder_start_token_id": 0}
    T5Model(T5Config(vocab_size=len(WORDS), **sizes)).save_pretrained(tmp_path / "t5")
    tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="does not encode text by itself .* Pass an encoder"):
        TextEncoder(tmp_path / "t5")
