"""Semantic segmentation by label maps, a class number at each pixel of a PNG: made into questions about classes."""

import io
import os
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from processing.coco_format import find_image
from processing.common import files_below, run_script, script_parser
from processing.masked_regions import (
    MaskedRegion,
    add_question_options,
    boxes_and_masks,
    question_groups,
    region_of_mask,
    segmentation_turns,
)
from processing.rows import (
    add_conversation_options,
    conversation_row,
    prompt_seed,
    read_annotated_image,
)
from transformers_groma.data.image_files import BoxesOf, read_image_bytes
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import Wording
from transformers_groma.masks import mask_to_rle

# The formats that images beside PNG labels come in.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG")


@dataclass(frozen=True, slots=True)
class Classes:
    """What the numbers in a label map mean.

    Args:
        names (`dict` of `int` to `str`): the classes to ask for.
        ignored (`frozenset` of `int`): numbers of pixels that nothing is asked about.
    """

    names: Mapping[int, str]
    ignored: Collection[int]


@dataclass(frozen=True)
class ClassFile:
    """A file that says what numbers mean, read when it is first needed.

    Args:
        load (`Callable`): reads it.
        path (`Path`): the file.
    """

    load: Callable[[Path], Classes]
    path: Path

    @cached_property
    def classes(self) -> Classes:
        """What it says."""
        return self.load(self.path)


def load_label_maps(labels: Path) -> list[str]:
    """The label maps in a folder and below.

    Args:
        labels (`Path`): the folder.

    Returns:
        `list[str]`: paths of PNG files relative to it, sorted.

    Raises:
        FileNotFoundError: no such folder, or no PNG in it.
    """
    if not labels.is_dir():
        raise FileNotFoundError(f"{labels} is not a folder: `--labels` must hold the PNG files of the labels.")
    return [PurePosixPath(os.path.relpath(path, labels)).as_posix() for path in files_below(labels, r".*\.png", "PNG")]


def class_regions(labels: np.ndarray, classes: Classes) -> tuple[list[tuple[str, MaskedRegion]], list[LeftOut]]:
    """The classes that a label map shows, each with all of its pixels.

    Args:
        labels (`np.ndarray` of shape `(H, W)`): the number of the class of each pixel.
        classes (`Classes`): what the numbers mean; numbers of the same name are one class.

    Returns:
        `tuple`: `(name, region)`, by number; and the numbers that mean nothing.

    Example:
    >>> regions, left_out = class_regions(np.array([[1, 1, 9]]), Classes({1: "sky"}, {0}))
    >>> [(name, region.box) for name, region in regions], str(left_out[0])
    ([('sky', (0.0, 0.0, 2.0, 1.0))], 'pixels of a class that is not listed: 9')
    """
    masks: dict[str, np.ndarray] = {}
    left_out = []
    for number in np.unique(labels).tolist():
        if number in classes.ignored:
            continue
        if number not in classes.names:
            left_out.append(LeftOut("pixels of a class that is not listed", str(number)))
            continue
        name, mask = classes.names[number], labels == number
        masks[name] = mask | masks[name] if name in masks else mask
    return [(name, region_of_mask(mask_to_rle(mask))) for name, mask in masks.items()], left_out


def convert(
    record: str,
    images: Path,
    labels: Path,
    classes: ClassFile,
    source: str,
    seed: int | None,
    wording: Wording,
    questions: int | None,
    rows_per_image: int | None,
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The rows of one image.

    Args:
        record (`str`): path of its label map, relative to `labels`; the image has the same one relative to `images`,
            but for its suffix.
        images (`Path`), labels (`Path`): folders.
        classes (`ClassFile`): what the numbers mean.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws classes, questions and answers.
        wording (`str`): whose questions and answers.
        questions, rows_per_image (`int`, *optional*): see `question_groups`.
        boxes_of (`str`, *optional*): which pixels labels were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: conversation rows with masks. `LeftOut`: numbers in the label map that mean nothing.

    Raises:
        SkipRecord: no label map, no image, another size than its label map, or no class in it.
    """
    numbers = read_labels(labels, record)
    found, left_out = class_regions(numbers, classes.classes)
    yield from left_out
    if not found:
        raise SkipRecord("label map without a class to ask for")
    path = PurePosixPath(record)
    names = [path.with_suffix(suffix).as_posix() for suffix in IMAGE_SUFFIXES]
    size = numbers.shape[1], numbers.shape[0]
    image_file = read_annotated_image(images, *names, size=size, boxes_of=boxes_of)
    for number, group in enumerate(question_groups(found, questions, rows_per_image, record, seed)):
        asked = [(name, [region]) for name, region in group]
        turns, regions = segmentation_turns(asked, f"{record}/{number}", seed, wording, "grounding")
        boxes, masks = boxes_and_masks(regions, image_file)
        yield conversation_row(image_file, path.stem, boxes, turns, source, masks)


def read_labels(folder: Path, name: str) -> np.ndarray:
    """Read a label map.

    Args:
        folder (`Path`), name (`str`): where it is.

    Returns:
        `np.ndarray` of shape `(H, W)`: the number of the class of each pixel.

    Raises:
        SkipRecord: no image, or one that has colours at its pixels in place of numbers.
    """
    try:
        content = read_image_bytes(find_image(folder, name))
    except SkipRecord as error:
        raise SkipRecord(f"label map: {error.reason}", error.detail or name) from None
    with Image.open(io.BytesIO(content)) as image:
        # In a palette image the numbers are those of the colours.
        if image.mode not in ("L", "P", "I", "I;16"):
            raise SkipRecord("label map has colours at its pixels in place of numbers", image.mode)
        return np.asarray(image)


def run_label_maps(
    description: str,
    load_classes: Callable[[Path], Classes],
    source: str,
    classes_help: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a script of label maps.

    Args:
        description (`str`): shown by `--help`.
        load_classes (`Callable`): reads the file of classes.
        source (`str`): default of `--source`.
        classes_help (`str`): what the file of classes is.
        argv (`Sequence[str]`, *optional*): by default the arguments of the command line.

    Returns:
        `int`: exit status, see `run_script`.
    """
    parser = script_parser(description, annotations=False)
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="DIR", help="folder of the label maps, PNG files"
    )
    parser.add_argument("--classes", type=Path, required=True, metavar="FILE", help=classes_help)
    add_question_options(parser)
    add_conversation_options(parser, source=source, evaluation=False, wording=True)
    args = parser.parse_args(argv)
    classes = ClassFile(load_classes, args.classes)

    def load_records() -> list[str]:
        _ = classes.classes  # a file that cannot be read ends here
        return load_label_maps(args.labels)

    return run_script(args, load_records, _convert_with(args, classes), schema="conversation", masks=True)


def _convert_with(args: Namespace, classes: ClassFile) -> Callable[[str], Iterator[dict[str, Any] | LeftOut]]:
    """`convert` with the options of the command line."""
    return partial(
        convert,
        images=args.images,
        labels=args.labels,
        classes=classes,
        source=args.source,
        seed=prompt_seed(args),
        wording=args.wording,
        questions=args.questions,
        rows_per_image=args.rows_per_image,
        boxes_of=args.boxes_of,
    )
