"""Docstrings in the style of Hugging Face, as the API pages read them."""

import pytest

griffe = pytest.importorskip("griffe")

from scripts.api_docstrings import google_style  # noqa: E402


def sections(docstring: str) -> dict:
    text = griffe.Docstring(google_style(docstring)).parse("google", returns_named_value=False, warnings=False)
    return {section.kind.value: section.value for section in text}


def test_types_examples_and_names():
    found = sections(
        "Do it.\n\n"
        "Args:\n    boxes (`Tensor` of shape `(n, 4)`, *optional*): see [`Regions`]\n        and [`other`].\n\n"
        "Returns:\n    `dict[str, int]`: counts.\n\nExample:\n```python\n>>> 1 + 1\n2\n\n>>> 3\n3\n```"
    )
    [box] = found["parameters"]
    assert box.annotation == "Tensor of shape (n, 4)"  # griffe takes its default from the signature
    assert box.description == "see [`Regions`][transformers_groma.Regions]\nand `other`."
    [result] = found["returns"]
    assert (result.annotation, result.description) == ("dict[str, int]", "counts.")
    assert [text for _, text in found["examples"]] == [">>> 1 + 1\n2", ">>> 3\n3"]


def test_code_that_is_not_a_doctest_keeps_its_fence():
    [(kind, text)] = sections("Do it.\n\nExample:\n```python\nx = 1\n\ny = 2\n```")["examples"]
    assert kind.value == "text" and text == "```python\nx = 1\n\ny = 2\n```"


def test_a_docstring_of_words_stays():
    assert google_style("One line.\n\nMore: words.") == "One line.\n\nMore: words."
