"""The questions of the demo and their comparison with the truth, on answers made by hand."""

import subprocess
import sys

import pytest
import torch

from transformers_groma.data.shapes import make_scene
from transformers_groma.data.shapes_demo import compare, count_found, question_text, scene_questions
from transformers_groma.data.shapes_text import Exchange, with_article, words
from transformers_groma.grounding import ground_text


@pytest.fixture(scope="module")
def scene():
    return make_scene(0, "test", 3, 448)


def answer_with(scene, markup: str):
    """An answer whose regions are the objects of the scene, in their order."""
    return ground_text(markup, torch.tensor(scene.boxes_xyxy))


def test_questions_are_always_the_same(scene):
    questions = scene_questions(scene)
    assert questions == scene_questions(make_scene(0, "test", 3, 224))
    assert list(questions) == ["region", "expression", "description"]
    texts = {name: question_text(exchange) for name, exchange in questions.items()}
    assert texts["region"] == "What is <region>?" and len(questions["region"].pointed) == 1
    assert texts["description"] == "[grounding]Please describe the image in detail."
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
    assert (right.right, right.total, right.text) == (1, 1, "right to the word")
    assert right.truth == [{"text": with_article(words(item.attributes)), "box_xyxy": [*map(float, item.box_xyxy)]}]
    wrong = compare(exchange, scene, answer_with(scene, "A dog."))
    assert (wrong.right, wrong.total) == (0, 1)
    assert wrong.text == f"not right to the word, which would be: {exchange.reference}"


def test_an_expression_is_right_by_its_first_box(scene):
    exchange = scene_questions(scene)["expression"]
    target = exchange.targets[0]
    other = (target + 1) % len(scene.objects)
    right = compare(exchange, scene, answer_with(scene, f"<roi><r{target}><r{other}></roi>."))
    assert (right.right, right.text) == (1, "right: IoU 1.00 with the true box")
    wrong = compare(exchange, scene, answer_with(scene, f"<roi><r{other}><r{target}></roi>."))
    assert wrong.right == 0 and wrong.text.startswith("wrong: IoU 0.")
    assert compare(exchange, scene, answer_with(scene, "There.")).text == "wrong: no box"


def test_a_phrase_needs_the_words_and_the_box(scene):
    exchange = scene_questions(scene)["description"]
    texts = [with_article(words(item.attributes)) for item in scene.objects]
    assert len(set(texts)) == len(texts)
    phrases = [f"<p>{texts[0]}</p> <roi><r0></roi>", f"<p>{texts[1]}</p> <roi><r0></roi>", "<p>it</p> <roi><r2></roi>"]
    found = compare(exchange, scene, answer_with(scene, f"The image shows {', '.join(phrases)}."))
    assert (found.right, found.total, found.text) == (1, 3, "1 of 3 phrases right, words and box")
    assert [item["text"] for item in found.truth] == texts
    assert compare(exchange, scene, answer_with(scene, "Nothing.")).text == "wrong: no phrase has a box"


def test_objects_without_a_region_are_not_found(scene):
    boxes = scene.boxes_xyxy
    assert count_found(scene, boxes) == len(scene.objects)
    assert count_found(scene, boxes[1:] + boxes[1:]) == len(scene.objects) - 1
    assert count_found(scene, []) == 0


def test_other_questions_are_refused(scene):
    with pytest.raises(ValueError, match="'count'.*scene_questions"):
        compare(Exchange("count", ("How many?",), ("Two.",)), scene, answer_with(scene, "Two."))


def test_no_extra_is_needed():
    code = "import sys; sys.modules['datasets'] = None; import transformers_groma.data.shapes_demo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
