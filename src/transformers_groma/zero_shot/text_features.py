"""The features of labels' texts, how much each text counts, and their weighted sum for each label."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .dual_encoder import DualEncoder
from .scores import description_weights, weighted_sum


@dataclass(frozen=True)
class TextFeatures:
    """The encoded texts of C labels; label c has its own number of descriptions, M_c.

    Args:
        labels (`tuple[str, ...]`): as the caller named them.
        descriptions (`tuple` of C `tuple[str, ...]`): of each label.
        anchors (`Tensor` of shape `(C, D)`): features of the labels' names, `"a photo of a {label}."`.
        features (`tuple` of C `Tensor` of shape `(M_c, D)`): of the descriptions.
        weights (`tuple` of C `Tensor` of shape `(M_c,)`): of the descriptions; each sums to 1.
    """

    labels: tuple[str, ...]
    descriptions: tuple[tuple[str, ...], ...]
    anchors: Tensor
    features: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    @cached_property
    def pooled(self) -> Tensor:
        """The weighted sum of each label's descriptions, `(C, D)`."""
        return torch.stack([weighted_sum(*pair) for pair in zip(self.features, self.weights, strict=True)])

    def index(self, label: str) -> int:
        """The number of a label.

        Raises:
            ValueError: there is no such label.
        """
        if label not in self.labels:
            raise ValueError(f"`label` {label!r} is not one of the classifier's {len(self.labels)} labels.")
        return self.labels.index(label)


def encode_label_texts(
    encoder: DualEncoder,
    labels: Sequence[str],
    anchors: Sequence[str],
    descriptions: Sequence[Sequence[str]],
    temperature: float | None,
) -> TextFeatures:
    """Encode the texts of labels; each text goes through the encoder once, however often it occurs.

    Args:
        encoder (`DualEncoder`): keeps the features of texts, so that the same texts cost nothing the next time.
        labels (`Sequence` of C `str`): names in results.
        anchors (`Sequence` of C `str`): what the descriptions of each label are weighed by.
        descriptions (`Sequence` of C sequences of `str`): at least one for each label.
        temperature (`float`, *optional*): of the weights. Without it all descriptions of a label count the same.

    Returns:
        `TextFeatures`
    """
    counts = [len(texts) for texts in descriptions]
    features = encoder.encode_texts([*anchors, *(text for texts in descriptions for text in texts)])
    anchor_features, *by_label = features.split([len(anchors), *counts])
    weights = tuple(
        torch.full((count,), 1 / count)
        if temperature is None
        else description_weights(features_of_label @ anchor, temperature)
        for count, features_of_label, anchor in zip(counts, by_label, anchor_features, strict=True)
    )
    return TextFeatures(tuple(labels), tuple(map(tuple, descriptions)), anchor_features, tuple(by_label), weights)


__all__ = ["TextFeatures", "encode_label_texts"]
