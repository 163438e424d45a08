"""What a classifier says of an image: labels with scores, best first, and which place supported which description."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .classification_drawing import PLACES, draw_classification
from .scores import similarity_matrix, weighted_sum
from .text_features import TextFeatures
from .views import Views


@dataclass(frozen=True)
class LabelScore:
    """A label with its score.

    Args:
        label (`str`): as the caller named it.
        score (`float`): the similarity of image and label, from -1 to 1.
        probability (`float`): what the encoder makes of the score: a softmax over the labels, or for SigLIP a sigmoid.
    """

    label: str
    score: float
    probability: float


@dataclass(frozen=True)
class Support:
    """A place of an image that supports a description of a label.

    Args:
        view_xyxy (`tuple[int, int, int, int]`): `xyxy` in absolute pixels of the upright image, right and bottom
            exclusive.
        kind (`str`): where the view comes from, see [`Views`].
        description (`str`): of the label.
        similarity (`float`): cosine of view and description.
        contribution (`float`): its part of the score.
    """

    view_xyxy: tuple[int, int, int, int]
    kind: str
    description: str
    similarity: float
    contribution: float

    def to_dict(self) -> dict[str, Any]:
        """The support as a `dict` of plain values."""
        return {
            "view_xyxy": list(self.view_xyxy),
            "kind": self.kind,
            "description": self.description,
            "similarity": self.similarity,
            "contribution": self.contribution,
        }


@dataclass(frozen=True)
class Place:
    """A place of an image, how much it counts, and the description of a label that it fits best.

    Args:
        view_xyxy (`tuple[int, int, int, int]`): `xyxy` in absolute pixels of the upright image, right and bottom
            exclusive.
        kind (`str`): where the view comes from, see [`Views`].
        weight (`float`): how much the view counts, for all labels alike; those of all views sum to 1.
        contribution (`float`): its part of the label's score, over all descriptions.
        description (`str`): of those of the label the one most similar to the view.
        similarity (`float`): cosine of the two.
    """

    view_xyxy: tuple[int, int, int, int]
    kind: str
    weight: float
    contribution: float
    description: str
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """The place as a `dict` of plain values."""
        return {**asdict(self), "view_xyxy": list(self.view_xyxy)}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which place of an image supported which description: the parts whose sum is a label's score.

    Args:
        views (`Views`): the V places that were looked at, without padding.
        weights (`Tensor` of shape `(V,)`): how much each counts; they sum to 1.
        view_features (`Tensor` of shape `(V, D)`): of length 1.
        texts (`TextFeatures`): the encoded descriptions of all labels.
        score (`str`): `"paper"` or `"released"`.
    """

    views: Views
    weights: Tensor
    view_features: Tensor
    texts: TextFeatures
    score: str

    @property
    def views_xyxy(self) -> Tensor:
        """The views as `xyxy` in absolute pixels of the upright image, right and bottom exclusive: `(V, 4)`, int64."""
        return self.views.xyxy

    @property
    def kinds(self) -> tuple[str, ...]:
        """Where each view comes from: `"random"`, `"grid"`, `"region"` or `"whole"`."""
        return self.views.kinds

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the classifier's order."""
        return self.texts.labels

    def descriptions(self, label: str) -> tuple[str, ...]:
        """The M descriptions of a label."""
        return self.texts.descriptions[self.texts.index(label)]

    def description_weights(self, label: str) -> Tensor:
        """How much each description of a label counts, `(M,)`; they sum to 1."""
        return self.texts.weights[self.texts.index(label)]

    def similarities(self, label: str) -> Tensor:
        """The cosine of each view and each description of a label, `(V, M)`."""
        return similarity_matrix(self.view_features, self.texts.features[self.texts.index(label)])

    def contributions(self, label: str) -> Tensor:
        """What each pair of a view and a description adds to a label's score, `(V, M)`; their sum is the score."""
        parts = self.similarities(label) * self.weights[:, None] * self.description_weights(label)
        if self.score == "paper":
            return parts
        image = weighted_sum(self.view_features, self.weights)
        return parts / (image.norm() * self.texts.pooled[self.texts.index(label)].norm()).clamp(min=1e-12)

    def strongest(self, label: str, n: int = 5) -> list[Support]:
        """The pairs of a view and a description that add most to the score of a label, best first.

        Args:
            label (`str`): one of the labels.
            n (`int`): at most this many.

        Returns:
            `list[Support]`

        Raises:
            ValueError: a label that the classifier does not have, or a number below 0.
        """
        _check_number(n)
        contributions, similarities = self.contributions(label), self.similarities(label)
        best = contributions.flatten().topk(min(n, contributions.numel())).indices
        descriptions = self.descriptions(label)
        supports = []
        for view, text in zip(*(index.tolist() for index in torch.unravel_index(best, contributions.shape))):
            supports.append(
                Support(
                    view_xyxy=tuple(self.views_xyxy[view].tolist()),
                    kind=self.kinds[view],
                    description=descriptions[text],
                    similarity=float(similarities[view, text]),
                    contribution=float(contributions[view, text]),
                )
            )
        return supports

    def places(self, label: str, n: int = 5) -> list[Place]:
        """The places that count most, each with the description of a label that it fits best.

        How much a place counts follows from the image alone. A few descriptions close to the label's name weigh most
        at every place, so [`Explanation.strongest`] names these again and again; here each place says what it shows.

        Args:
            label (`str`): one of the labels.
            n (`int`): at most this many.

        Returns:
            `list[Place]`: by falling weight.

        Raises:
            ValueError: a label that the classifier does not have, or a number below 0.
        """
        _check_number(n)
        contributions, similarities = self.contributions(label).sum(dim=1), self.similarities(label)
        descriptions = self.descriptions(label)
        places = []
        for view in self.weights.sort(descending=True, stable=True).indices[:n].tolist():
            text = int(similarities[view].argmax())
            places.append(
                Place(
                    view_xyxy=tuple(self.views_xyxy[view].tolist()),
                    kind=self.kinds[view],
                    weight=float(self.weights[view]),
                    contribution=float(contributions[view]),
                    description=descriptions[text],
                    similarity=float(similarities[view, text]),
                )
            )
        return places


