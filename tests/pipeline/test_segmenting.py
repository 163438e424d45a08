"""`segment`: the pixels of phrases and of regions, from one look at each image."""

import numpy as np
import pytest
import torch

from transformers_groma import Regions
from transformers_groma.masks import masks_to_boxes
from transformers_groma.perceived_images import perceive
from transformers_groma.segmenting import is_phrase, segmented

from .samples import BOX, with_mask_decoder

CLICK = {"point": [50, 60]}


def same(first: Regions, second: Regions) -> bool:
    assert len(first) == len(second)
    return (first.masks == second.masks).mean() > 0.999 and torch.allclose(first.scores, second.scores, atol=1e-4)


def test_regions_have_masks_the_boxes_around_them_and_their_quality(
    masking_pipe, photos, looks, segments, monkeypatch
):
    seen, calls = looks(masking_pipe), segments(masking_pipe)
    monkeypatch.setattr(masking_pipe.model, "generate", lambda *_, **__: pytest.fail("the language model ran"))
    given = np.zeros((240, 320), bool)
    given[30:60, 40:80] = True
    regions = masking_pipe.segment(photos[0], [BOX, CLICK, given, {"scribble": [[5, 5], [90, 90]]}])
    assert len(seen) == 1
    # Only the box is decoded beside the clicks, which find their regions.
    assert [call["boxes"].shape for call in calls if "boxes" in call] == [(1, 1, 4)]
    assert regions.masks.shape == (4, 240, 320) and regions.masks.any(axis=(1, 2)).all()
    assert np.allclose(regions.xyxy, masks_to_boxes(regions.masks))
    assert np.array_equal(regions.masks[2], given) and regions.scores[2] == 1
    assert all(0 < score < 1 for score in regions.scores[[0, 1, 3]].tolist())
    assert regions.labels is None and regions.ids == (0, 1, 2, 3)


def test_one_region_a_set_and_lists(masking_pipe, photos):
    image, size = photos[0], {"batch_size": 2}
    single = masking_pipe.segment(image, BOX)
    assert isinstance(single, Regions) and len(single) == 1
    for one in (np.array(BOX), torch.tensor([BOX]), Regions([BOX]), [Regions([BOX])], {"box": BOX}):
        assert same(masking_pipe.segment(image, one), single)
    both = masking_pipe.segment(image, [BOX, CLICK])
    assert len(both) == 2 and same(both[:1], single)
    assert not same(both, masking_pipe.segment(image, Regions([BOX, BOX])))
    # Lists of sets, of images, and both.
    sets = masking_pipe.segment(image, [[BOX], [BOX, CLICK], []], **size)
    assert [len(each) for each in sets] == [1, 2, 0] and same(sets[1], both)
    assert sets[2].masks.shape == (0, 240, 320)
    small = [0, 0, 90, 80]
    images = masking_pipe.segment(photos, small, **size)
    assert [each.masks.shape for each in images] == [(1, 240, 320), (1, 480, 200), (1, 100, 100)]
    paired = masking_pipe.segment(photos[:2], [[small], [CLICK, small]], **size)
    assert same(paired[0], images[0]) and same(paired[1][1:], images[1])
    fractions = masking_pipe.segment(image, [0.1, 0.1, 0.5, 0.5], normalized=True)
    assert same(fractions, masking_pipe.segment(image, [32, 24, 128, 96], box_format="xywh"))


def test_all_masks_that_a_click_may_have(masking_pipe, photos):
    several = masking_pipe.segment(photos[0], CLICK, multimask=True)
    assert len(several) == 3 and several.scores.tolist() == sorted(several.scores.tolist(), reverse=True)
    best = masking_pipe.segment(photos[0], CLICK)
    assert same(several[:1], best)
    # By size in the model's square, where they are ranked.
    (image,) = perceive(masking_pipe.model, masking_pipe.processor, photos[:1])
    points = torch.tensor([[[[50 / 320, 60 / 240]]]])
    decoded = masking_pipe.model.segment(image.features, points=points, multimask=True)
    best_first = decoded.quality[0, 0].argsort(descending=True)
    by_size = (decoded.logits[0, 0, best_first] > 0).sum(dim=(1, 2)).argsort().tolist()
    for which, place in zip(("part", "object", "group"), by_size, strict=True):
        assert same(masking_pipe.segment(photos[0], {**CLICK, "ambiguity": which}), several[[place]])
    lists = masking_pipe.segment(photos[:2], [[CLICK], [[0, 0, 90, 80]]], multimask=True)
    assert [len(each) for each in lists] == [3, 3] and same(lists[0], several)


