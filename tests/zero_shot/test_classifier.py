"""The classifier on the golden encoder: its views, explanations, labels, images in all forms, and what it refuses."""

import json
import re
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import transformers_groma
from transformers_groma.zero_shot import CrossAlignmentClassifier
from transformers_groma.zero_shot.scores import weighted_sum
from transformers_groma.zero_shot.view_features import encode_views
from transformers_groma.zero_shot.views import Views

SMALL = {"view_count": 6}


@pytest.fixture(scope="module")
def images(first_case):
    """Five images of several shapes."""
    wide, tall = first_case.images
    return [wide, tall, wide.crop((0, 0, 40, 40)), tall.rotate(90, expand=True), wide.resize((200, 20))]


def assert_same(one, other):
    """Both classifications have the same labels in the same order and the same scores, within rounding."""
    assert [score.label for score in one.scores] == [score.label for score in other.scores]
    found = torch.tensor([[score.score, score.probability] for score in one.scores])
    assert_close(found, torch.tensor([[score.score, score.probability] for score in other.scores]), atol=2e-6, rtol=0)


def test_the_class_is_found_where_users_look():
    assert transformers_groma.CrossAlignmentClassifier is CrossAlignmentClassifier


@pytest.mark.parametrize("views", ["random", "grid", None])
def test_a_result_does_not_depend_on_the_images_beside_it(first_case, images, views):
    classifier = first_case.classifier(views=views, **SMALL)
    together = classifier.classify(images)
    for image, result in zip(images, together, strict=True):
        assert_same(classifier.classify([image])[0], result)
    for result, expected in zip(classifier.classify(iter(images[::-1])), together[::-1], strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("view_batch", [1, 5, 10_000])
def test_a_result_does_not_depend_on_the_batch_of_views(first_case, images, view_batch):
    model = first_case.encoder
    processor = type("Processor", (), {"image_processor": model.image_processor, "tokenizer": model.tokenizer})
    classifier = CrossAlignmentClassifier(
        *(model.model, processor, first_case.labels, first_case.notes["descriptions"]),
        view_batch=view_batch,
        **first_case.temperatures,
        **SMALL,
    )
    seen = []
    encode = model.model.get_image_features
    model.model.get_image_features = lambda pixel_values: seen.append(len(pixel_values)) or encode(pixel_values)
    try:
        found = classifier.classify(images)
    finally:
        del model.model.get_image_features
    assert sum(seen) == 5 * 7 and max(seen) == min(view_batch, 35)
    for result, expected in zip(found, first_case.classifier(**SMALL).classify(images), strict=True):
        assert_same(result, expected)


def test_the_seed_decides_the_views_and_two_images_have_their_own(first_case, images):
    def places(seed):
        return [views.xyxy for views in first_case.classifier(seed=seed, **SMALL).views_of(images)]

    first, again, other = places(0), places(0), places(1)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    turned = images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert not torch.equal(first_case.classifier(**SMALL).views_of([turned])[0].xyxy, first[0])


@pytest.mark.parametrize("score", ["paper", "released"])
@pytest.mark.parametrize("views", ["random", None])
def test_the_explanation_sums_to_the_score(first_case, images, score, views):
    for result in first_case.classifier(score=score, views=views, **SMALL).classify(images, explain=True):
        explanation = result.explanation
        assert_close(explanation.weights.sum(), torch.tensor(1.0))
        for label in result.scores:
            contributions = explanation.contributions(label.label)
            texts = explanation.descriptions(label.label)
            assert contributions.shape == (len(explanation.views_xyxy), len(texts))
            assert contributions.shape == explanation.similarities(label.label).shape
            assert float(contributions.sum()) == pytest.approx(label.score, abs=1e-6)
            assert_close(explanation.description_weights(label.label).sum(), torch.tensor(1.0))
            supports = explanation.strongest(label.label, n=10_000)
            assert len(supports) == contributions.numel()
            assert sum(support.contribution for support in supports) == pytest.approx(label.score, abs=1e-6)


def test_the_strongest_supports_are_what_they_say(first_case, images):
    (result,) = first_case.classifier(**SMALL).classify(images[0], explain=True)
    explanation = result.explanation
    supports = explanation.strongest(result.label, n=3)
    values = [support.contribution for support in supports]
    assert values == sorted(values, reverse=True) and values[0] == float(explanation.contributions(result.label).max())
    best = supports[0]
    view = explanation.views_xyxy.tolist().index(list(best.view_xyxy))
    text = explanation.descriptions(result.label).index(best.description)
    assert best.kind == "random"
    features = first_case.encoder.encode_images([images[0].crop(best.view_xyxy)])
    similarity = float(features @ first_case.encoder.encode_texts([best.description]).T)
    assert best.similarity == pytest.approx(similarity, abs=1e-6)
    weight = float(explanation.weights[view] * explanation.description_weights(result.label)[text])
    assert best.contribution == pytest.approx(weight * similarity, abs=1e-6)
    with pytest.raises(ValueError, match="'a dog' is not one of the classifier's 4 labels"):
        explanation.strongest("a dog")


def test_a_result_becomes_json(first_case, images):
    classifier = first_case.classifier(**SMALL)
    plain, explained = (classifier.classify(images[0], explain=explain)[0] for explain in (False, True))
    assert plain.explanation is None and "supports" not in plain.to_dict()
    record = json.loads(json.dumps(explained.to_dict(strongest=2)))
    assert record["label"] == record["scores"][0]["label"] == explained.label
    assert len(record["scores"]) == 4 and len(record["supports"]) == 2
    assert set(record["supports"][0]) == {"view_xyxy", "kind", "description", "similarity", "contribution"}
    scores = [score["score"] for score in record["scores"]]
    assert scores == sorted(scores, reverse=True)


def propose(squares):
    """A proposer that finds the same squares in every image."""
    return lambda images: [torch.tensor(squares, dtype=torch.int64).reshape(-1, 4) for _ in images]


def test_regions_are_views_alone_or_beside_random_squares(first_case, images):
    squares = [[0, 0, 20, 20], [10, 0, 30, 20]]
    (regions,) = first_case.classifier(views="regions", proposer=propose(squares)).views_of(images[:1])
    assert regions.xyxy.tolist() == squares and regions.kinds == ("region",) * 2
    (both,) = first_case.classifier(views="both", proposer=propose(squares), **SMALL).views_of(images[:1])
    (random,) = first_case.classifier(**SMALL).views_of(images[:1])
    assert both.xyxy.tolist() == [*random.xyxy.tolist(), *squares]
    assert both.kinds == ("random",) * 6 + ("region",) * 2


def test_an_image_in_which_nothing_is_proposed_is_looked_at_as_a_whole(first_case, images):
    """Beside others, which have views: their number does not change it."""

    def propose_in_wide_images(images):
        return [torch.tensor([[0, 0, 20, 20]] if image.width > 60 else []).long() for image in images]

    results = first_case.classifier(views="regions", proposer=propose_in_wide_images).classify(images, explain=True)
    whole = first_case.classifier(views=None).classify(images)
    kinds = [result.explanation.kinds for result in results]
    assert kinds == [("region",) if image.width > 60 else ("whole",) for image in images]
    for image, result, expected in zip(images, results, whole, strict=True):
        if image.width <= 60:
            assert_same(result, expected)
            assert result.explanation.views_xyxy.tolist() == [[0, 0, image.width, image.height]]


def test_padding_is_neither_encoded_nor_counted(first_case, images):
    squares = torch.tensor([[0, 0, 20, 20], [0, 0, 0, 0], [5, 5, 25, 25]])
    padded = Views(squares, ("region",) * 3, torch.tensor([False, True, False]))
    plain = Views.of_kind(squares[[0, 2]], "region")
    nothing = Views(squares[[1]], ("region",), torch.tensor([True]))
    classifier = first_case.classifier()
    features = encode_views(first_case.encoder, [images[0]] * 3, [padded, plain, nothing])
    weights = classifier.weights(features)
    assert weights[0, 1] == 0
    assert_close(weights[0, [0, 2]], weights[1, :2])
    assert_close(weights.sum(dim=-1), torch.ones(3))
    scores = classifier.scores(features)
    assert_close(scores[0], scores[1], atol=1e-6, rtol=0)
    whole = weighted_sum(features.whole[[0], None], torch.ones(1, 1)) @ classifier.texts.pooled.T
    assert_close(scores[2:], whole, atol=1e-6, rtol=0)


def test_images_come_in_every_form(first_case, tmp_path):
    """Turned by EXIF, with a palette, grey, 16 bits, with transparency, as array, tensor, path and base64 text."""
    wide = first_case.images[0]
    classifier = first_case.classifier(**SMALL)
    (expected,) = classifier.classify(wide)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = wide.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.png", exif=exif)
    wide.save(tmp_path / "plain.png")
    transparent = wide.copy()
    transparent.putalpha(255)
    forms = [
        *(tmp_path / "turned.png", tmp_path / "plain.png", str(tmp_path / "plain.png"), transparent),
        *(np.asarray(wide), torch.from_numpy(np.array(wide)).permute(2, 0, 1), np.asarray(wide) / 255),
    ]
    for result in classifier.classify(forms):
        assert_same(result, expected)
    grey = wide.convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    palette = wide.quantize(16)
    for one, other in ((grey, grey.convert("RGB")), (sixteen, grey), (palette, palette.convert("RGB"))):
        for results in zip(*(classifier.classify(image) for image in (one, other)), strict=True):
            assert_same(*results)


@pytest.mark.parametrize("size", [(2, 2), (9, 9), (3, 400), (400, 3)])
@pytest.mark.parametrize("views", ["random", "grid"])
def test_images_of_any_shape_are_classified(first_case, size, views):
    image = first_case.images[0].resize(size)
    (result,) = first_case.classifier(views=views, bounds=(0.1, 0.9), **SMALL).classify(image, explain=True)
    sides = result.explanation.views_xyxy[:, 2:] - result.explanation.views_xyxy[:, :2]
    assert sides.min() >= 1
    assert torch.tensor([score.score for score in result.scores]).isfinite().all()


def test_other_labels_cost_their_new_texts_alone(first_case, images):
    encoder = first_case.encoder
    classifier = CrossAlignmentClassifier.from_encoder(encoder, ["cat", "dog"], {"cat": ["a"], "dog": ["b"]}, **SMALL)
    classifier.classify(images[0])
    seen = []
    encode = encoder.model.get_text_features
    encoder.model.get_text_features = lambda input_ids, attention_mask: (
        seen.append(len(input_ids)) or encode(input_ids, attention_mask)
    )
    try:
        other = classifier.with_labels(["dog", "cow"], {"dog": ["b"], "cow": ["a", "c"]})
        other.classify(images)
        classifier.classify(images)
        classifier.with_labels(["dog"]).classify(images)
    finally:
        del encoder.model.get_text_features
    assert seen == [2]  # the anchor of "cow", and "c"
    assert classifier.labels == ("cat", "dog") and other.labels == ("dog", "cow")


def test_labels_are_the_keys_of_descriptions_unless_they_are_named(first_case, images):
    descriptions = first_case.notes["descriptions"]
    classifier = CrossAlignmentClassifier.from_encoder(first_case.encoder, descriptions=descriptions, **SMALL)
    assert classifier.labels == tuple(descriptions)
    (result,) = classifier(images[:1], candidate_labels=["cloud", "wooden_box"])
    assert {one["label"] for one in result} == {"cloud", "wooden_box"}
    alone = classifier.with_labels(["cloud", "wooden_box"]).classify(images[0])[0]
    assert [one["score"] for one in result] == [score.probability for score in alone.scores]


def test_own_labels_answer_a_call_without_candidates(first_case, images):
    classifier = first_case.classifier(**SMALL)
    found = classifier(images[0])
    assert [one["label"] for one in found] == [score.label for score in classifier.classify(images[0])[0].scores]
    assert len(classifier(images)) == 5
    with pytest.raises(ValueError, match="`hypothesis_template='a {}'` is for `candidate_labels`"):
        classifier(images, hypothesis_template="a {}")


def test_one_label_is_certain_by_softmax_and_has_a_score(first_case, images):
    (result,) = CrossAlignmentClassifier.from_encoder(first_case.encoder, ["cloud"], **SMALL).classify(images[0])
    assert [(score.label, score.probability) for score in result.scores] == [("cloud", 1.0)]
    assert -1 < result.scores[0].score < 1


@pytest.mark.parametrize(
    ("method", "name"), [("template", "clip"), ("ensemble", "clip-e"), ("dclip", "clip-d"), ("cupl", "cupl")]
)
def test_baselines_are_those_of_the_released_code(golden_case, method, name):
    """Whatever views and score are asked for: they look at the whole image and compare by cosine."""
    notes = golden_case.notes
    texts = {
        "template": {"descriptions": None},
        "ensemble": {"descriptions": None, "templates": notes["clip_e"]},
        "dclip": {"descriptions": notes["clip_d"]},
        "cupl": {"descriptions": notes["descriptions"]},
    }
    classifier = golden_case.classifier(method=method, **texts[method])
    pooled = torch.nn.functional.normalize(classifier.texts.pooled, dim=-1)
    tolerance = {"atol": 1e-5, "rtol": 0}
    assert_close(pooled, golden_case.tensors[f"baseline.{name}.class_embeds"], **tolerance)
    features = classifier.encode(golden_case.images)
    assert features.views.shape[1] == 1
    scores = classifier.scores(features)
    assert_close(scores, golden_case.tensors[f"baseline.{name}.logits"], **tolerance)
    assert scores.argmax(dim=-1).tolist() == notes["pred_baselines"][name]
    best = [result.label for result in classifier.classify(golden_case.images)]
    assert best == [golden_case.labels[index] for index in notes["pred_baselines"][name]]


BAD_SETTINGS = [
    ({"views": "squares"}, "`views` must be one of 'random', 'grid', 'regions', 'both', or None"),
    ({"views": "regions"}, "`views='regions'` needs a `proposer`"),
    ({"views": "both"}, "`views='both'` needs a `proposer`"),
    ({"proposer": propose([])}, "`views='random'` asks no `proposer`: leave it out"),
    ({"view_count": 0}, "`view_count` must be a positive integer, got 0; for the whole image alone pass `views=None`"),
    ({"bounds": (0.5, 1.5)}, "`bounds` must be a fraction of the shorter side"),
    ({"seed": -1}, "`seed` must be a non-negative integer, got -1"),
    ({"seed": 0.5}, "`seed` must be a non-negative integer, got 0.5"),
    ({"score": "cosine"}, "`score` must be one of 'paper', 'released', got 'cosine'"),
    ({"image_temperature": 0.0}, "`image_temperature` must be a finite number above 0, got 0.0"),
    ({"text_temperature": float("nan")}, "`text_temperature` must be a finite number above 0, got nan"),
    ({"image_temperature": 1e39}, "`image_temperature` must be a finite number above 0, got 1e+39 (1e30 at most)"),
    ({"text_temperature": 10**400}, "`text_temperature` must be a finite number above 0, got 1000"),
    ({"score": ["paper"]}, "`score` must be one of 'paper', 'released', got ['paper']"),
    ({"views": "both", "proposer": 3}, "`proposer` must be a function of images, or a RegionViews, got 3"),
    ({"method": "clip"}, "`method` must be one of"),
    ({"anchor_template": "a photo"}, "`anchor_template`"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_settings_out_of_range_are_refused(first_case, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CrossAlignmentClassifier.from_encoder(first_case.encoder, ["cat"], **settings)


BAD_LABELS = [
    ([], None, "`labels` must have at least one label, got none"),
    ("cat", None, "`labels` must be a list of texts"),
    (["cat", 3], None, "`labels`: label 2 is .*, not a text"),
    (["cat", " "], None, "`labels`: label 2 is blank"),
    (["cat", "cat"], None, "'cat' appears twice"),
    (["red_ball", "red ball"], None, "'red_ball' and 'red ball' have one name"),
    (["cat", "dog"], {"cat": ["a"]}, r"`descriptions` lack 1 of 2 labels: 'dog'"),
    (["cat"], {"cat": []}, "'cat' has no text"),
    (["cat"], {"cat": "furry"}, "'cat' is .*, not a list"),
    (["cat"], {}, "`descriptions` holds no class"),
    (["red__ball", "red ball"], None, "'red__ball' and 'red ball' have one name"),
    (None, 3, "`descriptions` holds a number"),
    (None, {}, "`labels` must have at least one label|`descriptions` holds no class"),
]


@pytest.mark.parametrize(("labels", "descriptions", "message"), BAD_LABELS, ids=lambda value: str(value)[:40])
def test_labels_that_cannot_be_told_apart_or_lack_texts_are_refused(first_case, labels, descriptions, message):
    with pytest.raises(ValueError, match=message):
        CrossAlignmentClassifier.from_encoder(first_case.encoder, labels, descriptions)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "`images` holds no image: pass at least one"),
        (iter(()), "`images` holds no image"),
        (None, "`images` must be an image or a list of images, got None"),
        (3, "`images` must be an image or a list of images, got 3"),
        ({"image": 1}, "`images` must be an image or a list of images"),
        ([None], "Image 0 is not an image: None"),
        ("no_such_file.png", "Image 0 cannot be read as an image file"),
        (np.zeros((3, 8, 8, 3), dtype=np.uint8), "Image 0 is a batch of shape"),
        (Image.new("RGB", (1, 1)), "Image 0 has 1x1 .* pixels, which is too small"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_an_image_is_named(first_case, images, message):
    with pytest.raises(ValueError, match=message):
        first_case.classifier(**SMALL).classify(images)


def test_the_number_of_a_bad_image_is_its_place(first_case, images):
    classifier = first_case.classifier(view_count=60)
    with pytest.raises(ValueError, match="Image 6 is not an image"):
        classifier.classify(chain(images, images[:1], ["no image"][:0], [4]))


def test_a_classifier_without_labels_says_so(first_case, images):
    with pytest.raises(ValueError, match="has no labels: pass `labels` to it, or `candidate_labels` to its call"):
        CrossAlignmentClassifier.from_encoder(first_case.encoder).classify(images)


@pytest.mark.parametrize(
    ("squares", "message"),
    [
        (torch.zeros(2, 4), "must give integers of shape"),
        (torch.zeros(2, 3, dtype=torch.int64), "must give integers of shape"),
        (torch.tensor([[0, 0, 500, 20]]), r"inside of each image .*, got \[0, 0, 500, 20\] for an image of 96x64"),
        (torch.tensor([[-1, 0, 10, 11]]), "inside of each image"),
        (torch.tensor([[5, 5, 5, 9]]), "inside of each image"),
        (torch.zeros(1, 4, dtype=torch.complex64), "must give integers of shape"),
        (None, r"must give integers of shape .*, got None for image 0"),
        ([[1, 2], [3]], r"must give integers of shape .*, got \[\[1, 2\], \[3\]\] for image 0"),
    ],
)
def test_squares_of_a_proposer_are_checked(first_case, images, squares, message):
    classifier = first_case.classifier(views="regions", proposer=lambda images: [squares] * len(images))
    with pytest.raises(ValueError, match=message):
        classifier.classify(images[0])


@pytest.mark.parametrize(
    ("proposed", "message"),
    [
        (None, "must give a list with the views of each image, got None"),
        ("none", "must give a list with the views of each image, got 'none'"),
        ([], "must give one entry for each image, got 0 for 1: an image in which it finds nothing has an empty one"),
        ([[], []], "must give one entry for each image, got 2 for 1"),
    ],
)
def test_what_is_not_the_views_of_each_image_is_refused(first_case, images, proposed, message):
    with pytest.raises(ValueError, match=f"`proposer` {message}"):
        first_case.classifier(views="regions", proposer=lambda images: proposed).classify(images[0])


@pytest.mark.parametrize("n", [-1, 1.5, None, True])
def test_how_many_places_is_a_number(first_case, images, n):
    (result,) = first_case.classifier(**SMALL).classify(images[0], explain=True)
    for asked in (result.explanation.strongest, result.explanation.places):
        with pytest.raises(ValueError, match=f"must be a whole number of at least 0, got {n}"):
            asked(result.label, n)
        assert asked(result.label, 0) == []


def test_no_image_has_no_features(first_case):
    with pytest.raises(ValueError, match="`images` holds no image"):
        first_case.classifier(**SMALL).encode([])


def test_broken_weights_name_the_image(first_case, images):
    model = first_case.encoder.model
    classifier = first_case.classifier(**SMALL)
    assert len(classifier.texts.features) == 4  # encoded before the weights break
    encode = model.get_image_features

    def broken(pixel_values):
        features = encode(pixel_values).pooler_output.clone()
        features[9] = torch.nan
        return features

    model.get_image_features = broken
    try:
        with pytest.raises(ValueError, match=r"NaN or infinite for the view \[.*\] \(xyxy\) of image 1"):
            classifier.classify(images)
    finally:
        del model.get_image_features