def _check_number(n: int) -> None:
    """Refuse what is not a number of places or of pairs."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"How many are wanted must be a whole number of at least 0, got {n!r}.")


@dataclass(frozen=True, eq=False)
class Classification:
    """What a classifier says of one image.

    Args:
        scores (`tuple[LabelScore, ...]`): all labels, best first. Labels of one score keep the classifier's order.
        explanation (`Explanation`, *optional*): where the scores come from, if it was asked for.
    """

    scores: tuple[LabelScore, ...]
    explanation: Explanation | None = None

    @property
    def label(self) -> str:
        """The best label."""
        return self.scores[0].label

    def draw(self, image: Image.Image, label: str | None = None, places: int = PLACES) -> Image.Image:
        """Draw the places that count most, with the description of a label that each fits best.

        Args:
            image (`PIL.Image.Image`): the image that was classified; it is not changed.
            label (`str`, *optional*): one of the labels; the best one by default.
            places (`int`): at most this many.

        Returns:
            `PIL.Image.Image`: a new RGB image, see [`draw_classification`].

        Raises:
            ValueError: the image was classified without `explain=True`, or there is no such label.
        """
        return draw_classification(image, self, label, places)

    def to_dict(self, strongest: int = 5) -> dict[str, Any]:
        """The classification as a `dict` of plain values, for JSON.

        Args:
            strongest (`int`): of an explanation, how many of the places that count most, and how many of the pairs of
                a view and a description that add most to the best label.

        Returns:
            `dict`: `label`, `scores` (best first) and, if it was explained, `places` and `supports`.
        """
        result: dict[str, Any] = {
            "label": self.label,
            "scores": [
                {"label": score.label, "score": score.score, "probability": score.probability} for score in self.scores
            ],
        }
        if self.explanation is not None:
            result["places"] = [place.to_dict() for place in self.explanation.places(self.label, strongest)]
            result["supports"] = [support.to_dict() for support in self.explanation.strongest(self.label, strongest)]
        return result


__all__ = ["Classification", "Explanation", "LabelScore", "Place", "Support"]
