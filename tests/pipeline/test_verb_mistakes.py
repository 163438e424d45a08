"""What the verbs of the pipeline refuse: one sentence that names the argument, before the model runs."""

import io

import numpy as np
import pytest
import torch

from transformers_groma import ImageGroundingPipeline
from transformers_groma.image_inputs import ImageSize
from transformers_groma.questions import QuestionWording

from ..tiny import tiny_detector
from .samples import BOX


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe, image: pipe.caption(None), "`image` is None. Pass an image"),
        (lambda pipe, image: pipe.caption([image, None]), r"`image\[1\]` is None"),
        (lambda pipe, image: pipe.caption([image, 7]), r"`image\[1\]` is not an image: 7"),
        (lambda pipe, image: pipe.caption("no-such.jpg"), "`image` cannot be read"),
        (lambda pipe, image: pipe.caption(iter([image])), "`image` is a list_iterator. .* stream of many"),
        (lambda pipe, image: pipe.caption({"image": image}), "`image` is a dict"),
        (lambda pipe, image: pipe.caption(io.BytesIO(b"x")), "`image` is an open file. Pass its path"),
        (lambda pipe, image: pipe.caption(ImageSize(9, 9)), "`image` is a size without pixels"),
        (lambda pipe, image: pipe.caption([ImageSize(9, 9)]), r"`image\[0\]` is a size without pixels"),
        (
            lambda pipe, image: pipe.caption(torch.zeros(2, 3, 50, 40)),
            r"`image` is a batch of shape \(2, 3, 50, 40\). Pass a list of images, `list\(batch\)`",
        ),
        (lambda pipe, image: pipe.chat(np.zeros((1, 1, 50, 40, 3))), r"`image` is a batch of shape \(1, 1, 50, 40, 3"),
        (lambda pipe, image: pipe.locate(image, ""), "`phrase` is empty: ''. Write what to locate"),
        (lambda pipe, image: pipe.locate(image, " \n"), "`phrase` is empty"),
        (lambda pipe, image: pipe.locate(image, None), "`phrase` is not a text: None"),
        (lambda pipe, image: pipe.locate(image, ["it", 7]), r"`phrase\[1\]` is not a text: 7"),
        (lambda pipe, image: pipe.locate(image, np.ones((90, 90))), "`phrase` is not a text: array"),
        (
            lambda pipe, image: pipe.locate(image, "the \ud800cup"),
            r"`phrase` holds half a character .*'the \\ud800cup'",
        ),
        (lambda pipe, image: pipe.ask(image, "\udcff"), "`question` holds half a character"),
        (lambda pipe, image: pipe.locate_all(image, ""), "`category` is empty"),
        (lambda pipe, image: pipe.ask(image, ""), "`question` is empty"),
        (lambda pipe, image: pipe.ask(image, None), "`question` is not a text: None"),
        (lambda pipe, image: pipe.ask(image, "[grounding] "), "asks nothing"),
        (lambda pipe, image: pipe.ask(image, ["Hi", " "]), r"`question\[1\]` is empty"),
        (lambda pipe, image: pipe.ask(image, "Is <region>?"), "1 <region> mark, but `boxes` has 0 regions"),
        (
            lambda pipe, image: pipe.ask(image, "Is <region>?", boxes=[BOX, BOX]),
            "has 1 <region> mark, but `boxes` has 2 regions. Write one <region> for each region, .* or none at all",
        ),
        (lambda pipe, image: pipe.ask(image, "What?", boxes=BOX), r"`boxes` must be a list of regions"),
        (lambda pipe, image: pipe.ask(image, "What?", boxes=[[1, 2]]), r"`boxes\[0\]` looks like a point"),
        (lambda pipe, image: pipe.ask(image, "What?", boxes=[[0, 0, 9000, 9]]), r"`boxes\[0\]` = .* is outside"),
        (lambda pipe, image: pipe.ask(image, "What?", boxes=[[0, 0, 9, 9]] * 99), "99 .*max_regions"),
        (lambda pipe, image: pipe.describe(image, None), "`region` is not a region: None. Pass a box"),
        (lambda pipe, image: pipe.describe(image, [0, 0, 9000, 9]), "`region` = .* is outside"),
        (lambda pipe, image: pipe.describe(image, [BOX, [1, 2]]), r"`region\[1\]` looks like a point"),
        (lambda pipe, image: pipe.describe(image, np.ones((240, 320))), "`region` is an array of float64, but a mask"),
        (lambda pipe, image: pipe.describe(image, np.zeros((240, 320), bool)), "`region` is empty"),
        (lambda pipe, image: pipe.describe(image, np.ones((240, 240), bool)), "`region` has 240x240 .* aspect"),
        (lambda pipe, image: pipe.describe(image, {"point": [900, 3]}), r"`region\['point'\]` = .* outside"),
        (
            lambda pipe, image: pipe.ask(image, "Hi", regions=[{"points": [[9, 9]], "labels": [0]}]),
            r"`regions\[0\]\['labels'\]` has no 1",
        ),
        (lambda pipe, image: pipe.ask(image, "Hi", [BOX], regions=[BOX]), "`boxes` and `regions` were both given"),
        (lambda pipe, image: pipe.ask(image, "Is <region>?", regions=[]), "`regions` has 0 regions"),
        (lambda pipe, image: pipe.ask(image, "Hi", masks="yes"), "`masks` must be True or False, got 'yes'"),
        (lambda pipe, image: pipe.ask(image, "Hi", masks=True), "`masks=True` needs a model with a mask decoder, but"),
        (lambda pipe, image: pipe.caption([image], masks=True), ".*has none.* `groma train masks`"),
        (lambda pipe, image: pipe.segment(image, "the cup"), "`segment` needs a model with a mask decoder, but"),
        (lambda pipe, image: pipe.segment(image, {"point": [9, 9]}), "`segment` needs a model with a mask decoder"),
        (lambda pipe, image: pipe.describe(image, [0.1, 0.1, 0.5, 0.5]), "normalized=True"),
        (lambda pipe, image: pipe.describe(image, BOX, box_format="yolo"), "`box_format` must be one of"),
        (lambda pipe, image: pipe.ask(image, "Hi", box_format=np.ones((9, 9))), "`box_format` must be one of"),
        (lambda pipe, image: pipe.ask(image, "Hi", normalized="no"), "`normalized` must be True or False, got 'no'"),
        (lambda pipe, image: pipe.ask(image, "Hi", max_new_tokens=np.ones((90, 90))), "`max_new_tokens` must be"),
        (lambda pipe, image: pipe.describe([image, image], [BOX] * 3), "`region` has length 3, but `image` has 2"),
        (lambda pipe, image: pipe.locate([image] * 2, ["it"] * 3), "`phrase` has length 3, but `image` has 2"),
        (
            lambda pipe, image: pipe.ask([image] * 2, "Hi", boxes=[[BOX]] * 3),
            "`boxes` has length 3, but `image` has 2",
        ),
        (
            lambda pipe, image: pipe.ask(image, ["a", "b"], boxes=[[BOX]]),
            "`boxes` has length 1, but `question` has 2",
        ),
        (lambda pipe, image: pipe.caption(image, max_new_tokens=0), "`max_new_tokens` must be a positive integer"),
        (lambda pipe, image: pipe.caption(image, max_new_tokens="9"), "`max_new_tokens` must be a positive integer"),
        (lambda pipe, image: pipe.caption([image], batch_size=0), "`batch_size` must be a positive integer, got 0"),
        (lambda pipe, image: pipe.caption(image, generate_kwargs="greedy"), "`generate_kwargs` must be a dict"),
        (lambda pipe, image: pipe.caption(image, generate_kwargs={"foo": 1}), "`generate_kwargs` has 'foo'"),
        (lambda pipe, image: pipe.caption(image, generate_kwargs={"streamer": 1}), "has 'streamer', .*`stream=True`"),
        (
            lambda pipe, image: pipe.caption(image, max_new_tokens=2, generate_kwargs={"max_new_tokens": 3}),
            "given twice",
        ),
        (lambda pipe, image: pipe.caption(image, generate_kwargs={"num_return_sequences": 2}), "num_return_sequences"),
        (lambda pipe, image: pipe.caption(image, max_new_tokens=2000), r"reads 1024 in all"),
        (lambda pipe, image: pipe.ask(image, "word " * 1500), r"reads 1024 in all .*Shorten the question"),
        (lambda pipe, image: pipe.caption(image, brief="yes"), "`brief` must be True or False, got 'yes'"),
        (lambda pipe, image: pipe.ask(image, "Hi", grounded="no"), "`grounded` must be True or False"),
        (lambda pipe, image: pipe.ask(image, "Hi", stream=1), "`stream` must be True or False"),
        (lambda pipe, image: pipe.caption([image], stream=True), "`stream=True` streams one answer"),
        (lambda pipe, image: pipe.describe(image, [BOX], stream=True), "`stream=True` streams one answer"),
        (
            lambda pipe, image: pipe.ask(image, "Hi", stream=True, generate_kwargs={"num_beams": 2}),
            "`stream=True` gives one answer, token by token, but `num_beams` is 2. Leave it out",
        ),
        (
            lambda pipe, image: pipe.ask(
                image, "Hi", stream=True, generate_kwargs={"num_return_sequences": 2, "do_sample": True}
            ),
            "`num_return_sequences` is 2",
        ),
        (
            lambda pipe, image: pipe.ask(image, "Hi", stream=True, generate_kwargs={"prompt_lookup_num_tokens": 2}),
            "assisted decoding",
        ),
        (lambda pipe, image: pipe.ask(image, "Hi", stream=True, max_new_tokens=2000), "reads 1024 in all"),
        (lambda pipe, image: pipe.chat([image]), "`image` is a list of 1, but a chat is about one image"),
        (lambda pipe, image: pipe.chat(None), "`image` is None"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_the_model_runs(pipe, photos, never_asked, call, words):
    never_asked(pipe)
    with pytest.raises(ValueError, match=words) as error:
        call(pipe, photos[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda pipe, image: pipe.caption(image, max_tokens=3),
            "`caption` does not take `max_tokens`. It takes `image`",
        ),
        (lambda pipe, image: pipe.locate(image, "it", stream=True), "`locate` does not take `stream`"),
        (lambda pipe, image: pipe.locate(image, "it", box_format="xywh"), "`locate` does not take `box_format`"),
        (lambda pipe, image: pipe.ask(image, "Hi", parse_tokens=True), "`ask` does not take `parse_tokens`"),
    ],
)
def test_unknown_arguments_are_named(pipe, photos, never_asked, call, words):
    never_asked(pipe)
    with pytest.raises(TypeError, match=words):
        call(pipe, photos[0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_new_tokens": 2.5}, "`max_new_tokens` must be a positive integer, got 2.5"),
        ({"max_new_tokens": True}, "`max_new_tokens` must be a positive integer, got True"),
        ({"max_new_tokens": "9"}, "`max_new_tokens` must be a positive integer, got '9'"),
        ({"max_length": 5}, "'max_length', .* is ignored beside `max_new_tokens`"),
        ({"num_beams": "2"}, "`num_beams` must be a positive integer, got '2'"),
        ({"num_beams": 0}, "`num_beams` must be a positive integer, got 0"),
        ({"num_return_sequences": -1}, "`num_return_sequences` must be a positive integer, got -1"),
        ({"do_sample": "no"}, "`do_sample` must be True or False, got 'no'"),
        ({"do_sample": True, "top_p": 3.0}, "`top_p` must be a number from 0 to 1, got 3.0"),
        ({"do_sample": True, "top_k": -4}, "`top_k` must be a non-negative integer, got -4"),
        ({"do_sample": True, "temperature": 0.0}, "`temperature` must be a positive number, got 0.0"),
        ({"stopping_criteria": 5}, "`stopping_criteria` must be a list, got 5"),
        ({"generation_config": {"max_new_tokens": 3}}, "`generation_config` must be a `GenerationConfig`, got {"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_values_of_generation_are_checked_before_the_model_runs(pipe, photos, never_asked, given, words, stream):
    chat = pipe.chat(photos[0])
    never_asked(pipe)
    for ask in (lambda **kwargs: pipe.caption(photos[0], **kwargs), lambda **kwargs: chat.ask("Hi", **kwargs)):
        with pytest.raises(ValueError, match=words):
            ask(stream=stream, generate_kwargs=given)


def test_what_the_pipeline_was_made_with_is_checked_too(pipe, photos, never_asked):
    def made(**settings):
        return ImageGroundingPipeline(pipe.model, processor=pipe.processor, task="image-grounding", **settings)

    never_asked(pipe)
    for settings, words in (
        ({"normalized": "no"}, "`normalized` must be True or False, got 'no'"),
        ({"box_format": "yolo"}, "`box_format` must be one of"),
        ({"max_new_tokens": "9"}, "`max_new_tokens` must be a positive integer"),
        ({"do_sample": "no"}, "`do_sample` must be True or False"),
        ({"generate_kwargs": {"foo": 1}}, "`generate_kwargs` has 'foo'"),
    ):
        with pytest.raises(ValueError, match=words):
            made(**settings).ask(photos[0], "Hi")


def test_a_detector_answers_nothing(pipe, photos):
    detector = ImageGroundingPipeline(tiny_detector(), processor=pipe.processor, task="image-grounding")
    for call in (
        lambda: detector.caption(photos[0]),
        lambda: detector.ask(photos[0], "Hi"),
        lambda: detector.chat(photos[0]),
    ):
        with pytest.raises(ValueError, match="needs a model that answers with regions, .* GromaForRegionProposal"):
            call()


def test_a_model_says_what_it_cannot_do(pipe, photos, never_asked, monkeypatch):
    """A family that learned other questions, and one that none of the verbs is for."""
    never_asked(pipe)
    processor = type(pipe.processor)
    monkeypatch.setattr(processor, "question_wording", QuestionWording(region_caption="Describe {region}."))
    with pytest.raises(
        ValueError, match="`locate_all` asks what a GromaFor.* has not learned: its questions are 'region_caption'"
    ):
        pipe.locate_all(photos[0], "cups")
    monkeypatch.delattr(processor, "question_wording")
    for call in (
        lambda: pipe.caption(photos[0]),
        lambda: pipe.ask(photos[0], "Hi"),
        lambda: pipe.chat(photos[0]),
    ):
        with pytest.raises(ValueError, match="needs a model that answers with regions, such as Groma"):
            call()
