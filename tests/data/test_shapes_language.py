"""Conversations in words alone: every answer follows from the regions that the row names."""

import re
from collections import Counter

import numpy as np
import pytest

from transformers_groma.data.shapes_language import MIXTURE, make_language_row
from transformers_groma.data.shapes_rows import ShapesOptions
from transformers_groma.grounding import ground_text
from transformers_groma.processing_groma import GROMA_CHAT_TEMPLATE

NUMBERS = {"One.": 1, "Two.": 2, "Three.": 3, "Four.": 4, "Five.": 5}
INTRODUCTION = re.compile(r"Here is an image with region crops from it\. Image: \. Regions: (.*)\.")


def rows(count: int, **options) -> list:
    return [
        make_language_row(np.random.default_rng(index), **{"questions": 8, "max_regions": 30, **options})
        for index in range(count)
    ]


def regions_of(introduction: str) -> list[str]:
    """The words of each region; their proxies count from 0."""
    content = INTRODUCTION.fullmatch(introduction)[1]
    pairs = re.findall(r"<r(\d+)> ([a-z ]+)", content)
    assert "".join(f"<r{number}> {text}" for number, text in pairs) == content
    assert [int(number) for number, _ in pairs] == list(range(len(pairs)))
    return [text for _, text in pairs]


def fitting(text: str, regions: list[str], plural: bool = False) -> list[int]:
    if plural:
        text = text.removesuffix("es") if text.endswith("sses") else text.removesuffix("s")
    said = set(text.split()) - {"object"}
    assert said
    return [index for index, region in enumerate(regions) if said <= set(region.split())]


def with_article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def check(kind: str, question: str, answer: str, regions: list[str]) -> None:
    """Work out the answer again, from words alone."""
    phrases = re.findall(r"<p>(.*?)</p>", question)
    pointed = re.search(r"<roi><r(\d+)></roi>( [a-z ]+)?", question)
    if pointed:
        region = regions[int(pointed[1])]
        assert pointed[2] in (None, f" {region}")
        question = question.replace(pointed[0], "@")
    match kind:
        case "rec":
            (target,) = fitting(phrases[0].removeprefix("the "), regions)
            assert answer == f"<roi><r{target}></roi>"
        case "grounding":
            targets = fitting(phrases[0], regions, plural=True)
            assert 1 <= len(targets) <= 5
            assert answer == f"<roi>{''.join(f'<r{target}>' for target in targets)}</roi>"
        case "region-caption":
            assert question in ("Please give a short description of @.", "What is @?", "Please describe @.")
            assert answer == f"{with_article(region).capitalize()}."
        case "grounded-caption":
            assert question.startswith("[grounding]")
            objects = [index for index, text in enumerate(regions) if text != "background"][:6]
            said = [f"<p>{with_article(regions[index])}</p> <roi><r{index}></roi>" for index in objects]
            assert answer == f"The image shows {', '.join(said[:-1])} and {said[-1]}."
        case "count":
            asked = re.fullmatch(r"How many (.*) are there\?", question)[1]
            assert len(fitting(asked, regions, plural=True)) == NUMBERS[answer]
        case "exists":
            asked = re.fullmatch(r"Is there an? (.*)\?", question)[1]
            assert answer == ("Yes." if fitting(asked, regions) else "No.")
        case "color":
            assert answer.lower().rstrip(".") in region.split()[:-1]
        case "shape":
            assert answer == f"{with_article(region.split()[-1]).capitalize()}."
        case _:
            pytest.fail(f"unknown kind {kind}")


def test_every_answer_follows_from_the_words():
    kinds, lengths, used, looked_up = Counter(), Counter(), set(), Counter()
    for introduction, exchanges in rows(150):
        regions = regions_of(introduction)
        assert 4 <= len(regions) <= 30
        assert sum(text != "background" for text in regions) >= 4
        assert 1 <= len(exchanges) <= 8
        assert len({(exchange.kind, exchange.question) for exchange in exchanges}) == len(exchanges)
        for exchange in exchanges:
            check(exchange.kind, exchange.question, exchange.answer, regions)
            kinds[exchange.kind] += 1
            used.update(re.findall(r"<r\d+>", exchange.answer))
            if exchange.kind == "region-caption":
                looked_up[bool(re.search(r"</roi> [a-z]", exchange.question))] += 1
        lengths.update(len(text.split()) for text in regions if text != "background")
    assert set(kinds) == set(MIXTURE)
    assert set(lengths) == {1, 2, 3, 4}
    assert len(used) > 25, "all proxies are answers"
    assert min(looked_up.values()) > 0.3 * looked_up.total(), "with the feature and without"


def test_few_regions():
    for introduction, exchanges in rows(20, max_regions=4, questions=1):
        assert len(regions_of(introduction)) == 4 and len(exchanges) == 1


def test_markup_is_that_of_the_package():
    for introduction, exchanges in rows(20):
        num_regions = len(regions_of(introduction))
        for exchange in exchanges:
            answer = ground_text(exchange.answer, np_boxes(num_regions))
            assert not answer.unknown_region_ids
            if exchange.kind in ("rec", "grounding", "grounded-caption"):
                assert answer.phrases and all(len(phrase.boxes) > 0 for phrase in answer.phrases)


def np_boxes(count: int):
    import torch

    return torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(count, 1)


def test_rows_say_what_the_chat_template_says():
    row = ShapesOptions("language", seed=0, questions=2).row(0)
    texts = [message["content"][0]["text"] for message in row["messages"]]
    assert row["image"] is None and row["boxes_xyxy"] == []
    assert len(texts) == 6 and all(len(message["content"]) == 1 for message in row["messages"])
    head = texts[0].split("<r0>")[0].replace("Image: . Regions: ", "Image: <image>. ")
    assert f"USER: {head}" in GROMA_CHAT_TEMPLATE
    assert f"ASSISTANT: {texts[1]}" in GROMA_CHAT_TEMPLATE
