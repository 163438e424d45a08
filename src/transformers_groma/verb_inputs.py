"""What the verbs of a pipeline are given: images, regions, phrases and questions, checked and paired."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ._words import counted
from .answer_settings import RegionFormat
from .image_inputs import ImageSize, image_size, read_upright, shortened
from .markup import GROUNDING_TOKEN, REGION_MARK
from .region_inputs import RegionPrompt, is_one_region, is_region_set, read_region, read_regions
from .regions import Regions


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image that was read and checked.

    Args:
        pixels: upright, as `read_upright` returns it.
        size (`ImageSize`): of the upright image.
    """

    pixels: Any
    size: ImageSize


@dataclass(frozen=True, eq=False)
class ImageQuestion:
    """A question about an image.

    Args:
        image (`ReadImage`): the image.
        parts (`list[dict]`): the parts of the user's message but for the image, see the processor's
            `apply_chat_template`; a region part for each of `regions`, in their order.
        regions (`Sequence[RegionPrompt]`): the regions that the question points at, in absolute pixels of the upright
            image.
    """

    image: ReadImage
    parts: list[dict[str, Any]]
    regions: Sequence[RegionPrompt] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The question as a conversation, the size of the image in place of its pixels."""
        return [{"role": "user", "content": [{"type": "image", "image": self.image.size}, *self.parts]}]

    def messages_with(self, boxes: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
        """The conversation with a box for each region, `xyxy` in absolute pixels: clicks have found theirs."""
        found = iter(boxes)
        parts = [box_part(next(found)) if part["type"] == "region" else part for part in self.parts]
        return replace(self, parts=parts).messages


def read_images(image: Any) -> tuple[Any, bool]:
    """Read one image or a list.

    Args:
        image: one image in any form, or a list of these.

    Returns:
        The `ReadImage`, or a list of them, and whether it is a list. An object that is several times in the list is
        read once.

    Raises:
        ValueError: `None`, a stream of images, or an image that cannot be read.
    """
    if not isinstance(image, (list, tuple)):
        if hasattr(image, "read"):
            raise ValueError("`image` is an open file. Pass its path, or `PIL.Image.open(file)`.")
        if _is_stream(image):
            raise ValueError(
                f"`image` is a {type(image).__name__}. Pass one image or a list of images; for a stream of many, call "
                "the pipeline itself with dicts of `image`, `question` and `boxes`."
            )
        return _read_image(image, "`image`"), False
    read: dict[int, ReadImage] = {}
    for index, entry in enumerate(image):
        if id(entry) not in read:
            read[id(entry)] = _read_image(entry, f"`image[{index}]`")
    return [read[id(entry)] for entry in image], True


def _read_image(image: Any, name: str) -> ReadImage:
    if image is None:
        raise ValueError(f"{name} is None. Pass an image: a PIL image, an array, a tensor, a path or a URL.")
    if isinstance(image, Mapping):
        raise ValueError(f"{name} is a dict. Pass the image itself; the pipeline itself takes dicts.")
    if isinstance(image, ImageSize):
        raise ValueError(f"{name} is a size without pixels. Pass an image: a PIL image, an array, a path or a URL.")
    pixels = read_upright(image, name)
    return ReadImage(pixels, ImageSize(*image_size(pixels, name)))


def _is_stream(image: Any) -> bool:
    if isinstance(image, (str, bytes, os.PathLike, Mapping, np.ndarray, torch.Tensor, Image.Image)):
        return False
    return hasattr(image, "__iter__") or (hasattr(image, "__len__") and hasattr(image, "__getitem__"))


class Given(NamedTuple):
    """A value that a caller gave, and how an error names it, such as `phrase[2]`."""

    value: Any
    name: str


def paired(**values: tuple[Any, bool]) -> tuple[list[dict[str, Given]], bool]:
    """Pair values: those that are lists entry by entry, and the others with each entry.

    Args:
        **values (`tuple[Any, bool]`): by the name of each argument, its value and whether it is a list of many.

    Returns:
        The entries, each a value for every argument, and whether there was a list at all.

    Raises:
        ValueError: lists of different lengths.

    Example:
    >>> entries, are_many = paired(image=("a.jpg", False), phrase=(["the cup", "the dog"], True))
    >>> entries[1]["image"].value, entries[1]["phrase"]
    ('a.jpg', Given(value='the dog', name='phrase[1]'))
    """
    lengths = {name: len(value) for name, (value, is_many) in values.items() if is_many}
    for name, length in lengths.items():
        first = next(iter(lengths))
        if length != lengths[first]:
            raise ValueError(
                f"`{name}` has length {length}, but `{first}` has {lengths[first]}. Pass one for each, or a single "
                "one for all."
            )
    entries = [
        {
            name: Given(value[index], f"{name}[{index}]") if is_many else Given(value, name)
            for name, (value, is_many) in values.items()
        }
        for index in range(next(iter(lengths.values()), 1))
    ]
    return entries, bool(lengths)


def text_part(text: str) -> dict[str, Any]:
    """A message part of plain text."""
    return {"type": "text", "text": text}


def box_part(box: Sequence[float]) -> dict[str, Any]:
    """A message part of a region that is given by its box, `xyxy` in absolute pixels."""
    return {"type": "region", "box": list(box)}


def phrase_part(phrase: Any, name: str) -> dict[str, Any]:
    """The message part of a phrase to locate; control tokens in it are plain text.

    Args:
        phrase (`str`): as the caller wrote it.
        name (`str`): how an error names the argument.

    Returns:
        `dict`: the part.

    Raises:
        ValueError: not a text, or an empty one.
    """
    phrase = _checked_text(phrase, name, "Write what to locate, as in 'the red cup'.")
    return {"type": "phrase", "text": phrase, "boxes": []}


def _checked_text(text: Any, name: str, advice: str) -> str:
    """A text without the spaces around it."""
    if not isinstance(text, str) or not text.strip():
        what = "is empty" if isinstance(text, str) else "is not a text"
        raise ValueError(f"`{name}` {what}: {shortened(text)}. {advice}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`{name}` holds half a character (a lone surrogate): {text!a}. Pass text that was decoded as UTF-8."
        ) from error
    return text.strip()


def marked_question(given: Given, num_regions: int, grounded: bool, regions_name: str) -> str:
    """A question with a `<region>` mark for each region.

    A question that has no mark gets them at its end, "What is this? <region>": the model reads the regions there, and
    what it learned to do with "What is <region>?" works the same.

    Args:
        given (`Given`): the question as the caller wrote it.
        num_regions (`int`): regions that it comes with.
        grounded (`bool`): whether the answer should be tied to regions: puts `[grounding]` at the head.
        regions_name (`str`): how an error names the regions.

    Returns:
        `str`: the question.

    Raises:
        ValueError: not a text, an empty one, or another number of marks than regions.

    Example:
    >>> marked_question(Given("Which is larger?", "question"), 2, True, "boxes")
    '[grounding]Which is larger? <region>, <region>'
    """
    name = given.name
    question = _checked_text(given.value, name, "Write a question, as in 'What is this?'.")
    if not question.removeprefix(GROUNDING_TOKEN).strip():
        raise ValueError(f"`{name}` {question!r} asks nothing. Write a question after {GROUNDING_TOKEN}.")
    marks = question.count(REGION_MARK)
    if marks == 0 and num_regions > 0:
        question += " " + ", ".join([REGION_MARK] * num_regions)
    elif marks != num_regions:
        raise ValueError(
            f"`{name}` {shortened(question)} has {counted(marks, f'{REGION_MARK} mark')}, but "
            f"`{regions_name}` has {counted(num_regions, 'region')}. Write one {REGION_MARK} for each region, in "
            "their order, or none at all."
        )
    if grounded and not question.startswith(GROUNDING_TOKEN):
        question = GROUNDING_TOKEN + question
    return question


def question_parts(question: str, regions: Sequence[Sequence[float] | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The message parts of a question that has a `<region>` mark for each region.

    Args:
        question (`str`): of [`marked_question`].
        regions (`Sequence`): for each mark a box, `xyxy` in absolute pixels, or a message part of a region.

    Returns:
        `list[dict]`: the parts.

    Example:
    >>> [part["type"] for part in question_parts("What is <region>?", [[0, 0, 9, 9]])]
    ['text', 'region', 'text']
    """
    first, *others = question.split(REGION_MARK)
    parts = [text_part(first)] if first else []
    for region, text in zip(regions, others, strict=True):
        parts.append(dict(region) if isinstance(region, Mapping) else box_part(region))
        parts += [text_part(text)] if text else []
    return parts


