"""`groma describe-labels` against a local server: what is asked, kept, resumed and written."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from transformers_groma._jsonl import read_jsonl
from transformers_groma.cli import describe_labels
from transformers_groma.endpoints import asking, client
from transformers_groma.zero_shot import describing
from transformers_groma.zero_shot.describing import QUESTIONS, DescribingPlan
from transformers_groma.zero_shot.label_texts import read_descriptions

from ..chat_server import ChatServer, completion, failure

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def server(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer(lambda body: body["messages"][-1]["content"], completion("It is tall.")).running() as server:
        yield server


@pytest.fixture
def describe(run, server, tmp_path):
    def describe(labels: str, *options: object, output: str = "out.json") -> tuple[int, str, str]:
        where = ("--endpoint", server.url, "--model", "stub", "--output", tmp_path / output)
        return run("describe-labels", labels, *where, *options)

    return describe


def give_answers(server: ChatServer, labels: list[str], delay: float = 0.0, **how) -> list[str]:
    """Have each question answered by a sentence of its own; returns the questions in order."""
    asked = list(dict.fromkeys(question.text for question in DescribingPlan(labels, **how).asked()))
    server.replies = {
        text: [completion(f"Sentence {number} of a thing. It is “seen”", delay=delay)]
        for number, text in enumerate(asked)
    }
    return asked


def test_the_constants_of_the_help_are_the_true_ones():
    assert describe_labels.ANSWERS_EACH == describing.ANSWERS_EACH == 10


def test_labels_are_described(describe, server, tmp_path):
    asked = give_answers(server, ["crane", "wooden box"], about="a thing")
    server.replies[asked[1]] = [completion("A crane is tall.\n- **A Crane** is grey."), completion("A crane is tall.")]
    code, out, err = describe("crane,wooden_box", "--answers", 2, "--about", "a thing", "--stop", "\n", "--stop", "##")
    assert code == 0, err
    assert sorted(server.asked()) == sorted([*asked, *asked])
    assert asked[0].startswith('What does "crane" (a thing) look like?') and "one plain sentence" in asked[0]
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"], body["stop"]) == ("stub", 0.99, 80, ["\n", "##"])
    texts = read_descriptions(tmp_path / "out.json")
    assert list(texts) == ["crane", "wooden box"]
    assert texts["crane"][:4] == ["Sentence 0 of a thing.", "It is “seen”.", "A crane is tall.", "A Crane is grey."]
    assert texts["crane"][4:] == [f"Sentence {number} of a thing." for number in (2, 3, 4)]
    assert len(texts["wooden box"]) == 6
    # Twice each, and "It is seen" in nine of ten questions.
    assert out == (
        f"{tmp_path / 'out.json'}: 13 sentences for 2 labels, 6 to 7 each, median 6; left out: 26 duplicates, 0 cut "
        "off, 0 beside the point; without the name of their label: 11\n"
    )
    assert "20 questions to ask about 2 labels" in err and "20 new answers, 20 of 20 questions answered" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.answers.jsonl",
        "out.cost_summary.json",
        "out.costs.jsonl",
        "out.failures.jsonl",
        "out.json",
    ]
    # The same again asks nothing and changes nothing; more labels need a word, and ask what is new.
    before = (tmp_path / "out.json").stat().st_mtime_ns
    same = ("--answers", 2, "--about", "a thing", "--stop", "\n", "--stop", "##")
    assert describe("crane,wooden_box", *same)[0] == 0 and len(server.requests) == 20
    assert (tmp_path / "out.json").stat().st_mtime_ns == before
    code, _, err = describe("crane,wooden_box,cloud", *same)
    assert code == 2 and "exists, and would be replaced: pass --overwrite" in err and len(server.requests) == 20
    code, _, err = describe("cloud,crane", *same, "--overwrite")
    assert code == 0 and len(server.requests) == 30 and "10 answers in" in err
    assert list(read_descriptions(tmp_path / "out.json")) == ["cloud", "crane"]


def test_labels_of_files_and_own_questions(describe, server, tmp_path):
    (tmp_path / "classes" / "red_ball").mkdir(parents=True)
    (tmp_path / "classes" / "red_ball" / "1.png").touch()
    (questions := tmp_path / "questions.json").write_text('["How does {} look?"]')
    code, _, err = describe(str(tmp_path / "classes"), "--questions", questions, "--answers", 1)
    assert code == 0, err
    assert [text.split("?")[0] for text in server.asked()] == ['How does "red ball" look']
    # A name with a comma.
    (labels := tmp_path / "labels.json").write_text('["crane, the bird"]')
    code, _, _ = describe(str(labels), "--questions", questions, "--answers", 1, output="other.json")
    assert code == 0 and read_descriptions(tmp_path / "other.json") == {"crane, the bird": ["It is tall."]}


def test_a_killed_run_resumes_to_the_same_bytes(describe, server, tmp_path):
    labels = ["cat", "dog", "cloud"]
    asked = give_answers(server, labels, delay=0.1)
    options = ("--answers", 1, "--concurrency", 2, "--price-in", 1)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    where = ("--endpoint", server.url, "--model", "stub", "--output", tmp_path / "killed.json")
    command = (sys.executable, "-m", "transformers_groma.cli", "describe-labels", "cat,dog,cloud", *where, *options)
    process = subprocess.Popen(
        [str(word) for word in command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while len(server.requests) < 6 and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    kept = read_jsonl(tmp_path / "killed.answers.jsonl")
    assert 2 <= len(kept) < len(asked) and not (tmp_path / "killed.json").exists()
    # The last line is cut off, as by a kill in the middle of it.
    answers = tmp_path / "killed.answers.jsonl"
    answers.write_bytes(answers.read_bytes()[:-20])

    server.requests.clear()
    assert describe("cat,dog,cloud", *options, output="killed.json")[0] == 0
    assert len(server.requests) == len(asked) - len(kept) + 1
    assert describe("cat,dog,cloud", *options, output="whole.json")[0] == 0
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert list(read_descriptions(tmp_path / "whole.json")) == labels


def test_an_interrupted_run_says_how_to_resume(describe, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(describing, "ask_all", interrupt)
    code, _, err = describe("cat")
    assert code == 130 and "run the same command again to resume" in err


def test_questions_that_fail(describe, server, tmp_path):
    """The file is written once each label has sentences, and only then."""
    asked = give_answers(server, ["cat", "dog"])
    good = dict(server.replies)
    for text in asked[5:]:
        server.replies[text] = [failure(400, message="no dogs")]
    code, _, err = describe("cat,dog", "--answers", 1)
    assert code == 2 and not (tmp_path / "out.json").exists()
    assert "1 of 2 labels has too few sentences: 'dog' has 0, at least 1 are needed (0 answers held none)" in err
    assert "run the same command again to ask what failed" in err and "out.failures.jsonl says why" in err

    server.replies |= dict.fromkeys(asked[5:8], good[asked[5]])
    server.requests.clear()
    code, _, err = describe("cat,dog", "--answers", 1)
    assert code == 0 and sorted(server.asked()) == sorted(asked[5:])
    assert "without an answer: 2 questions, about 'dog'" in err and "with --overwrite asks them again" in err
    assert len(read_descriptions(tmp_path / "out.json")["dog"]) == 2

    server.replies = good
    assert describe("cat,dog", "--answers", 1)[0] == 2
    assert describe("cat,dog", "--answers", 1, "--overwrite")[0] == 0
    assert len(read_descriptions(tmp_path / "out.json")["dog"]) == 4


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (completion(""), "pass more --answers, other --questions or a smaller --min-sentences"),
        (completion("I'm sorry, but I can't."), "pass more --answers"),
        (completion("x", message={"content": "A cat.", "refusal": "no"}), "pass more --answers"),
        (completion("A cat is", finish_reason="length"), "pass a larger --max-tokens"),
        (completion("", finish_reason="length"), "pass a larger --max-tokens"),
    ],
)
def test_answers_without_a_sentence(describe, server, tmp_path, reply, message):
    asked = give_answers(server, ["cat"])
    server.replies = {text: [reply] for text in asked}
    code, _, err = describe("cat", "--answers", 1)
    assert code == 2 and "1 of 1 label has too few sentences: 'cat' has 0" in err and message in err
    assert not (tmp_path / "out.json").exists()


def test_the_least_number_of_sentences(describe, server, tmp_path):
    give_answers(server, ["cat"])
    code, _, err = describe("cat", "--answers", 1, "--min-sentences", 7)
    assert code == 2 and "'cat' has 6, at least 7 are needed" in err
    assert describe("cat", "--answers", 1, "--min-sentences", 6)[0] == 0


def test_a_run_that_ends_early(describe, server, tmp_path, monkeypatch):
    money = ("--answers", 1, "--price-in", 1000, "--concurrency", 1)  # a cost of 1 each
    code, _, err = describe("cat", *money, "--max-cost", 2)
    assert code == 2 and "ended early, as the next request could exceed --max-cost 2." in err
    assert "Without an answer: 3 questions about 1 label, so" in err and not (tmp_path / "out.json").exists()
    assert describe("cat", *money, "--max-cost", 5)[0] == 0 and len(server.requests) == 5
    assert json.loads((tmp_path / "out.cost_summary.json").read_text())["cost"] == 5

    monkeypatch.setattr(asking, "MAX_FAILURES_IN_A_ROW", 2)
    server.replies = {text: [failure(400, message="bad.")] for text in give_answers(server, ["dog"])}
    code, _, err = describe("dog", "--answers", 1, "--concurrency", 1, output="dog.json")
    assert (
        code == 2
        and "ended early, as 2 in a row failed, the last with: status 400: bad. Without" in err
        and "answers are kept" in err
    )


def test_answers_of_other_settings_are_never_mixed(describe, server, tmp_path):
    assert describe("cat", "--answers", 1)[0] == 0
    for options, message in [
        (("--temperature", 0.5), "made with temperature 0.99, and now it is 0.5"),
        (("--stop", "."), "made with stop None, and now it is ['.']"),
        (("--options", '{"top_p": 0.9}'), "made with top_p None, and now it is 0.9"),
        (("--options", '{"max_tokens": null}'), "made with max_tokens 80, and now it is None"),
        (("--model", "other"), "made with model 'stub', and now it is 'other'"),
    ]:
        code, _, err = describe("cat", "--answers", 1, *options)
        assert code == 2 and message in err and "pass another --output, or remove that file" in err
    (tmp_path / "out.answers.jsonl").write_text('{"label": "cat"}\n')
    code, _, err = describe("cat", "--answers", 1)
    assert code == 2 and "record 1 is not an answer" in err and len(server.requests) == len(QUESTIONS)


def test_mistakes(describe, server, run, tmp_path, monkeypatch):
    (labels := tmp_path / "labels.json").write_text('["cat"]')
    (foreign := tmp_path / "foreign.json").write_text('{"cat": ["mine"]}')
    for arguments, message in [
        (("cat,",), "LABELS: 'cat,' has a blank name"),
        (("labels.txt",), "LABELS: labels.txt does not exist"),
        (("cat,cat",), "'cat' appears twice"),
        (("cat", "--output", tmp_path / "out.txt"), "must be a file whose name ends with .json"),
        (("cat", "--output", foreign), "exists, and would be replaced: pass --overwrite, or another file"),
        ((str(labels), "--output", labels), "is the file of LABELS, which would be lost"),
        (("cat", "--temperature", 0), "--temperature 0 gives the same answer each time"),
        (("cat", "--temperature", 3), "must be a number from 0 to 2"),
        (("cat", "--temperature", "nan"), "must be a number from 0 to 2"),
        (("cat", "--about", " "), "`about` is blank"),
        (("cat", "--questions", labels), "--questions: "),
        (("cat", "--options", "[1]"), "must be a JSON object"),
        (("cat", "--options", "{"), "is not JSON"),
        (("cat", "--options", '{"top_p": NaN}'), "NaN is not a number in JSON"),
        (("cat", "--options", '{"n": 5}'), "--options cannot set 'n'"),
        (("cat", "--endpoint", "localhost:8000"), "error: --endpoint is not an http or https address"),
        (("cat", "--max-cost", 1), "error: --max-cost needs --price-in"),
        (("x" * 5000 + "/y",), "x… does not exist"),
    ]:
        code, _, err = describe(*arguments)
        assert code == 2 and message in err, (arguments, err)
        assert len(err.splitlines()) == 1
    (tmp_path / "folder.json").mkdir()
    assert "is a folder: pass a file in it" in describe("cat", output="folder.json")[2]
    code, _, err = run("describe-labels", "cat", "--model", "m", "--output", tmp_path / "x.json")
    assert code == 2 and "OPENAI_API_KEY holds no key" in err and "--endpoint of a server" in err
    assert foreign.read_text() == '{"cat": ["mine"]}' and not server.requests

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    server.replies = {text: [failure(401, message="bad key")] for text in give_answers(server, ["cat"])}
    code, _, err = describe("cat", "--answers", 1)
    assert code == 2 and "refused the key" in err and "secret" not in err
    assert not any("secret" in path.read_text() for path in tmp_path.glob("out.*"))
