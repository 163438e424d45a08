"""A model's answer to a row, as it is stored and scored.

Every benchmark scores these, so its metrics follow from a file of answers alone, without a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..grounding import GroundedText
from ..masks import RLE, mask_to_rle
from ..regions import Regions


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to a row. Two are equal if they are stored identically.

    Args:
        index (`int`): number of the row in the dataset.
        image_id (`str`): the row's image.
        text (`str`): the answer without markup.
        phrases (`list[tuple[str, Regions]]`): each phrase of the answer and its regions, in the order of the text; the
            phrase is empty where the answer only points.
        markup (`str`): the answer as the model wrote it.
        masks (`list[list[RLE] | None]`, *optional*): for each phrase the mask of each of its regions, in the upright
            image; `None` where none were decoded. Not arrays: those of a whole benchmark would not fit into memory.

    Raises:
        ValueError: not as many masks as regions.
    """

    index: int
    image_id: str
    text: str
    phrases: list[tuple[str, Regions]]
    markup: str
    masks: list[list[RLE] | None] | None = None

    def __post_init__(self) -> None:
        for (text, regions), masks in zip(self.phrases, self._masks(), strict=True):
            if masks is not None and len(masks) != len(regions):
                raise ValueError(
                    f"`masks` need one mask for each of the {len(regions)} regions of {text!r}, got {len(masks)}."
                )

    def _masks(self) -> list[list[RLE] | None]:
        return [None] * len(self.phrases) if self.masks is None else self.masks

    @property
    def boxes_xyxy(self) -> list[list[float]]:
        """All boxes of the answer in its order, each once; `xyxy` in absolute pixels of the upright image.

        Example:
        >>> import numpy as np
        >>> from transformers_groma.evaluation.predictions import Prediction
        >>> from transformers_groma.regions import Regions
        >>> dog = Regions([[0, 0, 4, 4]], np.array([0.9]))
        >>> prediction = Prediction(0, "7", "", [("", dog), ("a dog", dog)], "")
        >>> prediction.boxes_xyxy, prediction.scores
        ([[0.0, 0.0, 4.0, 4.0]], [0.9])
        """
        return [list(box) for box in self._scores_by_box()]

    @property
    def scores(self) -> list[float]:
        """How sure the model is of each of `boxes_xyxy`, 0..1."""
        return list(self._scores_by_box().values())

    @property
    def all_masks(self) -> list[RLE]:
        """The masks of all its regions, in the order of the answer.

        Raises:
            ValueError: the model decoded no masks.
        """
        return [mask for masks in self.masks_of_phrases() for mask in masks]

    def masks_of_phrases(self) -> list[list[RLE]]:
        """For each phrase the masks of its regions.

        Returns:
            `list[list[RLE]]`: as many as there are phrases.

        Raises:
            ValueError: the model decoded no masks.
        """
        if None in (masks := self._masks()):
            raise ValueError(
                f"Prediction {self.index} has no masks: it comes from a model or a benchmark without them."
            )
        return masks

    def _scores_by_box(self) -> dict[tuple[float, ...], float]:
        scores: dict[tuple[float, ...], float] = {}
        for _, regions in self.phrases:
            for box, score in zip(regions.xyxy.tolist(), regions.scores.tolist(), strict=True):
                scores.setdefault(tuple(box), score)
        return scores

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Prediction) else NotImplemented

    @classmethod
    def of(cls, index: int, image_id: str, answer: GroundedText) -> "Prediction":
        """Make a prediction from a model's answer.

        Args:
            index (`int`), image_id (`str`): those of the row.
            answer (`GroundedText`): boxes `xyxy` in absolute pixels. Phrases have the masks of their regions.

        Returns:
            `Prediction`: its boxes with all digits of float32, so that scores do not depend on whether it was kept in
                a file.
        """
        phrases = [(phrase.text, Regions(phrase.regions.xyxy, phrase.regions.scores)) for phrase in answer.phrases]
        masks = [
            None if found is None else [mask_to_rle(mask) for mask in found]
            for found in (phrase.regions.masks for phrase in answer.phrases)
        ]
        return cls(index, image_id, answer.text, phrases, answer.markup, masks)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, ready for JSON."""
        phrases: list[dict[str, Any]] = [
            {"text": text, "boxes_xyxy": regions.xyxy.tolist(), "scores": regions.scores.tolist()}
            for text, regions in self.phrases
        ]
        for phrase, masks in zip(phrases, self._masks(), strict=True):
            if masks is not None:
                phrase["masks"] = [dict(mask) for mask in masks]
        return {
            "index": self.index,
            "image_id": self.image_id,
            "text": self.text,
            "phrases": phrases,
            "markup": self.markup,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Prediction":
        """Make a prediction from the output of `to_dict`.

        Args:
            values (`Mapping`): read from JSON.

        Returns:
            `Prediction`

        Raises:
            KeyError, TypeError, ValueError: another layout, or something that is not a box.

        Example:
        >>> from transformers_groma.evaluation.predictions import Prediction
        >>> from transformers_groma.regions import Regions
        >>> prediction = Prediction(0, "7", "a dog", [("a dog", Regions([[0, 0, 4, 4]]))], "")
        >>> Prediction.from_dict(prediction.to_dict()) == prediction
        True
        """
        # As float64, which JSON's numbers are: what is read is written again digit for digit.
        phrases = [
            (
                phrase["text"],
                Regions(np.array(phrase["boxes_xyxy"], np.float64), np.array(phrase["scores"], np.float64)),
            )
            for phrase in values["phrases"]
        ]
        masks = [phrase.get("masks") for phrase in values["phrases"]]
        return cls(values["index"], values["image_id"], values["text"], phrases, values["markup"], masks)


__all__ = ["Prediction"]
