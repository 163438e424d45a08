"""Grounded text: rendering, parsing, and unfinished markup."""

import dataclasses
import json
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.grounding import (
    GroundedPhrase,
    GroundedText,
    ParsedPhrase,
    ground_text,
    parse_grounded_text,
    render_grounded_phrase,
)
from transformers_groma.markup import proxy_token
from transformers_groma.masks import mask_to_rle
from transformers_groma.regions import Regions


def phrases_of(markup: str, valid: int | None = None) -> list[tuple[str, tuple[int, ...]]]:
    return [(phrase.text, phrase.region_ids) for phrase in parse_grounded_text(markup, valid).phrases]


def test_render():
    assert proxy_token(0) == "<r0>"
    assert render_grounded_phrase("a dog", [4]) == "<p>a dog</p> <roi><r4></roi>"
    assert render_grounded_phrase("two dogs", (4, 12)) == "<p>two dogs</p> <roi><r4><r12></roi>"
    assert render_grounded_phrase("", [4]) == "<roi><r4></roi>"
    assert render_grounded_phrase("a dog", []) == "<p>a dog</p>"
    assert render_grounded_phrase("", []) == ""
    with pytest.raises(ValueError, match="negative"):
        proxy_token(-1)


def test_well_formed_answer():
    parsed = parse_grounded_text("<p>a dog</p> <roi><r4></roi> on <p>the grass</p> <roi><r7><r9></roi>.")
    assert parsed.text == "a dog on the grass."
    assert parsed.phrases == (ParsedPhrase("a dog", (0, 5), (4,)), ParsedPhrase("the grass", (9, 18), (7, 9)))
    assert parsed.unknown_region_ids == ()


@pytest.mark.parametrize(
    ("markup", "text", "phrases"),
    [
        ("", "", []),
        ("no markup at all", "no markup at all", []),
        # answers that only name regions
        ("<roi><r4></roi>", "", [("", (4,))]),
        ("It is <roi><r4></roi>.", "It is.", [("", (4,))]),
        ("<roi><r4></roi> is the dog", "is the dog", [("", (4,))]),
        ("<roi><r4></roi> <roi><r5></roi>", "", [("", (4, 5))]),
        ("<r4>", "", [("", (4,))]),
        ("<p></p> <roi><r4></roi>", "", [("", (4,))]),
        ("a <roi><r1></roi> b <roi><r2></roi>", "a b", [("", (1,)), ("", (2,))]),
        # one phrase, several groups, the same region twice
        ("<p>dogs</p> <roi><r1></roi> <roi><r2><r1></roi>", "dogs", [("dogs", (1, 2))]),
        ("<p>dogs</p> <r1><r2>", "dogs", [("dogs", (1, 2))]),
        ("<p>dogs</p> <roi></roi> <roi><r2></roi>", "dogs", [("dogs", (2,))]),
        # phrases without regions
        ("<p>a dog</p> runs", "a dog runs", []),
        ("<p>a dog</p> runs <roi><r1></roi>", "a dog runs", [("", (1,))]),
        ("<p>a dog</p> <roi></roi> runs", "a dog runs", []),
        # unclosed, nested and stray tags
        ("<p>a dog", "a dog", []),
        ("<p>a dog <roi><r1></roi> runs", "a dog runs", [("a dog", (1,))]),
        ("<p>a dog <roi><r1></roi></p> runs", "a dog runs", [("a dog", (1,))]),
        ("<p>a dog</p> <roi><r1> runs", "a dog runs", [("a dog", (1,))]),
        ("<p>a dog</p> <roi><r1> and <p>a cat</p> <roi><r2>", "a dog and a cat", [("a dog", (1,)), ("a cat", (2,))]),
        ("<p>a <p>b</p> c</p> <roi><r1></roi>", "a b c", [("a b c", (1,))]),
        ("<p>a <p>b <roi><r1></roi>", "a b", [("a b", (1,))]),
        ("</roi></p>a</p> b</roi>", "a b", []),
        ("<roi><roi><r1></roi></roi>", "", [("", (1,))]),
        ("<p>a</p></p> <roi><r1></roi>", "a", [("a", (1,))]),
        # text between <roi> and </roi>
        ("<p>dogs</p> <roi><r4> and <r5></roi> run", "dogs and run", [("dogs", (4, 5))]),
        ("<roi>none</roi>", "none", []),
        # bare proxies
        ("the dog <r4> runs", "the dog runs", [("", (4,))]),
        ("<p>a dog <r4></p> runs", "a dog runs", [("a dog", (4,))]),
    ],
)
def test_structure(markup: str, text: str, phrases: list):
    assert parse_grounded_text(markup).text == text
    assert phrases_of(markup) == phrases


