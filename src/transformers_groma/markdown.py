"""Escapes text for Markdown, so that names of models, datasets and files appear unchanged."""

import json
import re

# What Markdown, GitHub's tables and HTML read as more than text. Between the letters of a name `_` is one.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|(?<=:)//|(?<=www)\.")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def one_line(text: object) -> str:
    """A value in one line, without control characters.

    Args:
        text: anything with a `str`.

    Returns:
        `str`: line breaks and runs of whitespace as one space, other characters that are not printable as U+FFFD.

    Example:
    >>> one_line("a\\n b\\x1b[31m")
    'a b\ufffd[31m'
    """
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(str(text).split()))


def escape_markdown(text: object) -> str:
    """Escape a text so that Markdown shows it unchanged, in a heading, a line or a table cell.

    Args:
        text: anything with a `str`.

    Returns:
        `str`: one line.

    Example:
    >>> print(escape_markdown("my_model|<b>"))
    my_model\\|&lt;b&gt;
    """
    return _SPECIAL.sub(lambda match: f"\\{match[0]}", one_line(text).translate(_HTML))


def code_span(text: object) -> str:
    """Format text as a code span, valid in a table cell too.

    Args:
        text: anything with a `str`.

    Returns:
        `str`: one line between as many backticks as it takes.

    Example:
    >>> print(code_span("org/data"), code_span("a`b"))
    `org/data` `` a`b ``
    """
    line = one_line(text)
    if not line:
        return ""
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    # The one character that a table reads in code too.
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def python_string(text: object) -> str:
    """A Python string literal for a Markdown code block.

    Args:
        text: anything with a `str`.

    Returns:
        `str`: in double quotes, in one line, and without backticks, which could end the block.

    Example:
    >>> print(python_string('a"b'))
    "a\\"b"
    """
    return json.dumps(str(text)).replace("`", "\\u0060")


__all__ = ["code_span", "escape_markdown", "one_line", "python_string"]
