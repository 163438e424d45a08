"""Conversations with GLaMM: the original's labels, rendered parts, other chat templates, and one more turn."""

import re

import numpy as np
import pytest
import torch

from transformers_groma.models.glamm.chat_template_glamm import GROUNDING_REQUEST, with_grounding_request
from transformers_groma.models.glamm.image_processing_glamm import GlammImageProcessor
from transformers_groma.models.glamm.processing_glamm import GlammProcessor

from .chats import (
    BOX,
    BOX_NORMALIZED,
    INTRO,
    SYSTEM,
    answer,
    image_part,
    original_form,
    phrase,
    question,
    region,
    text,
)

CHATML = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Writes the image's mark itself.
OF_PARTS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{{ '<|end|>' }}{% endfor %}"
)


def messages_of(conversation: str) -> list[dict]:
    """The messages of a conversation of the original."""
    messages = []
    for turn in conversation.partition(" USER: ")[2].removesuffix("</s>").split("</s>USER: "):
        asked, said = turn.removeprefix(INTRO).split(" ASSISTANT: ")
        parts = [] if messages else [image_part()]
        for place, piece in enumerate(asked.split("<bbox>")):
            parts += [region(BOX)] * (place > 0) + [text(piece)] * bool(piece)
        messages += [*question(*parts), {"role": "assistant", "content": said}]
    return messages


def parts_of(said: str) -> list[dict]:
    """An answer of the original as parts: phrases, regions and text."""
    parts = []
    for piece in re.split(r"(<p> .*? </p> \[SEG\]|\[SEG\])", said):
        if found := re.fullmatch(r"<p> (.*) </p> \[SEG\]", piece):
            parts.append(phrase(found[1], BOX, BOX))
        elif piece == "[SEG]":
            parts.append(region(BOX))
        elif piece:
            parts.append(text(piece))
    return parts


