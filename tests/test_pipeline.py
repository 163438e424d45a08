"""Tests of `pipeline("image-grounding")`, and of the library's own "image-text-to-text" and "object-detection" with Groma."""

import logging

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoModelForObjectDetection,
    AutoProcessor,
    pipeline,
)

from tests.tiny import tiny_detector
from transformers_groma import GromaImageProcessor, GroundedText, ImageGroundingPipeline
from transformers_groma.pipeline import _is_batch_of_boxes, _is_stream

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
    """The prompt of the pipeline holds no more control tokens than that of another question, unless they are asked for."""

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
    """Typed tokens, which are many as text, where the pipeline was made for whole prompts; boxes of the default question."""
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


@pytest.mark.parametrize(
    ("boxes", "is_batch"),
    [
        (None, False),
        ([], False),
        ([BOX], False),
        (np.array([BOX]), False),
        (torch.tensor([[BOX]]), True),
        ([[BOX]], True),
        (([BOX], None), True),
        ([None], True),
        ([[], []], True),
        ([np.zeros((0, 4)), np.array([BOX])], True),
        ([torch.tensor(BOX)], False),
        (BOX, False),
        ("here", False),
    ],
)
def test_one_set_of_boxes_and_one_for_each_image_are_told_apart(boxes, is_batch):
    assert _is_batch_of_boxes(boxes) is is_batch


def test_images_that_are_not_many(photos):
    for one in (photos[0], np.zeros((3, 9, 9)), torch.zeros(3, 9, 9), "a.png", {"image": 1}, [1], (1,)):
        assert not _is_stream(one)
    for many in (iter([1]), Rows([1]), {1}, range(2)):
        assert _is_stream(many)


def test_images_without_boxes_among_others(pipe, photos):
    for none in ([], np.zeros((0, 4)), None):
        answers = pipe(photos[:2], ["What is <region>?", "Hi"], boxes=[[BOX], none], max_new_tokens=2)
        assert [answer.user_region_ids for answer in answers] == [(0,), ()]
        assert pipe(photos[0], "Hi", boxes=none, max_new_tokens=2).user_region_ids == ()


def test_an_empty_list(pipe):
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []


class Rows:
    """As a dataset of torch: a length and rows, and no end that an iteration would find."""

    def __init__(self, rows: list):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        return self.rows[index % len(self.rows)]


@pytest.fixture
def samples(photos) -> list[dict]:
    return [
        {"image": photos[0], "question": "What is <region>?", "boxes": [BOX]},
        {"image": photos[1], "text": "Hello"},
        {"image": photos[2], "question": None, "boxes": [[0, 0, 50, 50], [50, 0, 100, 50]]},
        {"image": photos[0], "question": None, "boxes": None},
    ]


@pytest.fixture
def expected(pipe, photos) -> list[GroundedText]:
    return [
        pipe(photos[0], "What is <region>?", boxes=[BOX]),
        pipe(photos[1], "Hello"),
        pipe(photos[2], boxes=[[0, 0, 50, 50], [50, 0, 100, 50]]),
        pipe(photos[0]),
    ]


def all_same(answers, expected) -> bool:
    return [answer.markup for answer in answers] == [answer.markup for answer in expected]


@pytest.mark.parametrize("batch_size", [None, 1, 3, 9])
def test_dicts(pipe, samples, expected, batch_size):
    answers = pipe(samples, batch_size=batch_size)
    assert isinstance(answers, list) and all_same(answers, expected)
    assert all_same(pipe(tuple(samples), batch_size=batch_size), expected)
    assert same(pipe(samples[0]), expected[0]) and same(pipe(samples[2]), expected[2])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_generators_and_datasets_are_answered_as_they_are_read(pipe, samples, expected, batch_size):
    read = []

    def generator():
        for index, sample in enumerate(samples):
            read.append(index)
            yield sample

    answers = pipe(generator(), batch_size=batch_size)
    assert same(next(answers), expected[0]) or batch_size > 1
    assert len(read) == batch_size
    assert all_same(answers, expected[1:])
    for many in (Rows(samples), iter(samples), map(dict, samples)):
        assert all_same(pipe(many, batch_size=batch_size), expected)


