"""GLaMM's processor: the original's ids, marks and what they become, saving and loading."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, LlamaTokenizer

from transformers_groma.control_tokens import control_tokens
from transformers_groma.image_inputs import ImageSize
from transformers_groma.models.glamm.chat_template_glamm import GLAMM_CHAT_TEMPLATE, GROUNDING_REQUEST
from transformers_groma.models.glamm.configuration_glamm import GlammConfig
from transformers_groma.models.glamm.image_processing_glamm import GlammImageProcessor
from transformers_groma.models.glamm.processing_glamm import GlammProcessor
from transformers_groma.models.glamm.tokenization_glamm import add_glamm_tokens

from .chats import BOX, BOX_NORMALIZED, IMAGE, image_part, original_form, question, region, text

TYPED = ("{}", "What is {}?", "{} at the head", "at the end {}", "twice {}{}", "nested <{}>", "a\n{} b")


def controls(processor: GlammProcessor, ids) -> list[str]:
    """The control tokens among ids, in order, placeholders of the image left out."""
    added = processor.tokenizer.added_tokens_decoder
    found = [added[index].content for index in torch.as_tensor(ids).tolist() if index in added]
    return [token for token in found if token != processor.image_token]


class TestOriginalIds:
    def test_finished_prompts(self, processor, glamm_text, glamm_train):
        """Written with the original's tokens, `<bbox>` for a region, or with ours."""
        texts = [(glamm_text["train_conversation"], glamm_text["train_ids"])]
        for case in glamm_train.values():
            texts += zip(case["conversations"], case["input_ids"], strict=True)
        assert len(texts) == 9
        for prompt, expected in texts:
            boxes = [BOX] * prompt.count("<bbox>") or None
            for written in (
                prompt,
                prompt.replace("<im_start><image><im_end>", "<image>"),
                prompt.replace("<image>", processor.image_token),
                prompt.replace("<bbox>", "<region>"),
            ):
                inputs = processor(images=IMAGE, text=written, boxes=boxes)
                ids = original_form(processor, inputs["input_ids"][0])
                assert ids == expected[: len(ids)] and set(expected[len(ids) :]) <= {0}
                assert len(inputs["refer_boxes"][0] if boxes else []) == len(boxes or [])

    def test_a_question(self, processor, glamm_text):
        prompt = glamm_text["prompt_one_turn"].replace("interleaved ", "interleaved     ")
        expected = processor(images=IMAGE, text=prompt)["input_ids"]
        asked = "[grounding]Could you please give me a detailed description of the image?"
        assert processor(images=IMAGE, text=asked)["input_ids"] == expected
        assert processor(images=IMAGE)["input_ids"] == expected  # nobody wrote a question

    def test_one_placeholder_for_each_feature(self, processor):
        ids = processor(images=IMAGE, text="Hi")["input_ids"][0]
        start = ids.index(processor.image_token_id)
        assert ids[start : start + 576] == [323] * 576 and ids.count(323) == 576
        assert processor.tokenizer.convert_ids_to_tokens([ids[start - 1], ids[start + 576]]) == [
            "<im_start>",
            "<im_end>",
        ]


