"""Inputs of `pipeline("image-grounding")`: dicts, generators, datasets; errors name them before any work."""

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    pipeline,
)

from transformers_groma import GroundedText
from transformers_groma.pipeline_samples import is_stream
from transformers_groma.region_inputs import is_region_set

from .samples import BOX, same


class Rows:
    """As a dataset of torch: a length and rows, and no end that an iteration would find."""

    def __init__(self, rows: list):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        return self.rows[index % len(self.rows)]


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
    assert is_region_set(boxes) is not is_batch


def test_images_that_are_not_many(photos):
    for one in (photos[0], np.zeros((3, 9, 9)), torch.zeros(3, 9, 9), "a.png", {"image": 1}, [1], (1,)):
        assert not is_stream(one)
    for many in (iter([1]), Rows([1]), {1}, range(2)):
        assert is_stream(many)


def test_images_without_boxes_among_others(pipe, photos):
    for none in ([], np.zeros((0, 4)), None):
        answers = pipe(photos[:2], ["What is <region>?", "Hi"], boxes=[[BOX], none], max_new_tokens=2)
        assert [answer.user_region_ids for answer in answers] == [(0,), ()]
        assert pipe(photos[0], "Hi", boxes=none, max_new_tokens=2).user_region_ids == ()


def test_an_empty_list(pipe):
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []


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
        ({"question": "<region>"}, "1 <region> mark, "),
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
            "The input has `boxes`, and `boxes` was also given for all",
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
        ({"question": "<region>"}, "1 <region> mark, "),
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