def questions_with_phrases(
    image: Any, phrase: Any, name: str, fill: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> tuple[list[ImageQuestion], list[str], bool]:
    """The questions of a verb that takes images and phrases.

    Args:
        image: one image or a list.
        phrase (`str` or `list[str]`): one phrase or a list.
        name (`str`): what the verb calls its phrase.
        fill (`Callable`): the parts of the question about the part of a phrase.

    Returns:
        The questions, their phrases, and whether there is a list of them.

    Raises:
        ValueError: bad images or phrases, or lists of different lengths.
    """
    entries, are_many = paired(image=read_images(image), **{name: (phrase, isinstance(phrase, (list, tuple)))})
    parts = [phrase_part(*entry[name]) for entry in entries]
    questions = [ImageQuestion(entry["image"].value, fill(part)) for entry, part in zip(entries, parts, strict=True)]
    return questions, [part["text"] for part in parts], are_many


def questions_with_regions(
    image: Any, region: Any, form: RegionFormat, fill: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> tuple[list[ImageQuestion], bool]:
    """The questions of a verb that takes images and regions, and whether there is a list of them.

    Args:
        image: one image or a list.
        region: what [`read_region`] takes, or a list of these.
        form (`RegionFormat`): how boxes and points are given.
        fill (`Callable`): the parts of the question about the part of a region.

    Raises:
        ValueError: bad images or regions, or lists of different lengths.
    """
    entries, are_many = paired(image=read_images(image), region=(region, not is_one_region(region)))
    questions = []
    for entry in entries:
        asked = entry["image"].value
        given, name = entry["region"]
        found = read_region(given, asked.size, form.box_format, form.normalized, name)
        questions.append(ImageQuestion(asked, fill(found.part()), [found]))
    return questions, are_many


def questions_with_sets(
    image: Any, question: Any, regions: Any, grounded: bool, form: RegionFormat, name: str
) -> tuple[list[ImageQuestion], bool]:
    """The questions of a verb that takes images, questions and sets of regions, and whether there is a list of them.

    Args:
        image: one image or a list.
        question (`str` or `list[str]`): one question or a list.
        regions: what [`read_regions`] takes, or a list of these.
        grounded (`bool`): whether the answers should be tied to regions.
        form (`RegionFormat`): how boxes and points are given.
        name (`str`): what the verb calls its regions.

    Raises:
        ValueError: bad images, questions or regions, or lists of different lengths.
    """
    images, are_many_images = read_images(image)
    are_many_questions = isinstance(question, (list, tuple))
    # In a list for many images or questions each `Regions` is a set; for one question each is a region of its set.
    is_one_question = not are_many_images and not are_many_questions
    is_one_set = is_region_set(regions) or (is_one_question and all(map(is_one_region, regions)))
    entries, are_many = paired(
        image=(images, are_many_images), question=(question, are_many_questions), **{name: (regions, not is_one_set)}
    )
    questions = []
    for entry in entries:
        asked, (given, label) = entry["image"].value, entry[name]
        found = read_regions(given, asked.size, form.box_format, form.normalized, label)
        text = marked_question(entry["question"], len(found), grounded, label)
        questions.append(ImageQuestion(asked, question_parts(text, [prompt.part() for prompt in found]), found))
    return questions, are_many


def images_with_regions(image: Any, target: Any, form: RegionFormat, name: str) -> tuple[list[ImageQuestion], bool]:
    """The images and regions of a verb that asks nothing about them, and whether there is a list of them.

    Args:
        image: one image or a list.
        target: what [`read_region`] or [`read_regions`] takes, or a list of these.
        form (`RegionFormat`): how boxes and points are given.
        name (`str`): what the verb calls its regions.

    Raises:
        ValueError: bad images or regions, or lists of different lengths.
    """
    images, are_many_images = read_images(image)
    is_one_set = is_region_set(target) or (not are_many_images and all(map(is_one_region, target)))
    entries, are_many = paired(image=(images, are_many_images), **{name: (target, not is_one_set)})
    questions = []
    for entry in entries:
        asked, (given, label) = entry["image"].value, entry[name]
        # `Regions` are a set, whatever their number.
        is_single = is_one_region(given) and not isinstance(given, Regions)
        settings = (asked.size, form.box_format, form.normalized, label)
        found = [read_region(given, *settings)] if is_single else read_regions(given, *settings)
        questions.append(ImageQuestion(asked, [], found))
    return questions, are_many


def one_of(boxes: Any, regions: Any) -> tuple[Any, str]:
    """The regions of a question, given as `boxes` or as `regions`, and the name of the argument.

    Raises:
        ValueError: both were given.
    """
    if boxes is not None and regions is not None:
        raise ValueError("`boxes` and `regions` were both given. Pass all regions in `regions`: it takes boxes, too.")
    return (boxes, "boxes") if regions is None else (regions, "regions")


__all__ = [
    "Given",
    "ImageQuestion",
    "ReadImage",
    "box_part",
    "images_with_regions",
    "marked_question",
    "one_of",
    "paired",
    "phrase_part",
    "question_parts",
    "questions_with_phrases",
    "questions_with_regions",
    "questions_with_sets",
    "read_images",
    "text_part",
]
