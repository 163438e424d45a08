"""Verbs with `masks=True`: answers have masks of what they show, and no image is looked at twice."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from transformers_groma import GroundedText
from transformers_groma.answer_masks import shown_regions

from .samples import BOX

CLICK = {"point": [100, 120]}
SCRIBBLE = {"scribble": [[40, 50], [90, 95], [120, 60]]}
LONG = {"max_new_tokens": 256}


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.hypot(y - 100, x - 120) < 40


def check(answer: GroundedText, height: int, width: int) -> None:
    """All that an answer shows has a mask of the image's size, and nothing else has."""
    assert list(answer.masks) == shown_regions(answer)
    for phrase in answer.phrases:
        assert phrase.regions.masks.shape == (len(phrase.regions), height, width)
    if answer.user_region_ids:
        assert answer.user_regions.masks.shape == (len(answer.user_region_ids), height, width)
    assert answer.regions.masks is None


def test_every_verb_looks_once_and_decodes_once(masking_groma, scenes, looks, segments):
    image, side = scenes[0].draw(), 448
    seen, calls = looks(masking_groma), segments(masking_groma)
    asked = {**LONG, "masks": True}
    for ask in (
        lambda: masking_groma.caption(image, **asked),
        lambda: masking_groma.describe(image, scenes[0].boxes_xyxy[0], **asked),
        lambda: masking_groma.ask(image, "What is right of this?", [scenes[0].boxes_xyxy[0]], grounded=True, **asked),
        lambda: masking_groma.chat(image).ask("What is this?", [scenes[0].boxes_xyxy[0]], grounded=True, **asked),
        lambda: masking_groma("docs/images/scene.png", "[grounding]Describe the image in detail.", **asked),
    ):
        answer = ask()
        assert len(seen) == 1 and len(calls) == 1 and answer.masks
        check(answer, side, side)
        seen.clear(), calls.clear()
    for find in (masking_groma.locate, masking_groma.locate_all):
        found = find(image, "the large red star", **asked)
        assert len(seen) == 1 and len(calls) == 1 and len(found.regions.masks) == len(found.boxes) > 0
        assert found.as_answer().to_dict()["regions"][0]["mask"]["size"] == [side, side]
        seen.clear(), calls.clear()


def test_without_masks_none_are_decoded(masking_groma, scenes, segments):
    calls = segments(masking_groma)
    answer = masking_groma.caption(scenes[0].draw(), **LONG)
    assert answer.phrases and answer.masks == {} and answer.phrases[0].regions.masks is None
    assert calls == []


def test_lists_have_the_masks_of_single_calls(masking_groma, scenes, segments):
    images = [scene.draw() for scene in scenes]
    calls = segments(masking_groma)
    together = masking_groma.caption(images, batch_size=2, masks=True, **LONG)
    assert len(calls) == 1
    for image, answer in zip(images, together, strict=True):
        check(answer, image.height, image.width)
        alone = masking_groma.caption(image, masks=True, **LONG)
        assert answer.markup == alone.markup
        for number, mask in answer.masks.items():
            assert (mask == alone.masks[number]).mean() > 0.999


def test_several_answers_to_a_question(masking_groma, scenes):
    sampled = {"num_return_sequences": 3, "do_sample": True, "temperature": 1.5}
    torch.manual_seed(0)
    answers = masking_groma.caption(scenes[0].draw(), masks=True, generate_kwargs=sampled, max_new_tokens=40)
    assert len(answers) == 3 and len({answer.markup for answer in answers}) > 1
    for answer in answers:
        check(answer, 448, 448)


def test_the_last_answer_of_a_stream_has_the_masks(masking_groma, scenes, looks, segments):
    image = scenes[0].draw()
    whole = masking_groma.caption(image, masks=True, **LONG)
    seen, calls = looks(masking_groma), segments(masking_groma)
    *partials, last = masking_groma.caption(image, masks=True, stream=True, **LONG)
    assert len(seen) == len(calls) == 1 and len(partials) > 10
    assert all(partial.masks == {} for partial in partials)
    assert last.to_dict() == whole.to_dict() and last.masks


