"""Conversations: the original's ids, other chat templates, and one more turn."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoProcessor, BatchFeature

from transformers_groma import GromaImageProcessor, GromaProcessor
from transformers_groma.models.groma.tokenization_groma import GROMA_CHAT_TEMPLATE, load_legacy_tokenizer

from .chats import BOX, BOX_NORMALIZED, INTRO, SYSTEM, question, text

CHATML = (
    "{% if system is defined %}{{ '<|system|>' + system }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class TestPrompt:
    @pytest.fixture
    def expected_ids(self, golden_text):
        """The original's ids, its three marks expanded our way."""
        ids_of = golden_text["special_token_ids"]
        image = ids_of["<image>"]
        expansion = {
            image: [image] * 256,
            ids_of["<region>"]: [i for slot in range(100) for i in (ids_of[f"<r{slot}>"], image)],
            ids_of["<refer_box>"]: [ids_of["<roi>"], ids_of["<refer_box>"], ids_of["</roi>"], image],
            ids_of["<refer_feat>"]: [],
        }
        return [i for token in golden_text["prompts"]["llava"]["ids"] for i in expansion.get(token, [token])]

    def test_conversation_has_the_ids_of_the_original(self, processor, image, expected_ids):
        messages = question(
            {"type": "image", "image": image},
            text("[grounding]Describe "),
            {"type": "region", "box": BOX},
            text(" please."),
        )
        inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        assert inputs["input_ids"] == [expected_ids]

    def test_question_has_the_ids_of_the_original(self, processor, image, expected_ids):
        inputs = processor(images=image, text="[grounding]Describe <region> please.", boxes=[BOX])
        assert inputs["input_ids"] == [expected_ids]

    @pytest.mark.parametrize("bos", ["<s>", ""])
    def test_finished_prompt_has_the_ids_of_the_original(self, bos, processor, image, expected_ids, golden_text):
        prompt = bos + golden_text["prompts"]["llava"]["text"]
        prompt = prompt.replace("Regions: <region>. ", "").replace("<refer_box><refer_feat>", "<region>")
        inputs = processor(images=image, text=prompt, boxes=[BOX])
        assert inputs["input_ids"] == [expected_ids]

    def test_rendered_text(self, processor):
        messages = [
            *question({"type": "image"}, text("What is "), {"type": "region", "box": BOX}, text("?")),
            {
                "role": "assistant",
                "content": [
                    {"type": "phrase", "text": "two dogs", "boxes": [BOX, BOX]},
                    text(" on "),
                    {"type": "phrase", "text": "", "boxes": [BOX]},
                    text("."),
                ],
            },
            *question(text("Locate "), {"type": "phrase", "text": "a cat", "boxes": []}),
        ]
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
            f"{SYSTEM}{INTRO}USER: What is <region>? "
            "ASSISTANT: <p>two dogs</p> <roi><ground_box><ground_box></roi> on <roi><ground_box></roi>.</s>"
            "USER: Locate <p>a cat</p> ASSISTANT:"
        )

    def test_text_only_and_system_message(self, processor):
        messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
        assert processor.apply_chat_template(messages) == f"{SYSTEM}USER: Hello ASSISTANT: Hi</s>"
        messages = [{"role": "system", "content": [text("Be brief.")]}, *messages]
        assert processor.apply_chat_template(messages) == "<s>Be brief. USER: Hello ASSISTANT: Hi</s>"

    def test_continue_final_message(self, processor):
        messages = [*question({"type": "image"}, text("What?")), {"role": "assistant", "content": [text("It is a")]}]
        prompt = processor.apply_chat_template(messages, continue_final_message=True)
        assert prompt == f"{SYSTEM}{INTRO}USER: What? ASSISTANT: It is a"

    def test_parts_as_datasets_fill_them(self, processor, image):
        part = {"type": None, "text": None, "image": None, "box": None, "boxes": None}
        messages = question(
            {**part, "type": "image", "image": image},
            {**part, "type": "region", "box": np.array(BOX)},
            {**part, "type": "phrase", "text": "a dog", "boxes": torch.tensor([BOX, BOX])},
        )
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        assert inputs["refer_boxes"].tolist() == [[BOX_NORMALIZED]]
        assert inputs["ground_boxes"].tolist() == [[BOX_NORMALIZED, BOX_NORMALIZED]]

    @pytest.mark.parametrize("padding_side", ["left", "right"])
    def test_assistant_mask_covers_answers_and_their_end(self, padding_side, processor, image):
        answer = {
            "role": "assistant",
            "content": [{"type": "phrase", "text": "a dog", "boxes": [BOX]}, text(" sits.")],
        }
        messages = [
            *question({"type": "image", "image": image}, text("What is "), {"type": "region", "box": BOX}, text("?")),
            answer,
            *question(text("And now?")),
            {"role": "assistant", "content": "Nothing."},
        ]
        other = [*question(text("Hello")), {"role": "assistant", "content": "Hi"}]
        inputs = processor.apply_chat_template(
            [messages, other],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "padding_side": padding_side},
        )
        tokenizer = processor.tokenizer
        expected = [
            "<p>a dog</p> <roi><ground_box></roi> sits.</s>Nothing.</s>",
            "Hi</s>",
        ]
        for ids, mask, answer in zip(inputs["input_ids"], inputs["assistant_masks"], expected):
            assert ids[mask.bool()].tolist() == tokenizer(answer, add_special_tokens=False)["input_ids"]

    def test_typed_marks_are_text_when_sanitized(self, processor, image):
        messages = question({"type": "image", "image": image}, text("Is <image> or <region> a mark?"))
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", sanitize_control_tokens=True
        )
        assert (inputs["input_ids"] == processor.image_token_id).sum() == 356

    def test_without_own_bos_no_bos_is_written(self, golden_dir, image):
        tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
        tokenizer.bos_token = None
        processor = GromaProcessor(GromaImageProcessor(), tokenizer)
        assert processor.apply_chat_template(question(text("Hello"))).startswith("A chat")


