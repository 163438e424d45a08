"""Captions, descriptions and training views: words are known, views show what captions say, no class leaks."""

import numpy as np
import pytest

from scripts.shapes_clip import data
from scripts.shapes_clip.build import MAX_TOKENS, build_processor
from scripts.shapes_clip.data import SEEN, UNSEEN, CaptionedViews, Collator, random_view, shown_share, size_word
from scripts.shapes_clip.scenes import CLASSES, Layout, ObjectClass, make_cluttered_scene
from scripts.shapes_clip.texts import UNKNOWN_WORDS, caption, descriptions
from transformers_groma.zero_shot.label_texts import texts_of_labels


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def test_descriptions_have_the_form_of_cupl_and_known_words_that_are_not_cut(processor):
    names = [kind.name for kind in CLASSES]
    found = texts_of_labels(names, descriptions(), "cupl")
    assert found.unused == () and {len(texts) for texts in found.texts} == {10}
    unknown = processor.tokenizer.unk_token_id
    for ids in processor.tokenizer([text for texts in (*found.texts, found.anchors) for text in texts])["input_ids"]:
        assert unknown not in ids and len(ids) <= MAX_TOKENS


def test_captions_are_about_the_main_object_and_need_no_other_words(processor):
    rng = np.random.default_rng(0)
    kind = ObjectClass("striped", "purple", "heart")
    for part in ("whole", "part", "close"):
        texts = [caption(kind, {"part": part, "size": "large", "tone": "dark"}, rng) for _ in range(200)]
        for text in texts:
            known = text.split(", " + UNKNOWN_WORDS[0])[0] if UNKNOWN_WORDS[0] in text else text
            words = [word for word in processor.tokenizer.tokenize(known) if word not in UNKNOWN_WORDS]
            others = {color for color in ("red", "green", "star", "dotted", "solid") if color in words}
            assert not others, text
        assert len(set(texts)) > 5
        assert any("purple" in text for text in texts)
    assert any("part of" in caption(kind, {"part": "part", "size": None, "tone": "dark"}, rng) for _ in range(20))


def test_unseen_classes_are_in_no_batch_and_their_words_are():
    assert len(UNSEEN) == 30 and len(SEEN) == 270 and not set(UNSEEN) & set(SEEN)
    for number in range(3):
        assert {kind[number] for kind in UNSEEN} <= {kind[number] for kind in SEEN}
    assert {kind[1:] for kind in UNSEEN} <= {kind[1:] for kind in SEEN}


@pytest.mark.parametrize("alike", [False, True])
def test_no_class_is_twice_in_a_batch(alike):
    kinds = data._shuffled(np.random.default_rng(0), alike)
    assert sorted(kinds) == sorted(SEEN)
    looks = {kind[:2] for kind in kinds[:64]}
    # 30 textures and colors, 9 shapes each.
    assert len(looks) == 8 if alike else len(looks) > 20


def test_examples_follow_from_their_number_and_the_scene_is_drawn_once(monkeypatch):
    drawn = []
    make = data._training_scene
    monkeypatch.setattr(data, "_training_scene", lambda *arguments: drawn.append(arguments) or make(*arguments))
    views = CaptionedViews(batches=4, batch_size=3)
    examples = [views[index] for index in range(12)]
    assert len(drawn) == 6, "two batches look at the same scenes"
    again = CaptionedViews(batches=4, batch_size=3)[7]
    assert again["text"] == examples[7]["text"]
    assert (np.asarray(again["image"]) == np.asarray(examples[7]["image"])).all()
    assert (np.asarray(examples[0]["image"]) != np.asarray(examples[3]["image"])).any()


@pytest.mark.parametrize("batch_size", [0, 271])
def test_a_batch_needs_classes(batch_size):
    with pytest.raises(ValueError, match=f"`batch_size` must be 1 to 270.*got {batch_size}"):
        CaptionedViews(batches=1, batch_size=batch_size)


def test_views_are_squares_that_show_as_much_as_they_say():
    rng = np.random.default_rng(0)
    scene = make_cluttered_scene("train", 0, Layout((0.4, 0.5), (0, 5)), ObjectClass("dotted", "blue", "square"))
    found = [random_view(scene, rng) for _ in range(300)]
    for (left, top, right, bottom), part in found:
        assert right - left == bottom - top > 0 and left >= 0 and top >= 0 and max(right, bottom) <= 224
        share = shown_share(scene.main_box_xyxy, (left, top, right, bottom))
        if part == "close":
            x, y = (left + right) / 2, (top + bottom) / 2
            x1, y1, x2, y2 = scene.main_box_xyxy
            assert x1 < x < x2 and y1 < y < y2 and right - left < x2 - x1
        else:
            assert share >= 0.9 if part == "whole" else 0.4 <= share < 0.9
    assert {part for _, part in found} == {"whole", "part", "close"}
    assert size_word(scene, (0, 0, 224, 224)) is None and size_word(scene, scene.main_box_xyxy) == "large"


def test_batches_are_prepared_as_the_processor_prepares_images(processor):
    examples = [CaptionedViews(batches=1, batch_size=2)[index] for index in range(2)]
    batch = Collator(processor)(examples)
    images = [example["image"] for example in examples]
    expected = processor(text=[e["text"] for e in examples], images=images, return_tensors="pt", padding=True)
    np.testing.assert_allclose(batch["pixel_values"], expected["pixel_values"], atol=1e-6)
    assert (batch["input_ids"] == expected["input_ids"]).all() and batch["return_loss"]
