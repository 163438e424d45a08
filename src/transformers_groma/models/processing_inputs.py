"""Checks and normalizes what callers pass to the processor: texts, images, boxes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from .._words import counted
from ..boxes import BoxFormat, box_xyxy_to_cxcywh, normalize_boxes, prepare_user_boxes
from ..control_tokens import without_breaks
from ..exact_boxes import BOX_INPUTS
from ..image_inputs import read_upright, shortened

# What transformers puts before a token that a user typed and that `sanitize_control_tokens=True` makes plain text.
_TYPED_BY_USER = "\U000f0000"
# Keys of message parts whose arrays become lists for templates. Masks stay arrays: no template looks at them.
_NUMBERS_OF_PARTS = ("box", "boxes", "point", "points", "scribble", "labels")


def mark_pattern(mark: str) -> str:
    """Regular expression for a mark that is not a user's text made harmless by `sanitize_control_tokens=True`."""
    return f"(?<!{_TYPED_BY_USER}){re.escape(mark)}"


def count_marks(mark: str, text: str) -> int:
    """Count a mark in a text."""
    return len(re.findall(mark_pattern(mark), text))


def check_marks(name: str, mark: str, text: str, num_boxes: int, index: int) -> None:
    """Refuse a text with more or fewer marks than boxes or regions (`num_boxes` of the argument `name`)."""
    count = count_marks(mark, text)
    one, many = ("region", "regions") if name == "regions" else ("box", "boxes")
    if count != num_boxes:
        raise ValueError(
            f"`text` of sample {index} has {counted(count, f'{mark} mark')}, but `{name}` has "
            f"{counted(num_boxes, one, many)} for it. Write "
            f'one {mark} for each {one}, in the order of the {many}, as in "What is {mark}?". Got '
            f"{without_breaks(text)[:200]!r}."
        )


def check_prompt_length(num_tokens: int, max_new_tokens: int, limit: int) -> None:
    """Refuse a prompt that, with its answer, is longer than the model reads (`limit` tokens)."""
    if num_tokens + max_new_tokens > limit:
        remedy = "Shorten the question." if num_tokens >= limit else "Shorten the question or lower `max_new_tokens`."
        raise ValueError(
            f"The prompt has {num_tokens} tokens and the answer up to {max_new_tokens} (`max_new_tokens`), but the "
            f"model reads {limit} in all (`max_position_embeddings`). {remedy}"
        )


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int | None) -> dict[str, torch.Tensor]:
    """Token ids of several prompts as a batch, padded on the left, so that all end where their answers begin.

    A tokenizer that pads keeps that setting, and another thread that encodes without padding undoes it in between: of
    two pipelines' calls at the same time one would fail. So prompts are encoded without padding, and padded here.

    Args:
        rows (`Sequence[Sequence[int]]`): `B` lists of ids.
        pad_token_id (`int`, *optional*): of the tokenizer; 0 where it has none.

    Returns:
        `dict`: `input_ids` and `attention_mask` `(B, L)`, int64.

    Example:
    >>> pad_left([[5, 6, 7], [8]], pad_token_id=0)["input_ids"].tolist()
    [[5, 6, 7], [0, 0, 8]]
    """
    length = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[pad_token_id or 0] * (length - len(row)) + list(row) for row in rows]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
    }


def refuse_other_media(given: Mapping[str, Any], what: str) -> None:
    """Refuse videos and sound, which the library would drop without a word; the answer would be about something else.

    Args:
        given (`Mapping`): by the names that callers use; `None` and empty lists are nothing.
        what (`str`): what the names are, for an error.

    Raises:
        ValueError: for `videos`, `audio`, `video_url`, `input_audio` and the like.
    """
    for name, value in given.items():
        if value is None or (isinstance(value, (list, tuple)) and not value) or name.endswith("_kwargs"):
            continue
        if "video" in name or "audio" in name:
            remedy = "Pass a frame of it as an image." if "video" in name else "Write what is heard as text."
            raise ValueError(f"The model sees images only, but the {what} `{name}` was given. {remedy}")


def check_phrase_part(part: Mapping[str, Any]) -> None:
    """Refuse a phrase that says where it is by anything but `boxes`: it would become plain text without a word.

    Args:
        part (`Mapping`): a message part of the type "phrase"; `None` and empty lists are nothing.

    Raises:
        ValueError: for other keys than `text` and `boxes`.
    """
    for name, value in part.items():
        if name in ("type", "text", "boxes") or value is None or (isinstance(value, (list, tuple)) and not value):
            continue
        raise ValueError(
            f"A phrase part has the unknown key {name!r}. Write {{'type': 'phrase', 'text': …, 'boxes': [[x1, y1, x2, "
            f"y2]]}}, where `boxes` says where the phrase is, got {shortened(dict(part))}."
        )