class TestAnotherChatTemplate:
    """A language model's own template, which knows nothing of parts and does not say what is to be learned."""

    @pytest.fixture
    def tokenizer(self, golden_dir):
        tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
        tokenizer.chat_template = CHATML
        return tokenizer

    @pytest.fixture
    def processor(self, tokenizer):
        return GromaProcessor(GromaImageProcessor(), tokenizer)

    def test_the_tokenizer_s_own_is_the_default(self, processor, tokenizer, tmp_path):
        assert processor.chat_template == CHATML
        assert GromaProcessor(GromaImageProcessor(), tokenizer, chat_template="{{ 1 }}").chat_template == "{{ 1 }}"
        processor.save_pretrained(tmp_path)
        assert (tmp_path / "chat_template.jinja").read_text() == CHATML
        assert AutoProcessor.from_pretrained(tmp_path).chat_template == CHATML

    def test_groma_s_own_template_in_a_tokenizer_gets_the_processor_s_image_token(self, tokenizer):
        tokenizer.chat_template = GROMA_CHAT_TEMPLATE
        processor = GromaProcessor(GromaImageProcessor(), tokenizer, image_token="<img>")
        assert "Image: <img>." in processor.apply_chat_template(question({"type": "image"}))

    def test_messages_of_parts(self, processor, image):
        messages = question({"type": "image", "image": image}, text("What is "), {"type": "region", "box": BOX})
        line = "Here is an image with region crops from it. Image: <image>."
        expected = f"<|user|>{line}\nWhat is <region><|end|>\n<|assistant|>"
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected
        assert processor.apply_chat_template(messages, chat_template=GROMA_CHAT_TEMPLATE).startswith("<s>A chat")
        inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        asked = processor(images=image, text="What is <region>", boxes=[BOX])
        assert asked["input_ids"] == inputs["input_ids"]
        assert np.array_equal(asked["refer_boxes"], inputs["refer_boxes"])

    def test_no_special_tokens_are_added_to_what_a_template_renders(self, processor, tokenizer, image):
        assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
        conversation = [{"role": "user", "content": "Hello"}]
        expected = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
        inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
        assert inputs["input_ids"] == [expected]
        assert tokenizer.bos_token_id not in expected
        ids = processor(images=[image, None], text=["What?", "What?"])["input_ids"]
        assert tokenizer.bos_token_id not in ids[0]
        assert ids[1] == tokenizer("What?")["input_ids"]
        with_bos = processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, processor_kwargs={"add_special_tokens": True}
        )
        assert with_bos["input_ids"][0][0] == tokenizer.bos_token_id

    @pytest.mark.parametrize("padding_side", ["left", "right"])
    def test_answers_are_found(self, padding_side, processor, image):
        answer = [{"type": "phrase", "text": "a dog", "boxes": [BOX]}, text(" sits.")]
        first = [
            *question({"type": "image", "image": image}, text("What is "), {"type": "region", "box": BOX}, text("?")),
            {"role": "assistant", "content": answer},
            *question(text("And now?")),
            {"role": "assistant", "content": "Nothing."},
        ]
        second = [*question(text("Hello")), {"role": "assistant", "content": "Hi"}]
        before = copy.deepcopy(second)
        inputs = processor.apply_chat_template(
            [first, second],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "padding_side": padding_side},
        )
        assert second == before
        plain = processor.apply_chat_template(
            [first, second], tokenize=True, return_dict=True, processor_kwargs={"padding": False}
        )
        tokenizer = processor.tokenizer
        expected = ["<p>a dog</p> <roi><ground_box></roi> sits.<|end|>Nothing.<|end|>", "Hi<|end|>"]
        rows = zip(inputs["input_ids"], inputs["assistant_masks"], inputs["attention_mask"], expected, strict=True)
        for index, (ids, mask, used, learned) in enumerate(rows):
            assert ids[used.bool()].tolist() == plain["input_ids"][index]
            decoded = tokenizer.decode(ids[mask.bool()])
            assert decoded.replace(" ", "") == learned.replace(" ", "")
        assert inputs["refer_boxes"].shape == (1, 1, 4) and inputs["ground_boxes"].shape == (1, 1, 4)

    def test_one_conversation_and_variables_of_the_template(self, processor):
        messages = [*question(text("Hello")), {"role": "assistant", "content": "Hi"}]
        arguments = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True, "system": "Be kind."}
        inputs = processor.apply_chat_template(messages, **arguments)
        decoded = processor.tokenizer.decode(inputs["input_ids"][0])
        assert decoded.replace(" ", "") == "<|system|>Bekind.<|user|>Hello<|end|>\n<|assistant|>Hi<|end|>\n"
        assert sum(inputs["assistant_masks"][0]) > 0
        prompted = processor.apply_chat_template(messages[:1], add_generation_prompt=True, **arguments)
        assert sum(prompted["assistant_masks"][0]) == 0
        assert processor.tokenizer.decode(prompted["input_ids"][0]).endswith("<|assistant|>")

    def test_a_template_that_says_what_is_learned_is_believed(self, processor):
        template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        inputs = processor.apply_chat_template(
            question(text("Hello")),
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert all(inputs["assistant_masks"][0])

    @pytest.mark.parametrize("mask", [False, True])
    def test_what_a_template_refuses(self, mask, processor):
        template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role here') }}{% endif %}"
        messages = [{"role": "system", "content": "Be kind."}, *question(text("Hello"))]
        with pytest.raises(ValueError, match="chat template refuses the conversation: No system role here"):
            processor.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=mask,
            )


