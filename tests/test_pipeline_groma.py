"""Tests of `pipeline("image-grounding")`, and of the library's own `pipeline("image-text-to-text")` with Groma."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from transformers_groma import GroundedText, ImageGroundingPipeline

from .tiny_checkpoint import save_tiny_checkpoint

BOX = [20.0, 30.0, 200.0, 180.0]


@pytest.fixture(scope="module")
def tiny_dir(golden_dir, tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), golden_dir)


@pytest.fixture(scope="module")
def pipe(tiny_dir) -> ImageGroundingPipeline:
    model = AutoModelForImageTextToText.from_pretrained(tiny_dir)
    processor = AutoProcessor.from_pretrained(tiny_dir)
    return pipeline("image-grounding", model=model, processor=processor, device="cpu", max_new_tokens=5)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Three images of noise, each of another size."""
    random = np.random.default_rng(0)
    sizes = [(240, 320), (480, 200), (100, 100)]
    return [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]


def same(first: GroundedText, second: GroundedText) -> bool:
    return first.markup == second.markup and first.to_dict() == second.to_dict()


# -------------------------------------------------------------------------------------------------- image-grounding


def test_answers_as_the_public_api_does(pipe, photos):
    answer = pipe(photos[0], "What is <region>?", boxes=[BOX])
    inputs = pipe.processor(images=photos[0], text="What is <region>?", boxes=[BOX], return_tensors="pt")
    output = pipe.model.generate(**inputs, max_new_tokens=5, return_dict_in_generate=True)
    expected = pipe.processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(240, 320)])[0]
    assert isinstance(answer, GroundedText)
    assert same(answer, expected)
    torch.testing.assert_close(answer.regions[0].box, torch.tensor(BOX))


def test_from_a_folder(tiny_dir, pipe, photos):
    from_folder = pipeline("image-grounding", model=str(tiny_dir), device="cpu")
    assert isinstance(from_folder, ImageGroundingPipeline)
    assert same(from_folder(photos[0], "Hi", max_new_tokens=5), pipe(photos[0], "Hi"))


def test_on_a_converted_checkpoint(converted_golden, photos):
    pipe = pipeline("image-grounding", model=str(converted_golden), device="cpu")
    answer = pipe(photos[0], "[grounding] Describe the image.", max_new_tokens=8)
    assert answer.phrases and answer.draw(photos[0]).width >= photos[0].width


def test_a_list_gives_what_the_single_calls_give(pipe, photos):
    questions = ["What is <region>?", "Hello", "Is <region> left of <region>?"]
    boxes = [[BOX], None, [[0, 0, 50, 50], [50, 0, 100, 50]]]
    singles = [pipe(*sample[:2], boxes=sample[2]) for sample in zip(photos, questions, boxes)]
    for batch_size in (1, 2, 8):
        answers = pipe(photos, questions, boxes=boxes, batch_size=batch_size)
        assert [answer.markup for answer in answers] == [single.markup for single in singles]
        for answer, single in zip(answers, singles):
            for region, other in zip(answer.regions, single.regions, strict=True):
                torch.testing.assert_close(region.box, other.box, rtol=0, atol=0.05)


@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_one_question_and_one_set_of_boxes_serve_all_images(pipe, photos, form):
    answers = pipe(photos, "What is <region>?", boxes=form([[0.0, 0.0, 50.0, 50.0]]))
    assert [answer.regions[0].box.tolist() for answer in answers] == [pytest.approx([0, 0, 50, 50], abs=1e-4)] * 3
    assert same(answers[1], pipe(photos[1], "What is <region>?", boxes=[[0, 0, 50, 50]]))


def test_boxes_of_each_image_as_one_array(pipe, photos):
    boxes = np.array([[[0, 0, 10, 10]], [[0, 0, 20, 20]], [[0, 0, 30, 30]]])
    answers = pipe(photos, "What is <region>?", boxes=boxes)
    assert [answer.regions[0].box[2].item() for answer in answers] == pytest.approx([10, 20, 30])


def test_without_a_question_the_default_one_is_asked(pipe, photos):
    described = pipe(photos[0], boxes=[BOX])
    assert same(described, pipe(photos[0], "Please give a short description of <region>.", boxes=[BOX]))
    assert same(pipe(photos[0]), pipe(photos[0], "[grounding]Please describe the image in detail."))
    assert same(pipe(photos[:2], boxes=[[BOX], None])[0], described)


@pytest.mark.parametrize(
    ("box", "parameters"),
    [
        ([20, 30, 180, 150], {"box_format": "xywh"}),
        ([110, 105, 180, 150], {"box_format": "cxcywh"}),
        ([20 / 320, 30 / 240, 200 / 320, 180 / 240], {"normalized": True}),
    ],
)
def test_box_formats(pipe, photos, box, parameters):
    answer = pipe(photos[0], "What is <region>?", boxes=[box], **parameters)
    torch.testing.assert_close(answer.regions[0].box, torch.tensor(BOX))