@pytest.mark.parametrize("region", [BOX, CLICK, SCRIBBLE, {"mask": disc(240, 320)}, disc(240, 320)])
def test_regions_in_every_form(masking_pipe, photos, looks, region):
    seen = looks(masking_pipe)
    described = masking_pipe.describe(photos[0], region, masks=True)
    asked = masking_pipe.ask(photos[0], "What is <region>?", regions=[region], masks=True)
    chatted = masking_pipe.chat(photos[0]).ask("What is <region>?", regions=[region], masks=True)
    piped = masking_pipe(photos[0], "What is <region>?", regions=[region], masks=True)
    assert len(seen) == 4
    for answer in (described, asked, chatted, piped):
        check(answer, 240, 320)
        assert answer.user_region_ids == (0,)
    assert chatted.to_dict() == asked.to_dict() == piped.to_dict()
    (mask,) = described.user_regions.masks
    if (isinstance(region, dict) and "mask" in region) or isinstance(region, np.ndarray):
        assert np.array_equal(mask, disc(240, 320))
        assert described.user_regions.box.tolist() == [81, 61, 160, 140]
    elif region is not BOX:
        # The mask of the click stays: it is what the region was found by.
        assert np.array_equal(mask, masking_pipe.segment(photos[0], region).mask)
    # What was pointed at does not depend on masks of the answer.
    plain = masking_pipe.ask(photos[0], "What is <region>?", regions=[region])
    assert plain.masks == {} and plain.markup == asked.markup
    torch.testing.assert_close(plain.user_regions.xyxy, asked.user_regions.xyxy)
    assert masking_pipe(photos[0], "What is <region>?", regions=[region]).to_dict() == plain.to_dict()


def test_regions_of_many_forms_in_batches(masking_pipe, photos):
    half = np.zeros((100, 100), bool)
    half[:, :50] = True
    regions = [[CLICK, BOX], [], [{"scribble": [[5, 5], [50, 60]]}, {"mask": half}, {"point": [9, 9]}]]
    asked = masking_pipe.ask(photos, "What?", regions=regions, batch_size=3, masks=True)
    piped = masking_pipe(
        photos,
        ["What? <region>, <region>", "What?", "What? <region>, <region>, <region>"],
        regions=regions,
        masks=True,
    )
    for image, of_image, answer, other in zip(photos, regions, asked, piped, strict=True):
        check(answer, image.height, image.width)
        assert len(answer.user_region_ids) == len(of_image)
        alone = masking_pipe.ask(image, "What?", regions=of_image, masks=True)
        assert np.allclose(answer.user_regions.xyxy, alone.user_regions.xyxy, atol=1e-2)
        assert np.allclose(other.user_regions.xyxy, alone.user_regions.xyxy, atol=1e-2)
        for number, mask in alone.masks.items():
            assert (answer.masks[number] == mask).mean() > 0.999 and (other.masks[number] == mask).mean() > 0.999
    # Each region is where it was pointed at.
    for answers in (asked, piped):
        assert answers[0].user_regions[1].box.tolist() == BOX
        assert answers[2].user_regions[1].box.tolist() == [0, 0, 50, 100]
        assert np.array_equal(answers[2].user_regions[1].mask, half)


