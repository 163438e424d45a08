"""Adds GLaMM's tokens to a tokenizer, and converts the tokenizer of the released checkpoints."""

import os

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...markup import GLAMM_MARKUP_TOKENS, IMAGE_TOKEN, PAD_TOKEN, UNUSED_TOKEN
from ..legacy_tokenizer import load_stripping_tokenizer

# What the processor and the model look for. The placeholder of the image comes beside them.
GLAMM_TOKENS: tuple[str, ...] = tuple(token for token in GLAMM_MARKUP_TOKENS if token != UNUSED_TOKEN)
# The placeholder of the image in converted checkpoints: a token of theirs that nothing else uses, so that their
# vocabulary stays as it is.
LEGACY_IMAGE_TOKEN = UNUSED_TOKEN


def add_glamm_tokens(tokenizer: PreTrainedTokenizerBase, image_token: str = IMAGE_TOKEN) -> int:
    """Add GLaMM's tokens to a tokenizer, in place. Existing tokens keep their ids.

    They are ordinary tokens, so that grounding survives `decode(…, skip_special_tokens=True)`. A tokenizer without a
    padding token gets `[PAD]`, too.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a tokenizer.
        image_token (`str`): the placeholder of the image.

    Returns:
        `int`: how many tokens were added; resize the model's embeddings to `len(tokenizer)` if it is not 0.

    Example:
    >>> from transformers import LlamaTokenizer
    >>> tokenizer = LlamaTokenizer(pad_token="<pad>")
    >>> add_glamm_tokens(tokenizer), add_glamm_tokens(tokenizer)
    (7, 0)
    """
    size = len(tokenizer)
    added_before = tokenizer.added_tokens_encoder
    # A token that is only a piece of the vocabulary is made a separate token, under its id: otherwise text
    # around it could merge with it.
    tokenizer.add_tokens(
        [
            AddedToken(token, special=False, normalized=False)
            for token in (*GLAMM_TOKENS, image_token)
            if token not in added_before
        ]
    )
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": AddedToken(PAD_TOKEN, special=True, normalized=False)})
    return len(tokenizer) - size


def convert_glamm_tokenizer(folder: str | os.PathLike) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a released GLaMM checkpoint so that it gives the ids that the checkpoint was trained on.

    The files say `"legacy": false`, but the transformers of the training (4.28) knew no such setting: it dropped the
    spaces around added tokens and started the text after each of them like a new text. The result is an ordinary fast
    tokenizer that keeps this behaviour when it is saved and loaded again. It pads on the left, with the unknown token
    as in the original.

    Args:
        folder (`str` or `os.PathLike`): folder or Hub name with `tokenizer.model`, `tokenizer_config.json` and
            `added_tokens.json`.

    Returns:
        `PreTrainedTokenizerFast`: the tokenizer. `[SEG]`, `<p>` and the others are ordinary tokens in it, so that they
        survive `decode(…, skip_special_tokens=True)`.

    Raises:
        OSError: if the files are not there.
        ValueError: if the vocabulary lacks tokens of GLaMM.
    """
    tokenizer = load_stripping_tokenizer(folder, starts_every_piece=True)
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in GLAMM_MARKUP_TOKENS if token not in vocabulary]:
        raise ValueError(
            f"The tokenizer in {str(folder)!r} lacks {', '.join(missing)}. A released GLaMM has them in "
            "`added_tokens.json`; pass a folder with that file."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


__all__ = ["GLAMM_TOKENS", "LEGACY_IMAGE_TOKEN", "add_glamm_tokens", "convert_glamm_tokenizer"]
