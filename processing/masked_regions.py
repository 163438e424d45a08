"""Rows about regions with masks: grounded captions, questions that ask for masks, and how many of them a row has."""

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from processing.boxes import usable_boxes
from processing.common import positive_int
from processing.masks import Mask
from processing.rows import Box, ImageFile, Part, Turn, plain_text, spans_to_parts
from transformers_groma.data.annotated_masks import mask_fault, read_segmentation
from transformers_groma.data.left_out import LeftOut
from transformers_groma.data.prompts import Wording, location_parts, question_parts
from transformers_groma.masks import rle_to_box

Item = TypeVar("Item")

OVERLAPPING = "a phrase overlaps a longer one, whose regions are kept"
NO_MASK = "region without a mask"


@dataclass(frozen=True, slots=True)
class MaskedRegion:
    """A region of an image as it was annotated; equal ones are one region of a row.

    Args:
        box (`tuple` of 4 numbers): `xyxy` in pixels; the box around the mask, if there is one.
        size (`tuple[int, int]`), counts (`str`): RLE of its mask, (height, width) and runs; `None` for a box alone.
    """

    box: tuple[float, ...]
    size: tuple[int, int] | None = None
    counts: str | None = None

    @property
    def mask(self) -> Mask | None:
        """Its mask as rows have it."""
        return None if self.counts is None else {"size": list(self.size), "counts": self.counts}


def masked_region(
    segmentation: Any, width: int, height: int, box: Sequence[float] | None = None
) -> tuple[MaskedRegion | None, list[LeftOut]]:
    """Read the mask of a region, and check it.

    Args:
        segmentation: polygons or RLE, unchecked; see `read_segmentation`.
        width, height (`int`): size of the image in pixels, as annotated.
        box (4 numbers, *optional*): its box, `xyxy` in pixels, where the annotation has one that the mask must fit.

    Returns:
        `tuple`: the region, `None` if it has no usable mask; and what is wrong with its mask, or with parts of it.

    Example:
    >>> region, faults = masked_region([[1, 1, 3, 1, 3, 3, 1, 3]], 4, 4)
    >>> region.box, region.mask, faults
    ((1.0, 1.0, 3.0, 3.0), {'size': [4, 4], 'counts': '52203'}, [])
    """
    rle, faults = read_segmentation(segmentation, width, height)
    if rle is not None and (fault := mask_fault(rle, box, width, height)) is not None:
        rle, faults = None, [*faults, fault]
    if rle is None:
        return None, faults
    return region_of_mask(rle), faults


def annotated_regions(
    annotations: Sequence[Mapping[str, Any]], names: Sequence[str], size: tuple[int, int]
) -> tuple[list[MaskedRegion], list[LeftOut]]:
    """Read the regions of COCO-style annotations, which have a box and a mask that fits it.

    Args:
        annotations (`Sequence[Mapping]`): `bbox` (`xywh` in pixels of the image as annotated) and `segmentation`,
            unchecked.
        names (`Sequence[str]`): what the details of reasons call each of them.
        size (`tuple[int, int]`): width and height of the image in pixels, as annotated.

    Returns:
        `tuple`: the regions of those that are right, in their order; and what is wrong with the others, or with parts
        of masks.

    Example:
    >>> square = {"bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]}
    >>> regions, left_out = annotated_regions([square, {"bbox": [0, 0, 4, 4]}], ["square", "all"], (4, 4))
    >>> [region.box for region in regions], [str(reason) for reason in left_out]
    ([(1.0, 1.0, 3.0, 3.0)], ['region without a mask: all'])
    """
    regions: list[MaskedRegion] = []
    left_out: list[LeftOut] = []
    for annotation, name in zip(annotations, names, strict=True):
        boxes, _, wrong = usable_boxes([annotation.get("bbox")], *size)
        left_out += wrong
        if not boxes:
            continue
        region, faults = masked_region(annotation.get("segmentation"), *size, boxes[0])
        left_out += [LeftOut(fault.reason, f"{name} {fault.detail}".strip()) for fault in faults]
        if region is not None:
            regions.append(region)
        elif not faults:
            left_out.append(LeftOut(NO_MASK, name))
    return regions, left_out


def region_of_mask(mask: Mapping[str, Any]) -> MaskedRegion:
    """The region of a mask that is known to be right.

    Args:
        mask (`Mapping`): COCO RLE with `counts` as text, at least one pixel.

    Returns:
        `MaskedRegion`: with the box around it.
    """
    return MaskedRegion(tuple(rle_to_box(mask).tolist()), tuple(mask["size"]), mask["counts"])


def boxes_and_masks(regions: Iterable[MaskedRegion], image_file: ImageFile) -> tuple[list[Box], list[Mask | None]]:
    """The columns of regions.

    Args:
        regions (iterable of `MaskedRegion`): of the image as it was annotated.
        image_file (`ImageFile`): the image.

    Returns:
        `tuple`: boxes `xyxy` in pixels of the upright image, and COCO RLE of it, or `None`.
    """
    regions = list(regions)
    return (
        image_file.upright([list(region.box) for region in regions]),
        image_file.upright_masks([region.mask for region in regions]),
    )


