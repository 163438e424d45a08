"""Gathers the regions that the answers about an image name, each once and with a number of its own."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..data.annotation_columns import (
    CAPTION,
    LOCATED,
    PROPOSAL,
    SOURCE,
    AnnotatedPhrase,
    AnnotatedRegion,
    LocatedPhrase,
    Origin,
)
from ..grounding import GroundedPhrase, GroundedText
from ..masks import mask_to_rle
from ..regions import Regions, with_extent


class RegionNumbers:
    """The regions of one image.

    A model with a region proposer names the same proposals in all answers about an image: they keep their numbers.
    Other models find regions answer by answer: those of the caption keep the numbers of its markup, the others get
    new ones.

    Args:
        num_slots (`int`): how many proposals the model can name; 0 where it has no region proposer.
    """

    def __init__(self, num_slots: int) -> None:
        self._has_slots = num_slots > 0
        self._next = num_slots
        self._regions: dict[int, AnnotatedRegion] = {}
        self._labels: dict[int, str] = {}

    def add_proposal(self, region: Regions) -> int:
        """Add a proposal, by its number."""
        return self._add(region, PROPOSAL, region.id)

    def add_caption(self, answer: GroundedText) -> tuple[AnnotatedPhrase, ...]:
        """Add the regions of a caption; before any other answer.

        Args:
            answer (`GroundedText`): the caption.

        Returns:
            `tuple[AnnotatedPhrase, ...]`: its phrases.
        """
        if not self._has_slots:
            self._next = max((*answer.regions.ids, -1)) + 1
        phrases = []
        for phrase in answer.phrases:
            ids = [self._add(region, CAPTION, region.id) for region in with_extent(phrase.regions)]
            start, end = phrase.span
            phrases.append(AnnotatedPhrase(phrase.text, start, end, tuple(dict.fromkeys(ids))))
        return tuple(phrases)

    def add_located(self, found: GroundedPhrase) -> LocatedPhrase:
        """Add the regions that were found for a phrase."""
        ids = [self._add(region, LOCATED, region.id if self._has_slots else None) for region in found.regions]
        for number in ids:
            self._labels.setdefault(number, found.text)
        return LocatedPhrase(found.text, tuple(ids))

    def add_source(self, box: Any, label: str | None, mask: np.ndarray | None) -> int:
        """Add a region of the source: its box, `xyxy` in absolute pixels, its label and, if known, its mask."""
        number = self._add(Regions([box]), SOURCE, None)
        self._regions[number] = replace(self._regions[number], label=label)
        self.add_mask(number, mask)
        return number

    def add_mask(self, number: int, mask: np.ndarray | None) -> None:
        """Add the mask of a region, bool `(H, W)`, unless it has one."""
        if mask is not None and self._regions[number].mask is None:
            self._regions[number] = replace(self._regions[number], mask=mask_to_rle(mask))

    def describe(self, number: int, text: str) -> None:
        """Add what the model says about a region."""
        self._regions[number] = replace(self._regions[number], description=text)

    @property
    def without_mask(self) -> list[int]:
        """The numbers of proposals that have no mask."""
        return [
            number for number, region in self._regions.items() if region.mask is None and region.origin == PROPOSAL
        ]

    def regions(self, phrases: tuple[AnnotatedPhrase, ...]) -> tuple[AnnotatedRegion, ...]:
        """All regions, by their numbers, with labels: of the source, else of the first phrase that names them.

        Args:
            phrases (`tuple[AnnotatedPhrase, ...]`): of the caption.
        """
        labels = dict(self._labels)
        for phrase in phrases:
            for number in phrase.region_ids:
                if phrase.text:
                    labels.setdefault(number, phrase.text)
        return tuple(
            region if region.label is not None else replace(region, label=labels.get(number))
            for number, region in sorted(self._regions.items())
        )

    def _add(self, region: Regions, origin: Origin, number: int | None) -> int:
        if number is None:
            number, self._next = self._next, self._next + 1
        if number not in self._regions:
            # In a model with proposals every region that an answer names is one of them.
            origin = PROPOSAL if self._has_slots and origin != SOURCE else origin
            box = tuple(region.box.tolist())
            self._regions[number] = AnnotatedRegion(number, box, region.score, origin)
        self.add_mask(number, region.mask)
        return number


__all__ = ["RegionNumbers"]