class TestNextTurn:
    """Another question about an image that is in a cache."""

    @pytest.fixture(scope="class")
    def tiny(self, tiny_dir) -> GromaProcessor:
        return GromaProcessor.from_pretrained(tiny_dir)

    @staticmethod
    def conversation(answer: str | None = None) -> list[dict]:
        first = {"type": "text", "text": "What is there?"}
        messages = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (200, 100))}, first]}]
        if answer is None:
            return messages
        parts = [
            {"type": "text", "text": "And "},
            {"type": "region", "box": [20, 10, 60, 90]},
            {"type": "text", "text": "?"},
        ]
        return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": parts}]

    @staticmethod
    def inputs(processor: GromaProcessor, messages: list[dict]) -> BatchFeature:
        return processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )

    @pytest.mark.parametrize("said", ["with its end", "without"])
    def test_it_continues_as_the_chat_template_does(self, tiny, said):
        prompt = self.inputs(tiny, self.conversation())["input_ids"]
        whole = self.inputs(tiny, self.conversation("A red star."))
        end = whole["input_ids"][0, prompt.shape[1] :].tolist().index(tiny.tokenizer.eos_token_id) + prompt.shape[1]
        sequences = whole["input_ids"][:, : end + (said == "with its end")]
        turn = tiny.next_turn(sequences, "And <region>?", [[20, 10, 60, 90]], [(100, 200)])
        assert turn["input_ids"].tolist() == whole["input_ids"].tolist()
        assert turn["attention_mask"].tolist() == whole["attention_mask"].tolist()
        assert_close(turn["refer_boxes"], torch.as_tensor(whole["refer_boxes"]))

    def test_a_batch(self, tiny):
        """Answers that ended first are padded, questions are of different lengths, and a row has no image."""
        pad, eos = tiny.tokenizer.pad_token_id, tiny.tokenizer.eos_token_id
        image = [tiny.image_token_id] * tiny.num_image_tokens
        ended = [*image, 5, 6, eos, pad, pad]
        text = [pad] * (len(image) - 1) + [1, 5, 6, 7, 8, 9]
        sequences = torch.tensor([ended, text])
        turn = tiny.next_turn(
            sequences, ["Which of <region> and <region>?", "So?"], [[[0, 0, 8, 8], [8, 8, 16, 16]], None], [(16, 16)]
        )
        assert turn["input_ids"][:, : sequences.shape[1]].tolist() == sequences.tolist()
        assert turn["refer_boxes"].tolist() == [[[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]]
        mask, ids = turn["attention_mask"], turn["input_ids"]
        assert mask[0, : sequences.shape[1]].tolist() == [1] * (len(ended) - 2) + [0, 0]
        assert (mask[1, : len(image) - 1] == 0).all() and (mask[1, len(image) - 1 : sequences.shape[1]] == 1).all()
        assert (ids[1, sequences.shape[1] :][mask[1, sequences.shape[1] :] == 0] == pad).all()
        words = [tiny.tokenizer.decode(row[kept.bool()]) for row, kept in zip(ids, mask)]
        assert words[0].count("<refer_box>") == 2 and words[0].count(tiny.tokenizer.eos_token) == 1
        assert words[1].endswith(tiny.tokenizer.decode(tiny._turn_ids("So?", [5])))

    @pytest.mark.parametrize("ends", [0, 1, 2, 3])
    def test_the_end_of_an_answer_is_not_padding_where_both_are_one_token(self, tiny, ends):
        """Of language models that pad with their EOS token the first one ends the answer."""
        processor = copy.deepcopy(tiny)
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
        eos = processor.tokenizer.eos_token_id
        ids = torch.tensor([[tiny.image_token_id] * tiny.num_image_tokens + [5, 6] + [eos] * ends])
        turn = processor.next_turn(ids, "So?")
        kept = len(ids[0]) - max(ends - 1, 0)
        assert turn["attention_mask"][0, : len(ids[0])].tolist() == [1] * kept + [0] * (len(ids[0]) - kept)
        assert turn["input_ids"][0, len(ids[0]) :].tolist().count(eos) == (0 if ends else 1)

    def test_marks_in_a_question_are_text(self, tiny):
        ids = torch.tensor([[tiny.image_token_id] * tiny.num_image_tokens + [5]])
        plain = tiny.next_turn(ids, "Is <r0> <image>?")["input_ids"][0, ids.shape[1] :]
        assert tiny.image_token_id not in plain and tiny.tokenizer.convert_tokens_to_ids("<r0>") not in plain
        parsed = tiny.next_turn(ids, "Is <r0>?", parse_tokens=True)["input_ids"][0, ids.shape[1] :]
        assert tiny.tokenizer.convert_tokens_to_ids("<r0>") in parsed

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"text": ["a", "b"]}, "2 questions for 1 `sequences`"),
            ({"target_sizes": None}, "`boxes` need `target_sizes`"),
            ({"target_sizes": [(10, 10), (10, 10)]}, "got 2 for 1"),
            ({"boxes": None}, "<region>"),
            ({"boxes": [[0, 0, 5, 5], [0, 0, 5, 5]]}, "<region>"),
        ],
    )
    def test_arguments_that_do_not_fit(self, tiny, change, message):
        ids = torch.tensor([[tiny.image_token_id] * tiny.num_image_tokens + [5]])
        given = {"text": "What is <region>?", "boxes": [[0, 0, 5, 5]], "target_sizes": [(10, 10)], **change}
        with pytest.raises(ValueError, match=message):
            tiny.next_turn(ids, **given)

    def test_a_template_that_renders_everything_anew(self, tiny):
        other = copy.deepcopy(tiny)
        other.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
        ids = torch.tensor([[tiny.image_token_id] * tiny.num_image_tokens + [5]])
        with pytest.raises(ValueError, match="cannot be continued from a cache"):
            other.next_turn(ids, "So?")
