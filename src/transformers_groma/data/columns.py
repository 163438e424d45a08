"""Dataset columns: what `processing/` writes and training and evaluation read, and a check of every row.

Boxes are `xyxy` in absolute pixels of the upright image, `0 <= x1 < x2 <= width` and `0 <= y1 < y2 <= height`. Masks
are optional: one a box, COCO RLE of the upright image as `masks.mask_to_rle` writes it, null for a box without one.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from datasets import Features, Image, List, Value

from .._words import counted
from ..images import open_image_header, upright_size
from .annotated_masks import mask_fault

# Boxes may stick out of the image by this many pixels: annotations of photos are rounded.
BOX_SLACK = 1.0
# The types of message parts: plain text, the row's image, a box that the user points at, text that is tied to boxes.
PART_TYPES = TEXT, IMAGE, REGION, PHRASE = ("text", "image", "region", "phrase")

BOXES = List(List(Value("float32"), length=4))
MASKS = List({"size": List(Value("int32")), "counts": Value("string")})
MESSAGES = List(
    {
        "role": Value("string"),
        "content": List({"type": Value("string"), "text": Value("string"), "boxes": List(Value("int32"))}),
    }
)

# Stage 1. `source` says which objectness head learns from the row: "coco" (objects) or "sa1b" (segments of any kind).
DETECTION_SOURCES = ("coco", "sa1b")
DETECTION_FEATURES = Features(
    {"image": Image(), "image_id": Value("string"), "boxes_xyxy": BOXES, "source": Value("string")}
)
# Stages 2 and 3. `source` names the dataset. A row without an image is plain text.
CONVERSATION_FEATURES = Features(
    {
        "image": Image(),
        "image_id": Value("string"),
        "boxes_xyxy": BOXES,
        "messages": MESSAGES,
        "source": Value("string"),
    }
)
# Evaluation. Answers are compared with captions (`references`) or with boxes (`target_boxes_xyxy`).
EVALUATION_FEATURES = Features(
    {
        **CONVERSATION_FEATURES,
        "references": List(Value("string")),
        "target_boxes_xyxy": BOXES,
        "category": Value("string"),
    }
)

Schema = Literal["detection", "conversation", "evaluation"]
FEATURES: dict[str, Features] = {
    "detection": DETECTION_FEATURES,
    "conversation": CONVERSATION_FEATURES,
    "evaluation": EVALUATION_FEATURES,
}
# Columns that rows of a schema may also have. Crowd regions are boxes around many objects that were not counted:
# detections in them are neither right nor wrong, and nothing learns them.
OPTIONAL_FEATURES: dict[str, Features] = {
    "detection": Features({"crowd_boxes_xyxy": BOXES, "masks": MASKS, "crowd_masks": MASKS}),
    "conversation": Features({"masks": MASKS}),
    "evaluation": Features({"masks": MASKS, "target_masks": MASKS}),
}
# Which boxes the masks of a column belong to.
BOXES_OF_MASKS = {"masks": "boxes_xyxy", "crowd_masks": "crowd_boxes_xyxy", "target_masks": "target_boxes_xyxy"}


class RowError(ValueError):
    """A row that does not fit its schema."""


def text_part(text: str) -> dict[str, Any]:
    """A message part of plain text.

    Args:
        text (`str`): the text.

    Returns:
        `dict`: the part.

    Example:
    >>> text_part("What is ")
    {'type': 'text', 'text': 'What is ', 'boxes': []}
    """
    return {"type": TEXT, "text": text, "boxes": []}


def image_part() -> dict[str, Any]:
    """A message part that shows the row's image: one per row, at the head of the first question."""
    return {"type": IMAGE, "text": "", "boxes": []}


def region_part(box: int) -> dict[str, Any]:
    """A message part in which the user points at a box.

    Args:
        box (`int`): index into the row's `boxes_xyxy`.

    Returns:
        `dict`: the part.
    """
    return {"type": REGION, "text": "", "boxes": [box]}


def phrase_part(text: str, boxes: Sequence[int] = ()) -> dict[str, Any]:
    """A message part of text that is tied to boxes.

    Args:
        text (`str`): the phrase; may be empty, as in an answer that only points.
        boxes (`Sequence[int]`): indices into the row's `boxes_xyxy`; none in a question about a phrase.

    Returns:
        `dict`: the part.

    Example:
    >>> phrase_part("two dogs", [0, 2])
    {'type': 'phrase', 'text': 'two dogs', 'boxes': [0, 2]}
    """
    return {"type": PHRASE, "text": text, "boxes": list(boxes)}


def features_of(columns: Iterable[str], schema: Schema) -> Features:
    """The features of rows: those of their schema, and of the optional columns that they have.

    Args:
        columns (iterable of `str`): names of the columns.
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`.

    Returns:
        `Features`: in the order of the schema.

    Example:
    >>> list(features_of(["crowd_boxes_xyxy", "image"], "detection"))
    ['image', 'image_id', 'boxes_xyxy', 'source', 'crowd_boxes_xyxy']
    """
    columns = set(columns)
    optional = {name: feature for name, feature in OPTIONAL_FEATURES[schema].items() if name in columns}
    return Features({**FEATURES[schema], **optional})


