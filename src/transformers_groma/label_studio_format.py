"""Label Studio's predictions: boxes in percent, masks in its own run-length encoding or as polygons, and its labelling
configuration.

A region's label is one of a small set, which the configuration lists. The words that name it, which may be any, are a
text of the region: a second result with the same id.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import numpy as np

from .labelled_objects import LabelledObject, check_box
from .mask_outlines import mask_to_polygons
from .rle import rle_to_mask

# What an image is marked with, and the tag of Label Studio for it.
Shape = Literal["rectangle", "brush", "polygon"]
TAGS: dict[Shape, str] = {"rectangle": "RectangleLabels", "brush": "BrushLabels", "polygon": "PolygonLabels"}
# How masks are written.
MaskShape = Literal["brush", "polygon"]
# Names that results and the configuration share.
IMAGE, PHRASE, CAPTION = "image", "phrase", "caption"

# Of Label Studio's RLE: 8 bits a value, and runs whose lengths have one of these numbers of bits.
_WORD_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)


def label_studio_rle(mask: np.ndarray) -> list[int]:
    """Encode a mask as Label Studio's brush has it: runs of an RGBA image's values, row by row, packed into bytes.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): True where the region is.

    Returns:
        `list[int]`: bytes, which `label_studio_sdk.converter.brush.decode_rle` reads; all four channels are 255 inside
        of the mask and 0 outside.

    Example:
    >>> import numpy as np
    >>> label_studio_rle(np.array([[False, True]]))
    [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]
    """
    values = np.ascontiguousarray(mask).reshape(-1)
    bounds = np.flatnonzero(np.diff(values)) + 1
    starts = np.r_[0, bounds]
    lengths = np.diff(np.r_[starts, len(values)]) * 4
    # How many values there are, how many bits one has, and the four sizes of lengths.
    bits = [f"{4 * len(values):032b}", f"{_WORD_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _LENGTH_BITS)]
    for is_region, length in zip(values[starts].tolist(), lengths.tolist(), strict=True):
        value = "1" * _WORD_BITS if is_region else "0" * _WORD_BITS
        while length:
            run = min(length, 1 << _LENGTH_BITS[-1])
            kind = next(kind for kind, size in enumerate(_LENGTH_BITS) if run <= 1 << size)
            bits.append(f"1{kind:02b}{run - 1:0{_LENGTH_BITS[kind]}b}{value}")
            length -= run
    packed = "".join(bits)
    packed += "0" * (-len(packed) % 8)
    return list(int(packed, 2).to_bytes(len(packed) // 8, "big"))


def label_studio_prediction(
    objects: Sequence[LabelledObject],
    height: int,
    width: int,
    *,
    masks: MaskShape | None = "brush",
    caption: str | None = None,
    model_version: str = "groma",
) -> dict[str, Any]:
    """A prediction for one image, as tasks have it and as a machine learning backend answers.

    Args:
        objects (`Sequence[LabelledObject]`): boxes are `xyxy` in absolute pixels of the upright image. What is said
            about one, its phrase if it differs from its label and its description, are texts of the region.
        height (`int`): height of the image in pixels.
        width (`int`): its width.
        masks (`str`, *optional*): `"brush"` writes masks pixel by pixel, `"polygon"` a polygon with an id of its own
            for each of their parts; `None` writes boxes alone.
        caption (`str`, *optional*): a text about the whole image.
        model_version (`str`): what Label Studio groups predictions by.

    Returns:
        `dict`: `model_version`, `result` and, if objects have scores, `score`: their mean, within 0..1.

    Raises:
        ValueError: a box has no area or is outside of the image, a mask is empty, or `masks` is none of these.

    Example:
    >>> dog = LabelledObject((10, 20, 30, 40), phrase="a dog")
    >>> results = label_studio_prediction([dog], height=100, width=200)["result"]
    >>> results[0]["value"]
    {'x': 5.0, 'y': 20.0, 'width': 10.0, 'height': 20.0, 'rotation': 0, 'rectanglelabels': ['object']}
    >>> results[1]["id"] == results[0]["id"], results[1]["value"]["text"]
    (True, ['a dog'])
    """
    if masks not in (None, "brush", "polygon"):
        raise ValueError(f"`masks` must be 'brush', 'polygon' or None, got {masks!r}.")
    common = {"to_name": IMAGE, "original_width": width, "original_height": height, "image_rotation": 0}
    result: list[dict[str, Any]] = []
    for number, thing in enumerate(objects):
        for part, (shape, value) in enumerate(_shapes_of(thing, height, width, masks)):
            name = f"object-{number}" if part == 0 else f"object-{number}-{part}"
            tag = TAGS[shape].lower()
            entry = {"id": name, "from_name": shape, "type": tag, **common, "value": {**value, tag: [thing.label]}}
            if thing.score is not None:
                entry["score"] = thing.score
            result.append(entry)
            if texts := [text for text in (thing.phrase, thing.description) if text and text != thing.label]:
                value = {**value, "text": texts}
                result.append({"id": name, "from_name": PHRASE, "type": "textarea", **common, "value": value})
    if caption:
        text = {"text": [caption]}
        result.append(
            {"id": "caption", "from_name": CAPTION, "to_name": IMAGE, "type": "textarea", "value": text},
        )
    prediction: dict[str, Any] = {"model_version": model_version, "result": result}
    scores = [thing.score for thing in objects if thing.score is not None]
    if scores:
        prediction["score"] = min(max(sum(scores) / len(scores), 0.0), 1.0)
    return prediction


def _shapes_of(
    thing: LabelledObject, height: int, width: int, masks: MaskShape | None
) -> list[tuple[Shape, dict[str, Any]]]:
    """What an object is drawn with: one rectangle, one brush, or a polygon for each part."""
    x1, y1, x2, y2 = check_box(thing.box_xyxy, height, width)
    if masks is None or thing.mask is None:
        x, y = 100 * x1 / width, 100 * y1 / height
        box = {"x": x, "y": y, "width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height, "rotation": 0}
        return [("rectangle", box)]
    mask = rle_to_mask(thing.mask)
    if not mask.any():
        raise ValueError(f"the mask of {thing.label!r} at {list(thing.box_xyxy)} is empty")
    if masks == "brush":
        return [("brush", {"format": "rle", "rle": label_studio_rle(mask)})]
    percent = np.array([100 / width, 100 / height])
    return [
        ("polygon", {"points": (np.reshape(part, (-1, 2)) * percent).tolist(), "closed": True})
        for part in mask_to_polygons(mask)
    ]


def label_studio_config(
    labels: Iterable[str], shapes: Collection[Shape] = ("rectangle",), caption: bool = False
) -> str:
    """The labelling configuration that predictions fit.

    Args:
        labels (`Iterable[str]`): all labels.
        shapes (`Collection[str]`): what predictions use of `"rectangle"`, `"brush"` and `"polygon"`.
        caption (`bool`): whether they have captions.

    Returns:
        `str`: XML for the field "Labeling Interface" of a project.

    Example:
    >>> print(label_studio_config(["dog"]))
    <View>
      <Image name="image" value="$image" zoom="true" zoomControl="true"/>
      <RectangleLabels name="rectangle" toName="image">
        <Label value="dog"/>
      </RectangleLabels>
      <TextArea name="phrase" toName="image" perRegion="true" editable="true" displayMode="region-list"/>
    </View>
    """
    lines = [f'  <Image name="{IMAGE}" value="${IMAGE}" zoom="true" zoomControl="true"/>']
    entries = [f"    <Label value={quoteattr(label)}/>" for label in labels]
    for shape, tag in TAGS.items():
        if shape in shapes:
            lines += [f'  <{tag} name="{shape}" toName="{IMAGE}">', *entries, f"  </{tag}>"]
    lines.append(
        f'  <TextArea name="{PHRASE}" toName="{IMAGE}" perRegion="true" editable="true" displayMode="region-list"/>'
    )
    if caption:
        lines.append(f'  <TextArea name="{CAPTION}" toName="{IMAGE}" editable="true"/>')
    return "\n".join(["<View>", *lines, "</View>"])


__all__ = ["MaskShape", "Shape", "label_studio_config", "label_studio_prediction", "label_studio_rle"]