@pytest.mark.parametrize(
    "markup", ["<r>", "<rx>", "<r-1>", "<r007>", "<r00>", "<r 4>", "<r٣>", "<R4>", "<r4", "a <ro", "a </", "<"]
)
def test_what_is_not_a_tag_stays(markup: str):
    parsed = parse_grounded_text(markup)
    assert parsed.text == markup
    assert parsed.phrases == parsed.unknown_region_ids == ()


def test_unknown_regions():
    parsed = parse_grounded_text("<p>a</p> <roi><r57><r3></roi> <p>b</p> <roi><r57></roi> <roi><r40></roi>", 40)
    assert parsed.text == "a b"
    assert [(phrase.text, phrase.region_ids) for phrase in parsed.phrases] == [("a", (3,))]
    assert parsed.unknown_region_ids == (57, 40)
    assert parse_grounded_text("<r1><r2>", [2, 9]).unknown_region_ids == (1,)
    assert parse_grounded_text("<r1>", 0).unknown_region_ids == (1,)
    assert parse_grounded_text("<r57>").unknown_region_ids == ()


def test_huge_numbers():
    assert parse_grounded_text("<r999999999999999999>", 40).unknown_region_ids == (999999999999999999,)
    markup = f"<r{'9' * 5000}>"  # more digits than Python converts to a number: no region can be meant
    assert parse_grounded_text(markup, 40).text == markup


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>a dog</p> <roi><r1></roi> on", "a dog on"),
        ("<p>a dog</p> <roi><r1></roi>, on", "a dog, on"),
        ("<p>a dog</p> <roi><r1></roi>", "a dog"),
        ("<p>a dog</p> <roi><r1></roi>on", "a dog on"),
        ("<p>a dog</p><roi><r1></roi> on", "a dog on"),
        ("<p>a dog </p> <roi> <r1> </roi>  on", "a dog on"),
        ("<p>the dog</p> <roi><r1></roi>'s tail", "the dog's tail"),
        ('"<p>a dog</p> <roi><r1></roi>" it', '"a dog" it'),
        ("**<p>a dog</p> <roi><r1></roi>** it", "**a dog** it"),
        ('<p>a dog</p> <roi><r1></roi> "Rex"', 'a dog "Rex"'),
        ("<p>a dog</p> <roi><r1></roi> (left)", "a dog (left)"),
        ("<p>a dog</p> <roi><r1></roi>(left)", "a dog (left)"),
        ("(<p>a dog</p> <roi><r1></roi>)", "(a dog)"),
        ("<p>a dog</p> <roi><r1></roi> - <p>big</p>", "a dog - big"),
        ("<p>a dog</p> <roi><r1></roi>.\n\n<p>a cat</p> <roi><r2></roi>", "a dog.\n\na cat"),
        ("- <p>a dog</p> <roi><r1></roi>\n- <p>a cat</p> <roi><r2></roi>\n  - old", "- a dog\n- a cat\n  - old"),
        ("一只<p>狗</p><roi><r1></roi>。", "一只狗。"),
        ("two  spaces stay", "two  spaces stay"),
        (" <p> a dog </p> ", "a dog"),
    ],
)
def test_whitespace(markup: str, text: str):
    assert parse_grounded_text(markup).text == text


def test_spaces_around_tags_change_nothing():
    """Sentencepiece tokenizers decode `<p>a dog</p>.` to `<p> a dog </p> .`."""
    generator = random.Random(1)
    for _ in range(500):
        pieces = []
        for _ in range(generator.randint(1, 6)):
            ids = generator.sample(range(40), k=generator.randint(0, 3))
            pieces.append(render_grounded_phrase(generator.choice(["a dog", "狗", "5 men", ""]), ids))
            pieces.append(
                generator.choice([" ", ". ", ", ", " on the (", ") is ", "\n", ".\n\n", "\n- ", "; ", "'s "])
            )
        markup = "".join(pieces)
        spaced = re.sub(r"(</?p>|</?roi>|<r\d+>)", r" \1 ", markup)
        assert parse_grounded_text(spaced) == parse_grounded_text(markup)