class TestCall:
    def test_outputs(self, any_processor):
        inputs = any_processor(images=IMAGE, text="What is <region>?", boxes=[BOX], return_tensors="pt")
        assert {name: (tuple(value.shape), value.dtype) for name, value in inputs.items() if "ids" not in name} == {
            "attention_mask": ((1, inputs["input_ids"].shape[1]), torch.int64),
            "pixel_values": ((1, 3, 336, 336), torch.float32),
            "grounding_pixel_values": ((1, 3, 64, 64), torch.float32),
            "grounding_sizes": ((1, 2), torch.int64),
            "refer_boxes": ((1, 1, 4), torch.float32),
        }
        assert inputs["refer_boxes"].tolist() == [[BOX_NORMALIZED]]
        assert inputs["grounding_sizes"].tolist() == [[48, 64]]
        assert controls(any_processor, inputs["input_ids"][0])[-1] == "<bbox>"

    def test_boxes_are_those_of_the_whole_image_also_where_its_centre_is_cut_out(self, glamm_tokenizer):
        image, box = Image.new("RGB", (300, 100)), [[0, 0, 30, 50]]
        for crop in (False, True):
            image_processor = GlammImageProcessor(grounding_size=64, do_center_crop=crop)
            processor = GlammProcessor(image_processor, glamm_tokenizer, image_token="<point>")
            inputs = processor(images=image, text="<region>", boxes=box, return_tensors="pt")
            torch.testing.assert_close(inputs["refer_boxes"], torch.tensor([[[0.05, 0.25, 0.1, 0.5]]]))

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_batch_is_its_samples(self, any_processor, side):
        images = [IMAGE, None, IMAGE.rotate(90, expand=True), IMAGE]
        texts = ["What is <region>?", "Hello", "Compare <region> and <region>.", "[grounding]Describe it."]
        boxes = [[BOX], None, [[0, 0, 48, 64], [240, 320, 480, 640]], []]
        arguments = {"padding": True, "padding_side": side, "return_tensors": "pt"}
        batch = any_processor(images=images, text=texts, boxes=boxes, **arguments)
        assert batch["refer_boxes"].shape == (3, 2, 4)
        row = 0
        for index in range(4):
            single = any_processor(images=images[index], text=texts[index], boxes=boxes[index], return_tensors="pt")
            mask = batch["attention_mask"][index].bool()
            assert batch["input_ids"][index][mask].tolist() == single["input_ids"][0].tolist()
            assert mask[-1 if side == "left" else 0]
            if images[index] is None:
                assert set(single) == {"input_ids", "attention_mask"}
                continue
            for name in ("pixel_values", "grounding_pixel_values", "grounding_sizes"):
                torch.testing.assert_close(batch[name][row], single[name][0])
            refer_boxes = single.get("refer_boxes", torch.zeros(1, 0, 4))[0]
            torch.testing.assert_close(batch["refer_boxes"][row, : len(refer_boxes)], refer_boxes)
            assert not batch["refer_boxes"][row, len(refer_boxes) :].any()
            row += 1

    def test_settings_of_the_tokenizer_and_of_images(self, any_processor):
        """Flat, or in a dictionary each; a call's own are stronger than the components'."""
        given = {"images": IMAGE, "text": "Hi", "return_tensors": "pt"}
        any_processor.image_processor.do_normalize = False
        plain = any_processor(**given)["pixel_values"]
        assert (plain == 1).all()
        for how in (
            {"rescale_factor": -1 / 255, "padding": "max_length", "max_length": 900},
            {
                "images_kwargs": {"rescale_factor": -1 / 255},
                "text_kwargs": {"padding": "max_length", "max_length": 900},
            },
        ):
            inputs = any_processor(**given, **how)
            assert (inputs["pixel_values"] == -1).all() and inputs["input_ids"].shape == (1, 900)
            height, width = inputs["grounding_sizes"][0].tolist()
            assert (inputs["grounding_pixel_values"][0, :, :height, :width] == -1).all()
        with pytest.raises(ValueError, match="do_rescale"):
            any_processor(**given, do_rescale=True, images_kwargs={"do_rescale": True})

    def test_it_pads_on_the_left_by_itself(self, processor):
        inputs = processor(images=[IMAGE, IMAGE], text=["Hi", "What is there?"], padding=True, return_tensors="pt")
        assert inputs["attention_mask"][0, 0] == 0 and inputs["attention_mask"][:, -1].all()

    def test_regions_of_every_kind(self, any_processor):
        mask = np.zeros((480, 640), bool)
        mask[120:240, 64:128] = True
        regions = [{"box": BOX}, {"point": [320, 240]}, {"mask": mask}]
        inputs = any_processor(images=IMAGE, text="<region> <region> <region>", regions=regions, return_tensors="pt")
        torch.testing.assert_close(inputs["refer_boxes"][0, 0], torch.tensor(BOX_NORMALIZED))
        torch.testing.assert_close(inputs["refer_boxes"][0, 2], torch.tensor([0.15, 0.375, 0.1, 0.25]))
        assert inputs["refer_points"].shape == (1, 3, 1, 2) and inputs["refer_points"][0, 1].tolist() == [[0.5, 0.5]]
        assert inputs["refer_point_labels"][0, :, 0].tolist() == [-1, 1, -1]

    @pytest.mark.parametrize(
        ("box", "how"),
        [
            ([0, 0, 320, 240], {"box_format": "xywh"}),
            ([160, 120, 320, 240], {"box_format": "cxcywh"}),
            ([0, 0, 0.5, 0.5], {"normalized": True}),
        ],
    )
    def test_box_formats(self, box, how, any_processor):
        inputs = any_processor(images=IMAGE, text="<region>?", boxes=[box], return_tensors="pt", **how)
        assert inputs["refer_boxes"].tolist() == [[BOX_NORMALIZED]]

    def test_an_image_that_the_model_has_seen(self, any_processor):
        given = {"text": "What is <region>?", "boxes": [BOX]}
        inputs = any_processor(images=ImageSize(480, 640), **given)
        expected = any_processor(images=IMAGE, **given)
        assert set(inputs) == {"input_ids", "attention_mask", "refer_boxes"}
        assert inputs["input_ids"] == expected["input_ids"]
        assert np.array_equal(inputs["refer_boxes"], expected["refer_boxes"])

    @pytest.mark.parametrize(("return_tensors", "kind"), [("pt", torch.Tensor), ("np", np.ndarray), (None, list)])
    def test_return_tensors(self, return_tensors, kind, any_processor):
        inputs = any_processor(images=IMAGE, boxes=[BOX], return_tensors=return_tensors)
        assert all(isinstance(value, kind) for value in inputs.values())

    def test_casting_leaves_boxes_and_sizes(self, any_processor):
        inputs = any_processor(images=IMAGE, boxes=[BOX], return_tensors="pt").to("cpu", torch.bfloat16)
        assert inputs["grounding_pixel_values"].dtype == inputs["pixel_values"].dtype == torch.bfloat16
        assert inputs["refer_boxes"].dtype == torch.float32 and inputs["grounding_sizes"].dtype == torch.int64

    def test_every_sequence_has_one_bos(self, processor):
        texts = ["plain question", "text only", "<s>USER: <image> q ASSISTANT:", "Image: <image>."]
        inputs = processor(images=[IMAGE, None, IMAGE, IMAGE], text=texts, padding=True, return_tensors="pt")
        assert (inputs["input_ids"] == processor.tokenizer.bos_token_id).sum(dim=1).tolist() == [1, 1, 1, 1]

    def test_mm_token_type_ids_and_counts(self, any_processor):
        inputs = any_processor(images=IMAGE, text="What?", return_mm_token_type_ids=True, return_tensors="pt")
        counts = any_processor._get_num_multimodal_tokens(image_sizes=[(480, 640), (30, 40)])["num_image_tokens"]
        assert counts == [int(inputs["mm_token_type_ids"].sum())] * 2 == [576] * 2

    def test_lengths_are_counted_without_an_image(self, any_processor):
        for asked in ("What is it?", "</s> [SEG] hi", "[grounding] <p>", "<image> <p> a </p> [SEG]"):
            assert any_processor.count_tokens(asked) == len(any_processor(images=IMAGE, text=asked)["input_ids"][0])
        expected = len(any_processor(images=IMAGE, boxes=[BOX] * 2)["input_ids"][0])
        assert any_processor.count_tokens(num_boxes=2) == expected

    def test_replacement_offsets(self, any_processor):
        mark = any_processor.image_token
        prompt = f"a <region> b <im_start> {mark} c <region>"
        (expanded,), (offsets,) = any_processor.get_text_with_replacements([prompt], ["<im_start>II<im_end>"])
        assert expanded == "a <bbox> b <im_start>II<im_end> c <bbox>"
        assert [offset["type"] for offset in offsets] == ["region", "image", "region"]
        for offset in offsets:
            assert prompt[slice(*offset["span"])] == offset["text"]
            assert expanded[slice(*offset["new_span"])] == offset["replacement"]

    def test_arguments_are_not_changed(self, any_processor):
        images, texts, boxes = [IMAGE, None], ["[grounding]What is <region>?", "Hello"], [[list(BOX)], None]
        messages = question(image_part(), text("[grounding]What is "), region(list(BOX)), text("? "))
        before = copy.deepcopy((texts, boxes, messages))
        any_processor(images=images, text=texts, boxes=boxes, padding=True, return_tensors="pt")
        any_processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        assert images[0] is IMAGE and (texts, boxes) == before[:2]
        assert messages[0]["content"][1:] == before[2][0]["content"][1:]


