"""The gallery of a run: the first annotated images, with their regions and answers drawn, on one contact sheet."""

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

import numpy as np
from PIL import Image

from .._files import write_file
from ..data.annotation_columns import AnnotatedImage, AnnotatedRegion, read_annotations
from ..data.contact_sheet import TILE, captioned_tile, contact_sheet
from ..data.left_out import SkipRecord
from ..masks import rle_to_mask
from ..regions import Regions
from ..visualization import draw_boxes
from .output_folder import GALLERY, OutputFolder
from .prepared_images import upright_image
from .sources.source_images import SourceShard

# Regions that are drawn of an image where nothing names any.
_MOST_UNNAMED = 30


def write_gallery(folder: OutputFolder, shards: Sequence[SourceShard], count: int) -> bool:
    """Draw the first annotated images of the finished shards, and write them to the output folder.

    Args:
        folder (`OutputFolder`): the output folder.
        shards (`Sequence[SourceShard]`): of the source, which has the images.
        count (`int`): how many.

    Returns:
        `bool`: whether there were any.
    """
    tiles = list(islice(_tiles(folder, shards), count))
    if not tiles:
        return False
    buffer = io.BytesIO()
    contact_sheet(tiles).save(buffer, format="PNG")
    write_file(folder.path / GALLERY, buffer.getvalue())
    return True


def _tiles(folder: OutputFolder, shards: Sequence[SourceShard]) -> Iterator[Image.Image]:
    for index, shard in enumerate(shards):
        if folder.report(index) is None:
            continue
        rows = read_annotations(folder.shard(index))
        row = next(rows, None)
        # Both in the order of the source; images that were left out have no row.
        for source in shard.images():
            if row is None:
                break
            if source.image_id != row.image_id:
                continue
            with suppress(SkipRecord):  # gone since
                yield annotated_tile(upright_image(source), row)
            row = next(rows, None)


def annotated_tile(image: Image.Image, row: AnnotatedImage) -> Image.Image:
    """An image with its regions, numbered, and what is said about them below.

    Args:
        image (`PIL.Image.Image`): the upright image.
        row (`AnnotatedImage`): what is known about it.

    Returns:
        `PIL.Image.Image`: a tile of a contact sheet.
    """
    scale = min(TILE / image.width, TILE / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    shown = _shown(row)
    image = image.resize(size, Image.Resampling.LANCZOS)
    if shown:
        image = draw_boxes(image, _scaled(shown, scale, size), [str(region.id) for region in shown])
    texts = [row.image_id]
    if row.text is not None:
        texts.append(_with_numbers(row))
    texts += [f"{found.phrase}: {_numbers(found.region_ids) or 'not found'}" for found in row.located]
    texts += [f"[{region.id}] {region.description}" for region in shown if region.description is not None]
    return captioned_tile(image, texts)


def _shown(row: AnnotatedImage) -> list[AnnotatedRegion]:
    """The regions that are drawn: those that something names or describes, or else the surest."""
    named = [region for region in row.regions if region.label is not None or region.description is not None]
    return named or sorted(row.regions, key=lambda region: -region.score)[:_MOST_UNNAMED]


def _scaled(regions: Sequence[AnnotatedRegion], scale: float, size: tuple[int, int]) -> Regions:
    boxes = np.array([region.box_xyxy for region in regions]) * scale
    if any(region.mask is None for region in regions):
        return Regions(boxes)
    masks = [
        np.asarray(Image.fromarray(rle_to_mask(region.mask)).resize(size, Image.Resampling.NEAREST), bool)
        for region in regions
    ]
    return Regions(boxes, masks=np.stack(masks))


def _with_numbers(row: AnnotatedImage) -> str:
    """The caption, with the numbers of regions after the phrases that name them."""
    text, end = "", 0
    for phrase in row.phrases:
        text += f"{row.text[end : phrase.end]} {_numbers(phrase.region_ids)}".rstrip()
        end = phrase.end
    return text + row.text[end:]


def _numbers(ids: Sequence[int]) -> str:
    return "".join(f"[{number}]" for number in ids)


__all__ = ["annotated_tile", "write_gallery"]
