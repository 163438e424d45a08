"""Fills in model cards: Markdown templates with fields, and the one template of all models, `model_card.md`."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import ModelCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .markdown import code_span, escape_markdown, python_string

ModelKind = Literal["chat", "detector", "glamm"]
TEMPLATE = Path(__file__).with_name("model_card.md")
KIND_OF_TYPE: dict[str, ModelKind] = {"groma": "chat", "groma_region_proposal": "detector", "glamm": "glamm"}
_AUTO_CLASSES = {
    "chat": ("AutoModelForImageTextToText", "AutoProcessor"),
    "detector": ("AutoModelForObjectDetection", "AutoImageProcessor"),
    "glamm": ("AutoModelForImageTextToText", "AutoProcessor"),
}


def fill_card(template: Path, **fields: Any) -> str:
    """Fill in the fields of a model card.

    Beside what jinja knows, templates have the filters `as_text` (text that Markdown shows as it is), `as_code` (the
    same in a monospaced font), `as_python` (a string literal) and `as_yaml` (a value in the metadata), for names that
    others chose.

    Args:
        template (`Path`): a Markdown file in jinja's syntax; it can include and extend files of its folder, and
            `model_card.md`.
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
        loader=FileSystemLoader([template.parent, TEMPLATE.parent], encoding="utf-8"),
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


def fill_model_card(
    kind: ModelKind,
    name: str,
    *,
    model: str | None = None,
    license: str = "apache-2.0",
    tags: Sequence[str] = (),
    language: str | None = None,
    base_model: str | Sequence[str] | None = None,
    start: str | None = None,
    datasets: Sequence[tuple[str, Any]] | None = None,
    hub_datasets: Sequence[str] | None = None,
    recipe: Sequence[tuple[str, Any]] | None = None,
    metrics: Sequence[tuple[str, float]] | None = None,
    has_masks: bool = False,
    is_adapter: bool = False,
    remote_code: bool = False,
    config: Mapping[str, Any] | None = None,
    made_with: str = "Made",
    template: Path = TEMPLATE,
    **more: Any,
) -> str:
    """Fill in the card of a model; what is not known is left out, or said to be unknown.

    Args:
        kind (`str`): `"chat"` for a whole Groma, `"detector"` for a detector, `"glamm"` for a GLaMM.
        name (`str`): the heading.
        model (`str`, *optional*): what the examples load, a Hub name or a folder; `name` by default.
        license (`str`): of the weights, as the Hub abbreviates it.
        tags (`Sequence[str]`): beside those of the family.
        language (`str`, *optional*): that it speaks, as `en`.
        base_model (`str` or several, *optional*): Hub names of what it was made from.
        start (`str`, *optional*): what the training started from.
        datasets (`Sequence` of names and numbers of rows, *optional*): what it was trained on.
        hub_datasets (`Sequence[str]`, *optional*): those of the Hub.
        recipe (`Sequence` of settings and values, *optional*): how it was trained.
        metrics (`Sequence` of names and values, *optional*): what was measured.
        has_masks (`bool`): whether it has a mask decoder to show.
        is_adapter (`bool`): whether these are the weights of an adapter.
        remote_code (`bool`): whether the code is beside the weights.
        config (`Mapping`, *optional*): content of config.json, for the limits.
        made_with (`str`): how it was made, in the last line: "Trained", "Converted", …
        template (`Path`): a template that extends `model_card.md`; this one by default.
        **more: fields of that template.

    Returns:
        `str`: Markdown with metadata.

    Example:
    >>> card = fill_model_card("chat", "my-groma", model="your-name/my-groma", license="mit")
    >>> ModelCard(card).data.license
    'mit'
    """
    config = config or {}
    auto_class, auto_processor = _AUTO_CLASSES[kind]
    return fill_card(
        template,
        kind=kind,
        name=name,
        model=model or name,
        license=license,
        tags=tags,
        language=language,
        base_model=base_model,
        start=start,
        datasets=datasets,
        hub_datasets=hub_datasets,
        recipe=recipe,
        metrics=metrics,
        has_masks=has_masks,
        is_adapter=is_adapter,
        remote_code=remote_code,
        auto_class=auto_class,
        auto_processor=auto_processor,
        image_size=config.get("vision_config", {}).get("image_size"),
        max_regions=config.get("max_regions"),
        made_with=made_with,
        **more,
    )


def _yaml_string(text: object) -> str:
    """A one-line YAML string, quoted only if necessary."""
    line = yaml.safe_dump(str(text), width=math.inf, allow_unicode=True).removesuffix("...\n").strip()
    return line if "\n" not in line else json.dumps(str(text))


__all__ = ["KIND_OF_TYPE", "ModelKind", "fill_card", "fill_model_card"]
