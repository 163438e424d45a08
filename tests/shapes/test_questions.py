"""Questions and answers about scenes are true and unambiguous, checked by an independent parser."""

import re
from collections import Counter

import numpy as np
import pytest

from transformers_groma.shapes.questions import MIXTURE, converse, make_exchange
from transformers_groma.shapes.rows import ShapesOptions
from transformers_groma.shapes.scenes import Attributes, Scene, make_scene
from transformers_groma.shapes.world import Exchange, Phrase, Region, World, world_of

SIZES = ("small", "large")
TEXTURES = ("striped", "dotted")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white")
SHAPES = ("circle", "square", "triangle", "rectangle", "star", "hexagon", "cross", "ring", "heart", "diamond")
WORD_ORDER = (SIZES, TEXTURES, COLORS, (*SHAPES, "object"))
NUMBERS = {"One.": 1, "Two.": 2, "Three.": 3, "Four.": 4, "Five.": 5}


# --------------------------------------------------------------------------------------------- the parser of the tests


def described(text: str, scene: Scene) -> set[int]:
    """The objects that words such as "small red circles" fit."""
    said = text.split()
    said[-1] = re.sub(r"^(.*ss)es$|^(.*[^s])s$", lambda match: match[1] or match[2], said[-1])
    ranks = [next(rank for rank, known in enumerate(WORD_ORDER) if word in known) for word in said]
    assert ranks == sorted(set(ranks)) and ranks[-1] == 3, f"wrong order of words: {text}"
    found = set()
    for index, item in enumerate(scene.objects):
        true = {*item.attributes, "object"}
        if all(word in true for word in said):
            found.add(index)
    return found


def middle(scene: Scene, index: int) -> tuple[float, float]:
    x1, y1, x2, y2 = scene.objects[index].box_xyxy
    return (x1 + x2) / 2, (y1 + y2) / 2


def beside(relation: str, scene: Scene, candidates: set[int], anchor: int) -> tuple[set[int], bool]:
    """The candidates in a direction of the anchor, and whether that is clear for all candidates."""
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[relation]
    steps = {
        index: sign * (middle(scene, index)[axis] - middle(scene, anchor)[axis]) for index in candidates - {anchor}
    }
    is_clear = all(step <= 0 or step >= 0.1 * scene.image_size - 1e-6 for step in steps.values())
    return {index for index, step in steps.items() if step > 0}, is_clear


def referred(text: str, scene: Scene) -> set[int]:
    """The objects that a referring expression means."""
    text = re.fullmatch(r"the (.*)", text)[1]
    if match := re.fullmatch(r"(.*) (left of|right of|above|below) the (.*)", text):
        anchors = described(match[3], scene)
        assert len(anchors) == 1, f"the anchor of {text!r} is not unique"
        found, is_clear = beside(match[2], scene, described(match[1], scene), *anchors)
        assert is_clear, text
        return found
    if match := re.fullmatch(r"(leftmost|rightmost|topmost|bottommost) (.*)", text):
        axis = 0 if match[1] in ("leftmost", "rightmost") else 1
        sign = 1 if match[1] in ("leftmost", "topmost") else -1
        ranked = sorted(described(match[2], scene), key=lambda index: sign * middle(scene, index)[axis])
        assert len(ranked) >= 2, f"{text!r} is said of a single object"
        assert abs(middle(scene, ranked[1])[axis] - middle(scene, ranked[0])[axis]) >= 0.1 * scene.image_size - 1e-6
        return {ranked[0]}
    return described(text, scene)


def full_description(scene: Scene, index: int) -> str:
    size, texture, color, shape = scene.objects[index].attributes
    return " ".join([size, *([] if texture == "solid" else [texture]), color, shape])


def check_exchange(exchange: Exchange, scene: Scene) -> None:
    """Work out the answer again."""
    question = "".join(
        "@" if isinstance(part, Region) else part.text if isinstance(part, Phrase) else part
        for part in exchange.question
    )
    pointed = [part.index for part in exchange.question if isinstance(part, Region)]
    phrases = [part for part in exchange.question if isinstance(part, Phrase)]
    assert all(phrase.indices == () for phrase in phrases)
    targets = [part for part in exchange.answer if isinstance(part, Phrase)]
    text = exchange.reference
    match exchange.kind:
        case "rec":
            assert question in {
                template.format(phrases[0].text)
                for template in ("Locate {} in this image.", "Where is {}?", "Can you find {}?")
            }
            assert exchange.answer == (Phrase("", (*referred(phrases[0].text, scene),)),)
            assert len(exchange.targets) == 1
        case "grounding":
            assert question in {
                template.format(phrases[0].text)
                for template in ("Locate all {} in this image.", "Where are all {}?", "Can you find all {}?")
            }
            assert exchange.category == phrases[0].text
            expected = sorted(described(phrases[0].text, scene), key=lambda index: (middle(scene, index)[0], index))
            assert exchange.answer == (Phrase("", tuple(expected)),)
            assert 1 <= len(expected) <= 5
        case "region-caption":
            assert question in ("Please give a short description of @.", "What is @?", "Please describe @.")
            assert text == f"A {full_description(scene, pointed[0])}."
        case "grounded-caption":
            assert question.startswith("[grounding]") and pointed == []
            assert 3 <= len(targets) <= 6 and len(targets) == min(6, len(scene.objects))
            xs = [middle(scene, target)[0] for target in exchange.targets]
            assert xs == sorted(xs) and len(set(exchange.targets)) == len(xs)
            expected = [f"a {full_description(scene, target)}" for target in exchange.targets]
            assert text == f"The image shows {', '.join(expected[:-1])} and {expected[-1]}."
            assert [phrase.text for phrase in targets] == expected
        case "count":
            asked = re.fullmatch(r"How many (.*) are there\?", question)[1]
            assert len(described(asked, scene)) == NUMBERS[text]
        case "exists":
            article, asked = re.fullmatch(r"Is there (an?) (.*)\?", question).groups()
            assert text == ("Yes." if described(asked, scene) else "No.")
            assert (article == "an") == (asked[0] in "aeiou")
        case "color":
            assert text.lower() == f"{scene.objects[pointed[0]].attributes.color}." and text[0].isupper()
        case "shape":
            assert text == f"A {scene.objects[pointed[0]].attributes.shape}."
        case "neighbor":
            relation = re.fullmatch(r"What is (.*) @\?", question)[1]
            found, is_clear = beside(relation, scene, set(range(len(scene.objects))), pointed[0])
            assert is_clear and found == set(exchange.targets) and len(found) == 1
            assert text == f"A {full_description(scene, *found)}."
        case kind:
            pytest.fail(f"unknown kind {kind}")


