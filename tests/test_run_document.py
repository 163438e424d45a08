"""Blocks of documents: found with what stands around them, and run with what they promise."""

import pytest

from .run_document import commands, read_blocks, run_python


def test_blocks_with_reasons_and_output(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        "```python\nprint(1)\n```\n\n```\n1\n```\n\nText.\n\n```\nnot of Python\n```\n"
        "<!-- not run: it needs a GPU -->\n```bash\nmake bench\n```\n"
    )
    python, output, other, bash = read_blocks(document)
    assert (python.language, python.text, python.line, python.reason) == ("python", "print(1)\n", 2, None)
    assert output.shows_output and not other.shows_output and not python.shows_output
    assert (bash.language, bash.text, bash.reason) == ("bash", "make bench\n", "it needs a GPU")


@pytest.mark.parametrize("text", ["- item\n  ```python\n  x\n  ```\n", "```python\nprint(1)\n"])
def test_a_block_that_would_not_be_seen_is_an_error(tmp_path, text):
    document = tmp_path / "page.md"
    document.write_text(text)
    with pytest.raises(AssertionError, match="lines of fences"):
        read_blocks(document)


@pytest.mark.parametrize("text", ["1 + 1  # 2", "'a b'  # a b", "'a b'  # 'a b'", "print('x')  # x", "y = 1  # any"])
def test_promises_that_are_kept(text):
    run_python(text, "page", {})


@pytest.mark.parametrize("text", ["1 + 1  # 3\n", "print('x')  # y\n", "(\n    1,\n)  # (2,)\n"])
def test_promises_that_are_broken(text):
    with pytest.raises(AssertionError, match="page"):
        run_python(text, "page", {})


def test_commands_without_what_they_read():
    text = 'groma chat a.png \\\n  --json  # comment\ncurl -d @- URL <<END\n{"a": [1]}\nEND\nmake docs\n'
    assert commands(text) == [["groma", "chat", "a.png", "--json"], ["curl", "-d", "@-", "URL"], ["make", "docs"]]


def test_output_is_that_of_the_whole_block():
    assert run_python("for number in range(2):\n    print(number)\nprint(2)", "page", {}) == "0\n1\n2\n"
