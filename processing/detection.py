"""The detection row of a COCO-style image: its boxes, crowds and masks, turned upright."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processing.boxes import usable_boxes
from processing.coco_format import CocoImage, find_image
from processing.masks import masks_of, upright_masks
from transformers_groma.data.image_files import (
    BoxesOf,
    orientation_of_boxes,
    read_image_bytes,
    stored_size,
    turned_boxes,
)
from transformers_groma.data.left_out import LeftOut, SkipRecord


def detection_rows(
    entry: CocoImage,
    images: Path,
    source: str = "coco",
    boxes_of: BoxesOf | None = None,
    keep_empty: bool = False,
    masks: bool = False,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The detection row of one image; categories are dropped.

    Args:
        entry (`CocoImage`): `bbox` of its annotations is `xywh` in pixels.
        images (`Path`): the folder that the image is in or below.
        source (`str`): `"coco"` or `"sa1b"`, which objectness head learns from the row.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.
        keep_empty (`bool`): make a row also of an image without boxes.
        masks (`bool`): whether to write the columns of masks; null for a box without a usable one.

    Yields:
        `LeftOut`: why an annotation has no box in the row, or a box no mask.
        `dict`: the row; boxes `xyxy` in pixels of the upright image, clipped to it.

    Raises:
        SkipRecord: no box, no image, or one of another size than annotated.
    """
    size = width, height = entry.check()
    boxes, kept, left_out = usable_boxes([box.get("bbox") for box in entry.annotations], width, height)
    crowds, crowds_kept, crowds_left_out = usable_boxes([box.get("bbox") for box in entry.crowds], width, height)
    yield from (*entry.left_out, *left_out, *crowds_left_out)
    if not boxes and not keep_empty:
        raise SkipRecord("no boxes")
    path = find_image(images, entry.image.get("file_name"))
    content = read_image_bytes(path)
    orientation = orientation_of_boxes(content, size, boxes_of)
    stored = stored_size(content)
    row = {
        "image": {"bytes": content, "path": path.name},
        "image_id": entry.image_id,
        "boxes_xyxy": turned_boxes(boxes, orientation, *stored),
        "source": source,
        "crowd_boxes_xyxy": turned_boxes(crowds, orientation, *stored),
    }
    if masks:
        for column, annotations, of_boxes in (
            ("masks", [entry.annotations[index] for index in kept], boxes),
            ("crowd_masks", [entry.crowds[index] for index in crowds_kept], crowds),
        ):
            found, masks_left_out = masks_of(annotations, of_boxes, size)
            yield from masks_left_out
            row[column] = upright_masks(found, orientation)
    yield row
