"""Regions with expressions, as in RefCOCO and Visual Genome: read from COCO-style JSON, made into questions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from processing.boxes import usable_boxes
from processing.coco_format import check_image, image_name, load_coco_files
from processing.masks import Mask, usable_masks
from processing.rows import Box, Part, Turn, plain_text
from transformers_groma.data.columns import text_part
from transformers_groma.data.left_out import LeftOut
from transformers_groma.data.prompts import Wording, location_parts, question_parts

CROWD = LeftOut("the box is that of a crowd region")
NO_BOX = LeftOut("an expression without a box")


@dataclass(frozen=True, slots=True)
class Region:
    """A box of an image and what is said about it.

    Args:
        image (`dict`): entry of the image: `file_name`, `width`, `height` and an id.
        bbox (4 numbers): `xywh` in pixels, unchecked.
        expressions (`tuple` of `str`): one or more, unchecked.
        fault (`LeftOut`, *optional*): why the region cannot be used.
        segmentation: its mask, polygons or RLE, unchecked; `None` if there is none.
    """

    image: dict[str, Any]
    bbox: Any
    expressions: tuple[Any, ...]
    fault: LeftOut | None = None
    segmentation: Any = None

    @property
    def name(self) -> str:
        """The name of the region in a report."""
        return f"{image_name(self.image)}: {' / '.join(map(str, self.expressions))}"


def load_coco_regions(annotations: Iterable[Path], masks: bool = False) -> list[Region]:
    """Read regions of COCO-style files, one for each expression.

    Args:
        annotations (`Iterable[Path]`): files whose annotations have a `caption`, or whose images have one that is
            about their annotation (MDETR's layout: an image entry for each expression).
        masks (`bool`): whether their segmentations are needed.

    Returns:
        `list[Region]`: in the order of the files; the caption of an annotation goes before that of its image.
    """
    regions = []
    for file in load_coco_files(annotations, masks):
        for entry in file.images:
            own = (entry.image.get("caption"),)
            for annotation in entry.annotations:
                caption = annotation.get("caption", own[0])
                segmentation = annotation.get("segmentation")
                regions.append(Region(entry.image, annotation.get("bbox"), (caption,), entry.fault, segmentation))
            # Each of these would have been a region, too: the report counts them.
            regions += [Region(entry.image, None, own, fault) for fault in entry.left_out]
            regions += [Region(entry.image, None, own, CROWD) for _ in entry.crowds]
            if not (entry.annotations or entry.left_out or entry.crowds) and (entry.fault or own[0] is not None):
                regions.append(Region(entry.image, None, own, entry.fault or NO_BOX))
    return regions


def same_boxes_joined(regions: Iterable[Region]) -> list[Region]:
    """Join regions with the same box into one that has all their expressions, each once.

    Args:
        regions (`Iterable[Region]`): regions.

    Returns:
        `list[Region]`: in the order of the first of each.
    """
    joined: dict[tuple[Any, ...], Region] = {}
    for number, region in enumerate(regions):
        key: tuple[Any, ...] = (image_name(region.image), repr(region.bbox))
        if region.fault is not None or not all(isinstance(text, str) for text in region.expressions):
            joined[(*key, number)] = region
            continue
        known = joined.get(key, region)
        expressions = tuple(dict.fromkeys(known.expressions + region.expressions))
        joined[key] = replace(known, expressions=expressions)
    return list(joined.values())


def region_box(region: Region) -> Box:
    """The box of a region, checked.

    Args:
        region (`Region`): its box `xywh` in pixels.

    Returns:
        `list`: `xyxy` in pixels of the image as it was annotated, clipped to it.

    Raises:
        SkipRecord: it is wrong, empty, or outside of the image; or the region cannot be used.
    """
    width, height = check_image(region.image, region.fault)
    boxes, _, left_out = usable_boxes([region.bbox], width, height)
    if not boxes:
        raise left_out[0].of_record()
    return boxes[0]


def region_mask(region: Region, box: Box) -> tuple[list[Mask | None], list[LeftOut]]:
    """The mask of a region, checked.

    Args:
        region (`Region`): with its segmentation.
        box (`list`): its box, see `region_box`.

    Returns:
        `tuple`: a list of its COCO RLE, or of `None` if it has none that can be used; and why not.
    """
    size = check_image(region.image, region.fault)
    return usable_masks([region.segmentation], [box], *size, [repr(region.name)])


def grounding_turn(phrase: str, count: int, record: str, seed: int | None, wording: Wording = "groma") -> Turn:
    """The question for everything of a kind, and an answer that points at it.

    Args:
        phrase (`str`): what is asked for.
        count (`int`): how many boxes it has: 0, 1, ... of the row.
        record, seed: see `prompts.prompt_template`.
        wording (`str`): whose question and answer.

    Returns:
        `(question, answer)`: their message parts.
    """
    question = question_parts("grounding", phrase=phrase, record=record, seed=seed, wording=wording)
    return question, location_parts(range(count), record, seed, wording)


def caption_question(index: int, record: str, seed: int | None, wording: Wording = "groma") -> list[Part]:
    """The question for a description of a box.

    Args:
        index (`int`): the box.
        record, seed: see `prompts.prompt_template`.
        wording (`str`): whose question.

    Returns:
        `list[dict]`: message parts.
    """
    return question_parts("region_caption", region=index, record=record, seed=seed, wording=wording)


def caption_answer(caption: str, wording: Wording = "groma") -> list[Part]:
    """A caption as the original models write it.

    Args:
        caption (`str`): of a region.
        wording (`str`): `"groma"` (in lower case, the first letter a capital) or `"glamm"` (as it is).

    Returns:
        `list[dict]`: message parts.

    Raises:
        SkipRecord: it is empty or holds a token of the model.

    Example:
    >>> caption_answer("man in Red shirt ")[0]["text"], caption_answer("man in Red shirt ", "glamm")[0]["text"]
    ('Man in red shirt', 'man in Red shirt')
    """
    text = plain_text(caption)
    return [text_part(text if wording == "glamm" else text.capitalize())]


def caption_turns(captions: Sequence[str], record: str, seed: int | None, wording: Wording = "groma") -> list[Turn]:
    """Questions about boxes 0, 1, ... and their captions.

    Args:
        captions (`Sequence[str]`): one for each box.
        record, seed: see `prompts.prompt_template`.
        wording (`str`): whose questions and answers.

    Returns:
        `list`: of `(question, answer)`.
    """
    return [
        (caption_question(index, f"{record}/{index}", seed, wording), caption_answer(caption, wording))
        for index, caption in enumerate(captions)
    ]