class TestTraining:
    """Ids and labels of the original's collator."""

    @pytest.mark.parametrize("form", ["text", "parts"])
    @pytest.mark.parametrize("name", ["gcg", "mixed", "refseg", "region", "region_extra"])
    def test_labels_are_those_of_the_original(self, name, form, processor, glamm_train):
        case = glamm_train[f"train_{name}"]
        for conversation, ids, labels in zip(case["conversations"], case["input_ids"], case["labels"], strict=True):
            messages = messages_of(conversation)
            if form == "parts":
                messages = [
                    {**message, "content": parts_of(message["content"])} if message["role"] == "assistant" else message
                    for message in messages
                ]
            inputs = processor.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            found, mask = inputs["input_ids"][0], inputs["assistant_masks"][0]
            length = len(original_form(processor, found))
            assert original_form(processor, found) == ids[:length]
            learned = [
                token_id if is_learned else -100
                for token_id, is_learned in zip(found, mask, strict=True)
                if token_id != processor.image_token_id
            ]
            assert learned == [label for label, token_id in zip(labels[:length], ids) if token_id != -200]
            assert set(labels[length:]) <= {-100}

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_batch_with_and_without_boxes_and_images(self, side, processor, glamm_train):
        """Rows of the mixed case, and one that is text alone."""
        conversations = [messages_of(text) for text in glamm_train["train_mixed"]["conversations"]]
        conversations.append([*question(text("Hello")), *answer(text("Hi"))])
        batch = processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "padding_side": side},
        )
        assert batch["pixel_values"].shape[0] == batch["grounding_sizes"].shape[0] == 2
        assert batch["refer_boxes"].shape == (2, 2, 4)
        for row, conversation in enumerate(conversations):
            single = processor.apply_chat_template(
                conversation, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            used = batch["attention_mask"][row].bool()
            for name in ("input_ids", "assistant_masks"):
                assert batch[name][row][used].tolist() == single[name][0]
            assert not batch["assistant_masks"][row][~used].any()


class TestRendering:
    def test_parts(self, processor):
        messages = [
            *question(image_part(), text("What is "), region(BOX), text("?")),
            *answer(
                phrase("two dogs", BOX, BOX),
                text(" on "),
                phrase(" the grass ", BOX),
                text(", "),
                phrase("", BOX, BOX),
                text(" and "),
                phrase("nothing"),
                text("."),
            ),
            *question(text("Please segment "), phrase("a cat"), text(" in this image.")),
            *answer(text("Sure, it is "), region(BOX), text(".")),
        ]
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
            f"{SYSTEM}USER: {INTRO.replace('<image>', '<point>')}What is <region>? ASSISTANT: <p> two dogs </p> [SEG] "
            "on <p> the grass </p> [SEG], [SEG] and nothing.</s>USER: Please segment a cat in this image. "
            "ASSISTANT: Sure, it is [SEG].</s>ASSISTANT:"
        )
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        assert inputs["refer_boxes"].tolist() == [[BOX_NORMALIZED]]  # the user's alone
        assert (inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("[SEG]")).sum() == 4

    def test_the_image_is_shown_at_the_head_of_the_first_question(self, processor):
        intro = INTRO.replace("<image>", "<point>")
        for messages in (
            question(text("Hi"), image_part()),
            [*question(text("Hi")), *answer(text("Yes")), *question(text("So?"), image_part())],
        ):
            rendered = processor.apply_chat_template(messages)
            assert rendered.startswith(f"{SYSTEM}USER: {intro}Hi ") and rendered.count("<point>") == 1

    def test_text_only_and_system_message(self, processor):
        messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
        assert processor.apply_chat_template(messages) == f"{SYSTEM}USER: Hello ASSISTANT: Hi</s>"
        messages = [{"role": "system", "content": [text("Be brief.")]}, *messages]
        assert processor.apply_chat_template(messages) == "<s>Be brief. USER: Hello ASSISTANT: Hi</s>"

    def test_continue_final_message(self, processor):
        messages = [*question(text("What?")), *answer(text("It is a"))]
        prompt = processor.apply_chat_template(messages, continue_final_message=True)
        assert prompt == f"{SYSTEM}USER: What? ASSISTANT: It is a"

    def test_parts_as_datasets_fill_them(self, processor):
        part = {"type": None, "text": None, "image": None, "box": None, "boxes": None}
        messages = [
            *question({**part, **image_part()}, {**part, "type": "region", "box": np.array(BOX)}),
            *answer({**part, "type": "phrase", "text": "a dog", "boxes": torch.tensor([BOX, BOX])}),
        ]
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        assert inputs["refer_boxes"].tolist() == [[BOX_NORMALIZED]]
        assert "ASSISTANT: <p> a dog </p> [SEG]</s>" in processor.apply_chat_template(messages)

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            ([{"role": "tool", "content": "x"}], "Unknown role 'tool'"),
            (question({"type": "file", "file": "x"}), "Unknown part type 'file'"),
            (question(image_part(), phrase("a dog", BOX)), "A phrase in a question has boxes.*use a region part"),
            ([*question(image_part()), *answer({"type": "phrase", "text": "a dog", "box": BOX})], "unknown key 'box'"),
            ([*answer(text("Hi"), image_part())], "The image is shown with the first question, but no message is"),
        ],
    )
    def test_what_is_refused(self, messages, message, processor):
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template(messages)

    def test_regions_in_two_places_are_refused(self, processor):
        how = {"tokenize": True, "return_dict": True, "processor_kwargs": {"boxes": [BOX]}}
        with pytest.raises(ValueError, match="`processor_kwargs` has `boxes`, but the conversation has region parts"):
            processor.apply_chat_template(question(image_part(), region(BOX)), **how)
        # Those of answers are no inputs.
        messages = [*question(image_part(), text("What is <region>?")), *answer(region(BOX), phrase("it", BOX))]
        assert processor.apply_chat_template(messages, **how)["refer_boxes"][0].tolist() == [BOX_NORMALIZED]


