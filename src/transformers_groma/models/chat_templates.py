"""Extends the chat templates of language models by images, regions and phrases, and finds answers in their text.

A language model's own template stays as it is, in the processor and in its files. Two things that it lacks are added
each time it renders a conversation: messages made of parts become text with the marks of the model's family, and the
answers in the text are found for training.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

# What comes before another template, so that it meets text where messages have parts.
_PARTS_TO_TEXT = """\
{%- macro text_of_parts(content, role) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'text' -%}
                {{- part.text -}}
            {%- elif part.type == 'image' -%}
                {{- '\\n' if not loop.first -}}
                {{- IMAGE_TEXT -}}
                {{- '\\n' if not loop.last -}}
REGIONS_AND_PHRASES
            {%- else -%}
                {{- raise_exception("Unknown part type '" ~ part.type ~ "': use text, image, region or phrase.") -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set shown = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- if message.content is defined and message.content is sequence -%}
        CONTENT_AS_TEXT
    {%- endif -%}
    {%- set shown.messages = shown.messages + [message] -%}
{%- endfor -%}
{%- set messages = shown.messages %}
"""
_TEXT = "text_of_parts(message.content, message.role)"
_AS_STRING = f"{{%- set message = dict(message, content={_TEXT}) -%}}"
_AS_LIST = f"{{%- set message = dict(message, content=[{{'type': 'text', 'text': {_TEXT}}}]) -%}}"
# For a template that writes the image's mark itself: only regions and phrases become text.
_PART_BY_PART = """\
{%- if message.content is not string -%}
            {%- set shown.parts = [] -%}
            {%- for part in message.content -%}
                {%- if part.type in ['region', 'phrase'] -%}
                    {%- set part = {'type': 'text', 'text': text_of_parts([part], message.role)} -%}
                {%- endif -%}
                {%- set shown.parts = shown.parts + [part] -%}
            {%- endfor -%}
            {%- set message = dict(message, content=shown.parts) -%}
        {%- endif -%}"""

# Renders text that was rendered before, with the answers marked as the library wants them.
PIECES_TEMPLATE = """\
{%- for piece in messages[0].text_pieces -%}
    {%- if piece.is_answer -%}
        {%- generation -%}{{- piece.text -}}{%- endgeneration -%}
    {%- else -%}
        {{- piece.text -}}
    {%- endif -%}
{%- endfor -%}
"""
# Keys of the message that carries the pieces.
PIECES_KEY = "text_pieces"
_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Around an answer while its place in the text is looked for. Unicode never gives these two code points a meaning.
_START, _END = "\ufdd0", "\ufdd1"


class TextPiece(NamedTuple):
    """A part of a rendered conversation.

    Attributes:
        text (`str`): the part.
        is_answer (`bool`): whether the model has to write it.
    """

    text: str
    is_answer: bool


class PartsAsText(NamedTuple):
    """How the parts of messages become text in a family of models.

    Attributes:
        image (`str`): what stands for an image, with the place of its mark, `{image_token}`.
        regions_and_phrases (`str`): branches of a Jinja `if`, for region and phrase parts. They see `part` and `role`.
    """

    image: str
    regions_and_phrases: str


def with_parts(template: str, parts: PartsAsText, image_token: str, special_tokens: Mapping[str, str]) -> str:
    """Extend a chat template to messages made of text, image, region and phrase parts.

    Args:
        template (`str`): any chat template. One that writes `<region>` knows the parts already and comes back as it
            is; one that writes the image's mark is only taught regions and phrases.
        parts (`PartsAsText`): what the family writes for them.
        image_token (`str`): the mark of the image.
        special_tokens (`Mapping[str, str]`): the tokenizer's special tokens, by their names in templates.

    Returns:
        `str`: a template that renders messages of plain text as before.

    Example:
    >>> from transformers.utils.chat_template_utils import render_jinja_template
    >>> chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}"
    >>> parts = [{"type": "image"}, {"type": "text", "text": "What is "}, {"type": "region", "box": [0, 0, 9, 9]}]
    >>> as_text = PartsAsText("An image: {image_token}", "{%- elif part.type == 'region' -%} <region>")
    >>> template = with_parts(chatml, as_text, "<image>", {})
    >>> print(render_jinja_template([[{"role": "user", "content": parts}]], chat_template=template)[0][0])
    <|im_start|>user
    An image: <image>
    What is <region><|im_end|>
    """
    if "<region>" in template:
        return template
    if image_token in template:
        content = _PART_BY_PART
    else:
        content = _AS_LIST if _takes_only_lists(template, tuple(sorted(special_tokens.items()))) else _AS_STRING
    image = repr(parts.image.format(image_token=image_token))
    teaching = _PARTS_TO_TEXT.replace("IMAGE_TEXT", image).replace("CONTENT_AS_TEXT", content)
    return teaching.replace("REGIONS_AND_PHRASES", parts.regions_and_phrases) + template


@lru_cache
def _takes_only_lists(template: str, special_tokens: tuple[tuple[str, str], ...]) -> bool:
    """Whether a template renders text from a list of parts, but not plain text."""

    def shows(content: Any) -> bool:
        messages = [{"role": "user", "content": content}]
        try:
            rendered, _ = render_jinja_template([messages], chat_template=template, **dict(special_tokens))
        except Exception:  # a template is a program, and any error says that it does not take this
            return False
        return "Is it?" in rendered[0]

    return not shows("Is it?") and shows([{"type": "text", "text": "Is it?"}])


def marks_answers(template: str) -> bool:
    """Whether a chat template marks the model's text itself, with `{% generation %}`."""
    return _MARKS_ANSWERS.search(template) is not None


