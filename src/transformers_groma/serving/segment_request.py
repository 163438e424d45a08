"""What a request for masks may say: an image, and regions that are pointed at or a phrase to locate."""

from typing import Any

from pydantic import Field

from ..image_inputs import shortened
from .api_errors import ApiError, bad_request
from .chat_request import ImageUrl
from .region_request import RegionForm, check_form, mask_characters
from .request_json import Strict, read_object, validated
from .settings import ServerSettings


class SegmentRequest(Strict):
    """A request for the masks of regions of an image, or of what a phrase refers to."""

    model: str = Field(min_length=1)
    image_url: ImageUrl
    regions: list[RegionForm] | None = Field(None, min_length=1)
    phrase: str | None = Field(None, min_length=1)
    # Whether all that the phrase refers to is meant, and not one.
    all: bool | None = None


def read_segment_request(body: bytes, settings: ServerSettings) -> SegmentRequest:
    """Read the body of a request for masks.

    Args:
        body (`bytes`): JSON.
        settings (`ServerSettings`): limits.

    Returns:
        `SegmentRequest`: valid in itself; the image is not read yet.

    Raises:
        ApiError: the request cannot be answered as it was meant; the sentence names the field.

    Example:
    >>> body = b'{"model": "m", "image_url": {"url": "data:,"}, "regions": [{"point": [3, 4]}], "phrase": "a cup"}'
    >>> read_segment_request(body, ServerSettings("m"))
    Traceback (most recent call last):
    transformers_groma.serving.api_errors.ApiError: `regions` and `phrase` are both given: send one of them.
    """
    given = read_object(body, settings)
    _check_count(given.get("regions"), settings)
    request = validated(SegmentRequest, given)
    if request.model != settings.model_name:
        message = f"`model` is {shortened(request.model)}, but this server has {settings.model_name!r} only."
        raise ApiError(404, message, param="model", code="model_not_found")
    if request.regions is not None and request.phrase is not None:
        raise bad_request("`regions` and `phrase` are both given: send one of them.", "phrase")
    if request.phrase is None:
        if request.regions is None:
            raise bad_request(
                'There is nothing to segment: send `regions`, such as [{"point": [x, y]}], or a `phrase`.', "regions"
            )
        if request.all is not None:
            raise bad_request("`all` is about a `phrase`, but `regions` are given: leave it out.", "all")
    elif not request.phrase.strip():
        raise bad_request("`phrase` is empty.", "phrase")
    elif len(request.phrase) > settings.max_characters:
        raise bad_request(
            f"`phrase` has {len(request.phrase)} characters, but this server reads at most {settings.max_characters}. "
            "Send a shorter one.",
            "phrase",
        )
    for number, region in enumerate(request.regions or ()):
        check_form(region, f"regions[{number}]")
    characters = mask_characters(request.regions or ())
    if characters > settings.max_mask_characters:
        raise bad_request(
            f"`regions` has {characters} characters of masks in all, but this server reads at most "
            f"{settings.max_mask_characters}. Send fewer.",
            "regions",
        )
    return request


def _check_count(regions: Any, settings: ServerSettings) -> None:
    """Refuse too many regions before each is looked at."""
    if isinstance(regions, list) and len(regions) > settings.max_regions:
        raise bad_request(
            f"`regions` has {len(regions)} regions, but this server reads at most {settings.max_regions}. Send fewer.",
            "regions",
        )


__all__ = ["SegmentRequest", "read_segment_request"]