def plain_part(part: Any) -> Any:
    """A message part without keys that are None (as datasets fill them in), boxes and points as lists."""
    if not isinstance(part, Mapping):
        return part
    part = {key: value for key, value in part.items() if value is not None}
    return {key: _plain_numbers(value) if key in _NUMBERS_OF_PARTS else value for key, value in part.items()}


def _plain_numbers(values: Any) -> Any:
    if isinstance(values, (np.ndarray, np.generic, torch.Tensor)):
        try:
            return values.tolist()
        except RuntimeError:  # tensors on `meta`, which are refused where they are read
            return values
    if isinstance(values, (list, tuple)):
        return [_plain_numbers(value) for value in values]
    return values


def as_texts(text: Any) -> list[str] | None:
    """The argument `text` as a list, one text for each sample; `None` stays."""
    if text is None:
        return None
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)) or not all(isinstance(sample, str) for sample in texts):
        raise ValueError(f"`text` must be a string or list of strings, got {shortened(text)}.")
    if len(texts) == 0:
        raise ValueError("`text` is an empty list. Pass at least one text.")
    for index, sample in enumerate(texts):
        if not sample.strip():
            raise ValueError(
                f"`text` of sample {index} is empty: {sample!r}. Write a question, or leave `text` out for the "
                "default one."
            )
    return list(texts)


def group_images(images: Any) -> tuple[list[list[Any]], bool]:
    """Images as one list for each entry of the argument, and whether the argument was a nested list.

    One image makes `[[image]]`; `[cat, None]` and `[[cat], []]` both make `[[cat], []]`, the second one nested. An
    array or tensor with four dimensions is a batch.
    """
    if images is None:
        return [], False
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, (list, tuple)):
        return [[images]], False
    is_nested = any(isinstance(entry, (list, tuple)) for entry in images)
    groups = [entry if isinstance(entry, (list, tuple)) else [entry] for entry in images]
    return [[image for image in group if image is not None] for group in groups], is_nested


def assign_images(images: Any, texts: list[str] | None, image_token: str, written_as: str | None = None) -> list[Any]:
    """Find out which image belongs to which text, and read it.

    - Finished prompts say it themselves, as for all processors of the library: where there are as many marks as
      images, each mark takes the next image. `[cat]` and `["Hi", "<image> What?"]` make `[None, cat]`.
    - Otherwise there is an entry of `images` for each text. `[cat, None]` and `["What?", "Hi"]` make `[cat, None]`. A
      nested list is always read so.

    Args:
        images: as callers pass them, see [`group_images`].
        texts (`list[str]`, *optional*): the text of each sample; without it there is one for each image.
        image_token (`str`): the mark of an image.
        written_as (`str`, *optional*): how callers write it, where that is something else, for errors.

    Returns:
        `list`: for each sample its image, upright, see [`read_upright`], or `None`.

    Raises:
        ValueError: images and texts do not fit each other, a sample has several images, or one cannot be read.

    Example:
    >>> from PIL import Image
    >>> cat = Image.new("RGB", (4, 2))
    >>> [image and image.size for image in assign_images([cat], ["Hi", "<image> What?"], "<image>")]
    [None, (4, 2)]
    """
    written_as = written_as or image_token
    if images is None:
        if texts is None:
            raise ValueError("Neither `images` nor `text` was given. Pass an image, a text or both.")
        if total := sum(count_marks(image_token, text) for text in texts):
            # These are the library's own words.
            raise ValueError(f"Found {total} {written_as} tokens in the text but no images were passed.")
        return [None] * len(texts)
    groups, is_nested = group_images(images)
    flat = [image for group in groups for image in group]
    if texts is None:
        if empty := [index for index, group in enumerate(groups) if not group]:
            raise ValueError(
                f"Sample {empty[0]} has neither an image nor a text. Pass `text` or leave the sample out."
            )
        texts = [""] * len(groups)
    if not texts:
        raise ValueError("`images` is an empty list and there is no `text`. Pass at least one image.")
    marks = [count_marks(image_token, text) for text in texts]
    one_each = len(groups) == len(texts)
    if sum(marks) == len(flat) and not (is_nested and one_each):
        iterator = iter(flat)
        groups = [[next(iterator) for _ in range(count)] for count in marks]
    elif not one_each and sum(marks) == 0 and len(texts) == 1:
        groups = [flat]  # too many for one text, which is said below
    elif not one_each and sum(marks) == 0:
        raise ValueError(
            f"`images` has {len(groups)} entries for {len(texts)} texts. Pass one for each text, and None or [] for a "
            "text without an image."
        )
    elif not one_each:
        groups = None
    for index, group in enumerate(groups or []):
        if len(group) > 1:
            raise ValueError(
                f"Sample {index} has {len(group)} `images`, but the model takes one image per sample. Make one sample "
                "of each image."
            )
    if groups is None or any(count > 0 and count != len(group) for count, group in zip(marks, groups)):
        # These are the library's own words.
        raise ValueError(
            f"The total number of {written_as} tokens in the prompts should be the same as the number of images "
            f"passed. Found total {sum(marks)} {written_as} tokens and {len(flat)} images."
        )
    return [
        read_upright(group[0], f"`images` of sample {index}") if group else None for index, group in enumerate(groups)
    ]