class TestGroundingRequest:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("[grounding]Describe it.", f"Describe it. {GROUNDING_REQUEST}"),
            ("  [grounding] Describe it. ", f"Describe it. {GROUNDING_REQUEST}"),
            ("[grounding]", GROUNDING_REQUEST),
            ("Describe it. [grounding]", "Describe it. [grounding]"),
            ("[grounding][grounding]a", f"[grounding]a {GROUNDING_REQUEST}"),
            ("", ""),
        ],
    )
    def test_text(self, content, expected, processor):
        assert with_grounding_request(content) == expected
        if content:
            rendered = processor.apply_chat_template([{"role": "user", "content": content}])
            assert rendered == f"{SYSTEM}USER: {expected} "

    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ([image_part(), text("[grounding]What is it?")], f"What is it? {GROUNDING_REQUEST}"),
            ([text(""), text(" [grounding] "), text("What?"), image_part()], f"What? {GROUNDING_REQUEST}"),
            ([text("[grounding]What is "), region(BOX)], f"What is <region> {GROUNDING_REQUEST}"),
            ([text("[grounding]What is "), region(BOX), text("? ")], f"What is <region>? {GROUNDING_REQUEST}"),
            ([text("[grounding]")], GROUNDING_REQUEST),
            ([region(BOX), text("[grounding]What?")], "<region>[grounding]What?"),
            ([image_part()], ""),
        ],
    )
    def test_parts(self, parts, expected, processor):
        prompts = [processor.apply_chat_template(question(*parts)), processor.apply_chat_template(question(*parts))]
        assert prompts[0] == prompts[1]  # the caller's parts are as they were
        assert prompts[0].replace(INTRO.replace("<image>", "<point>"), "") == f"{SYSTEM}USER: {expected} "

    def test_only_users_ask(self, processor):
        said = "[grounding]Yes."
        messages = [{"role": "system", "content": said}, *question(text("a")), {"role": "assistant", "content": said}]
        assert GROUNDING_REQUEST not in processor.apply_chat_template(messages)


class TestAnotherChatTemplate:
    """A language model's own template, which knows nothing of parts and does not say what is to be learned."""

    @pytest.fixture
    def other(self, new_tokenizer):
        return GlammProcessor(GlammImageProcessor(grounding_size=64), new_tokenizer, chat_template=CHATML)

    def test_messages_of_parts(self, other):
        messages = [
            *question(image_part(), text("[grounding]What is "), region(BOX)),
            *answer(phrase("a dog", BOX), text(".")),
        ]
        intro = INTRO.strip()
        assert other.apply_chat_template(messages) == (
            f"<|user|>{intro}\nWhat is <region> {GROUNDING_REQUEST}<|end|>\n"
            "<|assistant|><p> a dog </p> [SEG].<|end|>\n"
        )
        asked = other(images=image_part()["image"], text="[grounding]What is <region>", boxes=[BOX])
        inputs = other.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=True, return_dict=True)
        assert asked["input_ids"] == inputs["input_ids"]
        assert inputs["input_ids"][0].count(other.image_token_id) == 576

    def test_a_template_that_writes_the_mark_itself(self, other):
        messages = [*question(image_part(), text("[grounding]What is "), region(BOX)), *answer(phrase("it", BOX))]
        rendered = other.apply_chat_template(messages, chat_template=OF_PARTS)
        assert rendered == (
            f"<|user|><image>What is <region> {GROUNDING_REQUEST}<|end|><|assistant|><p> it </p> [SEG]<|end|>"
        )
        inputs = other.apply_chat_template(messages, chat_template=OF_PARTS, tokenize=True, return_dict=True)
        # The image's tokens stand where the original has them.
        start = inputs["input_ids"][0].index(other.image_token_id)
        assert other.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0][start - 1]) == "<im_start>"

    def test_answers_are_found(self, other):
        messages = [
            *question(image_part(), text("What is "), region(BOX)),
            *answer(phrase("a dog", BOX), text(" sits.")),
            *question(text("And now?")),
            *answer(text("No.")),
        ]
        inputs = other.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
        )
        decoded = other.tokenizer.decode(inputs["input_ids"][0][inputs["assistant_masks"][0].bool()])
        assert decoded.replace(" ", "") == "<p>adog</p>[SEG]sits.<|end|>No.<|end|>"


