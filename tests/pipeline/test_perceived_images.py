"""Perceived images: the same answers as from pixels, one look for many prompts, a bounded store."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from transformers_groma import ImageGroundingPipeline
from transformers_groma.boxes import box_iou
from transformers_groma.image_inputs import ImageSize
from transformers_groma.models.processing_regions import REFER_INPUTS
from transformers_groma.perceived_images import PerceivedImages, image_key, perceive, prompt_inputs
from transformers_groma.shapes.scenes import make_scene

TINY = "hub_configs/groma-tiny"


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(TINY)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(TINY)


@pytest.fixture(scope="module")
def scenes():
    # Of different sizes, so that a mix-up of sizes moves boxes.
    return [make_scene(0, "test", 3, 448), make_scene(0, "test", 5, 320)]


@pytest.fixture(scope="module")
def images(scenes):
    return [scene.draw() for scene in scenes]


@pytest.fixture(scope="module")
def perceived(model, processor, images):
    return perceive(model, processor, images)


def ask(image, *parts):
    return [{"role": "user", "content": [{"type": "image", "image": image}, *parts]}]


def text(words):
    return {"type": "text", "text": words}


@pytest.fixture(scope="module")
def conversations(scenes, images):
    region = {"type": "region", "box": list(scenes[0].boxes_xyxy[0])}
    return [
        ask(images[0], text("What is "), region, text("?")),
        ask(images[1], text("[grounding]Please describe the image in detail.")),
    ]


def from_pixels(processor, conversations):
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True, "padding_side": "left"},
    )


def answers(model, processor, inputs, sizes):
    output = model.generate(**inputs, max_new_tokens=60, return_dict_in_generate=True)
    return processor.post_process_grounded_generation(output, inputs, target_sizes=sizes)


def test_prompts_and_answers_equal_those_from_pixels(model, processor, conversations, perceived):
    expected = from_pixels(processor, conversations)
    inputs = prompt_inputs(model, processor, conversations, perceived)
    assert "pixel_values" not in inputs
    for name in ("input_ids", "attention_mask", "refer_boxes"):
        assert torch.equal(inputs[name], expected[name]), name
    sizes = [(448, 448), (320, 320)]
    found = answers(model, processor, inputs, sizes)
    wanted = answers(model, processor, expected, sizes)
    assert [answer.to_dict() for answer in found] == [answer.to_dict() for answer in wanted]
    assert found[1].phrases


def test_clicks_go_to_the_model_as_from_pixels(model, processor, scenes, images, perceived):
    x1, y1, x2, y2 = scenes[0].boxes_xyxy[0]
    click = {"type": "region", "points": [[(x1 + x2) / 2, (y1 + y2) / 2], [1, 1]], "labels": [1, 0]}
    conversations = [
        ask(images[0], text("What is "), click, text("?")),
        ask(images[1], text("What is "), {"type": "region", "box": list(scenes[1].boxes_xyxy[0])}, text("?")),
    ]
    expected = from_pixels(processor, conversations)
    inputs = prompt_inputs(model, processor, conversations, perceived)
    for name in REFER_INPUTS:
        assert torch.equal(inputs[name], expected[name]), name
    sizes = [(448, 448), (320, 320)]
    found = answers(model, processor, inputs, sizes)
    assert [a.to_dict() for a in found] == [a.to_dict() for a in answers(model, processor, expected, sizes)]
    (box,) = found[0].regions.with_ids(found[0].user_region_ids).xyxy
    assert box_iou(box[None], torch.tensor([[x1, y1, x2, y2]], dtype=box.dtype)).item() > 0.5


def test_no_image_is_looked_at_again(model, processor, conversations, perceived, monkeypatch):
    def look(*args, **kwargs):
        raise AssertionError("the image was encoded again")

    monkeypatch.setattr(model.model.vision_tower, "forward", look)
    inputs = prompt_inputs(model, processor, conversations, perceived)
    model.generate(**inputs, max_new_tokens=2)


def test_rows_without_an_image(model, processor, conversations, perceived):
    plain = [{"role": "user", "content": "Hello"}]
    inputs = prompt_inputs(model, processor, [plain, conversations[1]], [None, perceived[1]])
    assert len(inputs["mm_encoder_outputs"]["image"].pooler_output) == 1
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 2
    only_text = prompt_inputs(model, processor, [plain], [None])
    assert set(only_text) == {"input_ids", "attention_mask"}


def test_image_parts_and_images_must_agree(model, processor, conversations, perceived):
    with pytest.raises(ValueError, match="Conversation 0 has 1 image part and no image"):
        prompt_inputs(model, processor, [conversations[0]], [None])
    with pytest.raises(ValueError, match="Conversation 1 has 0 image parts and an image"):
        prompt_inputs(
            model, processor, [conversations[0], [{"role": "user", "content": "Hello"}]], [perceived[0], perceived[1]]
        )
    with pytest.raises(ValueError, match="outside"):
        box = {"type": "region", "box": [400, 400, 900, 900]}
        prompt_inputs(model, processor, [ask(None, text("What is "), box)], [perceived[0]])


def test_split_and_stack(model, processor, images, perceived):
    pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.get_image_features(pixels, return_dict=True)
        boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2]]] * 2)
        for_boxes = model.get_image_features(pixels, boxes, return_dict=True)
    again = type(features).stack([image.features for image in perceived])
    assert torch.equal(again.region_boxes, features.region_boxes)
    assert all(torch.equal(a, b) for a, b in zip(again.pooler_output, features.pooler_output, strict=True))
    # Splitting copies: a kept image does not keep its batch.
    one = features.split()[0]
    assert one.region_boxes.untyped_storage().nbytes() == one.region_boxes.nbytes
    assert one.hidden_states is None
    with pytest.raises(ValueError, match="were computed for `refer_boxes`"):
        for_boxes.split()


def test_perceiving_nothing(model, processor):
    assert perceive(model, processor, []) == []


def test_sizes_in_place_of_images(processor):
    size = ImageSize(480, 640)
    inputs = processor(images=size, text="What is <region>?", boxes=[[0, 0, 320, 240]], return_tensors="pt")
    with_pixels = processor(
        images=Image.new("RGB", (640, 480)), text="What is <region>?", boxes=[[0, 0, 320, 240]], return_tensors="pt"
    )
    assert torch.equal(inputs["input_ids"], with_pixels["input_ids"])
    assert torch.equal(inputs["refer_boxes"], with_pixels["refer_boxes"])
    assert "pixel_values" not in inputs
    with pytest.raises(ValueError, match="mixes images and `ImageSize`s"):
        processor(images=[size, Image.new("RGB", (64, 48))], text=["a", "b"], padding=True)
    with pytest.raises(ValueError, match="1x480"):
        processor(images=ImageSize(480, 1), text="What is this?")
    hostile = {"text": "What does <image> mean in </s>?", "parse_tokens": False, "return_tensors": "pt"}
    expected = processor(images=Image.new("RGB", (640, 480)), **hostile)["input_ids"]
    assert torch.equal(processor(images=size, **hostile)["input_ids"], expected)


def test_keys_tell_images_apart():
    red = Image.new("RGB", (4, 2), "red")
    assert image_key(red) == image_key(red.copy())
    assert image_key(red) == image_key(red.convert("RGBA"))
    assert image_key(red) != image_key(Image.new("RGB", (4, 2), "blue"))
    assert image_key(red) != image_key(Image.new("RGB", (2, 4), "red"))
    turned = Image.new("RGB", (2, 4), "red")
    turned.getexif()[0x0112] = 6
    assert image_key(turned) == image_key(red)


def test_the_store_drops_what_was_not_used_for_longest(perceived):
    store = PerceivedImages(2)
    store.put("a", perceived[0])
    store.put("b", perceived[1])
    assert store.get("a") is perceived[0]
    store.put("c", perceived[1])
    assert store.get("b") is None and store.get("a") is perceived[0] and len(store) == 2
    nothing = PerceivedImages(0)
    nothing.put("a", perceived[0])
    assert nothing.get("a") is None and len(nothing) == 0
    with pytest.raises(ValueError, match="`capacity` must not be negative, got -1"):
        PerceivedImages(-1)


def test_maps_of_regions_and_masks_are_kept_once(masking_pipe, images):
    """The mask decoder reads the region encoder's three maps and one more."""
    size = masking_pipe.processor.image_processor.size["height"]
    whole = masking_pipe.model.get_image_features(torch.randn(2, 3, size, size), return_dict=True)
    features = whole.split()
    for one in (*features, type(whole).stack(features)):
        kept = {id(maps) for maps in (*one.region_feature_maps, *one.mask_feature_maps)}
        assert len(one.region_feature_maps) == 3 and len(one.mask_feature_maps) == len(kept) == 4
    again = type(whole).stack(features)
    for name in ("region_feature_maps", "mask_feature_maps"):
        for before, after in zip(getattr(whole, name), getattr(again, name), strict=True):
            assert torch.equal(before, after)
    assert torch.equal(again.pixel_values, whole.pixel_values)
    slots = torch.tensor([[0, 1], [2, -1]])
    expected, masks = (masking_pipe.model.segment(seen, slots=slots) for seen in (whole, again))
    torch.testing.assert_close(masks.logits, expected.logits)


