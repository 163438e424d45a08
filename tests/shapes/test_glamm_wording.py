"""Questions and answers about shapes in GLaMM's words."""

import numpy as np
import pytest

from transformers_groma.questions import GLAMM_QUESTIONS, GROMA_QUESTIONS
from transformers_groma.shapes.glamm_wording import in_glamm_words
from transformers_groma.shapes.questions import make_exchange
from transformers_groma.shapes.rows import ShapesOptions
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.shapes.world import Phrase, Region, world_of

KINDS = {
    "rec": "rec",
    "grounding": "grounding",
    "region-caption": "region_caption",
    "grounded-caption": "grounded_description",
}


def exchange_of(kind):
    return make_exchange(kind, world_of(make_scene(0, "train", 3)), np.random.default_rng(0), 0, position_share=0.0)


def plain(question):
    """A question with GLaMM's slots in place of what it is about."""
    names = {Phrase: "{phrase}", Region: "{region}"}
    return "".join(names.get(type(part), part) for part in question)


@pytest.mark.parametrize("kind", KINDS)
def test_the_standard_question_is_that_of_the_family(kind):
    exchange = exchange_of(kind)
    assert plain(exchange.question) == getattr(GROMA_QUESTIONS, KINDS[kind])
    assert plain(in_glamm_words(exchange).question) == getattr(GLAMM_QUESTIONS, KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_other_wordings_ask_for_the_same(kind):
    exchange, rng = exchange_of(kind), np.random.default_rng(1)
    worded = [in_glamm_words(exchange, rng) for _ in range(40)]
    assert len({plain(one.question) for one in worded}) > 2
    for one in worded:
        assert one.targets == exchange.targets
        assert one.pointed == exchange.pointed
        slots = [part for part in exchange.question if not isinstance(part, str)]
        assert [part for part in one.question if not isinstance(part, str)] == slots


def test_objects_to_locate_are_one_part_of_the_answer():
    exchange = exchange_of("grounding")
    answer = in_glamm_words(exchange).answer
    assert [part for part in answer if isinstance(part, Phrase)] == [Phrase("", exchange.targets)]
    assert answer[0] == "Sure, they are "


def test_kinds_without_words_of_their_own_stay():
    exchange = make_exchange("count", world_of(make_scene(0, "train", 3)), np.random.default_rng(0), 0, 0.0)
    assert in_glamm_words(exchange) is exchange


def test_rows_in_glamm_words_have_the_masks_of_their_boxes():
    groma, glamm = (
        ShapesOptions("rec", seed=0, questions=3, wording=wording).row(0) for wording in ("groma", "glamm")
    )
    assert glamm["boxes_xyxy"] == groma["boxes_xyxy"]
    assert glamm["masks"] == groma["masks"]
    said = glamm["messages"][1]["content"]
    assert [part["text"] for part in said] == ["Sure, it is ", "", "."]
    assert said[1]["boxes"] == [0]


def test_evaluation_rows_are_asked_in_glamm_words_and_judged_as_before():
    groma, glamm = (ShapesOptions("rec", seed=0, evaluation=True, wording=name).row(0) for name in ("groma", "glamm"))
    assert glamm["messages"][0]["content"][1]["text"] == "Please segment "
    for name in ("references", "target_boxes_xyxy", "target_masks", "category"):
        assert glamm[name] == groma[name]


def test_an_unknown_wording_is_an_error():
    with pytest.raises(ValueError, match="`wording` must be one of groma, glamm, got 'llava'"):
        ShapesOptions("rec", seed=0, wording="llava")