def check_columns(features: Features | None, schema: Schema) -> None:
    """Check that a dataset has the columns of a schema, with their types; other columns are allowed.

    Args:
        features (`Features`): of a dataset (`dataset.features`).
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`.

    Raises:
        ValueError: a column is missing or has another type.

    Example:
    >>> check_columns(DETECTION_FEATURES, "detection")
    """
    if features is None:
        raise ValueError("The dataset has no `features`; load it with `features=` of the schema.")
    for name, feature in FEATURES[schema].items():
        if name not in features:
            raise ValueError(
                f"{'An' if schema == 'evaluation' else 'A'} {schema} dataset needs the column {name!r} ({feature}); "
                f"found {', '.join(map(repr, features))}."
            )
        if features[name] != feature and not isinstance(feature, Image):
            raise ValueError(f"Column {name!r} of a {schema} dataset must be {feature}, found {features[name]}.")
        if isinstance(feature, Image) and not isinstance(features[name], Image):
            raise ValueError(f"Column {name!r} must be an image column, found {features[name]}. Cast it to `Image()`.")
    for name, feature in OPTIONAL_FEATURES[schema].items():
        if features.get(name, feature) != feature:
            raise ValueError(f"Column {name!r} of a {schema} dataset must be {feature}, found {features[name]}.")


def check_row(row: Mapping[str, Any], schema: Schema) -> None:
    """Check one row.

    Args:
        row (`Mapping`): a row of a dataset; the image decoded (PIL) or not (`bytes` and `path`).
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`.

    Raises:
        RowError: what is wrong with it.

    Example:
    >>> row = {"image": None, "image_id": "1", "boxes_xyxy": [], "messages": [], "source": "chat"}
    >>> check_row(row, "conversation")
    Traceback (most recent call last):
    transformers_groma.data.columns.RowError: `messages` is empty
    """
    size = _size_of_image(row["image"])
    if size is None and schema == "detection":
        raise RowError("`image` is missing")
    _check_boxes("boxes_xyxy", row["boxes_xyxy"], size)
    _check_text(row)
    if schema == "detection":
        _check_boxes("crowd_boxes_xyxy", row.get("crowd_boxes_xyxy") or [], size)
        if row["source"] not in DETECTION_SOURCES:
            raise RowError(f"`source` must be one of {DETECTION_SOURCES}, got {row['source']!r}")
    else:
        is_evaluation = schema == "evaluation"
        _check_messages(row["messages"], len(row["boxes_xyxy"]), size is not None, ends_with_answer=not is_evaluation)
        if is_evaluation:
            _check_boxes("target_boxes_xyxy", row["target_boxes_xyxy"], size)
    check_masks(row, schema)


def check_masks(row: Mapping[str, Any], schema: Schema) -> None:
    """Check the masks of one row, and nothing else of it.

    Args:
        row (`Mapping`): as for [`check_row`]; its boxes are in order.
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`.

    Raises:
        RowError: what is wrong with the first mask that does not fit the image or its box.

    Example:
    >>> row = {"image": None, "image_id": "1", "boxes_xyxy": [], "masks": [None]}
    >>> check_masks(row, "conversation")
    Traceback (most recent call last):
    transformers_groma.data.columns.RowError: `masks` has 1 mask, but `boxes_xyxy` has 0 boxes: give one a box, and
        null for a box without a mask
    """
    size = _size_of_image(row["image"])
    for name, of_boxes in BOXES_OF_MASKS.items():
        if name in OPTIONAL_FEATURES[schema] and row.get(name) is not None:
            boxes = row.get(of_boxes)
            _check_masks(name, row[name], of_boxes, [] if boxes is None else boxes, size)


def check_dataset(
    dataset: Iterable[Mapping[str, Any]],
    schema: Schema,
    check: Callable[[Mapping[str, Any], Schema], None] = check_row,
) -> int:
    """Check columns and rows of a dataset, up to the first bad row.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): rows.
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`.
        check (`Callable`): what is checked of each row, [`check_row`] or [`check_masks`].

    Returns:
        `int`: number of rows.

    Raises:
        ValueError: a wrong column.
        RowError: the first bad row, its number and image, and why.

    Example:
    >>> from datasets import Dataset
    >>> empty = Dataset.from_dict({name: [] for name in DETECTION_FEATURES}, features=DETECTION_FEATURES)
    >>> check_dataset(empty, "detection")
    0
    """
    check_columns(dataset.features, schema)
    # The header of a file has its size; decoding all pixels would take minutes and add little.
    dataset = dataset.cast_column("image", Image(decode=False))
    count = 0
    for index, row in enumerate(dataset):
        try:
            check(row, schema)
        except RowError as error:
            raise RowError(f"Row {index} (image_id {row['image_id']!r}): {error}.") from error
        count += 1
    return count