def test_rows_of_datasets(pipe, photos):
    rows = {"image": photos, "question": ["Hi", "Hello", None], "boxes": [None, None, [[0.0, 0.0, 50.0, 50.0]]]}
    dataset = datasets.Dataset.from_dict(rows)
    dataset = dataset.cast_column("image", datasets.Image())
    expected = [pipe(photos[0], "Hi"), pipe(photos[1], "Hello"), pipe(photos[2], boxes=[[0, 0, 50, 50]])]
    assert same(pipe(dataset[0]), expected[0])
    assert all_same(pipe(dataset), expected)
    assert all_same(pipe(list(dataset), batch_size=2), expected)
    assert all_same(pipe(dataset.to_iterable_dataset()), expected)
    assert all_same(pipe(dataset["image"], "Hi"), [pipe(photo, "Hi") for photo in photos])


def test_images_of_a_generator_share_a_question(pipe, photos):
    answers = pipe((photo for photo in photos), "What is <region>?", boxes=[[0, 0, 50, 50]], batch_size=2)
    assert all_same(answers, pipe(photos, "What is <region>?", boxes=[[0, 0, 50, 50]]))
    shared = pipe([{"image": photo} for photo in photos], "What is <region>?", boxes=[[0, 0, 50, 50]])
    assert all_same(shared, pipe(photos, "What is <region>?", boxes=[[0, 0, 50, 50]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questoin": "Hi"}, "Input 1 has 'questoin', but a dict of .* has `image`, `question`"),
        ({"image": None}, "Input 1 has no `image`"),
        ({"question": "Hi", "text": "Hi"}, "Input 1 has two questions, one in 'question' and one in 'text'"),
        ({"boxes": BOX}, r"\[\[x1, y1, x2, y2\]\]"),
        ({"boxes": [[0, 0, 9000, 10]], "question": "<region>"}, "outside"),
        ({"question": ["Hi", "Ho"]}, "`question` has 2 entries for one image"),
        ({"question": "<region>"}, "1 <region> marks"),
    ],
)
def test_bad_dicts(pipe, photos, change, message):
    rows = [{"image": photos[0], "question": "Hi"}, {"image": photos[1], **change}]
    for inputs in (rows, iter(rows), Rows(rows)):
        with pytest.raises(ValueError, match=message):
            list(pipe(inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": None}, "`image` is missing"),
        ({"image": [{"image": 1}, 2]}, "`image` is a list of dicts, but entry 1 is not one"),
        ({"image": [1, {"image": 1}]}, "`image` is a list of dicts, but entry 0 is not one"),
        ({"image": [{"image": 1}], "question": ["Hi"]}, "`question` is a list beside a list of dicts"),
        (
            {"image": [{"image": 1, "question": "Hi"}], "question": "Ho"},
            "two questions, one in 'question' and one in '`question`'",
        ),
        (
            {"image": {"image": 1, "boxes": [BOX]}, "boxes": [BOX]},
            "The input has `boxes`, and `boxes` was given for all",
        ),
        ({"image": iter([1]), "question": ["Hi"]}, "takes one `question` and one set of `boxes`"),
        ({"image": iter([1]), "boxes": [[BOX]]}, "takes one `question` and one set of `boxes`"),
        ({"image": {}}, "The input has no `image`"),
        ({"image": [None, None]}, "Input 0 has no `image`"),
        ({"question": ["a", "b"]}, "`question` has 2 entries for one image"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer, got 0"),
        ({"batch_size": -1}, "`batch_size` must be a positive integer"),
        ({"batch_size": "2"}, "`batch_size` must be a positive integer, got '2'"),
        ({"generate_kwargs": "greedy"}, "`generate_kwargs` must be a dict"),
    ],
)
def test_wrong_arguments(pipe, photos, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"image": photos[0], **arguments})


def test_unknown_arguments_are_named_before_any_work(pipe, photos):
    for inputs in (photos[0], photos, iter(photos), [{"image": "no_such_file.png"}]):
        with pytest.raises(
            TypeError, match="does not take `qestion`, `do_sample`. It takes `image`, .*generate_kwargs"
        ):
            pipe(inputs, qestion="Hi", do_sample=True)
    with pytest.raises(TypeError, match="does not take `max_tokens`"):
        pipeline("image-grounding", model=pipe.model, processor=pipe.processor, device="cpu", max_tokens=3)
    with pytest.raises(ValueError, match="foo"):
        pipe(photos[0], generate_kwargs={"foo": 3})


def test_batch_size_of_the_pipeline(pipe, photos):
    batched = pipeline("image-grounding", model=pipe.model, processor=pipe.processor, device="cpu", batch_size=2)
    seen = []
    original = batched.preprocess
    batched.preprocess = lambda inputs, **parameters: (
        seen.append(len(inputs["images"])) or original(inputs, **parameters)
    )
    batched(photos, "Hi", max_new_tokens=2)
    batched(photos, "Hi", max_new_tokens=2, batch_size=3)
    assert seen == [2, 1, 3]


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
    with pytest.raises(ValueError, match=r"sample 2 is not an image"):
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


# ------------------------------------------------------------------------------------------------- object-detection


@pytest.fixture(scope="module")
def detector_dir(tmp_path_factory):
    """A detector and its image processor, as stage 1 saves them."""
    detector = tiny_detector().train()
    folder = tmp_path_factory.mktemp("detector")
    detector.save_pretrained(folder)
    GromaImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detection_pipe(detector_dir):
    return pipeline("object-detection", model=str(detector_dir), device="cpu")


def test_object_detection_finds_the_queries_in_pixels_of_each_image(detection_pipe, detector_dir, photos):
    detector = AutoModelForObjectDetection.from_pretrained(detector_dir)
    image_processor = AutoImageProcessor.from_pretrained(detector_dir)
    for photo in photos:
        found = detection_pipe(photo, threshold=0.4)
        with torch.no_grad():
            output = detector(**image_processor(photo, return_tensors="pt"))
        scores, order = output.proposer_output.scores[0].sort(descending=True)
        order = order[scores > 0.4]
        assert 0 < len(found) == len(order) < 10
        cx, cy, width, height = output.pred_boxes[0, order].unbind(-1)
        corners = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], dim=-1).clamp(0, 1)
        pixels = corners * torch.tensor([*photo.size, *photo.size])
        assert [list(entry["box"].values()) for entry in found] == pixels.int().tolist()
        assert [list(entry["box"]) for entry in found] == [["xmin", "ymin", "xmax", "ymax"]] * len(found)
        assert {entry["label"] for entry in found} == {"region"}
        assert [entry["score"] for entry in found] == pytest.approx(scores[scores > 0.4].tolist(), abs=1e-5)


