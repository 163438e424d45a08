"""Which questions of a conversation are learned at a time."""

import numpy as np
import pytest

from transformers_groma.data.columns import image_part, region_part, text_part
from transformers_groma.training.question_choice import choose_questions


def turn(number: int, regions: int = 1, image: bool = False) -> list[dict]:
    question = [*([image_part()] if image else []), text_part(f"Q{number}"), *map(region_part, range(regions))]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": [text_part(f"A{number}")]}]


def conversation(*regions: int) -> list[dict]:
    return [message for number, count in enumerate(regions) for message in turn(number, count, image=number == 0)]


def numbers(messages: list[dict]) -> list[int]:
    """The questions that stayed; each is followed by its own answer."""
    kept = []
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        number = next(part["text"] for part in question["content"] if part["type"] == "text")[1:]
        assert answer["content"] == [text_part(f"A{number}")]
        kept.append(int(number))
    return kept


@pytest.mark.parametrize("limits", [{}, {"max_questions": 4}, {"max_regions": 7}, {"max_questions": 9}])
def test_a_conversation_that_fits_stays_as_it_is(limits):
    messages = conversation(1, 3, 1, 2)
    assert choose_questions(messages, np.random.default_rng(0), **limits) == messages


def test_a_random_choice_in_the_order_of_the_row():
    messages = conversation(*[1] * 6)
    choices = [numbers(choose_questions(messages, np.random.default_rng(seed), 3)) for seed in range(60)]
    assert all(len(choice) == 3 and choice == sorted(choice) for choice in choices)
    assert len({tuple(choice) for choice in choices}) > 10
    assert {number for choice in choices for number in choice} == set(range(6))
    again = [numbers(choose_questions(messages, np.random.default_rng(seed), 3)) for seed in range(60)]
    assert again == choices


def test_the_first_question_that_stays_shows_the_image():
    messages = conversation(*[1] * 5)
    for seed in range(20):
        first, *others = choose_questions(messages, np.random.default_rng(seed), max_questions=2)
        assert [part["type"] for part in first["content"]] == ["image", "text", "region"]
        assert not any(part["type"] == "image" for message in others for part in message["content"])
    assert messages == conversation(*[1] * 5)  # the row is as it was


def test_regions_are_counted_over_all_questions():
    messages = conversation(4, 3, 2, 6)
    for seed in range(30):
        chosen = choose_questions(messages, np.random.default_rng(seed), max_regions=6)
        assert sum((4, 3, 2, 6)[number] for number in numbers(chosen)) <= 6
    assert len(choose_questions(conversation(11), np.random.default_rng(0), max_regions=10)) == 2
    kept = {
        tuple(numbers(choose_questions(conversation(12, 1), np.random.default_rng(s), max_regions=10)))
        for s in range(20)
    }
    assert kept == {(0,), (1,)}


def test_a_system_message_stays():
    system = {"role": "system", "content": [text_part("Be brief.")]}
    chosen = choose_questions([system, *conversation(1, 1, 1)], np.random.default_rng(0), max_questions=1)
    assert chosen[0] == system
    assert len(chosen) == 3
    assert chosen[1]["content"][0]["type"] == "image"


def test_words_alone():
    messages = [message for number in range(4) for message in turn(number, regions=0)]
    chosen = choose_questions(messages, np.random.default_rng(0), max_questions=2)
    assert len(numbers(chosen)) == 2
    assert choose_questions([], np.random.default_rng(0), max_questions=2) == []
