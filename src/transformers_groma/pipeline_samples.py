"""What callers pass to the image-grounding pipeline (images, dicts, lists, generators, datasets) as samples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from .image_inputs import shortened
from .region_inputs import is_one_region, is_region_set
from .regions import Regions
from .verb_inputs import one_of

# What a dict may say about a sample. `text` is another name for `question`, as chats and datasets call it.
SAMPLE_KEYS = ("image", "question", "text", "boxes", "regions")


class Sample(NamedTuple):
    """One image, its question, and its regions in the caller's `box_format`, with the name that they came by."""

    image: Any
    question: str | None
    regions: Any
    name: str


def is_stream(inputs: Any) -> bool:
    """Whether this is a stream of inputs: a generator, an iterator or a dataset."""
    if isinstance(inputs, (list, tuple, str, bytes, Mapping, np.ndarray, torch.Tensor)):
        return False
    return isinstance(inputs, Iterable) or (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"))


def stream_entries(inputs: Any) -> Iterator[Any]:
    """The inputs of a stream, one by one."""
    # A dataset of torch has a length and rows; as an iterable it would not know its end.
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return (inputs[index] for index in range(len(inputs)))
    return iter(inputs)


def samples_of_list(inputs: Sequence[Any], question: Any, regions: Any, name: str) -> list[Sample]:
    """The samples of a list of images or dicts.

    Args:
        inputs (`Sequence`): images, or dicts with the keys of `SAMPLE_KEYS`.
        question: one for all, or a list with one for each.
        regions: one set for all, or a list with one for each.
        name (`str`): the argument that `regions` came by, for errors.

    Raises:
        ValueError: images and dicts mixed, or not as many questions or sets as images.
    """
    dicts = [isinstance(entry, Mapping) for entry in inputs]
    if any(dicts):
        if not all(dicts):
            raise ValueError(
                f"`image` is a list of dicts, but entry {dicts.index(False)} is not one. Make all entries dicts, or "
                "all images."
            )
        if isinstance(question, (list, tuple)):
            raise ValueError("`question` is a list beside a list of dicts. Put each question into its dict.")
        return [sample_of(entry, index, question, regions, name) for index, entry in enumerate(inputs)]
    questions = _for_each_image("question", question, len(inputs), isinstance(question, (list, tuple)))
    is_many = not is_region_set(regions)
    sets = _for_each_image(name, regions, len(inputs), is_many)
    names = [f"{name}[{index}]" if is_many else name for index in range(len(inputs))]
    return [
        sample_of(entry, index, *asked)
        for index, (entry, *asked) in enumerate(zip(inputs, questions, sets, names, strict=True))
    ]


def sample_of(entry: Any, index: int | None, question: str | None, regions: Any, name: str) -> Sample:
    """One input, an image or a dict, combined with the question and regions for all. None in a dict means missing.

    Args:
        entry: the image or the dict.
        index (`int`, *optional*): its place among several.
        question (`str`, *optional*), regions (*optional*): for all inputs.
        name (`str`): the argument that `regions` came by, for errors.

    Raises:
        ValueError: unknown keys, what is given twice, no image, or regions that are not a list of them.
    """
    place = "The input" if index is None else f"Input {index}"
    if isinstance(entry, Mapping):
        if unknown := [key for key in entry if key not in SAMPLE_KEYS]:
            raise ValueError(
                f"{place} has {', '.join(map(repr, unknown))}, but a dict of the image-grounding pipeline has "
                "`image`, `question` (or `text`) and `boxes` (or `regions`). Rename or leave out the others "
                "(`dataset.select_columns([…])`)."
            )
        given = {key: value for key, value in entry.items() if value is not None}
        names = [name for name in ("question", "text") if name in given] + ["`question`"] * (question is not None)
        if len(names) > 1:
            raise ValueError(f"{place} has two questions, one in {names[0]!r} and one in {names[1]!r}. Pass one.")
        own, own_name = one_of(given.get("boxes"), given.get("regions"))
        if own is not None and regions is not None:
            raise ValueError(f"{place} has `{own_name}`, and `{name}` was also given for all inputs. Pass them once.")
        if own is not None:
            regions, name = own, own_name if index is None else f"image[{index}]['{own_name}']"
        entry, question = given.get("image"), given.get("question", given.get("text", question))
    if entry is None:
        raise ValueError(f"{place} has no `image`. Pass an image for each question.")
    if isinstance(question, (list, tuple)):
        raise ValueError(
            f"`question` has {len(question)} entries for one image. Pass one question, or a list of images."
        )
    if not _is_set(regions):
        raise ValueError(
            f"`{name}` of an image are a list of boxes, [[x1, y1, x2, y2]], or of other regions, got "
            f"{shortened(regions)}."
        )
    return Sample(entry, question, regions, name)


def batches_of(samples: Iterable[Sample], batch_size: int) -> Iterator[dict[str, Any]]:
    """Samples in batches, as the pipeline's `preprocess` takes them; `first` is the place of the first.

    Args:
        samples (`Iterable[Sample]`): read as the batches are.
        batch_size (`int`): how many go together.
    """
    samples, first = iter(samples), 0
    while batch := list(islice(samples, batch_size)):
        images, texts, regions, names = map(list, zip(*batch))
        yield {"first": first, "images": images, "text": texts, "regions": regions, "names": names}
        first += len(batch)


def _for_each_image(name: str, values: Any, num_images: int, is_list: bool) -> list[Any]:
    if not is_list:
        return [values] * num_images
    if len(values) != num_images:
        raise ValueError(
            f"`{name}` has {len(values)} entries for {num_images} images. Pass one for each image, or a single one "
            "for all."
        )
    return list(values)


def _is_set(regions: Any) -> bool:
    """Whether these are regions of one image: none, `Regions`, or a list or an array of regions."""
    if regions is None or isinstance(regions, Regions):
        return True
    return not is_one_region(regions) and (is_region_set(regions) or all(map(is_one_region, regions)))


__all__ = ["SAMPLE_KEYS", "Sample", "batches_of", "is_stream", "sample_of", "samples_of_list", "stream_entries"]
