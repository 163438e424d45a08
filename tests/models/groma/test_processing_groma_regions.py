"""Clicks, scribbles and masks in the processor: questions, conversations and later turns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.boxes import box_iou
from transformers_groma.exact_boxes import BOX_INPUTS
from transformers_groma.image_inputs import ImageSize
from transformers_groma.masks import mask_to_rle
from transformers_groma.questions import GROMA_QUESTIONS
from transformers_groma.regions import Regions

from .chats import BOX, BOX_NORMALIZED, question, text

REPOSITORY = Path(__file__).parents[3]
# Of the image of 640x480.
CLICK = {"point": [320, 120]}
PIXEL = [320.5 / 640, 120.5 / 480, 1 / 640, 1 / 480]
MASK = np.zeros((480, 640), bool)
MASK[:240, :320] = True
POINT_INPUTS = {"refer_points", "refer_point_labels", "refer_ambiguity"}


@pytest.fixture(scope="module")
def tiny(tiny_dir) -> GromaProcessor:
    return GromaProcessor.from_pretrained(tiny_dir)


def assert_same(inputs, expected):
    assert set(inputs) == set(expected)
    for name in expected:
        assert inputs[name].dtype == expected[name].dtype and torch.equal(inputs[name], expected[name]), name


@pytest.mark.parametrize(
    "region",
    [BOX, {"box": BOX}, Regions([BOX]), MASK, {"mask": MASK}, {"mask": mask_to_rle(MASK)}, {"mask": MASK[::2, ::2]}],
)
def test_boxes_and_masks_give_what_boxes_give(region, processor, image):
    expected = processor(image, "What is <region>?", boxes=[BOX], return_tensors="pt")
    assert_same(processor(image, "What is <region>?", regions=[region], return_tensors="pt"), expected)


def test_a_click(processor, image):
    inputs = processor(image, "What is <region>?", regions=[CLICK], return_tensors="pt")
    boxes = processor(image, "What is <region>?", boxes=[BOX], return_tensors="pt")
    assert set(inputs) == {*boxes, *POINT_INPUTS}
    assert torch.equal(inputs["input_ids"], boxes["input_ids"])  # the same marks, whatever the region is given by
    assert_close(inputs["refer_boxes"], torch.tensor([[PIXEL]]))
    assert inputs["refer_points"].tolist() == [[[[0.5, 0.25]]]]
    assert inputs["refer_point_labels"].tolist() == [[[1]]] and inputs["refer_ambiguity"].tolist() == [[-1]]
    assert inputs["refer_point_labels"].dtype == inputs["refer_ambiguity"].dtype == torch.int64


def test_regions_of_all_kinds_in_one_question(processor, image):
    regions = [
        BOX,
        {"points": [[320, 120], [1, 2]], "labels": [1, 0], "ambiguity": "part"},
        MASK,
        {"scribble": [[64, 240], [71, 240]]},
    ]
    question = "Compare <region>, <region>, <region> and <region>."
    inputs = processor(image, question, regions=regions, return_tensors="pt")
    scribbled = [64.5 / 640, 240.5 / 480, 1 / 640, 1 / 480]
    assert_close(inputs["refer_boxes"], torch.tensor([[BOX_NORMALIZED, PIXEL, BOX_NORMALIZED, scribbled]]))
    assert inputs["refer_points"].shape == (1, 4, 8, 2)
    assert inputs["refer_point_labels"][0, 1].tolist() == [1, 0, -1, -1, -1, -1, -1, -1]
    assert (inputs["refer_point_labels"][0, [0, 2]] == -1).all() and (inputs["refer_point_labels"][0, 3] == 1).all()
    assert inputs["refer_ambiguity"].tolist() == [[-1, 0, -1, -1]]


def test_a_batch_is_its_samples(processor, image):
    images = [image, None, image.rotate(90, expand=True), image]
    texts = ["What is <region>?", "Hello", "Compare <region> and <region>.", "[grounding]Describe it."]
    regions = [[CLICK], None, [[0, 0, 48, 64], {"points": [[240, 320], [9, 9]], "labels": [1, 0]}], []]
    batch = processor(images, texts, regions=regions, padding=True, return_tensors="pt")
    row = 0
    for index, of_sample in enumerate(regions):
        single = processor(images[index], texts[index], regions=of_sample, return_tensors="pt")
        if images[index] is None:
            continue
        for name in single:
            if name.startswith("refer"):
                shape = single[name].shape[1:]
                assert_close(batch[name][row][tuple(map(slice, shape))], single[name][0])
        row += 1
    assert batch["refer_points"].shape == (3, 2, 2, 2)
    assert (batch["refer_point_labels"][2] == -1).all() and (batch["refer_ambiguity"] == -1).all()


@pytest.mark.parametrize("tensor_type", [None, "np", "pt"])
def test_every_tensor_type(tensor_type, processor, image):
    inputs = processor(image, "What is <region>?", regions=[CLICK], return_tensors=tensor_type)
    points = inputs["refer_points"]
    assert type(points) is {None: list, "np": np.ndarray, "pt": torch.Tensor}[tensor_type]
    assert np.array(points).tolist() == [[[[0.5, 0.25]]]]


def test_points_are_moved_and_not_cast(processor, image):
    inputs = processor(image, "What is <region>?", regions=[CLICK], return_tensors="pt").to("cpu", torch.bfloat16)
    assert inputs["pixel_values"].dtype == torch.bfloat16
    assert inputs["refer_points"].dtype == inputs["refer_boxes"].dtype == torch.float32
    assert inputs["refer_point_labels"].dtype == torch.int64
    assert "refer_points" in BOX_INPUTS  # wrappers that cast get their bits


def test_images_that_were_seen_before(processor):
    inputs = processor(ImageSize(480, 640), "What is <region>?", regions=[CLICK], return_tensors="pt")
    assert "pixel_values" not in inputs and inputs["refer_points"].tolist() == [[[[0.5, 0.25]]]]


def test_the_default_question_asks_for_each_region(processor, image):
    inputs = processor(image, regions=[CLICK, BOX, {"mask": MASK}], return_tensors="pt")
    assert_same(inputs, processor(image, processor_text(3), regions=[CLICK, BOX, MASK], return_tensors="pt"))


def processor_text(count):
    return GROMA_QUESTIONS.default(count)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"boxes": [BOX]}, "`boxes` and `regions` were both given"),
        (
            {"regions": [CLICK, CLICK]},
            "1 <region> mark, but `regions` has 2 regions for it. .* for each region",
        ),
        ({"regions": []}, "1 <region> mark, but `regions` has 0 regions"),
        ({"regions": CLICK}, "`regions` must be a list of regions"),
        ({"regions": [{"point": [900, 1]}]}, r"`regions\[0\]\['point'\]` = \[900, 1\] is outside of the 640x480"),
        ({"regions": [[CLICK], [CLICK]]}, "regions for 2 samples, but there are 1"),
        ({"regions": [CLICK] * 101, "text": "<region>" * 101}, r"has 101 `regions` \(and `ground_boxes`\)"),
        ({"images": None, "text": "What is <region>?"}, "`regions` was given, but sample 0 has no image"),
    ],
)
def test_wrong_regions_are_named(arguments, words, processor, image):
    with pytest.raises(ValueError, match=words):
        processor(**{"images": image, "text": "What is <region>?", "regions": [CLICK], **arguments})


def test_a_click_asks_about_the_object_under_it(tiny_dir):
    """From the click to the answer: what is right of the striped star of the documentation's scene."""
    scene = Image.open(REPOSITORY / "docs" / "images" / "scene.png")
    processor = GromaProcessor.from_pretrained(tiny_dir)
    model = GromaForConditionalGeneration.from_pretrained(tiny_dir).eval()
    answers = []
    for regions in ([[278, 338, 345, 405]], [{"point": [312, 372]}], [{"scribble": [[300, 372], [326, 374]]}]):
        inputs = processor(scene, "What is right of <region>?", regions=regions, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=16, return_dict_in_generate=True)
        answer = processor.post_process_grounded_generation(output, inputs, [(448, 448)])[0]
        answers.append((answer.text, answer.user_region_ids))
        box = torch.tensor([[278.0, 338, 345, 405]])
        assert box_iou(answer.regions.with_ids(answer.user_region_ids).xyxy, box).item() > 0.8
    assert answers == [("A small black star.", (0,))] * 3