def test_round_trip():
    generator = random.Random(2)
    for _ in range(500):
        expected, markup, text = [], "", ""
        for index in range(generator.randint(1, 6)):
            phrase = generator.choice(["a dog", "two  men", "<rx>", "狗", "the dog's <b>", "é", "(left)"])
            ids = tuple(generator.sample(range(100), k=generator.randint(1, 4)))
            link = generator.choice(["and", "next to", "- or"])
            markup += (f" {link} " if index else "") + render_grounded_phrase(phrase, ids)
            text += f" {link} " if index else ""
            expected.append(ParsedPhrase(phrase, (len(text), len(text) + len(phrase)), ids))
            text += phrase
        parsed = parse_grounded_text(markup + ".", 100)
        assert parsed.text == text + "."
        assert parsed.phrases == tuple(expected)


@pytest.fixture
def boxes() -> torch.Tensor:
    return torch.tensor([[0.0, 0.0, 10.0, 10.0], [10.126, 20.0, 30.0, 40.0], [5.0, 5.0, 50.0, 30.0]])


def test_ground_text_looks_up_boxes(boxes: torch.Tensor):
    answer = ground_text(
        "<p>a dog</p> <roi><r2><r1></roi> and <p>a cat</p> <roi><r0></roi>.",
        boxes,
        region_scores=torch.tensor([0.9, 0.5, 0.25]),
        region_mask=torch.tensor([False, True, True]),
    )
    assert str(answer) == answer.text == "a dog and a cat."
    assert [phrase.text for phrase in answer.phrases] == ["a dog"]
    torch.testing.assert_close(answer.phrases[0].boxes, boxes[[2, 1]])
    assert answer.phrases[0].region_ids == (2, 1)
    assert [(region.id, region.score) for region in answer.regions] == [(1, 0.5), (2, 0.25)]
    torch.testing.assert_close(answer.regions[0].box, boxes[1])
    assert answer.unknown_region_ids == (0,)
    assert answer.markup.startswith("<p>a dog</p> <roi>")


def test_ground_text_without_regions():
    answer = ground_text("<p>a dog</p> <roi><r0></roi>", torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).bool())
    assert (answer.text, answer.phrases, len(answer.regions), answer.unknown_region_ids) == ("a dog", [], 0, (0,))


def test_ground_text_of_half_precision_with_gradient(boxes: torch.Tensor):
    answer = ground_text("<r0>", boxes.to(torch.bfloat16).requires_grad_())
    assert answer.phrases[0].boxes.dtype == torch.float32
    assert not answer.phrases[0].boxes.requires_grad
    assert answer.regions[0].score == 1.0


def test_ground_text_checks_shapes(boxes: torch.Tensor):
    with pytest.raises(ValueError, match=r"`region_boxes`.*\(1, 3, 4\)"):
        ground_text("", boxes[None])
    with pytest.raises(ValueError, match=r"`region_scores`.*\(3,\).*\(2,\)"):
        ground_text("", boxes, region_scores=torch.zeros(2))
    with pytest.raises(ValueError, match=r"`region_mask`"):
        ground_text("", boxes, region_mask=torch.ones(1, 3).bool())


def test_to_dict_is_json(boxes: torch.Tensor):
    answer = ground_text("<p>a dog</p> <roi><r1></roi><r9>", boxes, region_scores=torch.tensor([0.123456, 1.0, 0.5]))
    record = answer.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record == {
        "text": "a dog",
        "phrases": [{"text": "a dog", "span": [0, 5], "boxes_xyxy": [[10.13, 20.0, 30.0, 40.0]], "region_ids": [1]}],
        "regions": [
            {"id": 0, "box_xyxy": [0.0, 0.0, 10.0, 10.0], "score": 0.1235},
            {"id": 1, "box_xyxy": [10.13, 20.0, 30.0, 40.0], "score": 1.0},
            {"id": 2, "box_xyxy": [5.0, 5.0, 50.0, 30.0], "score": 0.5},
        ],
        "unknown_region_ids": [9],
    }


def test_draw_gives_a_new_image(boxes: torch.Tensor):
    image = Image.new("RGB", (320, 240), "white")
    answer = ground_text("<p>a dog</p> <roi><r1></roi>", boxes)
    plain, with_regions = answer.draw(image), answer.draw(image, regions=True)
    assert plain.width == 320
    assert plain.height > 240
    assert plain.size == with_regions.size
    assert plain.tobytes() != with_regions.tobytes()
    assert image.tobytes() == Image.new("RGB", (320, 240), "white").tobytes()


