"""Accuracies that papers report for zero-shot classification, to be printed beside those of a run."""

from types import MappingProxyType
from typing import NamedTuple

# Li et al., Visual-Text Cross Alignment: Refining the Similarity Score in Vision-Language Models, ICML 2024.
PAPER = "Li et al., ICML 2024 (arXiv 2406.02915)"


class PublishedTable(NamedTuple):
    """What the paper reports for a dataset.

    Attributes:
        dataset (`str`): its name in the paper.
        encoders (`tuple[str, ...]`): the CLIP models, one a column.
        rows (`dict[str, tuple[float, ...]]`): top-1 accuracy in percent by method, one for each encoder.
        deviation (`tuple[float, ...]`): of WCA over its repeats, for each encoder; empty where none is printed.
    """

    dataset: str
    encoders: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]
    deviation: tuple[float, ...] = ()


_ENCODERS = ("ViT-B/32", "ViT-B/16", "ViT-L/14")
_METHODS = ("template", "ensemble", "dclip", "waffle", "cupl", "wca")


def _table(dataset: str, *rows: tuple[float, ...], deviation: tuple[float, ...]) -> PublishedTable:
    return PublishedTable(dataset, _ENCODERS, dict(zip(_METHODS, rows, strict=True)), deviation)


def _shifted(dataset: str, *values: float) -> PublishedTable:
    methods = ("template", "ensemble", "cupl", "wca")
    rows = {method: (value,) for method, value in zip(methods, values, strict=True)}
    return PublishedTable(dataset, ("ViT-B/16",), rows)


PUBLISHED = MappingProxyType(
    {
        "imagenet": _table(
            "ImageNet",
            (62.05, 66.74, 73.48),
            (63.37, 68.37, 75.52),
            (63.01, 68.04, 75.03),
            (63.30, 68.12, 75.31),
            (64.37, 69.61, 76.62),
            (66.84, 71.08, 77.32),
            deviation=(0.07, 0.05, 0.03),
        ),
        "cub": _table(
            "CUB",
            (51.21, 56.01, 62.12),
            (52.74, 56.16, 62.53),
            (52.69, 57.08, 63.26),
            (52.04, 56.89, 62.27),
            (49.76, 56.42, 62.15),
            (56.91, 59.78, 65.24),
            deviation=(0.17, 0.15, 0.12),
        ),
        "pets": _table(
            "Oxford Pets",
            (85.04, 88.14, 93.24),
            (87.38, 89.10, 93.62),
            (84.46, 87.52, 93.30),
            (85.50, 86.51, 91.55),
            (87.03, 91.14, 94.33),
            (89.89, 92.23, 94.66),
            deviation=(0.09, 0.10, 0.09),
        ),
        "dtd": _table(
            "DTD",
            (42.93, 42.98, 52.61),
            (43.83, 45.27, 55.43),
            (44.20, 46.17, 55.05),
            (42.98, 44.68, 54.31),
            (47.50, 50.53, 60.59),
            (49.39, 52.79, 61.78),
            deviation=(0.16, 0.17, 0.16),
        ),
        "food": _table(
            "Food-101",
            (82.60, 88.40, 92.55),
            (83.93, 88.83, 93.07),
            (84.12, 88.85, 93.03),
            (83.98, 89.06, 93.33),
            (84.20, 88.98, 93.37),
            (86.40, 90.01, 93.96),
            deviation=(0.05, 0.04, 0.04),
        ),
        "places": _table(
            "Places365",
            (38.51, 39.27, 39.63),
            (39.28, 40.30, 40.55),
            (39.90, 40.34, 40.55),
            (39.47, 40.76, 40.89),
            (39.08, 39.83, 40.77),
            (40.66, 41.43, 42.23),
            deviation=(0.05, 0.05, 0.03),
        ),
        "imagenet-v2": _shifted("ImageNet-V2", 60.83, 61.90, 63.27, 64.71),
        "imagenet-r": _shifted("ImageNet-R", 73.96, 77.40, 77.10, 78.06),
        "imagenet-sketch": _shifted("ImageNet-Sketch", 46.15, 47.87, 48.80, 50.18),
        "imagenet-a": _shifted("ImageNet-A", 47.77, 49.00, 50.77, 56.13),
    }
)


# How many classes each dataset has. ImageNet-A and -R choose from 200 of ImageNet's.
CLASSES = MappingProxyType(
    {
        **{"imagenet": 1000, "cub": 200, "pets": 37, "dtd": 47, "food": 101, "places": 365},
        **{"imagenet-v2": 1000, "imagenet-r": 200, "imagenet-sketch": 1000, "imagenet-a": 200},
    }
)


def check_comparable(name: str, classes: int) -> None:
    """Check that published accuracies can stand beside those of a dataset: with other classes they mean nothing.

    Args:
        name (`str`): a dataset of `PUBLISHED`.
        classes (`int`): how many classes there are to choose from.

    Raises:
        ValueError: the published dataset has another number of them.

    Example:
    >>> check_comparable("pets", 10)
    Traceback (most recent call last):
    ValueError: the accuracies of 'pets' are of 37 classes, and this dataset has 10, so they cannot be compared. ...
    """
    if classes != CLASSES[name]:
        raise ValueError(
            f"the accuracies of {name!r} are of {CLASSES[name]} classes, and this dataset has {classes}, so they "
            "cannot be compared. Leave it out, or name another dataset."
        )


__all__ = ["CLASSES", "PAPER", "PUBLISHED", "PublishedTable", "check_comparable"]