def test_kinds_of_images(pipe, photos, tmp_path):
    photos[0].save(tmp_path / "photo.png")
    expected = pipe(photos[0], "What is <region>?", boxes=[BOX])
    for image in (tmp_path / "photo.png", str(tmp_path / "photo.png"), np.asarray(photos[0])):
        assert same(pipe(image, "What is <region>?", boxes=[BOX]), expected)


def test_boxes_belong_to_the_upright_image(pipe, photos):
    turned = photos[0].transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # "turn me by 90 degrees clockwise"
    assert same(pipe(turned, "What is <region>?", boxes=[BOX]), pipe(photos[0], "What is <region>?", boxes=[BOX]))


def test_generation_parameters(pipe, photos):
    answers = pipe(photos[:2], "Hi", generate_kwargs={"num_beams": 2, "num_return_sequences": 2}, batch_size=2)
    assert [len(answers_of_image) for answers_of_image in answers] == [2, 2]
    assert all(isinstance(answer, GroundedText) for answers_of_image in answers for answer in answers_of_image)
    short = pipe(photos[0], "Hi", max_new_tokens=2)
    assert pipe(photos[0], "Hi").markup.startswith(short.markup.rstrip("\ufffd"))
    with pytest.raises(ValueError, match="given twice"):
        pipe(photos[0], "Hi", max_new_tokens=2, generate_kwargs={"max_new_tokens": 3})


def test_an_empty_list(pipe):
    assert pipe([]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": ["a", "b"]}, "`question` has 2 entries for 3 images"),
        ({"boxes": [[BOX], None]}, "`boxes` has 2 entries for 3 images"),
        ({"boxes": [[0, 0, 9000, 10]]}, "outside"),
        ({"question": "<region>"}, "1 <region> marks"),
        ({"question": " "}, "empty"),
        ({"boxes": BOX}, r"\[\[x1, y1, x2, y2\]\]"),
        ({"boxes": "here"}, r"\[\[x1, y1, x2, y2\]\]"),
        ({"boxes": [[[BOX]]] * 3}, r"\[\[x1, y1, x2, y2\]\]"),
    ],
)
def test_bad_input(pipe, photos, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(photos, **arguments)


def test_bad_image_is_named_by_its_place(pipe, photos):
    with pytest.raises(ValueError, match=r"sample 2 is no image"):
        pipe([*photos[:2], 7])


# ----------------------------------------------------------------------------------------------- image-text-to-text


@pytest.fixture(scope="module")
def stock_pipe(pipe):
    return pipeline("image-text-to-text", model=pipe.model, processor=pipe.processor, device="cpu")


@pytest.fixture
def chat(photos):
    return [{"role": "user", "content": [{"type": "image", "image": photos[0]}, {"type": "text", "text": "Hi"}]}]


def test_stock_pipeline_answers_chats(stock_pipe, pipe, chat, photos):
    expected = pipe(photos[0], "Hi").markup
    assert stock_pipe(text=chat, max_new_tokens=5, return_full_text=False)[0]["generated_text"] == expected
    full = stock_pipe(text=chat, max_new_tokens=5, return_full_text=True)[0]["generated_text"]
    assert full == [*chat, {"role": "assistant", "content": expected}]


def test_stock_pipeline_in_batches(stock_pipe, pipe, chat, photos):
    other = [
        {"role": "user", "content": [{"type": "image", "image": photos[1]}, {"type": "text", "text": "And this one?"}]}
    ]
    results = stock_pipe(text=[chat, other], max_new_tokens=5, return_full_text=False, batch_size=2)
    assert [result[0]["generated_text"] for result in results] == [
        pipe(photos[0], "Hi").markup,
        pipe(photos[1], "And this one?").markup,
    ]


def test_stock_pipeline_continues_an_answer(stock_pipe, chat):
    begun = [*chat, {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    added = stock_pipe(text=begun, max_new_tokens=5, return_full_text=False)[0]["generated_text"]
    full = stock_pipe(text=begun, max_new_tokens=5)[0]["generated_text"]
    assert full[-1]["content"][0]["text"] == "It is" + added


def test_stock_pipeline_with_image_and_text(stock_pipe, pipe, photos):
    result = stock_pipe(photos[0], text="Hi", max_new_tokens=5, return_full_text=False)
    assert result[0]["generated_text"] == pipe(photos[0], "Hi").markup


def test_stock_pipeline_with_text_alone(stock_pipe):
    result = stock_pipe(text=[{"role": "user", "content": "Hello"}], max_new_tokens=5, return_full_text=False)
    assert isinstance(result[0]["generated_text"], str)