class TestFusedMaps:
    """Kept for later regions, which then cost no convolutions of whole maps; numbers are the same."""

    @pytest.fixture
    def fusions(self, model, monkeypatch):
        """Grows with every call that fuses maps."""
        calls, fuse = [], model.model.region_encoder.fuse_feature_maps
        monkeypatch.setattr(
            model.model.region_encoder, "fuse_feature_maps", lambda maps: calls.append(len(maps)) or fuse(maps)
        )
        return calls

    def test_regions_of_a_later_prompt(self, model, processor, images, fusions):
        boxes = torch.tensor([[[0.3, 0.4, 0.2, 0.2]], [[0.6, 0.5, 0.2, 0.3]]])
        stack = type(perceive(model, processor, images[:1])[0].features).stack
        found = {}
        for keeps in (False, True):
            seen = [image.features for image in perceive(model, processor, images, keep_fused_maps=keeps)]
            assert all((one.fused_region_maps is not None) == keeps for one in seen)
            fusions.clear()
            found[keeps] = model.encode_regions(stack(seen), boxes)
            assert len(fusions) == (0 if keeps else 1)
        for row in range(2):
            torch.testing.assert_close(found[True].pooler_output[row], found[False].pooler_output[row])
        # Beside an image whose maps were not kept they are made again.
        mixed = [perceive(model, processor, [image], keep_fused_maps=image is images[0])[0] for image in images]
        again = model.encode_regions(stack([image.features for image in mixed]), boxes)
        torch.testing.assert_close(again.pooler_output[1], found[True].pooler_output[1])

    def test_a_chat_fuses_once(self, model, processor, images, scenes, fusions):
        groma = ImageGroundingPipeline(model, processor=processor, task="image-grounding")
        chat = groma.chat(images[0])
        for boxes in (None, scenes[0].boxes_xyxy[:1], [[5, 9, 100, 80]], [[1, 2, 50, 60], [30, 40, 90, 99]]):
            chat.ask("What is this?", boxes=boxes, max_new_tokens=2)
        assert len(fusions) == 1

    def test_a_question_about_a_region_fuses_once(self, model, processor, images, fusions):
        groma = ImageGroundingPipeline(model, processor=processor, task="image-grounding")
        groma.ask(images[0], "What is this?", boxes=[[5, 9, 100, 80]], max_new_tokens=2)
        assert len(fusions) == 1
        list(groma.ask(images[0], "What is this?", boxes=[[5, 9, 100, 80]], max_new_tokens=2, stream=True))
        assert len(fusions) == 2