def prepared(processor, parts, **kwargs):
    return processor.apply_chat_template(
        question(*parts), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
    )


class TestParts:
    @pytest.mark.parametrize(
        "region",
        [
            *[
                CLICK,
                {"point": np.array([320, 120])},
                {"points": torch.tensor([[320, 120]])},
                {"scribble": [[320, 120]]},
            ],
            *[{"points": [[320, 120], [9, 9]], "labels": np.array([1, 0])}, {**CLICK, "ambiguity": "object"}],
            *[{"mask": MASK}, {"mask": torch.tensor(MASK)}, {"mask": mask_to_rle(MASK)}],
        ],
    )
    def test_they_are_what_the_question_is(self, region, processor, image):
        parts = [{"type": "image", "image": image}, text("What is "), {"type": "region", **region}, text("?")]
        # Datasets fill the keys that a part lacks with None.
        filled = dict.fromkeys(("text", "image", "box", "point", "points", "labels", "scribble", "mask", "ambiguity"))
        expected = processor(image, "What is <region>?", regions=[region], return_tensors="pt")
        assert_same(prepared(processor, parts), expected)
        assert_same(prepared(processor, [*parts[:2], {**filled, **parts[2]}, parts[3]]), expected)

    def test_boxes_beside_clicks_and_answers(self, processor, image):
        parts = [
            {"type": "image", "image": image},
            text("Compare "),
            {"type": "region", "box": BOX},
            text(" and "),
            {"type": "region", **CLICK},
        ]
        inputs = prepared(processor, parts)
        expected = processor(image, "Compare <region> and <region>", regions=[BOX, CLICK], return_tensors="pt")
        assert_same(inputs, expected)

    def test_fractions(self, processor, image):
        parts = [{"type": "image", "image": image}, {"type": "region", "point": [0.5, 0.25]}]
        inputs = prepared(processor, parts, processor_kwargs={"normalized": True})
        assert inputs["refer_points"].tolist() == [[[[0.5, 0.25]]]]

    def test_regions_for_marks_in_text(self, processor, image):
        parts = [{"type": "image", "image": image}, text("What is <region>?")]
        inputs = prepared(processor, parts, processor_kwargs={"regions": [CLICK]})
        assert_same(inputs, processor(image, "What is <region>?", regions=[CLICK], return_tensors="pt"))

    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("boxes", {"type": "region", "box": BOX}),
            ("boxes", {"type": "region", **CLICK}),
            ("regions", {"type": "region", "box": BOX}),
            ("ground_boxes", {"type": "phrase", "text": "it", "boxes": [BOX]}),
        ],
    )
    def test_regions_in_two_places_are_refused(self, name, part, processor, image):
        parts = [{"type": "image", "image": image}, part, text(" and <region>")]
        with pytest.raises(
            ValueError, match=f"`processor_kwargs` has `{name}`, but the conversation has {part['type']} "
        ):
            prepared(processor, parts, processor_kwargs={name: [BOX]})

    def test_a_phrase_to_locate_has_no_boxes_of_its_own(self, processor, image):
        parts = [{"type": "image", "image": image}, {"type": "phrase", "text": "it", "boxes": []}]
        answer = {"role": "assistant", "content": "<p>it</p><roi><ground_box></roi>"}
        inputs = processor.apply_chat_template(
            [*question(*parts), answer],
            tokenize=True,
            return_dict=True,
            processor_kwargs={"ground_boxes": [BOX]},
        )
        assert len(inputs["ground_boxes"]) == 1

    def test_a_rendered_text_has_a_mark_for_each_region(self, processor, image):
        parts = [text("What is "), {"type": "region", **CLICK}, text(" in "), {"type": "region", "mask": MASK}]
        assert "What is <region> in <region>" in processor.apply_chat_template(question(*parts))

    @pytest.mark.parametrize(
        ("part", "words"),
        [
            ({}, "A region part needs a `box`, .* or another of point, points, scribble, mask"),
            ({"labels": [1]}, "A region part needs a `box`"),
            ({"box": BOX, "mask": MASK}, r"`regions\[0\]` has 'box' and 'mask'"),
            ({"box": BOX, "labels": [1]}, r"`regions\[0\]` has 'labels' for a 'box'"),
            ({**CLICK, "label": 1}, r"`regions\[0\]` has the unknown key 'label'"),
            ({"point": [320, 481]}, r"`regions\[0\]\['point'\]` = \[320, 481\] is outside"),
            ({"point": torch.zeros(2, device="meta")}, r"`regions\[0\]\['point'\]` must be a point"),
            ({"mask": MASK[:, :100]}, r"`regions\[0\]\['mask'\]` has 100x480"),
        ],
    )
    def test_wrong_parts_are_named(self, part, words, processor, image):
        with pytest.raises(ValueError, match=words):
            prepared(processor, [{"type": "image", "image": image}, {"type": "region", **part}])


