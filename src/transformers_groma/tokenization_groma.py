"""Tokens that Groma adds to a language model's tokenizer, and the chat template that uses them."""

import json
import os
import re

from tokenizers import AddedToken, Tokenizer
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from .configuration_groma import GROMA_MARKUP_TOKENS

PAD_TOKEN = "[PAD]"
IMAGE_TOKEN = "<image>"
REGION_MARK = "<region>"
REFER_BOX_TOKEN = "<refer_box>"
GROUND_BOX_TOKEN = "<ground_box>"
GROUNDING_TOKEN = "[grounding]"

# Vicuna v1, as in the original: an image is always shown in a first turn of its own, which is not trained on.
GROMA_CHAT_TEMPLATE = """\
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = messages[0].content -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives \
helpful, detailed, and polite answers to the user's questions." -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- set seen = namespace(image=false) -%}
{%- for message in turns if message.content is not string -%}
    {%- for part in message.content if part.type == 'image' -%}
        {%- set seen.image = true -%}
    {%- endfor -%}
{%- endfor -%}
{%- macro render(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'text' -%}
                {{- part.text -}}
            {%- elif part.type == 'region' -%}
                {{- '<region>' -}}
            {%- elif part.type == 'phrase' -%}
                {{- '<p>' + part.text + '</p>' if part.text -}}
                {{- ' ' if part.text and part.boxes -}}
                {{- '<roi>' + '<ground_box>' * (part.boxes | length) + '</roi>' if part.boxes -}}
            {%- elif part.type != 'image' -%}
                {{- raise_exception("Unknown part type '" ~ part.type ~ "': use text, image, region or phrase.") -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{{- render(system) ~ ' ' -}}
{%- if seen.image -%}
    {{- 'USER: Here is an image with region crops from it. Image: <image>. ' -}}
    {{- 'ASSISTANT: Thank you for the image! How can I assist you with it?' ~ eos_token -}}
{%- endif -%}
{%- for message in turns -%}
    {%- if message.role == 'user' -%}
        {{- 'USER: ' ~ render(message.content) ~ ' ' -}}
    {%- elif message.role == 'assistant' -%}
        {{- 'ASSISTANT:' -}}
        {%- generation -%}
            {{- ' ' ~ render(message.content) ~ eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception("Unknown role '" ~ message.role ~ "': use user or assistant, and system at the start.") -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'ASSISTANT:' -}}
{%- endif -%}
"""


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
    return [*GROMA_MARKUP_TOKENS, *(f"<r{index}>" for index in range(max_regions))]


def add_groma_tokens(tokenizer: PreTrainedTokenizerBase, max_regions: int = 100) -> int:
    """Add the tokens of Groma to a tokenizer, in place. Tokens that exist already are left alone.

    All but `[PAD]` are ordinary tokens, so that grounding survives `decode(…, skip_special_tokens=True)`. `[PAD]`
    becomes the padding token if the tokenizer has none.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a tokenizer.
        max_regions (`int`): number of region slots.

    Returns:
        `int`: how many tokens were added; resize the model's embeddings to `len(tokenizer)` if it is not 0.

    Example:
    >>> from transformers import LlamaTokenizer
    >>> tokenizer = LlamaTokenizer()
    >>> add_groma_tokens(tokenizer), add_groma_tokens(tokenizer)
    (114, 0)
    """
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.add_tokens(
        [
            AddedToken(token, special=token == PAD_TOKEN, normalized=False)
            for token in groma_tokens(max_regions)
            if token not in vocabulary
        ]
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = PAD_TOKEN
    return added


def load_legacy_tokenizer(path: str | os.PathLike) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a released Groma checkpoint so that it gives the ids that the checkpoint was trained on.

    Groma used the slow `LlamaTokenizer` of transformers 4.32, which drops the spaces around added tokens and starts
    the text after each of them like a new text. Today's `LlamaTokenizer` does neither. The result is an ordinary
    fast tokenizer that keeps this behaviour when it is saved and loaded again. It pads on the left.

    Args:
        path (`str` or `os.PathLike`): folder or Hub name with `tokenizer.model` and `tokenizer_config.json`. The field
            `legacy` of the latter is honoured: true (or null, or absent) and false differ in what follows an added token.

    Returns:
        `PreTrainedTokenizerFast`: the tokenizer.

    Raises:
        OSError: if the files are not there.
    """
    source = LlamaTokenizer.from_pretrained(path)
    pipeline = json.loads(source.backend_tokenizer.to_str())
    base_tokens = {source.bos_token, source.eos_token, source.unk_token}
    for token in pipeline["added_tokens"]:
        if token["content"] not in base_tokens:
            token.update(lstrip=True, rstrip=True, normalized=False, special=token["content"] == PAD_TOKEN)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if get_tokenizer_config(path).get("legacy") in (None, True):
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
