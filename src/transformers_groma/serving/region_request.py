"""Regions of requests: their fields, and a check of each against the image that it is of."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field

from ..boxes import prepare_user_boxes
from ..image_inputs import ImageSize
from ..masks import mask_to_rle
from ..point_inputs import MAX_POINTS
from ..region_inputs import REGION_KEYS, read_region
from .api_errors import bad_request
from .request_json import MAX_REQUEST_VERTICES, Strict
from .settings import ServerSettings

_NORMALIZED = ", or `normalized=True` for fractions of the image"
_Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class MaskRle(Strict):
    """COCO's run-length encoding of a mask of the upright image."""

    size: list[int] = Field(min_length=2, max_length=2)
    counts: str | list[int] = Field(min_length=1)


class RegionForm(Strict):
    """Where a region is, in absolute pixels of the upright image: exactly one of box (`xyxy`), point, points, scribble
    and mask."""

    box: list[float] | None = Field(None, min_length=4, max_length=4)
    point: _Point | None = None
    points: list[_Point] | None = Field(None, min_length=1, max_length=MAX_POINTS)
    labels: list[int] | None = Field(None, max_length=MAX_POINTS)
    scribble: list[_Point] | None = Field(None, min_length=1, max_length=MAX_REQUEST_VERTICES)
    mask: MaskRle | None = None
    ambiguity: Literal["part", "object", "group"] | None = None


def check_form(region: RegionForm, path: str) -> None:
    """Refuse a region that says in no way, or in several, where it is.

    Args:
        region (`RegionForm`): of a request.
        path (`str`): how an error names it.

    Raises:
        ApiError: it has none or several of the fields that say where it is, or fields of another (400).
    """
    given = [key for key in REGION_KEYS if getattr(region, key) is not None]
    if len(given) != 1:
        what = " and ".join(given) or "nothing that says where it is"
        raise bad_request(f"`{path}` has {what}: send one of {', '.join(REGION_KEYS)}.", path, "invalid_region")
    if region.labels is not None and given != ["points"]:
        raise bad_request(
            f"`{path}.labels` say which of several points are on a region, but this one has a {given[0]}: send them "
            "with points, or leave them out.",
            f"{path}.labels",
            "invalid_region",
        )


def mask_characters(regions: Iterable[RegionForm]) -> int:
    """How many characters the masks of regions have; a number counts as one."""
    return sum(len(region.mask.counts) for region in regions if region.mask is not None)


def region_of_image(path: str, region: RegionForm, image: Image.Image, settings: ServerSettings) -> dict[str, Any]:
    """A region that is known to be one of an image, as the engine takes it. Takes its time for a mask.

    Args:
        path (`str`): how an error names it.
        region (`RegionForm`): of a request.
        image (`PIL.Image.Image`): the image, upright.
        settings (`ServerSettings`): how many pixels a mask may have.

    Returns:
        `dict`: see `read_region`; a mask of another size is brought to the image's, so that nobody does so once more.

    Raises:
        ApiError: it is outside of the image, empty, of another size, damaged, or too large (400).
    """
    given = region.model_dump(exclude_none=True)
    if region.box is not None:
        check_box(f"{path}.box", region.box, image)
    if region.mask is not None:
        height, width = region.mask.size
        if height * width > settings.max_pixels:
            raise bad_request(
                f"`{path}.mask.size` is {region.mask.size}, more pixels than the {settings.max_pixels} that this "
                "server reads. Make the mask smaller.",
                f"{path}.mask.size",
                "invalid_region",
            )
    try:
        prompt = read_region(given, ImageSize(image.height, image.width), name=path)
    except ValueError as error:
        # It names fields as Python does, and an argument that requests do not have.
        message = re.sub(r"\['(\w+)'\]", r".\1", str(error)).replace(_NORMALIZED, "")
        raise bad_request(message, path, "invalid_region") from error
    if prompt.mask is not None and region.mask.size != [image.height, image.width]:
        given["mask"] = mask_to_rle(prompt.mask)
    return given


def check_box(param: str, box: list[float], image: Image.Image) -> None:
    """Refuse a box that is not one of an image.

    Args:
        param (`str`): how an error names the box.
        box (`list[float]`): `xyxy` in absolute pixels of the upright image.
        image (`PIL.Image.Image`): the image, upright.

    Raises:
        ApiError: it is inverted, empty, outside of the image, or made of fractions (400).
    """
    try:
        prepare_user_boxes([box], image.height, image.width)
    except ValueError as error:
        hint = " Numbers from 0 to 1 look like fractions of it." if all(0 <= value <= 1 for value in box) else ""
        raise bad_request(
            f"`{param}` is {box}, which is not a box in the {image.width}x{image.height} (width x height) image. Send "
            f"[x1, y1, x2, y2] in pixels of the upright image, with x1 < x2 and y1 < y2.{hint}",
            param,
            "invalid_box",
        ) from error


__all__ = ["MaskRle", "RegionForm", "check_box", "check_form", "mask_characters", "region_of_image"]
