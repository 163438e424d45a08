"""The processor: images, texts and boxes to model inputs, saved and loaded."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from transformers_groma import GromaImageProcessor, GromaProcessor
from transformers_groma.models.groma.tokenization_groma import GROMA_CHAT_TEMPLATE
from transformers_groma.questions import GROMA_QUESTIONS

from .chats import BOX, BOX_NORMALIZED, INTRO, SYSTEM, question, text

ORIENTATION_TAG = 0x0112


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
        expected = "Please give a short description of <region>, <region>."
        assert with_boxes["input_ids"] == processor(images=image, text=expected, boxes=[BOX, BOX])["input_ids"]
        without_boxes = processor(images=[image, image])
        assert (
            without_boxes["input_ids"]
            == [processor(images=image, text=GROMA_QUESTIONS.grounded_description)["input_ids"][0]] * 2
        )

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
