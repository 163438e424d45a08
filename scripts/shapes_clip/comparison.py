"""Which images are classified correctly, by the views and texts that are compared: the rows of shapes-clip's table."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transformers_groma.zero_shot.dual_encoder import DualEncoder
from transformers_groma.zero_shot.label_texts import texts_of_labels
from transformers_groma.zero_shot.scores import SCORES, pooled_views
from transformers_groma.zero_shot.text_features import TextFeatures, encode_label_texts

from .features import CONFIGURED, GRID, REGIONS, RELEASED, SetFeatures
from .scenes import CLASSES
from .texts import descriptions

# What temperatures are chosen from on the validation images; the paper has e⁴ = 54.6 and e² = 7.4 for CLIP.
IMAGE_TEMPERATURES = (0.0, 4.0, 8.0, 16.0, 32.0, float(np.exp(4)), 128.0, 512.0)
TEXT_TEMPERATURES = (0.0, 2.0, float(np.exp(2)), 16.0, 32.0, 128.0)
RESAMPLES = 2000


@dataclass(frozen=True)
class Row:
    """One way to classify.

    Args:
        views (`tuple[str, ...]`): kinds of views that are pooled; none: the whole image.
        method (`str`): a method of `zero_shot.methods` that says which texts are compared, and how they are weighed.
        score (`str`): "paper" or "released". For the whole image and texts that all count the same it is "released",
            the mean that is normalized again.
    """

    views: tuple[str, ...]
    method: str
    score: str

    @property
    def title(self) -> str:
        return " + ".join(self.views) or "whole image"


WHOLE_ROWS = (
    Row((), "template", "released"),
    Row((), "waffle", "released"),
    Row((), "cupl", "released"),
    Row((), "wca", "released"),
)
VIEW_KINDS = ((CONFIGURED,), (RELEASED,), (GRID,), (REGIONS,), (CONFIGURED, REGIONS))
ROWS = (
    *WHOLE_ROWS,
    *(Row(kinds, "wca", score) for kinds in VIEW_KINDS for score in SCORES),
    # Controls: what views gain without descriptions, and with texts that say nothing but the name.
    Row((CONFIGURED,), "template", "released"),
    Row((CONFIGURED,), "waffle", "released"),
)
# What differences are counted from: the descriptions without views.
REFERENCE = WHOLE_ROWS[2]


class Texts:
    """The encoded texts of the 300 classes by method, weighed by a temperature.

    Args:
        encoder (`DualEncoder`): keeps what it encoded.
    """

    def __init__(self, encoder: DualEncoder):
        self.encoder = encoder

    def of(self, method: str, temperature: float | None, seed: int = 0) -> TextFeatures:
        """The texts of a method.

        Args:
            method (`str`): "template", "waffle", "cupl" or "wca".
            temperature (`float`, *optional*): of the weights of "wca".
            seed (`int`): of the random texts of "waffle".
        """
        names = [kind.name for kind in CLASSES]
        sentences = descriptions() if method in ("cupl", "wca") else None
        texts = texts_of_labels(names, sentences, method, seed=seed)
        weighs = temperature if method == "wca" else None
        return encode_label_texts(self.encoder, names, texts.anchors, texts.texts, weighs)


def correct(
    features: SetFeatures, labels: Tensor, row: Row, texts: TextFeatures, temperature: float, seed: int
) -> Tensor:
    """Which images a row gets right.

    Args:
        features (`SetFeatures`): of B images.
        labels (`Tensor` of shape `(B,)`): their classes.
        row (`Row`): what is compared.
        texts (`TextFeatures`): of its method.
        temperature (`float`): of the weights of views.
        seed (`int`): which draw of random squares.

    Returns:
        `Tensor` of shape `(B,)`, bool.
    """
    pooled = features.whole
    if row.views:
        names = [kind if kind in features.views else f"{kind} {seed}" for kind in row.views]
        views = torch.cat([features.views[name] for name in names], dim=1)
        is_padding = torch.cat([features.is_padding[name] for name in names], dim=1)
        pooled = pooled_views(views, features.whole, temperature, is_padding)
    return SCORES[row.score](pooled, texts.pooled).argmax(dim=1) == labels


def chosen_temperatures(features: SetFeatures, labels: Tensor, row: Row, texts: Texts) -> tuple[float, float]:
    """The temperatures of views and texts that classify the most validation images correctly; of several the first."""
    best, best_share = (0.0, 0.0), -1.0
    for text_temperature in TEXT_TEMPERATURES:
        of_method = texts.of(row.method, text_temperature)
        for image_temperature in IMAGE_TEMPERATURES if row.views else (0.0,):
            share = correct(features, labels, row, of_method, image_temperature, 0).float().mean().item()
            if share > best_share:
                best, best_share = (image_temperature, text_temperature), share
    return best


@dataclass(frozen=True)
class Outcome:
    """How many images a row gets right.

    Args:
        accuracy (`float`): share of the images, mean over the seeds.
        deviation (`float`, *optional*): standard deviation over the seeds, of those rows that have random views.
        by_image (`np.ndarray` of shape `(B,)`): share of the seeds in which each image is right.
    """

    accuracy: float
    deviation: float | None
    by_image: np.ndarray


def outcome(
    features: SetFeatures, labels: Tensor, row: Row, texts: Texts, temperatures: tuple[float, float], seeds: int
) -> Outcome:
    """Classify the images of a set with each seed."""
    is_random = row.method == "waffle" or any(kind in (CONFIGURED, RELEASED) for kind in row.views)
    right = torch.stack(
        [
            correct(features, labels, row, texts.of(row.method, temperatures[1], seed), temperatures[0], seed)
            for seed in range(seeds if is_random else 1)
        ]
    ).double()
    shares = right.mean(dim=1)
    deviation = float(shares.std(correction=1)) if len(shares) > 1 else None
    return Outcome(float(shares.mean()), deviation, right.mean(dim=0).numpy())


def difference(one: Outcome, other: Outcome) -> tuple[float, float, float]:
    """The difference of two accuracies on the same images, with the 95 % interval of a bootstrap over the images.

    Returns:
        `tuple[float, float, float]`: the difference, and the ends of the interval.
    """
    gains = one.by_image - other.by_image
    drawn = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
    low, high = np.quantile(gains[drawn].mean(axis=1), (0.025, 0.975))
    return float(gains.mean()), float(low), float(high)


__all__ = ["REFERENCE", "ROWS", "Outcome", "Row", "Texts", "chosen_temperatures", "correct", "difference", "outcome"]