def test_a_generator_and_dicts_take_regions_in_every_form(masking_pipe, photos):
    samples = [
        {"image": photos[0], "question": "What is <region>?", "regions": [CLICK]},
        {"image": photos[1], "question": "What is <region>?", "boxes": [[0, 0, 90, 80]]},
        {"image": photos[2], "regions": [{"point": [9, 9], "box": None}]},
    ]
    answers = list(masking_pipe(iter(samples), masks=True, batch_size=2))
    assert [answer.user_region_ids for answer in answers] == [(0,)] * 3
    for photo, answer in zip(photos, answers, strict=True):
        check(answer, photo.height, photo.width)
    with pytest.raises(ValueError, match=r"`image\[1\]\['regions'\]\[0\]\['point'\]` = \[999, 9\] is outside"):
        masking_pipe([samples[0], {**samples[2], "regions": [{"point": [999, 9]}]}])
    with pytest.raises(ValueError, match="Input 0 has `regions`, and `boxes` was also given for all inputs"):
        masking_pipe([samples[0]], boxes=[BOX])
    with pytest.raises(ValueError, match="`boxes` and `regions` were both given"):
        masking_pipe([{**samples[0], "boxes": [BOX]}])
    with pytest.raises(ValueError, match="`regions` of an image are a list of boxes"):
        masking_pipe(photos[0], "Hi", regions=CLICK)


def test_masks_of_a_pipeline(masking_pipe, pipe, photos):
    always = pipeline(
        "image-grounding",
        model=masking_pipe.model,
        processor=masking_pipe.processor,
        device="cpu",
        masks=True,
        max_new_tokens=3,
    )
    assert always.describe(photos[0], BOX).masks and always(photos[0], "<region>?", [BOX]).masks
    assert always.chat(photos[0]).ask("What?", [BOX]).masks
    assert not always.describe(photos[0], BOX, masks=False).masks
    assert not always(photos[0], "<region>?", [BOX], masks=False).masks
    for wrong, words in ((1, "`masks` must be True or False, got 1"), ("no", "`masks` must be True or False")):
        with pytest.raises(ValueError, match=words):
            masking_pipe(photos[0], "Hi", masks=wrong)
    for without in (lambda: pipe(photos[0], masks=True), lambda: pipe(iter(photos), masks=True)):
        with pytest.raises(ValueError, match="`masks=True` needs a model with a mask decoder"):
            without()


def test_a_click_without_a_mask_decoder(pipe, photos, looks):
    seen = looks(pipe)
    answers = [
        pipe.ask(photos[0], "What is <region>?", regions=[CLICK]),
        pipe(photos[0], "What is <region>?", regions=[CLICK]),
        pipe.chat(photos[0]).ask("What is <region>?", regions=[CLICK]),
    ]
    assert len(seen) == 3
    for answer in answers:
        assert answer.to_dict() == answers[0].to_dict() and answer.user_region_ids == (0,)
    x1, y1, x2, y2 = answers[0].user_regions.box.tolist()
    assert (x1 <= 100 <= x2 and y1 <= 120 <= y2) or answers[0].user_regions.xyxy.shape == (1, 4)


# ----------------------------------------------------------------------------------------------------------- chats


@pytest.fixture
def free_slots(masking_pipe, monkeypatch) -> None:
    """Some of the region slots stay free: the model proposes only what it is sure of."""
    monkeypatch.setattr(masking_pipe.model.config, "box_score_threshold", 0.7)


def test_a_chat_looks_once_and_keeps_the_masks_of_clicks(free_slots, masking_pipe, photos, looks, monkeypatch):
    seen = looks(masking_pipe)
    chat = masking_pipe.chat(photos[0])
    first = chat.ask("What is this?", regions=[CLICK, disc(240, 320)], masks=True)
    check(first, 240, 320)
    number = first.user_region_ids[0]
    # Later turns continue the cache, and name the regions of earlier ones.
    name_both = "".join(f"<r{number}>" for number in first.user_region_ids)
    monkeypatch.setattr(
        masking_pipe.processor.tokenizer, "decode", lambda *_, **__: f"<p>it</p> <roi>{name_both}</roi>"
    )
    second = chat.ask("And these?", regions=[BOX], masks=True)
    assert second.phrases[0].region_ids == first.user_region_ids and second.user_region_ids != first.user_region_ids
    assert np.array_equal(second.masks[number], first.masks[number])
    assert np.array_equal(second.phrases[0].regions.masks[1], disc(240, 320))
    assert second.user_regions.masks.shape == (1, 240, 320)
    assert len(seen) == 1
    # Without masks the next answer has none, and what is known is not forgotten.
    assert chat.ask("Hm?").masks == {}
    third = chat.ask("And?", masks=True)
    assert np.array_equal(third.masks[number], first.masks[number]) and third.user_region_ids == ()


