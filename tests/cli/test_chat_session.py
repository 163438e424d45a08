"""`groma chat --interactive`: one question a line, from a pipe and from a terminal."""

import builtins
import io
import json
import sys
from pathlib import Path

import pytest

from .samples import BOX, PHOTO, SHORT, TINY, box_of, truth


@pytest.fixture
def talk(run, monkeypatch, scene_png):
    """Runs the command with lines in a pipe, about the scene."""

    def talk(lines: str, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return run("chat", scene_png, "-i", "--model", TINY, *arguments)

    return talk


@pytest.fixture
def type_lines(run, monkeypatch, scene_png):
    """Runs the command at a terminal where these lines are typed; an exception is raised in place of a line."""

    def type_lines(*lines, arguments=()):
        stdin = io.StringIO()
        stdin.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
        waiting = iter([*lines, EOFError()])

        def typed(prompt):
            line = next(waiting)
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(builtins, "input", typed)
        return run("chat", scene_png, "--interactive", "--model", TINY, *arguments)

    return type_lines


def test_questions_in_a_pipe(talk):
    lines = f"box: {box_of(0)}\nWhat is this?\n\n  BOX:{box_of(4)} \nWhat is <region>?\nquit\nWhat is this?\n"
    assert talk(lines) == (0, f"{truth(0)}\n{truth(4)}\n", "")


def test_box_lines_as_people_and_editors_write_them(talk):
    lines = f"\ufeffBox : {box_of(0)}\nWhat is this?\nbox :{box_of(4)}\r\nWhat is this?\n"
    assert talk(lines) == (0, f"{truth(0)}\n{truth(4)}\n", "")


def test_a_closed_standard_input(run, monkeypatch, scene_png):
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = run("chat", scene_png, "-i", "--model", TINY)
    assert (code, out) == (2, "") and "the standard input is closed" in err


def test_the_first_question_may_be_an_argument(talk):
    code, out, err = talk("", "What is this?", "--box", box_of(1))
    assert (code, out, err) == (0, f"{truth(1)}\n", "")
    # Boxes of the command line are of the first question, wherever it is.
    assert talk("What is this?\n", "--box", box_of(1)) == (code, out, err)


def test_several_boxes_and_none(talk):
    lines = f"box: {box_of(0)}\nbox: {box_of(1)}\nbox: none\nbox: {box_of(4)}\nWhat is this?"
    assert talk(lines)[:2] == (0, f"{truth(4)}\n")
    code, out, _ = talk(f"box: {box_of(0)}\nbox: {box_of(1)}\nAre they alike?", "--json")
    assert code == 0 and [region["score"] for region in json.loads(out)["regions"][:2]] == [1.0, 1.0]


def test_the_image_is_looked_at_once(talk, monkeypatch):
    from transformers.models.dinov2.modeling_dinov2 import Dinov2Model

    seen, forward = [], Dinov2Model.forward

    def counted(self, *args, **kwargs):
        seen.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Dinov2Model, "forward", counted)
    code, out, _ = talk(f"Is there a star?\nbox: {box_of(0)}\nWhat is this?\nWhat is it?\n")
    assert code == 0 and len(out.splitlines()) == 3 and len(seen) == 1


def test_json_and_files_of_each_turn(talk, tmp_path):
    lines = f"box: {box_of(0)}\nWhat is this?\nbox: {box_of(4)}\nWhat is this?\n"
    code, out, err = talk(lines, "--json", "--output", tmp_path)
    assert code == 0 and "answer_1.json" in err and "answer_2.png" in err
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["text"] for answer in answers] == [truth(0), truth(4)]
    for number, answer in enumerate(answers, start=1):
        written = json.loads((tmp_path / f"answer_{number}.json").read_text(encoding="utf-8"))
        image = written.pop("image")
        assert written == answer and Path(image["name"]).is_file() and image["width"] == image["height"] == 448
        assert (tmp_path / f"answer_{number}.png").is_file()


def test_streaming_prints_the_same(talk):
    lines = f"box: {box_of(0)}\nWhat is this?\nIs there a star?\n"
    assert talk(lines, "--stream") == talk(lines)


