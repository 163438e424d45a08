"""Grounded text: an answer whose phrases are tied to regions of an image; `grounded_markup.py` reads the markup.

Spans are `(start, end)` offsets in characters; boxes are `xyxy` in absolute pixels of the upright image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .grounded_markup import (
    ParsedPhrase,
    ParsedText,
    parse_grounded_text,
    parse_segmented_text,
    render_grounded_phrase,
)
from .labelled_objects import UNLABELLED
from .masks import mask_to_rle
from .region_exports import RegionExports
from .regions import Regions, with_extent

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class GroundedPhrase(RegionExports):
    """A phrase of an answer and its regions.

    Args:
        text (`str`): the phrase; empty where the answer names regions without one.
        span (`tuple[int, int]`): its place in the answer's plain text.
        regions (`Regions`): its regions in the order of the answer. None where `locate` found nothing, or where the
            masks of an answer with `[SEG]` are not decoded yet; then the phrase is false in a condition.
    """

    text: str
    span: tuple[int, int]
    regions: Regions

    def __bool__(self) -> bool:
        """Whether it has a region."""
        return len(self.regions) > 0

    def to_dict(self) -> dict[str, Any]:
        """The phrase as plain lists and numbers, ready for JSON.

        Returns:
            `dict`: keys `text`, `span`, `boxes_xyxy` (pixels with two decimals), `region_ids` and, if its regions have
            masks, `masks` (COCO's RLE).
        """
        content = self._named()
        if self.masks is not None:
            content["masks"] = [mask_to_rle(mask) for mask in self.masks]
        return content

    def _named(self) -> dict[str, Any]:
        """The phrase in an answer, where regions are written once, with their masks."""
        return {
            "text": self.text,
            "span": list(self.span),
            "boxes_xyxy": [[round(value, 2) for value in box] for box in self.boxes.tolist()],
            "region_ids": list(self.region_ids),
        }

    def as_answer(self) -> "GroundedText":
        """The phrase as an answer by itself, to draw it or write it as one."""
        phrase = GroundedPhrase(self.text, (0, len(self.text)), self.regions)
        markup = render_grounded_phrase(self.text, self.region_ids)
        masks = {} if self.regions.masks is None else dict(zip(self.region_ids, self.regions.masks, strict=True))
        return GroundedText(self.text, [phrase] if phrase else [], self.regions, (), markup, masks=masks)

    def labelled_regions(self) -> Regions:
        """What `to_coco` and its like convert: its regions, with the phrase as their label."""
        return self.as_answer().labelled_regions()

    def draw(self, image: "Image.Image") -> "Image.Image":
        """Draw its regions; see [`GroundedText.draw`]."""
        return self.as_answer().draw(image)

    @property
    def boxes(self) -> Tensor:
        """The `xyxy` boxes of its regions in absolute pixels of the upright image, `(n, 4)`, float32."""
        return self.regions.xyxy

    @property
    def masks(self) -> np.ndarray | None:
        """The masks of its regions in the upright image, bool `(n, H, W)`, in the order of `boxes`, if any."""
        return self.regions.masks

    @property
    def region_ids(self) -> tuple[int, ...]:
        """The numbers of its regions, in the order of `boxes`."""
        return self.regions.ids


@dataclass(frozen=True, eq=False)
class GroundedText(RegionExports):
    """An answer whose phrases are tied to regions.

    Args:
        text (`str`): plain text, without markup.
        phrases (`list[GroundedPhrase]`): phrases tied to regions, in the order of the text.
        regions (`Regions`): all regions that the model could name, also those it did not.
        unknown_region_ids (`tuple[int, ...]`): numbers that the model wrote and that are not regions.
        markup (`str`): the text as the model wrote it.
        user_region_ids (`tuple[int, ...]`): numbers of the regions that the user pointed at, in the order of the
            question.
        masks (`Mapping[int, np.ndarray]`): masks by the number of their region, each bool `(H, W)` of the upright
            image; see [`GroundedText.with_masks`]. Those of the regions that phrases name and of the user's, where
            masks were asked for.
    """

    text: str
    phrases: list[GroundedPhrase]
    regions: Regions
    unknown_region_ids: tuple[int, ...]
    markup: str
    user_region_ids: tuple[int, ...] = ()
    masks: Mapping[int, np.ndarray] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    @property
    def user_regions(self) -> Regions:
        """The regions that the user pointed at, in the order of the question; with masks if all have one."""
        return self.regions_with_ids(self.user_region_ids)

    def regions_with_ids(self, ids: Sequence[int]) -> Regions:
        """Some of its regions; with masks if all of these have one.

        Args:
            ids (`Sequence[int]`): their numbers.

        Returns:
            `Regions`: in the order of the numbers.

        Raises:
            ValueError: no region has one of the numbers.
        """
        return _with_masks(self.regions.with_ids(ids), self.masks)

    def labelled_regions(self, user_regions: bool = False) -> Regions:
        """What `to_coco` and its like convert: the regions of the phrases, with the phrases as their labels.

        A phrase with three regions gives three; a region that several phrases name is there once for each of them.
        Phrases without a region give none, nor do regions without an area: a mask without a pixel found nothing. A
        region that is named without words is called "object".

        Args:
            user_regions (`bool`): whether those that the user pointed at are added, as far as no phrase names them;
                they are called "object".

        Returns:
            `Regions`: with labels, in the order of the answer; with masks if the regions have them.

        Raises:
            ValueError: some of them have masks and others have none.

        Example:
        >>> import torch
        >>> from transformers_groma.grounding import ground_text
        >>> boxes = torch.tensor([[0.0, 0, 9, 9], [10, 20, 30, 40]])
        >>> answer = ground_text("<p>two dogs</p> <roi><r0><r1></roi>, <p>one</p> <roi><r1></roi> runs.", boxes)
        >>> regions = answer.labelled_regions()
        >>> regions.labels, regions.ids
        (('two dogs', 'two dogs', 'one'), (0, 1, 1))
        """
        # Once each: a phrase may name a region twice.
        named = dict.fromkeys(
            (number, " ".join(phrase.text.split()) or UNLABELLED)
            for phrase in self.phrases
            for number in phrase.region_ids
        )
        if user_regions:
            known = {number for number, _ in named}
            named |= dict.fromkeys((number, UNLABELLED) for number in self.user_region_ids if number not in known)
        ids = [number for number, _ in named]
        without = [number for number in ids if number not in self.masks]
        if 0 < len(without) < len(ids):
            raise ValueError(
                f"Regions {without} have no mask, but the others have: add theirs by `with_masks`, or convert the "
                "regions with masks by `regions_with_ids`."
            )
        regions = self.regions_with_ids(ids)
        labels = [label for _, label in named]
        return with_extent(Regions(regions.xyxy, regions.scores, regions.ids, regions.masks, labels))

    def with_masks(self, masks: Mapping[int, np.ndarray]) -> "GroundedText":
        """The same answer with masks of its regions.

        Args:
            masks (`Mapping[int, np.ndarray]`): by the number of a region, bool `(H, W)` of the upright image. At least
                those of all regions that phrases name.

        Returns:
            `GroundedText`: the regions of its phrases have their masks.

        Raises:
            ValueError: a number that is not one of a region, or a phrase's region without a mask.

        Example:
        >>> import numpy as np
        >>> import torch
        >>> from transformers_groma.grounding import ground_text
        >>> answer = ground_text("<p>a dog</p> <roi><r0></roi>.", torch.tensor([[0.0, 0, 2, 2]]))
        >>> answer.with_masks({0: np.ones((4, 6), bool)}).phrases[0].regions.mask.shape
        (4, 6)
        """
        known = frozenset(self.regions.ids)
        if unknown := [number for number in masks if number not in known]:
            raise ValueError(f"`masks` has {unknown}, which are not regions; there are {len(self.regions)}.")
        named = dict.fromkeys(number for phrase in self.phrases for number in phrase.region_ids)
        if missing := [number for number in named if number not in masks]:
            raise ValueError(f"`masks` lacks regions that phrases name: {missing}. Pass a mask for each.")
        phrases = [replace(phrase, regions=_with_masks(phrase.regions, masks)) for phrase in self.phrases]
        return replace(self, phrases=phrases, masks=dict(masks))

    def draw(
        self,
        image: "Image.Image",
        *,
        question: str | None = None,
        regions: bool = False,
        user_boxes: bool = True,
    ) -> "Image.Image":
        """Draw the regions of the phrases and, dashed, those that the user pointed at, with the text under the image.

        Args:
            image (`PIL.Image.Image`): the image that the answer is about; it is not changed.
            question (`str`, *optional*): what was asked, to be shown above the answer.
            regions (`bool`): whether to outline all other regions too, thinly.
            user_boxes (`bool`): whether to outline the regions that the user pointed at, dashed.

        Returns:
            `PIL.Image.Image`: a new RGB image, see `draw_grounded_text`.
        """
        # Here and not above: text needs no drawing library.
        from .visualization import draw_grounded_text

        return draw_grounded_text(image, self, regions=regions, user_boxes=user_boxes, question=question)

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain lists and numbers, ready for JSON.

        Returns:
            `dict`: keys `text`, `phrases`, `regions` and `unknown_region_ids`; boxes are `xyxy` pixels with two
            decimals. A region that has a mask has it as `mask`, COCO's RLE; phrases name their regions by number.
        """
        content = self.regions.to_dict()
        for region in content["regions"]:
            if region["id"] in self.masks:
                region["mask"] = mask_to_rle(self.masks[region["id"]])
        return {
            "text": self.text,
            "phrases": [phrase._named() for phrase in self.phrases],
            **content,
            "unknown_region_ids": list(self.unknown_region_ids),
        }


def ground_text(
    markup: str,
    region_boxes: Tensor,
    region_scores: Tensor | None = None,
    region_mask: Tensor | None = None,
    user_region_ids: Sequence[int] = (),
) -> GroundedText:
    """Read the markup of an answer, and look up its regions by their numbers.

    Args:
        markup (`str`): the text that the model wrote, without the tokenizer's special tokens.
        region_boxes (`Tensor` of shape `(R, 4)`): `xyxy` boxes in absolute pixels of the upright image; the row is the
            number of the region.
        region_scores (`Tensor` of shape `(R,)`, *optional*): scores of the regions, 0..1; all 1 without it.
        region_mask (`Tensor` of shape `(R,)`, bool, *optional*): which rows are regions; all without it.
        user_region_ids (`Sequence[int]`): rows that the user pointed at, in the order of the question.

    Returns:
        `GroundedText`: plain text, phrases with their regions, and all regions. A row whose box or score is not
        finite is not a region.

    Raises:
        ValueError: if the shapes do not fit each other, or a row of `user_region_ids` is not a region.

    Example:
    >>> import torch
    >>> from transformers_groma.grounding import ground_text
    >>> answer = ground_text("<p>a dog</p> <roi><r1></roi>.", torch.tensor([[0.0, 0, 9, 9], [10, 20, 30, 40]]))
    >>> answer.text, answer.phrases[0].boxes.tolist()
    ('a dog.', [[10.0, 20.0, 30.0, 40.0]])
    """
    regions = _regions_of_rows(region_boxes, region_scores, region_mask, user_region_ids)
    parsed = parse_grounded_text(markup, regions.ids)
    phrases = [
        GroundedPhrase(phrase.text, phrase.span, regions.with_ids(phrase.region_ids)) for phrase in parsed.phrases
    ]
    return GroundedText(parsed.text, phrases, regions, parsed.unknown_region_ids, markup, tuple(user_region_ids))


def ground_segmented_text(
    markup: str,
    region_boxes: Tensor,
    region_scores: Tensor | None = None,
    region_mask: Tensor | None = None,
    user_region_ids: Sequence[int] = (),
    *,
    first_segment: int | None = None,
    masks: Mapping[int, np.ndarray] | None = None,
    tags: Sequence[tuple[int, int]] | None = None,
) -> GroundedText:
    """Read the markup of an answer with `[SEG]`, and look up its regions: one for each `[SEG]`, in order.

    Args:
        markup (`str`): the text that the model wrote, without the tokenizer's special tokens.
        region_boxes (`Tensor` of shape `(R, 4)`): `xyxy` boxes in absolute pixels of the upright image: the regions
            that the user pointed at, and after them those of the `[SEG]`, as far as they are known.
        region_scores, region_mask, user_region_ids: as for [`ground_text`].
        first_segment (`int`, *optional*): row of the first `[SEG]`; by default the one after the user's regions.
        masks (`Mapping[int, np.ndarray]`, *optional*): masks by the number of their region, each bool `(H, W)` of the
            upright image.
        tags (`Sequence[tuple[int, int]]`, *optional*): as for [`parse_segmented_text`].

    Returns:
        `GroundedText`: plain text, phrases with their regions, and all regions. A phrase whose `[SEG]` has no row
        stays, without regions: so it is in an answer whose masks are not decoded yet. Where some have rows, the
        numbers of the others are in `unknown_region_ids`.

    Raises:
        ValueError: as [`ground_text`].

    Example:
    >>> import torch
    >>> from transformers_groma.grounding import ground_segmented_text
    >>> boxes = torch.tensor([[0.0, 0, 9, 9], [10, 20, 30, 40]])
    >>> answer = ground_segmented_text("<p> a dog </p> [SEG].", boxes, user_region_ids=[0])
    >>> answer.text, answer.phrases[0].region_ids, answer.phrases[0].boxes.tolist()
    ('a dog.', (1,), [[10.0, 20.0, 30.0, 40.0]])
    """
    regions = _regions_of_rows(region_boxes, region_scores, region_mask, user_region_ids)
    masks = masks or {}
    first = max(user_region_ids, default=-1) + 1 if first_segment is None else first_segment
    parsed = parse_segmented_text(markup, first, tags)
    phrases, unknown = [], []
    ids = frozenset(regions.ids)
    for phrase in parsed.phrases:
        known = [number for number in phrase.region_ids if number in ids]
        unknown += [number for number in phrase.region_ids if number not in ids]
        if phrase.text or known:
            phrases.append(GroundedPhrase(phrase.text, phrase.span, _with_masks(regions.with_ids(known), masks)))
    if len(region_boxes) <= first:  # not decoded
        unknown = []
    return GroundedText(parsed.text, phrases, regions, tuple(unknown), markup, tuple(user_region_ids), masks)


def _regions_of_rows(
    region_boxes: Tensor, region_scores: Tensor | None, region_mask: Tensor | None, user_region_ids: Sequence[int]
) -> Regions:
    """The rows that are regions, with their numbers."""
    if region_boxes.ndim != 2 or region_boxes.shape[-1] != 4:
        raise ValueError(f"`region_boxes` must have shape (number of regions, 4), got {tuple(region_boxes.shape)}.")
    count = region_boxes.shape[0]
    for name, values in (("region_scores", region_scores), ("region_mask", region_mask)):
        if values is not None and values.shape != (count,):
            raise ValueError(f"`{name}` must have shape ({count},) like `region_boxes`, got {tuple(values.shape)}.")
    boxes = region_boxes.detach().to("cpu", torch.float32)
    scores = torch.ones(count) if region_scores is None else region_scores.detach().cpu()
    used = boxes.isfinite().all(dim=-1) & scores.isfinite()
    if region_mask is not None:
        used = used & region_mask.bool().cpu()
    ids = used.nonzero().flatten().tolist()
    regions = Regions(boxes[ids], scores[ids], ids)
    known = frozenset(ids)
    if unknown := [region_id for region_id in user_region_ids if region_id not in known]:
        raise ValueError(f"`user_region_ids` names {unknown}, which are not regions; there are {len(ids)}.")
    return regions


def _with_masks(regions: Regions, masks: Mapping[int, np.ndarray]) -> Regions:
    """Regions with their masks by number, if each has one."""
    if len(regions) == 0 or not all(number in masks for number in regions.ids):
        return regions
    pixels = np.stack([masks[number] for number in regions.ids])
    return Regions(regions.xyxy, regions.scores, regions.ids, pixels, regions.labels)


__all__ = [
    "GroundedPhrase",
    "GroundedText",
    "ParsedPhrase",
    "ParsedText",
    "ground_segmented_text",
    "ground_text",
    "parse_grounded_text",
    "parse_segmented_text",
    "render_grounded_phrase",
]
