"""Groma's own chat template, and what it writes for the parts of messages in other templates."""

from ..chat_templates import PartsAsText

# A region that the user points at, and text tied to regions.
_REGION_AND_PHRASE = """\
            {%- elif part.type == 'region' -%}
                {{- '<region>' -}}
            {%- elif part.type == 'phrase' -%}
                {{- '<p>' + part.text + '</p>' if part.text -}}
                {{- ' ' if part.text and part.boxes -}}
                {{- '<roi>' + '<ground_box>' * (part.boxes | length) + '</roi>' if part.boxes -}}
"""

# Vicuna v1, as in the original: an image is always shown in a separate first turn, which is not trained on.
GROMA_CHAT_TEMPLATE = (
    """\
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
"""
    + _REGION_AND_PHRASE
    + """\
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
)

# In other templates the image is shown in place of its part, on a separate line.
GROMA_PARTS = PartsAsText("Here is an image with region crops from it. Image: {image_token}.", _REGION_AND_PHRASE)

__all__ = ["GROMA_CHAT_TEMPLATE", "GROMA_PARTS"]
