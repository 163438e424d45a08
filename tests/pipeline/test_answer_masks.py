"""Masks of answers: only the regions that they show are decoded, in one call, from what was seen already."""

import numpy as np
import pytest
import torch

from transformers_groma.answer_masks import add_masks, masks_of_user, shown_regions
from transformers_groma.boxes import box_xyxy_to_cxcywh, normalize_boxes
from transformers_groma.grounding import ground_text
from transformers_groma.masks import masks_of_logits
from transformers_groma.perceived_images import perceive
from transformers_groma.regions import regions_of_slots


@pytest.fixture
def seen(masking_pipe, photos):
    """What the model saw of the first two photos, as one batch, and their sizes."""
    images = perceive(masking_pipe.model, masking_pipe.processor, photos[:2])
    features = [image.features for image in images]
    return type(features[0]).stack(features), [image.size for image in images]


def answer(seen, image: int, markup: str, user_region_ids=()):
    features, sizes = seen
    regions = regions_of_slots(
        *(features.region_boxes, features.region_scores, features.region_mask),
        [(size.height, size.width) for size in sizes],
    )[image]
    return ground_text(markup, regions.xyxy, regions.scores, user_region_ids=user_region_ids)


def decoded(pipe, seen, image: int, number: int) -> np.ndarray:
    """The mask of a region, decoded by itself."""
    features, sizes = seen
    slots = torch.full((2, 1), -1)
    slots[image] = number
    logits = pipe.model.segment(features, slots=slots).logits[image, :, 0]
    return masks_of_logits(logits, sizes[image].height, sizes[image].width)[0]


def test_only_what_answers_show_is_decoded_in_one_call(masking_pipe, seen, segments):
    expected = [{number: decoded(masking_pipe, seen, image, number) for number in (0, 1, 3)} for image in (0, 1)]
    calls = segments(masking_pipe)
    first = answer(seen, 0, "<p>a dog</p> <roi><r3></roi> and <p>cups</p> <roi><r0><r3></roi>")
    second = answer(seen, 1, "<p>it</p> <roi><r1></roi>", user_region_ids=(1, 3))
    first, second = add_masks(masking_pipe.model, seen[0], [first, second], seen[1])
    (call,) = calls
    assert sorted(call["slots"][0].tolist()) == [0, 3] and sorted(call["slots"][1].tolist()) == [1, 3]
    assert [phrase.regions.masks.shape for phrase in first.phrases] == [(1, 240, 320), (2, 240, 320)]
    assert list(first.masks) == [3, 0] and list(second.masks) == [1, 3]
    for image, whole in enumerate((first, second)):
        for number, mask in whole.masks.items():
            assert np.array_equal(mask, expected[image][number])
    assert np.array_equal(first.phrases[1].regions.masks[0], expected[0][0])
    assert np.array_equal(second.user_regions.masks[1], expected[1][3])


def test_several_answers_about_an_image_share_its_masks(masking_pipe, seen, segments):
    calls = segments(masking_pipe)
    texts = ["<p>a</p> <roi><r1></roi>", "<p>b</p> <roi><r1><r2></roi>", "Nothing.", "<p>c</p> <roi><r0></roi>"]
    answers = [answer(seen, index // 2, text) for index, text in enumerate(texts)]
    answers = add_masks(masking_pipe.model, seen[0], answers, seen[1])
    (call,) = calls
    assert call["slots"].tolist() == [[1, 2], [0, -1]]
    assert [list(each.masks) for each in answers] == [[1], [1, 2], [], [0]]
    assert answers[3].phrases[0].regions.masks.shape == (1, 480, 200)


def test_masks_of_the_user_stay(masking_pipe, seen, segments):
    calls = segments(masking_pipe)
    own = np.zeros((240, 320), bool)
    own[5:9, 7:9] = True
    given = answer(seen, 0, "<p>it</p> <roi><r0></roi> and <p>it</p> <roi><r2></roi>", user_region_ids=(2, 1))
    known = masks_of_user(given, [own, None])
    assert list(known) == [2] and shown_regions(given) == [2, 1, 0]
    other = answer(seen, 1, "Hi")
    whole, other = add_masks(masking_pipe.model, seen[0], [given, other], seen[1], [known, {}])
    assert calls[0]["slots"].tolist() == [[1, 0], [-1, -1]]
    assert np.array_equal(whole.phrases[1].regions.mask, own) and np.array_equal(whole.user_regions.masks[0], own)
    assert other.masks == {}


def test_nothing_is_decoded_where_nothing_is_shown(masking_pipe, seen, segments):
    calls = segments(masking_pipe)
    answers = [answer(seen, image, "Hello <r99>.") for image in (0, 1)]
    assert [each.masks for each in add_masks(masking_pipe.model, seen[0], answers, seen[1])] == [{}, {}]
    assert add_masks(masking_pipe.model, seen[0], [], []) == []
    assert calls == []


def test_regions_of_a_later_turn_are_decoded_from_their_boxes(masking_pipe, seen):
    features, sizes = seen
    asked = [answer(seen, image, "<p>a</p> <roi><r2><r0></roi>") for image in (0, 1)]
    expected = add_masks(masking_pipe.model, features, asked, sizes)
    same = add_masks(masking_pipe.model, features, asked, sizes, region_boxes=features.region_boxes)
    for one, other in zip(expected, same, strict=True):
        for number in (0, 2):
            assert (one.masks[number] == other.masks[number]).mean() > 0.999
    moved = features.region_boxes.flip(1)
    flipped = add_masks(masking_pipe.model, features, asked, sizes, region_boxes=moved)
    box = normalize_boxes(box_xyxy_to_cxcywh(asked[0].regions.xyxy), 240, 320)[-1]
    torch.testing.assert_close(moved[0, 0], box, atol=1e-4, rtol=0)
    assert not np.array_equal(flipped[0].masks[0], expected[0].masks[0])


def test_a_model_without_a_mask_decoder(pipe, photos, seen):
    with pytest.raises(ValueError, match="`masks=True` needs a model with a mask decoder, .* `groma train masks`"):
        add_masks(pipe.model, seen[0], [answer(seen, 0, "Hi"), answer(seen, 1, "Hi")], seen[1])