def test_a_phrase_is_located_first(masking_groma, scenes, looks, segments):
    image = scenes[0].draw()
    expected = masking_groma.locate(image, "the large red star", masks=True, max_new_tokens=256)
    seen, calls = looks(masking_groma), segments(masking_groma)
    (star,) = masking_groma.segment(image, "the large red star", max_new_tokens=256)
    assert len(seen) == len(calls) == 1
    assert star.label == "the large red star" and star.id == expected.region_ids[0]
    assert np.array_equal(star.mask, expected.regions.mask) and star.score == expected.regions.score
    several = masking_groma.segment(image, ["the large red star", "stars"], batch_size=2, max_new_tokens=256)
    assert len(seen) == 2 and [set(each.labels) for each in several] == [{"the large red star"}, {"stars"}]


def test_what_is_not_found_is_empty(masking_pipe, photos):
    nothing = masking_pipe.segment(photos[0], "the cup", max_new_tokens=2)
    assert len(nothing) == 0 and nothing.masks.shape == (0, 240, 320) and nothing.labels == ()
    # As where there are masks, so that the union of no masks is one of the image, too.
    for verb in (masking_pipe.locate, masking_pipe.locate_all):
        single, (first,) = (verb(photos[0], phrase, masks=True, max_new_tokens=2) for phrase in ("the cup", ["cups"]))
        assert not single and single.masks.shape == first.masks.shape == (0, 240, 320)
        assert verb(photos[0], "the cup", max_new_tokens=2).masks is None


def test_an_empty_mask_leaves_the_box():
    masks = np.zeros((2, 9, 9), bool)
    masks[0, 2:4, 3:8] = True
    regions = segmented(Regions([[0, 0, 9, 9], [1, 1, 5, 5]], ids=[4, 7]), masks, [0.5, 0.25])
    assert regions.xyxy.tolist() == [[3, 2, 8, 4], [1, 1, 5, 5]]
    assert regions.ids == (4, 7) and regions.scores.tolist() == [0.5, 0.25]


def test_phrases_and_regions_are_told_apart():
    for phrase in ("cups", ["cups"], ("cups", "the chair"), ""):
        assert is_phrase(phrase)
    for regions in (BOX, [BOX], [], None, {"point": [1, 2]}, np.zeros((4, 4), bool), Regions([BOX])):
        assert not is_phrase(regions)
    for mixed in (["cups", BOX], [{"point": [1, 2]}, "cups"], ["cups", None]):
        with pytest.raises(ValueError, match=r"`target` mixes phrases and regions: .* two calls\.$"):
            is_phrase(mixed)


@pytest.mark.parametrize(
    ("target", "settings", "words"),
    [
        ("", {}, "`target` is empty"),
        (["the cup", " "], {}, r"`target\[1\]` is empty"),
        (None, {}, "`target` is not a region: None. Pass a box"),
        ([900, 0, 950, 20], {}, "`target` = .* outside"),
        ([BOX, {"point": [1]}], {}, r"`target\[1\]\['point'\]` must be a point"),
        ([[BOX]] * 3, {"image": 2}, "`target` has length 3, but `image` has 2"),
        ("the cup", {"box_format": "xywh"}, "`box_format` is for regions, but `target` is a phrase. Leave it out"),
        ("the cup", {"normalized": False}, "`normalized` is for regions"),
        ("the cup", {"multimask": True}, "`multimask` is for regions"),
        (BOX, {"max_new_tokens": 5}, "`max_new_tokens` is for phrases, .* but `target` is regions. Leave it out"),
        (BOX, {"generate_kwargs": {}}, "`generate_kwargs` is for phrases"),
        (BOX, {"batch_size": 0}, "`batch_size` must be a positive integer"),
        (BOX, {"multimask": "yes"}, "`multimask` must be True or False"),
        ([BOX, BOX], {"multimask": True}, "`target` has 2 regions for an image. Pass one"),
        ([], {"multimask": True}, "`target` has 0 regions for an image"),
        ({**CLICK, "ambiguity": "part"}, {"multimask": True}, "gives all masks, but `ambiguity` 'part' picks one"),
        (np.ones((240, 320), bool), {"multimask": True}, "a click, a scribble or a box, but `target` is a mask"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(masking_pipe, photos, never_asked, target, settings, words):
    never_asked(masking_pipe)
    image = photos[: settings.pop("image")] if "image" in settings else photos[0]
    with pytest.raises(ValueError, match=words):
        masking_pipe.segment(image, target, **settings)


def test_what_segment_cannot_take(masking_pipe, pipe, tiny_dir, photos, never_asked):
    with pytest.raises(TypeError, match="`segment` does not take `masks`, `stream`. It takes `image`, `target`"):
        masking_pipe.segment(photos[0], BOX, masks=True, stream=True)
    with pytest.raises(ValueError, match="`segment` needs a model with a mask decoder, .*`groma train masks`"):
        pipe.segment(photos[0], BOX)
    single = with_mask_decoder(tiny_dir, num_multimask_outputs=0)
    never_asked(single)
    with pytest.raises(ValueError, match="`multimask=True` needs a mask decoder that makes several masks"):
        single.segment(photos[0], CLICK, multimask=True)
