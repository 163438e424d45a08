"""Chat templates of other language models: their text is unchanged, parts become text, answers are found."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from transformers_groma.models.chat_templates import PIECES_TEMPLATE, marks_answers, split_answers, with_parts
from transformers_groma.models.groma.chat_template_groma import GROMA_CHAT_TEMPLATE, GROMA_PARTS

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# Formats as they are in the wild: system prompt or none, stripped content, other names of roles, errors, an end of
# turn or none.
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
        "'<|im_start|>system\nBe kind.<|im_end|>\n' }}"
        "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "strips": (
        "{{ bos_token }}{% for message in messages %}{{ '<|h|>' + message.role + '<|/h|>\n\n' + message.content | "
        "trim + '<|eot|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|h|>assistant<|/h|>\n\n' }}{% endif %}"
    ),
    "no system": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% "
        "endif %}"
        "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "instruct": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "several lines": (
        "  {% for m in messages %}\n"
        "    {%- if m.role == 'user' %}\n"
        "Question: {{ m.content }}\n"
        "    {%- else %}\n"
        "Answer: {{ m.content }}{{ eos_token }}\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}\n"
        "Answer:{% endif %}\n"
    ),
    "cuts messages": (
        "{% if messages[0].role == 'system' %}{% set start = messages[0].content %}{% set messages = messages[1:] "
        "%}{% else %}"
        "{% set start = 'Hello.' %}{% endif %}{% macro turn(m) %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% "
        "endmacro %}"
        "{{ start }}{% for m in messages %}{{ turn(m) }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif "
        "%}"
    ),
    "thinks": (
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 "
        "%}{% endif %}{% endfor %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.index0 > "
        "ns.last %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content.lstrip('\n') + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "lists or text": (
        "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for part in "
        "m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    ),
    "lists alone": (
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}{% if part.type == 'text' %}{{ part.text "
        "}}{% endif %}{% endfor %}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    ),
}
ANSWERS_OF = {
    "chatml": ["Hi.<|im_end|>", "Bye.<|im_end|>"],
    "strips": ["Hi.<|eot|>", "Bye.<|eot|>"],
    "no system": ["Hi.<end_of_turn>", "Bye.<end_of_turn>"],
    "instruct": [" Hi.</s>", " Bye.</s>"],
    "several lines": [" Hi.</s>", " Bye.</s>"],
    "cuts messages": ["Hi.</assistant>", "Bye.</assistant>"],
    "thinks": ["Hi.<|im_end|>", "<think>\n\n</think>\n\nBye.<|im_end|>"],
    "lists or text": ["Hi.</s>", "Bye.</s>"],
    "lists alone": ["Hi.</s>", "Bye.</s>"],
}
PLAIN = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Bye."},
]
BOX = [0, 0, 9, 9]
QUESTION = [{"type": "image"}, {"type": "text", "text": "What is "}, {"type": "region", "box": BOX}]
IMAGE_LINE = "Here is an image with region crops from it. Image: <image>."


def as_parts(messages):
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def render(template, messages, **kwargs):
    return render_jinja_template([messages], chat_template=template, **SPECIAL_TOKENS, **kwargs)[0][0]


def pieces_of(template, messages, **kwargs):
    taught = with_parts(template, GROMA_PARTS, "<image>", SPECIAL_TOKENS)
    return split_answers(messages, lambda m, prompt: render(taught, m, add_generation_prompt=prompt), **kwargs)


class TestWithParts:
    @pytest.mark.parametrize("prompt", [False, True])
    @pytest.mark.parametrize("name", TEMPLATES)
    def test_plain_messages_are_rendered_as_before(self, name, prompt):
        template = TEMPLATES[name]
        taught = with_parts(template, GROMA_PARTS, "<image>", SPECIAL_TOKENS)
        for messages in (PLAIN, PLAIN[:3], PLAIN[:1]):
            own = as_parts(messages) if name == "lists alone" else messages
            expected = render(template, own, add_generation_prompt=prompt)
            assert render(taught, messages, add_generation_prompt=prompt) == expected
            assert render(taught, as_parts(messages), add_generation_prompt=prompt) == expected

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_parts_become_text_with_marks(self, name):
        taught = with_parts(TEMPLATES[name], GROMA_PARTS, "<image>", SPECIAL_TOKENS)
        answer = [
            {"type": "phrase", "text": "two dogs", "boxes": [BOX, BOX]},
            {"type": "text", "text": " on "},
            {"type": "phrase", "text": "", "boxes": [BOX]},
        ]
        question = [*QUESTION, {"type": "phrase", "text": "a cat", "boxes": []}]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = render(taught, messages)
        assert f"{IMAGE_LINE}\nWhat is <region><p>a cat</p>" in text
        assert "<p>two dogs</p> <roi><ground_box><ground_box></roi> on <roi><ground_box></roi>" in text

    @pytest.mark.parametrize("image_token", ["<image>", "<img>"])
    def test_an_image_stands_on_a_line_of_its_own(self, image_token):
        taught = with_parts("{{ messages[0].content }}", GROMA_PARTS, image_token, {})
        text, image = {"type": "text", "text": "Look."}, {"type": "image"}
        line = IMAGE_LINE.replace("<image>", image_token)
        for parts, expected in (
            ([image], line),
            ([image, text], f"{line}\nLook."),
            ([text, image], f"Look.\n{line}"),
            ([text, image, text], f"Look.\n{line}\nLook."),
        ):
            assert render(taught, [{"role": "user", "content": parts}]) == expected

    def test_messages_without_text_stay(self):
        taught = with_parts("{{ messages[0] | tojson }}{{ messages[1] | tojson }}", GROMA_PARTS, "<image>", {})
        messages = [{"role": "assistant", "tool_calls": ["f"]}, {"role": "tool", "content": None}]
        assert (
            render(taught, messages) == '{"role": "assistant", "tool_calls": ["f"]}{"role": "tool", "content": null}'
        )

    def test_unknown_parts_are_refused(self):
        taught = with_parts(TEMPLATES["chatml"], GROMA_PARTS, "<image>", SPECIAL_TOKENS)
        with pytest.raises(Exception, match="Unknown part type 'video': use text, image, region or phrase"):
            render(taught, [{"role": "user", "content": [{"type": "video"}]}])

    def test_templates_that_know_regions_stay(self):
        assert with_parts(GROMA_CHAT_TEMPLATE, GROMA_PARTS, "<image>", SPECIAL_TOKENS) == GROMA_CHAT_TEMPLATE

    def test_a_template_that_knows_images_shows_them_its_own_way(self):
        template = "{% for p in messages[0].content %}{{ '<image>!' if p.type == 'image' else p.text }}{% endfor %}"
        taught = with_parts(template, GROMA_PARTS, "<image>", SPECIAL_TOKENS)
        parts = [*QUESTION, {"type": "phrase", "text": "a cat", "boxes": [BOX]}]
        expected = "<image>!What is <region><p>a cat</p> <roi><ground_box></roi>"
        assert render(taught, [{"role": "user", "content": parts}]) == expected
        either = "{{ messages[0].content if messages[0].content is string else '<image>' }}"
        assert (
            render(with_parts(either, GROMA_PARTS, "<image>", SPECIAL_TOKENS), [{"role": "user", "content": "Hi"}])
            == "Hi"
        )

    def test_the_template_s_own_errors_are_its_own(self):
        taught = with_parts(TEMPLATES["no system"], GROMA_PARTS, "<image>", SPECIAL_TOKENS)
        with pytest.raises(Exception, match="System role not supported"):
            render(taught, [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *PLAIN])

    def test_system_messages_of_parts(self):
        messages = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *PLAIN[:1]]
        for name in ("chatml", "cuts messages"):
            assert "Be brief." in render(with_parts(TEMPLATES[name], GROMA_PARTS, "<image>", SPECIAL_TOKENS), messages)


class TestSplitAnswers:
    @pytest.mark.parametrize("form", [list, as_parts], ids=["text", "parts"])
    @pytest.mark.parametrize("name", TEMPLATES)
    def test_answers_and_their_ends_are_found(self, name, form):
        pieces = pieces_of(TEMPLATES[name], form(PLAIN))
        assert [piece.text for piece in pieces if piece.is_answer] == ANSWERS_OF[name]
        taught = with_parts(TEMPLATES[name], GROMA_PARTS, "<image>", SPECIAL_TOKENS)
        assert "".join(piece.text for piece in pieces) == render(taught, PLAIN)
        assert [piece.is_answer for piece in pieces] == [False, True, False, True, False]

    @pytest.mark.parametrize("name", ["chatml", "strips"])
    @pytest.mark.parametrize("answer", [" Hi.\n", "", "  ", "{% generation %}", "Hello!"])
    def test_answers_of_any_text(self, name, answer):
        messages = [*PLAIN[:1], {"role": "assistant", "content": answer}, *PLAIN[2:]]
        pieces = pieces_of(TEMPLATES[name], messages)
        taught = with_parts(TEMPLATES[name], GROMA_PARTS, "<image>", SPECIAL_TOKENS)
        assert "".join(piece.text for piece in pieces) == render(taught, messages)
        end = "<|im_end|>" if name == "chatml" else "<|eot|>"
        expected = answer if name == "chatml" else answer.strip()
        assert pieces[1] == (f"{expected}{end}", True)

    def test_answers_that_begin_and_end_with_phrases(self):
        phrase = {"type": "phrase", "text": "a dog", "boxes": [BOX]}
        marked = "<p>a dog</p> <roi><ground_box></roi>"
        for content, expected in (
            ([phrase], marked),
            ([phrase, {"type": "text", "text": " and "}, phrase], f"{marked} and {marked}"),
            ([{"type": "text", "text": " It is "}, phrase], f" It is {marked}"),
            ([phrase, {"type": "text", "text": ". "}], f"{marked}. "),
            # Of a phrase without text nothing but its boxes is written.
            ([{**phrase, "text": ""}], "<roi><ground_box></roi>"),
            ([{"type": "text", "text": "See "}, {**phrase, "text": ""}], "See <roi><ground_box></roi>"),
            ([{**phrase, "text": ""}, {"type": "text", "text": " there."}], "<roi><ground_box></roi> there."),
        ):
            pieces = pieces_of(TEMPLATES["chatml"], [*PLAIN[:1], {"role": "assistant", "content": content}])
            assert pieces[1] == (f"{expected}<|im_end|>", True)

    def test_nothing_to_write(self):
        (piece,) = pieces_of(TEMPLATES["chatml"], PLAIN[:1], add_generation_prompt=True)
        assert not piece.is_answer and piece.text.endswith("Hello!<|im_end|>\n<|im_start|>assistant\n")

    def test_a_conversation_that_begins_with_an_answer(self):
        pieces = pieces_of(TEMPLATES["chatml"], PLAIN[1:])
        assert [piece.text for piece in pieces if piece.is_answer] == ANSWERS_OF["chatml"]
        refuses_nothing_before = (
            "{% if not messages %}{{ raise_exception('Empty') }}{% endif %}" + TEMPLATES["instruct"]
        )
        pieces = pieces_of(refuses_nothing_before, PLAIN[1:])
        assert [piece.text for piece in pieces if piece.is_answer] == ["Hi.</s>", " Bye.</s>"]

    def test_other_errors_are_not_hidden(self):
        def render_or_fail(messages, add_generation_prompt):
            if len(messages) < 2:
                raise KeyError("bug")
            return render(TEMPLATES["chatml"], messages, add_generation_prompt=add_generation_prompt)

        with pytest.raises(KeyError, match="bug"):
            split_answers(PLAIN[:2], render_or_fail)

    def test_without_a_prompt_the_model_writes_the_head_too(self):
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        pieces = pieces_of(template, PLAIN)
        assert [piece.text for piece in pieces if piece.is_answer] == ["assistant: Hi.\n", "assistant: Bye.\n"]

        twice = pieces_of(template, [PLAIN[0], PLAIN[1], PLAIN[3]])
        assert [piece.text for piece in twice if piece.is_answer] == ["assistant: Hi.\n", "assistant: Bye.\n"]

    @pytest.mark.parametrize("answer", [{}, {"content": None}, {"content": ""}])
    def test_an_answer_without_text(self, answer):
        """Of a model that calls a tool; it has to write the end of its turn."""
        template = TEMPLATES["chatml"].replace("message['content']", "(message['content'] or '')")
        pieces = pieces_of(template, [PLAIN[0], {"role": "assistant", **answer}, *PLAIN[2:]])
        assert [piece.text for piece in pieces if piece.is_answer] == ["<|im_end|>", "Bye.<|im_end|>"]

    def test_an_end_that_only_the_last_turn_has(self):
        template = "{% for m in messages %}{{ m.content }}{{ '</s>' if loop.last else '|' }}{% endfor %}"
        pieces = pieces_of(template, PLAIN)
        assert [piece.text for piece in pieces if piece.is_answer] == ["Hi.", "Bye.</s>"]

    @pytest.mark.parametrize(
        "template",
        [
            "{% for m in messages %}{{ m.content.split('i')[0] }}{% endfor %}",
            "{% for m in messages %}{{ m.content | length }}{% endfor %}",
            "{% for m in messages %}{{ m.content ~ m.content }}{% endfor %}",
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        ],
        ids=["cut", "measured", "twice", "left out"],
    )
    def test_changed_answers_are_refused(self, template):
        with pytest.raises(ValueError, match=r"changes the answers.*\{% generation %\}"):
            pieces_of(template, PLAIN)


def test_templates_that_mark_answers():
    assert marks_answers(GROMA_CHAT_TEMPLATE)
    assert marks_answers("{%generation%}x{%endgeneration%}") and marks_answers(
        "{%- generation -%}x{% endgeneration %}"
    )
    assert marks_answers(PIECES_TEMPLATE)
    assert not any(marks_answers(template) for template in TEMPLATES.values())
    assert not marks_answers("{% set generation = 1 %}")