class TestTypedTokens:
    """What people type reaches the model as text: none of the ids, all of the words."""

    @pytest.mark.parametrize("typed", TYPED)
    def test_every_token_is_text(self, any_processor, typed):
        expected = controls(any_processor, any_processor(images=IMAGE, text="What is it?")["input_ids"][0])
        tokens = {*control_tokens(any_processor.tokenizer, any_processor.chat_template), "<image>"}
        assert {"[SEG]", "<p>", "</p>", "<bbox>", "<im_start>", "<im_end>", any_processor.image_token} < tokens
        assert {"</s>", "<s>", "USER:", "ASSISTANT:"} < tokens
        for token in sorted(tokens):
            asked = typed.format(token, token)
            inputs = any_processor(images=IMAGE, text=asked, parse_tokens=False)
            ids = inputs["input_ids"][0]
            assert controls(any_processor, ids) == expected, asked
            assert ids.count(any_processor.image_token_id) == 576
            words = any_processor.tokenizer.decode([i for i in ids if i != any_processor.image_token_id])
            assert asked.strip() in words, asked

    def test_a_whole_prompt_is_parsed(self, any_processor):
        prompt = "<image> <p> a dog </p> [SEG]"
        for parse_tokens in (None, True):
            ids = any_processor(images=IMAGE, text=prompt, parse_tokens=parse_tokens)["input_ids"][0]
            assert controls(any_processor, ids)[-3:] == ["<p>", "</p>", "[SEG]"]
        ids = any_processor(images=IMAGE, text=prompt, parse_tokens=False)["input_ids"][0]
        assert "[SEG]" not in controls(any_processor, ids)

    def test_a_region_mark_stays_one_and_the_token_that_it_becomes_is_text(self, any_processor):
        ids = any_processor(images=IMAGE, text="</s> What is <region>? <bbox>", boxes=[BOX])["input_ids"][0]
        assert controls(any_processor, ids).count("<bbox>") == 1
        with pytest.raises(ValueError, match=r"0 <region> marks, but `boxes` has 1.*Got 'What is <bbox>\?'"):
            any_processor(images=IMAGE, text="What is <bbox>?", boxes=[BOX])

    def test_in_a_conversation(self, any_processor):
        """In every kind of part; the answers' own markup stays."""
        messages = [
            *question(image_part(), text("[grounding]Is <ima"), text("ge> </s>"), region(BOX), text("<region> [SEG]")),
            {"role": "assistant", "content": "<p> a dog </p> [SEG] </s><bbox><image>"},
            *question({"type": "phrase", "text": "the </p><bbox>"}, text("?")),
        ]
        inputs = any_processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        ids = inputs["input_ids"][0]
        found = controls(any_processor, ids)
        assert found[-6:] == ["<im_end>", "<bbox>", "<p>", "</p>", "[SEG]", "</s>"]
        assert ids.count(any_processor.image_token_id) == 576
        words = any_processor.tokenizer.decode(ids)
        for typed in ("Is <image> </s>", "<region> [SEG]", "</s><bbox><image>", "the </p><bbox>"):
            assert typed in words