def prepare_boxes(
    name: str, boxes: Any, sizes: list[tuple[int, int] | None], box_format: BoxFormat, normalized: bool
) -> list[torch.Tensor]:
    """Check the boxes of each sample and bring them into the form that the model takes.

    Args:
        name (`str`): name of the argument, for errors.
        boxes: as callers pass them: of one sample `(n, 4)`, or for each sample a list, an array or `None`.
        sizes (`list`): (height, width) in pixels of the upright image of each sample, `None` without an image.
        box_format (`str`): `"xyxy"`, `"xywh"` or `"cxcywh"`.
        normalized (`bool`): whether they are fractions of the image size instead of pixels.

    Returns:
        `list[Tensor]`: for each sample, normalized `cxcywh` of shape `(n, 4)`, float32.

    Raises:
        ValueError: boxes that are not boxes, outside of their image, for other samples, or without an image.
    """
    prepared = []
    groups = _group_boxes(name, boxes, len(sizes))
    for index, (group, size) in enumerate(zip(groups, sizes)):
        label = name if len(sizes) == 1 else f"{name}[{index}]"
        if size is None:
            if len(group) > 0:
                raise ValueError(f"`{label}` was given, but sample {index} has no image. Pass its image in `images`.")
            prepared.append(torch.zeros(0, 4))
            continue
        pixels = prepare_user_boxes(group, *size, box_format=box_format, normalized=normalized, name=label)
        prepared.append(normalize_boxes(box_xyxy_to_cxcywh(pixels), *size))
    return prepared


def _group_boxes(name: str, boxes: Any, num_samples: int) -> list[list[Any]]:
    """Boxes as one list for each sample; `None` and empty lists become empty lists."""
    boxes = _plain_numbers(boxes)
    if boxes is None or boxes == []:
        return [[]] * num_samples
    if not isinstance(boxes, list):
        raise ValueError(f"`{name}` must be a list of boxes or an array of shape (n, 4), got {shortened(boxes)}.")
    # One box is a list of numbers, the boxes of a sample a list of lists, those of a batch one level more. The first
    # non-empty entry decides: [[0, 0, 9, 9]] is a sample, [None, [[0, 0, 9, 9]]] a batch.
    first = next((entry for entry in boxes if entry not in (None, [])), None)
    is_batch = first is None or (isinstance(first, list) and (isinstance(first[0], list) or first[0] is None))
    groups = [entry or [] for entry in boxes] if is_batch else [boxes]
    if len(groups) != num_samples:
        raise ValueError(
            f"`{name}` has boxes for {len(groups)} samples, but there are {num_samples}. Pass one list of boxes per "
            "sample, None or [] for a sample without boxes."
        )
    return groups


class GromaBatchFeature(BatchFeature):
    """What the processor returns: a `BatchFeature` whose `to` leaves boxes and points in float32, whatever else casts.

    bfloat16 keeps 8 significant bits, so a box in it would move by a pixel or two.

    Example:
    >>> inputs = GromaBatchFeature({"pixel_values": torch.ones(1, 3, 8, 8), "refer_boxes": torch.full((1, 1, 4), 0.5)})
    >>> inputs = inputs.to("cpu", torch.bfloat16)
    >>> inputs["pixel_values"].dtype, inputs["refer_boxes"].dtype
    (torch.bfloat16, torch.float32)
    """

    def to(self, *args, **kwargs) -> "GromaBatchFeature":
        """Move and cast as `BatchFeature.to` does; boxes, points and scores of proposals are moved only."""
        exact = {name: value for name, value in self.data.items() if name in BOX_INPUTS}
        super().to(*args, **kwargs)
        for name, value in exact.items():
            if isinstance(value, torch.Tensor):
                # Where the library moved it, in the dtype that it had.
                non_blocking = kwargs.get("non_blocking", False)
                self.data[name] = value.to(self.data[name].device, non_blocking=non_blocking)
        return self


def pad_boxes(boxes: list[torch.Tensor]) -> list[np.ndarray]:
    """Pad the boxes of `B` samples with zeros to the same number: `B` arrays of shape `(K, 4)`."""
    length = max(len(boxes_of_sample) for boxes_of_sample in boxes)
    rows = np.zeros((len(boxes), length, 4), dtype=np.float32)
    for row, boxes_of_sample in zip(rows, boxes):
        row[: len(boxes_of_sample)] = boxes_of_sample
    return list(rows)