# --------------------------------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(seed=4, split="train", index=index) for index in range(30)]


@pytest.mark.parametrize("kind", MIXTURE)
def test_every_answer_is_right(kind, scenes):
    rng = np.random.default_rng(0)
    count = 0
    for scene in scenes:
        for template in (0, 1, 2, None) * 3:
            exchange = make_exchange(kind, world_of(scene), rng, template, position_share=0.5)
            if exchange is not None:
                assert exchange.kind == kind
                check_exchange(exchange, scene)
                count += 1
    assert count > 100


def test_expressions_are_of_all_sorts(scenes):
    rng = np.random.default_rng(1)
    found = Counter()
    lengths = Counter()
    for scene in scenes:
        for _ in range(25):
            exchange = make_exchange("rec", world_of(scene), rng, 0, position_share=0.15)
            found[exchange.category] += 1
            lengths[len(exchange.topic.split())] += exchange.category == "attributes"
    share = 1 - found["attributes"] / found.total()
    assert 0.1 < share < 0.2 and min(found["position"], found["relation"]) > 20
    assert all(lengths[number] > 30 for number in (1, 2, 3)) and lengths[4] > 10
    for position_share, expected in ((0.0, 0), (1.0, 30)):
        exchanges = [make_exchange("rec", world_of(scene), rng, 0, position_share) for scene in scenes]
        # Where chance finds no place that is clear, attributes are said.
        assert expected * 0.8 <= sum(exchange.category != "attributes" for exchange in exchanges) <= expected


def test_groups_are_often_of_several(scenes):
    rng = np.random.default_rng(2)
    sizes = Counter(
        len(make_exchange("grounding", world_of(scene), rng, 0, 0).targets) for scene in scenes for _ in range(20)
    )
    assert set(sizes) == {1, 2, 3, 4, 5}
    assert sizes[1] < 0.5 * sizes.total()


def test_yes_and_no_are_as_likely(scenes):
    rng = np.random.default_rng(3)
    exchanges = [make_exchange("exists", world_of(scene), rng, 0, 0) for scene in scenes for _ in range(20)]
    answers = Counter(exchange.reference for exchange in exchanges if exchange is not None)
    assert answers["Yes."] / answers.total() == pytest.approx(0.5, abs=0.1)


def test_a_conversation_asks_nothing_twice(scenes):
    rng = np.random.default_rng(4)
    for kinds in (MIXTURE, {"rec": 1}, {"region-caption": 1}):
        for scene in scenes[:15]:
            exchanges = converse(kinds, world_of(scene), rng, questions=8)
            asked = [(exchange.kind, exchange.topic) for exchange in exchanges]
            assert len(set(asked)) == len(asked) <= 8
            pointed = [index for exchange in exchanges for index in exchange.pointed]
            assert len(set(pointed)) == len(pointed), "a second box at the same place would be a second region"
            if "region-caption" in kinds and len(kinds) == 1:
                assert len(asked) == min(8, len(scene.objects))


def test_nothing_to_tell_apart_is_not_asked():
    same = Attributes("small", "solid", "red", "circle")
    world = World([same, same], centers=[(0.5, 0.5), (0.55, 0.52)])
    rng = np.random.default_rng(0)
    assert all(make_exchange("rec", world, rng, None, position_share) is None for position_share in (0, 1))
    assert make_exchange("neighbor", world, rng, None, 0) is None
    assert converse({"rec": 1}, world, rng, questions=3) == []
    # Clear places make it possible.
    world = World([same, same], centers=[(0.2, 0.5), (0.8, 0.5)])
    exchange = make_exchange("rec", world, rng, 0, position_share=1)
    assert exchange.topic in ("leftmost circle", "leftmost red circle", "leftmost small circle") or exchange.targets


def test_chat_mixes_all_kinds():
    options = ShapesOptions("chat", seed=0, questions=6)
    kinds = Counter()
    for index in range(40):
        scene, exchanges = options.conversation(index)
        for exchange in exchanges:
            check_exchange(exchange, scene)
        kinds.update(exchange.kind for exchange in exchanges)
        assert sum(exchange.kind == "grounded-caption" for exchange in exchanges) <= 1
    assert set(kinds) == set(MIXTURE)
