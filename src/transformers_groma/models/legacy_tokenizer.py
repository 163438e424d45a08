"""Loads the tokenizers of 2023's checkpoints so that they give the ids that those were trained on.

Groma and GLaMM were trained with the slow `LlamaTokenizer` of that year, which drops the spaces around added tokens
and starts the text after each of them like a new text. Today's `LlamaTokenizer` does neither.
"""

import json
import os
import re
from collections.abc import Collection

from tokenizers import Tokenizer
from transformers import LlamaTokenizer, PreTrainedTokenizerFast


def load_stripping_tokenizer(
    path: str | os.PathLike, starts_every_piece: bool, special_tokens: Collection[str] = ()
) -> PreTrainedTokenizerFast:
    """Load a `LlamaTokenizer` of 2023 as an ordinary fast tokenizer that keeps its behaviour when saved and loaded.

    "It is [SEG]." is cut at the added token into "It is" and ".", without the space. Where every piece starts like a
    text, the ids are those of "▁It▁is", `[SEG]` and "▁."; otherwise the last is ".".

    Args:
        path (`str` or `os.PathLike`): folder or Hub name with `tokenizer.model` and `tokenizer_config.json`.
        starts_every_piece (`bool`): whether the text after each added token starts like a new text ("legacy" in
            transformers' words), or only the text at the very start.
        special_tokens (`Collection[str]`): added tokens that `decode(…, skip_special_tokens=True)` leaves out, besides
            BOS, EOS and the unknown token.

    Returns:
        `PreTrainedTokenizerFast`: the tokenizer. It pads on the left.

    Raises:
        OSError: if the files are not there.
    """
    source = LlamaTokenizer.from_pretrained(path)
    pipeline = json.loads(source.backend_tokenizer.to_str())
    base_tokens = {source.bos_token, source.eos_token, source.unk_token}
    for token in pipeline["added_tokens"]:
        if token["content"] not in base_tokens:
            token.update(lstrip=True, rstrip=True, normalized=False, special=token["content"] in special_tokens)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if starts_every_piece:
        prefix = {"type": "Prepend", "prepend": "▁"}
        pipeline["pre_tokenizer"] = None
    else:
        # Only the text at the very start gets the prefix, also when the BOS token is written out before it. For that,
        # the BOS token has to be looked for after this step.
        after_bos = f"(?<=^{re.escape(source.bos_token)})(?=.)"
        prefix = {"type": "Replace", "pattern": {"Regex": after_bos}, "content": "▁"}
        for token in pipeline["added_tokens"]:
            token["normalized"] |= token["content"] == source.bos_token
    pipeline["normalizer"] = {"type": "Sequence", "normalizers": [prefix, spaces]}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(pipeline)),
        **source.special_tokens_map,
        padding_side="left",
        model_max_length=source.model_max_length,
        clean_up_tokenization_spaces=False,
    )


__all__ = ["load_stripping_tokenizer"]
