"""Fills in model cards: Markdown templates with fields."""

import json
import math
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .markdown import code_span, escape_markdown, python_string


def fill_card(template: Path, **fields: Any) -> str:
    """Fill in the fields of a model card.

    Beside what jinja knows, templates have the filters `as_text` (text that Markdown shows as it is), `as_code` (the
    same in a monospaced font), `as_python` (a string literal) and `as_yaml` (a value in the metadata), for names that
    others chose.

    Args:
        template (`Path`): a Markdown file in jinja's syntax; it can include and extend files of its folder.
        **fields: values of its fields.

    Returns:
        `str`: the card, metadata included.

    Raises:
        jinja2.UndefinedError: a field without a value.
        yaml.YAMLError: metadata that is not YAML.

    Example:
    >>> import tempfile
    >>> template = Path(tempfile.mkdtemp()) / "card.md"
    >>> _ = template.write_text("---\\nlicense: {{ license }}\\n---\\n# {{ name | as_text }}\\n")
    >>> print(fill_card(template, license="mit", name="my*model"))
    ---
    license: mit
    ---
    # my\\*model
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent, encoding="utf-8"),
        # A misspelt field is an error, not an empty place in a published card.
        undefined=StrictUndefined,
        # Lines that hold nothing but a `{% … %}` leave no trace.
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        as_text=escape_markdown, as_code=code_span, as_python=python_string, as_yaml=_yaml_string
    )
    card = environment.get_template(template.name).render(fields)
    ModelCard(card)  # reads the metadata, or raises
    return card


def _yaml_string(text: object) -> str:
    """A one-line YAML string, quoted only if necessary."""
    line = yaml.safe_dump(str(text), width=math.inf, allow_unicode=True).removesuffix("...\n").strip()
    return line if "\n" not in line else json.dumps(str(text))


__all__ = ["fill_card"]