class TestNextTurn:
    """Another question about an image that is in a cache."""

    @staticmethod
    def inputs(processor, messages):
        return processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )

    @pytest.mark.parametrize("asked", ["And <region>?", "[grounding]And <region>?"])
    @pytest.mark.parametrize("ended", [True, False])
    def test_it_continues_as_the_chat_template_does(self, asked, ended, processor):
        first = question(image_part(), text("What is there?"))
        before, _, after = asked.partition("<region>")
        second = question(text(before), region([20, 10, 60, 90]), text(after))
        whole = self.inputs(processor, [*first, {"role": "assistant", "content": "<p> a dog </p> [SEG]."}, *second])
        prompt = self.inputs(processor, first)["input_ids"].shape[1]
        eos = processor.tokenizer.eos_token_id
        end = whole["input_ids"][0, prompt:].tolist().index(eos) + prompt
        sequences = whole["input_ids"][:, : end + ended]
        turn = processor.next_turn(sequences, asked, [[20, 10, 60, 90]], [(480, 640)])
        assert turn["input_ids"].tolist() == whole["input_ids"].tolist()
        assert turn["attention_mask"].tolist() == whole["attention_mask"].tolist()
        assert turn["refer_boxes"].tolist() == whole["refer_boxes"].tolist()
        assert set(turn) == {"input_ids", "attention_mask", "refer_boxes"}

    def test_a_batch(self, processor):
        """Answers that ended first are padded, questions are of different lengths, and a row has no image."""
        tokenizer = processor.tokenizer
        pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
        image = [processor.image_token_id] * 576
        sequences = torch.tensor([[*image, 259, 260, eos, pad, pad], [*[pad] * 575, 1, 259, 260, 261, 262, 263]])
        turn = processor.next_turn(
            sequences, ["Which of <region> and <region>?", "So?"], [[[0, 0, 8, 8], [8, 8, 16, 16]], None], [(16, 16)]
        )
        assert turn["refer_boxes"].tolist() == [[[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]]
        ids, mask = turn["input_ids"], turn["attention_mask"].bool()
        assert ids[:, :581].tolist() == sequences.tolist() and mask[:, -1].all()
        assert mask[0, 576:581].tolist() == [True] * 3 + [False] * 2 and not mask[1, :575].any()
        words = [tokenizer.decode(row[used]) for row, used in zip(ids, mask)]
        assert words[0].count("<bbox>") == 2 and words[0].count("</s>") == 1
        assert words[1].endswith("</s> USER: So? ASSISTANT:")

    def test_marks_in_a_question_are_text(self, processor):
        ids = torch.tensor([[processor.image_token_id] * 576 + [259]])
        typed = processor.next_turn(ids, "Is [SEG] <image> <bbox>?")["input_ids"][0, ids.shape[1] :]
        tokens = processor.tokenizer.convert_tokens_to_ids(["[SEG]", "<point>", "<bbox>"])
        assert not set(tokens) & set(typed.tolist())
        parsed = processor.next_turn(ids, "Is [SEG]?", parse_tokens=True)["input_ids"][0, ids.shape[1] :]
        assert tokens[0] in parsed

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"text": ["a", "b"]}, "2 questions for 1 `sequences`"),
            ({"target_sizes": None}, "`boxes` need `target_sizes`"),
            ({"target_sizes": [(10, 10), (10, 10)]}, "got 2 for 1"),
            ({"boxes": None}, "1 <region> mark, but `boxes` has 0"),
            ({"boxes": [[0, 0, 5, 5], [0, 0, 5, 5]]}, "1 <region> mark, but `boxes` has 2"),
        ],
    )
    def test_arguments_that_do_not_fit(self, processor, change, message):
        ids = torch.tensor([[processor.image_token_id] * 576 + [259]])
        given = {"text": "What is <region>?", "boxes": [[0, 0, 5, 5]], "target_sizes": [(10, 10)], **change}
        with pytest.raises(ValueError, match=message):
            processor.next_turn(ids, **given)
