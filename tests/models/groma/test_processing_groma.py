"""The processor: prompts, boxes and chats to model inputs, and answers back to boxes."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoProcessor, BatchFeature
from transformers.generation import GenerateDecoderOnlyOutput

from transformers_groma import GromaImageProcessor, GromaProcessor
from transformers_groma.models.groma.processing_groma import DEFAULT_IMAGE_PROMPT, DEFAULT_REGION_PROMPT
from transformers_groma.models.groma.tokenization_groma import GROMA_CHAT_TEMPLATE, load_legacy_tokenizer

ORIENTATION_TAG = 0x0112
BOX = [0, 0, 320, 240]
BOX_NORMALIZED = [0.25, 0.25, 0.5, 0.5]  # BOX of a 640x480 image as cxcywh
INTRO = (
    "USER: Here is an image with region crops from it. Image: <image>. "
    "ASSISTANT: Thank you for the image! How can I assist you with it?</s>"
)
SYSTEM = (
    "<s>A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def question(*parts):
    return [{"role": "user", "content": list(parts)}]


def text(value):
    return {"type": "text", "text": value}


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


CHATML = (
    "{% if system is defined %}{{ '<|system|>' + system }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


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


class TestCall:
    def test_shapes_and_counts(self, processor, image):
        inputs = processor(images=image, text="What is <region>?", boxes=[BOX], return_tensors="pt")
        assert set(inputs) == {"input_ids", "attention_mask", "pixel_values", "refer_boxes"}
        assert inputs["pixel_values"].shape == (1, 3, 448, 448)
        assert (inputs["input_ids"] == processor.image_token_id).sum() == 256 + 100 + 1
        assert inputs["refer_boxes"].dtype == torch.float32
        assert inputs["refer_boxes"].tolist() == [[BOX_NORMALIZED]]

    def test_no_boxes_no_refer_boxes(self, processor, image):
        for boxes in (None, [], [[]], [None], torch.zeros(0, 4)):
            assert "refer_boxes" not in processor(images=image, text="What is this?", boxes=boxes)

    @pytest.mark.parametrize("images", ["image", "[image]", "[[image]]"])
    @pytest.mark.parametrize("wrap_text", [False, True])
    @pytest.mark.parametrize("as_boxes", [list, np.array, torch.tensor, lambda boxes: [torch.tensor(boxes)]])
    def test_one_sample_in_every_nesting(self, images, wrap_text, as_boxes, processor, image):
        question = "What is <region>?"
        expected = processor(images=image, text=question, boxes=[BOX], return_tensors="pt")
        inputs = processor(
            images=eval(images, {"image": image}),
            text=[question] if wrap_text else question,
            boxes=as_boxes([BOX]),
            return_tensors="pt",
        )
        for name in expected:
            torch.testing.assert_close(inputs[name], expected[name])

    @pytest.mark.parametrize(
        ("box", "box_format", "normalized"),
        [
            ([64, 48, 192, 240], None, None),
            ([64, 48, 128, 192], "xywh", False),
            ([128, 144, 128, 192], "cxcywh", False),
            ([0.1, 0.1, 0.3, 0.5], "xyxy", True),
            ([0.2, 0.3, 0.2, 0.4], "cxcywh", True),
        ],
    )
    def test_box_formats(self, box, box_format, normalized, processor, image):
        arguments = {"box_format": box_format, "normalized": normalized}
        inputs = processor(images=image, text="<region>?", boxes=[box], return_tensors="pt", **arguments)
        torch.testing.assert_close(inputs["refer_boxes"], torch.tensor([[[0.2, 0.3, 0.2, 0.4]]]))
        inputs = processor.apply_chat_template(
            question({"type": "image", "image": image}, {"type": "region", "box": box}),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=arguments,
        )
        torch.testing.assert_close(inputs["refer_boxes"], torch.tensor([[[0.2, 0.3, 0.2, 0.4]]]))

    def test_batch_is_its_samples(self, processor, image):
        images = [image, None, image.rotate(90, expand=True), image]
        texts = ["What is <region>?", "Hello", "Compare <region> and <region>.", "[grounding]Describe it."]
        boxes = [[BOX], None, [[0, 0, 48, 64], [240, 320, 480, 640]], []]
        batch = processor(images=images, text=texts, boxes=boxes, padding=True, return_tensors="pt")
        assert batch["pixel_values"].shape[0] == 3
        assert batch["refer_boxes"].shape == (3, 2, 4)
        row = 0
        for index in range(4):
            single = processor(images=images[index], text=texts[index], boxes=boxes[index], return_tensors="pt")
            unpadded = batch["input_ids"][index][batch["attention_mask"][index].bool()]
            assert unpadded.tolist() == single["input_ids"][0].tolist()
            if images[index] is not None:
                torch.testing.assert_close(batch["pixel_values"][row], single["pixel_values"][0])
                refer_boxes = single.get("refer_boxes", torch.zeros(1, 0, 4))[0]
                torch.testing.assert_close(batch["refer_boxes"][row, : len(refer_boxes)], refer_boxes)
                assert not batch["refer_boxes"][row, len(refer_boxes) :].any()
                row += 1

    def test_typed_tokens_are_words_in_questions_and_tokens_in_prompts(self, processor, image):
        """In the ids and in what is said about their places."""
        end = processor.tokenizer.eos_token_id
        inputs = processor(images=image, text="Is </s> it?", return_offsets_mapping=True)
        asked, other = inputs["input_ids"][0], processor(images=image, text="Is it?")["input_ids"][0]
        assert asked.count(end) == other.count(end) and "Is </s> it?" in processor.tokenizer.decode(asked)
        assert len(inputs["offset_mapping"][0]) == len(asked)
        prompt = processor(images=image, text="<image> Is </s> it?")["input_ids"][0]
        assert prompt.count(end) == 1
        assert processor(text="Is </s> it?")["input_ids"][0].count(end) == 1
        assert processor(text="Is </s> it?", parse_tokens=False)["input_ids"][0].count(end) == 0

    def test_every_sequence_has_one_bos(self, processor, image):
        texts = ["plain question", "text only", f"{SYSTEM}{INTRO}USER: q ASSISTANT:", "Image: <image>."]
        inputs = processor(images=[image, None, image, image], text=texts, padding=True, return_tensors="pt")
        assert (inputs["input_ids"] == processor.tokenizer.bos_token_id).sum(dim=1).tolist() == [1, 1, 1, 1]

    def test_flat_images_go_to_the_prompts_that_have_a_mark(self, processor, image):
        inputs = processor(images=[image], text=["Hello", "Image: <image>."], padding=True, return_tensors="pt")
        assert (inputs["input_ids"] == processor.image_token_id).sum(dim=1).tolist() == [0, 356]

    def test_default_questions(self, processor, image):
        with_boxes = processor(images=image, boxes=[BOX, BOX])
        expected = DEFAULT_REGION_PROMPT.format(regions="<region>, <region>")
        assert with_boxes["input_ids"] == processor(images=image, text=expected, boxes=[BOX, BOX])["input_ids"]
        without_boxes = processor(images=[image, image])
        assert without_boxes["input_ids"] == [processor(images=image, text=DEFAULT_IMAGE_PROMPT)["input_ids"][0]] * 2

    def test_text_only(self, processor):
        inputs = processor(text="Hello")
        assert set(inputs) == {"input_ids", "attention_mask"}
        assert inputs["input_ids"] == processor.tokenizer(["Hello"])["input_ids"]

    def test_boxes_follow_the_upright_image(self, processor, image):
        stored = image.transpose(Image.Transpose.ROTATE_90)  # 480x640, to be turned clockwise
        stored.getexif()[ORIENTATION_TAG] = 6
        inputs = processor(images=stored, text="<region>?", boxes=[[320, 240, 640, 480]], return_tensors="pt")
        expected = processor(images=image, text="<region>?", boxes=[[320, 240, 640, 480]], return_tensors="pt")
        for name in expected:
            torch.testing.assert_close(inputs[name], expected[name])

    def test_files_and_objects_give_the_same(self, processor, tmp_path):
        rgba = Image.new("RGBA", (40, 30), (10, 20, 30, 100))
        deep = Image.fromarray(np.full((30, 40), 40000, dtype=np.uint16))
        for name, image in (("rgba.png", rgba), ("deep.png", deep)):
            image.save(tmp_path / name)
            expected = processor(images=image, return_tensors="pt")["pixel_values"]
            for path in (tmp_path / name, str(tmp_path / name)):
                torch.testing.assert_close(processor(images=path, return_tensors="pt")["pixel_values"], expected)

    def test_grey_array_without_channels(self, processor):
        grey = np.full((30, 40), 7, dtype=np.uint8)
        expected = processor(images=Image.fromarray(grey), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(processor(images=grey, return_tensors="pt")["pixel_values"], expected)

    def test_arguments_are_not_changed(self, processor, image):
        images, texts, boxes = [image, None], ["What is <region>?", "Hello"], [[list(BOX)], None]
        processor_kwargs = {"padding": True}
        messages = question({"type": "image", "image": image}, {"type": "region", "box": list(BOX)})
        before = copy.deepcopy((texts, boxes, processor_kwargs, messages))
        processor(images=images, text=texts, boxes=boxes, padding=True, return_tensors="pt")
        processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            return_tensors="pt",
            processor_kwargs=processor_kwargs,
        )
        assert images[0] is image and images[1] is None
        assert (texts, boxes, processor_kwargs) == before[:3]
        assert messages[0]["content"][1] == before[3][0]["content"][1]

    @pytest.mark.parametrize(("return_tensors", "kind"), [("pt", torch.Tensor), ("np", np.ndarray), (None, list)])
    def test_return_tensors(self, return_tensors, kind, processor, image):
        inputs = processor(images=image, boxes=[BOX], return_tensors=return_tensors)
        assert all(isinstance(value, kind) for value in inputs.values())

    def test_boxes_for_marks_in_a_conversation_text(self, processor, image):
        inputs = processor.apply_chat_template(
            question({"type": "image", "image": image}, text("What is <region>?")),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"boxes": [BOX]},
        )
        assert inputs["refer_boxes"].tolist() == [[BOX_NORMALIZED]]

    def test_mm_token_type_ids_and_counts(self, processor, image):
        sizes = [(480, 640), (30, 40)]
        inputs = processor(images=image, text="What?", return_mm_token_type_ids=True, return_tensors="pt")
        counts = processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]
        assert counts == [int(inputs["mm_token_type_ids"].sum())] * 2

    def test_replacement_offsets(self, processor):
        prompt = "a <region> b <image> c <region>"
        (expanded,), (offsets,) = processor.get_text_with_replacements([prompt], ["<image><image>"])
        assert expanded == "a <roi><refer_box></roi><image> b <image><image> c <roi><refer_box></roi><image>"
        assert [offset["type"] for offset in offsets] == ["region", "image", "region"]
        for offset in offsets:
            assert prompt[slice(*offset["span"])] == offset["text"]
            assert expanded[slice(*offset["new_span"])] == offset["replacement"]


class TestSaveAndLoad:
    @pytest.mark.parametrize("load", [GromaProcessor.from_pretrained, AutoProcessor.from_pretrained])
    def test_round_trip(self, load, legacy_tokenizer, image, tmp_path):
        settings = {"num_image_tokens": 4, "max_regions": 3, "region_separator": "; ", "image_token": "<img>"}
        processor = GromaProcessor(GromaImageProcessor(size={"height": 28, "width": 28}), legacy_tokenizer, **settings)
        processor.save_pretrained(tmp_path)
        reloaded = load(tmp_path)
        assert isinstance(reloaded, GromaProcessor)
        assert reloaded.to_dict() == processor.to_dict()
        assert reloaded.chat_template == processor.chat_template
        assert {name: getattr(reloaded, name) for name in settings} == settings
        arguments = {"images": image, "text": "What is <region>?", "boxes": [BOX], "return_tensors": "pt"}
        expected = processor(**arguments)
        assert (expected["input_ids"] == processor.image_token_id).sum() == 4 + 3 + 1
        for name, value in reloaded(**arguments).items():
            torch.testing.assert_close(value, expected[name])

    def test_template_is_saved(self, processor, tmp_path):
        processor.save_pretrained(tmp_path)
        assert (tmp_path / "chat_template.jinja").read_text() == GROMA_CHAT_TEMPLATE


class TestPostProcess:
    @pytest.fixture
    def make_output(self, processor):
        def make(prompts: torch.Tensor, answers: list[str], num_images: int):
            answer_ids = [processor.tokenizer(a, add_special_tokens=False)["input_ids"] for a in answers]
            longest = max(map(len, answer_ids))
            pad = processor.tokenizer.pad_token_id
            ids = torch.tensor([i + [pad] * (longest - len(i)) for i in answer_ids])
            prompts = prompts.repeat_interleave(len(answers) // max(len(prompts), 1), dim=0)
            output = GenerateDecoderOnlyOutput(sequences=torch.cat([prompts, ids], dim=1) if len(prompts) else ids)
            output.region_boxes = output.region_scores = output.region_mask = None
            if num_images:
                output.region_boxes = torch.zeros(num_images, 5, 4)
                output.region_boxes[:, 0] = torch.tensor(BOX_NORMALIZED)
                output.region_boxes[:, 1] = torch.tensor([0.5, 0.5, 1.2, 1.0])
                output.region_scores = torch.full((num_images, 5), 0.5)
                output.region_mask = torch.tensor([True, True, False, False, False]).expand(num_images, 5)
            return output

        return make

    def test_boxes_in_pixels(self, processor, image, make_output):
        inputs = processor(images=image, text="What is <region>?", boxes=[BOX], return_tensors="pt")
        output = make_output(
            inputs["input_ids"], ["<p>a dog</p> <roi><r0></roi> near <p>all</p><roi><r1><r4></roi>.</s>"], 1
        )
        (answer,) = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])
        assert answer.text == "a dog near all."
        assert [phrase.text for phrase in answer.phrases] == ["a dog", "all"]
        assert answer.phrases[0].boxes.tolist() == [BOX]
        assert answer.phrases[1].boxes.tolist() == [[0, 0, 640, 480]]
        assert answer.unknown_region_ids == (4,)
        assert [region.id for region in answer.regions] == [0, 1]

    def test_regions_of_the_user(self, processor, image, make_output):
        inputs = processor(
            images=[image, image, image],
            text=["What?", "What is <region>?", "Is <region> on <region>?"],
            boxes=[None, [BOX], [BOX, [1, 1, 90, 90]]],
            padding=True,
            return_tensors="pt",
        )
        output = make_output(inputs["input_ids"], ["one", "two", "three"] * 2, 3)
        for inputs_ in (inputs, dict(inputs)):
            answers = processor.post_process_grounded_generation(output, inputs_, target_sizes=[(480, 640)] * 3)
            # Two answers to each of the three.
            assert [answer.user_region_ids for answer in answers] == [(), (), (0,), (0,), (0, 1), (0, 1)]
        without = {"input_ids": inputs["input_ids"]}
        for answer in processor.post_process_grounded_generation(output, without):
            assert answer.user_region_ids == ()

    def test_regions_of_the_user_beside_samples_without_image(self, processor, image, make_output):
        inputs = processor(
            images=[None, image],
            text=["Hello", "What is <region>?"],
            boxes=[None, [BOX]],
            padding=True,
            return_tensors="pt",
        )
        output = make_output(inputs["input_ids"], ["Hi", "A dog."], 1)
        answers = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])
        assert [answer.user_region_ids for answer in answers] == [(), (0,)]

    def test_fractions_without_target_sizes(self, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt")
        output = make_output(inputs["input_ids"], ["<p>dog</p><roi><r0></roi>"], 1)
        (answer,) = processor.post_process_grounded_generation(output, inputs)
        assert answer.phrases[0].boxes.tolist() == [[0, 0, 0.5, 0.5]]

    def test_several_sequences_per_sample(self, processor, image, make_output):
        inputs = processor(images=[image, image], text=["What?", "Where is it?"], padding=True, return_tensors="pt")
        answers = [f"<p>x</p><roi><r0></roi> {word}" for word in ("one", "two", "three", "four")]
        output = make_output(inputs["input_ids"], answers, 2)
        results = processor.post_process_grounded_generation(output, inputs, target_sizes=[(100, 100), (200, 400)])
        assert [result.text for result in results] == ["x one", "x two", "x three", "x four"]
        widths = [result.phrases[0].boxes[0, 2].item() for result in results]
        assert widths == [50, 50, 200, 200]

    def test_samples_without_image(self, processor, image, make_output):
        inputs = processor(images=[None, image], text=["Hello", "What?"], padding=True, return_tensors="pt")
        output = make_output(inputs["input_ids"], ["Hi", "<p>dog</p><roi><r0></roi>"], 1)
        first, second = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])
        assert (first.text, len(first.regions), first.phrases) == ("Hi", 0, [])
        assert second.phrases[0].boxes.tolist() == [BOX]

    def test_text_only(self, processor, make_output):
        inputs = processor(text="Hello", return_tensors="pt")
        (answer,) = processor.post_process_grounded_generation(make_output(inputs["input_ids"], ["Hi"], 0), inputs)
        assert (answer.text, len(answer.regions)) == ("Hi", 0)

    @pytest.mark.parametrize("with_inputs", [False, True])
    def test_sequences_without_prompt(self, with_inputs, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt") if with_inputs else None
        output = make_output(torch.zeros(0, 0, dtype=torch.long), ["<p>dog</p><roi><r0></roi>"], 1)
        (answer,) = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])
        assert answer.phrases[0].boxes.tolist() == [BOX]

    def test_bare_ids(self, processor):
        with pytest.raises(ValueError, match="return_dict_in_generate=True"):
            processor.post_process_grounded_generation(torch.tensor([[1, 2]]))

    def test_forgotten_inputs(self, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt")
        output = make_output(inputs["input_ids"], ["x"], 1)
        with pytest.raises(ValueError, match="as `inputs`"):
            processor.post_process_grounded_generation(output)

    def test_wrong_number_of_target_sizes(self, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt")
        output = make_output(inputs["input_ids"], ["x"], 1)
        with pytest.raises(ValueError, match="one \\(height, width\\) for each image: got 2 for 1"):
            processor.post_process_grounded_generation(output, inputs, target_sizes=[(1, 1), (1, 1)])

    def test_inputs_of_another_batch(self, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt")
        other = processor(images=[image, image], text=["What?", "What?"], return_tensors="pt")
        output = make_output(inputs["input_ids"], ["x"], 1)
        with pytest.raises(ValueError, match="do not belong together"):
            processor.post_process_grounded_generation(output, other)


# ------------------------------------------------------------------------------------------- both sides of every limit


def test_as_many_boxes_as_slots_fit_and_one_more_does_not(legacy_tokenizer, image):
    processor = GromaProcessor(GromaImageProcessor(), legacy_tokenizer, max_regions=4)
    box = [0, 0, 10, 10]
    inputs = processor(images=image, text="<region> <region> <region> <region>", boxes=[box] * 4, return_tensors="pt")
    assert inputs["refer_boxes"].shape == (1, 4, 4)
    both = {
        "text": "<image><region> <region> <ground_box> <ground_box>",
        "boxes": [box] * 2,
        "ground_boxes": [box] * 2,
    }
    assert processor(images=image, **both, return_tensors="pt")["ground_boxes"].shape == (1, 2, 4)
    with pytest.raises(ValueError, match="Sample 0 has 5 `boxes` .*`max_regions` is 4"):
        processor(images=image, text="<region> " * 5, boxes=[box] * 5)
    with pytest.raises(ValueError, match="Sample 0 has 5 `boxes`"):
        processor(images=image, **{**both, "text": both["text"] + "<ground_box>", "ground_boxes": [box] * 3})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("first", [True, False])
def test_arrays_with_1_3_or_4_channels(channels, first, processor):
    array = np.zeros((30, 20, channels), np.uint8)
    array = np.ascontiguousarray(array.transpose(2, 0, 1)) if first else array
    inputs = processor(images=array, text="<region>", boxes=[[0, 0, 10, 15]], return_tensors="pt")
    assert inputs["refer_boxes"].tolist() == [[[0.25, 0.25, 0.5, 0.5]]]


@pytest.mark.parametrize("channels", [2, 5])
def test_arrays_with_other_numbers_of_channels(channels, processor):
    with pytest.raises(ValueError, match=f"shape \\(30, 20, {channels}\\)"):
        processor(images=np.zeros((30, 20, channels), np.uint8), text="Hi")


@pytest.mark.parametrize("size", [(1, 5), (5, 1)])
def test_images_need_two_pixels_along_both_sides(size, processor):
    with pytest.raises(ValueError, match=f"has {size[0]}x{size[1]} .* too small"):
        processor(images=Image.new("RGB", size), text="Hi")
    assert processor(images=Image.new("RGB", (2, 2)), text="Hi")["pixel_values"] is not None


@pytest.mark.parametrize("with_image", [0, 1])
def test_sequences_with_the_prompt_are_noticed_in_any_row(with_image, processor, image):
    """One row of the batch has no image; without `inputs` the prompts would be read as answers."""
    texts = ["Hi there"] * 2
    images = [None, None]
    images[with_image] = image
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    output = SimpleNamespace(
        sequences=inputs["input_ids"],
        region_boxes=torch.full((2, 1, 4), 0.5),
        region_scores=torch.ones(2, 1),
        region_mask=torch.ones(2, 1, dtype=torch.bool),
    )
    with pytest.raises(ValueError, match="`output.sequences` hold the prompt"):
        processor.post_process_grounded_generation(output)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_proposals_that_are_not_finite_are_left_out(bad, processor):
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, bad, 0.2], [0.2, 0.2, 0.2, 0.2]]])
    proposals = SimpleNamespace(
        boxes=boxes, scores=torch.tensor([[0.9, 0.8, 0.7]]), mask=torch.ones(1, 3, dtype=torch.bool)
    )
    (found,) = processor.post_process_region_proposals(proposals, target_sizes=[(100, 100)])
    torch.testing.assert_close(found.xyxy, torch.tensor([[40.0, 40, 60, 60], [10, 10, 30, 30]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7]))
    assert found.ids == (0, 2), "numbers of the slots, as in the proxy tokens"


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