def test_a_chat_that_is_read_anew_keeps_the_masks_of_clicks(masking_pipe, photos, looks, monkeypatch):
    """All slots hold proposals, so a new region needs another selection of regions, and numbers change."""
    seen = looks(masking_pipe)
    chat = masking_pipe.chat(photos[0])
    first = chat.ask("What is this?", regions=[disc(240, 320)], masks=True)
    markup = "<p>it</p> <roi><r0></roi>"
    monkeypatch.setattr(masking_pipe.processor.tokenizer, "decode", lambda *_, **__: markup)
    second = chat.ask("And this?", regions=[CLICK], masks=True)
    assert len(seen) == 1 and first.user_region_ids == (0,) and second.user_region_ids == (1,)
    assert np.array_equal(second.phrases[0].regions.mask, disc(240, 320))
    assert np.array_equal(second.user_regions.mask, masking_pipe.segment(photos[0], CLICK).mask)
    check(second, 240, 320)
    torch.testing.assert_close(chat.turns[0].boxes, torch.tensor([[81.0, 61, 160, 140]]))


@pytest.mark.parametrize("other", ["mask", "box"])
def test_regions_of_a_later_turn_with_the_same_box_keep_their_masks(free_slots, masking_pipe, photos, looks, other):
    """A slot is known by its box, but a question may point at a ring and at what is in it."""
    seen = looks(masking_pipe)
    whole = disc(240, 320)
    ring = whole.copy()
    ring[90:110, 110:130] = False
    box = [81.0, 61, 160, 140]
    asked = {"mask": [ring, whole], "box": [ring, box]}[other]
    chat = masking_pipe.chat(photos[0])
    chat.ask("What is this?", regions=[BOX])
    answer = chat.ask("Compare", regions=asked, masks=True)
    first, second = answer.user_regions
    assert first.id != second.id and first.box.tolist() == pytest.approx(box, abs=1e-3)
    assert np.array_equal(first.mask, ring) and not np.array_equal(second.mask, ring)
    assert other == "box" or np.array_equal(second.mask, whole)
    *_, streamed = chat.ask("Compare", regions=asked, masks=True, stream=True)
    assert streamed.user_regions.masks.tolist() == answer.user_regions.masks.tolist()
    # The same region twice is one region.
    twice = chat.ask("And?", regions=[ring, ring.copy()], masks=True)
    assert len(set(twice.user_region_ids)) == 1 and len(seen) == 1


def test_a_streamed_turn_has_masks_at_its_end(free_slots, masking_pipe, photos):
    chat, other = masking_pipe.chat(photos[0]), masking_pipe.chat(photos[0])
    for regions in ([CLICK], [BOX, CLICK], None):
        expected = chat.ask("What?", regions=regions, masks=True)
        *partials, answer = other.ask("What?", regions=regions, masks=True, stream=True)
        assert answer.to_dict() == expected.to_dict() and other.turns[-1].answer is answer
        assert [partial.user_region_ids for partial in partials] == [answer.user_region_ids] * len(partials)


def test_mistakes_of_a_chat(masking_pipe, pipe, photos):
    chat = masking_pipe.chat(photos[0])
    with pytest.raises(ValueError, match="`boxes` and `regions` were both given"):
        chat.ask("What?", [BOX], regions=[CLICK])
    with pytest.raises(ValueError, match=r"`regions\[0\]\['point'\]` = \[999, 9\] is outside"):
        chat.ask("What?", regions=[{"point": [999, 9]}])
    with pytest.raises(ValueError, match="2 <region> marks, but `regions` has 1 region. Write one"):
        chat.ask("<region> <region>", regions=[CLICK])
    with pytest.raises(ValueError, match="`masks=True` needs a model with a mask decoder"):
        pipe.chat(photos[0]).ask("What?", masks=True)
    assert chat.turns == ()
