"""Masks of one request's regions: decoded by the model's thread, made into RLE of the upright image by another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..image_inputs import ImageSize
from ..masks import RLE, mask_to_rle


@dataclass(frozen=True, eq=False)
class DecodedMasks:
    """Masks as they left the model: enlarging those of a photo takes as long as some of the model's steps.

    Args:
        size (`ImageSize`): of the upright image.
        upright (`Callable`): the model's `upright_masks`, which needs no turn of the model.
        logits (`Mapping[int, Tensor]`): `(h, w)` each as the model decodes them, above 0 where the region is, by
            number.
        quality (`Mapping[int, float]`): the estimated IoU of each.
        known (`Mapping[int, RLE]`): masks that were given.
        segments (`Sequence[int]`): the regions that are their masks, as the model wrote segment tokens for them: their
            boxes are those around the masks.
    """

    size: ImageSize
    upright: Callable[[Tensor, int, int], np.ndarray]
    logits: Mapping[int, Tensor] = field(default_factory=dict)
    quality: Mapping[int, float] = field(default_factory=dict)
    known: Mapping[int, RLE] = field(default_factory=dict)
    segments: Sequence[int] = ()

    def joined(self, others: "DecodedMasks") -> "DecodedMasks":
        """These masks and other ones of the same image."""
        return replace(
            self,
            logits={**self.logits, **others.logits},
            quality={**self.quality, **others.quality},
            known={**self.known, **others.known},
            segments=[*self.segments, *others.segments],
        )

    def numbers(self) -> list[int]:
        """The regions that have a mask."""
        return [*self.logits, *self.known]

    def rle(self, number: int) -> RLE:
        """The mask of a region, of the upright image. One by one, as arrays of a large photo take much memory.

        Raises:
            ValueError: the model's numbers are not numbers.
        """
        if number in self.known:
            return self.known[number]
        logits = self.logits[number][None]
        return mask_to_rle(self.upright(logits, self.size.height, self.size.width)[0])


@dataclass(frozen=True, eq=False)
class MaskSource:
    """Decodes masks of the regions of one image, without a second look at the image.

    Args:
        features (`ModelOutput`): what the model saw of the image, for itself.
        boxes (`Tensor` of shape `(R, 4)`): of the regions by their numbers, normalized `cxcywh`.
        decoded (`DecodedMasks`): masks that are known already: those of points, and those that were given.
    """

    features: Any
    boxes: Tensor
    decoded: DecodedMasks

    @torch.no_grad()
    def decode(self, model: Any, numbers: Sequence[int]) -> DecodedMasks:
        """The masks of some regions, in one call of the decoder.

        Args:
            model (`PreTrainedModel`): with a mask decoder.
            numbers (`Sequence[int]`): of the regions.
        """
        there = self.decoded
        known = {number: there.known[number] for number in numbers if number in there.known}
        logits = {number: there.logits[number] for number in numbers if number in there.logits}
        quality = {number: there.quality[number] for number in logits}
        missing = [number for number in dict.fromkeys(numbers) if number not in known and number not in logits]
        if missing:
            masks = model.segment(self.features, boxes=self.boxes[missing][None].to(model.device))
            found, scores = masks.logits[0, :, 0].float().cpu(), masks.quality[0, :, 0].float().cpu()
            for row, number in enumerate(missing):
                logits[number], quality[number] = found[row], float(scores[row])
        return replace(there, logits=logits, quality=quality, known=known)

    @torch.no_grad()
    def decode_segments(self, model: Any, states: Sequence[Tensor], first: int) -> DecodedMasks:
        """The masks of an answer's segment tokens, in one call of the decoder.

        Args:
            model (`PreTrainedModel`): that writes segment tokens. Its grounding encoder looks at the image now, unless
                it did for an earlier answer.
            states (`Sequence[Tensor]`, each of shape `(hidden_size,)`): that predicted the tokens.
            first (`int`): the number of the first one's region.
        """
        if not states:
            return DecodedMasks(self.decoded.size, self.decoded.upright)
        (decoded,) = model.decode_segments(self.features, [torch.stack(list(states))], [0])
        numbers = range(first, first + len(states))
        logits = dict(zip(numbers, decoded.logits.float().cpu(), strict=True))
        quality = dict(zip(numbers, decoded.quality.float().nan_to_num(0).tolist(), strict=True))
        return DecodedMasks(self.decoded.size, self.decoded.upright, logits, quality, segments=numbers)


__all__ = ["DecodedMasks", "MaskSource"]