class TestNextTurn:
    def test_it_is_what_a_box_is_and_points(self, tiny):
        ids = torch.tensor([[tiny.image_token_id] * tiny.num_image_tokens + [5, 6]])
        sizes = [(480, 640)]
        boxes = tiny.next_turn(ids, "And <region>?", boxes=[BOX], target_sizes=sizes)
        assert_same(tiny.next_turn(ids, "And <region>?", regions=[MASK], target_sizes=sizes), boxes)
        turn = tiny.next_turn(ids, "And <region>?", regions=[CLICK], target_sizes=sizes)
        assert set(turn) == {*boxes, *POINT_INPUTS}
        assert torch.equal(turn["input_ids"], boxes["input_ids"])
        assert turn["refer_points"].tolist() == [[[[0.5, 0.25]]]]
        assert_close(turn["refer_boxes"], torch.tensor([[PIXEL]]))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"target_sizes": None}, "`regions` need `target_sizes`"),
            ({"boxes": [BOX]}, "`boxes` and `regions` were both given"),
            ({"regions": [CLICK, CLICK]}, "`regions` has 2 regions"),
            ({"regions": [{"point": [9, 999]}]}, "is outside of the 640x480"),
        ],
    )
    def test_wrong_arguments_are_named(self, tiny, arguments, words):
        ids = torch.tensor([[tiny.image_token_id] * tiny.num_image_tokens + [5]])
        given = {"text": "What is <region>?", "regions": [CLICK], "target_sizes": [(480, 640)], **arguments}
        with pytest.raises(ValueError, match=words):
            tiny.next_turn(ids, **given)