def test_object_detection_in_batches(detection_pipe, photos):
    singles = [detection_pipe(photo, threshold=0.3) for photo in photos]
    for batch_size in (1, 2, 3):
        for answers, single in zip(detection_pipe(photos, threshold=0.3, batch_size=batch_size), singles, strict=True):
            assert [entry["box"] for entry in answers] == [entry["box"] for entry in single]
            assert [entry["score"] for entry in answers] == pytest.approx(
                [entry["score"] for entry in single], abs=1e-5
            )


def test_object_detection_from_files_and_with_thresholds(detection_pipe, photos, tmp_path):
    photos[1].save(tmp_path / "photo.png")
    assert detection_pipe(str(tmp_path / "photo.png"), threshold=0.3) == detection_pipe(photos[1], threshold=0.3)
    assert detection_pipe(photos[1]) == detection_pipe(photos[1], threshold=0.5)
    assert len(detection_pipe(photos[1], threshold=0.0)) == 10
    assert detection_pipe(photos[1], threshold=1.0) == []
    best = detection_pipe(photos[1], threshold=0.0)[0]["score"]
    assert len(detection_pipe(photos[1], threshold=best)) == 0


def test_the_object_detection_pipeline_knows_the_detector(detector_dir, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    pipeline("object-detection", model=str(detector_dir), device="cpu")
    assert "not supported" not in caplog.text