@pytest.mark.parametrize(
    ("lines", "arguments", "words"),
    [
        ("", [], ["standard input has no question", "or give QUESTION"]),
        ("\n \nquit\n", [], ["standard input has no question"]),
        ("Hi\nbox: 1,2\n", [], ["line 2 of the standard input", "'1,2' is not a box", "or box: none"]),
        ("box: 0,0,9000,10\n", [], ["line 1 of the standard input: `box` = ", "outside of the 448x448"]),
        ("box: 0,0,99,10\n", [], ["ends with a region and no question"]),
        ("Is <region>?\n", [], ["line 1 of the standard input", "1 <region> mark,"]),
        ("word " * 5000, [], ["line 1 of the standard input", "The chat is full"]),
        ("Hi\n", [" "], ["QUESTION is empty"]),
        ("Hi\n", ["Is <region>?"], ["QUESTION: ", "1 <region> mark,"]),
        ("Hi\n", ["--parse-tokens"], ["--parse-tokens is for one QUESTION"]),
        ("Hi\n", ["--stream", "--json"], ["leave one of them out"]),
        ("Hi\n", ["--box", "0,0,9000,10"], ["--box", "outside"]),
    ],
)
def test_mistakes_in_a_pipe_end_with_one_line(talk, lines, arguments, words):
    code, _, err = talk(lines, *arguments)
    assert code == 2 and len(err.splitlines()) == 1
    for word in words:
        assert word in err


def test_bytes_that_are_not_text(run, monkeypatch, scene_png):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8"))
    code, _, err = run("chat", scene_png, "-i", "--model", TINY)
    assert code == 2 and "the standard input: " in err and len(err.splitlines()) == 1


def test_stream_needs_interactive(run):
    code, out, err = run("chat", PHOTO, "Hi", "--stream")
    assert (code, out) == (2, "") and "`groma ask` with --stream" in err


def test_at_a_terminal(type_lines):
    code, out, err = type_lines(f"box: {box_of(0)}", "What is this?", "", "Is there a star?")
    assert code == 0
    first, _, rest = out.partition("\n")
    assert first == truth(0) and rest.strip() in ("Yes.", "No.")
    assert "Ctrl-D" in err


def test_a_mistake_at_a_terminal_is_noted_and_the_chat_goes_on(type_lines):
    code, out, err = type_lines("box: 1,2", f"box: {box_of(0)}", "Is <region> or <region>?", "What is this?")
    assert (code, out) == (0, f"{truth(0)}\n")  # the box waits for a question that works
    assert "this line: '1,2' is not a box" in err and "2 <region> marks" in err


def test_ctrl_c_stops_an_answer_that_is_not_shown_step_by_step(type_lines, monkeypatch):
    from transformers_groma import answering

    original, steps = answering._partial_answer, []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(answering, "_partial_answer", interrupted)
    lines = ("[grounding]Please describe the image in detail.", f"box: {box_of(0)}", "What is this?")
    code, out, err = type_lines(*lines, arguments=("--json",))
    assert code == 0 and "(stopped)" in err
    stopped, answer = map(json.loads, out.splitlines())
    assert 0 < len(stopped["text"]) < 40 and answer["text"] == truth(0)


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(type_lines, monkeypatch):
    from transformers_groma.cli import output

    original, printed = output.printable, []

    def interrupted(text):
        printed.append(text)
        if len(printed) == 6:
            raise KeyboardInterrupt
        return original(text)

    monkeypatch.setattr(output, "printable", interrupted)
    code, out, err = type_lines(
        "[grounding]Please describe the image in detail.", f"box: {box_of(0)}", "What is this?", "exit"
    )
    assert code == 0 and "(stopped)" in err
    assert out.startswith("The image shows") and out.endswith(f"{truth(0)}\n") and len(out) < 120


def test_ctrl_c_at_the_prompt_ends_the_chat(type_lines):
    code, _, err = type_lines(KeyboardInterrupt())
    assert code == 130 and "interrupted" in err


def test_answers_alone_go_to_a_file(run, monkeypatch, scene_png):
    """Input from a terminal, output to a file: the prompt is on stderr."""
    stdin = io.StringIO(f"box: {box_of(0)}\nWhat is this?\n")
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", stdin)
    code, out, err = run("chat", scene_png, "-i", "--model", TINY)
    assert (code, out) == (0, f"{truth(0)}\n") and err.count("> ") == 3


def test_old_spellings_do_not_read_the_standard_input(run, monkeypatch, tiny_dir):
    monkeypatch.setattr("transformers_groma.cli.chat.run_session", lambda arguments: pytest.fail("it talked"))
    monkeypatch.setattr(sys, "stdin", None)
    for arguments in ((), ("Hi",), ("What is <region>?", "--box", BOX), ("--box", BOX)):
        assert run("chat", PHOTO, *arguments, "--model", tiny_dir, *SHORT)[0] == 0
