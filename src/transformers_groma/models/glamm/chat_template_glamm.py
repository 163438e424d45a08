"""GLaMM's own chat template, and what it writes for the parts of messages in other templates."""

from ...markup import GROUNDING_TOKEN
from ..chat_templates import PartsAsText

# A region that the user points at is `<region>`, one of the answer is the `[SEG]` that its mask is decoded from. The
# regions of a phrase have one `[SEG]` together: its mask is their union.
_REGION_AND_PHRASE = """\
            {%- elif part.type == 'region' -%}
                {{- '[SEG]' if role == 'assistant' else '<region>' -}}
            {%- elif part.type == 'phrase' and role != 'assistant' -%}
                {{- part.text if not part.boxes else raise_exception("A phrase in a question has boxes, but what a \
user points at is a region: use a region part for each.") -}}
            {%- elif part.type == 'phrase' and part.text and part.boxes -%}
                {{- '<p> ' + part.text | trim + ' </p> [SEG]' -}}
            {%- elif part.type == 'phrase' -%}
                {{- '[SEG]' if part.boxes else part.text -}}
"""

# The image is shown at the head of the first question.
GLAMM_CHAT_TEMPLATE = (
    """\
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = messages[0].content -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = "A chat between a curious human and an artificial intelligence assistant. The assistant gives \
helpful, detailed, and polite answers to the human's questions." -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- set image = namespace(seen=false) -%}
{%- for message in turns if message.content is not string -%}
    {%- for part in message.content if part.type == 'image' -%}
        {%- set image.seen = true -%}
    {%- endfor -%}
{%- endfor -%}
{%- macro render(content, role) -%}
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
{{- render(system, 'system') ~ ' ' -}}
{%- for message in turns -%}
    {%- if message.role == 'user' -%}
        {{- 'USER: ' -}}
        {%- if image.seen -%}
            {{- 'The <im_start><image><im_end> provides an overview of the picture.\\n' -}}
            {%- set image.seen = false -%}
        {%- endif -%}
        {{- render(message.content, 'user') ~ ' ' -}}
    {%- elif message.role == 'assistant' -%}
        {{- 'ASSISTANT:' -}}
        {%- generation -%}
            {{- ' ' ~ render(message.content, 'assistant') ~ eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception("Unknown role '" ~ message.role ~ "': use user or assistant, and system at the start.") -}}
    {%- endif -%}
{%- endfor -%}
{%- if image.seen -%}
    {{- raise_exception("The image is shown with the first question, but no message is the user's.") -}}
{%- endif -%}
{%- if add_generation_prompt -%}
    {{- 'ASSISTANT:' -}}
{%- endif -%}
"""
)

# In other templates the image is shown in place of its part, on a separate line.
GLAMM_PARTS = PartsAsText(
    "The <im_start>{image_token}<im_end> provides an overview of the picture.", _REGION_AND_PHRASE
)

# How the original asks for an answer whose phrases are tied to masks, after the question itself. The five spaces are
# in its prompts.
GROUNDING_REQUEST = "Please respond with interleaved     segmentation masks for the corresponding parts of the answer."


def with_grounding_request(content: str | list[dict]) -> str | list[dict]:
    """A question whose `[grounding]` at its head became GLaMM's request for masks, at its end.

    Args:
        content (`str` or `list[dict]`): the content of a user's message; not changed.

    Returns:
        The same without the mark and with the request; the content itself where the mark is not at its head.

    Example:
    >>> with_grounding_request("[grounding]What is it?")
    'What is it? Please respond with interleaved     segmentation masks for the corresponding parts of the answer.'
    """
    if isinstance(content, str):
        question = content.lstrip()
        if not question.startswith(GROUNDING_TOKEN):
            return content
        return f"{question.removeprefix(GROUNDING_TOKEN).strip()} {GROUNDING_REQUEST}".lstrip()
    places = [place for place, part in enumerate(content) if part.get("type") != "image"]
    # Texts in front of the mark may be empty.
    said = [place for place in places if content[place].get("type") != "text" or content[place]["text"].strip()]
    if not said or content[said[0]].get("type") != "text":
        return content
    first, last = content[said[0]], content[places[-1]]
    if not first["text"].lstrip().startswith(GROUNDING_TOKEN):
        return content
    parts = list(content)
    parts[said[0]] = {**first, "text": first["text"].lstrip().removeprefix(GROUNDING_TOKEN).lstrip()}
    space = " " if len(said) > 1 or parts[said[0]]["text"] else ""
    if last.get("type") == "text":
        parts[places[-1]] = {**parts[places[-1]], "text": parts[places[-1]]["text"].rstrip()}
    parts.insert(places[-1] + 1, {"type": "text", "text": space + GROUNDING_REQUEST})
    return parts


__all__ = ["GLAMM_CHAT_TEMPLATE", "GLAMM_PARTS", "GROUNDING_REQUEST", "with_grounding_request"]
