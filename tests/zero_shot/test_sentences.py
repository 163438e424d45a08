"""Single sentences out of a chat model's answer."""

import time

import pytest

from transformers_groma.zero_shot.sentences import LONGEST_ANSWER, Sentences, sentences_of


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("A crane is tall.", ["A crane is tall."]),
        ("A crane is tall", ["A crane is tall."]),
        ("A crane is tall,", ["A crane is tall."]),
        ("  It is\ttall \n\n  and   grey. ", ["It is tall.", "and grey."]),
        ("It is tall. It is grey! Is it? Yes…", ["It is tall.", "It is grey!", "Is it?", "Yes…"]),
        ("1. It is tall.\n2) It is grey.\n(3) It flies.", ["It is tall.", "It is grey.", "It flies."]),
        (
            "- It is tall\n* It is grey\n• It flies\na) It eats",
            ["It is tall.", "It is grey.", "It flies.", "It eats."],
        ),
        ("3 toes point forward. 10.5 kg is rare.", ["3 toes point forward.", "10.5 kg is rare."]),
        ("A **crane** has *long* `legs`.", ["A crane has long legs."]),
        ("**A crane is tall.** It has __long__ legs.", ["A crane is tall.", "It has long legs."]),
        ("A crane has **long legs.", ["A crane has long legs."]),
        ('"A crane is tall."', ["A crane is tall."]),
        ('"A crane is tall".', ["A crane is tall."]),
        ("“It is tall.” “It is grey.”", ["It is tall.", "It is grey."]),
        ('"It is tall. It is grey."', ["It is tall.", "It is grey."]),
        ('A "crane" is a bird.', ['A "crane" is a bird.']),
        ('"Crane" is a name of "birds".', ['"Crane" is a name of "birds".']),
        (
            "It eats e.g. frogs, i.e. Meat. Dr. Smith of St. Ives saw it.",
            ["It eats e.g. frogs, i.e. Meat.", "Dr. Smith of St. Ives saw it."],
        ),
        ('It is "tall". It is grey.', ['It is "tall".', "It is grey."]),
        ('It said "I am tall. I am grey."', ['It said "I am tall.', "I am grey."]),
        ("It has claws, etc. Its beak is long.", ["It has claws, etc.", "Its beak is long."]),
        ("它很高。它是灰色的。", ["它很高。", "它是灰色的。"]),
        ("Он высокий. Он серый.", ["Он высокий.", "Он серый."]),
        ("<think>Cranes. Hm.</think>It is tall.", ["It is tall."]),
        ("<think>Cranes. Hm", []),
        ("It is tall.\x00\x1b[0m It is grey.\u200b", ["It is tall.", "[0m It is grey."]),
        ('```json\n["It is tall.", "It is grey"]\n```', ["It is tall.", "It is grey."]),
        ('{"descriptions": [{"text": "It is tall."}, 3, null]}', ["It is tall."]),
        ("[It is tall.", ["[It is tall."]),
        ("It\ufffdis tall.", ["It is tall."]),
        ("---\n***\n...\n", []),
        ("", []),
    ],
)
def test_sentences(answer, kept):
    assert sentences_of(answer) == Sentences(tuple(kept))


@pytest.mark.parametrize(
    "words",
    [
        "Sure!",
        "Of course.",
        "Here is a description of a crane:",
        "Sure, here are two sentences:",
        "Here's one.",
        "I'm sorry, but I can't help with that.",
        "I cannot see it.",
        "As an AI, I have no eyes.",
        "Let me know if you need more!",
        "# Appearance",
        "**Appearance**",
        "**Appearance:**",
    ],
)
def test_what_describes_nothing_is_left_out_and_counted(words):
    assert sentences_of(f"{words}\nA crane is tall.") == Sentences(("A crane is tall.",), small_talk=1)


def test_a_sentence_that_the_limit_cut_off_is_left_out():
    assert sentences_of("It is tall. It has lo", is_cut=True) == Sentences(("It is tall.",), cut=1)
    assert sentences_of("It is tall. It is grey.", is_cut=True) == Sentences(("It is tall.", "It is grey."))
    assert sentences_of("It is ta", is_cut=True) == Sentences((), cut=1)
    # Only the last one can be.
    assert sentences_of("It is tall\nIt is grey.", is_cut=True).kept == ("It is tall.", "It is grey.")


@pytest.mark.parametrize("part", ["*a", "- ", "a. ", '"', "**", "<think>", "a.B", "1. ", "[", '["'])
def test_long_answers_take_no_time(part):
    start = time.monotonic()
    sentences_of(part * 200_000)
    assert time.monotonic() - start < 5
    assert sum(map(len, sentences_of("It is tall. " * 10_000).kept)) <= LONGEST_ANSWER
