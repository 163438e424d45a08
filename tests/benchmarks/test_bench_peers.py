"""The benchmark of peers: answers in four grammars, models of one size, and a line of JSON with all ratios."""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return importlib.import_module("bench_peers")


@pytest.fixture
def answers(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("peer_answers")


def test_answers_say_the_same(answers):
    """Ten phrases and ten boxes in each, and boxes come back from their tokens within a step of the grid."""
    texts = [answers.groma_answer(), answers.kosmos2_answer(), answers.florence2_answer(), answers.qwen_answer()]
    assert all(phrase in text for text in texts for phrase, _ in answers.OBJECTS) and len(answers.OBJECTS) == 10
    read = json.loads(texts[3].removeprefix("```json").removesuffix("```"))
    assert [tuple(item["bbox_2d"]) for item in read] == [box for _, box in answers.OBJECTS]
    corners = [int(number) for number in re.findall(r"<patch_index_(\d{4})>", texts[1])]
    for (_, (left, top, right, bottom)), first, last in zip(answers.OBJECTS, corners[::2], corners[1::2], strict=True):
        found = [first % 32 * 14, first // 32 * 14, last % 32 * 14, last // 32 * 14]
        assert all(0 <= value - low <= 14 for value, low in zip((left, top, right, bottom), found, strict=True))
    assert len(re.findall(r"<loc_\d+>", texts[2])) == 40 and texts[0].count("<roi><r") == 10


def test_tokens_are_counted_by_the_rules(answers):
    """By hand: two tags of phrase and five of place for two words, a full stop and the end."""
    assert answers.tokens_of_tags("<p>a dog</p><roi><r0></roi>.") == 5 + 3 + 1 + 1
    # Ten times: 31 pieces or more with digits one by one.
    digits = sum(len(str(value)) for _, box in answers.OBJECTS for value in box)
    assert digits < answers.tokens_of_json(answers.qwen_answer()) - 10 * 10 < 4 * digits


def test_language_models_are_of_one_size(script):
    """At the real size, without memory for it."""
    sizes, layers, vision = script.Sizes(), {}, {}
    with torch.device("meta"):
        for name, peer in script.PEERS.items():
            model = peer.build(sizes)
            layers[name], vision[name] = (
                script.parameters(*peer.layers(model)),
                script.parameters(peer.vision(model)),
            )
    assert max(layers.values()) < 1.01 * min(layers.values()) and 400e6 < min(layers.values()) < 410e6
    # The merger of four patches counts with Qwen2.5-VL's.
    assert max(vision.values()) < 1.16 * min(vision.values())


def test_its_last_line_has_a_ratio_for_each_model(script, monkeypatch, capsys, tmp_path):
    options = ["--small", "--rounds", "1", "--batch-size", "2", "--results", str(tmp_path / "results.json")]
    monkeypatch.setattr(script, "tqdm", lambda items, **_: items)
    # Answers of real length take most of the time.
    for name, peer in script.PEERS.items():
        monkeypatch.setitem(script.PEERS, name, dataclasses.replace(peer, count=lambda answer: len(answer) // 100))
    for models in (["Groma", "Kosmos-2"], ["Qwen2.5-VL", "Florence-2"]):
        monkeypatch.setattr(sys, "argv", ["bench_peers.py", *options, "--models", *models])
        script.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "peers" and len(result["ratios"]) == 3 * len(script.COLUMNS)
    seconds = result["seconds"]
    # Two regions of six slots, four tokens of text, an image of 4x4 tokens, the separator is not in the prompt here.
    assert seconds["Groma (ours)"]["prompt_columns"] == 16 + 2 * 2 + 4
    assert seconds["Qwen2.5-VL"]["prompt_columns"] == 16 + 2 + 4
    assert seconds["Kosmos-2"]["prompt_columns"] == 64 + 2 + 4
    assert seconds["Florence-2"]["prompt_columns"] == 36 + 1 + 4
    # Keys and values of two layers of width 64 in float32.
    columns = seconds["Qwen2.5-VL"]["prompt_columns"] + seconds["Qwen2.5-VL"]["answer_tokens"] - 1
    assert seconds["Qwen2.5-VL"]["cache_mb"] == pytest.approx(columns * 2 * 2 * 64 * 4 / 1e6, abs=1e-4)
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", *options, "--batch-size", "3"])
    with pytest.raises(SystemExit):
        script.main()
    assert "has measurements of" in capsys.readouterr().err


def test_ratios_above_one_are_better_for_ours(script):
    ours = dict.fromkeys(script.COLUMNS, 2.0)
    ratios = script.ratios_of({script.OURS: ours, "other": dict.fromkeys(script.COLUMNS, 4.0)})
    assert ratios["answer_s, other"] == 2 and ratios["images_per_second, other"] == 0.5


def test_the_better_of_two_rounds_counts(script):
    first = {"answer_tokens": 11, "first_token_s": 3.0, "answer_s": 4.0, "images_per_second": 0.5}
    second = {"answer_tokens": 11, "first_token_s": 2.0, "answer_s": 4.5, "images_per_second": 0.7}
    assert script.best(None, first)["token_ms"] == 100
    found = script.best(script.best(None, first), second)
    assert found == {**second, "answer_s": 4.0, "token_ms": 200}
