"""Questions to an endpoint and to pipelines: what is paid for once, what is left out, what ends the run."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from processing.grand import dense_caption, images, landmark, tags
from processing.grand.asking import Question, one_question
from processing.grand.job import NoAnswer, step_main
from processing.grand.work_folder import Row, shard_path, write_shard
from transformers_groma._jsonl import read_jsonl
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.data.write_report import WriteReport
from transformers_groma.endpoints import client

from ...chat_server import completion, failure
from .stub_writer import stub_writer


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    with stub_writer() as server:
        yield server


@pytest.fixture
def folders(photos, tmp_path) -> list[str]:
    arguments = [str(photos), str(tmp_path / "work")]
    assert images.main(arguments) == 0
    return arguments


def endpoint(server, *more):
    return ["--task", "endpoint", "--model", "stub", "--base-url", server.url, "--max-retries", "0", *more]


def rows(folders, step) -> dict[str, Row]:
    table = pq.read_table(Path(folders[1]) / step / "train-00000-of-00001.parquet")
    return {row["image_id"]: row for row in table.to_pylist()}


def test_landmarks_are_asked_for_in_two_steps(folders, server):
    assert landmark.main([*folders, *endpoint(server)]) == 0
    found = rows(folders, "landmark")
    assert len(found) == 6
    assert (found["0"]["category"], found["0"]["fine_category"]) == ("Indoor scene", "Living space")
    assert len(server.requests) == 12
    content = server.bodies[0]["messages"][0]["content"]
    assert content[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_no_answer_is_paid_for_twice(folders, server):
    arguments = [*folders, *endpoint(server)]
    assert tags.main(arguments) == 0 and len(server.requests) == 6
    # The rows are gone, the answers are not.
    for path in (Path(folders[1]) / "tags").glob("train-*"):
        path.unlink()
    assert tags.main(arguments) == 0 and len(server.requests) == 6
    assert rows(folders, "tags")["0"]["tags"] == ["star", "heart"]
    assert len(read_jsonl(Path(folders[1]) / "costs.jsonl")) == 6


def test_another_model_is_asked_anew(folders, server, capsys):
    assert tags.main([*folders, *endpoint(server)]) == 0
    other = [*endpoint(server)]
    other[other.index("stub")] = "another"
    assert tags.main([*folders, *other]) == 2
    assert "what differs: --model" in capsys.readouterr().err
    assert tags.main([*folders, *other, "--overwrite"]) == 0
    assert len(server.requests) == 12


def test_a_question_without_an_answer_is_asked_again(folders, server, capsys):
    replies = [failure(500)] * 2 + [completion("star")]
    server.replies[tags.QUESTION] = replies
    arguments = [*folders, *endpoint(server, "--concurrency", "1")]
    assert tags.main(arguments) == 1
    assert "the endpoint gave no answer (2), for example" in capsys.readouterr().err
    assert len(rows(folders, "tags")) == 4
    assert tags.main(arguments) == 0
    assert len(rows(folders, "tags")) == 6 and len(server.requests) == 8


def test_the_budget_is_of_all_steps(folders, server, capsys):
    # A million tokens cost 1: each answer of the stub, 1000 and 100 tokens, 0.0011.
    prices = ["--price-in", "1", "--price-out", "1", "--concurrency", "1"]
    assert tags.main([*folders, *endpoint(server, *prices, "--max-cost", "0.0034")]) == 1
    assert len(server.requests) == 3
    assert "--max-cost is used up" in capsys.readouterr().err
    assert landmark.main([*folders, *endpoint(server, *prices, "--max-cost", "0.0034")]) == 1
    assert len(server.requests) == 3
    assert tags.main([*folders, *endpoint(server, *prices, "--max-cost", "0.0067")]) == 0
    assert len(server.requests) == 6
    summary = json.loads((Path(folders[1]) / "cost_summary.json").read_text())
    assert summary["answers"] == 6 and summary["cost"] == pytest.approx(0.0066)


def test_an_answer_that_was_cut_is_not_an_answer(folders, server, capsys):
    server.replies[tags.QUESTION] = [completion("star, he", finish_reason="length")]
    assert tags.main([*folders, *endpoint(server)]) == 1
    assert "the answer was cut: allow more tokens with --options (6)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("<p>a star</p>", "holds a token of a model"),
        ("", "is empty"),
        (" ", "is empty"),
    ],
)
def test_answers_that_are_no_text(folders, server, capsys, answer, reason):
    server.replies[tags.QUESTION] = [completion(answer)]
    assert tags.main([*folders, *endpoint(server)]) == 1
    assert f"the model's answer {reason} (6)" in capsys.readouterr().err


def test_half_a_character_does_not_stop_a_step(folders, server):
    server.replies[tags.QUESTION] = [completion("star, half a \ud83d")]
    assert tags.main([*folders, *endpoint(server)]) == 0
    assert rows(folders, "tags")["0"]["tags"][0] == "star"


def test_other_prompts_are_another_setting(graphs, server, capsys, tmp_path):
    assert dense_caption.main([*graphs, *endpoint(server)]) == 0
    prompt = tmp_path / "caption.md"
    prompt.write_text("{scene_graph}")
    changed = replace(dense_caption.STEP, files=(prompt, *dense_caption.STEP.files[1:]))
    assert step_main(changed, "", [*graphs, *endpoint(server)]) == 2
    assert "what differs: caption.md" in capsys.readouterr().err


def test_an_endpoint_that_refuses_everything_ends_the_step(folders, server, capsys):
    server.replies[tags.QUESTION] = [failure(401, message="who are you")]
    assert tags.main([*folders, *endpoint(server)]) == 2
    assert "refused the key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("indoor scene.", "Indoor scene"),
        ("2)", "Outdoor scene"),
        ("Indoor scene or outdoor scene", None),
        ("5", None),
        ("", None),
    ],
)
def test_choices(answer, expected):
    assert landmark.read_choice(answer, list(landmark.CATEGORIES)) == expected


def test_a_scene_of_no_category_is_left_out(folders, server, capsys):
    server.replies[landmark.question_about(list(landmark.CATEGORIES))] = [completion("It is a dream.")]
    assert landmark.main([*folders, *endpoint(server)]) == 1
    assert "the model chose no category of scene (6)" in capsys.readouterr().err


def test_a_row_that_is_left_out_is_not_asked_about():
    """Every row has its own outcome, whichever of question, answer and reading fails."""
    asked = []

    def ask(questions):
        asked.extend(question.text for question in questions)
        return [NoAnswer("no answer") if question.text == "unanswered" else question.text for question in questions]

    def question_about(row):
        if row["text"] == "empty":
            raise SkipRecord("nothing to ask")
        return Question("name", row["text"])

    def read(answer):
        if answer == "useless":
            raise SkipRecord("useless answer")
        return {"answer": answer}

    work = one_question(ask, question_about, read)
    outcomes = list(work([{"text": text} for text in ("empty", "a", "unanswered", "useless", "b")]))
    assert asked == ["a", "unanswered", "useless", "b"]
    assert [str(outcome) if isinstance(outcome, SkipRecord) else outcome["answer"] for outcome in outcomes] == [
        "nothing to ask",
        "a",
        "no answer",
        "useless answer",
        "b",
    ]
    assert isinstance(outcomes[2], NoAnswer), "another run asks again"


def test_pipelines_are_asked_in_batches(folders, stubs):
    assert tags.main([*folders, "--model", "stub", "--batch-size", "4", "--call", '{"max_new_tokens": 9}']) == 0
    assert rows(folders, "tags")["5"]["tags"] == ["star", "heart"]
    (task, options), *others = stubs.calls
    assert task == "image-text-to-text" and len(others) == 1
    assert options["max_new_tokens"] == 9 and options["generate_kwargs"] == {"do_sample": False}


def graph_row(image_id: str, labels: list[str]) -> Row:
    """A scene graph of objects side by side."""
    objects = [
        {
            "id": number,
            "bbox": [20.0 * number, 0.0, 20.0 * number + 18, 50.0],
            "labels": [label],
            "label": label,
            "score": 0.5,
            "attributes": [],
            "depth": None,
            "layer": None,
        }
        for number, label in enumerate(labels)
    ]
    text = "\n".join(f"Group {number}: {label}" for number, label in enumerate(labels))
    return {
        "image_id": image_id,
        "objects": objects,
        "floating_objects": [],
        "captions": [],
        "relations": [],
        "landmark": {"category": "", "fine_category": ""},
        "text": text,
        "made_from": "x",
    }


@pytest.fixture
def graphs(folders) -> list[str]:
    """Scene graphs of two images."""
    from processing.grand.scene_graph import FEATURES

    path = shard_path(Path(folders[1]), "scene_graph", 0, 1)
    write_shard(path, [graph_row("0", ["dog", "ball"]), graph_row("1", [])], FEATURES, WriteReport(), {})
    return folders


def test_a_caption_is_written_again_until_the_checklist_is_met(graphs, server):
    assert dense_caption.main([*graphs, *endpoint(server)]) == 0
    found = rows(graphs, "dense_caption")
    assert list(found) == ["0"]  # "1" has no objects
    first, second = found["0"]["rounds"]
    assert first["missing"] == ["a unicorn"] and second["missing"] == []
    assert found["0"]["is_verified"] and found["0"]["caption"] == "There is a dog and there is a ball."
    spans = [(each["start"], each["end"], each["ids"]) for each in found["0"]["phrases"]]
    assert spans == [(9, 14, [0]), (28, 34, [1])]
    rewritten = next(name for name in server.asked() if "An earlier caption was:" in name)
    assert "does not have: a unicorn." in rewritten


def test_a_caption_that_stays_wrong_is_given_up(graphs, server):
    assert dense_caption.main([*graphs, *endpoint(server), "--rounds", "1"]) == 0
    found = rows(graphs, "dense_caption")["0"]
    assert not found["is_verified"] and found["phrases"] == [] and len(found["rounds"]) == 1


def test_a_checklist_that_says_nothing_verifies_nothing(graphs, server, capsys, monkeypatch):
    monkeypatch.setattr("tests.processing.grand.stub_writer._listed", lambda caption: ["the moon"])
    assert dense_caption.main([*graphs, *endpoint(server)]) == 1
    assert "the checklist names nothing that the caption says (1)" in capsys.readouterr().err