def _size_of_image(image: Any) -> tuple[int, int] | None:
    """Width and height of a row's image as a viewer shows it; `None` without an image."""
    if image is None:
        return None
    if isinstance(image, Mapping):
        if image.get("bytes") is None and image.get("path") is None:
            raise RowError("`image` has neither bytes nor a path")
        try:
            image = open_image_header(image["path"] if image.get("bytes") is None else io.BytesIO(image["bytes"]))
        except (OSError, SyntaxError, ValueError) as error:
            raise RowError(f"`image` cannot be read ({error})") from error
    return upright_size(image)


def _check_boxes(name: str, boxes: Sequence[Sequence[float]], size: tuple[int, int] | None) -> None:
    if len(boxes) > 0 and size is None:
        raise RowError(f"`{name}` has {counted(len(boxes), 'box', 'boxes')}, but the row has no image")
    for index, box in enumerate(boxes):
        if len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise RowError(f"`{name}[{index}]` must be four finite numbers [x1, y1, x2, y2], got {list(box)}")
        x1, y1, x2, y2 = box
        if not (x1 < x2 and y1 < y2):
            raise RowError(f"`{name}[{index}]` must be [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got {list(box)}")
        width, height = size
        if min(x1, y1) < -BOX_SLACK or x2 > width + BOX_SLACK or y2 > height + BOX_SLACK:
            raise RowError(f"`{name}[{index}]` {list(box)} is outside the image of {width}x{height} pixels")


def _check_masks(
    name: str,
    masks: Sequence[Mapping[str, Any] | None],
    of_boxes: str,
    boxes: Sequence[Sequence[float]],
    size: tuple[int, int] | None,
) -> None:
    """Check masks; their boxes were checked before."""
    if len(masks) != len(boxes):
        raise RowError(
            f"`{name}` has {counted(len(masks), 'mask')}, but `{of_boxes}` has {counted(len(boxes), 'box', 'boxes')}: "
            "give one a box, and null for a box without a mask"
        )
    for index, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        if mask is not None and size is None:
            raise RowError(f"`{name}[{index}]` is a mask, but the row has no image")
        if mask is not None and (fault := mask_fault(mask, box, *size)):
            raise RowError(f"`{name}[{index}]`: {fault}")


def _check_text(value: Any) -> None:
    """Check that texts hold no lone surrogates: JSON can spell them, but UTF-8 files cannot hold them."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError("a text holds half a character (a lone surrogate)") from None
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if "boxes" not in name and "masks" not in name:
                _check_text(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_text(inner)


def _check_messages(
    messages: Sequence[Mapping[str, Any]], num_boxes: int, has_image: bool, ends_with_answer: bool
) -> None:
    if not messages:
        raise RowError("`messages` is empty")
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    expected = ["user" if index % 2 == 0 else "assistant" for index in range(len(turns))]
    if turns != expected:
        raise RowError(f"`messages` must alternate user and assistant (a system message may come first), got {roles}")
    if not turns or (turns[-1] == "assistant") != ends_with_answer:
        wanted = "an assistant" if ends_with_answer else "a user"
        raise RowError(f"`messages` must end with {wanted} message, got {roles}")
    num_images = 0
    for number, message in enumerate(messages):
        for part_number, part in enumerate(message["content"]):
            where = f"`messages[{number}]['content'][{part_number}]`"
            kind, boxes = part["type"], part["boxes"]
            if kind not in PART_TYPES:
                raise RowError(f"{where} has type {kind!r}; use one of {PART_TYPES}")
            if any(not 0 <= box < num_boxes for box in boxes):
                raise RowError(f"{where} names boxes {list(boxes)}, but there are {num_boxes}")
            if kind in (TEXT, IMAGE) and len(boxes) > 0:
                raise RowError(f"{where} of type {kind!r} cannot have boxes")
            if kind == REGION and (len(boxes) != 1 or message["role"] == "assistant"):
                raise RowError(f"{where}: a region is one box that the user points at, got {list(boxes)}")
            if kind == PHRASE and not part["text"] and len(boxes) == 0:
                raise RowError(f"{where}: a phrase needs text or boxes")
            num_images += kind == IMAGE
    if num_images != int(has_image):
        raise RowError(f"`messages` show {num_images} images, but the row has {int(has_image)}")


__all__ = [
    "BOXES_OF_MASKS",
    "CONVERSATION_FEATURES",
    "DETECTION_FEATURES",
    "DETECTION_SOURCES",
    "EVALUATION_FEATURES",
    "FEATURES",
    "IMAGE",
    "OPTIONAL_FEATURES",
    "PART_TYPES",
    "PHRASE",
    "REGION",
    "RowError",
    "TEXT",
    "check_columns",
    "check_dataset",
    "check_masks",
    "check_row",
    "features_of",
    "image_part",
    "phrase_part",
    "region_part",
    "text_part",
]
