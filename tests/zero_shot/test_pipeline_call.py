"""The classifier is called as transformers' pipeline for zero-shot image classification, and answers likewise."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from transformers_groma import Regions
from transformers_groma.zero_shot import CrossAlignmentClassifier
from transformers_groma.zero_shot.dual_encoder import DualEncoder
from transformers_groma.zero_shot.image_arguments import images_with_boxes
from transformers_groma.zero_shot.region_squares import squares_of_boxes

from .conftest import CASES
from .tiny_encoders import build

LABELS = ["cloud", "red ball", "box"]
PATHS = [str(CASES[0] / f"image_{number}.png") for number in range(2)]
IMAGES = [Image.open(path).convert("RGB") for path in PATHS]
BOXES = [[2, 3, 12, 10], [8, 8, 20, 24]]


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return DualEncoder.from_pretrained(CASES[0] / "model", device="cpu")


@pytest.fixture(scope="module")
def classifier(encoder) -> CrossAlignmentClassifier:
    return CrossAlignmentClassifier.from_encoder(encoder, view_count=6)


@pytest.fixture(scope="module")
def whole(encoder) -> CrossAlignmentClassifier:
    """As the library: one template, the whole image."""
    return CrossAlignmentClassifier.from_encoder(encoder, views=None)


@pytest.fixture(scope="module")
def of_library(encoder):
    return pipeline(
        "zero-shot-image-classification",
        model=encoder.model,
        tokenizer=encoder.tokenizer,
        image_processor=encoder.image_processor,
        device="cpu",
    )


def assert_alike(found: list[dict], wanted: list[dict]) -> None:
    """Labels in the same order, probabilities but for rounding."""
    assert [set(entry) for entry in found] == [{"score", "label"}] * len(wanted)
    assert [entry["label"] for entry in found] == [entry["label"] for entry in wanted]
    assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in wanted], abs=2e-5)


@pytest.mark.parametrize("template", [None, "an image of {}.", "{}"])
def test_with_the_whole_image_it_answers_as_the_library(whole, of_library, template):
    extra = {} if template is None else {"hypothesis_template": template}
    for image in (PATHS[0], IMAGES[1]):
        assert_alike(
            whole(image, candidate_labels=LABELS, **extra), of_library(image, candidate_labels=LABELS, **extra)
        )


def test_the_sigmoid_of_siglip_is_that_of_the_library():
    model, processor = build("siglip")
    found = CrossAlignmentClassifier(model, processor, views=None)(IMAGES[0], candidate_labels=LABELS)
    library = pipeline(
        "zero-shot-image-classification",
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        device="cpu",
    )
    assert_alike(found, library(IMAGES[0], candidate_labels=LABELS))


def test_an_image_a_list_and_streams(classifier):
    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Image.Image:
            return IMAGES[index]

    one = classifier(PATHS[0], candidate_labels=LABELS)
    assert isinstance(one, list) and isinstance(one[0], dict) and len(one) == 3
    several = classifier(PATHS, candidate_labels=LABELS)
    assert len(several) == 2
    assert_alike(several[0], one)
    assert classifier([PATHS[0]], candidate_labels=LABELS) == [one]
    assert classifier(IMAGES, candidate_labels=LABELS) == several
    assert classifier(np.asarray(IMAGES[0]), candidate_labels=LABELS) == one
    for stream in ((path for path in PATHS), iter(PATHS), Rows()):
        answers = classifier(stream, candidate_labels=LABELS)
        assert isinstance(answers, Iterator) and list(answers) == several


def test_a_stream_is_read_as_it_is_answered(encoder):
    small = CrossAlignmentClassifier.from_encoder(DualEncoder(encoder.model, encoder, batch_size=7), view_count=6)
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield IMAGES[len(read) % 2]

    answers = small(endless(), candidate_labels=LABELS)
    first = [next(answers), next(answers)]
    assert len(first) == 2 and len(read) == 2  # 7 views a call: one image at a time


def test_labels_in_one_text(classifier):
    of_list = classifier(IMAGES[0], candidate_labels=LABELS)
    assert classifier(IMAGES[0], candidate_labels="cloud, red ball,box,") == of_list
    with pytest.raises(ValueError, match="must have at least one label"):
        classifier(IMAGES[0], candidate_labels=" ,")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"candidate_labels": []}, "must have at least one label"),
        ({"candidate_labels": ["cloud", "cloud"]}, "'cloud' appears twice"),
        (
            {"candidate_labels": LABELS, "hypothesis_template": "a photo"},
            r"`hypothesis_template`: 'a photo' has no \{\}",
        ),
        ({"hypothesis_template": "a {}."}, "is for `candidate_labels`"),
        ({}, "has no labels"),
    ],
)
def test_wrong_calls(classifier, kwargs, message):
    with pytest.raises(ValueError, match=message):
        classifier(IMAGES[0], **kwargs)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "holds no image"),
        (None, "must be an image or a list of images, got None"),
        ({"image": PATHS[0]}, "must be an image or a list of images"),
        (b"bytes", "must be an image or a list of images"),
        ("no-such-image.png", "Image 0 cannot be read"),
        ([IMAGES[0], 7], "Image 1 is not an image: 7"),
        (np.zeros((2, 8, 8, 3), np.uint8), "is a batch of shape"),
    ],
)
def test_what_is_not_an_image(classifier, images, message):
    with pytest.raises(ValueError, match=message):
        classifier(images, candidate_labels=LABELS)


def test_boxes_are_the_views(classifier):
    labelled = classifier.with_labels(LABELS)
    size = (IMAGES[0].height, IMAGES[0].width)
    for given in (BOXES, torch.tensor(BOXES), Regions(BOXES)):
        (result,) = labelled.classify(IMAGES[0], explain=True, boxes=given)
        assert result.explanation.views_xyxy.tolist() == squares_of_boxes(BOXES, size).tolist()
        assert result.explanation.kinds == ("region", "region")
        assert float(result.explanation.weights.sum()) == pytest.approx(1)


def test_only_some_images_have_boxes(classifier):
    labelled = classifier.with_labels(LABELS)
    results = labelled.classify([IMAGES[0], IMAGES[1], IMAGES[0]], explain=True, boxes=[BOXES, None, []])
    assert [set(result.explanation.kinds) for result in results] == [{"region"}, {"random"}, {"whole"}]
    (alone,) = labelled.classify([IMAGES[1]])
    assert [score.score for score in results[1].scores] == pytest.approx([score.score for score in alone.scores])
    # More boxes beside it, which are padding to it, change nothing.
    (single,) = labelled.classify(IMAGES[0], boxes=BOXES[:1])
    padded = labelled.classify([IMAGES[0], IMAGES[0]], boxes=[BOXES[:1], BOXES * 3])[0]
    assert [score.score for score in padded.scores] == pytest.approx([score.score for score in single.scores])


def test_boxes_need_no_proposer_and_ask_none(encoder):
    def propose(images):
        raise AssertionError("boxes are given")

    labelled = CrossAlignmentClassifier.from_encoder(encoder, LABELS, views="regions", proposer=propose)
    assert labelled.classify(IMAGES[0], boxes=BOXES)


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        (IMAGES, [BOXES], "there are only 1 entries of `boxes`"),
        (IMAGES, [BOXES] * 3, "there are only 2 images"),
        (IMAGES, 7, "must be a list with the boxes of each image"),
        (IMAGES, Regions(BOXES), "must be a list with the boxes of each image"),
        (IMAGES[0], [[2, 3, 1200, 10]], r"`boxes of image 0\[0\]` = .* is outside"),
        (IMAGES, [None, [[9, 3, 2, 10]]], r"`boxes of image 1\[0\]` = .* is inverted"),
        (IMAGES[0], [2, 3, 12, 10], r"shape \(number of boxes, 4\)"),
    ],
)
def test_boxes_that_do_not_fit(classifier, images, boxes, message):
    with pytest.raises(ValueError, match=message):
        classifier.with_labels(LABELS).classify(images, boxes=boxes)


def test_baselines_look_at_no_boxes(encoder):
    labelled = CrossAlignmentClassifier.from_encoder(encoder, LABELS, method="template")
    with pytest.raises(ValueError, match="method 'template' compares the whole image alone"):
        labelled.classify(IMAGES[0], boxes=BOXES)


def test_images_are_paired_with_their_boxes():
    assert list(images_with_boxes("a.jpg", BOXES)) == [("a.jpg", BOXES)]
    assert list(images_with_boxes(("a.jpg", "b.jpg"))) == [("a.jpg", None), ("b.jpg", None)]
    assert list(images_with_boxes(iter("ab"), iter([BOXES, None]))) == [("a", BOXES), ("b", None)]