def masked_caption(
    text: str, phrases: Sequence[tuple[int, int, Sequence[MaskedRegion]]]
) -> tuple[list[Part], list[MaskedRegion], list[LeftOut]]:
    """Message parts of a caption whose phrases are tied to regions, see `rows.grounded_parts`.

    Args:
        text (`str`): the caption.
        phrases (`Sequence` of `(start, end, regions)`): offsets in characters. A phrase without regions is plain text.

    Returns:
        `tuple`: the parts; the regions that they name, in the order of the text; and the phrases that are plain text
        because a longer one has their words.

    Example:
    >>> dog = MaskedRegion((0.0, 0.0, 2.0, 2.0))
    >>> parts, regions, left_out = masked_caption("a dog", [(0, 5, [dog]), (2, 5, [dog])])
    >>> [(part["text"], part["boxes"]) for part in parts], len(regions), [str(reason) for reason in left_out]
    ([('a dog', [0])], 1, ["a phrase overlaps a longer one, whose regions are kept: 'dog'"])
    """
    parts, regions, overlapping = spans_to_parts(text, phrases)
    return parts, regions, [LeftOut(OVERLAPPING, repr(words)[:100]) for words in overlapping]


def add_question_options(parser: ArgumentParser) -> None:
    """Add the options of scripts that ask several questions about an image.

    Args:
        parser (`ArgumentParser`): of a script.
    """
    parser.add_argument(
        "--questions",
        type=positive_int,
        metavar="N",
        help="the most questions of a row to train on (default: all about an image; `groma train glamm` draws some of "
        "them every time)",
    )
    parser.add_argument(
        "--rows-per-image",
        type=positive_int,
        metavar="N",
        help="the most rows of an image to train on; what they ask about is drawn by --prompt-seed (default: as many "
        "as all questions need)",
    )


def refuse_question_options(parser: ArgumentParser, args: Namespace) -> None:
    """End with an error if an option of questions is given for detection rows, which have none.

    Args:
        parser (`ArgumentParser`): of a script, with the options of `rows.add_conversation_options`.
        args (`Namespace`): the options.
    """
    names = ("source", "prompt_seed", "wording", "questions", "rows_per_image")
    given = [name for name in names if getattr(args, name, None) != parser.get_default(name)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        parser.error(f"--task detection makes rows without questions, whose `source` is fixed: leave out {options}")


def question_groups(
    items: Sequence[Item], questions: int | None, rows: int | None, record: str, seed: int | None
) -> list[list[Item]]:
    """What each row of an image asks about.

    Args:
        items (`Sequence`): what may be asked about.
        questions (`int`, *optional*): the most of a row; by default all are in one.
        rows (`int`, *optional*): the most rows.
        record (`str`): name of the image; the draw depends on it and on `seed` alone.
        seed (`int`, *optional*): draws the order; `None` keeps it.

    Returns:
        `list[list]`: the items of each row, each item once.

    Example:
    >>> question_groups("abcde", 2, None, "image 1", None), len(question_groups("abcde", 2, 1, "image 1", 0))
    ([['a', 'b'], ['c', 'd'], ['e']], 1)
    """
    order = list(items)
    if seed is not None:
        random.Random(f"{seed}/{record}").shuffle(order)
    count = questions or max(len(order), 1)
    groups = [order[start : start + count] for start in range(0, len(order), count)]
    return groups if rows is None else groups[:rows]


def segmentation_turns(
    asked: Sequence[tuple[str, Sequence[MaskedRegion]]],
    record: str,
    seed: int | None,
    wording: Wording,
    task: Literal["rec", "grounding"],
) -> tuple[list[Turn], list[MaskedRegion]]:
    """Questions that ask where something is, and answers that show it.

    Args:
        asked (`Sequence` of `(phrase, regions)`): what is asked for, and where it is. Without regions the answer says
            that there is no such thing.
        record, seed: see `prompts.prompt_template`.
        wording (`str`): `"groma"` or `"glamm"`.
        task (`str`): `"rec"` (the one thing that is meant) or `"grounding"` (all of a kind); GLaMM asks alike.

    Returns:
        `tuple`: the turns, and the regions that they name.

    Raises:
        SkipRecord: a phrase is empty or holds a token of the model.
    """
    numbers: dict[MaskedRegion, int] = {}
    turns = []
    for number, (phrase, regions) in enumerate(asked):
        name, phrase = f"{record}/{number}", plain_text(phrase)
        question = question_parts(task, phrase=phrase, record=name, seed=seed, wording=wording)
        indices = [numbers.setdefault(region, len(numbers)) for region in dict.fromkeys(regions)]
        turns.append((question, location_parts(indices, name, seed, wording)))
    return turns, list(numbers)
