"""`pipeline("image-grounding")`: answers, generation settings and prompts."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    pipeline,
)

from transformers_groma import GroundedText, ImageGroundingPipeline

from .samples import BOX, same


def test_answers_as_the_public_api_does(pipe, photos):
    answer = pipe(photos[0], "What is <region>?", boxes=[BOX])
    inputs = pipe.processor(images=photos[0], text="What is <region>?", boxes=[BOX], return_tensors="pt")
    output = pipe.model.generate(**inputs, max_new_tokens=5, return_dict_in_generate=True)
    expected = pipe.processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(240, 320)])[0]
    assert isinstance(answer, GroundedText)
    assert same(answer, expected)
    assert answer.user_region_ids == expected.user_region_ids == (0,)
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
        assert [answer.user_region_ids for answer in answers] == [(0,), (), (0, 1)]
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


class Prompt(Exception):
    """The prompt that a model was asked, instead of an answer."""


def test_control_tokens_in_a_question_are_text(pipe, photos, monkeypatch):
    """A prompt holds no more control tokens than that of another question, unless they are asked for."""

    def refuse(**inputs):
        raise Prompt(inputs["input_ids"][0].tolist())

    def controls(question, **how):
        with pytest.raises(Prompt) as prompt:
            pipe(photos[0], question, **how)
        added = pipe.processor.tokenizer.added_tokens_decoder
        return [added[index].content for index in prompt.value.args[0] if index in added]

    monkeypatch.setattr(pipe.model, "generate", refuse)
    typed = "<p>a</p></s><r3><roi><refer_box>"
    plain = controls("Hello")
    for question in (typed, f"<image>{typed}", f"{typed}[grounding]"):
        assert controls(question) == controls(question, parse_tokens=False) == plain
    assert controls(f"[grounding]{typed}") == [*plain, "[grounding]"]
    tokens = ["<p>", "</p>", "</s>", "<r3>", "<roi>", "<refer_box>"]
    assert controls(typed, parse_tokens=True) == [*plain, *tokens]
    whole = controls(f"<image>{typed}", parse_tokens=True)
    assert whole[-6:] == tokens and len(whole) < len(plain) + 6


def test_prompts_that_are_too_long_are_refused_before_any_work(pipe, photos, monkeypatch):
    limit = pipe.model.config.get_text_config().max_position_embeddings
    monkeypatch.setattr(pipe.model, "generate", lambda **inputs: pytest.fail("it was asked"))
    base = pipe.processor.count_tokens("Hi")
    with pytest.raises(
        ValueError, match=rf"has {base} tokens and the answer up to {limit - base + 1} .* reads {limit} in all"
    ):
        pipe(photos[0], "Hi", max_new_tokens=limit - base + 1)
    with pytest.raises(ValueError, match="or lower `max_new_tokens`"):
        pipe(photos[0], "Hi", generate_kwargs={"max_new_tokens": limit})
    with pytest.raises(ValueError, match=r"Shorten the question\.$"):
        pipe(photos, ["Hi", "Hi", "Hi " * limit], batch_size=1)
    with pytest.raises(ValueError, match="tokens and the answer"):
        pipe(photos[0], max_new_tokens=limit)
    monkeypatch.undo()
    monkeypatch.setattr(pipe.model.config.text_config, "max_position_embeddings", base + 2)
    assert pipe(photos[0], "Hi", max_new_tokens=2)
    with pytest.raises(ValueError, match=f"reads {base + 2} in all"):
        pipe(photos[0], "Hi", max_new_tokens=3)


def test_what_was_given_to_the_pipeline_holds_for_each_call(pipe, photos):
    """And a call's own arguments come before it."""
    inputs = {"image": photos[0], "question": "What is <region>?", "max_new_tokens": 2}
    parts = {"model": pipe.model, "processor": pipe.processor, "device": "cpu"}
    corner = pipeline("image-grounding", **parts, box_format="xywh", normalized=True)
    box = [20 / 320, 30 / 240, 180 / 320, 150 / 240]
    torch.testing.assert_close(corner(**inputs, boxes=[box]).regions[0].box, torch.tensor(BOX))
    answer = corner(**inputs, boxes=[BOX], box_format="xyxy", normalized=False)
    torch.testing.assert_close(answer.regions[0].box, torch.tensor(BOX))
    short = pipeline("image-grounding", **parts, generate_kwargs={"max_new_tokens": 1})
    assert (
        short(photos[0], "Hi").markup == pipe(photos[0], "Hi", max_new_tokens=1).markup != pipe(photos[0], "Hi").markup
    )
    assert ImageGroundingPipeline._default_generation_config.max_new_tokens == 256


def test_prompts_are_measured_as_they_are_asked(pipe, photos, monkeypatch):
    """Typed tokens, which are many as text, in a pipeline for whole prompts; boxes of the default question."""
    typed = "<p>a</p><r3><roi></roi>" * 3
    as_tokens, as_text = (pipe.processor.count_tokens(typed, parse_tokens=parsed) for parsed in (True, False))
    assert as_tokens < as_text
    monkeypatch.setattr(pipe.model.config.text_config, "max_position_embeddings", as_tokens + 1)
    parsing = pipeline(
        "image-grounding",
        model=pipe.model,
        processor=pipe.processor,
        device="cpu",
        parse_tokens=True,
        max_new_tokens=1,
    )
    assert parsing(photos[0], typed, num_workers=0)
    for answer in (
        lambda: parsing(photos[0], typed, parse_tokens=False),
        lambda: parsing(photos[0], typed, max_new_tokens=2),
    ):
        with pytest.raises(ValueError, match=f"reads {as_tokens + 1} in all"):
            answer()
    parts = {"model": pipe.model, "processor": pipe.processor, "device": "cpu", "parse_tokens": True}
    assert pipeline("image-grounding", **parts, generate_kwargs={"max_new_tokens": 1})(photos[0], typed)
    with pytest.raises(ValueError, match="the answer up to 256 "):
        pipeline("image-grounding", **parts)(photos[0], typed)
    boxes = [[0, 0, 50, 50]] * 3
    length = pipe.processor.count_tokens(num_boxes=3)
    monkeypatch.setattr(pipe.model.config.text_config, "max_position_embeddings", length + 1)
    assert pipe(photos[0], boxes=boxes, max_new_tokens=1)
    with pytest.raises(ValueError, match=f"The prompt has {length} tokens"):
        pipe(photos[0], boxes=boxes, max_new_tokens=2)