def is_template_error(error: BaseException) -> bool:
    """Whether an error comes from a chat template: `raise_exception`, or something that it cannot render."""
    # By its name: the library imports the package of templates where it is needed, and remote code imports no more
    # than that.
    return any(base.__name__ == "TemplateError" for base in type(error).__mro__)


def split_answers(
    messages: Sequence[Mapping[str, Any]],
    render: Callable[[Sequence[Mapping[str, Any]], bool], str],
    add_generation_prompt: bool = False,
) -> list[TextPiece]:
    """Find the answers in a rendered conversation: all that the model must write, including the end of its turn.

    An answer begins where the prompt for it ends, and ends with what the template writes after it, without white
    space at the end. In the example below that is " 4</s>": the space after "assistant:" is the model's to write.

    A template is any program, so answers are not searched by their words, which may stand elsewhere too. The
    conversation is rendered a second time with two marks around the text of each answer; where the marks come out is
    where the answers are. Without the marks this text must be the first one, or the template changed the answers.

    Args:
        messages (`Sequence[Mapping]`): one conversation, content as text or parts.
        render (`Callable`): makes the text of messages; its second argument says whether to add the prompt for an
            answer.
        add_generation_prompt (`bool`): whether a prompt for one more answer is at the end.

    Returns:
        `list[TextPiece]`: together they are the rendered conversation.

    Raises:
        ValueError: if the template changes answers, so that they cannot be found in its text.

    Example:
    >>> def render(messages, add_generation_prompt):
    ...     turns = "".join(f"{message['role']}: {message['content']}</s> " for message in messages)
    ...     return turns + "assistant:" * add_generation_prompt
    >>> split_answers([{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], render)
    [TextPiece(text='user: 2 + 2?</s> assistant:', is_answer=False), TextPiece(text=' 4</s>', is_answer=True),
    TextPiece(text=' ', is_answer=False)]
    """
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    text = render(messages, add_generation_prompt)
    marked = [_with_marks(message) if index in answers else message for index, message in enumerate(messages)]
    # Texts before, in, between and after the answers: those in answers have the odd numbers.
    found = re.split(f"[{_START}{_END}]", render(marked, add_generation_prompt))
    if "".join(found) != text or len(found) != 2 * len(answers) + 1:
        raise ValueError(
            "The chat template changes the answers of the conversation, so the text for the model to learn cannot "
            "be found. Put {% generation %} and {% endgeneration %} around what the template writes for an "
            "answer."
        )
    pieces, done = [], 0  # `text[:done]` is in pieces
    for number, index in enumerate(answers):
        start = len("".join(found[: 2 * number + 1]))
        end = start + len(found[2 * number + 1])
        start = _end_of_prompt(messages[:index], render, text, done, start)
        # What the template writes after the answer if nothing follows, as far as the whole text has it there.
        closing = _common_start(render(marked[: index + 1], False).rpartition(_END)[2], text[end:])
        end += len(closing.rstrip() or closing)
        pieces += [TextPiece(text[done:start], False), TextPiece(text[start:end], True)]
        done = end
    return [*pieces, TextPiece(text[done:], False)]


def _end_of_prompt(
    messages: Sequence[Mapping[str, Any]], render: Callable, text: str, earliest: int, latest: int
) -> int:
    """Where the prompt for an answer to `messages` ends in `text`.

    `latest`, where the answer's own text begins, if the text holds another prompt there or none.
    """
    try:
        prompt = render(messages, True)
    except Exception as error:
        if not is_template_error(error):
            raise
        return latest  # templates may refuse to begin with an answer
    return len(prompt) if text.startswith(prompt) and earliest <= len(prompt) <= latest else latest


def _common_start(first: str, second: str) -> str:
    length = next(
        (i for i, (one, other) in enumerate(zip(first, second)) if one != other), min(len(first), len(second))
    )
    return first[:length]


def _with_marks(message: Mapping[str, Any]) -> dict[str, Any]:
    """Put marks around an answer's text. Whitespace stays outside, as many templates strip it."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return {**message, "content": _end_mark(_start_mark(content))}
    parts = [dict(part) for part in content]
    if parts[0]["type"] != "text":
        parts.insert(0, {"type": "text", "text": ""})
    if parts[-1]["type"] != "text":
        parts.append({"type": "text", "text": ""})
    parts[0]["text"] = _start_mark(parts[0]["text"])
    parts[-1]["text"] = _end_mark(parts[-1]["text"])
    return {**message, "content": parts}


def _start_mark(text: str) -> str:
    body = text.lstrip()
    return f"{text[: len(text) - len(body)]}{_START}{body}"


def _end_mark(text: str) -> str:
    body = text.rstrip()
    return f"{body}{_END}{text[len(body) :]}"


__all__ = [
    "PIECES_KEY",
    "PIECES_TEMPLATE",
    "PartsAsText",
    "TextPiece",
    "is_template_error",
    "marks_answers",
    "split_answers",
    "with_parts",
]