class TestSaveAndLoad:
    @pytest.mark.parametrize("load", [GlammProcessor.from_pretrained, AutoProcessor.from_pretrained])
    @pytest.mark.parametrize("with_config", [False, True])
    def test_round_trip_of_a_converted_one(self, load, with_config, processor, glamm_text, glamm_train, tmp_path):
        """Twice, by itself and beside a model's configuration, which has a say in the choice of a tokenizer."""
        for name in ("once", "twice"):
            processor.save_pretrained(tmp_path / name)
            if with_config:
                GlammConfig().save_pretrained(tmp_path / name)
            again = load(tmp_path / name)
        assert type(again) is GlammProcessor
        assert again.to_dict() == processor.to_dict() and again.chat_template == processor.chat_template
        assert (again.image_token, again.image_token_id, again.num_image_tokens) == ("<point>", 323, 576)
        given = {"images": IMAGE, "text": "[grounding]What is <region>?", "boxes": [BOX], "return_tensors": "pt"}
        for name, value in again(**given).items():
            torch.testing.assert_close(value, processor(**given)[name])
        for case in glamm_train.values():
            for conversation, expected in zip(case["conversations"], case["input_ids"], strict=True):
                boxes = [BOX] * conversation.count("<bbox>") or None
                ids = original_form(again, again(images=IMAGE, text=conversation, boxes=boxes)["input_ids"][0])
                assert ids == expected[: len(ids)]
        for tokenizer in (again.tokenizer, AutoTokenizer.from_pretrained(tmp_path / "twice")):
            for case in glamm_text["cases"][1:]:  # the first has an image
                assert tokenizer(case["text"])["input_ids"] == case["ids"]

    def test_round_trip_of_a_new_one(self, tmp_path):
        tokenizer = LlamaTokenizer()
        add_glamm_tokens(tokenizer, "<img>")
        image_processor = GlammImageProcessor(size=28, grounding_size=32)
        processor = GlammProcessor(image_processor, tokenizer, num_image_tokens=4, image_token="<img>")
        processor.save_pretrained(tmp_path)
        assert (tmp_path / "chat_template.jinja").read_text() == GLAMM_CHAT_TEMPLATE.replace("<image>", "<img>")
        again = GlammProcessor.from_pretrained(tmp_path)
        assert (again.image_token, again.num_image_tokens) == ("<img>", 4)
        assert again(images=IMAGE, text="Hi")["input_ids"] == processor(images=IMAGE, text="Hi")["input_ids"]
        assert again(images=IMAGE, text="Hi")["input_ids"][0].count(again.image_token_id) == 4

    def test_the_request_is_no_part_of_a_template(self):
        assert GROUNDING_REQUEST not in GLAMM_CHAT_TEMPLATE
