"""Prepares docstrings for the API pages of the documentation: the style of Hugging Face becomes that of Google.

`mkdocs.yml` names this file as an extension of griffe, which reads the docstrings. Three things differ:

- types are set in backticks and say more than a type, `` name (`Tensor` of shape `(n, 4)`, *optional*): … ``;
- an `Example:` is not indented, and may stand in a fence;
- other objects are named as ``[`Regions`]``.
"""

import re
from typing import Any

import griffe

import transformers_groma

_SECTION = re.compile(r"^(\w+):$")
_ITEM = re.compile(r"^(    )([\w.*, ]+?) \((.+?)\):(?= |$)")
_RETURN = re.compile(r"^(    )((?:`[^`]+`)[^:]*):(?= |$)")
_NAMED = re.compile(r"\[`(\w+)`\]")
_TYPED = ("Args", "Attributes", "Returns", "Yields")


def plain_type(text: str) -> str:
    """Take the marks out of a type: the pages set types in a font of their own.

    Args:
        text (`str`): a type as docstrings have it.

    Returns:
        `str`: the same words.

    Example:
    >>> plain_type("`Tensor` of shape `(n, 4)`, *optional*")
    'Tensor of shape (n, 4), optional'
    """
    return text.replace("`", "").replace("*optional*", "optional")


def named_object(match: re.Match) -> str:
    """Link an object that a docstring names, if a page has it.

    Args:
        match (`re.Match`): of ``[`NAME`]``.

    Returns:
        `str`: Markdown.
    """
    name = match[1]
    if name not in transformers_groma.__all__:
        return f"`{name}`"
    return f"[`{name}`][transformers_groma.{name}]"


def google_style(docstring: str) -> str:
    """Rewrite a docstring for griffe's reader of Google's style.

    Args:
        docstring (`str`): without the indentation of the code.

    Returns:
        `str`: the same text. Everything from `Example:` on is one section of examples.

    Example:
    >>> print(google_style("Adds.\\n\\nArgs:\\n    a (`int`): one.\\n\\nExample:\\n>>> add(1)\\n2"))
    Adds.
    <BLANKLINE>
    Args:
        a (int): one.
    <BLANKLINE>
    Examples:
        >>> add(1)
        2
    """
    section, lines = "", []
    is_doctest = ">>> " in docstring
    for line in docstring.splitlines():
        if found := _SECTION.match(line):
            section = found[1]
            lines.append("Examples:" if section == "Example" else line)
        elif section == "Example":
            # The reader makes a block of a doctest itself; other code keeps its fence.
            if not (is_doctest and line.startswith("```")):
                lines.append(f"    {line}" if line else "")
        elif section in _TYPED:
            line = _ITEM.sub(lambda item: f"{item[1]}{item[2]} ({plain_type(item[3])}):", line)
            if section in ("Returns", "Yields"):
                line = _RETURN.sub(lambda item: f"{item[1]}{plain_type(item[2])}:", line)
            lines.append(line)
        else:
            lines.append(line)
    return _NAMED.sub(named_object, "\n".join(lines))


class HuggingFaceDocstrings(griffe.Extension):
    """The extension that griffe loads; it rewrites the docstring of each object that is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object, if it has one.

        Args:
            obj (`griffe.Object`): a module, class, function or attribute.
        """
        if obj.docstring is not None:
            obj.docstring.value = google_style(obj.docstring.value)