def test_boxes_of_the_user_are_drawn_and_other_regions_are_not_unless_asked():
    boxes = torch.tensor([[20.0, 20, 90, 90], [120, 120, 200, 180]])
    answer = ground_text("It.", boxes, user_region_ids=[0])
    image = Image.new("RGB", (320, 240), "white")

    def drawn(**settings) -> bytes:
        return answer.draw(image, **settings).tobytes()

    assert drawn() == drawn(user_boxes=True, regions=False)
    assert len({drawn(), drawn(user_boxes=False), drawn(regions=True), drawn(user_boxes=False, regions=True)}) == 4


def test_regions_of_the_user():
    boxes = torch.tensor([[0.0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 6, 6]])
    assert ground_text("It.", boxes).user_region_ids == ()
    answer = ground_text("It.", boxes, user_region_ids=range(2))
    assert answer.user_region_ids == (0, 1)
    assert len(answer.regions) == 3
    mask = torch.tensor([True, False, True])
    assert ground_text("It.", boxes, region_mask=mask, user_region_ids=[2]).user_region_ids == (2,)
    for wrong in ([1], [3], [-1]):
        with pytest.raises(
            ValueError, match=f"`user_region_ids` names \\[{wrong[0]}\\], which are not regions; there are 2"
        ):
            ground_text("It.", boxes, region_mask=mask, user_region_ids=wrong)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("with_mask", [True, False])
def test_regions_that_are_not_finite_are_not_regions(bad, with_mask):
    boxes, scores = torch.tensor([[0.0, 0, 9, 9]] * 4), torch.tensor([0.5, 0.5, 0.5, 0.5])
    boxes[1, 2], scores[2] = bad, bad
    mask = torch.ones(4, dtype=torch.bool) if with_mask else None
    answer = ground_text("<p>a</p> <roi><r0><r1><r2><r3></roi> <p>b</p> <roi><r1></roi>", boxes, scores, mask)
    assert [region.id for region in answer.regions] == [0, 3]
    assert [phrase.region_ids for phrase in answer.phrases] == [(0, 3)]
    assert answer.unknown_region_ids == (1, 2)


def test_a_stray_end_does_not_close_what_comes_later():
    parsed = parse_grounded_text("</p></p> <p>a dog</p> <roi><r0></roi> <p>a cat</p> <roi><r1></roi></p>")
    assert [(phrase.text, phrase.region_ids) for phrase in parsed.phrases] == [("a dog", (0,)), ("a cat", (1,))]
    nested = parse_grounded_text("<p>a <p>big</p> dog</p></p> <roi><r0></roi> <p>cat</p> <roi><r1></roi>")
    assert [phrase.text for phrase in nested.phrases] == ["a big dog", "cat"]


def test_numbers_of_up_to_18_digits_are_regions():
    longest = "1" + "0" * 17
    parsed = parse_grounded_text(f"<p>a</p> <roi><r{longest}></roi>")
    assert parsed.phrases[0].region_ids == (10**17,)
    torch.tensor(parsed.phrases[0].region_ids)  # fits an int64
    longer = parse_grounded_text(f"a <r{longest}0> b")
    assert longer.phrases == () and longer.text == f"a <r{longest}0> b"


@pytest.mark.parametrize("before", ["", "a dog", "a dog ", "a dog,", "a dog\n", "(", "<p>a dog</p>", "<p>a dog</p> "])
@pytest.mark.parametrize(
    "after", ["", " runs", "runs", ".", " .", ", and", "\nruns", "'s tail", ")", " <p>x</p>", "(y)"]
)
def test_bare_regions_read_as_those_between_tags(before, after):
    for group in ("<r0>", "<r0><r2>", "<r0> <r2>", "<r9>"):
        bare = parse_grounded_text(before + group + after, 5)
        assert bare == parse_grounded_text(f"{before}<roi>{group}</roi>{after}", 5)


@pytest.mark.parametrize("kind", [GroundedPhrase, Regions, GroundedText])
def test_answers_cannot_be_changed_and_compare_by_identity(kind):
    answer = ground_text("<p>a</p> <roi><r0></roi>", torch.tensor([[0.0, 0, 9, 9]]))
    value = {GroundedPhrase: answer.phrases[0], Regions: answer.regions[0], GroundedText: answer}[kind]
    for name in vars(value):
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    # Boxes are tensors, which have no one answer to "equal?".
    assert value == value and value != dataclasses.replace(value)
    assert len({value, value}) == 1


