"""The demo's questions and the check of their answers, on handmade answers."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from transformers_groma.grounding import ground_text
from transformers_groma.regions import Regions
from transformers_groma.shapes.demo import (
    click_question,
    compare,
    count_found,
    mask_ious,
    question_text,
    scene_questions,
)
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.shapes.wording import with_article, words
from transformers_groma.shapes.world import Exchange


@pytest.fixture(scope="module")
def scene():
    return make_scene(0, "test", 3, 448)


def answer_with(scene, markup: str):
    """An answer whose regions are the objects of the scene, in their order."""
    return ground_text(markup, torch.tensor(scene.boxes_xyxy))


def test_questions_are_always_the_same(scene):
    questions = scene_questions(scene)
    assert questions == scene_questions(make_scene(0, "test", 3, 224))
    assert list(questions) == ["region", "neighbor", "expression", "group", "description"]
    texts = {name: question_text(exchange) for name, exchange in questions.items()}
    assert texts["region"] == "What is <region>?" and len(questions["region"].pointed) == 1
    assert texts["description"] == "[grounding]Please describe the image in detail."
    assert texts["neighbor"].endswith(" <region>?") and len(questions["neighbor"].pointed) == 1
    assert texts["group"] == f"Locate all <p>{questions['group'].topic}</p> in this image."
    assert all(not questions[name].pointed for name in ("expression", "group", "description"))
    expression = questions["expression"]
    assert texts["expression"] == f"Locate <p>the {expression.topic}</p> in this image."
    said = set(expression.topic.split())
    fitting = [
        index for index, item in enumerate(scene.objects) if said <= {*words(item.attributes).split(), "object"}
    ]
    assert tuple(fitting) == expression.targets


def test_a_description_is_right_to_the_word(scene):
    exchange = scene_questions(scene)["region"]
    item = scene.objects[exchange.pointed[0]]
    right = compare(exchange, scene, answer_with(scene, exchange.reference))
    assert (right.right, right.total, right.text) == (1, 1, "correct word for word")
    assert right.truth == [{"text": with_article(words(item.attributes)), "box_xyxy": [*map(float, item.box_xyxy)]}]
    wrong = compare(exchange, scene, answer_with(scene, "A dog."))
    assert (wrong.right, wrong.total) == (0, 1)
    assert wrong.text == f"not correct word for word; expected: {exchange.reference}"


def test_an_expression_is_right_by_its_first_box(scene):
    exchange = scene_questions(scene)["expression"]
    target = exchange.targets[0]
    other = (target + 1) % len(scene.objects)
    right = compare(exchange, scene, answer_with(scene, f"<roi><r{target}><r{other}></roi>."))
    assert (right.right, right.text) == (1, "right: IoU 1.00 with the true box")
    wrong = compare(exchange, scene, answer_with(scene, f"<roi><r{other}><r{target}></roi>."))
    assert wrong.right == 0 and wrong.text.startswith("wrong: IoU 0.")
    assert compare(exchange, scene, answer_with(scene, "There.")).text == "wrong: no box"


def test_questions_without_an_answer_are_left_out():
    # In this scene no object is clearly the only one in a direction of another.
    assert list(scene_questions(make_scene(0, "test", 17, 448))) == ["region", "expression", "group", "description"]


@pytest.mark.parametrize("number", range(60))
def test_a_neighbor_lies_wholly_beside_the_object(number):
    scene = make_scene(0, "test", number, 448)
    exchange = scene_questions(scene).get("neighbor")
    if exchange is None:
        return
    x1, y1, x2, y2 = scene.boxes_xyxy[exchange.pointed[0]]
    left, top, right, bottom = scene.boxes_xyxy[exchange.targets[0]]
    beside = {"left of": right <= x1, "right of": left >= x2, "above": bottom <= y1, "below": top >= y2}
    assert beside[
        question_text(exchange).removeprefix("[grounding]What is ").removesuffix(" <region>?").removeprefix("What is ")
    ]


def test_a_neighbor_needs_the_words_and_the_box(scene):
    exchange = scene_questions(scene)["neighbor"]
    (target,) = exchange.targets
    other = (target + 1) % len(scene.objects)

    def verdict(markup):
        found = compare(exchange, scene, answer_with(scene, markup))
        assert found.total == 1 and [item["box_xyxy"] for item in found.truth] == [scene.boxes_xyxy[target]]
        return found.right, found.text

    words = exchange.reference.rstrip(".")
    assert verdict(f"<p>{words}</p> <roi><r{target}></roi>.") == (1, "correct word for word, and the box is right")
    assert verdict(f"<p>{words}</p> <roi><r{other}></roi>.") == (0, "correct word for word, and the box is wrong")
    assert verdict(f"{words}.") == (0, "correct word for word, and the box is wrong")
    expected = f"not correct word for word; expected: {exchange.reference}"
    assert verdict(f"<p>A dog</p> <roi><r{target}></roi>.") == (0, expected)


def test_a_group_is_right_if_all_of_it_is_found_and_nothing_else(scene):
    exchange = scene_questions(scene)["group"]
    first, *others = exchange.targets
    outside = next(index for index in range(len(scene.objects)) if index not in exchange.targets)

    def verdict(*regions):
        markup = f"<roi>{''.join(f'<r{index}>' for index in regions)}</roi>" if regions else "None."
        found = compare(exchange, scene, answer_with(scene, markup))
        assert found.total == 1 and len(found.truth) == len(exchange.targets) == 2
        return found.right, found.text

    assert verdict(first, *others) == verdict(*others, first) == (1, "right: 2 of 2 found")
    assert verdict(*others) == (0, "wrong: 1 of 2 found")
    assert verdict() == (0, "wrong: 0 of 2 found")
    assert verdict(first, *others, outside) == (0, "wrong: 2 of 2 found, and 1 more that should not be there")
    assert verdict(outside) == (0, "wrong: 0 of 2 found, and 1 more that should not be there")
    # The same object twice is found once.
    twice = compare(exchange, scene, answer_with(scene, f"<roi><r{first}></roi> and <roi><r{first}></roi>."))
    assert twice.text == "wrong: 1 of 2 found, and 1 more that should not be there"


def test_a_box_of_half_the_overlap_is_enough_and_one_of_less_is_not(scene):
    exchange = scene_questions(scene)["group"]
    for share, expected in ((0.5, 2), (0.49, 1)):
        boxes = torch.tensor(scene.boxes_xyxy)
        left, right = boxes[exchange.targets[0], [0, 2]]
        boxes[exchange.targets[0], 2] = left + share * (right - left)
        markup = "<roi>" + "".join(f"<r{index}>" for index in exchange.targets) + "</roi>"
        assert f" {expected} of 2 found" in compare(exchange, scene, ground_text(markup, boxes)).text


def test_what_is_named_twice_is_right_once(scene):
    exchange = scene_questions(scene)["description"]
    phrase = f"<p>{with_article(words(scene.objects[0].attributes))}</p> <roi><r0></roi>"
    found = compare(exchange, scene, answer_with(scene, f"The image shows {phrase} and {phrase}."))
    assert (found.right, found.total, found.text) == (1, 2, "1 of 2 phrases right, words and box")


def test_a_phrase_needs_the_words_and_the_box(scene):
    exchange = scene_questions(scene)["description"]
    texts = [with_article(words(item.attributes)) for item in scene.objects]
    assert len(set(texts)) == len(texts)
    phrases = [f"<p>{texts[0]}</p> <roi><r0></roi>", f"<p>{texts[1]}</p> <roi><r0></roi>", "<p>it</p> <roi><r2></roi>"]
    found = compare(exchange, scene, answer_with(scene, f"The image shows {', '.join(phrases)}."))
    assert (found.right, found.total, found.text) == (1, 3, "1 of 3 phrases right, words and box")
    assert [item["text"] for item in found.truth] == texts
    assert compare(exchange, scene, answer_with(scene, "Nothing.")).text == "wrong: no phrase has a box"
    assert compare(exchange, scene, answer_with(scene, "Nothing.")).total == 1


def test_objects_without_a_region_are_not_found(scene):
    boxes = scene.boxes_xyxy
    assert count_found(scene, boxes) == len(scene.objects)
    assert count_found(scene, boxes[1:] + boxes[1:]) == len(scene.objects) - 1
    assert count_found(scene, []) == 0


def test_other_questions_are_refused(scene):
    with pytest.raises(ValueError, match="'count'.*scene_questions"):
        compare(Exchange("count", ("How many?",), ("Two.",)), scene, answer_with(scene, "Two."))


def test_no_extra_is_needed():
    code = "import sys; sys.modules['datasets'] = None; import transformers_groma.shapes.demo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("index", range(6))
def test_a_click_is_on_its_object(index):
    scene = make_scene(0, "test", index, 224)
    exchange, (x, y) = click_question(scene)
    assert question_text(exchange) == "What is <region>?"
    assert [number for number, item in enumerate(scene.objects) if item.mask[int(y), int(x)]] == list(exchange.pointed)


def test_masks_are_compared_with_the_object_that_they_fit():
    scene = make_scene(0, "test", 3, 224)
    truth = [item.mask for item in scene.objects]
    half = truth[1].copy()
    half[:, : int(np.median(np.nonzero(half)[1]))] = False
    regions = Regions([scene.boxes_xyxy[0]] * 3, masks=np.stack([truth[0], half, ~truth[0] & False]))
    whole, part, none = mask_ious(scene, regions)
    assert whole == 1.0 and 0.3 < part < 0.7 and none == 0.0
    assert mask_ious(scene, regions[[]]) == []
