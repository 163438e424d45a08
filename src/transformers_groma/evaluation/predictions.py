"""What a model answered to a row, as it is kept in a file and scored: plain texts and boxes, no tensors.

Every benchmark scores these, so that figures follow from a file of answers alone, with no model at hand.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..grounding import GroundedText


@dataclass(frozen=True)
class PredictedPhrase:
    """A phrase of an answer and its boxes.

    Args:
        text (`str`): the phrase; empty where the answer only points.
        boxes_xyxy (`list[list[float]]`): in absolute pixels of the upright image.
        scores (`list[float]`): how sure the model is of each region, 0..1.
    """

    text: str
    boxes_xyxy: list[list[float]]
    scores: list[float]


@dataclass(frozen=True)
class Prediction:
    """The answer to a row.

    Args:
        index (`int`): number of the row in the dataset.
        image_id (`str`): of the row.
        text (`str`): the answer without markup.
        phrases (`list[PredictedPhrase]`): in the order of the text.
        markup (`str`): the answer as the model wrote it.
    """

    index: int
    image_id: str
    text: str
    phrases: list[PredictedPhrase]
    markup: str

    @property
    def boxes_xyxy(self) -> list[list[float]]:
        """All boxes of the answer in its order, each once; `xyxy` in absolute pixels of the upright image.

        Example:
        >>> twice = PredictedPhrase("", [[0.0, 0.0, 4.0, 4.0]] * 2, [0.9, 0.9])
        >>> prediction = Prediction(0, "7", "", [twice], "")
        >>> prediction.boxes_xyxy, prediction.scores
        ([[0.0, 0.0, 4.0, 4.0]], [0.9])
        """
        return [list(box) for box in self._scores_by_box()]

    @property
    def scores(self) -> list[float]:
        """How sure the model is of each of `boxes_xyxy`, 0..1."""
        return list(self._scores_by_box().values())

    def _scores_by_box(self) -> dict[tuple[float, ...], float]:
        scores: dict[tuple[float, ...], float] = {}
        for phrase in self.phrases:
            for box, score in zip(phrase.boxes_xyxy, phrase.scores, strict=True):
                scores.setdefault(tuple(box), score)
        return scores

    @classmethod
    def of(cls, index: int, image_id: str, answer: GroundedText) -> "Prediction":
        """A model's answer as a prediction.

        Args:
            index (`int`), image_id (`str`): of the row.
            answer (`GroundedText`): boxes `xyxy` in absolute pixels.

        Returns:
            `Prediction`: its boxes with all digits of float32, so that figures do not depend on whether it was kept in
                a file.
        """
        scores = {region.id: region.score for region in answer.regions}
        phrases = [
            PredictedPhrase(phrase.text, phrase.boxes.tolist(), [scores[region] for region in phrase.region_ids])
            for phrase in answer.phrases
        ]
        return cls(index, image_id, answer.text, phrases, answer.markup)

    def to_dict(self) -> dict[str, Any]:
        """The prediction, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Prediction":
        """The prediction that `to_dict` wrote.

        Args:
            values (`Mapping`): read from JSON.

        Returns:
            `Prediction`

        Raises:
            KeyError, TypeError: another layout.

        Example:
        >>> prediction = Prediction(0, "7", "a dog", [PredictedPhrase("a dog", [[0.0, 0.0, 4.0, 4.0]], [0.9])], "")
        >>> Prediction.from_dict(prediction.to_dict()) == prediction
        True
        """
        phrases = [PredictedPhrase(**phrase) for phrase in values["phrases"]]
        return cls(values["index"], values["image_id"], values["text"], phrases, values["markup"])


__all__ = ["PredictedPhrase", "Prediction"]