def test_a_phrase_by_itself():
    boxes = torch.tensor([[0.0, 0, 9, 9], [10, 20, 30, 40]])
    answer = ground_text("There is <p>a dog</p> <roi><r1></roi>.", boxes)
    (phrase,) = answer.phrases
    assert phrase and phrase.to_dict() == answer.to_dict()["phrases"][0]
    alone = phrase.as_answer()
    assert (alone.text, alone.phrases[0].span, alone.user_region_ids) == ("a dog", (0, 5), ())
    assert alone.phrases[0].region_ids == alone.regions.ids == (1,)
    assert parse_grounded_text(alone.markup).phrases[0].region_ids == (1,)
    image = Image.new("RGB", (300, 250), "white")
    drawn = phrase.draw(image)
    assert drawn.size[0] == 300 and drawn.tobytes() == alone.draw(image).tobytes()
    assert drawn.crop((0, 0, 300, 250)).tobytes() != image.tobytes()


def test_a_phrase_that_was_not_found():
    phrase = GroundedPhrase("the cup", (0, 7), Regions([]))
    assert not phrase and phrase.boxes.shape == (0, 4)
    alone = phrase.as_answer()
    assert (alone.text, alone.phrases, len(alone.regions), alone.markup) == ("the cup", [], 0, "<p>the cup</p>")
    image = Image.new("RGB", (300, 250), "white")
    assert phrase.draw(image).crop((0, 0, 300, 250)).tobytes() == image.tobytes()


def test_masks_of_an_answer():
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3], [0, 2, 4, 4]])
    answer = ground_text("<p>a dog</p> <roi><r1></roi> by <p>it</p> <roi><r1></roi>.", boxes, user_region_ids=(2, 0))
    assert answer.masks == {} and answer.user_regions.masks is None and answer.user_regions.ids == (2, 0)
    masks = {number: np.arange(24).reshape(4, 6) % (number + 2) == 0 for number in (0, 1, 2)}
    whole = answer.with_masks(masks)
    for phrase in whole.phrases:
        assert np.array_equal(phrase.regions.mask, masks[1])
    assert np.array_equal(whole.user_regions.masks, [masks[2], masks[0]])
    # The others keep none, and the first answer is as before.
    assert whole.regions.masks is None and answer.phrases[0].regions.masks is None
    some = answer.with_masks({1: masks[1]})
    assert some.user_regions.masks is None
    written = json.loads(json.dumps(some.to_dict()))["regions"]
    assert [region.get("mask") for region in written] == [None, mask_to_rle(masks[1]), None]
    alone = whole.phrases[0].as_answer()
    assert alone.to_dict()["regions"][0]["mask"] == mask_to_rle(masks[1])


def test_masks_of_a_phrase():
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3]])
    answer = ground_text("<p>two dogs</p> <roi><r1><r0></roi>.", boxes)
    [phrase] = answer.phrases
    assert phrase.masks is None and "masks" not in phrase.to_dict()
    masks = {number: np.arange(24).reshape(4, 6) % (number + 2) == 0 for number in (0, 1)}
    whole = answer.with_masks(masks)
    [phrase] = whole.phrases
    assert np.array_equal(phrase.masks, [masks[1], masks[0]]), "in the order of its boxes"
    written = json.loads(json.dumps(phrase.to_dict()))
    assert written["masks"] == [mask_to_rle(masks[1]), mask_to_rle(masks[0])] and written["region_ids"] == [1, 0]
    # In an answer each mask is written once, with its region.
    assert "masks" not in whole.to_dict()["phrases"][0]
    assert [region["mask"] for region in whole.to_dict()["regions"]] == [mask_to_rle(masks[0]), mask_to_rle(masks[1])]


def test_masks_that_do_not_fit_an_answer():
    answer = ground_text("<p>a dog</p> <roi><r1></roi>.", torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3]]))
    mask = np.zeros((4, 6), bool)
    with pytest.raises(ValueError, match=r"`masks` has \[7\], which are not regions; there are 2"):
        answer.with_masks({1: mask, 7: mask})
    with pytest.raises(ValueError, match=r"`masks` lacks regions that phrases name: \[1\]"):
        answer.with_masks({0: mask})
