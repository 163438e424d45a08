"""Reads the JSON of requests: an object within limits, checked field by field, with a sentence for what is wrong."""

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from ..image_inputs import shortened
from ..point_inputs import MAX_POINTS
from .api_errors import bad_request
from .settings import ServerSettings

# Vertices of a scribble in a request, at most. A drawn line has some hundreds.
MAX_REQUEST_VERTICES = 1000

_PART_TYPES = "text, image_url, region or phrase"
# What the fields of regions hold, where they hold something else.
_REGION_FIELDS = {
    "box": "[x1, y1, x2, y2] in pixels of the upright image",
    "point": "[x, y] in pixels of the upright image",
    "points": f"[[x, y], …] in pixels of the upright image, at most {MAX_POINTS}",
    "scribble": f"[[x, y], …] in pixels of the upright image, at most {MAX_REQUEST_VERTICES}",
    "labels": "a 1 or a 0 for each of the points",
    "mask": 'COCO\'s RLE, {"size": [height, width], "counts": "…"}',
    "mask.size": "[height, width], whole numbers of pixels",
    "mask.counts": "COCO's text, or the lengths of its runs, whole numbers",
}
_REGION_FIELD = re.compile(r"\.(box|point|points|scribble|labels|mask|mask\.size|mask\.counts)$")

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Fields of a request: no other than these, and none of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def read_object(body: bytes, settings: ServerSettings) -> dict[str, Any]:
    """Read the body of a request.

    Args:
        body (`bytes`): JSON.
        settings (`ServerSettings`): limits.

    Returns:
        `dict`: the object, without the fields that are null.

    Raises:
        ApiError: it is not a JSON object, or one of very many small values (400).
    """
    _check_marks(body, settings)
    try:
        given = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(given, dict):
        raise bad_request(f"The body must be a JSON object, got {shortened(given)}.", code="invalid_json")
    return without_nulls(given)


def validated(model: type[Model], given: dict[str, Any]) -> Model:
    """Check the fields of a request.

    Args:
        model (`type[BaseModel]`): which fields there are.
        given (`dict`): of [`read_object`].

    Raises:
        ApiError: a field that is missing, unknown or wrong (400); the sentence names it.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        # The first one only: others often follow from it.
        message, param = _sentence(dict(error.errors(include_url=False)[0]), given)
        raise bad_request(message, param) from error


def without_nulls(value: Any) -> Any:
    """Objects without the fields that are null, which mean the same as fields that are not there.

    Example:
    >>> without_nulls({"stop": None, "messages": [{"name": None}]})
    {'messages': [{}]}
    """
    if isinstance(value, dict):
        return {name: without_nulls(entry) for name, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _check_marks(body: bytes, settings: ServerSettings) -> None:
    """Refuse JSON of very many small values, which takes many times its length in memory."""
    marks = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    # All the text of a conversation could be commas; the text of an image in base64 has none.
    most = settings.max_characters + 100 * settings.max_parts
    if marks > most:
        raise bad_request(
            f"The body has {marks} commas and brackets, but this server reads at most {most}. Send less."
        )


def _sentence(error: dict[str, Any], given: Any) -> tuple[str, str]:
    """What is wrong with a field, and its path."""
    path, kind = _path(error["loc"], given), error["type"]
    if kind == "missing":
        path = f"{path}.{error['loc'][-1]}" if path else str(error["loc"][-1])
        return f"`{path}` is missing.", path
    if kind == "extra_forbidden":
        return f"`{path}` is not a field that this server knows. Leave it out.", path
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field = error["ctx"]["discriminator"].strip("'")
        remedy = f"use {_PART_TYPES}" if field == "type" else "use system, user or assistant"
        if kind == "union_tag_not_found":
            return f"`{path}` has no `{field}`: {remedy}.", path
        return (
            f"`{path}` has the {field} {shortened(error['ctx']['tag'])}, which this server cannot read: {remedy}.",
            path,
        )
    if path.startswith("messages[") and error["loc"][-1] == "type":
        return f"`{path}` is {shortened(error['input'])}; system and assistant messages are text only.", path
    if field := _REGION_FIELD.search(path):
        return f"`{path}` is {shortened(error['input'])}: send {_REGION_FIELDS[field[1]]}.", path
    if kind in ("too_short", "string_too_short") and not error["input"]:
        return f"`{path}` is empty.", path
    if kind in ("model_type", "model_attributes_type", "dict_type"):  # it would name a class of Python
        return f"`{path}` is {shortened(error['input'])}: send an object, {{…}}.", path
    return f"`{path}`: {error['msg']}, got {shortened(error['input'])}.", path


def _path(location: tuple[int | str, ...], given: Any) -> str:
    """The place of an error as a caller writes it; pydantic also names the kinds of parts that it went through."""
    path = ""
    was_kind = False
    for number, step in enumerate(location):
        is_kind = isinstance(given, dict) and step in (given.get("type"), given.get("role"))
        was_kind = is_kind and not was_kind and number < len(location) - 1
        if was_kind:
            continue
        if isinstance(step, int) and isinstance(given, list) and step < len(given):
            path, given = f"{path}[{step}]", given[step]
        elif isinstance(given, dict) and step in given:
            path, given = f"{path}.{step}" if path else str(step), given[step]
    return path


__all__ = ["MAX_REQUEST_VERTICES", "Strict", "read_object", "validated", "without_nulls"]
