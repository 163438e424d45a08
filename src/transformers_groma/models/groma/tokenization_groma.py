"""Adds Groma's tokens to a tokenizer, and converts the tokenizer of the released checkpoints."""

import os

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from ...markup import (
    GROMA_MARKUP_TOKENS,
    GROUND_BOX_TOKEN,
    GROUNDING_TOKEN,
    IMAGE_TOKEN,
    PAD_TOKEN,
    REFER_BOX_TOKEN,
    REGION_MARK,
    proxy_token,
)
from ..legacy_tokenizer import load_stripping_tokenizer
from .chat_template_groma import GROMA_CHAT_TEMPLATE


def groma_tokens(max_regions: int = 100) -> list[str]:
    """The tokens that Groma adds to the vocabulary of its language model, in the order of their ids.

    Args:
        max_regions (`int`): number of region slots, each with its proxy token.

    Returns:
        `list[str]`: `14 + max_regions` tokens.

    Example:
    >>> tokens = groma_tokens()
    >>> len(tokens), tokens[0], tokens[8], tokens[-1]
    (114, '[PAD]', '<image>', '<r99>')
    """
    return [*GROMA_MARKUP_TOKENS, *map(proxy_token, range(max_regions))]


def add_groma_tokens(tokenizer: PreTrainedTokenizerBase, max_regions: int = 100) -> int:
    """Add Groma's tokens to a tokenizer, in place. Existing tokens keep their ids.

    All but `[PAD]` are ordinary tokens, so that grounding survives `decode(…, skip_special_tokens=True)`. `[PAD]`
    becomes the padding token if the tokenizer has none.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a tokenizer.
        max_regions (`int`): number of region slots.

    Returns:
        `int`: how many tokens were added; resize the model's embeddings to `len(tokenizer)` if it is not 0.

    Raises:
        ValueError: if the tokenizer has some of the proxy tokens `<r0>`, `<r1>`, … already, at ids that do not follow
            each other.

    Example:
    >>> from transformers import LlamaTokenizer
    >>> tokenizer = LlamaTokenizer()
    >>> add_groma_tokens(tokenizer), add_groma_tokens(tokenizer)
    (114, 0)
    """
    size = len(tokenizer)
    added_before = tokenizer.added_tokens_encoder
    # A token that is only a piece of the vocabulary is made a separate token, under its id: otherwise text
    # around it could merge with it.
    tokenizer.add_tokens(
        [
            AddedToken(token, special=token == PAD_TOKEN, normalized=False)
            for token in groma_tokens(max_regions)
            if token not in added_before
        ]
    )
    proxies = tokenizer.convert_tokens_to_ids([proxy_token(index) for index in range(max_regions)])
    if proxies != list(range(proxies[0], proxies[0] + max_regions)):
        index = next(i for i, token_id in enumerate(proxies) if token_id != proxies[0] + i)
        raise ValueError(
            f"`tokenizer` has the token {proxy_token(index)} already, with the id {proxies[index]}, but the ids of "
            f"<r0>, <r1>, … must follow each other and <r0> has {proxies[0]}. Use a language model whose vocabulary "
            "has no such tokens, or all of them in sequence."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = PAD_TOKEN
    return len(tokenizer) - size


def load_legacy_tokenizer(path: str | os.PathLike) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a released Groma checkpoint so that it gives the ids that the checkpoint was trained on.

    Groma used the slow `LlamaTokenizer` of transformers 4.32, which drops the spaces around added tokens and starts
    the text after each of them like a new text. Today's `LlamaTokenizer` does neither. The result is an ordinary
    fast tokenizer that keeps this behaviour when it is saved and loaded again. It pads on the left.

    Args:
        path (`str` or `os.PathLike`): folder or Hub name with `tokenizer.model` and `tokenizer_config.json`. The field
            `legacy` of the latter is honoured: true (or null, or absent) and false differ in what follows an added
            token.

    Returns:
        `PreTrainedTokenizerFast`: the tokenizer.

    Raises:
        OSError: if the files are not there.
    """
    legacy = get_tokenizer_config(path).get("legacy") in (None, True)
    return load_stripping_tokenizer(path, starts_every_piece=legacy, special_tokens=[PAD_TOKEN])


__all__ = [
    "GROMA_CHAT_TEMPLATE",
    "GROUNDING_TOKEN",
    "GROUND_BOX_TOKEN",
    "IMAGE_TOKEN",
    "PAD_TOKEN",
    "REFER_BOX_TOKEN",
    "REGION_MARK",
    "add_groma_tokens",
    "groma_tokens",
    "load_legacy_tokenizer",
]
