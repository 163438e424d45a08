"""Options of an export: the format, and what is written in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# What is done with the files of images.
Placing = Literal["none", "link", "copy"]
Format = Literal["coco", "label-studio", "yolo"]
# How masks are written: pixel by pixel, as polygons, or not at all.
Masks = Literal["pixels", "polygon", "none"]


@dataclass(frozen=True)
class ExportOptions:
    """What an export writes.

    Args:
        format (`str`): `"coco"`, `"label-studio"` or `"yolo"`.
        masks (`str`): `"pixels"` (COCO's RLE, Label Studio's brush), `"polygon"` or `"none"`; YOLO has polygons only.
        min_score (`float`): objects with a lower score are left out; those without a score are not.
        images (`str`): whether images are linked, copied or not there.
        image_root (`Path`, *optional*): the folder that file names start in.
        captions (`bool`): whether captions are written, for COCO and Label Studio.
        results (`bool`): whether COCO's results are written, too.
        keep_image_ids (`bool`): whether images keep their ids in COCO.
        image_url (`str`): what file names follow, for Label Studio.
        model_version (`str`): what Label Studio groups predictions by.
    """

    format: Format
    masks: Masks = "pixels"
    min_score: float = float("-inf")
    images: Placing = "none"
    image_root: Path | None = None
    captions: bool = False
    results: bool = False
    keep_image_ids: bool = False
    image_url: str = ""
    model_version: str = "groma"


__all__ = ["ExportOptions", "Format", "Masks", "Placing"]
